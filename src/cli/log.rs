//! `-v`: the library's `tracing` events on standard error, one line each; its spans when they end, with what was found.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Shows nothing without `-v`, what is done with one, all with two.
pub(super) fn install(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    // Only a second subscriber in the same process could make this fail, and there is none in a command.
    let _ = tracing::subscriber::set_global_default(Lines { level, next: AtomicU64::new(1), open: Mutex::default() });
}

struct Lines {
    level: Level,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Open>>,
}

/// A span that somebody still holds.
struct Open {
    name: &'static str,
    line: Line,
    holders: u64,
}

impl Lines {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level && metadata.target().starts_with("plywood")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut line = Line(String::new());
        span.record(&mut line);
        self.open().insert(id, Open { name: span.metadata().name(), line, holders: 1 });
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        if let Some(open) = self.open().get_mut(&span.into_u64()) {
            values.record(&mut open.line);
        }
    }

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        say(event.metadata().target(), &line);
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}

    fn clone_span(&self, id: &Id) -> Id {
        if let Some(open) = self.open().get_mut(&id.into_u64()) {
            open.holders += 1;
        }
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        let mut all = self.open();
        let Some(open) = all.get_mut(&id.into_u64()) else { return false };
        open.holders -= 1;
        if open.holders > 0 {
            return false;
        }
        let ended = all.remove(&id.into_u64());
        drop(all);
        if let Some(Open { name, line, .. }) = ended {
            say(&format!("plywood: {name}"), &line);
        }
        true
    }
}

fn say(what: &str, line: &Line) {
    // Nobody is left to be told when this fails.
    let _ = writeln!(std::io::stderr().lock(), "{what}:{}", line.0);
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
