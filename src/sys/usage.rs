//! What a tree takes on the disk.
//!
//! Walked by descriptor, nothing is followed; each inode counts once, however many names it has (all whiteouts of a tree are one).
//! What goes away meanwhile is not counted.

use std::collections::HashSet;

use super::descent::unless_gone;
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
    count.add(&inode::stat(dir)?);
    let mut descent = Descent::new(dir.try_clone()?)?;
    let mut levels = vec![count.level(dir)?];
    while let Some(names) = levels.last_mut() {
        match names.pop() {
            Some(name) => {
                let entered = descent.enter(&name)?;
                match descent.here()? {
                    Some(dir) if entered => levels.push(count.level(dir)?),
                    _ => descent.leave(),
                }
            }
            None => {
                levels.pop();
                if !levels.is_empty() {
                    descent.leave();
                }
            }
        }
    }
    Ok(count.taken)
}

#[derive(Default)]
struct Count {
    taken: Taken,
    /// Inodes with several names, which were counted at the first.
    linked: HashSet<((u32, u32), u64)>,
}

impl Count {
    /// Counts what is in one directory, and gives the directories in it.
    fn level(&mut self, dir: &Dir) -> Result<Vec<Box<[u8]>>> {
        let mut directories = Vec::new();
        let Some(entries) = unless_gone(dir.entries())? else { return Ok(directories) };
        for entry in entries {
            let Some(entry) = unless_gone(entry)? else { break };
            let Some(stat) = dir.stat(&entry.name)? else { continue };
            self.add(&stat);
            if stat.is_dir() {
                directories.push(entry.name);
            }
        }
        Ok(directories)
    }

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
