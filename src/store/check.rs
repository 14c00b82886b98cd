//! `check`: the database against the directories against the blobs, and what of it is damaged; `repair`, which mends what a blob covers.
//!
//! **Quick** looks at structure, sizes and numbers of inodes. **Full** hashes every blob again and compares every tree, inode by inode
//! and byte by byte, with what its layer's own stream makes ([`Backend::verify`](crate::backend::Backend::verify)). Whatever is looked
//! at is leased meanwhile; no lock or transaction is held. Nothing is written but outlines, which go at once, and, once damage is known,
//! the fact: from then on nobody is handed that tree as healthy.

mod findings;
mod parallel;
mod repair;
mod structure;
mod trees;

use std::num::NonZeroUsize;
use std::sync::Mutex;

pub use findings::{CheckOutcome, Damage, Finding, Remedy};

use tracing::field::Empty;

use super::Store;
use super::lease::Lease;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{DATABASE, Survives};
use crate::progress::Context;
use crate::span::verb;
use crate::tree::TreeId;

const OP: &str = "check";

/// How many rows are written in one transaction.
const BATCH: usize = 64;

/// How [`Store::check`] looks, and whether it mends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckOptions {
    /// Hashes every blob and compares every tree with its layer. `false` by default: structure, sizes and numbers of inodes alone.
    pub full: bool,
    /// Mends what can be mended. `false` by default.
    pub repair: bool,
    /// How many threads read at once; as many as there are processors, at most eight, by default.
    pub threads: Option<NonZeroUsize>,
}

impl CheckOptions {
    /// Looks at every byte.
    #[must_use]
    pub fn full(mut self) -> Self {
        self.full = true;
        self
    }

    /// Mends what can be mended.
    #[must_use]
    pub fn repair(mut self) -> Self {
        self.repair = true;
        self
    }

    /// With so many threads.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    fn workers(&self) -> NonZeroUsize {
        let most = NonZeroUsize::MIN.saturating_add(7);
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN).min(most))
    }
}

/// One check under way.
struct Check<'a> {
    store: &'a Store,
    options: &'a CheckOptions,
    cx: &'a Context<'a>,
    lease: &'a Lease,
    outcome: Mutex<CheckOutcome>,
}

impl Store {
    /// Looks for damage, and mends it where that is asked for. Safe beside every other verb, in this process and others. What is
    /// found damaged is remembered: [`prepare`](Self::prepare), [`view`](Self::view), [`diff`](Self::diff) and
    /// [`export`](Self::export) refuse it as `Corrupt` until it is mended, imported again, or found whole by a full check.
    ///
    /// A tree is mended by a new one that is unpacked from its layer's blob and takes its place: what a running container has mounted
    /// never changes, and stays for as long as its key is there. What no blob covers stays as it is.
    ///
    /// In a store that [cannot be written](Self::read_only_reason) a full check hashes the blobs; its trees, which are compared with a tree
    /// that is made for it, are counted as not compared. What is found is told and not remembered.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// use plywood::store::CheckOptions;
    ///
    /// let outcome = store.check(&CheckOptions::default().full(), &Default::default())?;
    /// assert!(outcome.is_sound(), "{:?}", outcome.findings);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// What keeps it from looking; damage is no error. `Cancelled`, `PermissionDenied`, `NoSpace` (a full check needs inodes), `Io`.
    pub fn check(&self, options: &CheckOptions, cx: &Context<'_>) -> Result<CheckOutcome> {
        let (full, repair) = (options.full, options.repair);
        verb!("check", full, repair, findings = Empty, bytes = Empty, entries = Empty).count(cx, |span, cx| {
            let outcome = self.check_now(options, cx)?;
            span.record("findings", outcome.findings.len());
            Ok(outcome)
        })
    }

    fn check_now(&self, options: &CheckOptions, cx: &Context<'_>) -> Result<CheckOutcome> {
        if options.repair {
            self.refuse_read_only(OP)?;
        }
        let lease = self.with_reserve(|| self.lease())?;
        let check = Check { store: self, options, cx, lease: &lease, outcome: Mutex::default() };
        let done = check.run();
        let outcome = check.outcome.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let released = lease.release();
        let outcome = match done {
            // The database does not even let itself be read.
            Err(error) if error.kind() == ErrorKind::Corrupt && is_of_database(&error) => outcome.with_database(self, &error),
            done => done.map(|()| outcome)?,
        };
        released?;
        Ok(outcome)
    }
}

fn is_of_database(error: &Error) -> bool {
    error.path().is_some_and(|path| path.as_os_str() == DATABASE)
}

impl Check<'_> {
    fn run(&self) -> Result<()> {
        self.database()?;
        self.keep_all()?;
        let mut seen = self.structure()?;
        if self.options.full {
            self.hash_blobs(&mut seen)?;
            self.compare_trees(&mut seen)?;
        }
        self.remember(&seen)?;
        if self.options.repair {
            self.repair(&seen)?;
        }
        let mut outcome = self.outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        outcome.sort();
        Ok(())
    }

    fn is_read_only(&self) -> bool {
        self.store.read_only_reason().is_some()
    }

    /// Leases all there is to look at, a few rows at a time.
    fn keep_all(&self) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        let (trees, blobs) = {
            let reader = self.store.metadata().read()?;
            let trees: Vec<TreeId> = reader.all_trees()?.into_iter().map(|(tree, _)| tree).collect();
            (trees, reader.blob_digests()?)
        };
        for batch in trees.chunks(BATCH) {
            let transaction = self.store.metadata().write_to_survive(Survives::Process)?;
            batch.iter().try_for_each(|&tree| transaction.lease_tree_if_there(self.lease.id(), tree))?;
            transaction.commit()?;
        }
        for batch in blobs.chunks(BATCH) {
            let transaction = self.store.metadata().write_to_survive(Survives::Process)?;
            batch.iter().try_for_each(|digest| transaction.lease_blob_if_there(self.lease.id(), digest))?;
            transaction.commit()?;
        }
        Ok(())
    }

    /// Writes down what is damaged, and what was thought to be and is whole.
    fn remember(&self, seen: &Seen) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        let known = {
            let reader = self.store.metadata().read()?;
            (reader.damaged_trees()?, reader.damaged_blobs()?)
        };
        let news: Vec<News<'_>> = (seen.damaged_trees.iter().map(|(tree, reason)| News::Tree(*tree, Some(reason.as_str()))))
            .chain(seen.whole_trees.iter().filter(|tree| known.0.contains(tree)).map(|tree| News::Tree(*tree, None)))
            .chain(seen.damaged_blobs.iter().map(|(digest, reason)| News::Blob(digest, Some(reason.as_str()))))
            .chain(seen.whole_blobs.iter().filter(|digest| known.1.contains(digest)).map(|digest| News::Blob(digest, None)))
            .collect();
        for batch in news.chunks(BATCH) {
            let transaction = self.store.metadata().write_to_survive(Survives::PowerCut)?;
            for news in batch {
                match news {
                    News::Tree(tree, Some(reason)) => transaction.mark_tree_damaged(*tree, reason)?,
                    News::Tree(tree, None) => transaction.clear_tree_damage(*tree)?,
                    News::Blob(digest, Some(reason)) => transaction.mark_blob_damaged(digest, reason)?,
                    News::Blob(digest, None) => transaction.clear_blob_damage(digest)?,
                }
            }
            transaction.commit()?;
        }
        Ok(())
    }
}

enum News<'a> {
    Tree(TreeId, Option<&'a str>),
    Blob(&'a Digest, Option<&'a str>),
}

/// What the looking came to, for what comes after it.
#[derive(Debug, Default)]
struct Seen {
    /// With what is wrong.
    damaged_trees: std::collections::BTreeMap<TreeId, String>,
    /// Compared in full.
    whole_trees: Vec<TreeId>,
    damaged_blobs: std::collections::BTreeMap<Digest, String>,
    /// Hashed.
    whole_blobs: Vec<Digest>,
}
