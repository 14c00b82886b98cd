//! The decompressing reader.
//!
//! Its end is the end of the input: every gzip member and zstd frame was decoded and its checksum compared, and nothing but NUL
//! padding (gzip) or nothing at all (zstd) followed. Anything else is `InvalidLayer`. Memory is the input buffer, deflate's 32 KiB or
//! zstd's window of at most 128 MiB, whatever the input declares.

use std::fmt;
use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;

use super::Compression;
use super::input::Input;
use crate::error::{Error, ErrorKind, Result};

/// log2 of the largest zstd window that is decoded: 128 MiB, what `zstd --long` asks for.
const WINDOW_LOG_MAX: u32 = 27;

const OP: &str = "decompress layer";

/// Reads the uncompressed bytes of a layer.
///
/// Errors travel as [`Error`] inside `io::Error`; [`Error::io`] takes them out again: `InvalidLayer` for compressed data that is
/// truncated, damaged or followed by something, the source's own error otherwise.
///
/// ```
/// # use std::io::Read;
/// use plywood::compression::{Compression, Decoder, Encoder};
/// let mut encoder = Encoder::new(Vec::new(), Compression::Zstd, None)?;
/// std::io::Write::write_all(&mut encoder, b"hello")?;
/// let blob = encoder.finish()?;
///
/// let mut decoder = Decoder::new(blob.as_slice())?;
/// assert_eq!(decoder.compression(), Compression::Zstd);
/// let mut text = String::new();
/// decoder.read_to_string(&mut text)?;
/// assert_eq!(text, "hello");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Decoder<R> {
    form: Form<R>,
    /// Bytes that were given out.
    given: u64,
    expansion: Option<Expansion>,
    /// Why the stream ended badly; said again when it is read again.
    failed: Option<(ErrorKind, String)>,
}

/// How far compressed bytes may grow.
#[derive(Clone, Copy, Debug)]
struct Expansion {
    ratio: u64,
    /// How many there are in all, where that is known.
    size: Option<u64>,
    /// Whether the end is judged by what was read, where the size is not known.
    exact: bool,
}

/// Where it is not known how many compressed bytes will come, so many count as read from the start: the beginning of an honest
/// stream may be all zeros.
const UNSIZED_START: u64 = 1 << 20;

enum Form<R> {
    Plain(Input<R>),
    Gzip(Box<GzDecoder<Slot<Input<R>>>>),
    Zstd(zstd::stream::read::Decoder<'static, Input<R>>),
}

impl<R: Read> Decoder<R> {
    /// Reads the first bytes of `source` to tell its compression. An empty source is an empty, uncompressed stream.
    ///
    /// # Errors
    /// Those of `source`.
    pub fn new(source: R) -> Result<Self> {
        let mut input = Input::new(source);
        let start = input.peek(Compression::SNIFFED).map_err(|error| Error::io(OP, error))?;
        let form = match Compression::sniff(start) {
            Compression::None => Form::Plain(input),
            Compression::Gzip => Form::Gzip(Box::new(GzDecoder::new(Slot(Some(input))))),
            Compression::Zstd => {
                // Only for want of memory are these refused.
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(|error| Error::io(OP, error))?;
                decoder.window_log_max(WINDOW_LOG_MAX).map_err(|error| Error::io(OP, error))?;
                Form::Zstd(decoder)
            }
        };
        Ok(Self { form, given: 0, expansion: None, failed: None })
    }

    /// Ends with `LimitExceeded` as soon as there are more than `ratio` times as many bytes as the source has: as `size` says, or else as
    /// were read of it so far (the first MiB counts as read). Without a ratio, as by default, and of a stream that is not compressed,
    /// there may be any number.
    #[must_use]
    pub fn expansion_ratio(self, ratio: Option<u64>, size: Option<u64>) -> Self {
        Self { expansion: ratio.map(|ratio| Expansion { ratio, size, exact: false }), ..self }
    }

    /// The same at the end as if the size had been known from the beginning.
    pub(crate) fn exact_at_the_end(self) -> Self {
        Self { expansion: self.expansion.map(|expansion| Expansion { exact: true, ..expansion }), ..self }
    }

    fn check_expansion(&self, is_end: bool) -> Result<()> {
        let Some(Expansion { ratio, size, exact }) = self.expansion else { return Ok(()) };
        let start = if exact && is_end { 0 } else { UNSIZED_START };
        let size = size.unwrap_or_else(|| self.taken().max(start));
        if self.given <= size.saturating_mul(ratio) {
            return Ok(());
        }
        let reason = format!("the layer has more than {ratio} times as many bytes uncompressed as compressed");
        Err(Error::new(ErrorKind::LimitExceeded, OP).because(reason))
    }

    fn taken(&self) -> u64 {
        self.input().map_or(0, Input::taken)
    }

    fn input(&self) -> Option<&Input<R>> {
        match &self.form {
            Form::Plain(input) => Some(input),
            Form::Gzip(decoder) => decoder.get_ref().0.as_ref(),
            Form::Zstd(decoder) => Some(decoder.get_ref()),
        }
    }

    /// What the bytes are compressed with.
    pub fn compression(&self) -> Compression {
        match self.form {
            Form::Plain(_) => Compression::None,
            Form::Gzip(_) => Compression::Gzip,
            Form::Zstd(_) => Compression::Zstd,
        }
    }

    /// The source; `None` only after a failed read.
    pub fn get_ref(&self) -> Option<&R> {
        self.input().map(Input::get_ref)
    }

    /// The source, of which more may have been read than was decoded; all of it, once the decoder said "end".
    pub fn into_inner(self) -> Option<R> {
        match self.form {
            Form::Plain(input) => Some(input.into_inner()),
            Form::Gzip(decoder) => decoder.into_inner().0.map(Input::into_inner),
            Form::Zstd(decoder) => Some(decoder.into_inner().into_inner()),
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Some((kind, reason)) = &self.failed {
            return Err(Error::new(*kind, OP).because(reason.clone()).into());
        }
        if out.is_empty() {
            return Ok(0);
        }
        let read = match &mut self.form {
            Form::Plain(input) => return input.read(out),
            Form::Gzip(decoder) => read_members(decoder, out),
            Form::Zstd(decoder) => decoder.read(out),
        };
        let read = read.map_err(|error| classify(self.compression(), error)).and_then(|count| {
            self.given = self.given.saturating_add(count as u64);
            self.check_expansion(count == 0).map(|()| count)
        });
        read.map_err(|error| {
            self.failed = Some((error.kind(), error.reason().unwrap_or("the source failed").to_owned()));
            error.into()
        })
    }
}

impl<R> fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("failed", &self.failed).finish_non_exhaustive()
    }
}

/// Reads from the current gzip member, and goes on to the next one where there is one.
fn read_members<R: Read>(decoder: &mut GzDecoder<Slot<Input<R>>>, out: &mut [u8]) -> io::Result<usize> {
    loop {
        let count = decoder.read(out)?;
        if count > 0 {
            return Ok(count);
        }
        // The member is complete and its CRC was right.
        match decoder.get_mut().fill_buf()?.first() {
            None => return Ok(0),
            Some(0) => return only_nul(decoder.get_mut()).map(|()| 0),
            Some(_) => {
                // `reset` keeps the decoder's memory: some writers make one member per file.
                let input = decoder.reset(Slot(None));
                *decoder.get_mut() = input;
            }
        }
    }
}

/// Reads to the end, over the NUL bytes that tape-minded tools pad with.
fn only_nul(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.iter().any(|&byte| byte != 0) {
            return Err(damaged("gzip: data follows the padding after the last member").into());
        }
        let count = bytes.len();
        input.consume(count);
    }
}

fn damaged(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidLayer, OP).because(reason)
}

/// What a decoder found becomes `InvalidLayer`; what its source reported stays what it was.
fn classify(compression: Compression, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) if is_want_of_memory(&error) => Error::io(OP, error),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            damaged(format!("{compression}: the stream is truncated")).with_source(error)
        }
        Err(error) => damaged(format!("{compression}: {error}")).with_source(error),
    }
}

/// Whether a decoder could not have the memory for a window: no fault of the stream.
fn is_want_of_memory(error: &io::Error) -> bool {
    let zstd = error.get_ref().and_then(|error| error.downcast_ref::<zstd::Error>());
    zstd.is_some_and(|error| error.is(ZSTD_ErrorCode::ZSTD_error_memory_allocation))
}

/// A place that is empty only while a gzip decoder is handed the rest of its own input.
struct Slot<T>(Option<T>);

impl<T: BufRead> Read for Slot<T> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.as_mut().map_or(Ok(0), |input| input.read(out))
    }
}

impl<T: BufRead> BufRead for Slot<T> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.as_mut().map_or(Ok(&[]), BufRead::fill_buf)
    }

    fn consume(&mut self, count: usize) {
        self.0.iter_mut().for_each(|input| input.consume(count));
    }
}
