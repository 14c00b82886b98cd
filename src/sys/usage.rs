//! What a tree takes on the disk: each inode once, however many names it has.

use std::collections::HashSet;

use super::descent::unless_gone;
use super::{Descent, Dir, Stat, inode};
use crate::error::Result;

/// Inodes and allocated bytes of a directory with all that is in it. A tree that somebody writes to is counted as it is met.
pub(crate) fn usage(dir: &Dir) -> Result<(u64, u64)> {
    let mut total = Total::default();
    total.add(&inode::stat(dir)?);
    let mut descent = Descent::new(dir.try_clone()?)?;
    let mut frames = vec![total.count(dir)?];
    while let Some(directories) = frames.last_mut() {
        let Some(name) = directories.pop() else {
            frames.pop();
            descent.leave();
            continue;
        };
        descent.enter(&name)?;
        let below = match descent.here()? {
            Some(dir) => total.count(dir)?,
            None => Vec::new(),
        };
        frames.push(below);
    }
    Ok((total.inodes, total.bytes))
}

#[derive(Default)]
struct Total {
    inodes: u64,
    bytes: u64,
    /// Those with several names that were counted.
    seen: HashSet<((u32, u32), u64)>,
}

impl Total {
    fn add(&mut self, stat: &Stat) {
        if stat.is_dir() || stat.nlink < 2 || self.seen.insert((stat.dev, stat.ino)) {
            self.inodes += 1;
            self.bytes += stat.blocks.saturating_mul(512);
        }
    }

    /// Counts what stands in one directory, and gives its directories.
    fn count(&mut self, dir: &Dir) -> Result<Vec<Box<[u8]>>> {
        let mut directories = Vec::new();
        for entry in dir.entries()? {
            let Some(entry) = unless_gone(entry)? else { break };
            let Some(stat) = dir.stat(&entry.name)? else { continue };
            self.add(&stat);
            if stat.is_dir() {
                directories.push(entry.name);
            }
        }
        Ok(directories)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn inodes_are_counted_once_and_bytes_as_they_are_allocated() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        std::fs::create_dir_all(temp.path().join("a/b")).unwrap();
        std::fs::write(temp.path().join("a/b/file"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(temp.path().join("a/b/file"), temp.path().join("link")).unwrap();
        std::fs::File::create(temp.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/", temp.path().join("a/root")).unwrap();
        let (inodes, bytes) = usage(&dir).unwrap();
        assert_eq!(inodes, 6);
        let allocated: u64 = ["", "a", "a/b", "a/b/file", "sparse", "a/root"]
            .iter()
            .map(|path| std::fs::symlink_metadata(temp.path().join(path)).unwrap().blocks() * 512)
            .sum();
        assert_eq!(bytes, allocated);
    }
}
