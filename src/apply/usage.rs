//! What a tree takes on the disk.

use std::collections::HashSet;

use crate::error::Result;
use crate::path::EntryPath;
use crate::progress::Context;
use crate::snapshot::Usage;
use crate::sys::{Dir, Root, inode};

/// Counts a tree, its root directory included: each inode once, in allocated bytes. File systems that allocate late say so only after
/// the tree was synced. Somebody may write into the tree meanwhile; what comes or goes is counted or not.
///
/// # Errors
/// `Cancelled`, `Io`.
pub(crate) fn usage(tree: &Dir, cx: &Context<'_>) -> Result<Usage> {
    let root = Root::new(tree.try_clone()?);
    let own = inode::stat(tree)?;
    let mut usage = Usage::new(1, bytes(own.blocks));
    let mut several: HashSet<((u32, u32), u64)> = HashSet::new();
    // Paths, not descriptors: trees are as deep as they like.
    let mut todo = vec![EntryPath::ROOT];
    while let Some(path) = todo.pop() {
        cx.check("count usage")?;
        let Some(dir) = root.literal_dir(&path)? else { continue };
        for entry in dir.entries()? {
            let entry = entry?;
            let Some(stat) = dir.stat(&entry.name)? else { continue };
            // Another file system that is mounted in it is no part of it.
            if stat.dev != own.dev || (!stat.is_dir() && stat.nlink > 1 && !several.insert((stat.dev, stat.ino))) {
                continue;
            }
            usage.inodes += 1;
            usage.bytes = usage.bytes.saturating_add(bytes(stat.blocks));
            if stat.is_dir() {
                todo.push(super::directories::join(&path, &entry.name)?);
            }
        }
    }
    Ok(usage)
}

const fn bytes(blocks: u64) -> u64 {
    blocks.saturating_mul(512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_counts_once_and_holes_do_not() {
        let temp = tempfile::tempdir().unwrap();
        let tree = Dir::open(temp.path()).unwrap();
        let empty = usage(&tree, &Context::default()).unwrap();
        assert_eq!(empty.inodes, 1);
        let dir = tree.mkdir_open(b"dir", 0o700).unwrap();
        let file = dir.create_file(b"file", 0o600).unwrap();
        file.set_len(1 << 30).unwrap();
        dir.link(b"file", &tree, b"link").unwrap();
        tree.symlink(b"dir", b"symlink").unwrap();
        let found = usage(&tree, &Context::default()).unwrap();
        assert_eq!(found.inodes, 4);
        assert!(found.bytes < 1 << 20, "{found:?}");
    }
}
