//! What the markers of a layer hide (rules 1, 3, 4, 5).

use std::collections::{BTreeSet, VecDeque};

use super::resolve::{HOPS, components, join, start};
use crate::entry::{Change, Entry};
use crate::path::EntryPath;
use crate::testing::layer::LayerEntry;
use crate::testing::tree::{Kind, Tree};

/// Literal paths of the lower tree that a layer hides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hidden {
    /// Hidden with all below them.
    whiteouts: BTreeSet<EntryPath>,
    /// Directories whose children are hidden.
    opaque: BTreeSet<EntryPath>,
}

impl Hidden {
    /// What the markers hide in the lower tree, if entries land at these paths and the other markers hide what `others` says.
    pub(super) fn by(lower: &Tree, layer: &[LayerEntry], landed: &BTreeSet<EntryPath>, others: &Self) -> Self {
        let mut hidden = Self::default();
        for LayerEntry { entry: Entry { path, change }, .. } in layer {
            match change {
                Change::Whiteout => {
                    let directory = path.parent().and_then(|parent| others.reach(lower, &parent, landed));
                    let position = directory.zip(path.file_name()).map(|(directory, name)| join(&directory, name));
                    hidden.whiteouts.extend(position.filter(|position| lower.inode(position).is_some()));
                }
                Change::Opaque => hidden.opaque.extend(others.reach(lower, path, landed)),
                Change::Upsert { .. } => {}
            }
        }
        hidden
    }

    /// The directory of the lower tree to which a marker's parents lead. No symlink is followed at whose place the layer has an
    /// entry or a whiteout of its own, and nothing that stands below another marker.
    fn reach(&self, lower: &Tree, directory: &EntryPath, landed: &BTreeSet<EntryPath>) -> Option<EntryPath> {
        let mut here = EntryPath::ROOT;
        let mut rest: VecDeque<Vec<u8>> = directory.components().map(<[u8]>::to_vec).collect();
        let mut hops = 0;
        while let Some(component) = rest.pop_front() {
            if component == b".." {
                here = here.parent().unwrap_or_default();
                continue;
            }
            let next = join(&here, &component);
            match &lower.inode(&next)?.kind {
                Kind::Directory => here = next,
                Kind::Symlink(target) if !landed.contains(&next) && !self.covers(&next) && hops < HOPS => {
                    hops += 1;
                    here = start(&here, target);
                    for component in components(target).into_iter().rev() {
                        rest.push_front(component);
                    }
                }
                _ => return None,
            }
        }
        Some(here)
    }

    /// Whether a path of the lower tree is hidden.
    fn covers(&self, path: &EntryPath) -> bool {
        self.whiteouts.iter().any(|hidden| path.starts_with(hidden))
            || self.opaque.iter().any(|directory| path != directory && path.starts_with(directory))
    }

    /// The lower tree without what is hidden.
    pub(super) fn applied_to(&self, lower: &Tree) -> Tree {
        let mut tree = lower.clone();
        self.whiteouts.iter().for_each(|path| tree.remove(path));
        self.opaque.iter().for_each(|path| tree.remove_below(path));
        tree
    }
}
