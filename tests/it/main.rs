//! The one integration binary: what plywood promises, tried through its public interface and its command.
//!
//! Tests run as root and as an ordinary user. What cannot run says `SKIP name: reason` (see [`support::skip`]), and fails instead when
//! `PLYWOOD_TEST_REQUIRE=all`. What a test mounts lives in a mount namespace of its own ([`support::sandbox`]) and dies with it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests
#![allow(clippy::disallowed_methods)] // tests work with paths

#[cfg(feature = "testing")]
mod applying;
mod arch;
#[cfg(all(feature = "testing", feature = "tokio"))]
mod async_verbs;
#[cfg(feature = "testing")]
mod bit_rot;
#[cfg(feature = "testing")]
mod blocked;
#[cfg(all(feature = "cli", feature = "testing"))]
mod bombs;
#[cfg(all(feature = "cli", feature = "testing"))]
mod cli;
#[cfg(feature = "testing")]
mod conformance;
#[cfg(all(feature = "cli", feature = "containerd", feature = "testing"))]
mod containerd;
#[cfg(feature = "testing")]
mod contention;
#[cfg(feature = "testing")]
mod crash;
#[cfg(feature = "testing")]
mod dropped;
#[cfg(feature = "testing")]
mod embedding;
#[cfg(feature = "testing")]
mod explain;
#[cfg(feature = "testing")]
mod figures;
#[cfg(feature = "testing")]
mod foreign;
#[cfg(feature = "testing")]
mod formats;
#[cfg(feature = "testing")]
mod full_disk;
mod fuzz_properties;
mod fuzz_replay;
#[cfg(feature = "testing")]
mod hostile;
#[cfg(feature = "testing")]
mod images;
#[cfg(all(feature = "cli", feature = "testing"))]
mod limits;
#[cfg(feature = "testing")]
mod live;
#[cfg(feature = "testing")]
mod model;
#[cfg(feature = "testing")]
mod power_cut;
#[cfg(feature = "testing")]
mod pull;
#[cfg(feature = "testing")]
mod read_only;
#[cfg(all(feature = "cli", feature = "testing"))]
mod real;
#[cfg(all(feature = "cli", feature = "testing"))]
mod runtime;
mod sandbox;
#[cfg(feature = "testing")]
mod scale;
#[cfg(feature = "testing")]
mod spans;
mod support;
#[cfg(feature = "testing")]
mod system_calls;
mod tar_peers;
#[cfg(feature = "testing")]
mod unmade;
