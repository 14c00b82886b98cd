//! `gc`: what goes, and what would.

use super::args::Gc;
use super::output::{self, Failure};
use super::session::Session;
use crate::store::{GcOptions, GcOutcome};

/// `gc [--dry-run] [--keep NAME]… [--lost-found]`
pub(super) fn gc(session: &Session<'_>, Gc { dry_run, keep, lost_found }: &Gc) -> Result<(), Failure> {
    let roots = keep.iter().map(|name| session.store.resolve(name)).collect::<Result<_, _>>()?;
    let options = GcOptions { roots, dry_run: *dry_run, lost_found: *lost_found };
    let (outcome, _) = session.run("collecting", None, |cx| session.store.gc(&options, cx))?;
    let mut text = if *dry_run { plan(session, &outcome)? } else { String::new() };
    let sum = |count, what| output::count(count, what);
    text += &format!(
        "{}, {} ({}) and {} ({}) {}\n",
        sum(outcome.snapshots.len(), "layer"),
        sum(outcome.blobs.len(), "blob"),
        output::size(outcome.blob_bytes),
        sum(usize::try_from(outcome.trees).unwrap_or(usize::MAX), "tree"),
        output::size(outcome.tree_bytes),
        if *dry_run { "would be removed" } else { "were removed" },
    );
    if !outcome.lost.is_empty() {
        let lost: Vec<_> = outcome.lost.iter().map(|tree| format!("{} ({})", tree.name, output::size(tree.bytes))).collect();
        let (place, lost) = (session.store.root().join("lost+found"), lost.join(", "));
        session.output.remark(match (lost_found, dry_run) {
            (true, false) => format!("plywood: deleted from {}: {lost}", place.display()),
            (true, true) => format!("plywood: would be deleted from {}: {lost}", place.display()),
            (false, _) => {
                format!("plywood: in {}: {lost}; perhaps data of containers. `plywood gc --lost-found` deletes it", place.display())
            }
        });
    }
    session.output.result(&outcome, text)
}

/// What would go, one a line, with its size.
fn plan(session: &Session<'_>, outcome: &GcOutcome) -> Result<String, Failure> {
    let mut rows = Vec::new();
    for name in &outcome.snapshots {
        let size = session.store.usage(name).map_or_else(|_| "-".to_owned(), |usage| output::size(usage.bytes));
        rows.push(vec!["layer".to_owned(), name.clone(), size]);
    }
    for digest in &outcome.blobs {
        let size = session.store.content().blob(digest)?.map_or_else(|| "-".to_owned(), |blob| output::size(blob.size()));
        rows.push(vec!["blob".to_owned(), digest.to_string(), size]);
    }
    Ok(output::rows(&rows))
}
