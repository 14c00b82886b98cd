//! Locks between processes and threads, each on a file of its own in the store's `locks/`: one unpacking per layer, one commit per
//! tree, one collection at a time, one holder per lease, one pull per image.
//!
//! They are the kernel's (`flock`): they end with the process, however it ends, and none is ever broken by a timeout. Holding one says
//! nothing about the database; whoever waited looks again. The file goes with its last holder. In a forked child, its parent's locks
//! are left alone: the child keeps the descriptor and so, as the kernel has it, the lock, until it executes something or ends.

use std::sync::Arc;

use crate::digest::{DiffId, Digest};
use crate::error::{ErrorKind, Result};
use crate::sys::flock::{Flock, Sharing};
use crate::sys::{Dir, inode};
use crate::tree::TreeId;

/// The store's lock files. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Locks(Arc<Dir>);

/// What is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject<'a> {
    /// A layer by what it is, whatever it stands on: who holds it, unpacks it.
    Layer(&'a DiffId),
    /// A writable tree that is being frozen.
    Tree(TreeId),
    /// Looking for what nothing reaches, and deleting what lies in the trash.
    Collection,
    /// A lease that lives while this is held.
    Lease(i64),
    /// An image, by its manifest, whose blobs are being brought in.
    Pull(&'a Digest),
}

/// A held lock; released when it is dropped.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub(crate) struct Held {
    flock: Option<Flock>,
    directory: Locks,
    name: String,
    pid: u32,
}

impl Subject<'_> {
    fn file_name(self) -> String {
        match self {
            Self::Layer(diff_id) => format!("layer-{diff_id}"),
            Self::Tree(tree) => format!("tree-{tree}"),
            Self::Collection => "collection".to_owned(),
            Self::Lease(lease) => format!("lease-{lease}"),
            Self::Pull(manifest) => format!("pull-{manifest}"),
        }
    }
}

impl Subject<'_> {
    fn is_file_name(name: &str) -> bool {
        name == "collection" || ["layer-", "tree-", "lease-", "pull-"].iter().any(|prefix| name.starts_with(prefix))
    }
}

impl Locks {
    /// Locks with files in `directory`.
    pub(crate) fn new(directory: Dir) -> Self {
        Self(Arc::new(directory))
    }

    /// Waits until nobody else holds the lock, and holds it.
    ///
    /// # Errors
    /// `PermissionDenied`, `NoSpace`, `Io`.
    pub(crate) fn wait(&self, subject: Subject<'_>) -> Result<Held> {
        let name = subject.file_name();
        loop {
            let flock = Flock::wait(self.open(&name)?.into(), Sharing::Exclusive)?;
            if let Some(held) = self.still_named(flock, &name)? {
                return Ok(held);
            }
        }
    }

    /// The same, until `check` fails: for what may take as long as a layer or a collection.
    ///
    /// # Errors
    /// As [`wait`](Self::wait); those of `check`.
    pub(crate) fn wait_unless(&self, subject: Subject<'_>, check: &mut dyn FnMut() -> Result<()>) -> Result<Held> {
        let name = subject.file_name();
        loop {
            let flock = Flock::wait_unless(self.open(&name)?.into(), check)?;
            if let Some(held) = self.still_named(flock, &name)? {
                return Ok(held);
            }
        }
    }

    /// Holds the lock if nobody else does.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub(crate) fn attempt(&self, subject: Subject<'_>) -> Result<Option<Held>> {
        self.attempt_named(&subject.file_name())
    }

    fn attempt_named(&self, name: &str) -> Result<Option<Held>> {
        loop {
            let Ok(flock) = Flock::attempt(self.open(name)?.into(), Sharing::Exclusive)? else { return Ok(None) };
            if let Some(held) = self.still_named(flock, name)? {
                return Ok(Some(held));
            }
        }
    }

    /// Removes the files that killed holders left.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub(crate) fn sweep(&self) -> Result<()> {
        for entry in self.0.entries()? {
            let name = entry?.name;
            // Only names of ours; other files in this directory belong to others.
            let ours = std::str::from_utf8(&name).ok().filter(|name| Subject::is_file_name(name));
            if let Some(name) = ours {
                // Held by nobody: goes as it is dropped.
                drop(self.attempt_named(name)?);
            }
        }
        Ok(())
    }

    fn open(&self, name: &str) -> Result<std::fs::File> {
        loop {
            match self.0.open_file_rw(name.as_bytes()) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                opened => return opened,
            }
            match self.0.create_file(name.as_bytes(), 0o600) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // Whatever the umask: the next holder opens it by its name.
                created => return created.and_then(|file| inode::set_mode(&file, 0o600).map(|()| file)),
            }
        }
    }

    /// A lock on a file that its last holder has removed since it was opened excludes nobody.
    fn still_named(&self, flock: Flock, name: &str) -> Result<Option<Held>> {
        let held = inode::stat(&flock)?;
        if !self.0.stat(name.as_bytes())?.is_some_and(|named| named.same_inode(&held)) {
            return Ok(None);
        }
        let (directory, name, pid) = (self.clone(), name.to_owned(), std::process::id());
        Ok(Some(Held { flock: Some(flock), directory, name, pid }))
    }
}

impl Held {
    /// Whether this process took the lock, not the one that it was forked from.
    pub(crate) fn is_ours(&self) -> bool {
        self.pid == std::process::id()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(flock) = self.flock.take() else { return };
        if self.is_ours() {
            // First the name, while it is ours alone; then the lock.
            let _ = self.directory.0.unlink(self.name.as_bytes());
            drop(flock);
        } else {
            // To release it here would release it for the parent.
            std::mem::forget(flock);
        }
    }
}

#[cfg(test)]
mod tests;
