//! Whose an inode may be: owners of a layer against the id map of this process.

use crate::entry::Attributes;
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::progress::{Context, Reason};
use crate::sys::ids::{IdMap, IdMaps, IdRange};
use crate::sys::inode;
use crate::tree::Ids;

/// Which owners this process can give, and what becomes of others.
#[derive(Debug)]
pub(super) struct Owners {
    maps: IdMaps,
    policy: Ids,
    /// The map's root; without the right to give files away, the process itself.
    root: (u32, u32),
}

impl Owners {
    pub(super) fn of_this_process(policy: Ids) -> Result<Self> {
        if inode::may_give_away() {
            return Ok(Self { maps: IdMaps::current()?, policy, root: (0, 0) });
        }
        let (uid, gid) = inode::creator();
        let one = |id| IdMap::new(vec![IdRange { inside: id, outside: id, count: 1 }]);
        Ok(Self { maps: IdMaps { uids: one(uid), gids: one(gid) }, policy, root: (uid, gid) })
    }

    /// Checks an entry's owner, or replaces it.
    pub(super) fn admit(&self, path: &EntryPath, attributes: &mut Attributes, cx: &Context<'_>) -> Result<()> {
        self.admit_in("apply entry", path, attributes, cx)
    }

    fn admit_in(&self, op: &'static str, path: &EntryPath, attributes: &mut Attributes, cx: &Context<'_>) -> Result<()> {
        let (uid, gid) = (attributes.uid, attributes.gid);
        if self.maps.uids.contains(uid) && self.maps.gids.contains(gid) {
            return Ok(());
        }
        match self.policy {
            Ids::Exact => Err(Error::new(ErrorKind::IdNotMapped, op)
                .at(path)
                .because(format!("it belongs to {uid}:{gid}, and this process can only own files as {}", self.describe()))
                .with_hint(
                    "give the user sub-ids (/etc/subuid, /etc/subgid, and the programs newuidmap and newgidmap), run as root, or \
                     choose to squash owners into one (`--ids squash`)",
                )),
            Ids::Squash => {
                if !self.maps.uids.contains(uid) {
                    attributes.uid = self.root.0;
                }
                if !self.maps.gids.contains(gid) {
                    attributes.gid = self.root.1;
                }
                cx.skip(path, Reason::IdSquashed { uid, gid })
            }
        }
    }

    fn describe(&self) -> String {
        let ranges = |map: &IdMap| {
            let texts = map.ranges().iter().map(|range| match range.count {
                1 => range.inside.to_string(),
                count => format!("{}-{}", range.inside, range.inside.saturating_add(count.saturating_sub(1))),
            });
            texts.collect::<Vec<_>>().join(",")
        };
        format!("uid {} and gid {}", ranges(&self.maps.uids), ranges(&self.maps.gids))
    }
}

/// A root directory's attributes as this process can give them. Of a stack whose layers say nothing of it, it is root's (SEMANTICS §1.8).
///
/// # Errors
/// `IdNotMapped` for an owner that this process cannot give, unless owners are squashed; that is reported then.
pub(crate) fn own_root(op: &'static str, policy: Ids, mut root: Attributes, cx: &Context<'_>) -> Result<Attributes> {
    Owners::of_this_process(policy)?.admit_in(op, &EntryPath::ROOT, &mut root, cx)?;
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(policy: Ids) -> Owners {
        let map = |count| IdMap::new(vec![IdRange { inside: 0, outside: 1000, count }]);
        Owners { maps: IdMaps { uids: map(10), gids: map(5) }, policy, root: (0, 0) }
    }

    #[test]
    fn an_owner_outside_the_map_is_an_error_that_says_what_helps() {
        let (cx, path) = (Context::default(), EntryPath::parse("a").unwrap());
        let mut attributes = Attributes { uid: 9, gid: 4, ..Attributes::implied() };
        owners(Ids::Exact).admit(&path, &mut attributes, &cx).unwrap();
        attributes.gid = 5;
        let error = owners(Ids::Exact).admit(&path, &mut attributes, &cx).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::IdNotMapped);
        assert!(error.reason().unwrap().contains("9:5") && error.hint().unwrap().contains("subuid"));
    }

    #[test]
    fn squashing_replaces_only_what_is_not_mapped_and_is_reported() {
        let (cx, path) = (Context::default(), EntryPath::parse("a").unwrap());
        let mut attributes = Attributes { uid: 9, gid: 70, ..Attributes::implied() };
        owners(Ids::Squash).admit(&path, &mut attributes, &cx).unwrap();
        assert_eq!((attributes.uid, attributes.gid), (9, 0));
        assert_eq!(cx.take_report().skipped[0].reason, Reason::IdSquashed { uid: 9, gid: 70 });
    }
}
