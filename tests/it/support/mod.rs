//! What the integration tests stand on: skipping out loud, sandboxes that die with their test, disks of every kind, tools.

mod disk;
#[cfg(all(feature = "cli", feature = "testing"))]
mod programs;
mod sandbox;
#[cfg(feature = "testing")]
pub(crate) mod seccomp;
mod tools;
#[cfg(feature = "testing")]
pub(crate) mod tracer;
#[cfg(feature = "testing")]
pub(crate) mod verbs;
#[cfg(feature = "testing")]
pub(crate) mod work;

pub(crate) use disk::Disk;
#[cfg(feature = "testing")]
pub(crate) use disk::Others;
#[cfg(all(feature = "cli", feature = "testing"))]
pub(crate) use programs::programs;
pub(crate) use sandbox::{Sandbox, arguments};
#[cfg(feature = "cli")]
#[allow(unused_imports)]
pub(crate) use tools::{Output, example, plywood};
pub(crate) use tools::{Tool, require};

use std::io::Write;

/// Says that the test cannot run here, and why; the test then returns. Under `PLYWOOD_TEST_REQUIRE=all` it fails instead.
///
/// Written to the real standard error, not to libtest's capture, so that a skip is seen in a run that passes.
#[track_caller]
pub(crate) fn skip(test: &str, reason: &str) {
    assert!(
        std::env::var_os("PLYWOOD_TEST_REQUIRE").is_none_or(|value| value != "all"),
        "{test} must run here, and cannot: {reason}"
    );
    let line = format!("SKIP {test}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Whether this process is the real root: privileged in the initial user namespace.
pub(crate) fn is_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    nix::unistd::geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}
