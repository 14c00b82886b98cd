//! [`PullIngest`]: the bytes of one layer of a [`Pull`](super::Pull) on their way in.

use std::io::{self, Read};
use std::sync::Arc;

use super::landing::Unpacked;
use super::{OP, Shared};
use crate::content::{Expected, Ingest, Started};
use crate::descriptor::MediaType;
use crate::digest::{DiffId, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Context;
use crate::store::growing::Grower;
use crate::store::intake::Intake;
use crate::store::supply::Supply;

const BUFFER: usize = 256 << 10;

/// The bytes of one layer on their way in: [`write`](Self::write) chunks, or let [`copy_from`](Self::copy_from) read them, and then
/// [`finish`](Self::finish).
///
/// Dropped unfinished, it keeps what came: the next [`Pull::ingest`](super::Pull::ingest) of the layer goes on at its
/// [`offset`](Self::offset), in this process or another. It can be sent to other threads, and may outlive the [`Pull`](super::Pull), as
/// long as that is not finished.
#[derive(Debug)]
#[must_use = "a layer that is not finished is not unpacked"]
pub struct PullIngest {
    shared: Arc<Shared>,
    index: usize,
    ingest: Ingest,
    media_type: String,
    is_plain: bool,
    unpacked: Option<Unpacked>,
}

impl PullIngest {
    pub(super) fn begin(
        shared: &Arc<Shared>,
        index: usize,
        expected: Expected,
        media_type: &str,
        cx: &Context<'_>,
    ) -> Result<Option<Self>> {
        Self::start(shared, index, &expected, media_type, false, cx)
    }

    pub(super) fn begin_plain(shared: &Arc<Shared>, index: usize, diff_id: &DiffId, cx: &Context<'_>) -> Result<Option<Self>> {
        Self::start(shared, index, &Expected::digest(diff_id.0.clone()), MediaType::LAYER, true, cx)
    }

    fn start(
        shared: &Arc<Shared>,
        index: usize,
        expected: &Expected,
        media_type: &str,
        is_plain: bool,
        cx: &Context<'_>,
    ) -> Result<Option<Self>> {
        if index < shared.landing().next {
            return Ok(None);
        }
        shared.renew()?;
        match shared.intake(cx)?.resume(expected, media_type)? {
            Started::Present(blob) => shared.arrive(index, &blob, is_plain, None, cx).map(|()| None),
            Started::Ingest(ingest) => {
                let (shared, media_type) = (Arc::clone(shared), media_type.to_owned());
                Ok(Some(Self { shared, index, ingest, media_type, is_plain, unpacked: None }))
            }
        }
    }

    /// How many bytes are in: the next one to write is the one at this offset.
    pub fn offset(&self) -> u64 {
        self.ingest.offset()
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// `DigestMismatch` as soon as there are more than declared: what came is deleted then when this is dropped; `LimitExceeded` for
    /// plain bytes beyond the limit of an unpacked layer; `NoSpace`, `Io`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (after, most) = (self.offset().saturating_add(bytes.len() as u64), self.shared.limits.unpacked_bytes);
        if self.is_plain && after > most {
            return Err(
                Error::new(ErrorKind::LimitExceeded, OP).because(format!("the layer has more than {most} bytes uncompressed"))
            );
        }
        self.ingest.write(bytes)
    }

    /// Takes bytes from `reader`, whose next byte is the one at [`offset`](Self::offset), up to its end. The layer is unpacked while they
    /// come, where the store has a thread for that.
    ///
    /// # Errors
    /// As [`write`](Self::write); those of the reader; `Cancelled`. What was read before is kept, and can be gone on with.
    pub fn copy_from(&mut self, mut reader: impl Read, cx: &Context<'_>) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let (index, part) = shared.part(Some(self.index), self.ingest_digest())?;
        let (is_plain, size) = (self.is_plain, part.reference.descriptor.size);
        let is_worth_it = !is_plain && self.offset() < size && shared.is_worth_unpacking(index, part)?;
        let Some(seat) = is_worth_it.then(|| shared.crew.take()).flatten() else {
            return self.take_in(&mut reader, None, cx);
        };
        let (supply, grower) = Supply::growing(&self.ingest, Some(size))?;
        let (unpacked, taken) = std::thread::scope(|scope| {
            let unpacking = std::thread::Builder::new().name("plywood-unpack".to_owned()).spawn_scoped(scope, || {
                let unpacked = shared.unpack(index, part, &supply, is_plain, cx);
                drop(seat);
                unpacked
            });
            let unpacking = match unpacking {
                Ok(unpacking) => unpacking,
                // It is unpacked when all is there.
                Err(_) => return (Ok(None), self.take_in(&mut reader, None, cx)),
            };
            let taken = self.take_in(&mut reader, Some(grower), cx);
            let unpacked = unpacking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (unpacked, taken)
        });
        taken?;
        // What failed, of bytes that were not all there or are wrong, is tried once more when they are whole, and says why then.
        match unpacked {
            Ok(unpacked) => self.unpacked = unpacked,
            // What a disk has lost is not tried again.
            Err(error) if error.is_of_disk() => return Err(error),
            Err(error) => tracing::debug!(%error, layer = %part.diff_id, "the layer is not unpacked while it comes"),
        }
        Ok(())
    }

    /// Reads all that the reader has; whoever unpacks follows.
    fn take_in(&mut self, reader: &mut dyn Read, grower: Option<Grower>, cx: &Context<'_>) -> Result<()> {
        let size = self.ingest.expected().known_size();
        let mut buffer = vec![0; BUFFER];
        loop {
            cx.check(OP)?;
            let count = match reader.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("read", error).at(self.ingest_digest().to_string())),
            };
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            self.write(bytes)?;
            cx.progress().bytes(count as u64);
            if let Some(grower) = &grower {
                grower.grew(self.offset());
            }
        }
        // Else the rest comes by another call.
        if let Some(grower) = grower
            && size == Some(self.offset())
        {
            grower.complete(self.ingest.checked()?);
        }
        Ok(())
    }

    /// Checks size and digest, and unpacks the layer, with those above it that wait for it. Durable when it returns.
    ///
    /// # Errors
    /// `DigestMismatch`: with fewer bytes than declared the layer can be gone on with another time; other bytes are deleted. What is wrong
    /// in a layer, of this call or of another that waited for this one, is said in the error's source: `InvalidLayer`, `LimitExceeded`,
    /// `Unsupported`, `IdNotMapped`, `DigestMismatch` for another diff id than the config has. `Cancelled`, `NoSpace`, `Io`.
    pub fn finish(self, cx: &Context<'_>) -> Result<()> {
        let Self { shared, index, ingest, media_type, is_plain, unpacked } = self;
        let mut intake = shared.intake(cx)?;
        let published = intake.publish(ingest, &media_type);
        shared.landing().brought.append(&mut intake.into_brought());
        shared.arrive(index, &published?, is_plain, unpacked, cx)
    }

    fn ingest_digest(&self) -> &Digest {
        match self.shared.parts.get(self.index) {
            Some(part) if self.is_plain => &part.diff_id.0,
            Some(part) => part.digest(),
            None => &self.shared.chosen.manifest.digest,
        }
    }
}

impl Shared {
    /// Takes blobs in, kept by both leases.
    pub(super) fn intake<'a>(&'a self, cx: &'a Context<'a>) -> Result<Intake<'a>> {
        let beside = self.landing().beside;
        let intake = Intake::new(self.store.content(), self.store.metadata(), self.lease()?, self.store.durability(), cx);
        Ok(intake.beside(beside))
    }
}
