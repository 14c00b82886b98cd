//! Leases of this process: they keep what an operation has made until something names it.
//!
//! Each is a row and a kernel lock on a file. The row without the lock is what a dead process left: opening and collecting clear it
//! away, with the trees that were being built under it.

use std::sync::PoisonError;

use super::{Inner, Store};
use crate::error::Result;
use crate::lock::{Held, Subject};
use crate::metadata::{LeaseId, Survives};

/// Keeps trees, blobs and snapshots until it is released or dropped, or the process ends.
#[derive(Debug)]
#[must_use = "what the lease keeps may be collected when it is dropped"]
pub(crate) struct Lease {
    store: Store,
    held: Option<Held>,
    id: LeaseId,
}

/// The lease under which this `Store` builds its writable trees: one for all, made when it is first needed.
#[derive(Debug)]
pub(super) struct Session {
    held: Held,
    id: LeaseId,
}

impl Store {
    /// Makes a lease for one operation.
    ///
    /// # Errors
    /// `NoSpace`, `PermissionDenied`, `Io`.
    pub(crate) fn lease(&self) -> Result<Lease> {
        if self.read_only_reason().is_some() {
            // Nothing can be written down, and from here nothing can be collected.
            return Ok(Lease { store: self.clone(), held: None, id: LeaseId(0) });
        }
        let (id, held) = self.inner.new_lease()?;
        Ok(Lease { store: self.clone(), held: Some(held), id })
    }

    /// The lease of this `Store` in this process.
    pub(super) fn session(&self) -> Result<LeaseId> {
        let mut session = self.inner.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = session.as_ref().filter(|session| session.held.is_ours()) {
            return Ok(session.id);
        }
        let (id, held) = self.inner.new_lease()?;
        // A forked child leaves its parent's session alone: dropping it here releases nothing.
        *session = Some(Session { held, id });
        Ok(id)
    }
}

impl Inner {
    fn new_lease(&self) -> Result<(LeaseId, Held)> {
        // The lock is taken inside the transaction: nobody ever sees the row of a living lease without it.
        let transaction = self.metadata.write_to_survive(Survives::Process)?;
        let id = transaction.insert_lease()?;
        let held = self.locks.wait(Subject::Lease(id.0))?;
        transaction.commit()?;
        Ok((id, held))
    }

    fn end_lease(&self, id: LeaseId, held: &Held) -> Result<()> {
        if !held.is_ours() {
            return Ok(());
        }
        let transaction = self.metadata.write_to_survive(Survives::Process)?;
        transaction.remove_lease(id)?;
        transaction.commit()
    }
}

impl Lease {
    pub(crate) fn id(&self) -> LeaseId {
        self.id
    }

    /// Ends the lease, and says so when its row cannot be removed; the next collection does it then.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub(crate) fn release(mut self) -> Result<()> {
        // On a full disk too: what it kept could not be taken back otherwise.
        let store = &self.store;
        self.held.take().map_or(Ok(()), |held| store.with_reserve(|| store.inner.end_lease(self.id, &held)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            let _ = self.store.inner.end_lease(self.id, &held);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let session = self.session.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Session { held, id }) = session {
            let _ = self.end_lease(id, &held);
        }
    }
}
