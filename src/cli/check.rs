//! `check`: one line for each finding, which names the path; what it all came to on standard error.

use super::output::{self, Failure};
use super::session::Session;
use crate::store::CheckOptions;

/// `check [--full] [--repair]`
pub(super) fn check(session: &Session<'_>, full: bool, repair: bool) -> Result<(), Failure> {
    let mut options = CheckOptions::default();
    (options.full, options.repair) = (full, repair);
    let (outcome, _) = session.run("checking", None, |cx| session.store.check(&options, cx))?;
    let lines: String = outcome.findings.iter().map(|finding| format!("{finding}\n")).collect();
    session.output.result(&outcome, lines)?;
    let stays = outcome.findings.iter().filter(|finding| finding.stays()).count();
    let count = |number: u64, what: &str| output::count(usize::try_from(number).unwrap_or(usize::MAX), what);
    let depth = match full {
        true => format!("{} compared, {} hashed", count(outcome.compared, "tree"), count(outcome.hashed, "blob")),
        false => "structure, sizes and numbers of inodes alone".to_owned(),
    };
    let mut remark = format!("plywood: {}, {}: {depth}", count(outcome.trees, "tree"), count(outcome.blobs, "blob"));
    if outcome.unproven > 0 {
        remark += &format!("; {} with nothing to compare it with", count(outcome.unproven, "tree"));
    }
    if outcome.omitted > 0 {
        remark += &format!("; {} not shown", count(outcome.omitted, "finding"));
    }
    if stays > 0 && !repair {
        remark += "; `plywood check --full --repair` mends what a blob covers";
    }
    session.output.remark(remark);
    if outcome.is_sound() { Ok(()) } else { Err(Failure::Damaged) }
}
