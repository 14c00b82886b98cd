//! [`Store`]: image layers in, root file systems out, changes back as layers. One verb per file.
//!
//! Facade verbs take keys and names, never handles: an Active snapshot outlives the process that made it. The store orders what the
//! tiers below do: bytes are durable before the row that names them, rows die before their bytes, and no lock or transaction is held
//! while layers are unpacked, hashed or deleted.
//!
//! # Spans
//!
//! A verb that changes something or reads trees is a span of `tracing`, with the target `plywood` and the level `INFO`; what only reads
//! rows ([`Store::stat`], [`Store::walk`], [`Store::images`]…) is none. Without a subscriber that wants it no field is rendered and no clock
//! is read. Threads of a verb work within its span. What is worth a word meanwhile is an event in it.
//!
//! | span | of | fields |
//! |---|---|---|
//! | `open` | [`Store::open_with`] | `store`, `backend` |
//! | `import` | [`Store::import`] | `reference`, `digest`, `chain_id`, `layers`, `unpacked`, `bytes`, `entries` |
//! | `layer` | each layer of an `import`, as it arrives | `digest`, `diff_id`, `chain_id`, `bytes`, `entries` |
//! | `pull` | [`Pull::finish`] | `reference`, `digest`, `layers`, `unpacked` |
//! | `import layer` | [`Store::import_layer`] | `parent`, `chain_id`, `diff_id`, `existed`, `bytes`, `entries` |
//! | `prepare` | [`Store::prepare`] | `key`, `parent` |
//! | `view` | [`Store::view`] | `key`, `parent` |
//! | `make tree` | one that an import left unmade, within the verb that asks for it | `tree`, `layers`, `bytes`, `entries` |
//! | `mounts` | [`Store::mounts`] | `key` |
//! | `mount committed` | [`Store::mount_committed`] | `name` |
//! | `mount` | [`Mount::attach`](crate::mount::Mount::attach), [`detached`](crate::mount::Mount::detached) | `source`, `target` |
//! | `attach` | [`Detached::attach`](crate::mount::Detached::attach) | `target` |
//! | `unmount` | [`unmount`](crate::mount::unmount), [`Mounted::close`](crate::mount::Mounted::close), dropping it | `target` |
//! | `apply` | [`Store::apply`] | `key`, `diff_id`, `bytes`, `entries` |
//! | `commit` | [`Store::commit`] | `key`, `name`, `bytes`, `entries` |
//! | `changes` | [`Store::changes`] | `key`, `bytes`, `entries` |
//! | `diff` | [`Store::diff`] | `key`, `digest`, `diff_id`, `size`, `bytes`, `entries` |
//! | `export` | [`Store::export`] | `key`, `target`, `digest`, `bytes`, `entries` |
//! | `remove` | [`Store::remove`] | `key` |
//! | `update` | [`Store::update`] | `key` |
//! | `tag` | [`Store::tag`] | `reference`, `new` |
//! | `untag` | [`Store::untag`] | `reference` |
//! | `usage` | [`Store::usage`] | `key`, `bytes`, `entries` |
//! | `stats` | [`Store::stats`] | none |
//! | `measure stats` | [`Store::measure_stats`] | `bytes`, `entries` |
//! | `disk usage` | [`Store::disk_usage`] | none |
//! | `explain` | [`Store::explain`] | `path`, `key` |
//! | `gc` | [`Store::gc`] | `dry_run`, `snapshots`, `blobs`, `blob_bytes`, `trees`, `tree_bytes` |
//! | `empty trash` | [`Store::empty_trash`] | `trees`, `tree_bytes` |
//! | `check` | [`Store::check`] | `full`, `repair`, `findings`, `bytes`, `entries` |
//! | `repair` | each tree that a `check` makes anew | `chain_id`, `digest`, `tree` |
//! | `add lease` | [`Store::add_lease`] | `lease` |
//! | `remove lease` | [`Store::remove_lease`] | `lease` |
//!
//! All have `duration`, in seconds, and where they fail `error`, the [`ErrorKind`]'s name. What is found out on the way is recorded at the
//! end. `key` is any key or name; `parent` a name, of an imported layer its chain id. `digest` is a blob's: of `import`, `pull` and
//! `export` the manifest's, else the layer's. `bytes` and `entries` are what [`Progress`](crate::progress::Progress) is told: bytes read
//! and entries handled; of `commit`, `usage` and `measure stats` allocated bytes and inodes of trees. `size` is that of the layer as it was
//! written. A layer that comes by a pipe is unpacked before its image is known: that counts for the `import`, not for the `layer`.

mod ahead;
mod apply;
mod archive;
mod capabilities;
mod changes;
mod check;
mod commit;
mod diff;
mod directories;
mod disk_usage;
mod docker_archive;
mod early;
mod explain;
mod export;
mod extent;
mod fill;
mod gc;
mod growing;
mod image;
mod import;
mod intake;
mod layer;
mod layer_reader;
mod layout;
mod layout_writer;
mod lease;
mod leases;
#[cfg(feature = "containerd")]
mod locate;
mod make;
mod mounts;
mod open;
mod orphans;
mod parent;
mod passing_layer;
mod pipe;
mod prepare;
mod pull;
mod read;
mod recover;
mod remove;
mod reserve;
mod resolve;
mod select;
mod source;
mod stack;
mod stat;
mod stats;
mod supply;
#[cfg(test)]
mod tests;
mod tree_manifest;
mod update;
mod usage;
mod user;
mod walk;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use apply::{ApplyOptions, ApplyOutcome};
pub use changes::Changed;
pub use check::{CheckOptions, CheckOutcome, Damage, Finding, Remedy};
pub use commit::CommitOptions;
pub use diff::{DiffOptions, DiffOutcome};
pub use disk_usage::{DiskUsage, Held, ImageUsage};
pub use explain::{Effect, Explanation, LayerEffect};
pub use export::{ExportOptions, Exported, Remade};
pub use gc::{GcOptions, GcOutcome, LostTree};
#[cfg(feature = "containerd")]
pub(crate) use image::document::layer_compression;
#[cfg(feature = "cli")]
pub(crate) use image::rfc3339;
pub use image::{Image, ImageConfig, Layer, Platform, RuntimeOptions};
pub use import::{ImportOptions, Imported};
pub use layer::{ImportLayerOptions, ImportedLayer, LayerSource};
pub use leases::{LeaseInfo, LeaseOptions};
pub use open::{BackendChoice, BlobPolicy, FileSystems, StoreOptions};
pub use prepare::PrepareOptions;
pub use pull::{ImageIndex, ImageManifest, Missing, Pull, PullIngest, PullOptions, Pulled};
pub use read::{FileInfo, FileKind, OpenRoot};
pub use source::ImageSource;
pub use stats::{Measured, SnapshotCounts, Stats, TrashCounts, TreeCounts};
pub use update::LabelUpdate;
pub use user::User;
pub use walk::Filter;

use crate::backend::Backend;
use crate::content::Content;
use crate::durability::Durability;
use crate::error::{Error, ErrorKind, Result};
use crate::lock::Locks;
use crate::metadata::Metadata;
use crate::mount::IdMap;
use crate::parallel::Parallelism;
use crate::sys::Dir;
use crate::sys::ids::IdMaps;
use crate::tar::Limits;
use crate::tree::{Ids, TreeId};

use lease::Session;

/// A store of layers and snapshots in one directory.
///
/// Cheap to clone; every clone, every `Store` and every process that opened the same directory works on the same store at the same
/// time. A verb that returns has done what it says, durably; one that fails has changed nothing. After a fork, parent and child can
/// both go on, if no other thread was inside the store at that moment.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    /// Absolute.
    path: PathBuf,
    root: Dir,
    locks: Locks,
    metadata: Metadata,
    content: Content,
    backend: Arc<dyn Backend>,
    /// Why it is this backend.
    reason: String,
    ids: Ids,
    limits: Limits,
    parallelism: Parallelism,
    durability: Durability,
    blobs: BlobPolicy,
    session: Mutex<Option<Session>>,
    /// Trees without an owner outside an id map.
    mapped: Mutex<HashSet<(TreeId, IdMaps)>>,
}

impl Store {
    /// The store's directory, as an absolute path.
    pub fn root(&self) -> &Path {
        &self.inner.path
    }

    /// The backend that keeps the store's trees.
    pub fn backend(&self) -> &dyn Backend {
        &*self.inner.backend
    }

    /// Why the store has the backend that it has, in a sentence.
    pub fn backend_reason(&self) -> &str {
        &self.inner.reason
    }

    /// What becomes of owners outside the id map when layers are imported and snapshots made.
    pub fn ids(&self) -> Ids {
        self.inner.ids
    }

    /// By which map owners are shifted on the disk; `None` where they are the container's. See [`StoreOptions::id_shift`].
    pub fn id_shift(&self) -> Option<&IdMap> {
        self.backend().id_shift()
    }

    /// Why nothing can be changed in the store; `None` where it can. Of a store that cannot be written everything is read, diffed, exported
    /// and [checked](Self::check), Views that are there are [mounted](Self::mounts), and committed snapshots
    /// [without one](Self::mount_committed). Verbs that change something are `PermissionDenied`.
    pub fn read_only_reason(&self) -> Option<&str> {
        self.inner.metadata.read_only().map(|read_only| read_only.reason)
    }

    /// Refuses a verb that changes something, where nothing can be.
    fn refuse_read_only(&self, op: &'static str) -> Result<()> {
        self.metadata().refuse_read_only(op).map_err(|error| error.at(&self.inner.path))
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    /// The store's blobs: to take bytes in, chunk by chunk if need be, and to read those of images. What no image needs is collected;
    /// a [`Blob`](crate::content::Blob) that is held can be read nevertheless.
    pub fn content(&self) -> &Content {
        &self.inner.content
    }

    pub(crate) fn parallelism(&self) -> Parallelism {
        self.inner.parallelism
    }

    pub(crate) fn durability(&self) -> Durability {
        self.inner.durability
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// What becomes of layers' blobs that were unpacked.
    pub fn blob_policy(&self) -> BlobPolicy {
        self.inner.blobs
    }

    pub(crate) fn locks(&self) -> &Locks {
        &self.inner.locks
    }

    /// The store's directory by descriptor.
    pub(crate) fn directory(&self) -> &Dir {
        &self.inner.root
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("root", &self.inner.path).field("backend", &self.inner.backend.name()).finish_non_exhaustive()
    }
}

/// There is no snapshot of this key or name.
fn no_snapshot(op: &'static str, name: &str) -> Error {
    Error::new(ErrorKind::NotFound, op).at(name).because("there is no snapshot of this name")
}
