//! Owners in a container against owners on the disk, wherever an inode says them: its user and group, the users and groups of its ACLs,
//! and the root id of its file capability (`capabilities(7)`: version 3 is version 2 with the root of the user namespace that it is for).

use crate::entry::capability::FileCapability;
use crate::entry::{Attributes, Xattrs};
use crate::error::{Error, ErrorKind, Result};
use crate::mount::IdMap;
use crate::path::EntryPath;
use crate::progress::{Context, Reason};
use crate::tree::Ids;

/// Which ids become which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Those of the container those of the disk.
    ToDisk,
    /// The other way round.
    ToContainer,
}

/// An id that the map does not have.
#[derive(Debug)]
enum Outside {
    Owner,
    Xattr { name: Vec<u8>, detail: String },
}

/// The translation.
#[derive(Clone, Debug)]
pub(super) struct Owners {
    map: IdMap,
}

impl Owners {
    pub(super) const fn new(map: IdMap) -> Self {
        Self { map }
    }

    pub(super) const fn map(&self) -> &IdMap {
        &self.map
    }

    /// Whose an inode is on the disk that is the container's root's.
    pub(super) fn root(&self) -> (u32, u32) {
        // A map without root is none.
        self.map.to_host(0, 0).unwrap_or_default()
    }

    /// What goes to the disk for what a layer says.
    ///
    /// # Errors
    /// `IdNotMapped` with the path, unless owners are squashed; that is reported then.
    pub(super) fn to_disk(&self, path: &EntryPath, attributes: Attributes, ids: Ids, cx: &Context<'_>) -> Result<Attributes> {
        let (uid, gid) = (attributes.uid, attributes.gid);
        let (mut shifted, outside) = self.shift(attributes, Way::ToDisk);
        let root = self.root();
        shifted.uid = self.id(true, Way::ToDisk, uid).unwrap_or(root.0);
        shifted.gid = self.id(false, Way::ToDisk, gid).unwrap_or(root.1);
        let hint = "map more ids when the store is made, or choose to squash owners into one (`--ids squash`)";
        self.judge(path, (uid, gid), outside, ids, cx, ("in the layer", hint))?;
        Ok(shifted)
    }

    /// What a layer says for what is on the disk.
    ///
    /// # Errors
    /// As [`to_disk`](Self::to_disk).
    pub(super) fn to_container(&self, path: &EntryPath, attributes: Attributes, ids: Ids, cx: &Context<'_>) -> Result<Attributes> {
        let (uid, gid) = (attributes.uid, attributes.gid);
        let (mut shifted, outside) = self.shift(attributes, Way::ToContainer);
        shifted.uid = self.id(true, Way::ToContainer, uid).unwrap_or(0);
        shifted.gid = self.id(false, Way::ToContainer, gid).unwrap_or(0);
        let hint = "something outside the container changed it: give it back to an id that the map has";
        self.judge(path, (uid, gid), outside, ids, cx, ("on the disk", hint))?;
        Ok(shifted)
    }

    /// What a container sees of what is on the disk: nobody's is what has no id.
    pub(super) fn seen(&self, attributes: Attributes) -> Attributes {
        let (uid, gid) = (attributes.uid, attributes.gid);
        let (mut shifted, _) = self.shift(attributes, Way::ToContainer);
        (shifted.uid, shifted.gid) = self.map.seen(uid, gid);
        shifted
    }

    fn id(&self, is_user: bool, way: Way, id: u32) -> Option<u32> {
        let maps = self.map.maps();
        let map = if is_user { &maps.uids } else { &maps.gids };
        match way {
            Way::ToDisk => map.to_outside(id),
            Way::ToContainer => map.to_inside(id),
        }
    }

    /// Everything but user and group; of these whether they are in the map.
    fn shift(&self, attributes: Attributes, way: Way) -> (Attributes, Vec<Outside>) {
        let mut outside = Vec::new();
        if self.id(true, way, attributes.uid).is_none() || self.id(false, way, attributes.gid).is_none() {
            outside.push(Outside::Owner);
        }
        let mut xattrs = Xattrs::new();
        for (name, value) in attributes.xattrs {
            let shifted = match name.as_slice() {
                b"security.capability" => self.capability(value, way).map(Some),
                b"system.posix_acl_access" | b"system.posix_acl_default" => self.acl(value, way).map(Some),
                _ => Ok(Some(value)),
            };
            let kept = shifted.unwrap_or_else(|Lost { detail, rest }| {
                outside.push(Outside::Xattr { name: name.clone(), detail });
                rest
            });
            kept.map(|value| xattrs.insert(name, value));
        }
        (Attributes { xattrs, ..attributes }, outside)
    }

    fn judge(
        &self,
        path: &EntryPath,
        (uid, gid): (u32, u32),
        outside: Vec<Outside>,
        ids: Ids,
        cx: &Context<'_>,
        (place, hint): (&str, &'static str),
    ) -> Result<()> {
        for outside in outside {
            if ids == Ids::Exact {
                let what = match outside {
                    Outside::Owner => format!("it belongs to {uid}:{gid}"),
                    Outside::Xattr { name, detail } => format!("its {} {detail}", name.escape_ascii()),
                };
                let shown = if path.is_root() { std::path::Path::new(".") } else { path.as_path() };
                let reason = format!("{place} {what}, which is not in the store's id map {}", self.map);
                return Err(Error::new(ErrorKind::IdNotMapped, "map owners").at(shown).because(reason).with_hint(hint));
            }
            let reason = match outside {
                Outside::Owner => Reason::IdSquashed { uid, gid },
                Outside::Xattr { name, detail } => Reason::XattrRefused {
                    name: name.escape_ascii().to_string(),
                    error: format!("it {detail}, which is not in the id map, and was left out"),
                },
            };
            cx.skip(path, reason)?;
        }
        Ok(())
    }

    /// The kernel honours a capability where its root id is the root of the namespace: one of version 2 is of the host's.
    fn capability(&self, value: Vec<u8>, way: Way) -> std::result::Result<Vec<u8>, Lost> {
        // What is none the file system refuses.
        let Some(capability) = FileCapability::parse(&value) else { return Ok(value) };
        match self.id(true, way, capability.root()) {
            Some(root) => Ok(capability.with_root(root)),
            // Given to the map's root it would be one that this root never had.
            None => Err(Lost { detail: format!("is of the root id {}", capability.root()), rest: None }),
        }
    }

    /// `linux/posix_acl_xattr.h`: a version, then entries of tag, permissions and id, all little-endian.
    fn acl(&self, value: Vec<u8>, way: Way) -> std::result::Result<Vec<u8>, Lost> {
        const HEADER: usize = 4;
        const ENTRY: usize = 8;
        const VERSION: [u8; HEADER] = 2_u32.to_le_bytes();
        const USER: [u8; 2] = 0x02_u16.to_le_bytes();
        const GROUP: [u8; 2] = 0x08_u16.to_le_bytes();
        let Some((version, entries)) = value.split_at_checked(HEADER) else { return Ok(value) };
        if version != VERSION || entries.len() % ENTRY != 0 {
            return Ok(value);
        }
        let mut shifted = version.to_vec();
        let mut detail = None;
        for entry in entries.chunks_exact(ENTRY) {
            let &[tag, tag_high, mode, mode_high, ref id @ ..] = entry else { continue };
            let Ok(id) = <[u8; 4]>::try_from(id).map(u32::from_le_bytes) else { continue };
            let is_user = match [tag, tag_high] {
                USER => true,
                GROUP => false,
                _ => {
                    shifted.extend_from_slice(entry);
                    continue;
                }
            };
            match self.id(is_user, way, id) {
                Some(id) => {
                    shifted.extend_from_slice(&[tag, tag_high, mode, mode_high]);
                    shifted.extend_from_slice(&id.to_le_bytes());
                }
                // Who has no id in the container never comes to be asked: without the entry it means the same.
                None => {
                    let whom = if is_user { "user" } else { "group" };
                    detail.get_or_insert_with(|| format!("has an entry for the {whom} {id}"));
                }
            }
        }
        match detail {
            None => Ok(shifted),
            Some(detail) => Err(Lost { detail, rest: Some(shifted) }),
        }
    }
}

/// An attribute that names an id outside the map, and what remains of it without.
struct Lost {
    detail: String,
    rest: Option<Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners() -> Owners {
        Owners::new("u:0:100000:1,u:1:200000:10,g:0:300000:10".parse().unwrap())
    }

    fn capability(revision: u8, root: &[u8]) -> Vec<u8> {
        [&[1, 0, 0, revision][..], &[7; 16], root].concat()
    }

    fn acl(entries: &[(u16, u32)]) -> Vec<u8> {
        let entries = entries.iter().flat_map(|(tag, id)| [&tag.to_le_bytes()[..], &[6, 0], &id.to_le_bytes()].concat());
        [2, 0, 0, 0].into_iter().chain(entries).collect()
    }

    fn with(name: &str, value: Vec<u8>) -> Attributes {
        Attributes { uid: 5, gid: 6, xattrs: [(name.as_bytes().to_vec(), value)].into(), ..Attributes::implied() }
    }

    #[test]
    fn every_id_of_an_inode_goes_to_the_disk_and_comes_back() {
        let (owners, path, cx) = (owners(), EntryPath::ROOT, Context::default());
        let pairs = [
            ("security.capability", capability(2, &[]), capability(3, &100_000_u32.to_le_bytes())),
            ("security.capability", capability(3, &[2, 0, 0, 0]), capability(3, &200_001_u32.to_le_bytes())),
            (
                "system.posix_acl_access",
                acl(&[(1, u32::MAX), (2, 0), (2, 10), (4, u32::MAX), (8, 9), (16, u32::MAX), (32, u32::MAX)]),
                acl(&[(1, u32::MAX), (2, 100_000), (2, 200_009), (4, u32::MAX), (8, 300_009), (16, u32::MAX), (32, u32::MAX)]),
            ),
            ("system.posix_acl_default", acl(&[(8, 1)]), acl(&[(8, 300_001)])),
            // No business of ours, and none at all.
            ("user.acl", acl(&[(8, 1)]), acl(&[(8, 1)])),
            ("security.capability", vec![1, 2, 3], vec![1, 2, 3]),
            ("system.posix_acl_access", vec![2, 0, 0, 0, 1], vec![2, 0, 0, 0, 1]),
            ("system.posix_acl_access", vec![3, 0, 0, 0], vec![3, 0, 0, 0]),
        ];
        for (name, inside, outside) in pairs {
            let disk = owners.to_disk(&path, with(name, inside.clone()), Ids::Exact, &cx).unwrap();
            assert_eq!((disk.uid, disk.gid), (200_004, 300_006));
            assert_eq!(disk.xattrs[name.as_bytes()], outside, "{name}");
            assert_eq!(owners.seen(disk.clone()), with(name, inside.clone()));
            assert_eq!(owners.to_container(&path, disk, Ids::Exact, &cx).unwrap(), with(name, inside), "{name}");
        }
        assert!(cx.take_report().skipped.is_empty());
    }

    #[test]
    fn what_has_no_id_is_nobodys_where_it_is_only_looked_at() {
        let attributes = Attributes { uid: 100_001, gid: 0, ..with("security.capability", capability(2, &[])) };
        let seen = owners().seen(attributes);
        assert_eq!((seen.uid, seen.gid, seen.xattrs.len()), (65_534, 65_534, 0));
    }

    #[test]
    fn squashing_takes_what_has_no_id_and_nothing_else() {
        let (owners, path) = (owners(), EntryPath::parse("a").unwrap());
        let both = acl(&[(2, 11), (2, 3), (8, 10)]);
        let attributes = Attributes { uid: 11, ..with("system.posix_acl_access", both) };
        let error = owners.to_disk(&path, attributes.clone(), Ids::Exact, &Context::default()).unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::IdNotMapped, Some(std::path::Path::new("a"))));
        let cx = Context::default();
        let disk = owners.to_disk(&path, attributes, Ids::Squash, &cx).unwrap();
        assert_eq!((disk.uid, disk.gid), (100_000, 300_006));
        assert_eq!(disk.xattrs[&b"system.posix_acl_access"[..]], acl(&[(2, 200_002)]));
        let told: Vec<_> = cx.take_report().skipped.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("11:6") && told[1].contains("user 11"), "{told:?}");
    }
}
