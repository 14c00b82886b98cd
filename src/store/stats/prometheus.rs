//! The same as Prometheus text (exposition format 0.0.4), for a textfile collector.
//!
//! All are gauges: what they count goes down as well. Names end in the unit where there is one; a label says which store it is, so that
//! the files of several stores can stand side by side.

use std::fmt::Write as _;

use super::Stats;

/// One metric: name, help, and a value for each set of labels beside the store's.
struct Metric<'a> {
    name: &'static str,
    help: &'static str,
    values: &'a [(&'a [(&'static str, &'a str)], u64)],
}

impl Stats {
    /// The figures in Prometheus's text form. A file for a textfile collector is to appear whole: write another name and rename it, as
    /// `plywood stats --prometheus -o FILE` does. What was not [measured](super::Store::measure_stats) is left out.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// let text = store.stats()?.to_prometheus();
    /// assert!(text.contains("# TYPE plywood_blob_bytes gauge\nplywood_blob_bytes{store=\""));
    /// # Ok::<_, plywood::Error>(())
    /// ```
    pub fn to_prometheus(&self) -> String {
        let mut text = String::new();
        let mut metric = |name, help, values: &[(&[(&'static str, &str)], u64)]| {
            write(&mut text, &self.store, &Metric { name, help, values });
        };
        let version = env!("CARGO_PKG_VERSION");
        metric(
            "plywood_store_info",
            "The store's backend, and the version of plywood that counted.",
            &[(&[("backend", &self.backend), ("version", version)], 1)],
        );
        metric("plywood_images", "Images, each once however many references it has.", &[(&[], self.images)]);
        metric("plywood_image_references", "References of images.", &[(&[], self.references)]);
        metric(
            "plywood_snapshots",
            "Snapshots by kind.",
            &[
                (&[("kind", "committed")], self.snapshots.committed),
                (&[("kind", "active")], self.snapshots.active),
                (&[("kind", "view")], self.snapshots.view),
            ],
        );
        metric("plywood_layers", "Committed snapshots that an import made.", &[(&[], self.layers)]);
        metric(
            "plywood_trees",
            "Trees by state.",
            &[
                (&[("state", "frozen")], self.trees.frozen),
                (&[("state", "unmade")], self.trees.unmade),
                (&[("state", "writable")], self.trees.writable),
                (&[("state", "empty")], self.trees.empty),
                (&[("state", "building")], self.trees.building),
            ],
        );
        metric("plywood_tree_inodes", "Inodes of frozen trees.", &[(&[], self.tree_inodes)]);
        metric("plywood_tree_bytes", "Bytes allocated for frozen trees.", &[(&[], self.total.trees)]);
        metric("plywood_blobs", "Blobs.", &[(&[], self.blobs)]);
        metric("plywood_blob_bytes", "Bytes of blobs.", &[(&[], self.total.blobs)]);
        metric(
            "plywood_held_bytes",
            "Bytes of frozen trees and of blobs by who holds them: one image, an image and others, others alone, nobody.",
            &[
                (&[("holder", "one_image")], self.exclusive.bytes()),
                (&[("holder", "several")], self.shared.bytes()),
                (&[("holder", "others")], self.kept.bytes()),
                (&[("holder", "nobody")], self.unused.bytes()),
            ],
        );
        metric("plywood_leases", "Leases with a name whose time is not over.", &[(&[], self.leases)]);
        metric("plywood_ingests", "Unfinished ingests.", &[(&[], self.ingests)]);
        metric("plywood_ingest_bytes", "Bytes allocated for unfinished ingests.", &[(&[], self.ingest_bytes)]);
        metric(
            "plywood_trash",
            "What was removed and not yet deleted.",
            &[(&[("what", "trees")], self.trash.trees), (&[("what", "blobs")], self.trash.blobs)],
        );
        metric("plywood_lost_trees", "Trees in lost+found.", &[(&[], self.lost)]);
        metric(
            "plywood_damaged",
            "What a check found damaged and that is not mended.",
            &[(&[("what", "trees")], self.damaged.trees), (&[("what", "blobs")], self.damaged.blobs)],
        );
        metric("plywood_database_bytes", "Bytes allocated for the database and its log.", &[(&[], self.database_bytes)]);
        if let Some(measured) = &self.measured {
            let parts = [("writable", measured.writable), ("trash", measured.trash), ("lost", measured.lost)];
            let [one, two, three] = parts.map(|(what, usage)| ([("what", what)], usage));
            let measured = [&one, &two, &three];
            let inodes = measured.map(|(labels, usage)| (labels.as_slice(), usage.inodes));
            let bytes = measured.map(|(labels, usage)| (labels.as_slice(), usage.bytes));
            metric("plywood_measured_inodes", "Inodes of trees that are not frozen.", &inodes);
            metric("plywood_measured_bytes", "Bytes allocated for trees that are not frozen.", &bytes);
        }
        text
    }
}

fn write(text: &mut String, store: &str, Metric { name, help, values }: &Metric<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    for (labels, value) in *values {
        let _ = write!(text, "{name}{{store=\"{}\"", escaped(store));
        for (label, of) in *labels {
            let _ = write!(text, ",{label}=\"{}\"", escaped(of));
        }
        let _ = writeln!(text, "}} {value}");
    }
}

/// A label's value: backslash, quote and line feed are escaped.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Usage;
    use crate::store::stats::Measured;
    use std::collections::BTreeSet;

    type Sample<'a> = (&'a str, Vec<(&'a str, String)>, u64);

    /// A line `name{label="value",…} number`: the name, the labels and the number; `None` for what is none.
    fn sample(line: &str) -> Option<Sample<'_>> {
        let (name, rest) = line.split_once('{')?;
        let mut labels = Vec::new();
        let mut rest = rest;
        loop {
            let (label, after) = rest.split_once("=\"")?;
            let mut value = String::new();
            let mut characters = after.chars();
            loop {
                match characters.next()? {
                    '"' => break,
                    '\n' => return None,
                    '\\' => value.push(match characters.next()? {
                        'n' => '\n',
                        same @ ('\\' | '"') => same,
                        _ => return None,
                    }),
                    character => value.push(character),
                }
            }
            labels.push((label, value));
            rest = characters.as_str();
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        Some((name, labels, rest.strip_prefix("} ")?.parse().ok()?))
    }

    fn is_name(name: &str) -> bool {
        let of = |character: char| character.is_ascii_lowercase() || character == '_';
        !name.is_empty() && name.chars().all(of)
    }

    #[test]
    fn what_is_written_is_the_exposition_format_with_the_conventions_of_its_names() {
        let store = "/srv/a \"b\\c\"\nd";
        let measured = Some(Measured { writable: Usage::new(1, 2), ..Measured::default() });
        let stats = Stats { store: store.to_owned(), backend: "overlay".to_owned(), measured, ..Stats::default() };
        let text = stats.to_prometheus();
        assert!(text.ends_with('\n'));
        let mut seen = BTreeSet::new();
        let mut current = None;
        let mut series = BTreeSet::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').unwrap();
                assert!(is_name(name) && name.starts_with("plywood_") && words.ends_with('.') && !words.contains('\\'), "{line}");
                assert!(seen.insert(name), "{name} stands there twice");
                // Gauges: only counters end in _total. No unit but the base units.
                assert!(!name.ends_with("_total") && !name.contains("_kb") && !name.contains("_mib"), "{name}");
                assert_eq!(name.contains("byte"), name.ends_with("_bytes"), "{name}");
                current = Some(name);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                assert_eq!(kind.split_once(' '), current.map(|name| (name, "gauge")), "{line}");
            } else {
                let (name, labels, _) = sample(line).unwrap_or_else(|| panic!("{line}"));
                assert_eq!(Some(name), current, "a metric's samples stand together");
                assert_eq!(labels[0], ("store", store.to_owned()), "{line}");
                assert!(labels.iter().all(|(label, _)| is_name(label)), "{line}");
                assert!(series.insert((name, labels)), "{line} stands there twice");
            }
        }
        assert!(text.contains(",what=\"writable\"} 2\n"), "{text}");
        assert!(!Stats { measured: None, ..stats }.to_prometheus().contains("measured"));
    }
}
