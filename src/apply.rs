//! A layer's entries become inodes: the tree rule (SEMANTICS §1, §2, §4), once, in three forms.
//!
//! **Overlay form**: the tree starts empty and becomes an upperdir; what is missing in it is looked up in the merged tree below, and each
//! such look is a question whose answer the tree rests on. **Change form** is the same for a parent that is a whole tree, into which
//! it is merged: what it hides there is told beside it. **Plain form**: the tree starts as a full copy of the parent, and what this layer
//! did not make is the parent's.
//!
//! Entries are applied as they stream. Markers act *first*, wherever they stand, so they are collected, and when the layer is complete
//! it is worked out what they hide in the lower tree. Mostly nothing that was looked at: then they are put in place. Else the layer is
//! applied again on a fresh tree with what they hide hidden from the start, until the two agree.
//!
//! Invariants: every operation goes by a directory that is held by descriptor and a single name; no symlink is followed by the kernel;
//! memory grows with the number of entries and the names of directories, hardlinks and markers, not with sizes or depth.
//!
//! Left to the backend: the fresh tree, the view of the parent, the root directory's attributes, durability and usage.

mod copy_up;
mod directories;
mod entries;
mod facts;
mod files;
mod links;
mod lookup;
mod markers;
mod merge;
mod metadata;
mod owners;
mod parent;
mod placed;
#[cfg(feature = "testing")]
#[cfg(test)]
mod tests;

pub(crate) use facts::{Lower, answer};
pub(crate) use merge::merge;
pub(crate) use owners::own_root;
pub(crate) use parent::restore;

use std::rc::Rc;

use entries::{Applier, Outcome};
use markers::{Hidden, Markers};
use metadata::{Before, Metadata, Mode};
use owners::Owners;

use crate::entry::{Attributes, Change, Entry, EntryStream, Position};
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::progress::Context;
use crate::sys::write_back::Count;
use crate::sys::{Dir, Root};
use crate::tree::{Answer, Applied, Ids};
use crate::whiteout::overlay::Style;

/// In which form a tree is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// An upperdir.
    Overlay {
        /// Whose attributes overlayfs reads.
        style: Style,
        /// Whether the kernel unescapes attributes of layers that look like overlayfs's own (6.7).
        escapes: bool,
    },
    /// A whole tree. `style` is the one that an overlay store of this process would have: it decides which attributes layers may set.
    Plain {
        /// Whose attributes.
        style: Style,
        /// Whose a directory is that nobody described.
        root: (u32, u32),
    },
    /// What is to be [merged](merge()) into a whole tree.
    Change {
        /// As of a whole tree.
        style: Style,
        /// As of a whole tree.
        root: (u32, u32),
    },
}

impl Form {
    #[cfg(test)]
    const fn style(self) -> Style {
        match self {
            Self::Overlay { style, .. } | Self::Plain { style, .. } | Self::Change { style, .. } => style,
        }
    }

    /// What a directory has that nobody described.
    fn implied(self) -> Attributes {
        let implied = Attributes::implied();
        match self {
            Self::Overlay { .. } => implied,
            Self::Plain { root: (uid, gid), .. } | Self::Change { root: (uid, gid), .. } => Attributes { uid, gid, ..implied },
        }
    }

    /// Whether the tree holds nothing but what the layer changes.
    const fn is_change(self) -> bool {
        matches!(self, Self::Overlay { .. } | Self::Change { .. })
    }
}

/// Where a layer is unpacked to.
#[derive(Debug)]
pub(crate) struct Place {
    /// The tree: a full copy of the parent in plain form, else empty.
    pub(crate) tree: Dir,
    /// An empty directory on the same file system and mount, outside the tree. It is empty again afterwards.
    pub(crate) scratch: Dir,
    /// Counts the files whose data is written back while more of them come, where that is asked for.
    written: Option<Count>,
}

impl Place {
    pub(crate) const fn new(tree: Dir, scratch: Dir) -> Self {
        Self { tree, scratch, written: None }
    }

    /// Has the data of files written back while more of them come, as long as that is few files of those that share the count.
    pub(crate) fn writing_back(self, held: Option<&Count>) -> Self {
        Self { written: held.cloned(), ..self }
    }
}

/// How often what markers hide and where entries land may change each other.
const PASSES: usize = 64;

/// Applies a layer.
///
/// `lower` is the parent's tree as a container sees it: a detached read-only overlay mount of the chain, or the parent's own directory
/// in the other forms; `None` without a parent. `fresh` gives the tree that the layer is unpacked to; when it is called again, what it gave
/// before is void. Nothing is durable when this returns, and `Applied::usage` is left at nothing. After an error the tree is garbage.
///
/// # Errors
/// `InvalidLayer`, `IdNotMapped`, `Cancelled`, `NoSpace`, `Io`, with the entry's path; those of the stream.
pub(crate) fn apply<'a>(
    fresh: &mut dyn FnMut() -> Result<Place>,
    lower: impl Into<Lower<'a>>,
    form: Form,
    layer: &mut dyn EntryStream,
    ids: Ids,
    cx: &Context<'_>,
) -> Result<Applied> {
    unpack(fresh, lower.into(), form, layer, ids, cx).map(|outcome| outcome.applied)
}

/// Applies a layer, not in plain form, over a parent that is not known yet: as if it had plain directories where the layer implies
/// them, something wherever a marker stands, and no link's target. The facts are guesses until [`settle`] says that they are true; `None`
/// where the layer cannot be applied so. The rest is as with [`apply`].
///
/// # Errors
/// As [`apply`]; `InvalidLayer` only from the parent's own answers, so never.
pub(crate) fn guess(
    fresh: &mut dyn FnMut() -> Result<Place>,
    form: Form,
    layer: &mut dyn EntryStream,
    ids: Ids,
    cx: &Context<'_>,
) -> Result<Option<Applied>> {
    match unpack(fresh, Lower::Unknown, form, layer, ids, cx) {
        Ok(outcome) => Ok((!outcome.contradictory).then_some(outcome.applied)),
        // Over its parent it may be valid; and if it is not, that is found there.
        Err(error) if error.kind() == ErrorKind::InvalidLayer => Ok(None),
        Err(error) => Err(error),
    }
}

/// Compares what a guess rests on with what the parent says, and gives implied directories the attributes that they have there: the
/// tree, and what it rests on, are then what [`apply`] makes over this parent. `false` where the guess was wrong in kind.
///
/// `scratch` is as in [`Place`]. Nothing is durable when this returns. After an error, or `false`, the tree is garbage.
///
/// # Errors
/// `NoSpace`, `Io`.
pub(crate) fn settle(
    place: Place,
    lower: Option<&Root>,
    form: Form,
    applied: &mut Applied,
    ids: Ids,
    cx: &Context<'_>,
) -> Result<bool> {
    let questions: Vec<_> = applied.facts.iter().map(|fact| fact.question.clone()).collect();
    let answers = answer(lower, &questions)?;
    if !applied.facts.iter().zip(&answers).all(|(fact, real)| facts::confirms(&fact.answer, real)) {
        return Ok(false);
    }
    let (tree, scratch) = (Root::new(place.tree), Rc::new(place.scratch));
    let metadata = Metadata::new(form, Owners::of_this_process(ids)?, scratch, cx);
    // Children first: a directory may be closed to its owner.
    for (fact, real) in applied.facts.iter_mut().zip(answers).rev() {
        if let (Answer::Directory(Some(guessed)), Answer::Directory(Some(real))) = (&fact.answer, &real)
            && guessed != real
        {
            let path = &fact.question.path;
            match tree.literal_dir(path) {
                Ok(Some(dir)) => metadata.set(&dir, path, real, Before::New, Mode::Set)?,
                Err(error) if error.kind() != ErrorKind::PermissionDenied => return Err(error),
                // Its owner shut it out, or what was read there is not what stands there.
                _ => return Ok(false),
            }
        }
        fact.answer = real;
    }
    Ok(true)
}

fn unpack(
    fresh: &mut dyn FnMut() -> Result<Place>,
    lower: Lower<'_>,
    form: Form,
    layer: &mut dyn EntryStream,
    ids: Ids,
    cx: &Context<'_>,
) -> Result<Outcome> {
    let mut hidden = Hidden::default();
    let mut contradiction = Error::new(ErrorKind::InvalidLayer, "apply layer");
    let report = cx.mark();
    for pass in 0..PASSES {
        if pass > 0 {
            layer.restart()?;
            cx.rewind(report);
            tracing::debug!(pass, "markers hide what was used: the layer is applied again");
        }
        let mut applier = Applier::new(fresh()?, lower, form, &hidden, ids, cx)?;
        // A file that others could not write comes before what failed after it.
        let markers = match stream(&mut applier, layer, cx) {
            Ok(markers) => applier.files.finish().map(|()| markers)?,
            Err(error) => return Err(applier.files.finish().err().unwrap_or(error)),
        };
        match markers.settle(&mut applier, &hidden)? {
            Ok(now) => return applier.finish(&now, markers.cut()),
            Err(again) => {
                contradiction = markers.contradictory(&hidden, &again);
                hidden = again;
            }
        }
    }
    Err(contradiction)
}

/// Applies the entries, and collects the markers.
fn stream(applier: &mut Applier<'_>, layer: &mut dyn EntryStream, cx: &Context<'_>) -> Result<Markers> {
    let mut markers = Markers::default();
    while let Some(Entry { path, change }) = layer.next()? {
        cx.check("apply layer")?;
        let done = check_names(&path).and_then(|()| match change {
            Change::Upsert { node, attributes } => applier.upsert(&path, node, attributes, layer),
            Change::Whiteout => markers.whiteout(&path, layer.position()),
            Change::Opaque => {
                markers.opaque(path.clone(), layer.position());
                Ok(())
            }
        });
        done.map_err(|error| at_entry(error, &path, layer.position()))?;
        cx.progress().entries(1);
    }
    applier.finish_links()?;
    Ok(markers)
}

/// Components that no file system takes.
fn check_names(path: &EntryPath) -> Result<()> {
    match path.components().find(|name| name.len() > crate::path::COMPONENT_MAX) {
        None => Ok(()),
        Some(name) => Err(Error::new(ErrorKind::InvalidLayer, "apply layer").at(path).because(format!(
            "a name of {} bytes; at most {} can be kept",
            name.len(),
            crate::path::COMPONENT_MAX
        ))),
    }
}

/// Says which entry an error belongs to.
fn at_entry(error: Error, path: &EntryPath, position: Option<Position>) -> Error {
    let place = position.map(|position| format!("{position}: ")).unwrap_or_default();
    let reason = match error.reason() {
        // The reader's own says it.
        Some(reason) if position.is_some() && reason.starts_with(&place) => return error,
        Some(reason) => reason.to_owned(),
        None => error.kind().to_string(),
    };
    let name = if path.is_root() { std::path::Path::new(".") } else { path.as_path() };
    let mut outer = Error::new(error.kind(), "apply entry").at(name).because(format!("{place}{reason}"));
    if let Some(hint) = error.hint() {
        outer = outer.with_hint(hint);
    }
    outer.with_source(error)
}
