//! What the markers of a layer hide (rules 1, 3, 4, 5).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::resolve::{HOPS, components, join, start};
use crate::entry::{Change, Entry};
use crate::path::EntryPath;
use crate::testing::layer::LayerEntry;
use crate::testing::tree::{Kind, Tree};

/// What each marker of a layer hides: a literal path of the lower tree with all below it, or for an opaque marker a directory whose
/// children are hidden. Markers are known by what they say, so that one that is written twice is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hidden<'a>(BTreeMap<Marker<'a>, EntryPath>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Marker<'a> {
    Whiteout(&'a EntryPath),
    Opaque(&'a EntryPath),
}

impl<'a> Hidden<'a> {
    /// What the markers hide in the lower tree, if entries land at these paths and the other markers hide what `others` says.
    pub(super) fn by(lower: &Tree, layer: &'a [LayerEntry], landed: &BTreeSet<EntryPath>, others: &Self) -> Self {
        let mut hidden = BTreeMap::new();
        for LayerEntry { entry: Entry { path, change }, .. } in layer {
            let (marker, position) = match change {
                Change::Whiteout => {
                    let marker = Marker::Whiteout(path);
                    let directory = path.parent().and_then(|parent| others.reach(lower, marker, &parent, landed));
                    let position = directory.zip(path.file_name()).map(|(directory, name)| join(&directory, name));
                    (marker, position.filter(|position| lower.inode(position).is_some()))
                }
                Change::Opaque => (Marker::Opaque(path), others.reach(lower, Marker::Opaque(path), path, landed)),
                Change::Upsert { .. } => continue,
            };
            hidden.extend(position.map(|position| (marker, position)));
        }
        Self(hidden)
    }

    /// The directory of the lower tree to which a marker's parents lead. No symlink is followed at whose place the layer has an
    /// entry or another whiteout of its own, nor one that stands below another marker.
    fn reach(&self, lower: &Tree, marker: Marker<'_>, directory: &EntryPath, landed: &BTreeSet<EntryPath>) -> Option<EntryPath> {
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
                Kind::Symlink(target) if !landed.contains(&next) && !self.covers(&next, marker) && hops < HOPS => {
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

    /// Whether a marker other than this one hides a path of the lower tree.
    fn covers(&self, path: &EntryPath, but: Marker<'_>) -> bool {
        self.0.iter().filter(|(marker, _)| **marker != but).any(|(marker, hidden)| match marker {
            Marker::Whiteout(_) => path.starts_with(hidden),
            Marker::Opaque(_) => path != hidden && path.starts_with(hidden),
        })
    }

    /// The lower tree without what is hidden.
    pub(super) fn applied_to(&self, lower: &Tree) -> Tree {
        let mut tree = lower.clone();
        for (marker, hidden) in &self.0 {
            match marker {
                Marker::Whiteout(_) => tree.remove(hidden),
                Marker::Opaque(_) => tree.remove_below(hidden),
            }
        }
        tree
    }
}
