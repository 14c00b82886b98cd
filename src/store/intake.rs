//! Taking blobs in for one operation, under its lease.
//!
//! Invariant: between the moment a blob's file gets its name and the moment an image names it, a lease keeps it. The row and the lease
//! are written in the transaction in which the file is renamed, so a collection sees neither a row without its file nor a file that
//! nobody keeps.

use std::io::Read;

use crate::content::{Blob, Content, Expected, Ingest, Started};
use crate::descriptor::MediaType;
use crate::digest::Digest;
use crate::durability::Durability;
use crate::error::Result;
use crate::metadata::{BlobRow, LeaseId, Metadata, Survives, Transaction};
use crate::progress::Context;
use crate::store::orphans::delete_unless_named;

pub(crate) struct Intake<'a> {
    content: &'a Content,
    metadata: &'a Metadata,
    lease: LeaseId,
    /// Keeps the blobs too, for as long as it is there.
    beside: Option<LeaseId>,
    durability: Durability,
    cx: &'a Context<'a>,
    brought: Vec<Digest>,
}

impl<'a> Intake<'a> {
    /// The type of a file of an archive, before a manifest was read that tells it.
    pub(crate) const UNKNOWN_TYPE: &'static str = "application/octet-stream";

    pub(crate) fn new(
        content: &'a Content,
        metadata: &'a Metadata,
        lease: LeaseId,
        durability: Durability,
        cx: &'a Context<'a>,
    ) -> Self {
        Self { content, metadata, lease, beside: None, durability, cx, brought: Vec::new() }
    }

    /// The same, where another lease keeps the blobs as well: one that outlives the operation.
    pub(crate) fn beside(self, lease: Option<LeaseId>) -> Self {
        Self { beside: lease, ..self }
    }

    pub(crate) fn context(&self) -> &'a Context<'a> {
        self.cx
    }

    /// The blobs that were not there before.
    pub(crate) fn into_brought(self) -> Vec<Digest> {
        self.brought
    }

    /// The blob, where it is in the store already, and kept from now on.
    pub(crate) fn present(&mut self, expected: &Expected, media_type: &str) -> Result<Option<Blob>> {
        match expected.known_digest().map(|digest| self.content.blob(digest)).transpose()?.flatten() {
            // `start` compares the sizes and looks again under the writers' lock.
            Some(_) => match self.start(expected, media_type)? {
                Started::Present(blob) => Ok(Some(blob)),
                Started::Ingest(ingest) => ingest.abort().map(|()| None),
            },
            None => Ok(None),
        }
    }

    /// Begins to take a blob in. One that is there already is kept from now on.
    pub(crate) fn start(&mut self, expected: &Expected, media_type: &str) -> Result<Started> {
        self.start_by(Content::start_afresh, expected, media_type)
    }

    /// The same, or goes on where an earlier ingest of these bytes stopped; dropped unfinished it can be gone on with, too.
    pub(crate) fn resume(&mut self, expected: &Expected, media_type: &str) -> Result<Started> {
        self.start_by(Content::start_unless, expected, media_type)
    }

    fn start_by(
        &mut self,
        start: impl Fn(&Content, &Expected, &Context<'_>) -> Result<Started>,
        expected: &Expected,
        media_type: &str,
    ) -> Result<Started> {
        self.put_damaged_away(expected)?;
        loop {
            let blob = match start(self.content, expected, self.cx)? {
                Started::Ingest(ingest) => return Ok(Started::Ingest(ingest)),
                Started::Present(blob) => blob,
            };
            let transaction = self.metadata.write()?;
            // A collection may have deleted it since; none runs now.
            if self.content.blob(blob.digest())?.is_some() {
                self.keep(&transaction, blob.digest(), blob.size(), media_type)?;
                transaction.commit()?;
                return Ok(Started::Present(blob));
            }
        }
    }

    /// A blob that a check found damaged is not what is asked for: its file goes, and comes in anew.
    fn put_damaged_away(&self, expected: &Expected) -> Result<()> {
        let Some(digest) = expected.known_digest() else { return Ok(()) };
        if !self.metadata.read()?.damaged_blobs()?.contains(digest) {
            return Ok(());
        }
        let transaction = self.metadata.write_to_survive(Survives::Process)?;
        // Whoever brought it anew meanwhile said so in the transaction in which its file got its name.
        if transaction.damaged_blobs()?.contains(digest) {
            self.content.remove(digest)?;
        }
        transaction.commit()
    }

    /// Publishes what came in.
    pub(crate) fn publish(&mut self, ingest: Ingest, media_type: &str) -> Result<Blob> {
        let verified = ingest.verify_to_survive(self.durability)?;
        // After a power cut nobody holds the lease, and a blob without a row is nobody's: the row need not survive that by itself.
        let transaction = self.metadata.write_to_survive(Survives::Process)?;
        self.keep(&transaction, verified.digest(), verified.size(), media_type)?;
        transaction.clear_blob_damage(verified.digest())?;
        let added = verified.publish()?;
        if let Err(error) = transaction.commit() {
            // The file has its name, and no row. On a full disk it must not stay until the next collection.
            let _ = delete_unless_named(self.metadata, self.content, added.blob.digest());
            return Err(error);
        }
        if added.is_new {
            self.brought.push(added.blob.digest().clone());
        }
        Ok(added.blob)
    }

    /// Takes in all of a reader.
    pub(crate) fn add(&mut self, expected: &Expected, media_type: &str, reader: &mut dyn Read) -> Result<Blob> {
        match self.start(expected, media_type)? {
            Started::Present(blob) => Ok(blob),
            Started::Ingest(mut ingest) => {
                ingest.copy_from(reader, self.cx)?;
                self.publish(ingest, media_type)
            }
        }
    }

    fn keep(&self, transaction: &Transaction<'_>, digest: &Digest, size: u64, media_type: &str) -> Result<()> {
        let media_type = MediaType::new(media_type);
        transaction.put_blob(&BlobRow { digest: digest.clone(), size, media_type, diff_id: None })?;
        if let Some(lease) = self.beside
            && transaction.lease_by_id(lease)?.is_some()
        {
            transaction.lease_blob(lease, digest)?;
        }
        transaction.lease_blob(self.lease, digest)
    }
}
