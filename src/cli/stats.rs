//! `stats` and `du`: how much there is, and who holds it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};

use super::output::{self, Failure};
use super::replacement::Replacement;
use super::session::Session;
use super::snapshots::shown;
use crate::error::Error;
use crate::store::Held;

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  plywood stats --prometheus -o /var/lib/prometheus/node-exporter/plywood.prom")]
pub(super) struct Stats {
    /// Walk what the database does not know: trees that are being written, that wait to be deleted, or that are lost
    #[arg(long)]
    pub(super) measure: bool,
    /// As Prometheus text, for a textfile collector
    #[arg(long, conflicts_with = "json")]
    prometheus: bool,
    /// Write to a file, which appears whole
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "prometheus")]
    output: Option<PathBuf>,
}

/// `stats [--measure] [--prometheus [-o FILE]]`
pub(super) fn stats(session: &Session<'_>, arguments: &Stats) -> Result<(), Failure> {
    let stats = match arguments.measure {
        true => session.run("measuring", None, |cx| session.store.measure_stats(cx))?.0,
        false => session.store.stats()?,
    };
    if arguments.prometheus {
        let text = stats.to_prometheus();
        let Some(path) = arguments.output.as_deref().filter(|path| *path != Path::new("-")) else {
            return session.output.result(&stats, text);
        };
        let mut file = Replacement::create(path)?;
        file.file.write_all(text.as_bytes()).map_err(|error| Error::io("write", error).at(path))?;
        return Ok(file.replace()?);
    }
    let count = |what: &str, count: u64, bytes: Option<u64>| {
        vec![what.to_owned(), count.to_string(), bytes.map_or_else(String::new, output::size)]
    };
    let held = |what: &str, held: Held| vec![what.to_owned(), String::new(), output::size(held.bytes())];
    let mut rows = vec![
        count("images", stats.images, None),
        count("references", stats.references, None),
        count("committed snapshots", stats.snapshots.committed, None),
        count("of these imported layers", stats.layers, None),
        count("active snapshots", stats.snapshots.active, stats.measured.map(|measured| measured.writable.bytes)),
        count("views", stats.snapshots.view, None),
        count("frozen trees", stats.trees.frozen, Some(stats.total.trees)),
        count("blobs", stats.blobs, Some(stats.total.blobs)),
        held("held by one image", stats.exclusive),
        held("by an image and others", stats.shared),
        held("by keys, names, leases", stats.kept),
        held("by nobody", stats.unused),
        count("leases", stats.leases, None),
        count("unfinished ingests", stats.ingests, Some(stats.ingest_bytes)),
        count("trees to be deleted", stats.trash.trees, stats.measured.map(|measured| measured.trash.bytes)),
        count("blobs to be deleted", stats.trash.blobs, None),
        count("lost trees", stats.lost, stats.measured.map(|measured| measured.lost.bytes)),
        count("damaged trees", stats.damaged.trees, None),
        count("damaged blobs", stats.damaged.blobs, None),
        vec!["database".to_owned(), String::new(), output::size(stats.database_bytes)],
    ];
    if stats.trees.unmade > 0 {
        rows.push(count("trees to be made", stats.trees.unmade, None));
    }
    if stats.trees.building > 0 {
        rows.push(count("trees being unpacked", stats.trees.building, None));
    }
    session.output.result(&stats, output::table(&["WHAT", "COUNT", "SIZE"], &rows))
}

/// `du`
pub(super) fn du(session: &Session<'_>) -> Result<(), Failure> {
    let usage = session.store.disk_usage()?;
    let row = |name: String, layers: String, size: Held, unique: Option<Held>, shared: Option<Held>| {
        let part = |held: Option<Held>| held.map_or_else(|| "-".to_owned(), |held| output::size(held.bytes()));
        vec![name, layers, output::size(size.trees), output::size(size.blobs), part(unique), part(shared)]
    };
    let mut rows = Vec::new();
    for image in &usage.images {
        let names: Vec<_> = image.references.iter().map(|name| shown(name)).collect();
        let (unique, shared) = (Some(image.unique), Some(image.shared));
        rows.push(row(names.join(", "), image.layers.to_string(), image.unique.and(image.shared), unique, shared));
    }
    let mut sum = |name: &str, held: Held, unique, shared| rows.push(row(name.to_owned(), "-".to_owned(), held, unique, shared));
    sum("(images)", usage.exclusive.and(usage.shared), Some(usage.exclusive), Some(usage.shared));
    sum("(keys, names, leases)", usage.kept, None, None);
    sum("(nobody)", usage.unused, None, None);
    sum("(all)", usage.total, None, None);
    session.output.result(&usage, output::table(&["IMAGE", "LAYERS", "TREES", "BLOBS", "UNIQUE", "SHARED"], &rows))
}
