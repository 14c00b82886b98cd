//! `explain`: which layer made what stands at a path, and what the layers below it had there.
//!
//! Each tree of the stack is asked by itself, lowest first, and compared with what shows of those below it: so nothing is mounted, and
//! what a layer writes again as it was is no change, as in a diff. An overlay's trees hold what their layers change. The copy backend's
//! are whole: a layer's change is what differs from the tree below, so it cannot tell a directory that was removed and made again from
//! one that stayed, nor a whiteout from an opaque directory. Those of them that an import left unmade are made first.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::read::describe;
use super::{FileInfo, Store, no_snapshot};
use crate::backend::{Found, Look, Marker};
use crate::diff::look::{Likeness, liken};
use crate::digest::DiffId;
use crate::entry::Attributes;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{SnapshotRow, TreeState};
use crate::path::EntryPath;
use crate::progress::Context;
use crate::snapshot::Kind;
use crate::span::verb;
use crate::sys::root::HOPS_MAX;

const OP: &str = "explain";

/// What a layer does to a path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Nothing was there below it.
    Added,
    /// It has other content: bytes, the target of a symlink, the numbers of a device.
    Modified,
    /// It has other attributes alone: mode, owner, time, extended attributes.
    Attributes,
    /// It is of another type, or a directory through which nothing below shows.
    Replaced,
    /// It is not there any more.
    Deleted {
        /// What is gone: the path or a directory above it, or where that is something else now.
        at: EntryPath,
        /// What says so; `None` where something else stands there, and on a backend that keeps no markers.
        marker: Option<Marker>,
    },
}

/// A snapshot that says something of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerEffect {
    /// Its key or name; of an imported layer the chain id.
    pub snapshot: String,
    /// The layer's diff id, where it is known.
    pub diff_id: Option<DiffId>,
    /// What it does.
    pub effect: Effect,
    /// What it has there; `None` where it deletes.
    pub info: Option<FileInfo>,
    /// The snapshot above it that hides this: it replaces, modifies or deletes what is here, or has other attributes. `None` for what is
    /// seen, and for a directory of which the one above only changes the attributes.
    pub hidden_by: Option<String>,
}

/// What [`Store::explain`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The path, once the symlinks on the way to it were followed.
    pub path: EntryPath,
    /// Whether something is there.
    pub exists: bool,
    /// The snapshots that say something of it, topmost first. Where something is there, the first one made it what it is.
    pub layers: Vec<LayerEffect>,
}

impl Store {
    /// Which layer of a snapshot of any kind made what stands at a path, and what the layers below had there: whiteouts, opaque
    /// directories, replaced entries, changed attributes. Symlinks on the way are followed within the root, the last component is not.
    /// Nothing is mounted. Of files of the same size the contents are read. On the copy backend the trees of all layers are made, where an
    /// import made the topmost alone: that takes as much time and space as these trees do.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// use plywood::store::{Effect, LayerSource};
    /// # use plywood::testing::Layer;
    /// # let tar = Layer::new().file("etc/motd", "hello").tar();
    ///
    /// let layer = store.import_layer(LayerSource::reader(&tar[..]), &Default::default(), &Default::default())?;
    /// let explained = store.explain(layer.chain_id.to_string().as_str(), "/etc/motd", &Default::default())?;
    /// assert_eq!(explained.layers[0].diff_id, Some(layer.diff_id));
    /// assert_eq!(explained.layers[0].effect, Effect::Added);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound` without such a snapshot, and where no layer ever had the path; `InvalidArgument` for a path with a NUL, or whose symlinks
    /// go in a circle; `Unsupported` for a backend that does not show its trees; `Corrupt` where it is known to be damaged; `Cancelled`,
    /// `Io`.
    pub fn explain(&self, name: &str, path: impl AsRef<Path>, cx: &Context<'_>) -> Result<Explanation> {
        let path = path.as_ref();
        verb!("explain", key = name, path = %path.display()).run(|_| {
            self.refuse_damaged(OP, name)?;
            let stack = self.made_stack(name, cx)?;
            let path = self.literal_path(&stack, path)?;
            let found = if path.is_root() { root(&stack) } else { self.fold(&stack, &path, cx)? };
            if found.layers.is_empty() {
                return Err(Error::new(ErrorKind::NotFound, OP).at(&path).because("no layer of this snapshot has or had it"));
            }
            Ok(found)
        })
    }

    /// The same, where each has the tree that it stands on.
    fn made_stack(&self, name: &str, cx: &Context<'_>) -> Result<Vec<SnapshotRow>> {
        let stack = self.stack(name)?;
        let is_unmade = |row: &&SnapshotRow| row.tree_state == TreeState::Unmade;
        if !stack.iter().any(|row| is_unmade(&row)) {
            return Ok(stack);
        }
        for row in stack.iter().rev().filter(is_unmade) {
            self.ensure_made(OP, Some(row.id), cx)?;
        }
        // They have other numbers now.
        self.stack(name)
    }

    /// The snapshots from this one down to the ground that have something to say.
    fn stack(&self, name: &str) -> Result<Vec<SnapshotRow>> {
        let reader = self.metadata().read()?;
        let mut next = Some(reader.snapshot(name)?.ok_or_else(|| no_snapshot(OP, name))?);
        let mut stack = Vec::new();
        while let Some(row) = next {
            next = row.parent.map(|parent| reader.snapshot_by_id(parent)).transpose()?.flatten();
            stack.push(row);
        }
        Ok(stack)
    }

    fn look(&self, row: &SnapshotRow, path: &EntryPath) -> Result<Look> {
        // A View is its parent, and an empty layer has no tree.
        if row.kind == Kind::View || row.tree_state == TreeState::Empty {
            return Ok(Look::Silent);
        }
        let look = self.backend().look(row.tree, path)?;
        let first = path.components().next().map(EntryPath::parse).and_then(std::result::Result::ok);
        Ok(match (look, first) {
            (Look::Silent, Some(at)) if row.cut => Look::Gone { at, marker: Some(Marker::Opaque) },
            (look, _) => look,
        })
    }

    /// What is seen at a path.
    fn seen(&self, stack: &[SnapshotRow], path: &EntryPath) -> Result<Option<Found>> {
        for row in stack {
            match self.look(row, path)? {
                Look::Silent => {}
                Look::Gone { .. } => return Ok(None),
                Look::Found(found) => return Ok(Some(found)),
            }
        }
        Ok(None)
    }

    /// Follows the symlinks on the way to a path, as a process with the snapshot as its root directory does. What is not there (any more)
    /// is left as it is.
    fn literal_path(&self, stack: &[SnapshotRow], path: &Path) -> Result<EntryPath> {
        let invalid = |reason: String| Error::new(ErrorKind::InvalidArgument, OP).at(path).because(reason);
        let mut todo = names(path.as_os_str().as_bytes());
        let mut here = EntryPath::ROOT;
        let mut hops = 0_usize;
        while let Some(name) = todo.pop() {
            if name == b".." {
                here = here.parent().unwrap_or_default();
                continue;
            }
            let next = here.join(&name).map_err(|error| invalid(error.to_string()))?;
            let target = if todo.is_empty() { None } else { self.seen(stack, &next)?.and_then(|found| found.target) };
            let Some(target) = target else {
                here = next;
                continue;
            };
            hops = hops.saturating_add(1);
            if hops > HOPS_MAX {
                return Err(invalid(format!("more than {HOPS_MAX} symlinks lead there")));
            }
            if target.first() == Some(&b'/') {
                here = EntryPath::ROOT;
            }
            todo.extend(names(&target));
        }
        Ok(here)
    }

    /// Asks the trees, lowest first.
    fn fold(&self, stack: &[SnapshotRow], path: &EntryPath, cx: &Context<'_>) -> Result<Explanation> {
        let mut told = Told::default();
        let mut shown: Option<Found> = None;
        for row in stack.iter().rev() {
            cx.check(OP)?;
            match (self.look(row, path)?, shown.take()) {
                (Look::Silent, below) => shown = below,
                (Look::Gone { .. }, None) => {}
                (Look::Gone { at, marker }, Some(_)) => told.tell(row, Effect::Deleted { at, marker }, None, true),
                (Look::Found(found), None) => {
                    told.tell(row, Effect::Added, Some(&found), true);
                    shown = Some(found);
                }
                (Look::Found(found), Some(below)) => {
                    let (effect, hides) = match liken(&found, &below, cx)? {
                        _ if found.opaque => (Effect::Replaced, true),
                        Likeness::Same => {
                            shown = Some(below);
                            continue;
                        }
                        Likeness::Attributes => (Effect::Attributes, !found.stat.is_dir()),
                        Likeness::Type => (Effect::Modified, true),
                        Likeness::None => (Effect::Replaced, true),
                    };
                    told.tell(row, effect, Some(&found), hides);
                    shown = Some(found);
                }
            }
        }
        Ok(told.explanation(path.clone(), shown.is_some()))
    }
}

/// Names that are to be walked, the first one last.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    path.rsplit(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b".")).map(<[u8]>::to_vec).collect()
}

/// The root directory: its attributes are the snapshots', not the trees'.
fn root(stack: &[SnapshotRow]) -> Explanation {
    let mut told = Told::default();
    let mut shown: Option<&Attributes> = None;
    for row in stack.iter().rev() {
        let effect = match shown {
            None => Effect::Added,
            Some(below) if *below != row.root => Effect::Attributes,
            Some(_) => continue,
        };
        told.push(row, effect, Some(FileInfo::of_directory(&row.root)), false);
        shown = Some(&row.root);
    }
    told.explanation(EntryPath::ROOT, true)
}

/// What was said so far, lowest first.
#[derive(Default)]
struct Told(Vec<LayerEffect>);

impl Told {
    fn tell(&mut self, row: &SnapshotRow, effect: Effect, found: Option<&Found>, hides: bool) {
        let info = found.map(|found| FileInfo {
            mode: found.attributes.mode,
            uid: found.attributes.uid,
            gid: found.attributes.gid,
            mtime: found.attributes.mtime,
            ..describe(&found.stat, found.target.clone())
        });
        self.push(row, effect, info, hides);
    }

    fn push(&mut self, row: &SnapshotRow, effect: Effect, info: Option<FileInfo>, hides: bool) {
        let (snapshot, diff_id) = (row.name.clone(), row.diff_id.clone());
        if hides {
            for below in self.0.iter_mut().filter(|below| below.hidden_by.is_none()) {
                below.hidden_by = Some(snapshot.clone());
            }
        }
        self.0.push(LayerEffect { snapshot, diff_id, effect, info, hidden_by: None });
    }

    fn explanation(mut self, path: EntryPath, exists: bool) -> Explanation {
        self.0.reverse();
        Explanation { path, exists, layers: self.0 }
    }
}
