//! The trials themselves: each does the thing once, in a directory of its own.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::MountAttrFlags;

use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::sys::flock::{Flock, Sharing};
use crate::sys::ids::{IdMap, IdMaps, IdRange};
use crate::sys::mount::mapped::{as_owner, clone_mapped, with_mapped};
use crate::sys::mount::{Api, FsContext, clone_mount, is_read_only, legacy, map_owners};
use crate::sys::namespace::child::{NamespaceChild, user_namespace};
use crate::sys::network::mounted_as;
use crate::sys::{Dir, FileType, Root, inode, xattr};

/// How the names of directories for trials begin.
const PROBE: &[u8] = b".probe-";

/// A directory for trials. Dropping it deletes it; a lock on it tells who is still at it.
#[derive(Debug)]
pub(crate) struct Scratch {
    parent: Dir,
    name: Vec<u8>,
    dir: Dir,
    next: AtomicU32,
    _alive: Flock,
}

impl Scratch {
    /// Makes one in a directory.
    pub(crate) fn new(parent: &Dir) -> Result<Self> {
        let pid = rustix::process::getpid().as_raw_nonzero();
        for n in 0..1000_u32 {
            let name = [PROBE, format!("{pid}-{n}").as_bytes()].concat();
            let dir = match parent.mkdir_open(&name, 0o700) {
                Ok(dir) => dir,
                // Taken; or found unlocked and cleared away at this very moment.
                Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => continue,
                Err(error) => return Err(error),
            };
            if let Some(alive) = lock_probe(parent, &name, &dir)? {
                return Ok(Self { parent: parent.try_clone()?, name, dir, next: AtomicU32::new(0), _alive: alive });
            }
        }
        Err(Error::new(ErrorKind::AlreadyExists, "probe").because("a thousand trials are left there, named .probe-*"))
    }

    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// A name in it that was never used.
    fn name(&self) -> Vec<u8> {
        format!("{}", self.next.fetch_add(1, Ordering::Relaxed)).into_bytes()
    }
}

/// Locks a directory for trials, if nobody else has and it still stands at its name.
fn lock_probe(parent: &Dir, name: &[u8], dir: &Dir) -> Result<Option<Flock>> {
    // A description of its own: the lock must not be shared with other users of `dir`.
    let Ok(lock) = Flock::attempt(inode::reopen(dir)?, Sharing::Exclusive)? else { return Ok(None) };
    let held = inode::stat(&lock)?;
    Ok(parent.stat(name)?.is_some_and(|named| named.same_inode(&held)).then_some(lock))
}

/// Deletes the directories for trials that killed processes left in a directory.
///
/// # Errors
/// `PermissionDenied`, `Io`.
pub(crate) fn clear_probes(parent: &Dir) -> Result<()> {
    for entry in parent.entries()? {
        let name = entry?.name;
        if name.starts_with(PROBE)
            && let Some(dir) = parent.try_child(&name)?
            && let Some(_dead) = lock_probe(parent, &name, &dir)?
        {
            parent.remove_tree(&name)?;
        }
    }
    Ok(())
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.parent.remove_tree(&self.name);
    }
}

/// An overlay that could be mounted and written to.
#[derive(Debug)]
pub(crate) struct OverlayTrial {
    /// Whether the kernel takes the escape off xattrs that look like overlayfs's own (6.7).
    pub(crate) escapes: bool,
    /// The mount. It is gone with this.
    #[cfg_attr(not(test), allow(dead_code))]
    pub(crate) mount: OwnedFd,
}

/// Mounts an overlay over two layers, writes to it, hides something, and reads an escaped xattr.
///
/// # Errors
/// Why that cannot be done here.
pub(crate) fn try_overlay(scratch: &Scratch, user_xattrs: bool, api: Api) -> Result<OverlayTrial> {
    let name = scratch.name();
    let place = scratch.dir.mkdir_open(&name, 0o755)?;
    let prefix = if user_xattrs { "user.overlay." } else { "trusted.overlay." };
    for part in [&b"lower"[..], b"upper", b"work"] {
        place.mkdir(part, 0o755)?;
    }
    let lower = place.child(b"lower")?;
    let file = lower.create_file(b"file", 0o644)?;
    xattr::set(&file, format!("{prefix}overlay.plywood").as_bytes(), b"x")?;
    let mount = mount_overlay(&place, user_xattrs, api)?;
    if is_read_only(&mount)? {
        return Err(Error::new(ErrorKind::Unsupported, "mount overlay")
            .because("the kernel mounts it read-only: the file system cannot serve as overlayfs's workdir"));
    }
    let root = Root::from_fd(mount);
    let inside = root.dir()?;
    inside.create_file(b"new", 0o644)?;
    let shown = root.literal(&EntryPath::parse("file").unwrap_or_default())?;
    let shown = shown.ok_or_else(|| Error::new(ErrorKind::Unsupported, "mount overlay").because("it does not show its layers"))?;
    let escapes = xattr::get(&shown, format!("{prefix}plywood").as_bytes())?.is_some();
    inside.unlink(b"file")?;
    // Without types in its directories, a file system shows whiteouts as names that lead nowhere; the kernel warns of it, no more.
    if inside.entries()?.any(|entry| entry.is_ok_and(|entry| *entry.name == *b"file")) {
        return Err(Error::new(ErrorKind::Unsupported, "mount overlay")
            .because("hidden files stay in its listings: directories of the file system do not tell types (d_type)")
            .with_hint("for ext4: tune2fs -O filetype; for xfs: mkfs.xfs -n ftype=1"));
    }
    Ok(OverlayTrial { escapes, mount: OwnedFd::from(inside) })
}

fn mount_overlay(place: &Dir, user_xattrs: bool, api: Api) -> Result<OwnedFd> {
    if api == Api::Legacy {
        let style: &[u8] = if user_xattrs { b"userxattr," } else { b"" };
        let data = [style, b"lowerdir=lower,upperdir=upper,workdir=work"].concat();
        return legacy::detached(place.as_fd(), legacy::Options { data: &data, flags: MsFlags::empty() });
    }
    let fs = FsContext::open("overlay", api)?;
    if user_xattrs {
        fs.set_flag("userxattr")?;
    }
    for (key, part) in [("lowerdir+", &b"lower"[..]), ("upperdir", b"upper"), ("workdir", b"work")] {
        fs.set_directory(key, place.child_path_fd(part)?.as_fd())?;
    }
    fs.mount(MountAttrFlags::empty())
}

pub(super) fn try_xattr(scratch: &Scratch, name: &[u8]) -> Result<()> {
    let file = scratch.dir.create_file(&scratch.name(), 0o600)?;
    xattr::set(&file, name, b"x")
}

pub(super) fn try_reflink(scratch: &Scratch) -> Result<()> {
    let mut from = scratch.dir.create_file(&scratch.name(), 0o600)?;
    let to = scratch.dir.create_file(&scratch.name(), 0o600)?;
    std::io::Write::write_all(&mut from, &[1; 8192]).map_err(|error| Error::io("write", error))?;
    rustix::fs::ioctl_ficlone(&to, &from).map_err(|errno| Error::io("ioctl FICLONE", errno))
}

pub(super) fn try_file_types(scratch: &Scratch) -> Result<bool> {
    let name = scratch.name();
    let place = scratch.dir.mkdir_open(&name, 0o700)?;
    place.mkdir(b"d", 0o700)?;
    let mut all = true;
    for entry in place.entries()? {
        all &= entry?.file_type == FileType::Directory;
    }
    Ok(all)
}

pub(super) fn try_whiteout(scratch: &Scratch) -> Result<()> {
    scratch.dir.mknod(&scratch.name(), FileType::CharacterDevice, 0, (0, 0))
}

pub(super) fn try_openat2(scratch: &Scratch) -> Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(scratch.dir(), c".", flags, Mode::empty(), ResolveFlags::IN_ROOT)
        .map(drop)
        .map_err(|errno| Error::io("openat2", errno))
}

/// Enters a user namespace in a child that does nothing else.
pub(super) fn try_user_namespace() -> Result<()> {
    NamespaceChild::start(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map(drop)
}

/// Maps owners of a mount of the directory, as root would for a container.
pub(super) fn try_id_mapped_mount(scratch: &Scratch) -> Result<()> {
    map_owners(clone_mount(scratch.dir())?, user_namespace(&trial_map())?)
}

/// Mounts an overlay whose layers show other owners, and has it make a file.
pub(super) fn try_id_mapped_overlay(scratch: &Scratch, user_xattrs: bool, api: Api) -> Result<()> {
    let place = scratch.dir.mkdir_open(&scratch.name(), 0o755)?;
    for part in [&b"lower"[..], b"upper", b"work"] {
        place.mkdir(part, 0o755)?;
    }
    let maps = trial_map();
    let clone = clone_mapped(&place, user_namespace(&maps)?)?;
    let (uid, gid) = (TRIAL_ROOT, TRIAL_ROOT);
    let mount = as_owner(uid, gid, || {
        with_mapped(clone, &place, api, |root| {
            let place = Dir::from_fd(inode::reopen(root)?);
            mount_overlay(&place, user_xattrs, api)
        })
    })?;
    if is_read_only(&mount)? {
        return Err(Error::new(ErrorKind::Unsupported, "mount overlay").because("the kernel mounts it read-only"));
    }
    let made = inode::stat(Root::from_fd(mount).dir()?)?;
    if (made.uid, made.gid) == (uid, gid) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, "mount overlay").because("it shows the owners of the disk"))
}

/// What root of a container is outside, for a trial.
const TRIAL_ROOT: u32 = 100_000;

fn trial_map() -> IdMaps {
    let one = || IdMap::new(vec![IdRange { inside: 0, outside: TRIAL_ROOT, count: 65_536 }]);
    IdMaps { uids: one(), gids: one() }
}

/// The name of the file system by its mount, or its number where the mount table is not to be had.
pub(crate) fn file_system(scratch: &Scratch) -> String {
    let number = || rustix::fs::fstatfs(scratch.dir()).map_or_else(|_| "unknown".to_owned(), |stat| format!("{:#x}", stat.f_type));
    // A mount that is attached nowhere stands in no table.
    mounted_as(scratch.dir()).unwrap_or_else(|| if is_overlay(scratch.dir()) { "overlay".to_owned() } else { number() })
}

fn is_overlay(dir: impl AsFd) -> bool {
    const OVERLAYFS_SUPER_MAGIC: u64 = 0x794c_7630;
    rustix::fs::fstatfs(dir).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(OVERLAYFS_SUPER_MAGIC))
}
