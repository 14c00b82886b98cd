//! `doctor`: what this kernel, file system and user can do, found out by trying, in a directory that is gone afterwards.
//!
//! Nothing is read off a version number: a seccomp filter, a container or a mount option takes away what a kernel has.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use serde::Serialize;

use super::args::Global;
use super::output::{self, Failure, Output};
use super::unshare::{is_root, store_root};
use crate::backend::Capabilities;
use crate::error::{Error, Result};
use crate::namespace::{self, HeldIds};
use crate::snapshot::Key;
use crate::store::{BackendChoice, Store, StoreOptions};
use crate::sys::mount::Api;
use crate::sys::namespace::program;

/// One thing that works here or does not.
#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    works: bool,
    /// What was found.
    found: String,
    /// What is lost where it does not work.
    cost: Option<String>,
    /// What mends it.
    remedy: Option<String>,
}

impl Check {
    fn works(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, works: true, found: found.into(), cost: None, remedy: None }
    }

    fn fails(what: &'static str, found: impl Into<String>, cost: &str, remedy: impl Into<String>) -> Self {
        Self { what, works: false, found: found.into(), cost: Some(cost.to_owned()), remedy: Some(remedy.into()) }
    }
}

/// The whole of what was found.
#[derive(Debug, Serialize)]
struct Findings {
    /// Where the store is, or would be.
    root: PathBuf,
    /// Whether there is one.
    exists: bool,
    /// The backend of the store that is there, or why it cannot be opened.
    store: Option<String>,
    /// The backend that a new store would get.
    backend: Option<String>,
    /// Why.
    reason: String,
    checks: Vec<Check>,
}

/// `doctor`
pub(super) fn doctor(global: &Global, output: &Output) -> Result<(), Failure> {
    let root = store_root(global)?;
    let mut checks = Vec::new();
    if !is_root() {
        checks.extend(user_namespace());
    }
    let folder = nearest(&root);
    let (backend, reason) = match Trial::new(&folder) {
        Ok(trial) => {
            checks.push(trial.overlay());
            checks.push(trial.mount_interface());
            checks.push(trial.xattrs());
            checks.push(trial.reflinks());
            checks.push(trial.devices());
            checks.push(trial.openat2());
            if namespace::is_initial() && is_root() {
                checks.extend(trial.id_maps());
            }
            match trial.auto() {
                Ok((name, reason)) => (Some(name), reason),
                Err(error) => (None, error.to_string()),
            }
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            let found = format!("{}: {cause}", folder.display());
            let cost = "no store can be made here, and nothing was tried";
            let remedy = "name a directory that you may write, as every command takes it: plywood doctor --root DIR";
            checks.insert(0, Check::fails("directory for a store", found.clone(), cost, remedy));
            (None, found)
        }
    };
    let exists = root.join("plywood.db").exists();
    let store = exists.then(|| match Store::open(&root) {
        Ok(store) => format!("a store with the {} backend", store.backend().name()),
        Err(error) => format!("a store that cannot be opened: {error}"),
    });
    let findings = Findings { exists, store, root, backend, reason, checks };
    output.result(&findings, text(&findings))
}

fn text(findings: &Findings) -> String {
    let state = findings.store.as_deref().unwrap_or("no store yet");
    let new = if findings.backend.is_some() { "a new store gets" } else { "a new store cannot be made:" };
    let mut text = format!("{} ({state}); {new} {}\n\n", findings.root.display(), findings.reason);
    let rows: Vec<Vec<String>> = findings
        .checks
        .iter()
        .map(|check| vec![check.what.to_owned(), if check.works { "yes" } else { "no" }.to_owned(), check.found.clone()])
        .collect();
    text.push_str(&output::table(&["WHAT", "WORKS", "FOUND"], &rows));
    for check in findings.checks.iter().filter(|check| !check.works) {
        text.push_str(&format!("\n{}\n", check.what));
        check.cost.iter().for_each(|cost| text.push_str(&format!("  costs: {cost}\n")));
        check.remedy.iter().for_each(|remedy| text.push_str(&format!("  mend:  {remedy}\n")));
    }
    text
}

/// Enters the namespace that every other command of an ordinary user enters: two checks.
fn user_namespace() -> Vec<Check> {
    const COST: &str = "nothing can be mounted, and the owners of layers cannot be kept";
    let user =
        nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map_or_else(|| "USER".to_owned(), |user| user.name);
    let entered = match namespace::enter_user_namespace() {
        Ok(entered) => entered,
        Err(error) => {
            let remedy = error.hint().unwrap_or("run it as root").to_owned();
            return vec![Check::fails("user namespace", error.to_string(), COST, remedy)];
        }
    };
    let ids = match &entered.ids {
        HeldIds::SubIds { .. } => Check::works("sub-ids", entered.ids.to_string()),
        HeldIds::One { reason } => Check::fails(
            "sub-ids",
            reason.clone(),
            "layers with other owners than root are refused, or lose them with --ids squash",
            match program("newuidmap") {
                Some(_) => format!("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"),
                None => format!("apt install uidmap; usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"),
            },
        ),
    };
    vec![Check::works("user namespace", "entered"), ids]
}

/// The directory, or the nearest one above it that is there.
fn nearest(root: &Path) -> PathBuf {
    root.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// A directory beside the store to try things in.
struct Trial(PathBuf);

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Trial {
    fn new(folder: &Path) -> Result<Self> {
        let path = folder.join(format!(".plywood-doctor-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| Error::io("mkdir", error).at(&path))?;
        Ok(Self(path))
    }

    fn file(&self, name: &str) -> Result<File> {
        let path = self.0.join(name);
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| Error::io("open", error).at(path))
    }

    /// What `auto` chooses here.
    fn auto(&self) -> Result<(String, String)> {
        let store = Store::open(self.0.join("auto"))?;
        Ok((store.backend().name().to_owned(), store.backend_reason().to_owned()))
    }

    /// A store on the overlay backend, and a snapshot of it mounted.
    fn overlay(&self) -> Check {
        let attempt = || {
            let store = Store::open_with(&StoreOptions::new(self.0.join("overlay")).backend(BackendChoice::Overlay))?;
            let mount = store.prepare(&Key::new("trial")?, None, &Default::default())?;
            mount.detached().map(drop)
        };
        match attempt() {
            Ok(()) => Check::works("overlay mounts", "mounted one"),
            Err(error) => Check::fails(
                "overlay mounts",
                error.to_string(),
                "the copy backend serves: every snapshot is a full copy of its parent",
                error.hint().unwrap_or("put the store on ext4, xfs or btrfs; as an ordinary user, mend the user namespace first"),
            ),
        }
    }

    fn mount_interface(&self) -> Check {
        const WHAT: &str = "mounts by descriptor";
        match File::open(&self.0).map(|directory| Api::probe(directory.as_fd())) {
            Ok(Api::Descriptors) => Check::works(WHAT, "fsopen, layers as descriptors"),
            Ok(Api::Paths) => Check::works(WHAT, "fsopen, layers one by one"),
            Ok(Api::Legacy) => Check::fails(
                WHAT,
                "mount(2) alone",
                "all options must fit one page: about a hundred layers",
                "Linux 6.7 or newer, and no seccomp filter on fsopen",
            ),
            Err(error) => Check::fails(WHAT, error.to_string(), "nothing can be mounted", "make the store's directory readable"),
        }
    }

    fn xattrs(&self) -> Check {
        let in_host = namespace::is_initial() && is_root();
        let (what, name) =
            if in_host { ("trusted. and user. xattrs", "trusted.plywood") } else { ("user. xattrs", "user.plywood") };
        let set = || {
            let path = self.0.join("xattrs");
            self.file("xattrs")?;
            for name in [name, "user.plywood"] {
                xattr::set(&path, name, b"1").map_err(|error| Error::io("setxattr", error).at(name))?;
            }
            Ok(())
        };
        match set() {
            Ok(()) => Check::works(what, "set one"),
            Err::<_, Error>(error) => Check::fails(
                what,
                error.to_string(),
                "no overlay backend, and xattrs of layers are left out and reported",
                "put the store on ext4, xfs or btrfs (tmpfs: Linux 6.6 or newer)",
            ),
        }
    }

    fn reflinks(&self) -> Check {
        let clone = || {
            let source = self.file("source")?;
            rustix::fs::ftruncate(&source, 4096).map_err(|errno| Error::io("ftruncate", errno))?;
            let target = self.file("target")?;
            rustix::fs::ioctl_ficlone(&target, &source).map_err(|errno| Error::io("FICLONE", errno))
        };
        match clone() {
            Ok(()) => Check::works("reflinks", "cloned a file"),
            Err(error) => Check::fails(
                "reflinks",
                error.to_string(),
                "the copy backend copies bytes: slower, and each snapshot takes its full size",
                "put the store on btrfs, or on xfs made with: mkfs.xfs -m reflink=1",
            ),
        }
    }

    fn devices(&self) -> Check {
        match rustix::fs::mknodat(
            CWD,
            self.0.join("null"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o600),
            rustix::fs::makedev(1, 3),
        ) {
            Ok(()) => Check::works("device files", "made one"),
            Err(errno) => {
                Check::fails("device files", errno.to_string(), "devices of layers are skipped and reported", "run it as root")
            }
        }
    }

    /// What containers with ids of their own need.
    fn id_maps(&self) -> Vec<Check> {
        let found = match Capabilities::probe(&self.0) {
            Ok(found) => found,
            Err(error) => return vec![Check::fails("id maps", error.to_string(), "they were not tried", "see the reason")],
        };
        let words = [("id-mapped-mounts", "id maps of mounts"), ("id-mapped-layers", "id maps of overlays")];
        let check = |(name, what)| {
            let one = found.get(name)?;
            Some(if one.available {
                Check::works(what, one.found.as_str())
            } else {
                Check::fails(what, one.found.as_str(), one.cost, one.remedy)
            })
        };
        words.into_iter().filter_map(check).collect()
    }

    fn openat2(&self) -> Check {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat2(CWD, &self.0, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
            Ok(_) => Check::works("openat2", "opened a directory"),
            Err(errno) => Check::fails(
                "openat2",
                errno.to_string(),
                "paths are resolved component by component: slower",
                "Linux 5.6 or newer, and no seccomp filter on openat2",
            ),
        }
    }
}
