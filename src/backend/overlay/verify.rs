//! A tree of the overlay backend against its layer: the outline is unpacked over a parent that is made of the tree's facts, so that
//! damage in the layers below is never taken for damage of this one.

use super::{FS, Overlay, WORK, name};
use crate::apply::{self, Place};
use crate::backend::{Difference, Reference};
use crate::compare::{self, Outline, Sides};
use crate::digest::Digest;
use crate::error::Result;
use crate::path::EntryPath;
use crate::progress::Context;
use crate::sys::Root;
use crate::tree::{Answer, Applied, Detail, Question, TreeId};

/// The parent, beside the outline.
const LOWER: &[u8] = b"lower";

impl Overlay {
    pub(super) fn compare(
        &self,
        tree: TreeId,
        reference: Reference<'_>,
        found: &mut dyn FnMut(Difference),
        cx: &Context<'_>,
    ) -> Result<Applied> {
        let Reference { outline, facts, layer, ids, contents, .. } = reference;
        let own = self.tree(tree)?.child(FS.as_bytes())?;
        self.refuse_empty(outline, "check tree")?;
        self.trees.remove_tree(&name(outline))?;
        let place = self.trees.mkdir_open(&name(outline), 0o700)?;
        super::root::disinherit(&place)?;
        let lower = place.mkdir_open(LOWER, 0o700)?;
        apply::restore(&lower, facts, &mut |digest| contents.taken(digest.clone()))?;
        let lower = Root::new(lower);

        let mut fresh = || {
            let fresh = |part: &str, mode| {
                place.remove_tree(part.as_bytes())?;
                place.mkdir_open(part.as_bytes(), mode)
            };
            let (scratch, tree) = (fresh(WORK, 0o700)?, fresh(FS, 0o755)?);
            super::root::set(&tree, &crate::entry::Attributes::implied(), self.style)?;
            Ok(Place::new(tree, scratch))
        };
        let mut layer = Outline::new(layer, contents);
        let applied = apply::apply(&mut fresh, Some(&lower), self.form()?, &mut layer, ids, cx)?;
        if !applied.empty {
            let sides = Sides { tree: &own, outline: &place.child(FS.as_bytes())?, contents, root_time: false };
            // A mount that fails is no fault of the tree.
            let mut view = Ok(None);
            let mut take = |path: &EntryPath| {
                if matches!(view, Ok(None)) {
                    view = self.view(&[tree]);
                }
                view.as_ref().map_or(Ok(None), |view| taken(view.as_ref(), path))
            };
            compare::compare(&sides, &mut take, found, cx)?;
            view?;
        }
        Ok(applied)
    }
}

/// The digest of all that an inode is, as a container sees it.
fn taken(view: Option<&Root>, path: &EntryPath) -> Result<Option<Digest>> {
    let question = Question { path: path.clone(), detail: Detail::Content };
    Ok(match apply::answer(view, &[question])?.pop() {
        Some(Answer::Other(digest)) => digest,
        _ => None,
    })
}
