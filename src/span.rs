//! Spans: what a verb does, told through `tracing` to whoever listens. The documentation of [`store`](crate::store) lists them.
//!
//! Every span has the target `plywood` and the level `INFO`. Where nobody listens a verb costs what asking for that costs: no field is
//! rendered, no clock is read, and the caller's own [`Context`] is used as it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tracing::Span;

use crate::error::Result;
use crate::progress::{Context, Progress};

/// A span of the level and target that all have, with the fields that all have: `verb!("commit", key = %key)`. Fields that are found
/// later are `tracing::field::Empty` here.
macro_rules! verb {
    ($name:literal $(, $($fields:tt)+)?) => {
        $crate::span::Verb::new(tracing::info_span!(
            target: "plywood",
            $name,
            $($($fields)+,)?
            duration = tracing::field::Empty,
            error = tracing::field::Empty,
        ))
    };
}
pub(crate) use verb;

/// A verb at work.
#[derive(Debug)]
pub(crate) struct Verb {
    span: Span,
    /// `None` where nobody listens.
    began: Option<Instant>,
}

impl Verb {
    pub(crate) fn new(span: Span) -> Self {
        let began = (!span.is_disabled()).then(Instant::now);
        Self { span, began }
    }

    /// Does the work within the span, and tells how long it took and why it failed. The work is given the span, for what it finds.
    pub(crate) fn run<T>(self, work: impl FnOnce(&Span) -> Result<T>) -> Result<T> {
        let done = self.span.in_scope(|| work(&self.span));
        if let Some(began) = self.began {
            self.span.record("duration", began.elapsed().as_secs_f64());
            if let Err(error) = &done {
                self.span.record("error", error.kind().as_str());
            }
        }
        done
    }

    /// The same, and tells how many bytes and entries the work reported to its [`Progress`]: the span has these two fields.
    pub(crate) fn count<T>(self, cx: &Context<'_>, work: impl FnOnce(&Span, &Context<'_>) -> Result<T>) -> Result<T> {
        if self.began.is_none() {
            return work(&self.span, cx);
        }
        let counted = Counted { progress: cx.progress(), bytes: AtomicU64::new(0), entries: AtomicU64::new(0) };
        let own = cx.apart(&counted);
        let done = self.run(|span| {
            let done = work(span, &own);
            span.record("bytes", counted.bytes.load(Ordering::Relaxed));
            span.record("entries", counted.entries.load(Ordering::Relaxed));
            done
        });
        cx.absorb(own.take_report());
        done
    }
}

/// The work of a thread, within the span of whoever starts it.
pub(crate) fn within<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let span = Span::current();
    move || span.in_scope(work)
}

/// Counts what it passes on.
struct Counted<'a> {
    progress: &'a dyn Progress,
    bytes: AtomicU64,
    entries: AtomicU64,
}

impl Progress for Counted<'_> {
    fn bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
        self.progress.bytes(count);
    }

    fn entries(&self, count: u64) {
        self.entries.fetch_add(count, Ordering::Relaxed);
        self.progress.entries(count);
    }

    fn is_cancelled(&self) -> bool {
        self.progress.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    /// Says so when it is shown.
    struct Shown<'a>(&'a AtomicU64);

    impl fmt::Display for Shown<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fetch_add(1, Ordering::Relaxed);
            f.write_str("shown")
        }
    }

    #[test]
    fn where_nobody_listens_no_field_is_rendered_no_clock_is_read_and_the_context_is_the_callers() {
        let shown = AtomicU64::new(0);
        let verb = tracing::subscriber::with_default(
            tracing::subscriber::NoSubscriber::default(),
            || verb!("test", key = %Shown(&shown), bytes = tracing::field::Empty, entries = tracing::field::Empty),
        );
        assert!(verb.began.is_none());
        let cx = Context::default();
        verb.count(&cx, |span, own| {
            span.record("key", tracing::field::display(Shown(&shown)));
            assert!(std::ptr::addr_eq(&raw const cx, std::ptr::from_ref(own)));
            Ok(())
        })
        .unwrap();
        assert_eq!(shown.into_inner(), 0);
    }
}
