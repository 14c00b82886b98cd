//! Watches an operation for the command: a bar on a terminal, and Ctrl-C.
//!
//! SIGINT and SIGTERM are blocked and taken by a thread: the first asks the operation to stop (it leaves nothing behind), the second
//! ends the process at once, which a store survives as it survives a power cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::signal::{SigSet, Signal};

use crate::progress::Progress;

const OF_MANY: &str = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
const SO_FAR: &str = "{msg} {spinner} {bytes} {bytes_per_sec}";

/// A bar, or nothing, and whether somebody wants the operation to end.
#[derive(Debug)]
pub(super) struct Watch {
    bar: ProgressBar,
    /// How many bytes the source has, until they have been read.
    source: AtomicU64,
    interrupted: Arc<AtomicBool>,
}

impl Watch {
    /// Watches an operation that is called `what`, which reads `total` bytes where that is known.
    pub(super) fn new(what: &str, total: Option<u64>, visible: bool) -> Self {
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let template = if total.is_some() { OF_MANY } else { SO_FAR };
        let bar = ProgressBar::with_draw_target(total, target).with_message(what.to_owned());
        set_style(&bar, template);
        if visible {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Self { bar, source: AtomicU64::new(total.unwrap_or(u64::MAX)), interrupted: take_signals() }
    }

    /// Takes the bar away.
    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Watch {
    fn bytes(&self, count: u64) {
        self.bar.inc(count);
        // What was read whole is read again to be unpacked; how much that will be is not known.
        if self.bar.position() > self.source.load(Ordering::Relaxed) {
            self.source.store(u64::MAX, Ordering::Relaxed);
            self.bar.unset_length();
            set_style(&self.bar, SO_FAR);
            self.bar.set_message("unpacking");
            self.bar.set_position(count);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

fn take_signals() -> Arc<AtomicBool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    if signals.thread_block().is_ok() {
        let seen = Arc::clone(&interrupted);
        std::thread::spawn(move || {
            while let Ok(signal) = signals.wait() {
                if seen.swap(true, Ordering::Relaxed) {
                    std::process::exit(128 + signal as i32);
                }
            }
        });
    }
    interrupted
}
