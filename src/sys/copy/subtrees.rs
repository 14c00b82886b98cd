//! What several threads that copy one tree know of each other: subtrees that wait for a thread, and hardlink groups.
//!
//! A thread gives a directory away only when another has nothing to do, so that there are never more open directories than threads could
//! use. An inode with several names is copied by whoever meets it first; who meets its other names meanwhile waits for that. A failure
//! ends the work of all, and the first one counts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::sys::{Dir, Root};

/// A directory that was made in the copy, and is to be filled.
pub(super) struct Subtree {
    pub(super) from: Dir,
    pub(super) to: Dir,
    /// From the top of the copy.
    pub(super) path: EntryPath,
}

/// Asked between two steps, by any thread; its error ends the work.
pub(crate) type SharedCheck<'a> = &'a (dyn Fn() -> Result<()> + Sync);

pub(super) struct Shared<'a> {
    /// The copy, to look names of hardlink groups up in.
    pub(super) root: Root,
    check: SharedCheck<'a>,
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// Whether more threads have nothing to do than subtrees wait.
    is_wanted: AtomicBool,
    first: Mutex<HashMap<Key, First>>,
    copied: Condvar,
    has_failed: AtomicBool,
    failure: Mutex<Option<Error>>,
}

struct Waiting {
    subtrees: Vec<Subtree>,
    /// Threads that are copying one.
    busy: usize,
    /// Threads that have nothing to do.
    idle: usize,
}

/// A thread's work on a subtree. Others do not wait for what it would have done where it panics.
struct Turn<'a>(Option<&'a Shared<'a>>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.done(Err(Error::new(ErrorKind::Io, "copy tree").because("a thread ended early")));
        }
    }
}

/// The first name of an inode with several names.
enum First {
    /// Somebody is at it.
    Copying,
    /// Where it was copied to, and how many names are still to come.
    Copied(EntryPath, u32),
}

/// What is to be done with a name of an inode that has several.
pub(super) enum Named {
    /// It is the first: it is copied, and [`Shared::settle`] says so.
    First,
    /// It is a link to this one.
    Link(EntryPath),
}

impl<'a> Shared<'a> {
    pub(super) fn new(root: Root, top: Subtree, check: SharedCheck<'a>) -> Self {
        Self {
            root,
            check,
            waiting: Mutex::new(Waiting { subtrees: vec![top], busy: 0, idle: 0 }),
            changed: Condvar::new(),
            is_wanted: AtomicBool::new(false),
            first: Mutex::default(),
            copied: Condvar::new(),
            has_failed: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// What the caller says, or that another thread has failed.
    pub(super) fn check(&self) -> Result<()> {
        if self.has_failed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Cancelled, "copy tree").because("another part of the tree could not be copied"));
        }
        (self.check)()
    }

    /// Whether somebody would take a subtree at once.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// Gives a subtree away.
    pub(super) fn hand_over(&self, subtree: Subtree) {
        let mut waiting = lock(&self.waiting);
        waiting.subtrees.push(subtree);
        self.tell(&waiting);
        drop(waiting);
        self.changed.notify_one();
    }

    fn tell(&self, waiting: &Waiting) {
        self.is_wanted.store(waiting.idle > waiting.subtrees.len(), Ordering::Relaxed);
    }

    /// Copies one subtree after the other, until all are copied or one could not be.
    pub(super) fn work(&self, copy: &mut dyn FnMut(Subtree) -> Result<()>) {
        while let Some(subtree) = self.next() {
            let mut turn = Turn(Some(self));
            let outcome = copy(subtree);
            turn.0 = None;
            self.done(outcome);
        }
    }

    /// The next subtree; none when all is copied, or nobody goes on.
    fn next(&self) -> Option<Subtree> {
        let mut waiting = lock(&self.waiting);
        loop {
            if self.has_failed.load(Ordering::Acquire) {
                return None;
            }
            if let Some(subtree) = waiting.subtrees.pop() {
                waiting.busy = waiting.busy.saturating_add(1);
                self.tell(&waiting);
                return Some(subtree);
            }
            if waiting.busy == 0 {
                return None;
            }
            waiting.idle = waiting.idle.saturating_add(1);
            self.tell(&waiting);
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            waiting.idle = waiting.idle.saturating_sub(1);
            self.tell(&waiting);
        }
    }

    /// A subtree is copied, or not.
    fn done(&self, outcome: Result<()>) {
        if let Err(error) = outcome {
            let mut failure = lock(&self.failure);
            if failure.is_none() && !self.has_failed.swap(true, Ordering::AcqRel) {
                *failure = Some(error);
            }
            drop(failure);
            // Under its lock: who looked before it failed is waiting by now.
            drop(lock(&self.first));
            self.copied.notify_all();
        }
        let mut waiting = lock(&self.waiting);
        waiting.busy = waiting.busy.saturating_sub(1);
        drop(waiting);
        self.changed.notify_all();
    }

    pub(super) fn into_result(self) -> Result<()> {
        self.failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// What a name of an inode with several names is. Waits for whoever copies the first one.
    pub(super) fn name(&self, key: Key) -> Result<Named> {
        let mut first = lock(&self.first);
        loop {
            match first.get_mut(&key) {
                None => {
                    first.insert(key, First::Copying);
                    return Ok(Named::First);
                }
                Some(First::Copying) => {
                    if self.has_failed.load(Ordering::Acquire) {
                        return Err(Error::new(ErrorKind::Cancelled, "copy tree"));
                    }
                    first = self.copied.wait(first).unwrap_or_else(PoisonError::into_inner);
                }
                Some(First::Copied(path, left)) => {
                    let path = path.clone();
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        first.remove(&key);
                    }
                    return Ok(Named::Link(path));
                }
            }
        }
    }

    /// The name that was the first is copied to this path, and so many names are still to come; or it is not copied.
    pub(super) fn settle(&self, key: Key, copied: Option<(EntryPath, u32)>) {
        let mut first = lock(&self.first);
        match copied {
            Some((path, left)) if left > 0 => {
                first.insert(key, First::Copied(path, left));
            }
            _ => {
                first.remove(&key);
            }
        }
        drop(first);
        self.copied.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
