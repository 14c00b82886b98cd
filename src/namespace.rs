//! The way of an ordinary user into a user namespace in which he can mount.
//!
//! For programs, not for libraries: [`enter_user_namespace`] changes the whole process, for good, and must be the first thing that
//! it does. Nothing else in this crate enters a namespace.
//!
//! # Containers in a user namespace
//!
//! There are three ways for a container to see the owners that its image says:
//!
//! | who | how | what is on the disk |
//! |---|---|---|
//! | root, for containers with maps of their own | [`PrepareOptions::id_map`](crate::store::PrepareOptions::id_map): an idmapped mount | the container's ids, one copy for all maps |
//! | an ordinary user | [`enter_user_namespace`], then a store as ever: with sub-ids all owners, without them [`Ids::Squash`](crate::tree::Ids::Squash) | ids of that namespace |
//! | root, or the root of a namespace with sub-ids, where the file system has no idmapped mounts | [`StoreOptions::id_shift`](crate::store::StoreOptions::id_shift), on the copy backend | the host's ids by the store's one map |
//!
//! In each of them a layer that comes out ([`diff`](crate::store::Store::diff), [`export`](crate::store::Store::export)) has the container's
//! ids, and an owner outside the map is `IdNotMapped`, or squashed and reported where the store was opened so.

pub use crate::sys::namespace::{Entered, HeldIds, enter_user_namespace, is_initial};
