//! Copies of whole trees: every inode with its content, holes, attributes and names, of trees as hostile and deep as they like.
//!
//! Both trees are held by descriptor and walked by single names; nothing is followed. Content is shared with the original where the file
//! system can (`FICLONE`), else copied by the kernel (`copy_file_range`), else through a buffer. Nothing of the directory that the copy
//! stands in leaks into it: neither the umask nor set-gid nor default ACLs. The access time of everything is its mtime. Making it
//! durable is the caller's.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::content::next_data;
use super::descent::unless_gone;
use super::{Descent, Dir, FileType, Root, Stat, describe, inode, xattr};
use crate::error::{Error, Result};
use crate::path::EntryPath;

/// How much the kernel copies between two checks.
const STRETCH: u64 = 64 << 20;

/// Asked between two steps; its error ends the work.
pub(crate) type Check<'a> = &'a mut dyn FnMut() -> Result<()>;

/// Copies what is in one directory into another, which is empty, and gives that one the attributes of the first. A name that goes away
/// meanwhile is left out. On an error a part of the copy is left: it is the caller's to remove.
pub(crate) fn copy_tree(from: &Dir, to: &Dir, check: Check<'_>) -> Result<()> {
    let root = inode::stat(from)?;
    // Else every inode below would begin with it.
    xattr::remove(to, b"system.posix_acl_default")?;
    let mut copy = Copy {
        from: Descent::new(from.try_clone()?)?,
        to: Descent::new(to.try_clone()?)?,
        root: Root::new(to.try_clone()?),
        path: EntryPath::ROOT,
        first: HashMap::new(),
        data: DataCopier::default(),
    };
    let mut frames = vec![Frame { names: names(from)?.into_iter(), stat: root }];
    while let Some(frame) = frames.last_mut() {
        check()?;
        match frame.names.next() {
            Some(name) => {
                if let Some(frame) = copy.name(&name, check)? {
                    frames.push(frame);
                }
            }
            None => {
                let stat = frame.stat;
                frames.pop();
                copy.close(&stat)?;
            }
        }
    }
    Ok(())
}

/// Gives `to`, which is empty, the content and size of `from`, holes kept.
pub(crate) fn copy_data(from: &File, to: &File, check: Check<'_>) -> Result<()> {
    DataCopier::default().copy(from, to, &inode::stat(from)?, check)
}

/// A directory that is being copied.
struct Frame {
    names: std::vec::IntoIter<Box<[u8]>>,
    /// What it was when it was entered: its attributes are set when it is complete.
    stat: Stat,
}

struct Copy {
    from: Descent,
    to: Descent,
    /// The copy, to look names of hardlink groups up in.
    root: Root,
    path: EntryPath,
    /// Where the first name of an inode with several names was copied to, and how many are still to come.
    first: HashMap<((u32, u32), u64), (EntryPath, u32)>,
    data: DataCopier,
}

fn names(dir: &Dir) -> Result<Vec<Box<[u8]>>> {
    let mut names = Vec::new();
    for entry in dir.entries()? {
        match entry {
            Ok(entry) => names.push(entry.name),
            // Somebody removed the directory that is being read.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(names)
}

impl Copy {
    /// Copies one name of the current directory. A directory is entered and left open.
    fn name(&mut self, name: &[u8], check: Check<'_>) -> Result<Option<Frame>> {
        let found = match self.from.here()? {
            Some(from) => from.stat(name)?,
            None => None,
        };
        let Some(stat) = found else { return Ok(None) };
        if stat.is_dir() {
            return self.enter(name);
        }
        if stat.nlink > 1 && self.link(name, &stat)? {
            return Ok(None);
        }
        let (Some(from), Some(to)) = (self.from.here()?, self.to.here()?) else { return Ok(None) };
        let copied = match stat.file_type {
            FileType::RegularFile => file(from, to, name, &mut self.data, check)?,
            FileType::Symlink => symlink(from, to, name)?,
            _ => special(from, to, name, &stat)?,
        };
        if let Some(copied) = copied
            && copied.nlink > 1
        {
            self.first.insert((copied.dev, copied.ino), (self.join(name)?, copied.nlink.saturating_sub(1)));
        }
        Ok(None)
    }

    fn join(&self, name: &[u8]) -> Result<EntryPath> {
        self.path.join(name).map_err(|error| Error::new(crate::error::ErrorKind::Io, "copy tree").with_source(error))
    }

    /// Gives the copy of an inode one more name, if it was copied already.
    fn link(&mut self, name: &[u8], stat: &Stat) -> Result<bool> {
        let key = (stat.dev, stat.ino);
        let Some((first, left)) = self.first.get_mut(&key) else { return Ok(false) };
        let (Some(to), Some(first_name)) = (self.to.here()?, first.file_name()) else { return Ok(false) };
        let parent = first.parent().unwrap_or_default();
        if parent == self.path {
            to.link(first_name, to, name)?;
        } else {
            let Some(dir) = self.root.literal_dir(&parent)? else { return Ok(false) };
            dir.link(first_name, to, name)?;
        }
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.first.remove(&key);
        }
        Ok(true)
    }

    fn enter(&mut self, name: &[u8]) -> Result<Option<Frame>> {
        if !self.from.enter(name)? {
            self.from.leave();
            return Ok(None);
        }
        let (Some(stat), Some(from), Some(to)) = (self.from.stat(), self.from.here()?, self.to.here()?) else { return Ok(None) };
        let names = names(from)?;
        to.mkdir(name, 0o700)?;
        self.to.enter(name)?;
        self.path = self.join(name)?;
        Ok(Some(Frame { names: names.into_iter(), stat }))
    }

    /// Gives a complete directory its attributes, and goes back to its parent.
    fn close(&mut self, stat: &Stat) -> Result<()> {
        if let (Some(from), Some(to)) = (self.from.here()?, self.to.here()?) {
            attributes(from, to, stat)?;
        }
        self.from.leave();
        self.to.leave();
        self.path = self.path.parent().unwrap_or_default();
        Ok(())
    }
}

/// Owner, mode, xattrs, times, in the order in which none undoes another.
fn attributes(from: impl AsFd, to: impl AsFd, stat: &Stat) -> Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    inode::set_owner(to, stat.uid, stat.gid)?;
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

/// Copies a file, and says what it was; `None` where it went away.
fn file(from: &Dir, to: &Dir, name: &[u8], data: &mut DataCopier, check: Check<'_>) -> Result<Option<Stat>> {
    let Some(original) = unless_gone(from.open_file(name))? else { return Ok(None) };
    let stat = inode::stat(&original)?;
    let copy = to.create_file(name, 0o600)?;
    data.copy(&original, &copy, &stat, check)?;
    attributes(&original, &copy, &stat)?;
    Ok(Some(stat))
}

fn symlink(from: &Dir, to: &Dir, name: &[u8]) -> Result<Option<Stat>> {
    let Some(held) = unless_gone(from.child_path_fd(name))? else { return Ok(None) };
    let Some(target) = unless_gone(from.readlink(name))? else { return Ok(None) };
    let stat = inode::stat(&held)?;
    if !stat.is_symlink() {
        return Ok(None);
    }
    to.symlink(&target, name)?;
    attributes(held, to.child_path_fd(name)?, &stat)?;
    Ok(Some(stat))
}

/// A device, FIFO or socket.
fn special(from: &Dir, to: &Dir, name: &[u8], before: &Stat) -> Result<Option<Stat>> {
    let Some(held) = unless_gone(from.child_path_fd(name))? else { return Ok(None) };
    let stat = inode::stat(&held)?;
    if stat.file_type != before.file_type {
        return Ok(None);
    }
    to.mknod(name, stat.file_type, 0o600, stat.rdev)?;
    attributes(held, to.child_path_fd(name)?, &stat)?;
    Ok(Some(stat))
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
