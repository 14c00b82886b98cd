//! [`Chores`]: small pieces of work of one operation, done by whichever of its threads would wait for another one.
//!
//! A thread that hands on what it makes mostly waits, for room or for what comes; meanwhile it does what others would do later. Nobody
//! needs to do chores: who offers one does it itself where nobody has time, and waits for its own at the end.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What can be done by any thread, in any order.
pub(crate) type Chore = Box<dyn FnOnce() + Send>;

/// Chores that wait at once: enough to fill a wait, few enough for the descriptors and the memory that they hold.
const MOST: usize = 64;

/// Chores that wait for somebody who has time.
#[derive(Default)]
pub(crate) struct Chores {
    waiting: Mutex<VecDeque<Chore>>,
    changed: Condvar,
    hands: AtomicUsize,
}

/// A thread that does chores while it waits.
#[derive(Debug)]
#[must_use = "chores are offered as long as this is there"]
pub(crate) struct Hand<'a>(&'a Chores);

impl Chores {
    /// From now on the thread does chores while it waits.
    pub(crate) fn lend_hand(&self) -> Hand<'_> {
        self.hands.fetch_add(1, Ordering::AcqRel);
        Hand(self)
    }

    /// Whether another thread than those who offer would do any.
    pub(crate) fn are_wanted(&self) -> bool {
        self.hands.load(Ordering::Acquire) > 0 && self.lock().len() < MOST
    }

    /// Leaves a chore to whoever has time.
    pub(crate) fn offer(&self, chore: Chore) {
        self.lock().push_back(chore);
        self.changed.notify_one();
    }

    /// Does a chore, if one waits.
    pub(crate) fn do_one(&self) -> bool {
        let next = self.lock().pop_front();
        next.is_some_and(|chore| {
            chore();
            true
        })
    }

    /// Does chores until something has happened; who makes it happen calls [`tell`](Self::tell) then.
    pub(crate) fn until(&self, mut has_happened: impl FnMut() -> bool) {
        let mut waiting = self.lock();
        while !has_happened() {
            match waiting.pop_front() {
                Some(chore) => {
                    drop(waiting);
                    chore();
                    waiting = self.lock();
                }
                None => waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Something has happened that somebody may wait for.
    pub(crate) fn tell(&self) {
        // Who has just looked, and found nothing, waits by the time that this has the lock.
        drop(self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Chore>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Chores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chores").field("waiting", &self.lock().len()).field("hands", &self.hands).finish()
    }
}

impl Drop for Hand<'_> {
    fn drop(&mut self) {
        self.0.hands.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn who_waits_does_what_others_offer() {
        let (chores, done, is_over) = (Arc::new(Chores::default()), Arc::new(AtomicUsize::new(0)), AtomicBool::new(false));
        assert!(!chores.are_wanted(), "nobody would do them");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let _hand = chores.lend_hand();
                chores.until(|| is_over.load(Ordering::Acquire));
            });
            for _ in 0..1000 {
                let done = Arc::clone(&done);
                chores.offer(Box::new(move || {
                    done.fetch_add(1, Ordering::AcqRel);
                }));
            }
            while done.load(Ordering::Acquire) < 1000 {
                std::thread::yield_now();
            }
            is_over.store(true, Ordering::Release);
            chores.tell();
            waits.join().unwrap();
        });
        assert!(!chores.do_one() && !chores.are_wanted());
    }

    #[test]
    fn chores_are_not_wanted_without_end() {
        let chores = Chores::default();
        let _hand = chores.lend_hand();
        for _ in 0..MOST {
            assert!(chores.are_wanted());
            chores.offer(Box::new(|| {}));
        }
        assert!(!chores.are_wanted());
        assert!(chores.do_one() && chores.are_wanted());
    }
}
