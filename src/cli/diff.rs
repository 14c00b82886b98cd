//! What a snapshot changes in its parent: as a list, and as a layer.

use std::io::Write as _;
use std::path::Path;

use serde_json::json;

use super::args::{CompressionName, Diff};
use super::output::Failure;
use super::replacement::Replacement;
use super::session::{Session, source_date_epoch};
use crate::compression::Compression;
use crate::entry::Status;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{DiffOptions, DiffOutcome};

/// `changes KEY`: as `docker diff` has it.
pub(super) fn changes(session: &Session<'_>, key: &str) -> Result<(), Failure> {
    let name = session.store.resolve(key)?;
    let mut all = Vec::new();
    let (_, report) = session.run("comparing", None, |cx| {
        session.store.changes(name.as_str(), cx, |changed| {
            all.push(changed);
            Ok(())
        })
    })?;
    let mut text = String::new();
    for changed in &all {
        let letter = match changed.status {
            Status::Added => 'A',
            Status::Modified => 'C',
            Status::Deleted => 'D',
        };
        let path = if changed.path.is_root() { String::new() } else { changed.path.to_string() };
        text.push_str(&format!("{letter} /{path}\n"));
    }
    session.output.result(&json!({ "changes": all, "report": report }), text)
}

/// `diff KEY [-o FILE] [--compression none|gzip|zstd]`
pub(super) fn diff(session: &Session<'_>, arguments: Diff) -> Result<(), Failure> {
    let name = session.store.resolve(&arguments.key)?;
    let compression = match arguments.compression {
        CompressionName::None => Compression::None,
        CompressionName::Gzip => Compression::Gzip,
        CompressionName::Zstd => Compression::Zstd,
    };
    let mut options = DiffOptions::default().compression(compression);
    options.clamp_mtime = source_date_epoch()?;
    let Some(path) = arguments.output.filter(|path| path != Path::new("-")) else {
        return to_standard_output(session, name.as_str(), &options);
    };
    let file = Replacement::create(&path)?;
    let (outcome, _) = session.run("writing", None, |cx| session.store.diff(name.as_str(), &file.file, &options, cx))?;
    file.replace()?;
    session.output.report(&outcome.report);
    let text = format!("{}\n", outcome.descriptor.digest);
    session.output.result(&document(&outcome, Some(&path)), text)
}

fn to_standard_output(session: &Session<'_>, name: &str, options: &DiffOptions) -> Result<(), Failure> {
    if session.output.is_terminal() {
        return Err(Error::new(ErrorKind::InvalidArgument, "diff")
            .at(name)
            .because("a layer is not written to a terminal")
            .with_hint("name a file with -o FILE, or let another program read it")
            .into());
    }
    if session.output.is_json() {
        return Err(Error::new(ErrorKind::InvalidArgument, "diff")
            .at(name)
            .because("with --json the document goes to standard output, so the layer cannot")
            .with_hint("name a file with -o FILE")
            .into());
    }
    let mut sink = session.output.sink();
    let (outcome, _) = session.run("writing", None, |cx| session.store.diff(name, &mut sink, options, cx))?;
    sink.flush().map_err(Failure::of_output)?;
    session.output.report(&outcome.report);
    session.output.remark(format!("plywood: {} {}", outcome.descriptor.digest, outcome.diff_id));
    Ok(())
}

fn document(outcome: &DiffOutcome, path: Option<&Path>) -> serde_json::Value {
    json!({
        "descriptor": outcome.descriptor,
        "diff_id": outcome.diff_id,
        "path": path.map(Path::to_string_lossy),
        "report": outcome.report,
    })
}
