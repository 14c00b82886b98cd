//! A single layer out of a reader: unpacked while its bytes come in, also where nobody said which layer it is.
//!
//! The caller's thread reads, and never waits for the one that unpacks. A layer of unknown diff id is unpacked over its parent, into a
//! tree that nobody names, and hashed on the way; the tree goes again where the layer turns out to be there already.

use std::io::{self, Read};

use crate::content::{Expected, Ingest};
use crate::digest::{Algorithm, DiffId};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{LeaseId, SnapshotRow};
use crate::parallel::Crew;
use crate::progress::Context;
use crate::snapshot::Labels;
use crate::span::within;
use crate::store::Store;
use crate::store::fill::Filled;
use crate::store::growing::Grower;
use crate::store::layer::{Incoming, Landed, LayerBytes};
use crate::store::supply::Supply;

const OP: &str = "import layer";
const BUFFER: usize = 256 << 10;

/// A layer, before it is known which one it is.
pub(super) struct Undeclared<'a> {
    pub(super) bytes: &'a LayerBytes<'a>,
    pub(super) parent: Option<&'a SnapshotRow>,
    pub(super) labels: &'a Labels,
}

impl<'a> Undeclared<'a> {
    /// The layer that its bytes were found to be.
    fn declare(&self, diff_id: &'a DiffId) -> Incoming<'a> {
        Incoming { bytes: self.bytes, diff_id, parent: self.parent, is_proven: true, labels: self.labels }
    }
}

impl Store {
    /// Takes in what the reader has, under no name, while another thread does with it what `land` does; by the caller's thread alone
    /// one after the other. Bytes other than expected are an error, whatever `land` made of them.
    pub(super) fn land_while_reading<T: Send>(
        &self,
        expected: &Expected,
        reader: &mut dyn Read,
        crew: &Crew,
        cx: &Context<'_>,
        land: impl Fn(&Supply) -> Result<T> + Sync,
    ) -> Result<T> {
        let Some(seat) = crew.take() else { return land(&Supply::stored(self.content().spool(expected, reader, cx)?)) };
        let ingest = self.content().start_nameless(expected)?;
        let (supply, grower) = Supply::growing(&ingest, expected.known_size())?;
        let (landed, read, lent) = std::thread::scope(|scope| {
            let landing = std::thread::Builder::new().name("plywood-unpack".to_owned()).spawn_scoped(
                scope,
                within(|| {
                    let landed = land(&supply);
                    drop(seat);
                    landed
                }),
            );
            let landing = landing.map_err(|error| Error::io(OP, error))?;
            let read = take_in(reader, ingest, grower, &|| landing.is_finished(), cx);
            let lent = crew.lend();
            let landed = landing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((landed, read, lent))
        })?;
        drop(lent);
        // Who reads fails when the source does, and says less.
        read.and(landed)
    }

    /// Unpacks a layer, or finds it, and commits it; the lease keeps it from now on.
    pub(super) fn land_undeclared(&self, lease: LeaseId, layer: &Undeclared<'_>, cx: &Context<'_>) -> Result<(DiffId, Landed)> {
        if self.unpacks_in_place() {
            let mark = cx.mark();
            let landed = self.land_unpacked(lease, layer, cx);
            if !matches!(&landed, Ok((_, landed)) if landed.unpacked) {
                cx.rewind(mark);
            }
            match landed {
                // Of a layer that is there already nothing is asked but its digest.
                Err(error)
                    if matches!(error.kind(), ErrorKind::LimitExceeded | ErrorKind::Unsupported | ErrorKind::IdNotMapped) => {}
                landed => return landed,
            }
        }
        let diff_id = self.find_diff_id(layer.bytes, Algorithm::default(), cx)?;
        let landed = self.land(lease, &layer.declare(&diff_id), cx)?;
        Ok((diff_id, landed))
    }

    fn land_unpacked(&self, lease: LeaseId, layer: &Undeclared<'_>, cx: &Context<'_>) -> Result<(DiffId, Landed)> {
        let chain = self.chain_on(layer.parent, cx)?;
        let filled = Filled::over(self, lease, layer.bytes, Algorithm::default(), &chain, cx)?;
        let diff_id = filled.diff_id.clone();
        let landed = self.land_filled(lease, &layer.declare(&diff_id), Some(filled), cx)?;
        Ok((diff_id, landed))
    }
}

/// Takes in all that a reader has, unless nobody wants it any more.
fn take_in(
    reader: &mut dyn Read,
    mut ingest: Ingest,
    grower: Grower,
    is_given_up: &dyn Fn() -> bool,
    cx: &Context<'_>,
) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    while !is_given_up() {
        cx.check(OP)?;
        let count = match reader.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io("read", error)),
        };
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            grower.complete(ingest.into_nameless()?);
            return Ok(());
        };
        ingest.write(bytes)?;
        cx.progress().bytes(count as u64);
        grower.grew(ingest.offset());
    }
    Ok(())
}
