//! Copies of whole trees: every inode with its content, holes, attributes and names, of trees as hostile and deep as they like.
//!
//! Both trees are held by descriptor and walked by single names; nothing is followed. Content is shared with the original where the file
//! system can (`FICLONE`), else copied by the kernel (`copy_file_range`), else through a buffer. Nothing of the directory that the copy
//! stands in leaks into it: neither the umask nor set-gid nor default ACLs. The access time of everything is its mtime. Making it
//! durable is the caller's.

mod subtrees;

use std::fs::File;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::content::next_data;
use super::descent::unless_gone;
use super::{Descent, Dir, DirEntry, FileType, Root, Stat, describe, inode, xattr};
use crate::error::{Error, Result};
use crate::parallel::Parallelism;
use crate::path::EntryPath;
pub(crate) use subtrees::SharedCheck;
use subtrees::{Named, Shared, Subtree};

/// How much the kernel copies between two checks.
const STRETCH: u64 = 64 << 20;

/// Asked between two steps; its error ends the work.
pub(crate) type Check<'a> = &'a mut dyn FnMut() -> Result<()>;

/// Which inode a name of the original stands for.
type Key = ((u32, u32), u64);

/// Copies what is in one directory into another, which is empty, and gives that one the attributes of the first. A name that goes away
/// meanwhile is left out. By so many threads, which have ended when it returns; the copy does not depend on their number. On an error a
/// part of the copy is left: it is the caller's to remove.
pub(crate) fn copy_tree(from: &Dir, to: &Dir, parallelism: Parallelism, check: SharedCheck<'_>) -> Result<()> {
    // Else every inode below would begin with it.
    xattr::remove(to, b"system.posix_acl_default")?;
    let top = Subtree { from: from.try_clone()?, to: to.try_clone()?, path: EntryPath::ROOT };
    let shared = Shared::new(Root::new(to.try_clone()?), top, check);
    let work = || {
        // What the file system refused once is not tried again by the same thread.
        let mut data = DataCopier::default();
        shared.work(&mut |subtree| Copy::new(&shared, subtree, &mut data)?.run());
    };
    std::thread::scope(|scope| {
        for _ in 1..parallelism.get() {
            if std::thread::Builder::new().name("plywood-copy".to_owned()).spawn_scoped(scope, work).is_err() {
                // With fewer threads it takes longer.
                break;
            }
        }
        work();
    });
    shared.into_result()
}

/// Gives `to`, which is empty, the content and size of `from`, holes kept.
pub(crate) fn copy_data(from: &File, to: &File, check: Check<'_>) -> Result<()> {
    DataCopier::default().copy(from, to, &inode::stat(from)?, check)
}

/// A directory that is being copied.
struct Frame {
    names: std::vec::IntoIter<DirEntry>,
    /// What it was when it was entered: its attributes are set when it is complete.
    stat: Stat,
}

/// One thread's work on one subtree.
struct Copy<'a> {
    shared: &'a Shared<'a>,
    from: Descent,
    to: Descent,
    path: EntryPath,
    data: &'a mut DataCopier,
    creator: (u32, u32),
}

fn names(dir: &Dir) -> Result<Vec<DirEntry>> {
    let mut names = Vec::new();
    for entry in dir.entries()? {
        match entry {
            Ok(entry) => names.push(entry),
            // Somebody removed the directory that is being read.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(names)
}

impl<'a> Copy<'a> {
    fn new(shared: &'a Shared<'a>, subtree: Subtree, data: &'a mut DataCopier) -> Result<Self> {
        let Subtree { from, to, path } = subtree;
        let (from, to) = (Descent::new(from)?, Descent::new(to)?);
        Ok(Self { shared, from, to, path, data, creator: inode::creator() })
    }

    fn run(&mut self) -> Result<()> {
        let mut frames: Vec<Frame> = self.frame()?.into_iter().collect();
        while let Some(frame) = frames.last_mut() {
            self.shared.check()?;
            match frame.names.next() {
                Some(entry) => {
                    if let Some(frame) = self.name(&entry)? {
                        frames.push(frame);
                    }
                }
                None => {
                    let stat = frame.stat;
                    frames.pop();
                    self.close(&stat)?;
                }
            }
        }
        Ok(())
    }

    /// Copies one name of the current directory. A directory is entered and left open, or given away.
    fn name(&mut self, DirEntry { name, file_type }: &DirEntry) -> Result<Option<Frame>> {
        match file_type {
            FileType::Directory => return self.enter(name),
            FileType::RegularFile => return self.file(name).map(|()| None),
            _ => {}
        }
        let found = match self.from.here()? {
            Some(from) => from.stat(name)?,
            None => None,
        };
        let Some(stat) = found else { return Ok(None) };
        match stat.file_type {
            FileType::Directory => self.enter(name),
            FileType::RegularFile => self.file(name).map(|()| None),
            _ => self.grouped(name, &stat, |copy| copy.leaf(name, &stat)).map(|()| None),
        }
    }

    /// Copies an inode with `copy`, or makes a link where it is copied already.
    fn grouped(&mut self, name: &[u8], stat: &Stat, copy: impl FnOnce(&mut Self) -> Result<bool>) -> Result<()> {
        if stat.nlink < 2 {
            return copy(self).map(drop);
        }
        let key = (stat.dev, stat.ino);
        if let Named::Link(first) = self.shared.name(key)? {
            // Where the first name has gone meanwhile, nobody knows this one's group any more.
            return if self.link(name, &first)? { Ok(()) } else { copy(self).map(drop) };
        }
        let copied = copy(self)?;
        let path = self.join(name)?;
        self.shared.settle(key, copied.then_some((path, stat.nlink.saturating_sub(1))));
        Ok(())
    }

    fn join(&self, name: &[u8]) -> Result<EntryPath> {
        self.path.join(name).map_err(|error| Error::new(crate::error::ErrorKind::Io, "copy tree").with_source(error))
    }

    /// Gives the copy of an inode one more name.
    fn link(&mut self, name: &[u8], first: &EntryPath) -> Result<bool> {
        let (Some(to), Some(first_name)) = (self.to.here()?, first.file_name()) else { return Ok(false) };
        let parent = first.parent().unwrap_or_default();
        if parent == self.path {
            to.link(first_name, to, name)?;
        } else {
            let Some(dir) = self.shared.root.literal_dir(&parent)? else { return Ok(false) };
            dir.link(first_name, to, name)?;
        }
        Ok(true)
    }

    fn enter(&mut self, name: &[u8]) -> Result<Option<Frame>> {
        if !self.from.enter(name)? {
            self.from.leave();
            return Ok(None);
        }
        let Some(to) = self.to.here()? else { return Ok(None) };
        to.mkdir(name, 0o700)?;
        self.to.enter(name)?;
        self.path = self.join(name)?;
        if self.shared.is_wanted()
            && let (Some(from), Some(to)) = (self.from.here()?, self.to.here()?)
        {
            let subtree = Subtree { from: from.try_clone()?, to: to.try_clone()?, path: self.path.clone() };
            self.shared.hand_over(subtree);
            self.leave();
            return Ok(None);
        }
        self.frame()
    }

    /// The directory that was entered.
    fn frame(&mut self) -> Result<Option<Frame>> {
        let (Some(stat), Some(from)) = (self.from.stat(), self.from.here()?) else {
            self.leave();
            return Ok(None);
        };
        Ok(Some(Frame { names: names(from)?.into_iter(), stat }))
    }

    fn leave(&mut self) {
        self.from.leave();
        self.to.leave();
        self.path = self.path.parent().unwrap_or_default();
    }

    /// Gives a directory its attributes when all its names are there, and goes back to its parent. What another thread makes below one
    /// of them changes nothing here.
    fn close(&mut self, stat: &Stat) -> Result<()> {
        if let (Some(from), Some(to)) = (self.from.here()?, self.to.here()?) {
            attributes(from, to, stat, None)?;
        }
        self.leave();
        Ok(())
    }

    /// Copies a file, if it is still there.
    fn file(&mut self, name: &[u8]) -> Result<()> {
        let Some(from) = self.from.here()? else { return Ok(()) };
        let Some((original, stat)) = unless_gone(from.open_file_stat(name))? else { return Ok(()) };
        self.grouped(name, &stat, |copy| {
            let born = copy.born();
            let Some(to) = copy.to.here()? else { return Ok(false) };
            let new = to.create_file(name, 0o600)?;
            let shared = copy.shared;
            copy.data.copy(&original, &new, &stat, &mut || shared.check())?;
            attributes(&original, &new, &stat, born)?;
            Ok(true)
        })
    }

    /// Anything but a directory and a file. Says whether it was still there.
    fn leaf(&mut self, name: &[u8], before: &Stat) -> Result<bool> {
        let born = self.born();
        let (Some(from), Some(to)) = (self.from.here()?, self.to.here()?) else { return Ok(false) };
        let Some(held) = unless_gone(from.child_path_fd(name))? else { return Ok(false) };
        let stat = inode::stat(&held)?;
        if stat.file_type != before.file_type {
            return Ok(false);
        }
        if stat.is_symlink() {
            let Some(target) = unless_gone(from.readlink(name))? else { return Ok(false) };
            to.symlink(&target, name)?;
        } else {
            to.mknod(name, stat.file_type, 0o600, stat.rdev)?;
        }
        attributes(held, to.child_path_fd(name)?, &stat, born)?;
        Ok(true)
    }

    /// Whose the inodes are that are made in the current directory of the copy, where that is certain: a file system may be mounted so
    /// that they take after their directory.
    fn born(&self) -> Option<(u32, u32)> {
        self.to.stat().filter(|dir| dir.gid == self.creator.1).map(|_| self.creator)
    }
}

/// Owner, mode, xattrs, times, in the order in which none undoes another. `born`: whose the new inode is already.
fn attributes(from: impl AsFd, to: impl AsFd, stat: &Stat, born: Option<(u32, u32)>) -> Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    if born != Some((stat.uid, stat.gid)) {
        inode::set_owner(to, stat.uid, stat.gid)?;
    }
    if !stat.is_symlink() {
        inode::set_mode(to, stat.mode)?;
    }
    // After the owner, whose change clears capabilities.
    for name in xattr::list(from)? {
        if let Some(value) = xattr::get(from, &name)? {
            match xattr::set(to, &name, &value) {
                // The host gives every inode its label by itself, and may keep others from doing so.
                Err(_) if name == b"security.selinux" => {}
                done => done?,
            }
        }
    }
    inode::set_times(to, stat.mtime, stat.mtime)
}

/// How the bytes of a file reach its copy. What a file system refused once is not tried again.
#[derive(Debug, Default)]
struct DataCopier {
    no_clone: bool,
    no_range: bool,
    buffer: Vec<u8>,
}

impl DataCopier {
    fn copy(&mut self, from: &File, to: &File, stat: &Stat, check: Check<'_>) -> Result<()> {
        if stat.size == 0 {
            return Ok(());
        }
        if !self.no_clone {
            match rustix::fs::ioctl_ficlone(to, from) {
                Ok(()) => return Ok(()),
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => self.no_clone = true,
                // Of this file alone: a swap file, say.
                Err(Errno::INVAL | Errno::PERM | Errno::TXTBSY) => {}
                Err(error) => return Err(failed("ioctl_ficlone", error, to)),
            }
        }
        if stat.blocks.saturating_mul(512) >= stat.size {
            self.range(from, to, 0, stat.size, check)?;
            return Ok(());
        }
        // Holes stay holes: the copy gets its size first, and then only what is data.
        rustix::fs::ftruncate(to, stat.size).map_err(|error| failed("ftruncate", error, to))?;
        let mut offset = 0;
        while offset < stat.size
            && let Some((begin, end)) = next_data(from, offset)?
            && begin < stat.size
        {
            let end = end.min(stat.size);
            if !self.range(from, to, begin, end, check)? {
                break;
            }
            offset = end;
        }
        Ok(())
    }

    /// Copies the bytes from `offset` to `end`. Says whether the file reached that far.
    fn range(&mut self, from: &File, to: &File, mut offset: u64, end: u64, check: Check<'_>) -> Result<bool> {
        while offset < end {
            check()?;
            let count = end.saturating_sub(offset).min(STRETCH);
            let copied =
                if self.no_range { self.by_hand(from, to, offset, count)? } else { self.in_kernel(from, to, offset, count)? };
            if copied == 0 {
                return Ok(false);
            }
            offset = offset.saturating_add(copied);
        }
        Ok(true)
    }

    fn in_kernel(&mut self, from: &File, to: &File, offset: u64, count: u64) -> Result<u64> {
        let (mut source, mut target) = (offset, offset);
        let length = usize::try_from(count).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), length) {
            // Kernels before 5.19 say 0 for files that have no size of their own.
            Ok(0) => self.by_hand(from, to, offset, count),
            Ok(copied) => Ok(copied as u64),
            Err(Errno::INTR) => self.in_kernel(from, to, offset, count),
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM | Errno::BADF | Errno::TXTBSY) => {
                self.no_range = true;
                self.by_hand(from, to, offset, count)
            }
            Err(error) => Err(failed("copy_file_range", error, to)),
        }
    }

    fn by_hand(&mut self, from: &File, to: &File, offset: u64, count: u64) -> Result<u64> {
        self.buffer.resize(256 << 10, 0);
        let length = usize::try_from(count).unwrap_or(usize::MAX).min(self.buffer.len());
        let buffer = self.buffer.get_mut(..length).unwrap_or_default();
        let read = retry(|| rustix::io::pread(from, &mut *buffer, offset)).map_err(|error| failed("pread", error, from))?;
        let mut written = 0;
        while let Some(rest) = buffer.get(written..read)
            && !rest.is_empty()
        {
            match retry(|| rustix::io::pwrite(to, rest, offset.saturating_add(written as u64)))
                .map_err(|error| failed("pwrite", error, to))?
            {
                0 => return Err(failed("pwrite", Errno::IO, to)),
                count => written = written.saturating_add(count),
            }
        }
        Ok(read as u64)
    }
}

fn retry<T>(mut call: impl FnMut() -> std::result::Result<T, Errno>) -> std::result::Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

fn failed(op: &'static str, error: Errno, file: &File) -> Error {
    Error::io(op, error).at(describe(file.as_fd(), b""))
}

#[cfg(test)]
mod tests;
