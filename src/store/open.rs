//! Opening a store, and making one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tracing::field::Empty;

use super::directories::{Home, LOCKS, TREES};
use super::{Inner, Store};
use crate::backend::probe::{self, Chosen, Means, Wanted};
use crate::backend::{Backend, check_shift};
use crate::content::Content;
use crate::durability::Durability;
use crate::error::{Error, ErrorKind, Result};
use crate::lock::Locks;
use crate::metadata::{DATABASE, Metadata, StoreRow};
use crate::mount::IdMap;
use crate::parallel::Parallelism;
use crate::span::verb;
use crate::sys::flock::Sharing;
use crate::sys::{Dir, network};
use crate::tar::Limits;
use crate::tree::Ids;

/// How a store keeps its trees.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum BackendChoice {
    /// What the store was made with; for a new one the best that works here, found out by trying.
    #[default]
    Auto,
    /// Kernel overlayfs.
    Overlay,
    /// Whole copies, reflinked where the file system can.
    Copy,
    /// One of somebody else's making. It must be given each time the store is opened.
    Custom(Arc<dyn Backend>),
}

/// What becomes of the blobs of an image's layers once they are unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlobPolicy {
    /// They are kept, byte for byte: an unchanged image is exported with the same manifest digest, and damaged trees can be mended.
    #[default]
    Keep,
    /// They go. The layers stay usable; `diff` and `export` make them anew from the trees, with other digests, and say so. A list of what
    /// each layer holds is kept, so that a full check can still judge its tree; but what it finds damaged has to be imported again. On the
    /// copy backend, which of an image makes the topmost tree alone, a blob stays until the tree of its layer was asked for and is made.
    Drop,
}

/// On which file systems a store is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileSystems {
    /// Where the kernel's locks hold for everybody who could write to the store.
    #[default]
    Safe,
    /// On any. Where other machines have the file system too, or locks exclude nobody, two processes can destroy the store: the caller
    /// sees to it that one alone uses it at a time.
    Any,
}

/// How a store is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreOptions {
    /// The store's directory. It is made, mode 0700, with those above it that are missing (0755 less the umask).
    pub root: PathBuf,
    /// How trees are kept; a store keeps the backend that it was made with. `Auto` by default.
    pub backend: BackendChoice,
    /// What becomes of owners outside the id map when layers are imported and snapshots made. `Exact` by default. An ordinary user
    /// outside a user namespace can own files as himself alone.
    pub ids: Ids,
    /// By which map owners are shifted on the disk; a store keeps the map that it was made with. None by default. See
    /// [`id_shift`](Self::id_shift).
    pub id_shift: Option<IdMap>,
    /// What a layer may ask for. Figures that no honest image meets by default.
    pub limits: Limits,
    /// What becomes of layers' blobs that were unpacked. Kept by default.
    pub blobs: BlobPolicy,
    /// On which file systems. Where it is safe by default: not on those of the network.
    pub file_systems: FileSystems,
    /// With how many threads a verb works. As many as there are processors by default.
    pub parallelism: Parallelism,
    /// What an import survives. A power cut by default.
    pub durability: Durability,
}

impl StoreOptions {
    /// A store in this directory, everything else as by default.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            backend: BackendChoice::Auto,
            ids: Ids::default(),
            id_shift: None,
            limits: Limits::default(),
            blobs: BlobPolicy::default(),
            file_systems: FileSystems::default(),
            parallelism: Parallelism::default(),
            durability: Durability::default(),
        }
    }

    /// With this backend.
    #[must_use]
    pub fn backend(mut self, backend: BackendChoice) -> Self {
        self.backend = backend;
        self
    }

    /// With so many threads.
    #[must_use]
    pub fn parallelism(mut self, parallelism: Parallelism) -> Self {
        self.parallelism = parallelism;
        self
    }

    /// With imports that survive this.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// With this policy for owners.
    #[must_use]
    pub fn ids(mut self, ids: Ids) -> Self {
        self.ids = ids;
        self
    }

    /// With trees whose owners are on the disk what this map makes of the container's, for containers in a user namespace with that map on
    /// file systems that cannot show other owners than they have. Where they can (`plywood doctor` says so), mount with the map instead
    /// ([`PrepareOptions::id_map`](super::PrepareOptions::id_map)): then containers with different maps share one copy.
    ///
    /// It is the copy backend alone that shifts, and a store has one map, from its creation on; it is opened with the same or with none
    /// said. Whatever is told of a tree, and every layer that comes out of it, has the container's ids; so have the users and groups in
    /// ACLs, and a file capability is for the container's root. An id without a place in the map is `IdNotMapped`, with the path;
    /// with [`Ids::Squash`] such an owner becomes the container's root, and what else names such an id is left out, both reported.
    ///
    /// ```
    /// # let directory = plywood::testing::temporary_directory()?;
    /// # let root = directory.path().join("store");
    /// use plywood::store::{Store, StoreOptions};
    ///
    /// match Store::open_with(&StoreOptions::new(root).id_shift("0:100000:65536".parse()?)) {
    ///     Ok(store) => assert_eq!(store.id_shift().map(ToString::to_string).as_deref(), Some("0:100000:65536")),
    ///     // Only who may give files away can make one.
    ///     Err(error) => assert_eq!(error.kind(), plywood::ErrorKind::IdNotMapped),
    /// }
    /// # Ok::<_, plywood::Error>(())
    /// ```
    #[must_use]
    pub fn id_shift(mut self, map: IdMap) -> Self {
        self.id_shift = Some(map);
        self
    }

    /// With this policy for the blobs of layers.
    #[must_use]
    pub fn blobs(mut self, blobs: BlobPolicy) -> Self {
        self.blobs = blobs;
        self
    }

    /// On these file systems.
    #[must_use]
    pub fn file_systems(mut self, file_systems: FileSystems) -> Self {
        self.file_systems = file_systems;
        self
    }

    /// With these limits on layers.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl Store {
    /// Opens the store in a directory, or makes one there, with everything as by default.
    ///
    /// ```no_run
    /// let store = plywood::store::Store::open("/var/lib/plywood")?;
    /// println!("{}: {}", store.backend().name(), store.backend_reason());
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        Self::open_with(&StoreOptions::new(root))
    }

    /// Opens the store in a directory, or makes one there. Clears away what processes that died left behind. When making one fails,
    /// nothing is left.
    ///
    /// A store that is there and cannot be written, because its file system is read-only or its directory is closed to this process, is
    /// opened for reading: see [`read_only_reason`](Self::read_only_reason). Nothing is cleared away then.
    ///
    /// ```
    /// # let directory = plywood::testing::temporary_directory()?;
    /// # let root = directory.path().join("store");
    /// use plywood::store::{BackendChoice, Store, StoreOptions};
    ///
    /// let store = Store::open_with(&StoreOptions::new(root).backend(BackendChoice::Copy))?;
    /// assert_eq!(store.backend().name(), "copy");
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `PermissionDenied` for a directory that cannot be written, and for a store that belongs to another user, whoever asks;
    /// `Unsupported` where the file system or the system cannot do what the backend needs, or the file system is one that no store is
    /// [safe](FileSystems) on; `InvalidArgument` for a directory that is used for something else, and for another backend or id map than the
    /// store was made with; `IdNotMapped` where this process cannot give files to the ids of its map; `IncompatibleFormat` for a store that a later version wrote; `Corrupt`, `NoSpace`, `Io`.
    pub fn open_with(options: &StoreOptions) -> Result<Self> {
        verb!("open", store = %options.root.display(), backend = Empty).run(|span| {
            let store = Self::open_now(options)?;
            span.record("backend", store.backend().name());
            Ok(store)
        })
    }

    fn open_now(options: &StoreOptions) -> Result<Self> {
        let path = std::path::absolute(&options.root).map_err(|error| Error::io("open store", error).at(&options.root))?;
        let mut sharing = Sharing::Shared;
        loop {
            let home = Home::open(&path, sharing)?;
            match open_in(home, &path, options)? {
                Some(store) if store.read_only_reason().is_some() => return Ok(store),
                Some(store) => {
                    store.with_reserve(|| store.recover())?;
                    store.keep_reserve();
                    return Ok(store);
                }
                // A crash left a store that is not yet one: it is made anew, by whoever has it alone.
                None => sharing = Sharing::Exclusive,
            }
        }
    }
}

fn open_in(home: Home, path: &Path, options: &StoreOptions) -> Result<Option<Store>> {
    if options.file_systems == FileSystems::Safe
        && let Err(error) = check_file_system(&home, path)
    {
        if home.alone {
            home.take_back();
        }
        return Err(error);
    }
    if home.root.stat(DATABASE.as_bytes())?.is_some() {
        let (root, locks) = (home.root.try_clone()?, home.directory(LOCKS)?);
        let metadata = match home.read_only {
            Some(read_only) => Metadata::open_read_only(root, path, locks, read_only)?,
            None => Metadata::open(root, path, locks)?,
        };
        if metadata.is_made()? {
            let row = metadata.read()?.store()?;
            let found = Found::again(options, &row, path, home.directory(TREES)?)?;
            if let (Some(map), None) = (found.backend.id_shift(), &home.read_only) {
                check_shift(map).map_err(|error| error.at(path))?;
            }
            return assemble(&home, path, options, metadata, found).map(Some);
        }
        if !home.alone {
            metadata.refuse_read_only("open store").map_err(|error| error.at(path))?;
            return Ok(None);
        }
    }
    match make(&home, path, options) {
        Ok(store) => Ok(Some(store)),
        Err(error) => {
            home.take_back();
            Err(error.at(path))
        }
    }
}

/// Refuses a file system on which the locks of one process say nothing to another.
fn check_file_system(home: &Home, path: &Path) -> Result<()> {
    let refused = |reason: String| {
        Error::new(ErrorKind::Unsupported, "open store")
            .at(path)
            .because(reason)
            .with_hint("put the store on a disk of this machine; where one process alone will ever use it: --any-file-system")
    };
    if let Some(name) = network::shared_between_machines(&home.root) {
        return Err(refused(format!("other machines may have the file system ({name}) too, and no lock tells them of each other")));
    }
    if !home.excludes()? {
        return Err(refused("the file system grants a lock twice".to_owned()));
    }
    Ok(())
}

/// Makes a store in a directory that is held alone. The backend is found before there is a database: most of what can fail does so
/// there.
fn make(home: &Home, path: &Path, options: &StoreOptions) -> Result<Store> {
    let found = Found::make(options, path, home.directory(TREES)?)?;
    let row = StoreRow {
        backend: found.backend.name().to_owned(),
        style: found.style.clone(),
        created_by: concat!("plywood ", env!("CARGO_PKG_VERSION")).to_owned(),
        // None yet: trees that are here without a database, which may be containers' data, are looked for at once.
        boot: String::new(),
    };
    let metadata = Metadata::open(home.root.try_clone()?, path, home.directory(LOCKS)?)?;
    metadata.make(&row)?;
    let store = assemble(home, path, options, metadata, found)?;
    home.root.sync()?;
    Ok(store)
}

fn assemble(home: &Home, path: &Path, options: &StoreOptions, metadata: Metadata, found: Found) -> Result<Store> {
    let inner = Inner {
        path: path.to_owned(),
        root: home.root.try_clone()?,
        locks: Locks::new(home.directory(LOCKS)?),
        metadata,
        content: Content::open(&home.root)?,
        backend: found.backend,
        reason: found.reason,
        ids: options.ids,
        limits: options.limits.clone(),
        parallelism: options.parallelism,
        durability: options.durability,
        blobs: options.blobs,
        session: Mutex::default(),
        mapped: Mutex::default(),
    };
    Ok(Store { inner: Arc::new(inner) })
}

/// A backend, and why.
struct Found {
    backend: Arc<dyn Backend>,
    style: String,
    reason: String,
}

impl Found {
    /// For a new store.
    fn make(options: &StoreOptions, path: &Path, trees: Dir) -> Result<Self> {
        if let Some(map) = &options.id_shift {
            check_shift(map)?;
        }
        let wanted = match &options.backend {
            BackendChoice::Custom(backend) => {
                let found = Self::custom(backend);
                return check_map(options, &found, path).map(|()| found);
            }
            BackendChoice::Auto => Wanted::Auto,
            BackendChoice::Overlay => Wanted::Overlay,
            BackendChoice::Copy => Wanted::Copy,
        };
        probe::choose(wanted, means(options, &path.join(TREES), trees), options.id_shift.as_ref()).map(Self::from)
    }

    /// For a store that is there.
    fn again(options: &StoreOptions, row: &StoreRow, path: &Path, trees: Dir) -> Result<Self> {
        let choice = &options.backend;
        let named = match choice {
            BackendChoice::Auto => row.backend.as_str(),
            BackendChoice::Overlay => "overlay",
            BackendChoice::Copy => "copy",
            BackendChoice::Custom(backend) => backend.name(),
        };
        if named != row.backend {
            return Err(Error::new(ErrorKind::InvalidArgument, "open store")
                .at(path)
                .because(format!("the store was made with the {} backend, not with {named}", row.backend))
                .with_hint("leave the choice of the backend out, or use another directory"));
        }
        let found = match choice {
            BackendChoice::Custom(backend) => Self::custom(backend),
            _ => probe::reopen(&row.backend, &row.style, means(options, &path.join(TREES), trees)).map(Self::from)?,
        };
        if !probe::shifts_as(&row.style, found.backend.as_ref()) {
            return Err(Error::new(ErrorKind::InvalidArgument, "open store")
                .at(path)
                .because("the store shifts owners, and the backend does not")
                .with_hint("leave the choice of the backend out"));
        }
        check_map(options, &found, path).map(|()| found)
    }

    fn custom(backend: &Arc<dyn Backend>) -> Self {
        Self { backend: Arc::clone(backend), style: String::new(), reason: "the caller brought it".to_owned() }
    }
}

impl From<Chosen> for Found {
    fn from(Chosen { backend, style, reason }: Chosen) -> Self {
        Self { backend, style, reason }
    }
}

const fn means<'a>(options: &StoreOptions, path: &'a Path, trees: Dir) -> Means<'a> {
    Means { path, trees, parallelism: options.parallelism, ids: options.ids }
}

/// Refuses a map that is not the backend's.
fn check_map(options: &StoreOptions, found: &Found, path: &Path) -> Result<()> {
    let reason = match (&options.id_shift, found.backend.id_shift()) {
        (None, _) => return Ok(()),
        (Some(wanted), Some(map)) if wanted == map => return Ok(()),
        (Some(wanted), Some(map)) => format!("the store shifts owners by the id map {map}, not by {wanted}"),
        (Some(wanted), None) => format!("the store does not shift owners, and so not by the id map {wanted}"),
    };
    let error = Error::new(ErrorKind::InvalidArgument, "open store").at(path).because(reason);
    Err(error.with_hint("leave the id map out, or use another directory: what is on the disk has one map"))
}
