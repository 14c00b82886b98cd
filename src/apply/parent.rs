//! A parent made of nothing but what it said: enough to apply the layer that asked once more, and to get the same tree.
//!
//! An inode that a link took over is a file whose size is its number; what it should be, its digest says.

use std::collections::BTreeSet;

use crate::digest::Digest;
use crate::entry::Attributes;
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::sys::{Dir, Root, inode, xattr};
use crate::tree::{Answer, Fact};

/// Makes in an empty directory what the facts say is there. `number` numbers what links took over.
///
/// # Errors
/// `Corrupt` for facts that contradict each other; `NoSpace`, `Io`.
pub(crate) fn restore(dir: &Dir, facts: &[Fact], number: &mut dyn FnMut(&Digest) -> u64) -> Result<()> {
    let root = Root::new(dir.try_clone()?);
    let mut made = BTreeSet::new();
    let mut dressed: Vec<(&EntryPath, &Attributes)> = Vec::new();
    // Sorted: directories come before what is in them.
    for Fact { question, answer } in facts {
        let path = &question.path;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
        if *answer == Answer::Absent {
            continue;
        }
        make_way(&root, &parent, &mut made)?;
        let within = root.literal_dir(&parent)?.ok_or_else(|| contradiction(path))?;
        match answer {
            Answer::Absent => {}
            Answer::Directory(attributes) => {
                if made.insert(path.clone()) {
                    within.mkdir(name, 0o700)?;
                }
                dressed.extend(attributes.as_deref().map(|attributes| (path, attributes)));
            }
            Answer::Symlink(target) => within.symlink(target, name)?,
            Answer::Other(None) => drop(within.create_file(name, 0o600)?),
            Answer::Other(Some(digest)) => {
                let file = within.create_file(name, 0o600)?;
                file.set_len(number(digest)).map_err(|error| Error::io("ftruncate", error).at(path))?;
            }
        }
    }
    // Deepest first: whatever is made in a directory changes its time.
    for (path, attributes) in dressed.into_iter().rev() {
        let held = root.literal_dir(path)?.ok_or_else(|| contradiction(path))?;
        inode::set_owner(&held, attributes.uid, attributes.gid)?;
        inode::set_mode(&held, attributes.mode)?;
        attributes.xattrs.iter().try_for_each(|(name, value)| xattr::set(&held, name, value))?;
        inode::set_times(&held, attributes.mtime, attributes.mtime)?;
    }
    Ok(())
}

/// That a parent is a directory goes without saying where something was found below it.
fn make_way(root: &Root, path: &EntryPath, made: &mut BTreeSet<EntryPath>) -> Result<()> {
    let mut missing = Vec::new();
    let mut at = path.clone();
    while !at.is_root() && !made.contains(&at) {
        missing.push(at.clone());
        at = at.parent().unwrap_or_default();
    }
    for path in missing.into_iter().rev() {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
        root.literal_dir(&parent)?.ok_or_else(|| contradiction(&path))?.mkdir(name, 0o700)?;
        made.insert(path);
    }
    Ok(())
}

fn contradiction(path: &EntryPath) -> Error {
    Error::new(ErrorKind::Corrupt, "check tree").at(path).because("the tree's facts contradict each other")
}
