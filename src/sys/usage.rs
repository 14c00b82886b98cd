//! What a tree takes on the disk, and whose it is.
//!
//! Walked by descriptor, nothing is followed; each inode counts once, however many names it has (all whiteouts of a tree are one).
//! What goes away meanwhile is not counted.

use std::collections::HashSet;

use super::descent::unless_gone;
use super::ids::IdMaps;
use super::{Descent, Dir, Stat, inode};
use crate::error::Result;

/// Inodes and allocated bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) inodes: u64,
    pub(crate) bytes: u64,
}

/// Counts a directory with everything in it.
///
/// # Errors
/// `PermissionDenied`, `Io`.
pub(crate) fn taken(dir: &Dir) -> Result<Taken> {
    let mut count = Count::default();
    each_inode(dir, &mut |stat, _| {
        count.add(stat);
        true
    })?;
    Ok(count.taken)
}

/// An inode whose owner is not in an id map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outside {
    /// One of its names, in the directory.
    pub(crate) path: Vec<u8>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Finds the first inode of a directory, itself included, with an owner outside the maps.
///
/// # Errors
/// `PermissionDenied`, `Io`.
pub(crate) fn owner_outside(dir: &Dir, maps: &IdMaps) -> Result<Option<Outside>> {
    let mut found = None;
    each_inode(dir, &mut |stat, path| {
        if !(maps.uids.contains(stat.uid) && maps.gids.contains(stat.gid)) {
            found = Some(Outside { path: path.join(&b'/'), uid: stat.uid, gid: stat.gid });
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Told of an inode and the names that lead to it; says whether to go on.
type See<'a> = &'a mut dyn FnMut(&Stat, &[Box<[u8]>]) -> bool;

/// Calls `see` with each name in a directory, and with the directory itself, until it says `false`.
fn each_inode(dir: &Dir, see: See<'_>) -> Result<()> {
    if !see(&inode::stat(dir)?, &[]) {
        return Ok(());
    }
    let mut descent = Descent::new(dir.try_clone()?)?;
    let mut path = Vec::new();
    let Some(first) = level(dir, &mut path, see)? else { return Ok(()) };
    let mut levels = vec![first];
    while let Some(names) = levels.last_mut() {
        match names.pop() {
            Some(name) => {
                let entered = descent.enter(&name)?;
                match descent.here()? {
                    Some(dir) if entered => {
                        path.push(name);
                        let Some(below) = level(dir, &mut path, see)? else { return Ok(()) };
                        levels.push(below);
                    }
                    _ => descent.leave(),
                }
            }
            None => {
                levels.pop();
                path.pop();
                if !levels.is_empty() {
                    descent.leave();
                }
            }
        }
    }
    Ok(())
}

/// Shows what is in one directory, and gives the directories in it; `None` where nothing more is to be seen.
fn level(dir: &Dir, path: &mut Vec<Box<[u8]>>, see: See<'_>) -> Result<Option<Vec<Box<[u8]>>>> {
    let mut directories = Vec::new();
    let Some(entries) = unless_gone(dir.entries())? else { return Ok(Some(directories)) };
    for entry in entries {
        let Some(entry) = unless_gone(entry)? else { break };
        let Some(stat) = dir.stat(&entry.name)? else { continue };
        path.push(entry.name);
        let goes_on = see(&stat, path);
        let name = path.pop().unwrap_or_default();
        if !goes_on {
            return Ok(None);
        }
        if stat.is_dir() {
            directories.push(name);
        }
    }
    Ok(Some(directories))
}

#[derive(Default)]
struct Count {
    taken: Taken,
    /// Inodes with several names, which were counted at the first.
    linked: HashSet<((u32, u32), u64)>,
}

impl Count {
    fn add(&mut self, stat: &Stat) {
        if !stat.is_dir() && stat.nlink > 1 && !self.linked.insert((stat.dev, stat.ino)) {
            return;
        }
        self.taken.inodes = self.taken.inodes.saturating_add(1);
        self.taken.bytes = self.taken.bytes.saturating_add(stat.blocks.saturating_mul(512));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_counts_once_at_any_depth() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let empty = taken(&dir).unwrap();
        assert_eq!(empty.inodes, 1);
        std::fs::write(temp.path().join("a"), [1; 100_000]).unwrap();
        dir.link(b"a", &dir, b"b").unwrap();
        std::os::unix::fs::symlink("/etc", temp.path().join("link")).unwrap();
        let mut deep = dir.try_clone().unwrap();
        for _ in 0..200 {
            deep = deep.mkdir_open(b"d", 0o700).unwrap();
        }
        deep.link(b"x", &deep, b"y").unwrap_err();
        dir.link(b"a", &deep, b"c").unwrap();
        let found = taken(&dir).unwrap();
        assert_eq!(found.inodes, 1 + 1 + 1 + 200);
        assert!(found.bytes >= empty.bytes + 100_000, "{found:?}");
    }
}
