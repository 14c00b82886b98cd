//! Id maps: which owners a process can express, and what they are outside its user namespace.
//!
//! Read once from `/proc/self`, then a value: a map never changes after it was written. Nobody is asked for names.

use std::fs;

use crate::error::{Error, ErrorKind, Result};

/// One line of `uid_map`: `count` ids from `inside` on are those from `outside` on in the parent namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// The first id in the namespace.
    pub inside: u32,
    /// The first id in the parent namespace.
    pub outside: u32,
    /// How many ids there are.
    pub count: u32,
}

impl IdRange {
    fn find(self, id: u32) -> Option<u32> {
        let offset = id.checked_sub(self.inside)?;
        if offset < self.count { self.outside.checked_add(offset) } else { None }
    }
}

/// The uids or the gids of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct IdMap(Vec<IdRange>);

impl IdMap {
    #[cfg(test)]
    /// The map of the initial namespace: every id but -1, unchanged.
    pub(crate) fn identity() -> Self {
        Self(vec![IdRange { inside: 0, outside: 0, count: u32::MAX }])
    }

    /// A map of these ranges, as they will be written.
    pub(crate) fn new(ranges: Vec<IdRange>) -> Self {
        Self(ranges)
    }

    /// Reads the form of `/proc/<pid>/uid_map`: lines of three decimal numbers. `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let range = |line: &str| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
            let range = IdRange { inside: numbers.next()?.ok()?, outside: numbers.next()?.ok()?, count: numbers.next()?.ok()? };
            numbers.next().is_none().then_some(range)
        };
        text.lines().map(range).collect::<Option<Vec<_>>>().map(Self)
    }

    /// Whether this process can own a file with this id.
    pub(crate) fn contains(&self, id: u32) -> bool {
        self.to_outside(id).is_some()
    }

    /// What an id of this namespace is in the parent namespace.
    pub(crate) fn to_outside(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|range| range.find(id))
    }

    /// What an id of the parent namespace is in this one.
    pub(crate) fn to_inside(&self, id: u32) -> Option<u32> {
        let turned = |range: &IdRange| IdRange { inside: range.outside, outside: range.inside, count: range.count };
        self.0.iter().find_map(|range| turned(range).find(id))
    }

    /// The first of `count` ids from `first` on that is not in the namespace.
    pub(crate) fn first_missing(&self, first: u32, count: u32) -> Option<u32> {
        let end = u64::from(first).saturating_add(u64::from(count));
        let mut id = u64::from(first);
        while id < end {
            let holds = |range: &&IdRange| {
                let start = u64::from(range.inside);
                (start..start.saturating_add(u64::from(range.count))).contains(&id)
            };
            let Some(range) = self.0.iter().find(holds) else { return u32::try_from(id).ok() };
            id = u64::from(range.inside).saturating_add(u64::from(range.count));
        }
        None
    }

    #[cfg(test)]
    /// Whether every id is mapped to itself, as in the initial namespace.
    pub(crate) fn is_identity(&self) -> bool {
        matches!(self.0.as_slice(), [IdRange { inside: 0, outside: 0, count: u32::MAX }])
    }

    /// How many ids there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|range| u64::from(range.count)).sum()
    }

    /// The ranges, in the order in which they were written.
    pub(crate) fn ranges(&self) -> &[IdRange] {
        &self.0
    }
}

/// Both maps of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct IdMaps {
    pub(crate) uids: IdMap,
    pub(crate) gids: IdMap,
}

impl IdMaps {
    /// The maps of the user namespace that this process is in.
    ///
    /// # Errors
    /// `NotFound` where `/proc` is not mounted; `Corrupt` where it says something that is no map.
    pub(crate) fn current() -> Result<Self> {
        Ok(Self { uids: read("/proc/self/uid_map")?, gids: read("/proc/self/gid_map")? })
    }

    /// The maps of the user namespace that a process is in, as they look from this process's.
    ///
    /// # Errors
    /// `NotFound` without such a process or without `/proc`; `PermissionDenied`, `Corrupt`.
    pub(crate) fn of_process(pid: u32) -> Result<Self> {
        Ok(Self { uids: read(&format!("/proc/{pid}/uid_map"))?, gids: read(&format!("/proc/{pid}/gid_map"))? })
    }
}

fn read(path: &str) -> Result<IdMap> {
    let text = fs::read_to_string(path).map_err(|error| Error::io("read id map", error).at(path))?;
    IdMap::parse(&text).ok_or_else(|| Error::new(ErrorKind::Corrupt, "read id map").at(path).because("it is not an id map"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_says_what_is_inside_and_what_that_is_outside() {
        let map = IdMap::parse("         0       1000          1\n         1     100000      65536\n").unwrap();
        assert_eq!(map.to_outside(0), Some(1000));
        assert_eq!(map.to_outside(1), Some(100_000));
        assert_eq!(map.to_outside(65_536), Some(165_535));
        assert_eq!(map.to_outside(65_537), None);
        assert!(map.contains(7) && !map.contains(70_000));
        assert_eq!(map.to_inside(1000), Some(0));
        assert_eq!(map.to_inside(165_535), Some(65_536));
        assert_eq!((map.to_inside(0), map.to_inside(99_999), map.to_inside(165_536)), (None, None, None));
        assert_eq!(map.count(), 65_537);
        assert!(!map.is_identity());
    }

    #[test]
    fn ranges_beside_each_other_hold_what_lies_across_them() {
        let map = IdMap::parse(
            "10 0 5
0 100 10
20 200 1
",
        )
        .unwrap();
        assert_eq!((map.first_missing(0, 15), map.first_missing(3, 0), map.first_missing(20, 1)), (None, None, None));
        assert_eq!(
            (map.first_missing(0, 16), map.first_missing(14, 7), map.first_missing(20, u32::MAX)),
            (Some(15), Some(15), Some(21))
        );
        assert_eq!(IdMap::identity().first_missing(0, u32::MAX), None);
    }

    #[test]
    fn the_initial_map_holds_every_id_but_the_last() {
        let map = IdMap::parse("         0          0 4294967295\n").unwrap();
        assert!(map.is_identity());
        assert_eq!(map, IdMap::identity());
        assert!(map.contains(u32::MAX - 1) && !map.contains(u32::MAX));
    }

    #[test]
    fn what_is_no_map_is_refused() {
        for text in ["0 0", "0 0 1 2", "a 0 1", "-1 0 1", "0 0 4294967296"] {
            assert_eq!(IdMap::parse(text), None, "{text}");
        }
        assert_eq!(IdMap::parse("").unwrap().count(), 0, "a namespace without a map yet");
    }

    #[test]
    fn this_process_can_own_files_as_root_of_its_map() {
        assert!(IdMaps::current().unwrap().uids.contains(rustix::process::getuid().as_raw()));
    }
}
