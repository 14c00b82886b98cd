//! An unpacked layer becomes what a writable tree holds.
//!
//! The two trees swap their names, so that whoever was told the writable one's path finds the layer there: at any instant either nothing of
//! it or all.

use super::{FS, Overlay, WORK, name, root};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::{Dir, DirEntry, FileType, xattr};
use crate::tree::{Applied, TreeId};
use crate::whiteout::overlay::{OPAQUE_VALUE, WHITEOUT_DEVICE};

const OP: &str = "apply layer";

impl Overlay {
    pub(super) fn put_in_place(&self, tree: TreeId, change: TreeId, chain: &[TreeId], applied: &Applied) -> Result<()> {
        let own = self.tree(tree)?;
        // Held to the end: what was mounted would go on with the old directory.
        let _claim = self.claim_to(OP, tree, &own)?;
        let fs = own.child(FS.as_bytes())?;
        if !fs.is_empty()? {
            return Err(Error::new(ErrorKind::Unsupported, OP)
                .at(self.base.path().join(tree.to_string()))
                .because("the snapshot has changes already, and the overlay backend applies a layer to a fresh one alone"));
        }
        let attributes = match &applied.root {
            Some(root) => root.clone(),
            None if applied.empty => return Ok(()),
            None => root::read(&fs, self.style)?,
        };
        if applied.empty {
            // Fresh, so that no attribute of the parent's root stays.
            self.make(change, &attributes)?;
        } else {
            let new = self.tree(change)?;
            let fs = new.child(FS.as_bytes())?;
            new.mkdir(WORK.as_bytes(), 0o700)?;
            if applied.cut {
                self.hide(chain, &fs)?;
            }
            root::set(&fs, &attributes, self.style)?;
        }
        self.trees.rename_exchange(&name(change), &self.trees, &name(tree))
    }

    /// Has an upperdir hide by itself all that is below: overlayfs knows no opaque root.
    fn hide(&self, chain: &[TreeId], fs: &Dir) -> Result<()> {
        let Some(lower) = self.view(chain)? else { return Ok(()) };
        let mut first: Option<Box<[u8]>> = None;
        for entry in lower.dir()?.entries()? {
            let DirEntry { name, .. } = entry?;
            match (fs.stat(&name)?, &first) {
                (Some(stat), _) if stat.is_dir() => xattr::set(fs.child(&name)?, self.style.opaque(), OPAQUE_VALUE)?,
                (Some(_), _) => {}
                (None, Some(first)) if fs.link(first, fs, &name).is_ok() => {}
                (None, _) => {
                    fs.mknod(&name, FileType::CharacterDevice, 0, WHITEOUT_DEVICE)?;
                    first = Some(name);
                }
            }
        }
        Ok(())
    }
}
