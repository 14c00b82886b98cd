//! The blob store: bytes come in through an [`Ingest`], are checked, and only then have a name.
//!
//! ```text
//! blobs/<algorithm>/<hex>   published: exactly the bytes of that digest, durable, never written again
//! ingest/<algorithm>-<hex>  on its way, resumable; whoever writes holds the file's lock
//! ingest/new-<n>-<n>        on its way, its digest not known before its end; worthless once nobody holds its lock
//! ingest/new-gone-<hex>     a blob that was removed and is about to be deleted
//! ```
//!
//! Invariant: a [`Blob`] exists only for bytes whose digest and size were checked, here or by the process that published them.
//! Publication is: sync the file, rename it to a name that was free, sync the directory; a crash leaves an ingest or a blob. However
//! many ask for one digest, one writes; the others wait for its lock and find the blob. Which blobs are still needed is left to the
//! store.

mod blob;
mod ingest;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use blob::{Blob, BlobReader};
pub use ingest::Ingest;
use ingest::Suspended;

use crate::descriptor::Descriptor;
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Context;
use crate::sys::flock::{Flock, Sharing};
use crate::sys::{Dir, inode};

const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

/// How an ingest's name begins whose digest is not known before its end.
const UNNAMED: &[u8] = b"new-";

/// The mode of an ingest, and of the blob that it becomes.
const MODE: u32 = 0o600;

/// The mode of an ingest that is to be deleted when it is dropped: when its process is killed, too.
const DISCARDED: u32 = 0o700;

/// How many dropped ingests keep the state of their hash, and with it a descriptor.
const SUSPENDED_MAX: usize = 16;

/// The blobs of one store, published and on their way.
///
/// Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub struct Content(Arc<Inner>);

struct Inner {
    sha256: Dir,
    sha512: Dir,
    ingests: Dir,
    suspended: Mutex<VecDeque<Suspended>>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").finish_non_exhaustive()
    }
}

/// What is known of bytes before they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    algorithm: Algorithm,
    digest: Option<Digest>,
    size: Option<u64>,
}

impl Expected {
    /// Bytes of this digest.
    pub fn digest(digest: Digest) -> Self {
        Self { algorithm: digest.algorithm(), digest: Some(digest), size: None }
    }

    /// Bytes of which nothing is known; they get a digest of `algorithm`.
    pub fn unknown(algorithm: Algorithm) -> Self {
        Self { algorithm, digest: None, size: None }
    }

    /// The same bytes, of which there are `size`.
    #[must_use]
    pub fn size(self, size: u64) -> Self {
        Self { size: Some(size), ..self }
    }
}

impl Expected {
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(crate) fn known_digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    pub(crate) fn known_size(&self) -> Option<u64> {
        self.size
    }

    /// Refuses bytes that are known to be others.
    ///
    /// # Errors
    /// `DigestMismatch`.
    pub(crate) fn refuse_other(&self, digest: &Digest, size: u64) -> Result<()> {
        if let Some(expected) = self.digest.as_ref().filter(|expected| *expected != digest) {
            return Err(Error::new(ErrorKind::DigestMismatch, "ingest")
                .at(expected.to_string())
                .because(format!("the bytes have the digest {digest}")));
        }
        match self.size {
            Some(expected) if expected != size => Err(wrong_size(digest, expected, size)),
            _ => Ok(()),
        }
    }
}

impl From<&Descriptor> for Expected {
    fn from(descriptor: &Descriptor) -> Self {
        Self::digest(descriptor.digest.clone()).size(descriptor.size)
    }
}

/// What came of asking for bytes that are to come in.
#[derive(Debug)]
#[must_use]
pub enum Started {
    /// They are there already.
    Present(Blob),
    /// They are to be written, from [`Ingest::offset`] on.
    Ingest(Ingest),
}

/// Bytes of a blob that has no name any more.
#[derive(Debug)]
#[must_use = "the bytes are still there"]
pub(crate) struct Aside(Vec<u8>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Begin {
    WhereItStopped,
    Afresh,
}

/// A blob, and whether this call brought it.
#[derive(Clone, Debug)]
pub(crate) struct Added {
    pub(crate) blob: Blob,
    pub(crate) is_new: bool,
}

impl Content {
    /// Opens the blobs and ingests in a store's root directory, and makes the directories that are missing. Durable when it returns.
    pub(crate) fn open(root: &Dir) -> Result<Self> {
        let blobs = directory(root, b"blobs")?;
        let [sha256, sha512] = ALGORITHMS.map(|algorithm| directory(&blobs, algorithm.as_str().as_bytes()));
        let ingests = directory(root, b"ingest")?;
        Ok(Self(Arc::new(Inner { sha256: sha256?, sha512: sha512?, ingests, suspended: Mutex::default() })))
    }

    fn directory_of(&self, algorithm: Algorithm) -> &Dir {
        match algorithm {
            Algorithm::Sha256 => &self.0.sha256,
            Algorithm::Sha512 => &self.0.sha512,
        }
    }

    /// The blob of this digest; `None` where it is not in the store.
    ///
    /// # Errors
    /// `Io`.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Blob>> {
        match self.directory_of(digest.algorithm()).open_file(digest.to_hex().as_bytes()) {
            Ok(file) => Blob::proven(digest.clone(), file).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins to take bytes in, or goes on where an interrupted ingest of the same digest stopped.
    ///
    /// Waits while somebody else, in this process or another, takes in the same digest: a thread must not ask for a digest while it
    /// holds an [`Ingest`] of it.
    ///
    /// # Errors
    /// `DigestMismatch` where a blob of the digest is there and has another size; `NoSpace`, `Io`.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// use plywood::content::{Expected, Started};
    /// use plywood::digest::Algorithm;
    ///
    /// let digest = Algorithm::Sha256.digest(b"hello");
    /// let expected = Expected::digest(digest.clone()).size(5);
    /// let blob = match store.content().start(&expected)? {
    ///     Started::Present(blob) => blob,
    ///     Started::Ingest(mut ingest) => {
    ///         ingest.write(b"hel")?;
    ///         ingest.write(b"lo")?;
    ///         ingest.finish()?
    ///     }
    /// };
    /// assert_eq!(blob.digest(), &digest);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    pub fn start(&self, expected: &Expected) -> Result<Started> {
        self.start_from(expected, Begin::WhereItStopped, &mut |file| Flock::wait(file, Sharing::Exclusive))
    }

    /// The same, until the caller wants to stop.
    pub(crate) fn start_unless(&self, expected: &Expected, cx: &Context<'_>) -> Result<Started> {
        self.start_from(expected, Begin::WhereItStopped, &mut |file| Flock::wait_unless(file, &mut || cx.check("ingest")))
    }

    fn start_from(&self, expected: &Expected, begin: Begin, wait: &mut dyn FnMut(OwnedFd) -> Result<Flock>) -> Result<Started> {
        let Some(digest) = &expected.digest else {
            return self.start_unnamed(expected).map(Started::Ingest);
        };
        let name = ingest_name(digest);
        loop {
            if let Some(blob) = self.blob(digest)? {
                return match expected.size {
                    Some(size) if size != blob.size() => Err(wrong_size(digest, size, blob.size())),
                    _ => Ok(Started::Present(blob)),
                };
            }
            let file = match self.0.ingests.open_file_rw(&name) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => match self.create_ingest(&name) {
                    Ok(file) => file,
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                    Err(error) => return Err(error),
                },
                Err(error) => return Err(error),
            };
            let lock = wait(OwnedFd::from(file))?;
            // Whoever had the lock before has published the file under another name, or deleted it.
            if !self.is_named(&name, &lock)? {
                continue;
            }
            let suspended = self.take_suspended(&name);
            let size = inode::stat(&lock)?.size;
            if size > expected.size.unwrap_or(u64::MAX) || (begin == Begin::Afresh && size > 0) {
                // Never cut to zero: another process may remember the hash of this inode's beginning.
                gone(self.0.ingests.unlink(&name))?;
                continue;
            }
            return Ingest::resume(self.clone(), name, lock, expected.clone(), suspended).map(Started::Ingest);
        }
    }

    fn start_unnamed(&self, expected: &Expected) -> Result<Ingest> {
        let mut number = 0u64;
        loop {
            let name = [UNNAMED, format!("{}-{number}", std::process::id()).as_bytes()].concat();
            number = number.saturating_add(1);
            let file = match self.create_ingest(&name) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            let lock = Flock::wait(OwnedFd::from(file), Sharing::Exclusive)?;
            // A cleaner may have come between the two, and found it unlocked.
            if self.is_named(&name, &lock)? {
                return Ingest::resume(self.clone(), name, lock, expected.clone(), None);
            }
        }
    }

    /// Begins with the first byte, whatever an interrupted ingest left, and leaves nothing when it is dropped unfinished.
    pub(crate) fn start_afresh(&self, expected: &Expected, cx: &Context<'_>) -> Result<Started> {
        let mut wait = |file| Flock::wait_unless(file, &mut || cx.check("ingest"));
        Ok(match self.start_from(expected, Begin::Afresh, &mut wait)? {
            Started::Ingest(ingest) => Started::Ingest(ingest.discard_on_drop()),
            present => present,
        })
    }

    /// Makes an ingest's file. Its mode stays: whoever comes while it is being published must be able to open it and wait.
    fn create_ingest(&self, name: &[u8]) -> Result<File> {
        let file = self.0.ingests.create_file(name, MODE)?;
        inode::set_mode(&file, MODE)?;
        Ok(file)
    }

    /// Begins to take in bytes that get no name: they go unless [`Ingest::into_nameless`] is called, and with its blob then.
    pub(crate) fn start_nameless(&self, expected: &Expected) -> Result<Ingest> {
        self.start_unnamed(expected).map(Ingest::discard_on_drop)
    }

    /// Takes in all of `reader` without giving it a name: the bytes go when the last [`Blob`] and [`BlobReader`] of them is dropped.
    pub(crate) fn spool(&self, expected: &Expected, reader: &mut dyn Read, cx: &Context<'_>) -> Result<Blob> {
        let mut ingest = self.start_nameless(expected)?;
        ingest.copy_from(reader, cx)?;
        ingest.into_nameless()
    }

    /// The same with what `fill` writes.
    pub(crate) fn spool_written(&self, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<Blob> {
        let mut ingest = self.start_nameless(&Expected::unknown(Algorithm::default()))?;
        fill(&mut ingest::Writer(&mut ingest))?;
        ingest.into_nameless()
    }

    /// Takes a blob's name away, at once whatever its size; its bytes are for [`delete`](Self::delete), or for whoever cleans up after
    /// a killed process. What still reads it goes on. `None` for one that is not there, and where there was no room to do it so.
    pub(crate) fn set_aside(&self, digest: &Digest) -> Result<Option<Aside>> {
        let (directory, hex) = (self.directory_of(digest.algorithm()), digest.to_hex());
        let aside = Aside([UNNAMED, b"gone-", hex.as_bytes()].concat());
        loop {
            match directory.rename_noreplace(hex.as_bytes(), &self.0.ingests, &aside.0) {
                Ok(()) => return Ok(Some(aside)),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                // The same bytes once more, which a killed process did not come to delete.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => gone(self.0.ingests.unlink(&aside.0))?,
                Err(error) if error.kind() == ErrorKind::NoSpace => {
                    return self.remove(digest).map(|()| None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Deletes a blob, which takes as long as its bytes. One that is not there is success. What still reads it goes on.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<()> {
        gone(self.directory_of(digest.algorithm()).unlink(digest.to_hex().as_bytes()))
    }

    /// Deletes the bytes of a blob that was set aside.
    pub(crate) fn delete(&self, aside: &Aside) -> Result<()> {
        gone(self.0.ingests.unlink(&aside.0))
    }

    /// All published blobs with their sizes; names that are no digest are left out.
    pub(crate) fn blobs(&self) -> Result<Vec<(Digest, u64)>> {
        let mut blobs = Vec::new();
        for algorithm in ALGORITHMS {
            let directory = self.directory_of(algorithm);
            for entry in directory.entries()? {
                let name = entry?.name;
                let digest = std::str::from_utf8(&name).ok().and_then(|hex| format!("{}:{hex}", algorithm.as_str()).parse().ok());
                if let (Some(digest), Some(stat)) = (digest, directory.stat(&name)?) {
                    blobs.push((digest, stat.size));
                }
            }
        }
        blobs.sort();
        Ok(blobs)
    }

    /// How many files there are of unfinished ingests and of blobs that were set aside, and how many bytes are allocated for them.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn ingesting(&self) -> Result<(u64, u64)> {
        let (mut count, mut bytes) = (0_u64, 0_u64);
        for entry in self.0.ingests.entries()? {
            // One that has gone meanwhile is none.
            let Some(stat) = self.0.ingests.stat(&entry?.name)? else { continue };
            count = count.saturating_add(1);
            bytes = bytes.saturating_add(stat.blocks.saturating_mul(512));
        }
        Ok((count, bytes))
    }

    /// Deletes the ingests that nobody will go on with: of those that no process holds the ones of unknown digest, the ones that were
    /// to be discarded, and the ones that were not written for `idle`. Never waits. Returns how many it deleted.
    pub(crate) fn clean_ingests(&self, idle: Duration) -> Result<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let idle = i64::try_from(idle.as_secs()).unwrap_or(i64::MAX);
        let mut deleted = 0u64;
        for entry in self.0.ingests.entries()? {
            let name = entry?.name;
            let is_dead = |stat: &inode::Stat| {
                // An empty one is as good as none: its process may have been killed before it could be marked.
                let is_worthless = name.starts_with(UNNAMED) || stat.mode == DISCARDED || stat.size == 0;
                is_worthless || now.saturating_sub(stat.mtime.seconds) >= idle
            };
            deleted = deleted.saturating_add(u64::from(self.delete_ingest(&name, is_dead)?));
        }
        Ok(deleted)
    }

    /// Deletes what came of these bytes so far, unless somebody is taking them in.
    pub(crate) fn forget(&self, digest: &Digest) -> Result<()> {
        self.delete_ingest(&ingest_name(digest), |_| true).map(drop)
    }

    /// Deletes an ingest that no process holds; whether it did.
    fn delete_ingest(&self, name: &[u8], is_dead: impl Fn(&inode::Stat) -> bool) -> Result<bool> {
        // Published or deleted since it was listed, or nothing of ours.
        let Ok(file) = self.0.ingests.open_file_rw(name) else { return Ok(false) };
        let Ok(lock) = Flock::attempt(OwnedFd::from(file), Sharing::Exclusive)? else { return Ok(false) };
        if !is_dead(&inode::stat(&lock)?) || !self.is_named(name, &lock)? {
            return Ok(false);
        }
        gone(self.0.ingests.unlink(name))?;
        drop(self.take_suspended(name));
        Ok(true)
    }

    /// Whether `name` in the ingest directory is the file that `lock` holds.
    fn is_named(&self, name: &[u8], lock: &Flock) -> Result<bool> {
        let held = inode::stat(lock)?;
        Ok(self.0.ingests.stat(name)?.is_some_and(|named| named.same_inode(&held)))
    }

    fn take_suspended(&self, name: &[u8]) -> Option<Suspended> {
        let mut suspended = self.0.suspended.lock().unwrap_or_else(PoisonError::into_inner);
        let at = suspended.iter().position(|one| one.name == name)?;
        suspended.remove(at)
    }

    fn suspend(&self, state: Suspended) {
        let mut suspended = self.0.suspended.lock().unwrap_or_else(PoisonError::into_inner);
        if suspended.len() >= SUSPENDED_MAX {
            suspended.pop_front();
        }
        suspended.push_back(state);
    }
}

/// Opens a directory of the store, making it where it is missing.
fn directory(parent: &Dir, name: &[u8]) -> Result<Dir> {
    match parent.mkdir(name, 0o700) {
        Ok(()) => {
            let made = parent.child(name)?;
            // Neither the umask nor a set-gid parent has a say.
            inode::set_mode(&made, 0o700)?;
            parent.sync()?;
            Ok(made)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => parent.child(name),
        Err(error) => Err(error),
    }
}

/// The name under which bytes of this digest come in.
fn ingest_name(digest: &Digest) -> Vec<u8> {
    format!("{}-{}", digest.algorithm().as_str(), digest.to_hex()).into_bytes()
}

/// Deleting what is gone already is success.
fn gone(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn wrong_size(digest: impl fmt::Display, declared: u64, real: u64) -> Error {
    Error::new(ErrorKind::DigestMismatch, "ingest")
        .at(digest.to_string())
        .because(format!("it was declared to have {declared} bytes, and has {real}"))
}

/// A second descriptor of the locked file. It shares the lock, which [`Flock`] gives up explicitly.
fn duplicate(lock: &Flock) -> Result<File> {
    lock.as_fd().try_clone_to_owned().map(File::from).map_err(|error| Error::io("dup", error))
}
