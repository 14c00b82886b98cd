//! [`LayerReader`]: a layer's blob as a stream of changes, hashed as it is read.

use crate::compression::Compression;
use crate::descriptor::MediaType;
use crate::digest::{Algorithm, DiffId};
use crate::entry::{Chunk, Entry, EntryStream, Position};
use crate::error::Result;
use crate::parallel::Crew;
use crate::path::EntryPath;
use crate::progress::{Context, Reason};
use crate::store::ahead::Uncompressed;
use crate::store::image::document::layer_compression;
use crate::store::supply::Supply;
use crate::tar::{Limits, Reader};

/// A layer's blob as a stream of changes that can be begun again.
pub(super) struct LayerReader<'a> {
    supply: &'a Supply,
    algorithm: Algorithm,
    expansion_ratio: Option<u64>,
    crew: &'a Crew,
    cx: &'a Context<'a>,
    /// Compressed bytes that the progress was told of.
    told: u64,
    compression: Compression,
    reader: Reader<'a, Uncompressed>,
}

impl<'a> LayerReader<'a> {
    /// Opens a layer. A compression that is not the one of the media type is reported.
    pub(super) fn open(
        supply: &'a Supply,
        media_type: Option<&MediaType>,
        algorithm: Algorithm,
        limits: Limits,
        crew: &'a Crew,
        cx: &'a Context<'a>,
    ) -> Result<Self> {
        let expansion_ratio = limits.expansion_ratio;
        let bytes = Uncompressed::new(supply, algorithm, expansion_ratio, crew, cx.chores())?;
        let compression = bytes.compression().unwrap_or_default();
        if let Some(media_type) = media_type {
            report_compression(media_type, compression, cx)?;
        }
        let told = supply.taken();
        cx.progress().bytes(told);
        Ok(Self { supply, algorithm, expansion_ratio, crew, cx, told, compression, reader: Reader::new(bytes, limits, cx) })
    }

    /// What the layer is compressed with.
    pub(super) fn compression(&self) -> Compression {
        self.compression
    }

    /// The digest of the uncompressed stream, which was read to its end.
    ///
    /// # Errors
    /// Those of who takes the bytes in.
    pub(super) fn diff_id(self) -> Result<DiffId> {
        self.finish().map(|(diff_id, _)| diff_id)
    }

    /// The same, and how many bytes the uncompressed stream had.
    ///
    /// # Errors
    /// As [`diff_id`](Self::diff_id).
    pub(super) fn finish(self) -> Result<(DiffId, u64)> {
        let bytes = self.reader.into_inner();
        let count = bytes.count();
        bytes.finish().map(|digest| (DiffId(digest), count))
    }
}

/// Reports a compression that is not the one of the media type.
pub(super) fn report_compression(media_type: &MediaType, found: Compression, cx: &Context<'_>) -> Result<()> {
    if layer_compression(media_type).is_none_or(|declared| declared == found) {
        return Ok(());
    }
    let declared = media_type.as_str().escape_debug().to_string();
    cx.skip(&EntryPath::ROOT, Reason::MediaType { declared, found: found.to_string() })
}

impl EntryStream for LayerReader<'_> {
    fn next(&mut self) -> Result<Option<Entry>> {
        let taken = self.supply.taken();
        if taken > self.told {
            self.cx.progress().bytes(taken.saturating_sub(self.told));
            self.told = taken;
        }
        self.reader.next()
    }

    fn chunk(&mut self) -> Result<Option<Chunk<'_>>> {
        self.reader.chunk()
    }

    fn restart(&mut self) -> Result<()> {
        // Whoever reads the supply is gone before it is asked for the rest.
        self.reader.rewind(Uncompressed::ended(self.algorithm, self.crew, self.cx.chores()));
        self.supply.blob(self.cx)?;
        self.reader.rewind(Uncompressed::new(self.supply, self.algorithm, self.expansion_ratio, self.crew, self.cx.chores())?);
        Ok(())
    }

    fn position(&self) -> Option<Position> {
        self.reader.position()
    }
}
