//! What this kernel, this file system and this user can do: found out by trying, kept as a value.
//!
//! Never a version comparison where a trial can tell: distributions carry features back, and sandboxes take system calls away. Each
//! [`Capability`] says what is lost without it and what would mend that. The trials are made in a directory of their own, which is gone
//! afterwards, also after an error.
//!
//! What the kernel has since when, and what is done without; a seccomp filter that answers ENOSYS or EPERM counts as a kernel that lacks it
//! (`tests/it/blocked.rs` takes each away):
//!
//! | ability | Linux | without it |
//! |---|---|---|
//! | `statx` | 4.11 | `fstatat`; mounts are told apart by `/proc/self/fdinfo` |
//! | `openat2` | 5.6 | paths are walked component by component, as safely |
//! | overlays in a user namespace (`userxattr`) | 5.11 | the copy backend |
//! | `fsopen`, layers by descriptor | 6.15 | layers one by one through `/proc/self/fd` (6.7); before, one page of `mount(2)` |
//! | `mount(2)` as well | | the copy backend; trees are read, diffed and committed, and attaching one is an error |
//! | `open_tree`, `move_mount` | 5.2 | overlays are made by `mount(2)` where `fsopen` is missing too, and cannot be passed on detached |
//! | `mount_setattr` | 5.12 | read-only bind mounts by remounting; no id maps |
//! | idmapped mounts of the file system | 5.12 to 6.3 | `Unsupported` for a mount with an id map; a store with one map (`id_shift`) |
//! | idmapped layers of overlayfs | 5.19 | the same on the overlay backend |
//! | escaped `overlay.` xattrs | 6.7 | they are left out of layers, and reported |
//! | whiteouts without `CAP_MKNOD` | 5.8 | the copy backend |
//! | upper directory on overlayfs, no xattrs, no `d_type` | never | the copy backend |
//! | reflinks | 4.5 | bytes are copied |

mod trial;

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::mount::Api;
use super::{Dir, namespace};
use crate::error::{Error, Result};

pub(crate) use trial::{OverlayTrial, Scratch, clear_probes, file_system, try_overlay};

/// One thing that can be done here or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Capability {
    /// What it is called: `overlay`, `reflink`…
    pub name: &'static str,
    /// Whether it is there.
    pub available: bool,
    /// What was found: how it works here, or why it does not.
    pub found: String,
    /// What is lost without it.
    pub cost: &'static str,
    /// What would mend it: a command, or a sentence.
    pub remedy: &'static str,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.name, if self.available { "yes" } else { "no" }, self.found)
    }
}

/// All that is worth knowing about one directory, the kernel and the user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// `ext4`, `xfs`, `overlay`…: the file system that the directory is on.
    pub file_system: String,
    /// Whether this process is in the initial user namespace.
    pub initial_user_namespace: bool,
    /// What was tried, in the order in which people should read it.
    pub list: Vec<Capability>,
}

impl Capabilities {
    /// Tries everything in a directory, which must be writable.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied` where nothing can be tried in the directory; `NoSpace`, `Io`.
    pub fn probe(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        Self::probe_in(&Dir::open(directory)?).map_err(|error| error.at(directory))
    }

    /// The same in a directory that is held.
    ///
    /// # Errors
    /// As [`probe`](Self::probe).
    pub(crate) fn probe_in(directory: &Dir) -> Result<Self> {
        let scratch = Scratch::new(directory)?;
        let initial = namespace::is_initial();
        let mut list = vec![overlay(&scratch, initial)];
        list.extend([mount_api(&scratch), xattrs(&scratch, initial), escapes(&scratch, initial)]);
        list.extend([reflink(&scratch), file_types(&scratch), whiteouts(&scratch), openat2(&scratch)]);
        list.extend([user_namespaces(), sub_ids(), id_mapped_mounts(&scratch), id_mapped_layers(&scratch, initial)]);
        Ok(Self { file_system: file_system(&scratch), initial_user_namespace: initial, list })
    }

    /// One of them by its name.
    pub fn get(&self, name: &str) -> Option<&Capability> {
        self.list.iter().find(|capability| capability.name == name)
    }
}

/// A finding, and its words.
fn capability(name: &'static str, found: Result<String, String>, cost: &'static str, remedy: &'static str) -> Capability {
    let (available, found) = match found {
        Ok(found) => (true, found),
        Err(found) => (false, found),
    };
    Capability { name, available, found, cost, remedy }
}

fn overlay(scratch: &Scratch, initial: bool) -> Capability {
    let found = match try_overlay(scratch, !initial, Api::probe(scratch.dir())) {
        Ok(_) if initial => Ok("mounts work, with trusted. xattrs".to_owned()),
        Ok(_) => Ok("mounts work, with user. xattrs".to_owned()),
        Err(error) => Err(explain(&error)),
    };
    let remedy = if initial && !rustix::process::geteuid().is_root() {
        "plywood unshare"
    } else {
        "a directory on ext4, xfs, btrfs or tmpfs, and a kernel with overlayfs (modprobe overlay); in a container, CAP_SYS_ADMIN"
    };
    capability("overlay", found, "the copy backend is used: each layer is kept with all that lies below it", remedy)
}

fn mount_api(scratch: &Scratch) -> Capability {
    let found = match Api::probe(scratch.dir()) {
        Api::Descriptors => Ok("layers are handed over by descriptor".to_owned()),
        Api::Paths => Ok("layers are named one by one".to_owned()),
        Api::Legacy => Err("only mount(2) with one page of options, or no right to ask".to_owned()),
    };
    let cost =
        "overlays go through mount(2): the options of all layers share one page, and detached mounts take a thread of their own";
    capability("mount-api", found, cost, "Linux 6.7 or newer; in a container, a seccomp profile that lets fsopen through")
}

fn xattrs(scratch: &Scratch, initial: bool) -> Capability {
    let name: &str = if initial && rustix::process::geteuid().is_root() { "trusted." } else { "user." };
    let found = trial::try_xattr(scratch, format!("{name}plywood").as_bytes()).map(|()| format!("{name} xattrs can be set"));
    let cost = "overlayfs cannot mark directories as opaque, and layers lose their xattrs";
    capability(
        "xattrs",
        found.map_err(|error| explain(&error)),
        cost,
        "another file system: ext4, xfs, btrfs, or tmpfs on Linux 6.6",
    )
}

fn escapes(scratch: &Scratch, initial: bool) -> Capability {
    let found = match try_overlay(scratch, !initial, Api::probe(scratch.dir())) {
        Ok(OverlayTrial { escapes: true, .. }) => Ok("the kernel unescapes them".to_owned()),
        Ok(_) => Err("the kernel does not unescape them".to_owned()),
        Err(_) => Err("nothing can be mounted".to_owned()),
    };
    let cost = "overlayfs's own xattrs in layers (images with images in them) are left out, and reported";
    capability("overlay-xattrs-in-layers", found, cost, "Linux 6.7 or newer")
}

fn reflink(scratch: &Scratch) -> Capability {
    let found = trial::try_reflink(scratch).map(|()| "files share their blocks".to_owned()).map_err(|error| explain(&error));
    capability("reflink", found, "the copy backend copies every byte of every file", "xfs (mkfs.xfs -m reflink=1) or btrfs")
}

fn file_types(scratch: &Scratch) -> Capability {
    let found = match trial::try_file_types(scratch) {
        Ok(true) => Ok("directories tell the types of what is in them".to_owned()),
        Ok(false) => Err("directories do not tell the types of what is in them".to_owned()),
        Err(error) => Err(explain(&error)),
    };
    capability(
        "d_type",
        found,
        "overlays show whiteouts as names that lead nowhere, so copies are kept",
        "for xfs: mkfs.xfs -n ftype=1; for ext4: tune2fs -O filetype",
    )
}

fn whiteouts(scratch: &Scratch) -> Capability {
    let found =
        trial::try_whiteout(scratch).map(|()| "character devices 0:0 can be made".to_owned()).map_err(|error| explain(&error));
    let cost = "files of lower layers cannot be hidden in overlayfs's form";
    capability("whiteouts", found, cost, "Linux 5.8 or newer; a mount without the option nodev; root or `plywood unshare`")
}

fn openat2(scratch: &Scratch) -> Capability {
    let found = trial::try_openat2(scratch).map(|()| "the kernel resolves paths inside a root".to_owned());
    let cost = "paths are resolved component by component: slower, equally safe";
    capability(
        "openat2",
        found.map_err(|error| explain(&error)),
        cost,
        "Linux 5.6 or newer; in a container, a newer seccomp profile",
    )
}

fn user_namespaces() -> Capability {
    let found = trial::try_user_namespace().map(|()| "they can be made".to_owned()).map_err(|error| explain(&error));
    let remedy = "as root: sysctl -w user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0, \
                  those that exist";
    capability("user-namespaces", found, "only root can mount", remedy)
}

fn sub_ids() -> Capability {
    let uid = rustix::process::getuid().as_raw();
    let found = match (namespace::program("newuidmap"), namespace::program("newgidmap"), namespace::sub_id_counts(uid)) {
        (None, ..) | (_, None, _) => Err("newuidmap or newgidmap is not installed".to_owned()),
        (.., (0, _) | (_, 0)) if uid == 0 => Ok("root has every id".to_owned()),
        (.., (0, _) | (_, 0)) => Err("/etc/subuid or /etc/subgid gives this user no ids".to_owned()),
        (.., (uids, gids)) => Ok(format!("{uids} uids and {gids} gids")),
    };
    let cost = "an ordinary user has one id: layers with other owners are refused, or squashed on demand";
    capability(
        "sub-ids",
        found,
        cost,
        "as root: apt install uidmap, then usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER",
    )
}

fn id_mapped_mounts(scratch: &Scratch) -> Capability {
    let found = trial::try_id_mapped_mount(scratch).map(|()| "the file system shows owners through a map".to_owned());
    let cost = "a container with its own ids needs a store of its own, with shifted owners (the copy backend's)";
    capability(
        "id-mapped-mounts",
        found.map_err(|error| explain(&error)),
        cost,
        "root, and Linux 5.12 with ext4, 5.15 with btrfs, 5.19 with xfs or 6.3 with tmpfs; elsewhere a store with --id-shift",
    )
}

fn id_mapped_layers(scratch: &Scratch, initial: bool) -> Capability {
    let found = trial::try_id_mapped_overlay(scratch, !initial, Api::probe(scratch.dir()));
    let found = found.map(|()| "overlayfs takes layers whose owners are mapped".to_owned());
    let cost = "the overlay backend has no mounts with an id map";
    let remedy = "Linux 5.19 or newer, root, and a file system that has id-mapped-mounts";
    capability("id-mapped-layers", found.map_err(|error| explain(&error)), cost, remedy)
}

/// An error with its causes, in one line.
pub(crate) fn explain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        // An error of the kernel's that our own quotes is not said twice.
        let link = error.to_string();
        if !text.contains(&link) {
            text.push_str(": ");
            text.push_str(&link);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::test_support::{Place, mounting};

    #[test]
    fn what_is_there_is_found_and_nothing_is_left() {
        mounting(|place| {
            let temp = tempfile::tempdir().unwrap();
            let found = Capabilities::probe(temp.path()).unwrap();
            assert_eq!(found.initial_user_namespace, place == Place::Root);
            for name in ["overlay", "xattrs", "whiteouts", "openat2", "d_type"] {
                let one = found.get(name).unwrap();
                assert!(one.available, "{one}");
            }
            for name in ["id-mapped-mounts", "id-mapped-layers"] {
                let mapped = found.get(name).unwrap();
                assert_eq!(mapped.available, place == Place::Root, "{mapped}");
            }
            let style = if place == Place::Root { "trusted." } else { "user." };
            assert!(found.get("overlay").unwrap().found.contains(style));
            assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
            assert!(found.list.iter().all(|one| !one.found.is_empty() && !one.cost.is_empty() && !one.remedy.is_empty()));
        });
    }

    #[test]
    fn an_upper_directory_on_overlayfs_is_refused_with_the_reason() {
        mounting(|place| {
            let temp = tempfile::tempdir().unwrap();
            let dir = Dir::open(temp.path()).unwrap();
            let scratch = Scratch::new(&dir).unwrap();
            let user = place == Place::UserNamespace;
            // Overlay on overlay on overlay is one more than the kernel stacks.
            let one = try_overlay(&scratch, user, Api::probe(&dir)).unwrap();
            let inner = Dir::from_fd(crate::sys::inode::reopen(&one.mount).unwrap());
            let found = Capabilities::probe_in(&inner).unwrap();
            assert_eq!(found.file_system, "overlay");
            let overlay = found.get("overlay").unwrap();
            assert!(!overlay.available, "{overlay}");
            assert!(overlay.found.starts_with("fsconfig"), "{overlay}");
        });
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error() {
        let error = Capabilities::probe("/proc/self").unwrap_err();
        assert!(error.path().unwrap().starts_with("/proc"), "{error}");
    }
}
