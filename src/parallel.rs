//! How many threads an operation works with, and which of its parts has one.
//!
//! Threads are started inside a call and have ended when it returns. No result depends on their number.

mod chores;

pub(crate) use chores::Chores;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many threads an operation works with, the caller's among them: with one none are started, but for one of libzstd's own while zstd is
/// written, whose bytes would else be others than with several. As many as there are processors by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parallelism(NonZeroUsize);

impl Parallelism {
    /// The caller's thread alone.
    pub const ONE: Self = Self(NonZeroUsize::MIN);

    /// So many threads; 0 is one.
    pub const fn new(threads: usize) -> Self {
        match NonZeroUsize::new(threads) {
            Some(threads) => Self(threads),
            None => Self::ONE,
        }
    }

    /// So many threads.
    pub const fn get(self) -> usize {
        self.0.get()
    }
}

impl Default for Parallelism {
    fn default() -> Self {
        std::thread::available_parallelism().map_or(Self::ONE, Self)
    }
}

/// The threads that the parts of one operation may start yet. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Crew(Arc<AtomicUsize>);

/// The right to one thread, given back when it is dropped.
#[derive(Debug)]
#[must_use = "the thread's place is given back when this is dropped"]
pub(crate) struct Seat(Crew);

impl Crew {
    pub(crate) fn new(parallelism: Parallelism) -> Self {
        Self(Arc::new(AtomicUsize::new(parallelism.get().saturating_sub(1))))
    }

    /// A place for one more thread, if there is one.
    pub(crate) fn take(&self) -> Option<Seat> {
        self.fill_place().then(|| Seat(self.clone()))
    }

    /// Whether there was a place, which is filled now.
    fn fill_place(&self) -> bool {
        self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |free| free.checked_sub(1)).is_ok()
    }

    /// The caller's own place for the others, while it waits for them: they have ended when this is dropped.
    pub(crate) fn lend(&self) -> Lent {
        drop(Seat(self.clone()));
        Lent(self.clone())
    }
}

/// The place of a thread that waits.
#[derive(Debug)]
#[must_use = "the place is taken back when this is dropped"]
pub(crate) struct Lent(Crew);

impl Drop for Lent {
    fn drop(&mut self) {
        // It is filled by who waited, with no seat that could be given back once more.
        self.0.fill_place();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_threads_as_were_allowed_and_no_more() {
        assert!(Crew::new(Parallelism::new(0)).take().is_none());
        let crew = Crew::new(Parallelism::new(3));
        let (one, other) = (crew.take(), crew.clone().take());
        assert!(one.is_some() && other.is_some() && crew.take().is_none());
        drop(one);
        assert!(crew.take().is_some());
        drop(other);
    }

    #[test]
    fn who_waits_lends_its_place_and_has_it_back() {
        let crew = Crew::new(Parallelism::ONE);
        let lent = crew.lend();
        let seat = crew.take();
        assert!(seat.is_some() && crew.take().is_none());
        drop(seat);
        drop(lent);
        assert!(crew.take().is_none());
    }
}
