//! plywood under containerd: a snapshotter and a differ, served over gRPC on a unix socket as containerd's `proxy_plugins` want them.
//!
//! [`serve`] is the whole of it: a store, a [`Socket`], and a future that says when to stop. It runs in a tokio runtime; the rest of the
//! crate stays synchronous. What containerd says by its plain strings is one trait, `Snapshotter`, implemented on
//! [`Store`](crate::store::Store) and adapted to the wire in one file.
//!
//! containerd deletes every snapshot that it does not know, so it is shown its own alone: its keys and names are in the store behind
//! `containerd:`, which nobody else should use. Whatever else is in the store, and in other processes, stays out of its sight, and may
//! stand on its snapshots; then containerd is told that they are in use. One containerd works on one store, through as many servers as it
//! likes.
//!
//! Each call is a span `serve call` of `tracing` (target `plywood`, level `INFO`) with the fields `call`, `key` (as containerd says it; the
//! filters of a listing), `code` (gRPC's), `duration` (seconds) and `error` (its kind); the store's own spans are within it.

#[rustfmt::skip]
mod api;
mod content;
mod differ;
mod filter;
mod names;
mod server;
mod services;
mod snapshotter;
mod socket;
mod status;
#[cfg(test)]
mod tests;
mod wire;

pub use server::{ServeOptions, serve, serve_with};
pub use socket::Socket;
