//! The archive as a stream of changes.
//!
//! One pass, bounded memory, and the end is the end: `None` comes only after every byte of the stream was read, so that a digest
//! over it is complete. Every error says which member, where, and which rule.

use std::fmt;
use std::io::Read;

use super::fault::Fault;
use super::header::Dialect;
use super::member::{Extensions, Member};
use super::source::{OP, Source};
use super::sparse::{self, MapReader, PaxSparse, Segment};
use super::{BLOCK, BLOCK_U64, Limits, header, padding, pax};
use crate::entry::{Change, Chunk, Entry, Node, Position};
use crate::error::{Error, ErrorKind, Result};
use crate::path::{EntryPath, PATH_BYTES_MAX};
use crate::progress::{Context, Reason};

/// Reads a layer's uncompressed tar from any [`Read`].
///
/// The methods are those of [`EntryStream`](crate::entry::EntryStream) but for `restart`, which needs someone who can open the source
/// again: see [`rewind`](Self::rewind).
///
/// ```
/// use plywood::{Context, tar::{Limits, Reader}};
/// let cx = Context::default();
/// let mut reader = Reader::new([0u8; 1024].as_slice(), Limits::default(), &cx);
/// assert!(reader.next()?.is_none());
/// # Ok::<(), plywood::Error>(())
/// ```
pub struct Reader<'a, R> {
    source: Source<'a, R>,
    limits: Limits,
    cx: &'a Context<'a>,
    state: State,
    position: Position,
    /// The current member's name as it was written, for messages.
    name: Option<Vec<u8>>,
    body: Body,
    /// Members that the progress was told of: a second reading does not tell them again.
    members: HighWater,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    Ended,
    Failed,
}

/// The current member's content that is still to be read.
#[derive(Default)]
struct Body {
    segment: Segment,
    rest: std::vec::IntoIter<Segment>,
    /// Stored bytes, of all segments.
    stored: u64,
    padding: u64,
}

/// Counts, and remembers how far it ever got.
#[derive(Default)]
struct HighWater {
    count: u64,
    most: u64,
}

impl HighWater {
    /// Counts one; whether it is a new one.
    fn count(&mut self) -> bool {
        self.count = self.count.saturating_add(1);
        let new = self.count > self.most;
        self.most = self.most.max(self.count);
        new
    }
}

impl<'a, R: Read> Reader<'a, R> {
    /// A reader of this stream. Allocates a buffer of 256 KiB and reads nothing yet.
    pub fn new(inner: R, limits: Limits, cx: &'a Context<'a>) -> Self {
        Self {
            source: Source::new(inner, &limits, cx),
            limits,
            cx,
            state: State::Reading,
            position: Position { member: 0, offset: 0 },
            name: None,
            body: Body::default(),
            members: HighWater::default(),
        }
    }

    /// The same of a stream that can pass over what is not taken, without reading it: `pass` says how many bytes there were.
    pub(crate) fn passing(self, pass: fn(&mut R, u64) -> u64) -> Self {
        Self { source: self.source.passing(pass), ..self }
    }

    /// Where in the stream the content of the current file stands, none of which was taken, and how long it is; `None` for a sparse file.
    pub(crate) fn content_at(&self) -> Option<(u64, u64)> {
        let is_whole = self.body.segment.offset == 0 && self.body.segment.length == self.body.stored && self.body.rest.len() == 0;
        is_whole.then(|| (self.source.offset(), self.body.stored))
    }

    /// Begins again with `inner`, the same stream from its start. What is skipped is reported again: whoever begins
    /// again takes the first report back ([`Context::rewind`]).
    pub fn rewind(&mut self, inner: R) {
        self.source.rewind(inner);
        self.state = State::Reading;
        self.position = Position { member: 0, offset: 0 };
        self.name = None;
        self.body = Body::default();
        self.members.count = 0;
    }

    /// The stream that is read; once [`next`](Self::next) gave `None`, it was read to its end.
    pub fn get_ref(&self) -> &R {
        self.source.get_ref()
    }

    /// The stream that was read.
    pub fn into_inner(self) -> R {
        self.source.into_inner()
    }

    /// Where the current entry stands; `None` before the first.
    pub fn position(&self) -> Option<Position> {
        (self.position.member > 0).then_some(self.position)
    }

    /// The next change; `None` when the stream was read to its very end. Content that was not taken is skipped.
    ///
    /// # Errors
    /// `InvalidLayer`, `LimitExceeded`, `Cancelled`, or those of the stream. After an error the reader gives no more entries.
    #[expect(clippy::should_implement_trait, reason = "an Iterator cannot lend chunks")]
    pub fn next(&mut self) -> Result<Option<Entry>> {
        match self.state {
            State::Reading => {}
            State::Ended => return Ok(None),
            State::Failed => return Err(self.fault(Fault::new("the layer was found invalid before"))),
        }
        let next = self.advance().map_err(|error| self.place(error));
        match &next {
            Ok(Some(_)) => {}
            Ok(None) => self.state = State::Ended,
            Err(_) => self.state = State::Failed,
        }
        next
    }

    /// The next piece of the current file's content, in rising order of offsets; `None` at its end and for anything but a file.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn chunk(&mut self) -> Result<Option<Chunk<'_>>> {
        if self.state != State::Reading {
            return Ok(None);
        }
        while self.body.segment.length == 0 {
            match self.body.rest.next() {
                Some(segment) => self.body.segment = segment,
                None => return Ok(None),
            }
        }
        let available = self.available()?;
        let segment = &mut self.body.segment;
        let count = usize::try_from(segment.length).unwrap_or(usize::MAX).min(available);
        let offset = segment.offset;
        segment.offset = offset.saturating_add(count as u64);
        segment.length = segment.length.saturating_sub(count as u64);
        self.body.stored = self.body.stored.saturating_sub(count as u64);
        Ok(Some(Chunk { offset, data: self.source.take(count) }))
    }

    /// How much content can be lent now: never nothing.
    fn available(&mut self) -> Result<usize> {
        let available = self.source.available().map_err(|error| {
            self.state = State::Failed;
            self.place(error)
        })?;
        if available == 0 {
            self.state = State::Failed;
            return Err(self.fault(Fault::new("the archive ends inside a member")));
        }
        Ok(available)
    }

    fn advance(&mut self) -> Result<Option<Entry>> {
        loop {
            self.end_member()?;
            let Some((block, header, extensions)) = self.header()? else { return Ok(None) };
            let mut member = Member::merge(header, extensions).map_err(|fault| self.fault(fault))?;
            self.name = Some(member.name().to_vec());
            let size = self.open_body(&block, &mut member)?;
            match member.change(size, &self.limits).map_err(|fault| self.fault(fault))? {
                Ok(entry) => {
                    if !matches!(entry.change, Change::Upsert { node: Node::File { .. }, .. }) {
                        // What a marker's member has in its body is nobody's content.
                        (self.body.segment, self.body.rest) = Default::default();
                    }
                    return Ok(Some(entry));
                }
                Err(path) => self.cx.skip(&path, Reason::AufsMetadata)?,
            }
        }
    }

    /// Reads up to and including the header block of the next member that is no extension; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<(tar::Header, header::Header, Extensions)>> {
        let mut extensions = Extensions::default();
        loop {
            let last = self.position;
            if extensions.is_empty() {
                self.name = None;
                self.position = Position { member: last.member.saturating_add(1), offset: self.source.offset() };
            }
            let Some(mut block) = self.block(&extensions)? else {
                self.position = last;
                return Ok(None);
            };
            if extensions.is_empty() {
                self.begin_member()?;
            }
            header::verify(&block).map_err(|fault| self.fault(fault))?;
            self.name = Some(header::short_name(&block).to_vec());
            let header = header::decode(&mut block).map_err(|fault| self.fault(fault))?;
            if matches!(header.flag, b'g' | b'x' | b'L' | b'K') && header.dialect == Dialect::V7 {
                // Go, GNU tar and libarchive go by the flag alone; the crates of Rust take it for a member.
                return Err(self.fault(Fault::new("an extension header in a v7 header")));
            }
            match header.flag {
                b'g' => self.global(&header, &extensions)?,
                b'x' => {
                    let body = self.extension(&header)?;
                    let records = pax::Records::parse(&body, &self.limits).map_err(|fault| self.fault(fault))?;
                    self.set(&mut extensions.pax, records, "PAX headers")?;
                }
                b'L' => {
                    let name = self.long_name(&header)?;
                    self.set(&mut extensions.name, name, "GNU long names")?;
                }
                b'K' => {
                    let link = self.long_name(&header)?;
                    self.set(&mut extensions.link, link, "GNU long links")?;
                }
                _ => {
                    self.name = Some(header.name.clone());
                    return Ok(Some((block, header, extensions)));
                }
            }
        }
    }

    /// The next header block, or `None` at the end of the archive, when all that follows was read.
    fn block(&mut self, extensions: &Extensions) -> Result<Option<tar::Header>> {
        let mut block = tar::Header::new_old();
        let count = self.source.block(block.as_mut_bytes())?;
        if count == BLOCK && !header::is_zero(&block) {
            return Ok(Some(block));
        }
        if !extensions.is_empty() {
            return Err(self.fault(Fault::new("extension headers without a member after them")));
        }
        match count {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(self.fault(Fault::new("the archive ends inside a header"))),
        }
        match self.source.block(block.as_mut_bytes())? {
            0 => return Ok(None),
            BLOCK if header::is_zero(&block) => {}
            BLOCK => return Err(self.fault(Fault::new("a single block of zeros with data after it"))),
            _ => return Err(self.fault(Fault::new("the archive ends inside its last block"))),
        }
        if !self.source.drain()? {
            self.cx.skip(&EntryPath::ROOT, Reason::TrailingData)?;
        }
        Ok(None)
    }

    fn begin_member(&mut self) -> Result<()> {
        self.cx.check(OP)?;
        if self.position.member > self.limits.entries {
            return Err(self.fault(Fault::limit(format!("the layer has more than {} entries", self.limits.entries))));
        }
        if self.members.count() {
            self.cx.progress().entries(1);
        }
        Ok(())
    }

    /// A global header is no member and changes none; what would change one is refused.
    fn global(&mut self, header: &header::Header, extensions: &Extensions) -> Result<()> {
        if !extensions.is_empty() {
            // Go forgets the extension headers here, GNU tar keeps them.
            return Err(self.fault(Fault::new("a PAX global header between a member and its extension headers")));
        }
        let body = self.extension(header)?;
        pax::check_global(&body).map_err(|fault| self.fault(fault))?;
        self.cx.skip(&EntryPath::ROOT, Reason::GlobalHeader)
    }

    fn long_name(&mut self, header: &header::Header) -> Result<Vec<u8>> {
        let mut name = self.extension(header)?;
        name.truncate(header::string(&name).len());
        if name.is_empty() {
            return Err(self.fault(Fault::new("an empty GNU long name")));
        }
        Ok(name)
    }

    fn set<T>(&self, slot: &mut Option<T>, value: T, what: &str) -> Result<()> {
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(self.fault(Fault::new(format!("two {what} before one member")))),
        }
    }

    /// The body of an extension header.
    fn extension(&mut self, header: &header::Header) -> Result<Vec<u8>> {
        let most = self.limits.header_bytes;
        if header.size > most {
            return Err(self.fault(Fault::limit(format!("an extension header has more than {most} bytes"))));
        }
        let mut body = Vec::new();
        let missing = self.source.append(header.size, &mut body)?;
        if missing > 0 || self.source.skip(padding(header.size))? > 0 {
            return Err(self.fault(Fault::new("the archive ends inside an extension header")));
        }
        Ok(body)
    }

    /// Finds out which parts of the file the archive holds, and the file's size.
    fn open_body(&mut self, block: &tar::Header, member: &mut Member) -> Result<u64> {
        let mut stored = member.stored();
        let padding = padding(stored);
        let (segments, size) = if member.is_old_sparse() {
            let (segments, size) = self.old_sparse_map(block)?;
            (Some(segments), size)
        } else {
            match member.take_sparse() {
                None => (None, stored),
                Some(PaxSparse { size, map: Some(segments), .. }) => (Some(segments), size),
                Some(PaxSparse { size, map: None, .. }) => (Some(self.sparse_map(&mut stored)?), size),
            }
        };
        self.body = Body { stored, padding, ..Body::default() };
        match segments {
            None => self.body.segment = Segment { offset: 0, length: stored },
            Some(segments) => {
                sparse::validate(&segments, size, stored).map_err(|fault| self.fault(fault))?;
                self.body.rest = segments.into_iter();
            }
        }
        Ok(size)
    }

    fn old_sparse_map(&mut self, block: &tar::Header) -> Result<(Vec<Segment>, u64)> {
        let (mut map, size) = header::old_sparse(block).map_err(|fault| self.fault(fault))?;
        while map.wants_block(&self.limits).map_err(|fault| self.fault(fault))? {
            let mut more = tar::GnuExtSparseHeader::new();
            if self.source.block(more.as_mut_bytes())? < BLOCK {
                return Err(self.fault(Fault::new("the archive ends inside a sparse map")));
            }
            map.block(&more.sparse, more.isextended != [0]).map_err(|fault| self.fault(fault))?;
        }
        Ok((map.finish(), size))
    }

    /// Reads a map that stands before the content, and takes its blocks off `stored`.
    fn sparse_map(&mut self, stored: &mut u64) -> Result<Vec<Segment>> {
        let mut map = MapReader::default();
        let mut block = [0; BLOCK];
        loop {
            *stored = stored.checked_sub(BLOCK_U64).ok_or_else(|| self.fault(Fault::new("a sparse map without an end")))?;
            if self.source.block(&mut block)? < BLOCK {
                return Err(self.fault(Fault::new("the archive ends inside a sparse map")));
            }
            if map.block(&block, &self.limits).map_err(|fault| self.fault(fault))? {
                return Ok(map.finish());
            }
        }
    }

    /// Passes over what is left of the current member.
    fn end_member(&mut self) -> Result<()> {
        let body = std::mem::take(&mut self.body);
        if self.source.skip(body.stored)? > 0 || self.source.skip(body.padding)? > 0 {
            return Err(self.fault(Fault::new("the archive ends inside a member")));
        }
        Ok(())
    }

    /// Says where the stream was when what is below it, a decoder, found it bad.
    fn place(&self, error: Error) -> Error {
        let is_placed = error.op() == OP;
        match (error.kind(), error.reason()) {
            (kind @ (ErrorKind::InvalidLayer | ErrorKind::LimitExceeded), Some(reason)) if !is_placed => {
                self.fault(Fault { kind, rule: reason.to_owned().into() }).with_source(error)
            }
            _ => error,
        }
    }

    fn fault(&self, fault: Fault) -> Error {
        let error = Error::new(fault.kind, OP).because(format!("{}: {}", self.position, fault.rule));
        match &self.name {
            // A name of a megabyte is for no terminal.
            Some(name) => {
                error.at(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name.get(..PATH_BYTES_MAX).unwrap_or(name)))
            }
            None => error,
        }
    }
}

impl<R> fmt::Debug for Reader<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("position", &self.position).field("state", &self.state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
