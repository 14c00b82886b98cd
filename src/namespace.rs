//! The way of an ordinary user into a user namespace in which he can mount.
//!
//! For programs, not for libraries: [`enter_user_namespace`] changes the whole process, for good, and must be the first thing that
//! it does. Nothing else in this crate enters a namespace.

pub use crate::sys::namespace::{Entered, HeldIds, enter_user_namespace, is_initial};
