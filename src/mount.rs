//! [`Mount`]: what to mount, as a value; [`Mounted`] and [`Detached`]: a mount that is there, as a guard.
//!
//! A `Mount` does nothing by itself. It can be attached here, or rendered for another client ([`Mount::options`], [`Mount::to_mount2`],
//! [`Mount::to_oci`]). It holds the store's directory of trees by descriptor beside its absolute path: attaching resolves names below
//! that descriptor, without following any symlink; rendering uses the path.
//!
//! Invariant: overlay mounts always say `redirect_dir=nofollow,metacopy=off,index=off`, because kernels are built with other defaults
//! and layers are hostile. Their layers go to the kernel one by one, never as a string that could be cut off.

mod claim;
mod guard;
mod id_map;
mod options;
mod render;
mod volatile;

pub use guard::{Detached, Mounted, unmount};
pub use id_map::{IdMap, IdRange};
pub use options::{MountOptions, Xino};
pub use render::Mount2;
pub(crate) use render::mappings;
pub(crate) use volatile::was_volatile;

use std::collections::HashSet;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::MsFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::entry::Attributes;
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::span::verb;
use crate::sys::mount::mapped::{as_owner, clone_mapped, with_mapped};
use crate::sys::mount::{self as kernel, Api, FsContext, legacy};
use crate::sys::{Dir, Root, inode, xattr};
use crate::tree::Access;
use crate::whiteout::XattrStyle;

/// How many lowerdirs overlayfs takes (`OVL_MAX_STACK`).
pub const LOWERS_MAX: usize = 500;

/// Options that every overlay mount has, with the value that no hostile layer profits from.
const ALWAYS: [(&str, &str); 3] = [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")];

/// How a layer's directory is held.
const HELD: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The directory below which a mount's directories stand, by descriptor and by path. Cheap to clone.
#[derive(Clone)]
pub struct Base(Arc<BaseInner>);

struct BaseInner {
    path: PathBuf,
    root: Root,
}

impl Base {
    /// Opens a directory. It must be in this mount namespace, or nothing below it can be mounted.
    ///
    /// # Errors
    /// `InvalidArgument` for a relative path; `NotFound`, `PermissionDenied`, `Io`.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let dir = Dir::open(&path)?;
        Self::new(path, dir)
    }

    /// Takes a directory that is held already, and its absolute path.
    ///
    /// # Errors
    /// `InvalidArgument` for a relative path.
    pub(crate) fn new(path: PathBuf, dir: Dir) -> Result<Self> {
        if !path.is_absolute() {
            return Err(Error::new(ErrorKind::InvalidArgument, "mount").at(path).because("the path must be absolute"));
        }
        Ok(Self(Arc::new(BaseInner { path, root: Root::new(dir) })))
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    pub(crate) fn root(&self) -> &Root {
        &self.0.root
    }

    /// Opens the directory that stands literally at `name`.
    pub(crate) fn dir(&self, name: &EntryPath) -> Result<Dir> {
        self.0.root.literal_dir(name)?.ok_or_else(|| self.missing(name))
    }

    /// Holds the directory that stands literally at `name`, without opening it for reading.
    fn hold(&self, name: &EntryPath) -> Result<OwnedFd> {
        self.0.root.open_literal(name, HELD)?.ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &EntryPath) -> Error {
        Error::new(ErrorKind::NotFound, "open tree").at(self.0.path.join(name))
    }
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Base").field(&self.0.path).finish()
    }
}

/// The writable layer of an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upper {
    /// Where changes go.
    pub upper: EntryPath,
    /// overlayfs's own, beside it on the same file system; emptied before each mount.
    pub work: EntryPath,
}

/// What to mount. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Mount {
    base: Base,
    what: What,
    options: MountOptions,
    id_map: Option<IdMap>,
    /// With which map the owners on the disk were shifted already.
    shift: Option<IdMap>,
    /// What the root directory is, where no directory of the base says it.
    root: Option<Attributes>,
    /// Whether the writable directory is never mounted with another workdir than this one.
    own_work: bool,
    api: Option<Api>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Overlay { style: XattrStyle, lowers: Vec<EntryPath>, upper: Option<Upper> },
    Bind { source: EntryPath, access: Access },
}

impl Mount {
    /// An overlay of these directories, the topmost first; read-only without an upper one.
    ///
    /// # Errors
    /// `LimitExceeded` for more than [`LOWERS_MAX`] lower directories. `InvalidArgument` for what overlayfs does not take: no lower
    /// directory, a single one without an upper, the same one twice.
    pub fn overlay(base: Base, style: XattrStyle, lowers: Vec<EntryPath>, upper: Option<Upper>) -> Result<Self> {
        let mount = Self::of(base, What::Overlay { style, lowers, upper });
        mount.check_lowers()?;
        Ok(mount)
    }

    fn of(base: Base, what: What) -> Self {
        Self { base, what, options: MountOptions::new(), id_map: None, shift: None, root: None, own_work: false, api: None }
    }

    fn check_lowers(&self) -> Result<()> {
        let What::Overlay { lowers, upper, .. } = &self.what else { return Ok(()) };
        let refuse = |kind, reason: String| Err(Error::new(kind, "mount overlay").at(self.base.path()).because(reason));
        let own = usize::from(self.root.is_some());
        let least = if upper.is_some() { 1 } else { 2 };
        let count = lowers.len().saturating_add(own);
        if count < least && own == 0 {
            return refuse(ErrorKind::InvalidArgument, format!("overlayfs needs {least} lower directories here, not {count}"));
        }
        if count > LOWERS_MAX {
            return refuse(
                ErrorKind::LimitExceeded,
                format!("the overlay has {count} lower directories, and the kernel takes {LOWERS_MAX}"),
            );
        }
        let mut seen = HashSet::with_capacity(lowers.len());
        if let Some(twice) = lowers.iter().find(|lower| !seen.insert(*lower)) {
            return refuse(ErrorKind::InvalidArgument, format!("the lower directory {twice} stands there twice"));
        }
        Ok(())
    }

    /// A read-only overlay of these directories, the topmost first, below a root directory with these attributes that is in memory. That
    /// takes Linux 6.15, and a process that attaches it itself.
    ///
    /// # Errors
    /// `LimitExceeded` for as many lower directories as [`LOWERS_MAX`]; `InvalidArgument` for the same one twice.
    pub(crate) fn overlay_with_root(base: Base, style: XattrStyle, lowers: Vec<EntryPath>, root: Attributes) -> Result<Self> {
        let mount = Self { root: Some(root), ..Self::of(base, What::Overlay { style, lowers, upper: None }) };
        mount.check_lowers()?;
        Ok(mount)
    }

    /// A second view of one directory.
    pub fn bind(base: Base, source: EntryPath, access: Access) -> Self {
        Self::of(base, What::Bind { source, access })
    }

    /// The same with these options, instead of those that it had. Where they have no id map, it keeps its own.
    ///
    /// # Errors
    /// `InvalidArgument` for an option that could break the layer contract ([`MountOptions::check`]); `Unsupported` for one of overlayfs's
    /// where this is none.
    pub fn with_options(self, options: &MountOptions) -> Result<Self> {
        options.check()?;
        if let (What::Bind { .. }, Some(key)) = (&self.what, options.overlay_only()) {
            return Err(Error::new(ErrorKind::Unsupported, "mount")
                .at(self.place())
                .because(format!("the option {key} is overlayfs's, and this is a bind mount (of the copy backend)")));
        }
        Self { options: options.clone(), ..self }.with_id_map(options.id_map.clone())
    }

    /// The same, with owners shown through this map. Where they are on the disk as this very map has them, nothing is left to be shown.
    ///
    /// # Errors
    /// `Unsupported` where another map has been applied on the disk.
    pub(crate) fn with_id_map(self, id_map: Option<IdMap>) -> Result<Self> {
        match (&id_map, &self.shift) {
            (Some(map), Some(shift)) if map == shift => Ok(self),
            (Some(map), Some(shift)) => Err(Error::new(ErrorKind::Unsupported, "mount")
                .at(self.place())
                .because(format!(
                    "on the disk owners are shifted by the store's id map {shift}, and cannot be shown through {map} as well"
                ))
                .with_hint("leave the id map out; for containers with different maps make a store without one")),
            _ => Ok(Self { id_map: id_map.or(self.id_map), ..self }),
        }
    }

    /// The same, of a directory whose owners are on the disk as this map has them.
    #[must_use]
    pub(crate) fn shifted_by(self, map: IdMap) -> Self {
        Self { shift: Some(map), ..self }
    }

    /// Which owners it shows for those on the disk; `None` for the same.
    pub fn id_map(&self) -> Option<&IdMap> {
        self.id_map.as_ref()
    }

    /// The same of a writable directory that is never mounted with another workdir.
    #[must_use]
    pub(crate) fn with_own_work(self) -> Self {
        Self { own_work: true, ..self }
    }

    /// The same mount by way of a certain kernel interface.
    #[must_use]
    pub(crate) fn with_api(self, api: Api) -> Self {
        Self { api: Some(api), ..self }
    }

    /// Whether writes are possible.
    pub fn access(&self) -> Access {
        match &self.what {
            _ if self.options.read_only => Access::ReadOnly,
            What::Overlay { upper: Some(_), .. } => Access::ReadWrite,
            What::Overlay { upper: None, .. } => Access::ReadOnly,
            What::Bind { access, .. } => *access,
        }
    }

    /// Mounts it on a directory; the guard unmounts it. `target` is resolved as every path of the caller's process is.
    ///
    /// # Errors
    /// `InUse` where the writable directory is mounted already, here or in another namespace; `NotFound`, `PermissionDenied`,
    /// `Unsupported`, `Io`, with the kernel's reason.
    pub fn attach(&self, target: impl AsRef<Path>) -> Result<Mounted> {
        let target = target.as_ref();
        let verb = verb!("mount", source = %self.place().display(), target = %target.display());
        verb.run(|_| guard::attach(self, &guard::open_target(target)?, target))
    }

    /// Mounts it on a directory that is found below `root`, as a process with `root` as its root directory would find it.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_at(&self, root: impl AsFd, target: impl AsRef<Path>) -> Result<Mounted> {
        let target = target.as_ref();
        let verb = verb!("mount", source = %self.place().display(), target = %target.display());
        verb.run(|_| guard::attach(self, &guard::open_target_at(root.as_fd(), target)?, target))
    }

    /// Makes the mount, attached nowhere: it is gone with its last descriptor.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn detached(&self) -> Result<Detached> {
        verb!("mount", source = %self.place().display()).run(|_| self.make())
    }

    fn make(&self) -> Result<Detached> {
        let claim = self.claim()?;
        let mount = match &self.what {
            What::Overlay { style, lowers, upper } => self.make_overlay(*style, lowers, upper.as_ref())?,
            What::Bind { source, .. } => {
                let mount = match &self.id_map {
                    None => kernel::clone_mount(self.base.hold(source)?)?,
                    Some(map) => clone_mapped(self.base.hold(source)?, map.namespace()?).map_err(|error| error.at(self.place()))?,
                };
                // What a container mounts in its root is no part of the tree.
                kernel::isolate(&mount)?;
                kernel::restrict(&mount, self.attributes())?;
                mount
            }
        };
        self.check_access(mount.as_fd())?;
        Ok(Detached::new(mount, self.kept(claim)))
    }

    fn api(&self) -> Api {
        self.api.unwrap_or_else(|| Api::probe(self.base.root()))
    }

    fn attributes(&self) -> MountAttrFlags {
        let attributes = self.options.attributes();
        if self.access() == Access::ReadOnly { attributes | MountAttrFlags::MOUNT_ATTR_RDONLY } else { attributes }
    }

    fn ms_flags(&self) -> MsFlags {
        let flags = self.options.ms_flags();
        if self.access() == Access::ReadOnly { flags | MsFlags::MS_RDONLY } else { flags }
    }

    fn make_overlay(&self, style: XattrStyle, lowers: &[EntryPath], upper: Option<&Upper>) -> Result<OwnedFd> {
        self.prepare_work(upper)?;
        let api = self.api();
        let make = |base: BorrowedFd<'_>| self.make_overlay_in(base, api, (style, lowers, upper));
        let mount = match &self.id_map {
            None => make(self.base.root().as_fd())?,
            Some(map) => self.make_mapped(map, api, make)?,
        };
        self.settle_work(upper)?;
        Ok(mount)
    }

    /// Has `make` make an overlay of directories whose owners are mapped, as the root of that map.
    fn make_mapped(
        &self,
        map: &IdMap,
        api: Api,
        make: impl Fn(BorrowedFd<'_>) -> Result<OwnedFd> + Send + Sync,
    ) -> Result<OwnedFd> {
        let base = self.base.root();
        // One clone for all layers: overlayfs wants upper and work on one mount.
        let clone = clone_mapped(base, map.namespace()?).map_err(|error| error.at(self.base.path()))?;
        let Some((uid, gid)) = map.to_host(0, 0) else {
            return Err(Error::new(ErrorKind::InvalidArgument, "mount").because("the id map has no root"));
        };
        as_owner(uid, gid, || with_mapped(clone, base, api, make))
    }

    /// Makes an overlay of directories below `base`.
    fn make_overlay_in(
        &self,
        base: BorrowedFd<'_>,
        api: Api,
        (style, lowers, upper): (XattrStyle, &[EntryPath], Option<&Upper>),
    ) -> Result<OwnedFd> {
        if self.root.is_some() && api != Api::Descriptors {
            return Err(Error::new(ErrorKind::Unsupported, "mount")
                .at(self.base.path())
                .because("overlayfs takes no directory in memory as a layer before Linux 6.15")
                .with_hint("make a view, in a store that can be written"));
        }
        if api == Api::Legacy {
            let data = self.page(style, lowers, upper);
            return legacy::detached(base, legacy::Options { data: &data, flags: self.ms_flags() });
        }
        let fs = FsContext::open("overlay", api)?;
        // Held until the overlay is made: they go with their descriptors. The second is there where overlayfs would have but one layer.
        let count = if lowers.is_empty() { 2 } else { 1 };
        let roots = self.root.iter().cycle().take(count).map(|root| root_in_memory(root, style)).collect::<Result<Vec<_>>>()?;
        for root in &roots {
            fs.set_directory("lowerdir+", root.as_fd())?;
        }
        self.describe_layers(&fs, base, (style, lowers), upper.map(|upper| (&upper.upper, &upper.work)))?;
        for (key, value) in ALWAYS {
            fs.set_string(key, value)?;
        }
        for (key, value) in self.options.of_overlay(upper.is_some()) {
            let set = value.map_or_else(|| fs.set_flag(key), |value| fs.set_string(key, value));
            set.map_err(|error| self.not_here(key, error))?;
        }
        fs.mount(self.attributes()).map_err(|error| error.at(self.place()))
    }

    fn describe_layers(
        &self,
        fs: &FsContext,
        base: BorrowedFd<'_>,
        (style, lowers): (XattrStyle, &[EntryPath]),
        upper: Option<(&EntryPath, &EntryPath)>,
    ) -> Result<()> {
        fs.set_string("source", "overlay")?;
        if style == XattrStyle::User {
            fs.set_flag("userxattr")?;
        }
        let base = Root::from_fd(base.try_clone_to_owned().map_err(|error| Error::io("dup", error))?);
        // One at a time: a chain may be longer than the descriptors that a process may hold.
        let set = |key, name: &EntryPath| {
            let held = base.open_literal(name, HELD)?.ok_or_else(|| self.base.missing(name))?;
            fs.set_directory(key, held.as_fd()).map_err(|error| error.at(self.base.path().join(name)))
        };
        for lower in lowers {
            set("lowerdir+", lower)?;
        }
        if let Some((upper, work)) = upper {
            set("upperdir", upper)?;
            set("workdir", work)?;
        }
        Ok(())
    }

    /// An option that this kernel does not take.
    fn not_here(&self, key: &str, error: Error) -> Error {
        match error.raw_os_error() {
            Some(libc::EINVAL) => Error::new(ErrorKind::Unsupported, "mount")
                .at(self.place())
                .because(format!("this kernel does not take the option {key}"))
                .with_source(error),
            _ => error.at(self.place()),
        }
    }

    /// What a crashed kernel left in the workdir can keep overlayfs from using it, and then the mount is read-only without a word. What
    /// an earlier mount left out of syncs is made up for first.
    fn prepare_work(&self, upper: Option<&Upper>) -> Result<()> {
        let Some(upper) = upper else { return Ok(()) };
        let work = self.base.dir(&upper.work)?;
        if volatile::was_volatile(&work).map_err(|error| error.at(self.place()))? {
            volatile::make_durable(&work)?;
        }
        work.clear()?;
        if self.options.volatile { volatile::note(&work) } else { Ok(()) }
    }

    /// After the mount, before anything is written to it.
    fn settle_work(&self, upper: Option<&Upper>) -> Result<()> {
        match upper {
            Some(upper) if self.options.volatile => volatile::settle(&self.base.dir(&upper.work)?),
            _ => Ok(()),
        }
    }

    /// Before somebody else mounts it.
    fn note_volatile(&self) -> Result<()> {
        match &self.what {
            What::Overlay { upper: Some(upper), .. } if self.options.volatile => {
                let work = self.base.dir(&upper.work)?;
                // Over the mark of an earlier boot it would say that all is well.
                volatile::was_volatile(&work).map_err(|error| error.at(self.place()))?;
                volatile::note(&work)
            }
            _ => Ok(()),
        }
    }

    fn check_access(&self, mount: BorrowedFd<'_>) -> Result<()> {
        if self.access() == Access::ReadWrite && kernel::is_read_only(mount)? {
            return Err(Error::new(ErrorKind::Unsupported, "mount")
                .at(self.place())
                .because(
                    "the kernel can only mount it read-only: its file system is read-only or cannot serve as overlayfs's workdir",
                )
                .with_source(std::io::Error::from(Errno::ROFS)));
        }
        Ok(())
    }

    /// What errors are about: the writable directory, or the topmost one.
    fn place(&self) -> PathBuf {
        let name = match &self.what {
            What::Overlay { upper: Some(upper), .. } => Some(&upper.upper),
            What::Overlay { lowers, .. } => lowers.first(),
            What::Bind { source, .. } => Some(source),
        };
        name.map_or_else(|| self.base.path().to_owned(), |name| self.base.path().join(name))
    }
}

/// A directory with these attributes, on a file system in memory that is mounted nowhere and goes with whoever uses it.
fn root_in_memory(attributes: &Attributes, style: XattrStyle) -> Result<OwnedFd> {
    let fs = FsContext::open("tmpfs", Api::Descriptors)?;
    for (key, value) in [("mode", "0755"), ("size", "64k"), ("nr_inodes", "8")] {
        fs.set_string(key, value)?;
    }
    let mount = fs.mount(MountAttrFlags::empty())?;
    let dir = Root::from_fd(mount.try_clone().map_err(|error| Error::io("dup", error))?).dir()?;
    inode::set_owner(&dir, attributes.uid, attributes.gid)?;
    inode::set_mode(&dir, attributes.mode)?;
    // ACLs and capabilities last: they follow from the owner and change the mode.
    let is_last = |name: &[u8]| name.starts_with(b"system.") || name == b"security.capability";
    let (last, first): (Vec<_>, Vec<_>) = attributes.xattrs.iter().partition(|(name, _)| is_last(name));
    for (name, value) in first.into_iter().chain(last) {
        xattr::set(&dir, &style.escape(name), value)?;
    }
    inode::set_times(&dir, attributes.mtime, attributes.mtime)?;
    Ok(mount)
}

#[cfg(test)]
mod tests;
