//! Tree to layer: what a tree changes in the tree below it, as a sorted stream of changes (SEMANTICS §5).
//!
//! **A pure function of (lower tree, tree).** An upperdir and a whole copy of the same tree give the same stream; so do two trees that
//! came about in different ways. Two passes: the first decides the fate of hardlink groups and meets the names that no layer can say
//! (`plan`), the second writes (`emit`); both go over the trees by `walk`. What a stream becomes (a tar, a list of changes) is
//! the sink's: for a list its `wants_data` is false.
//!
//! A backend makes one call. The overlay backend gives its raw upperdir, and a read-only mount of its chain as the tree below:
//!
//! ```ignore
//! let lower = Root::from_fd(detached_read_only_mount_of_the_chain).dir()?;    // none where nothing is below
//! let upper = Upper::Overlay { dir: &fs, style, cut: roots.cut };
//! let sides = Sides { upper, lower: Some(&lower), lower_root: roots.lower, upper_root: roots.upper };
//! diff::diff(&sides, out, cx)
//! ```
//!
//! Live trees are read by descriptors and single names, nothing is followed. A name that goes away between listing and reading is left
//! out, a file that changes its size is cut or filled with zeros and reported; nothing leads outside. Memory: the names of one
//! directory a level, and those of broken hardlink groups.

mod compare;
mod emit;
pub(crate) mod look;
mod plan;
pub(crate) mod seen;
mod walk;

use crate::entry::{Attributes, Entry, EntrySink, Status};
use crate::error::Result;
use crate::progress::{Context, Progress};
use crate::sys::Dir;
use crate::whiteout::XattrStyle;
use emit::{Emit, RootPair};
use seen::Form;
use walk::{Trees, Walk};

/// The tree whose changes are wanted, as its backend keeps it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Upper<'a> {
    /// A raw upperdir: what it changes in the lower tree, in overlayfs's form.
    Overlay {
        /// The upperdir.
        dir: &'a Dir,
        /// Whose attributes the store speaks.
        style: XattrStyle,
        /// It hides the whole lower tree, although nothing in it says so: it is mounted without.
        cut: bool,
    },
    /// The whole tree.
    Whole {
        /// Its root.
        dir: &'a Dir,
    },
}

/// What a diff compares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sides<'a> {
    /// The tree.
    pub(crate) upper: Upper<'a>,
    /// The tree below, whole and as a container sees it; `None` where there is none.
    pub(crate) lower: Option<&'a Dir>,
    /// The root attributes of the parent; `None` where there is none.
    pub(crate) lower_root: Option<&'a Attributes>,
    /// The root attributes of the tree; `None` where its own directory says.
    pub(crate) upper_root: Option<&'a Attributes>,
}

/// Streams the changes to `out`, in the order of a layer.
///
/// # Errors
/// `Unsupported` for a name that begins with `.wh.`, before anything is written; `Cancelled`; those of the sink; `Io`.
pub(crate) fn diff(sides: &Sides<'_>, out: &mut dyn EntrySink, cx: &Context<'_>) -> Result<()> {
    let (upper, form, shows) = match sides.upper {
        Upper::Overlay { dir, style, cut } => (dir, Form::Overlay(style), (!cut).then_some(style)),
        Upper::Whole { dir } => (dir, Form::Plain, None),
    };
    let trees = Trees { upper, form, lower: sides.lower, shows };
    let roots = RootPair { lower: sides.lower_root.cloned(), upper: sides.upper_root.cloned() };
    let plan = plan::plan(trees, cx)?;
    let pass = |out: &mut dyn EntrySink, cx: &Context<'_>| {
        let mut emit = Emit::new(&plan, &roots, out, cx);
        Walk::new(trees, &plan.extras, cx)?.run(&mut emit)
    };
    if plan.marked {
        // A `.wh.` name that nobody changed is in nobody's way: only a pass for the form's sake tells.
        let quiet = Quiet(cx.progress());
        pass(&mut Nowhere, &Context::new(&quiet))?;
    }
    pass(out, cx)
}

/// A sink that takes all and keeps nothing.
struct Nowhere;

impl EntrySink for Nowhere {
    fn entry(&mut self, _: &Entry, _: Status) -> Result<()> {
        Ok(())
    }

    fn data(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn wants_data(&self) -> bool {
        false
    }
}

/// Progress that counts nothing: what it watches is done once more.
struct Quiet<'a>(&'a dyn Progress);

impl Progress for Quiet<'_> {
    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

#[cfg(feature = "testing")]
#[cfg(test)]
mod tests;
