//! For embedders: the API on one page, what a process may count on, and how to come here from something else.
//!
//! # The API on one page
//!
//! | to | call |
//! |---|---|
//! | open a store, or make one | [`Store::open`], [`open_with`](Store::open_with) and [`StoreOptions`]; it is cheap to clone, and several are independent |
//! | bring an image in | [`import`](Store::import) a layout or archive; [`pull`](Store::pull) blob by blob, from whoever fetches |
//! | bring bytes or a layer in | [`content`](Store::content)`().start(…)`, then [`Ingest::write`]; [`import_layer`](Store::import_layer) |
//! | unpack as other engines do | [`prepare`](Store::prepare), [`apply`](Store::apply) a layer to it, [`commit`](Store::commit), and so on upwards |
//! | run a container | [`prepare`](Store::prepare) gives a [`Mount`]; [`view`](Store::view) a read-only one; [`mounts`](Store::mounts) the same later |
//! | use a store that cannot be written | it opens for all that reads ([`read_only_reason`](Store::read_only_reason)); [`mount_committed`](Store::mount_committed) needs no key |
//! | mount it | [`attach`](Mount::attach), [`attach_at`](Mount::attach_at), [`detached`](Mount::detached); [`MountOptions`] with an [`IdMap`] |
//! | run it in a user namespace | an [`IdMap`] for the mount; where no mount can map owners [`StoreOptions::id_shift`]; all ways: [`namespace`](crate::namespace) |
//! | have somebody else mount it | [`to_oci`](Mount::to_oci) for config.json, [`options`](Mount::options), [`to_mount2`](Mount::to_mount2) |
//! | keep what it wrote | [`commit`](Store::commit), [`diff`](Store::diff), [`changes`](Store::changes), [`export`](Store::export) |
//! | look without mounting | [`open_root`](Store::open_root), [`open_file`](Store::open_file), [`read_dir`](Store::read_dir), [`explain`](Store::explain), [`user`](Store::user) |
//! | know what is there | [`walk`](Store::walk), [`stat`](Store::stat), [`images`](Store::images), [`usage`](Store::usage), [`disk_usage`](Store::disk_usage), [`stats`](Store::stats) |
//! | let things go | [`remove`](Store::remove), [`untag`](Store::untag), [`gc`](Store::gc); [leases](Store::add_lease) keep what nothing names yet |
//! | find damage, and mend it | [`check`](Store::check) |
//!
//! Keys and names are any strings; a layer is named by its [chain id](crate::digest::ChainId). A verb that returns has done what it says,
//! durably; one that fails has changed nothing. Long ones take a [`Context`]: who watches, who may end it, whether a skip is an error.
//!
//! ```
//! use plywood::snapshot::{Key, Name};
//! use plywood::store::{LayerSource, Store};
//! use plywood::{Context, ErrorKind};
//!
//! fn root_of(store: &Store, id: &str, layer: &[u8]) -> plywood::Result<plywood::mount::Mount> {
//!     let layer = store.import_layer(LayerSource::reader(layer), &Default::default(), &Context::default())?;
//!     let (key, parent) = (Key::new(id)?, Name::from(&layer.chain_id));
//!     match store.prepare(&key, Some(&parent), &Default::default()) {
//!         // This process, or one before it, has made it: what it wrote is still there.
//!         Err(error) if error.kind() == ErrorKind::AlreadyExists => store.mounts(id),
//!         made => made,
//!     }
//! }
//! # let (store, _directory) = plywood::testing::temporary_store()?;
//! # let tar = plywood::testing::Layer::new().file("etc/motd", "hello").tar();
//! assert_eq!(root_of(&store, "web-1", &tar)?.source(), root_of(&store, "web-1", &tar)?.source());
//! # Ok::<_, plywood::Error>(())
//! ```
//!
//! # Threads
//!
//! All of it is synchronous, and every type that matters is `Send`; a [`Store`] is `Sync` too. A verb may start threads, as many as the
//! store's [`Parallelism`](crate::Parallelism) says; they have ended when it returns, however it ends. With
//! [`Parallelism::ONE`](crate::Parallelism::ONE) none are started (but one of libzstd's own while zstd is written). No signal handler is set;
//! umask, working directory and environment are neither changed nor read. Where the kernel knows only mount(2), a thread enters a mount
//! namespace of its own for the one call, and ends with it: the caller's thread never changes its own. Making an [`IdMap`] forks a child
//! that executes nothing, is shown to the kernel as a user namespace, and is waited for. For async callers there is the feature `tokio`:
//! `plywood::tokio::AsyncStore` runs verbs on the blocking pool, and dropping a future cancels its verb.
//!
//! # Forks
//!
//! A child that executes a program inherits no descriptor: all are close-on-exec. A child that goes on without exec, as runtimes have
//! them, can use the store of its parent, if no other thread was inside it at that moment; else it is told so (`Unsupported`, with a
//! hint) and opens the store anew. What the parent holds (leases, guards of mounts) stays the parent's: dropping it in the child releases
//! nothing. A [`Detached`](crate::mount::Detached) mount is a descriptor: it can be sent over a socket, or moved by `move_mount` into
//! whatever mount namespace the child has entered.
//!
//! # Errors
//!
//! One [`Error`](crate::Error) with a [`kind`](crate::Error::kind) to match, the operation, the path, and often a hint. What to do with
//! which:
//!
//! | kind | |
//! |---|---|
//! | `NotFound`, `AlreadyExists`, `InUse`, `InvalidArgument` | the caller's: the message says which key, and why |
//! | `InvalidLayer`, `DigestMismatch`, `LimitExceeded`, `EscapesRoot` | the image's: refuse it; nothing of it is kept |
//! | `IdNotMapped`, `PermissionDenied`, `Unsupported` | the machine's: show the hint; `plywood doctor` tells more |
//! | `Corrupt` | known damage: [`check`](Store::check) with repair, or import again |
//! | `NoSpace` | [`remove`](Store::remove) and [`gc`](Store::gc) work on a full disk too |
//! | `Cancelled` | somebody asked for it |
//! | `Locked`, `Io`, `IncompatibleFormat` | try again later; look at [`raw_os_error`](crate::Error::raw_os_error); use a later version |
//!
//! What a layer asks for and this system cannot give is no error but an item of the [`Report`](crate::Report), unless the context is
//! [strict](Context::strict). Operators see each verb as a span of `tracing`: [`store`](crate::store) lists them.
//!
//! # Versions
//!
//! The crate follows semantic versioning; before 1.0 a minor version may change the API, and [`Backend`](crate::backend::Backend) is outside
//! the promise until then. No type of a dependency below 1.0 is in the public API. The minimum Rust is 1.89, and rises with a minor version
//! at most. A store says its format, a number: this version writes 2, brings 1 up to date when it opens it, and refuses a later one
//! (`IncompatibleFormat`) without touching it. Kernels are asked what they can do, never for their version; without overlayfs there is the
//! copy backend. It builds for glibc and musl, there as one static binary too.
//!
//! # Coming from image-rs
//!
//! `ImageClient::pull_image` fetches, decrypts, unpacks, mounts at `BUNDLE/rootfs` and writes `config.json`, in one async call. Here these are
//! four things, of which the first stays with a client of your choice:
//!
//! ```no_run
//! # use std::io::Read;
//! use plywood::snapshot::{Key, Name};
//! use plywood::store::{ImageManifest, PullOptions, RuntimeOptions, Store};
//! # fn fetch(what: &str) -> Vec<u8> { what.into() }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (store, cx, bundle) = (Store::open("store")?, plywood::Context::default(), std::path::Path::new("bundle"));
//! let manifest = ImageManifest::new(fetch("the manifest"), None)?;
//! let pull = store.pull(&manifest, &fetch("the config"), &PullOptions::default(), &cx)?;
//! for layer in pull.missing() {
//!     let Some(mut ingest) = pull.ingest(&layer.descriptor, &cx)? else { continue };
//!     ingest.copy_from(&fetch("the layer, from ingest.offset() on")[..], &cx)?;
//!     ingest.finish(&cx)?;
//! }
//! let image = pull.finish("example:1", &cx)?.image;
//! let root = image.chain_id.as_ref().map(Name::from);
//! store.prepare(&Key::new("web-1")?, root.as_ref(), &Default::default())?.attach(bundle.join("rootfs"))?.leave();
//! let user = store.user("web-1", image.config.user())?;
//! let config = image.config.runtime_config(&user, &RuntimeOptions::default());
//! std::fs::write(bundle.join("config.json"), config.to_string())?;
//! # Ok(())
//! # }
//! ```
//!
//! `meta_store.json` is the store's database; a layer is shared by all images that have it, and a pull that breaks off goes on where it
//! stopped. Whiteouts, ownership, xattrs and hardlinks come out as the layer says. Who decrypts gives the plain layer to
//! [`import_layer`](Store::import_layer) under its diff id. `examples/pull.rs` pulls from a registry.
//!
//! # Coming from an engine on youki
//!
//! libcontainer takes a bundle: `ContainerBuilder::new(id, SyscallType::default()).as_init(bundle)`. What has copied or unpacked a rootfs into
//! it gives way to a key, under the container's id, and a mount. Either the rootfs is mounted before the builder runs, as above, or it
//! is an entry of the config, which the runtime mounts in the container's own namespace, so that it goes with the container:
//!
//! ```no_run
//! use plywood::snapshot::{Key, Name};
//! use plywood::store::Store;
//!
//! fn create(store: &Store, id: &str, image: &str, bundle: &std::path::Path) -> plywood::Result<()> {
//!     let parent = store.image(image)?.chain_id.as_ref().map(Name::from);
//!     let mount = store.prepare(&Key::new(id)?, parent.as_ref(), &Default::default())?;
//!     mount.attach(bundle.join("rootfs"))?.leave();
//!     // ContainerBuilder … .as_init(bundle).build()?.start()?
//!     Ok(())
//! }
//!
//! fn delete(store: &Store, id: &str, bundle: &std::path::Path) -> plywood::Result<()> {
//!     // container.delete(true)?
//!     plywood::mount::unmount(bundle.join("rootfs"))?;
//!     store.remove(id)
//! }
//! ```
//!
//! `delete` returns at once, whatever the size; [`gc`](Store::gc) deletes the bytes when there is time. After a crash the key is still
//! there: `create` finds `AlreadyExists`, and asks for its [`mounts`](Store::mounts). Rootless engines call
//! [`enter_user_namespace`](crate::namespace::enter_user_namespace) as their first act, or give the container's own map as an [`IdMap`].
//! libcontainer forks: see above. `examples/libcontainer` is a program that does all of this, a crate of its own: libcontainer 0.7 without
//! its defaults needs no library of the system, and brings some 90 crates.
//!
//! # Coming from overlay mounts made by hand
//!
//! What stands in many engines: directories `layers/SHA/`, `containers/ID/{upper,work,merged}`, a format string
//! `lowerdir=A:B:C,upperdir=…,workdir=…` for mount(2), an unpacker on the tar crate, and `umount` with `remove_dir_all` at the end. Each has its
//! counterpart:
//!
//! | by hand | here |
//! |---|---|
//! | unpack into `layers/SHA` unless it exists | [`import_layer`](Store::import_layer): named when it is whole, verified and durable |
//! | mkdir upper, work, merged | [`prepare`](Store::prepare) |
//! | the format string | [`Mount`]: layers go in one by one, so no page is too small, and no comma or colon in a path matters |
//! | `mount(2)` at merged | [`attach`](Mount::attach); or [`detached`](Mount::detached) and `move_mount` |
//! | a read-only look | [`view`](Store::view), or [`open_root`](Store::open_root) without a mount |
//! | tar of upper, by hand | [`diff`](Store::diff): whiteouts, opaque directories and hardlinks as OCI has them |
//! | `umount`, `remove_dir_all` | [`Mounted::close`](crate::mount::Mounted::close), [`remove`](Store::remove) |
//! | reference counts | [`gc`](Store::gc) |
//!
//! Layers that are unpacked already cannot be taken over as they stand: what they lost (whiteouts, owners, xattrs, the digest that
//! proves them) is not in them. Import the archives they came from. What a container wrote can be: prepare a key on the same layers, mount
//! it, and copy the old `merged` onto it.

// For the links above.
#[allow(unused_imports)]
use crate::{
    content::Ingest,
    mount::{IdMap, Mount, MountOptions},
    progress::Context,
    store::{Store, StoreOptions},
};
