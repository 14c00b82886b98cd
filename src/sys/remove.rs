//! Deleting trees that belong to somebody else: as deep, as wide and as hostile as they like.
//!
//! Everything goes by descriptors that are held and by single names, so a racing writer can at most hide things from one reading;
//! nothing is followed, and no mount is entered. Neither the stack nor the descriptors grow with the depth: what stands deeper than
//! [`OPEN_MAX`] levels is moved up into the directory that is being emptied, and met again there.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::{Dir, inode};
use crate::error::{Error, ErrorKind, Result};

/// How many levels are held open.
const OPEN_MAX: usize = 32;

/// How often one directory is read again because somebody keeps writing into it.
const ROUNDS_MAX: u32 = 1000;

/// A directory that is being emptied: its descriptor is the stream's own.
struct Level {
    stream: rustix::fs::Dir,
    /// Its name in the level below it in the stack.
    name: Vec<u8>,
    rounds: u32,
}

impl Dir {
    /// Deletes what stands at a name, with everything in it. Missing is success. Nothing is durable before [`Dir::sync`].
    ///
    /// A mount in the tree is `InUse`, and so is a writer that is faster than the deletion.
    pub(crate) fn remove_tree(&self, name: &[u8]) -> Result<()> {
        let name = super::dir::component("unlinkat", name)?;
        for _ in 0..ROUNDS_MAX {
            match unlink(self, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(self.failed("unlinkat", error, name)),
            }
            match open_child(self, name) {
                Ok(fd) => empty(self, fd)?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(mounted(self, error, name)),
            }
            match unlink(self, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                Err(error) => return Err(mounted(self, error, name)),
            }
        }
        Err(overrun(self, name))
    }

    /// Deletes everything in this directory, and keeps the directory.
    pub(crate) fn clear(&self) -> Result<()> {
        let own = rustix::fs::openat(self, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| self.failed("openat", error, b"."))?;
        empty(self, own)
    }
}

/// Empties the directory of `fd`; `shown` is for messages.
fn empty(shown: &Dir, fd: OwnedFd) -> Result<()> {
    let failed = |op, error: Errno, name: &[u8]| shown.failed(op, error, name);
    let top = Dir::from_fd(fd.try_clone().map_err(|error| Error::io("dup", error))?);
    let mut hoisted = 0_u64;
    let mut stack = vec![level(fd, Vec::new()).map_err(|error| failed("getdents64", error, b""))?];
    loop {
        let depth = stack.len();
        let Some(current) = stack.last_mut() else { return Ok(()) };
        let Some(entry) = current.stream.read() else {
            // Read to its end. It may have been refilled, or moved under the reading: only rmdir (or another reading) can tell.
            if depth == 1 {
                if top.is_empty()? {
                    return Ok(());
                }
                again(&mut stack, shown)?;
            } else {
                leave(&mut stack, shown)?;
            }
            continue;
        };
        let entry = entry.map_err(|error| failed("getdents64", error, b""))?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let here = current.stream.fd().map_err(|error| failed("openat", error, name))?;
        if entry.file_type() != FileType::Directory {
            match unlink(here, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // The directory did not know its type, or it changed.
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(mounted(shown, error, name)),
            }
        }
        match unlink(here, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(mounted(shown, error, name)),
        }
        if depth >= OPEN_MAX && hoist(here, name, &top, &mut hoisted) {
            if let Some(first) = stack.first_mut() {
                first.rounds = 0;
            }
            continue;
        }
        match open_child(here, name) {
            Ok(fd) => {
                let next = level(fd, name.to_vec()).map_err(|error| failed("getdents64", error, name))?;
                stack.push(next);
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(mounted(shown, error, name)),
        }
    }
}

fn level(fd: OwnedFd, name: Vec<u8>) -> std::result::Result<Level, Errno> {
    Ok(Level { stream: rustix::fs::Dir::new(fd)?, name, rounds: 0 })
}

/// Removes the directory on top of the stack from the one below it.
fn leave(stack: &mut Vec<Level>, shown: &Dir) -> Result<()> {
    let Some(done) = stack.pop() else { return Ok(()) };
    let Some(below) = stack.last() else { return Ok(()) };
    let parent = below.stream.fd().map_err(|error| shown.failed("openat", error, &done.name))?;
    match unlink(parent, &done.name, AtFlags::REMOVEDIR) {
        // NOTDIR: somebody swapped it. The parent's next reading meets whatever stands there now.
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {
            stack.push(done);
            again(stack, shown)
        }
        Err(error) => Err(mounted(shown, error, &done.name)),
    }
}

/// Reads the directory on top of the stack from its beginning.
fn again(stack: &mut [Level], shown: &Dir) -> Result<()> {
    let Some(level) = stack.last_mut() else { return Ok(()) };
    level.rounds = level.rounds.saturating_add(1);
    if level.rounds > ROUNDS_MAX {
        return Err(overrun(shown, &level.name));
    }
    level.stream.rewind();
    Ok(())
}

/// Moves a deep directory up into `top`. Where that is refused (another quota project), it is entered where it stands.
fn hoist(here: impl AsFd, name: &[u8], top: &Dir, count: &mut u64) -> bool {
    for _ in 0..16 {
        *count = count.saturating_add(1);
        let up = format!(".plywood-deep-{count}");
        match rustix::fs::renameat_with(&here, name, top, up.as_str(), RenameFlags::NOREPLACE) {
            Ok(()) => return true,
            Err(Errno::EXIST) => {}
            // Moving a directory writes its `..`, for which it must be writable.
            Err(Errno::ACCESS) if unlock(&here, name) => {}
            Err(_) => return false,
        }
    }
    false
}

/// `unlinkat`; a directory that its owner may not write is made writable first.
fn unlink(dir: impl AsFd, name: &[u8], flags: AtFlags) -> std::result::Result<(), Errno> {
    match rustix::fs::unlinkat(&dir, name, flags) {
        Err(Errno::ACCESS) if rustix::fs::fchmod(&dir, Mode::RWXU).is_ok() => rustix::fs::unlinkat(&dir, name, flags),
        done => done,
    }
}

/// Opens a directory, never through a symlink and never into a mount; `EXDEV` tells of a mount.
fn open_child(dir: impl AsFd, name: &[u8]) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || match rustix::fs::openat2(&dir, name, flags, Mode::empty(), ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOSYS | Errno::PERM) => {
            let fd = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
            let is_mounted = match rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, StatxFlags::empty()) {
                Ok(found) => found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
                Err(Errno::NOSYS | Errno::PERM) => inode::mount_id(&dir) != inode::mount_id(&fd),
                Err(errno) => return Err(errno),
            };
            if is_mounted { Err(Errno::XDEV) } else { Ok(fd) }
        }
        done => done,
    };
    match open() {
        Err(Errno::ACCESS) if unlock(&dir, name) => open(),
        done => done,
    }
}

/// Gives the owner all rights on a directory that nobody may enter.
fn unlock(dir: impl AsFd, name: &[u8]) -> bool {
    let held = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    held.is_ok_and(|fd| inode::stat(&fd).is_ok_and(|stat| stat.is_dir()) && inode::set_mode(&fd, 0o700).is_ok())
}

fn mounted(shown: &Dir, error: Errno, name: &[u8]) -> Error {
    match error {
        Errno::XDEV | Errno::BUSY => Error::new(ErrorKind::InUse, "remove a tree")
            .at(super::describe(shown.as_fd(), name))
            .because("something is mounted in it")
            .with_source(std::io::Error::from(error)),
        error => shown.failed("unlinkat", error, name),
    }
}

fn overrun(shown: &Dir, name: &[u8]) -> Error {
    Error::new(ErrorKind::InUse, "remove a tree").at(super::describe(shown.as_fd(), name)).because("somebody keeps writing into it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_tree_goes_whole_and_nothing_outside_is_touched() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        let tree = temp.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        std::fs::create_dir_all(tree.join("closed/inner")).unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink("..", tree.join("a/b/up")).unwrap();
        std::fs::write(tree.join("closed/inner/file"), "x").unwrap();
        for closed in ["closed/inner", "closed"] {
            std::fs::set_permissions(tree.join(closed), std::fs::Permissions::from_mode(0o000)).unwrap();
        }
        let dir = Dir::open(temp.path()).unwrap();
        dir.remove_tree(b"tree").unwrap();
        dir.remove_tree(b"tree").unwrap();
        assert!(!tree.exists());
        symlink(&outside, &tree).unwrap();
        dir.remove_tree(b"tree").unwrap();
        assert!(std::fs::symlink_metadata(&tree).is_err());
        assert!(outside.join("kept").exists());
        assert!(dir.remove_tree(b"..").is_err());
    }

    #[test]
    fn depth_takes_neither_stack_nor_descriptors() {
        let temp = tempfile::tempdir().unwrap();
        let top = Dir::open(temp.path()).unwrap();
        let mut dir = top.mkdir_open(b"deep", 0o700).unwrap();
        for depth in 0..3000 {
            if depth % 7 == 0 {
                dir.create_file(b"file", 0o600).unwrap();
            }
            dir = dir.mkdir_open(b"d", 0o700).unwrap();
        }
        drop(dir);
        top.remove_tree(b"deep").unwrap();
        assert!(top.is_empty().unwrap());
    }

    #[test]
    fn a_racing_writer_neither_leads_it_out_nor_stops_it() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        let top = Dir::open(temp.path()).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let racer = top.mkdir_open(b"tree", 0o700).unwrap();
            racer.symlink(outside.as_os_str().as_encoded_bytes(), b"link").unwrap();
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = racer.mkdir(b"dir", 0o700);
                    let _ = racer.rename_exchange(b"dir", &racer, b"link");
                    let _ = racer.try_child(b"dir").ok().flatten().map(|dir| dir.create_file(b"kept", 0o600));
                }
            });
            for _ in 0..50 {
                // The writer's own directory may be gone by now: then it only fails, and a new one is raced for nothing.
                let _ = top.remove_tree(b"tree");
            }
            stop.store(true, Ordering::Relaxed);
        });
        top.remove_tree(b"tree").unwrap();
        assert!(outside.join("kept").exists());
    }
}
