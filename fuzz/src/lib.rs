//! What the fuzz targets have in common: the properties, which the tests replay with the corpus, and a place for those that need files.

use std::sync::OnceLock;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

#[path = "../../tests/it/fuzz_properties/mod.rs"]
mod properties;

use properties::images::{self, Images, Stores};
use properties::members::Power;
use properties::trees::{self, Trees};

static POWER: OnceLock<Power> = OnceLock::new();
static TREES: OnceLock<Trees> = OnceLock::new();
static IMAGES: OnceLock<Images> = OnceLock::new();
static STORES: OnceLock<Stores> = OnceLock::new();

/// Whose sandbox the process is in already: libFuzzer's own children, which merge a corpus, share it.
const ENTERED: &str = "PLYWOOD_FUZZ_SANDBOX";

/// For targets that make files: a mount namespace of the process's own, with its own memory where temporary files go. It all goes with
/// the process. Whoever is not root becomes root of a user namespace. Called before there are threads.
pub fn enter_sandbox() {
    if let Ok(power) = std::env::var(ENTERED) {
        let _ = POWER.set(if power == "root" { Power::Root } else { Power::UserNamespace });
        return;
    }
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    let power = if uid.is_root() { Power::Root } else { Power::UserNamespace };
    if power == Power::Root {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    } else {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUSER).expect("a user namespace");
        for (file, text) in [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))]
        {
            std::fs::write(format!("/proc/self/{file}"), text).expect("an id map");
        }
    }
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
    mount(Some("tmpfs"), "/mnt", Some("tmpfs"), MsFlags::empty(), Some("mode=755,size=1g")).expect("a tmpfs");
    // SAFETY: no other thread is there yet.
    unsafe {
        std::env::set_var("TMPDIR", "/mnt");
        std::env::set_var(ENTERED, if power == Power::Root { "root" } else { "user" });
    }
    let _ = POWER.set(power);
}

fn power() -> Power {
    *POWER.get().expect("the sandbox is entered first")
}

fn in_trees(property: fn(&Trees, &[u8]) -> bool, data: &[u8]) -> bool {
    property(TREES.get_or_init(|| Trees::new(power())), data)
}

/// See [`trees::apply_model`].
pub fn apply_model(data: &[u8]) -> bool {
    in_trees(trees::apply_model, data)
}

/// See [`trees::apply_diff`].
pub fn apply_diff(data: &[u8]) -> bool {
    in_trees(trees::apply_diff, data)
}

/// See [`images::import_image`].
pub fn import_image(data: &[u8]) -> bool {
    images::import_image(IMAGES.get_or_init(Images::new), data)
}

/// See [`images::import_model`].
pub fn import_model(data: &[u8]) -> bool {
    images::import_model(STORES.get_or_init(|| Stores::new(power())), data)
}

macro_rules! targets {
    ($($module:ident::$name:ident),*) => {$(
        #[doc = concat!("See [`properties::", stringify!($module), "::", stringify!($name), "`].")]
        pub fn $name(data: &[u8]) -> bool {
            properties::$module::$name(data)
        }
    )*};
}

targets!(
    archives::decompress,
    archives::tar_members,
    archives::tar_reader,
    extensions::tar_extensions,
    names::identifiers,
    names::member_names,
    peers::readers_agree
);
