//! The cases, by the chapters of the contract.

use super::Case;

mod entries;
mod links;
mod markers;
mod metadata;
mod names;
mod parents;

/// All cases of the kit.
pub fn cases() -> Vec<Case> {
    [markers::cases(), entries::cases(), parents::cases(), links::cases(), names::cases(), metadata::cases()].concat()
}
