//! The cases, by the chapters of the contract.
//!
//! §1 and §2 are here sentence by sentence; of §3 all that an uncompressed archive can say (`archives`); of §4 what a tree can show. What
//! is no tree stands elsewhere: compression in `compression::tests`, the report in `store::tests::report`, times that are clamped and
//! the style of xattrs in `apply::tests::metadata`, ids in `apply::owners`, §5 in `diff::tests` and in the suite's checks (each case's
//! top layer is diffed and applied again), §7 in `apply::tests::confinement`, `store::tests::races` and `tests/it/hostile`.

use super::Case;

mod archives;
mod entries;
mod links;
mod markers;
mod metadata;
mod names;
mod parents;

/// All cases of the kit.
pub fn cases() -> Vec<Case> {
    [markers::cases(), entries::cases(), parents::cases(), links::cases(), names::cases(), archives::cases(), metadata::cases()]
        .concat()
}
