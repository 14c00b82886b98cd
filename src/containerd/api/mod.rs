//! The messages and services of containerd's API, as `generate` beside this file makes them. No build needs protoc.
#![allow(missing_docs, unreachable_pub, dead_code, unused_qualifications, clippy::all)]

pub(super) mod content;
pub(super) mod diff;
pub(super) mod snapshots;
pub(super) mod types;
