//! Jobs that make more jobs, done by a few threads that end with the call.

use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::span::within;

struct State<J> {
    /// The last comes first: what a job made is done before what was there.
    jobs: Vec<J>,
    busy: usize,
    failed: Option<Error>,
}

/// A thread at work. However it ends, the others do not wait for what it might have handed in.
struct Busy<'a, J> {
    state: &'a Mutex<State<J>>,
    changed: &'a Condvar,
}

impl<J> Drop for Busy<'_, J> {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.busy = state.busy.saturating_sub(1);
        drop(state);
        self.changed.notify_all();
    }
}

/// Does all jobs; `work` may hand in more by its second argument. After the first error no job is begun.
pub(super) fn in_parallel<J: Send>(
    threads: NonZeroUsize,
    jobs: Vec<J>,
    work: impl Fn(J, &dyn Fn(J)) -> Result<()> + Sync,
) -> Result<()> {
    let threads = threads.get();
    let state = Mutex::new(State { jobs, busy: 0, failed: None });
    let changed = Condvar::new();
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let more = |job| {
        lock().jobs.push(job);
        changed.notify_one();
    };
    let next = || {
        let mut state = lock();
        loop {
            if state.failed.is_some() {
                return None;
            }
            if let Some(job) = state.jobs.pop() {
                state.busy = state.busy.saturating_add(1);
                return Some(job);
            }
            if state.busy == 0 {
                return None;
            }
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    };
    let run = || {
        while let Some(job) = next() {
            let busy = Busy { state: &state, changed: &changed };
            if let Err(error) = work(job, &more) {
                lock().failed.get_or_insert(error);
            }
            drop(busy);
        }
    };
    if threads == 1 {
        run();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(within(run));
            }
        });
    }
    let mut state = lock();
    let failed = state.failed.take();
    drop(state);
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn jobs_of_jobs_are_done_and_an_error_ends_it() {
        for threads in [1, 2, 7] {
            let threads = NonZeroUsize::new(threads).unwrap();
            let sum = AtomicU64::new(0);
            let done = in_parallel(threads, vec![10u64, 5], |job, more| {
                sum.fetch_add(job, Ordering::SeqCst);
                if job > 0 {
                    more(job - 1);
                }
                Ok(())
            });
            done.unwrap();
            assert_eq!(sum.into_inner(), 55 + 15);
            let failed = in_parallel(threads, vec![3u64], |job, more| match job {
                0 => Err(Error::new(ErrorKind::Cancelled, "test")),
                _ => {
                    more(job - 1);
                    Ok(())
                }
            });
            assert_eq!(failed.unwrap_err().kind(), ErrorKind::Cancelled);
        }
    }
}
