//! What a container may do to its root while it is read, step by step, as fast as it can.
//!
//! A writer works by descriptors and single names, as if it were chrooted: a symlink that leads out is bait for the reader, not for it.
//! Files called `whole…` are only ever renamed into place, complete; all others are changed in every way there is.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, RenameFlags, open, openat, renameat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstat, makedev, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use crate::support::work::Dice;

/// The directories in which most happens.
pub(super) const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// How everything begins that must not be read, and how large it is at least.
pub(super) const SECRET: &str = "a secret of the host; ";
pub(super) const SECRET_BYTES: usize = 64 << 20;

const FILES: u64 = 6;
const WHOLE: u64 = 3;
const LARGE: u64 = 20_000;

pub(super) struct Writer {
    root: OwnedFd,
    outside: PathBuf,
    dice: Dice,
    mounts: bool,
    id: u64,
}

/// A file's content that says of itself whether it is complete.
fn whole(seed: u64, length: u64) -> Vec<u8> {
    let mut content = [seed.to_le_bytes(), length.to_le_bytes()].concat();
    let mut state = seed | 1;
    while (content.len() as u64) < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend(state.to_le_bytes());
    }
    content
}

pub(super) fn is_whole(content: &[u8]) -> bool {
    let number = |at: usize| content.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    number(0).zip(number(8)).is_some_and(|(seed, length)| whole(seed, length) == content)
}

impl Writer {
    pub(super) fn new(root: &Path, outside: &Path, mut dice: Dice, mounts: bool) -> Self {
        let root = open(root, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        let id = dice.below(1 << 31);
        Self { root, outside: outside.to_owned(), dice, mounts, id }
    }

    fn open_dir(&self, parent: &OwnedFd, name: &str) -> Option<OwnedFd> {
        openat(parent, name, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()).ok()
    }

    /// One of the directories, or one in them; made where it is missing.
    fn dir(&mut self) -> Option<OwnedFd> {
        let name = NAMES[self.dice.below(NAMES.len() as u64) as usize];
        let _ = mkdirat(&self.root, name, Mode::S_IRWXU);
        let dir = self.open_dir(&self.root, name)?;
        match self.dice.below(6) {
            below @ 0..3 => self.open_dir(&dir, &format!("sub{below}")).or(Some(dir)),
            _ => Some(dir),
        }
    }

    fn file(&mut self) -> String {
        format!("f{}", self.dice.below(FILES))
    }

    fn whole(&mut self) -> String {
        format!("whole{}", self.dice.below(WHOLE))
    }

    /// Opens one of the files that are changed in place.
    fn open_file(&mut self, flags: OFlag) -> Option<File> {
        let (dir, name) = (self.dir()?, self.file());
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_RDWR;
        let file = File::from(openat(&dir, name.as_str(), flags, Mode::from_bits_truncate(0o644)).ok()?);
        file.metadata().ok()?.is_file().then_some(file)
    }

    fn bytes(&mut self) -> Vec<u8> {
        vec![b'a' + self.dice.below(26) as u8; self.dice.below(LARGE) as usize]
    }

    /// One thing; what does not work does not matter.
    pub(super) fn step(&mut self) {
        let _ = match self.dice.below(64) {
            0..8 => self.rewrite(),
            8..14 => self.replace(),
            14..18 => self.resize(),
            18..21 => self.remove(),
            21..26 => self.bait(),
            26..32 => self.exchange(),
            32..37 => self.directories(),
            37..41 => self.special(),
            41..46 => self.attributes(),
            46..50 => self.link(),
            50..54 => self.swap_top(),
            54..57 => self.deep(),
            57 => self.unsayable(),
            58..62 if self.mounts => self.volume(),
            _ => self.rewrite(),
        };
    }

    /// Writes over a file, in pieces.
    fn rewrite(&mut self) -> Option<()> {
        let flags = [OFlag::O_CREAT, OFlag::O_CREAT | OFlag::O_TRUNC, OFlag::O_CREAT | OFlag::O_APPEND];
        let flags = flags[self.dice.below(3) as usize];
        let mut file = self.open_file(flags)?;
        let bytes = self.bytes();
        // A file that only ever grows would fill the disk.
        if file.metadata().ok()?.len() > LARGE {
            file.set_len(0).ok()?;
        }
        bytes.chunks(5_000).try_for_each(|piece| file.write_all(piece)).ok()
    }

    /// Puts a complete file in the place of another.
    fn replace(&mut self) -> Option<()> {
        let (dir, name, temporary) = (self.dir()?, self.whole(), format!("temporary-{}", self.id));
        // Now and then more than is read at once.
        let most = if self.dice.below(16) == 0 { 40_000 } else { 1_000 };
        let content = whole(self.dice.below(1 << 31), 16 + 8 * self.dice.below(most));
        let flags = OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&dir, temporary.as_str(), flags, Mode::from_bits_truncate(0o600)).ok()?);
        file.write_all(&content).ok()?;
        renameat2(&dir, temporary.as_str(), &dir, name.as_str(), RenameFlags::empty()).ok()
    }

    /// Cuts a file, or lets it grow with and without holes.
    fn resize(&mut self) -> Option<()> {
        let file = self.open_file(OFlag::empty())?;
        let (size, at) = (self.dice.below(2 * LARGE), self.dice.below(1 << 20));
        file.set_len(if self.dice.below(2) == 0 { size } else { 0 }).ok()?;
        if self.dice.below(4) == 0 { file.write_all_at(b"after a hole", at).ok() } else { Some(()) }
    }

    fn remove(&mut self) -> Option<()> {
        let dir = self.dir()?;
        let name = if self.dice.below(2) == 0 { self.file() } else { self.whole() };
        unlinkat(&dir, name.as_str(), UnlinkatFlags::NoRemoveDir).ok()
    }

    /// Puts a symlink that leads out in a file's place.
    fn bait(&mut self) -> Option<()> {
        let (dir, name, temporary) = (self.dir()?, self.file(), format!("bait-{}", self.id));
        let target = self.outside.join(["secret", "below", "below/secret", ""][self.dice.below(4) as usize]);
        let _ = symlinkat(&target, &dir, temporary.as_str());
        let flags = [RenameFlags::empty(), RenameFlags::RENAME_EXCHANGE][self.dice.below(2) as usize];
        renameat2(&dir, temporary.as_str(), &dir, name.as_str(), flags).ok()
    }

    /// Swaps what stands at two names, of whatever type.
    fn exchange(&mut self) -> Option<()> {
        let (one, other) = (self.dir()?, self.dir()?);
        let (from, to) = (self.file(), self.file());
        let from = if self.dice.below(4) == 0 { "sub0".to_owned() } else { from };
        renameat2(&one, from.as_str(), &other, to.as_str(), RenameFlags::RENAME_EXCHANGE).ok()
    }

    /// Makes, moves and removes directories.
    fn directories(&mut self) -> Option<()> {
        let (one, other) = (self.dir()?, self.dir()?);
        let (from, to) = (format!("sub{}", self.dice.below(3)), format!("sub{}", self.dice.below(3)));
        match self.dice.below(3) {
            0 => mkdirat(&one, from.as_str(), Mode::S_IRWXU).ok(),
            1 => unlinkat(&one, from.as_str(), UnlinkatFlags::RemoveDir).ok(),
            _ => renameat2(&one, from.as_str(), &other, to.as_str(), RenameFlags::empty()).ok(),
        }
    }

    /// FIFOs that nobody writes to, sockets, devices: to open one would wait for ever, or have effects.
    fn special(&mut self) -> Option<()> {
        let (dir, name) = (self.dir()?, self.file());
        let _ = unlinkat(&dir, name.as_str(), UnlinkatFlags::NoRemoveDir);
        let (kind, device) = match self.dice.below(4) {
            0 => (SFlag::S_IFSOCK, 0),
            1 => (SFlag::S_IFCHR, makedev(0, 0)),
            2 => (SFlag::S_IFCHR, makedev(1, 3)),
            _ => (SFlag::S_IFIFO, 0),
        };
        mknodat(&dir, name.as_str(), kind, Mode::S_IRWXU, device).ok()
    }

    /// Flips modes, times and xattrs.
    fn attributes(&mut self) -> Option<()> {
        let time = TimeSpec::new(self.dice.below(1 << 31) as i64, self.dice.below(1_000_000_000) as i64);
        let (dir, name) = (self.dir()?, self.file());
        let _ = utimensat(&dir, name.as_str(), &time, &time, UtimensatFlags::NoFollowSymlink);
        let mode = [0o000, 0o4755, 0o1777, 0o644, 0o111][self.dice.below(5) as usize];
        let target = match self.dice.below(3) {
            0 => File::from(dir),
            _ => self.open_file(OFlag::empty())?,
        };
        let value = vec![b'v'; self.dice.below(1000) as usize];
        let name = format!("user.{}", self.dice.below(3));
        let _ = match self.dice.below(2) {
            0 => xattr::FileExt::set_xattr(&target, name, &value),
            _ => xattr::FileExt::remove_xattr(&target, name),
        };
        target.set_permissions(std::fs::Permissions::from_mode(mode)).ok()
    }

    /// Gives inodes more names, also over those of the lower tree.
    fn link(&mut self) -> Option<()> {
        let (one, other) = (self.dir()?, self.dir()?);
        let (from, to) = match self.dice.below(4) {
            0 => (self.whole(), self.whole()),
            1 => ("below".to_owned(), self.file()),
            _ => (self.file(), self.file()),
        };
        let _ = unlinkat(&other, to.as_str(), UnlinkatFlags::NoRemoveDir);
        linkat(&one, from.as_str(), &other, to.as_str(), AtFlags::empty()).ok()
    }

    /// Swaps a whole directory for a symlink that leads out, and back.
    fn swap_top(&mut self) -> Option<()> {
        let name = NAMES[self.dice.below(NAMES.len() as u64) as usize];
        let _ = symlinkat(&self.outside, &self.root, "out");
        renameat2(&self.root, name, &self.root, "out", RenameFlags::RENAME_EXCHANGE).ok()?;
        std::thread::yield_now();
        renameat2(&self.root, name, &self.root, "out", RenameFlags::RENAME_EXCHANGE).ok()
    }

    /// A long path that is broken in its middle.
    fn deep(&mut self) -> Option<()> {
        let (dir, name) = (self.dir()?, format!("deep{}", self.id % 3));
        let _ = mkdirat(&dir, name.as_str(), Mode::S_IRWXU);
        let mut at = self.open_dir(&dir, &name)?;
        for depth in 0..50 {
            let _ = mkdirat(&at, "x", Mode::S_IRWXU);
            let below = self.open_dir(&at, "x")?;
            if depth == self.dice.below(50) {
                let _ = renameat2(&at, "x", &dir, "sub2", RenameFlags::RENAME_EXCHANGE);
            }
            at = below;
        }
        unlinkat(&at, "x", UnlinkatFlags::RemoveDir).ok()
    }

    /// A name that no layer can say, for a moment.
    fn unsayable(&mut self) -> Option<()> {
        let dir = self.dir()?;
        mkdirat(&dir, ".wh.x", Mode::S_IRWXU).ok()?;
        unlinkat(&dir, ".wh.x", UnlinkatFlags::RemoveDir).ok()
    }

    /// A volume of the container, which is no part of its root; or takes one away.
    fn volume(&mut self) -> Option<()> {
        let name = NAMES[self.dice.below(NAMES.len() as u64) as usize];
        let dir = self.open_dir(&self.root, name)?;
        let place = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        if self.dice.below(2) == 0 {
            return umount2(&place, MntFlags::MNT_DETACH).ok();
        }
        mount(Some("tmpfs"), &place, Some("tmpfs"), MsFlags::empty(), Some("size=20m")).ok()?;
        let volume = self.open_dir(&self.root, name)?;
        // Another writer may have taken the volume away meanwhile, or put another directory there.
        if fstat(&volume).ok()?.st_dev == fstat(&self.root).ok()?.st_dev {
            return None;
        }
        let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&volume, "secret", flags, Mode::S_IRWXU).ok()?);
        file.write_all(SECRET.as_bytes()).ok()
    }
}
