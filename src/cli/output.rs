//! What the command prints: results on standard output, all else on standard error, both as text or as JSON.

use std::error::Error as _;
use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

use super::args::Global;
use crate::entry::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::progress::Report;
use crate::store::rfc3339;

/// How many skipped things are shown one by one; the rest is a number. JSON has what the report has.
const SHOWN: usize = 20;

/// Why the command ends with a status other than 0.
#[derive(Debug)]
pub(super) enum Failure {
    /// An operation of the library failed.
    Operation(Error),
    /// Whoever reads standard output is gone. That is no failure: `plywood images | head -1`.
    OutputClosed,
    /// A check found damage that stays, and has said so.
    Damaged,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Operation(error)
    }
}

impl Failure {
    /// Says where the store is that has no room, and what makes some.
    pub(super) fn on_full_disk(self, global: &Global) -> Self {
        match (self, super::unshare::store_root(global)) {
            (Self::Operation(error), Ok(root)) if error.kind() == ErrorKind::NoSpace && error.hint().is_none() => {
                let place = root.display().to_string().escape_debug().to_string();
                let hint = format!("the store is in {place}: `plywood remove`, `plywood rmi` and `plywood gc` make room there");
                Self::Operation(error.with_hint(hint))
            }
            (same, _) => same,
        }
    }

    /// What came of writing to standard output.
    pub(super) fn of_output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Operation(Error::io("write to standard output", error)),
        }
    }
}

/// The streams, and in which form things go there.
#[derive(Debug)]
pub(super) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    pub(super) fn new(global: &Global) -> Self {
        Self { json: global.json, quiet: global.quiet }
    }

    /// Standard output for bytes: a diff, a completion script.
    pub(super) fn sink(&self) -> impl Write + use<> {
        io::stdout().lock()
    }

    /// Whether standard output is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Whether results are JSON.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether progress is to be shown.
    pub(super) fn shows_progress(&self) -> bool {
        !self.quiet && !self.json && io::stderr().is_terminal()
    }

    /// The result: `value` as the one JSON document, or `text`.
    pub(super) fn result(&self, value: &impl Serialize, text: impl AsRef<str>) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let written = if self.json {
            serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from).and_then(|()| out.write_all(b"\n"))
        } else {
            out.write_all(text.as_ref().as_bytes())
        };
        written.and_then(|()| out.flush()).map_err(Failure::of_output)
    }

    /// A remark for people. None in JSON: what a script should know is in the document.
    pub(super) fn remark(&self, text: impl AsRef<str>) {
        if !self.quiet && !self.json {
            say(text.as_ref());
        }
    }

    /// What was skipped or clamped, one line each.
    pub(super) fn report(&self, report: &Report) {
        if self.quiet || self.json || report.is_empty() {
            return;
        }
        report.skipped.iter().take(SHOWN).for_each(|skipped| say(&format!("plywood: {skipped}")));
        let shown = SHOWN.min(report.skipped.len());
        let rest = report.total.saturating_sub(u64::try_from(shown).unwrap_or(u64::MAX));
        if rest > 0 {
            say(&format!("plywood: {rest} more were skipped or clamped; --json has {}", report.skipped.len()));
        }
    }

    /// Says why the command failed.
    pub(super) fn failure(&self, failure: &Failure) -> ExitCode {
        match failure {
            Failure::OutputClosed => ExitCode::SUCCESS,
            Failure::Damaged => ExitCode::from(3),
            Failure::Operation(error) if self.json => {
                say(&error_document(error).to_string());
                ExitCode::FAILURE
            }
            Failure::Operation(error) => {
                say(&error_text(error));
                ExitCode::FAILURE
            }
        }
    }
}

/// clap's complaint, or its help. As an error document where the arguments ask for JSON.
pub(super) fn usage(error: &clap::Error, json: bool) -> ExitCode {
    if error.use_stderr() && json {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let hint = error
            .render()
            .to_string()
            .lines()
            .skip(1)
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("; ");
        say(&document(ErrorKind::InvalidArgument, "read arguments", None, message, &[], Some(&hint)).to_string());
    } else {
        // Nobody is left to be told when this fails.
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn say(text: &str) {
    // As above.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn causes(error: &Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut above = error.to_string();
    let mut link = error.source();
    while let Some(cause) = link {
        let text = cause.to_string();
        // A link that only adds where it happened repeats the one below.
        if !above.contains(&text) {
            causes.push(text.clone());
            above = text;
        }
        link = cause.source();
    }
    causes
}

fn error_text(error: &Error) -> String {
    let mut text = format!("plywood: {error}");
    for cause in causes(error) {
        text.push_str(&format!("\n  cause: {cause}"));
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!("\n  hint: {hint}"));
    }
    text
}

fn error_document(error: &Error) -> Value {
    let path = error.path().map(|path| path.as_os_str().as_encoded_bytes().escape_ascii().to_string());
    document(error.kind(), error.op(), path.as_deref(), &error.to_string(), &causes(error), error.hint())
}

fn document(kind: ErrorKind, op: &str, path: Option<&str>, message: &str, causes: &[String], hint: Option<&str>) -> Value {
    json!({ "kind": kind.as_str(), "op": op, "path": path, "message": message, "causes": causes, "hint": hint })
}

/// Rows below a header; nothing but the header where there is none.
pub(super) fn table(header: &[&str], body: &[Vec<String>]) -> String {
    let header = header.iter().map(|title| (*title).to_owned()).collect();
    rows(&[&[header], body].concat())
}

/// Columns as wide as what is in them, two spaces apart; the last one is not filled up.
pub(super) fn rows(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let filled: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        text.push_str(filled.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// `1 layer`, `2 layers`.
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Bytes in the unit that fits: `17 B`, `2.4 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[allow(clippy::cast_precision_loss)] // one decimal is shown
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS.get(unit).unwrap_or(&"EiB"))
}

/// `2026-01-31T12:00:00Z`.
pub(super) fn time(time: Timestamp) -> String {
    rfc3339(Timestamp { nanoseconds: 0, ..time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |seconds| time(Timestamp::from_seconds(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(at(-1), "1969-12-31T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn sizes_are_in_the_unit_that_fits() {
        assert_eq!(
            [size(0), size(1023), size(1024), size(1_572_864), size(u64::MAX)],
            ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "16.0 EiB"]
        );
    }

    #[test]
    fn an_error_says_what_failed_where_and_why_then_causes_and_hint() {
        let error = Error::io("openat2", io::Error::from_raw_os_error(libc::EACCES)).at("/store").with_hint("ask root");
        let text = error_text(&error);
        assert_eq!(text.lines().count(), 3, "{text}");
        let above = Error::new(ErrorKind::IdNotMapped, "apply").because("f is 5:5 (member 1)");
        let above = above.with_source(Error::new(ErrorKind::IdNotMapped, "apply").because("f is 5:5"));
        assert_eq!(error_text(&above), "plywood: apply: f is 5:5 (member 1)");
        assert!(text.starts_with("plywood: openat2 /store: permission denied\n  cause: "), "{text}");
        let document = error_document(&error);
        assert_eq!(document["kind"], "PermissionDenied");
        assert_eq!(
            (&document["op"], &document["path"], &document["hint"]),
            (&json!("openat2"), &json!("/store"), &json!("ask root"))
        );
    }

    #[test]
    fn a_cause_that_the_message_quotes_is_not_said_again() {
        let cause = Error::new(ErrorKind::Unsupported, "setxattr").at("/x").because("no such attributes");
        let error = Error::new(ErrorKind::Unsupported, "choose backend").because(format!("{cause} here")).with_source(cause);
        assert_eq!(error_text(&error), "plywood: choose backend: setxattr /x: no such attributes here");
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["long".to_owned(), String::new()]];
        assert_eq!(table(&["X", "Y"], &rows), "X     Y\na     b\nlong\n");
    }
}
