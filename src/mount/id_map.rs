//! [`IdMap`]: which owners a mount shows for those on the disk, so that containers with ids of their own share one copy of each layer.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use crate::error::{Error, ErrorKind, Result};
pub use crate::sys::ids::IdRange;
use crate::sys::ids::{IdMap as Ranges, IdMaps};
use crate::sys::namespace::child::user_namespace;

/// How many ranges of users, and of groups, the kernel takes.
const RANGES_MAX: usize = 340;

/// Whom something seems to belong to where its owner has no id: the kernel's `overflowuid` and `overflowgid`, unless somebody set them.
const NOBODY: u32 = 65_534;

/// The map of a container's user namespace: ids in the container, which are those on the disk, against ids of the host. What belongs to
/// `inside` on the disk looks to the host as if it belonged to `outside`, and so to the container as if it belonged to `inside`; what the
/// container makes has its ids on the disk.
///
/// Cheap to clone. The kernel knows maps as user namespaces: one is made by a forked child for the first mount and kept with the value, so
/// that containers with one map need one.
///
/// ```
/// use plywood::mount::IdMap;
///
/// let map: IdMap = "0:100000:65536".parse()?;
/// assert_eq!(map.to_host(1, 1), Some((100001, 100001)));
/// assert_eq!(map.to_container(165535, 100000), Some((65535, 0)));
/// let apart: IdMap = "u:0:100000:1000,g:0:200000:1000".parse()?;
/// assert_eq!(apart.to_string(), "u:0:100000:1000,g:0:200000:1000");
/// assert!("0:100000:0".parse::<IdMap>().is_err());
/// # Ok::<_, plywood::Error>(())
/// ```
#[derive(Clone)]
pub struct IdMap(Arc<Inner>);

struct Inner {
    maps: IdMaps,
    namespace: OnceLock<OwnedFd>,
}

impl IdMap {
    /// A map of these ranges of users and groups.
    ///
    /// # Errors
    /// `InvalidArgument` for what the kernel would not take: no range or more than 340, an empty one, ids above 2^32-2, two ranges that
    /// overlap on either side. And for a map without user 0 and group 0: root owns a container's root directory, and its whiteouts.
    pub fn new(uids: impl Into<Vec<IdRange>>, gids: impl Into<Vec<IdRange>>) -> Result<Self> {
        let (uids, gids) = (uids.into(), gids.into());
        check("user", &uids)?;
        check("group", &gids)?;
        let maps = IdMaps { uids: Ranges::new(uids), gids: Ranges::new(gids) };
        Ok(Self(Arc::new(Inner { maps, namespace: OnceLock::new() })))
    }

    /// A map of the same ranges for users and groups.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn same(ranges: impl Into<Vec<IdRange>>) -> Result<Self> {
        let ranges = ranges.into();
        Self::new(ranges.clone(), ranges)
    }

    /// The map of the user namespace that a process is in, as it looks from this process's.
    ///
    /// # Errors
    /// `NotFound` without such a process; `PermissionDenied`; `InvalidArgument` where its namespace has no map (yet), or one without root.
    pub fn of_process(pid: u32) -> Result<Self> {
        let maps = IdMaps::of_process(pid)?;
        Self::new(maps.uids.ranges(), maps.gids.ranges())
    }

    /// The ranges of users.
    pub fn uids(&self) -> &[IdRange] {
        self.0.maps.uids.ranges()
    }

    /// The ranges of groups.
    pub fn gids(&self) -> &[IdRange] {
        self.0.maps.gids.ranges()
    }

    /// What a container's user and group are outside it; `None` where one of them is not mapped.
    pub fn to_host(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        self.0.maps.uids.to_outside(uid).zip(self.0.maps.gids.to_outside(gid))
    }

    /// What a user and a group of the host are in the container; `None` where one of them is not mapped.
    pub fn to_container(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        self.0.maps.uids.to_inside(uid).zip(self.0.maps.gids.to_inside(gid))
    }

    /// Whom a container sees as the owner of what is a user's and a group's of the host.
    pub(crate) fn seen(&self, uid: u32, gid: u32) -> (u32, u32) {
        let maps = self.maps();
        (maps.uids.to_inside(uid).unwrap_or(NOBODY), maps.gids.to_inside(gid).unwrap_or(NOBODY))
    }

    pub(crate) fn maps(&self) -> &IdMaps {
        &self.0.maps
    }

    /// The user namespace with this map.
    pub(super) fn namespace(&self) -> Result<BorrowedFd<'_>> {
        if let Some(namespace) = self.0.namespace.get() {
            return Ok(namespace.as_fd());
        }
        let made = user_namespace(&self.0.maps)?;
        // Of two threads that make one at once, one keeps its own.
        Ok(self.0.namespace.get_or_init(|| made).as_fd())
    }
}

impl PartialEq for IdMap {
    fn eq(&self, other: &Self) -> bool {
        self.0.maps == other.0.maps
    }
}

impl Eq for IdMap {}

impl Hash for IdMap {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.maps.hash(state);
    }
}

impl fmt::Debug for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IdMap").field(&self.to_string()).finish()
    }
}

/// As [`from_str`](Self::from_str) reads it.
impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |kind: &str, ranges: &[IdRange]| {
            let texts = ranges.iter().map(|range| format!("{kind}{}:{}:{}", range.inside, range.outside, range.count));
            texts.collect::<Vec<_>>().join(",")
        };
        if self.uids() == self.gids() {
            return f.write_str(&list("", self.uids()));
        }
        write!(f, "{},{}", list("u:", self.uids()), list("g:", self.gids()))
    }
}

/// As `mount(8)` has it in `X-mount.idmap=`: `[TYPE:]INSIDE:OUTSIDE:COUNT`, several separated by commas or spaces, where TYPE is `u` for
/// users, `g` for groups, and `b`, or nothing, for both.
impl FromStr for IdMap {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (mut uids, mut gids) = (Vec::new(), Vec::new());
        for word in text.split([',', ' ']).filter(|word| !word.is_empty()) {
            let (kind, numbers) = match word.split_once(':') {
                Some((kind @ ("u" | "g" | "b"), numbers)) => (kind, numbers),
                _ => ("b", word),
            };
            let range = parse(numbers).ok_or_else(|| refused(format!("{} is not INSIDE:OUTSIDE:COUNT", word.escape_debug())))?;
            if kind != "g" {
                uids.push(range);
            }
            if kind != "u" {
                gids.push(range);
            }
        }
        Self::new(uids, gids)
    }
}

fn parse(text: &str) -> Option<IdRange> {
    let mut numbers =
        text.split(':').map(|number| number.parse::<u32>().ok().filter(|_| number.bytes().all(|b| b.is_ascii_digit())));
    let range = IdRange { inside: numbers.next()??, outside: numbers.next()??, count: numbers.next()?? };
    numbers.next().is_none().then_some(range)
}

fn check(whose: &str, ranges: &[IdRange]) -> Result<()> {
    if ranges.is_empty() || ranges.len() > RANGES_MAX {
        return Err(refused(format!("it has {} {whose} ranges; the kernel takes 1 to {RANGES_MAX}", ranges.len())));
    }
    let spans = [
        ("inside", ranges.iter().map(|range| (range.inside, range.count)).collect::<Vec<_>>()),
        ("outside", ranges.iter().map(|range| (range.outside, range.count)).collect()),
    ];
    for (side, mut spans) in spans {
        spans.sort_unstable();
        let mut free = 0;
        for (first, count) in spans {
            let first = u64::from(first);
            if count == 0 {
                return Err(refused(format!("a range of {whose}s is empty")));
            }
            if first < free {
                return Err(refused(format!("two ranges of {whose}s overlap {side}, at {first}")));
            }
            free = first.saturating_add(u64::from(count));
            // The last id means "none".
            if free > u64::from(u32::MAX) {
                return Err(refused(format!("a range of {whose}s goes beyond 4294967294")));
            }
        }
    }
    if !ranges.iter().any(|range| range.inside == 0) {
        return Err(refused(format!("it has no {whose} 0: nobody could own the root directory")));
    }
    Ok(())
}

fn refused(reason: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, "id map").because(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_would_not_take_is_refused_before() {
        let many = (0..341).map(|n| format!("{n}:{}:1", n + 1000)).collect::<Vec<_>>().join(",");
        for text in [
            "",
            "0",
            "0:1",
            "0:1:2:3",
            "0:x:1",
            "0:+1:1",
            "-1:0:1",
            "0:100000:0",
            "0:4294967295:1",
            "0:4294967290:10",
            "0:4294967296:1",
            "1:100000:10",
            "u:0:1:1",
            "g:0:1:1",
            "x:0:1:1",
            "0:1000:10,5:2000:10",
            "0:1000:10,10:1005:10",
            &many,
        ] {
            let error = text.parse::<IdMap>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
            assert!(error.reason().is_some(), "{text}");
        }
    }

    #[test]
    fn a_map_is_read_as_it_is_written() {
        for text in ["0:100000:65536", "0:1000:1,1:100000:65536", "u:0:1:1,g:0:2:1", "5:50:5,0:0:1"] {
            assert_eq!(text.parse::<IdMap>().unwrap().to_string(), text);
        }
        let map: IdMap = "b:0:1000:1 u:1:5000:10 g:1:6000:10".parse().unwrap();
        assert_eq!(map, "u:0:1000:1,u:1:5000:10,g:0:1000:1,g:1:6000:10".parse().unwrap());
        assert_eq!((map.to_host(0, 0), map.to_host(10, 1), map.to_host(11, 0)), (Some((1000, 1000)), Some((5009, 6000)), None));
    }

    #[test]
    fn a_process_has_the_map_of_its_namespace() {
        let own = IdMap::of_process(std::process::id()).unwrap();
        assert!(own.uids().iter().any(|range| range.inside == 0));
        assert_eq!(IdMap::of_process(u32::MAX).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
