//! The compressing writer.
//!
//! Deterministic: the same bytes in give the same bytes out for one version of this crate, whatever the machine, and however the
//! input was cut into writes (it is handed to the codec in blocks of one size) and by how many threads it is compressed. No time, name or
//! system stands in a header.

use std::fmt;
use std::io::{self, Write};

use super::Compression;
use super::blocks::Gzip;
use crate::error::{Error, ErrorKind, Result};
use crate::parallel::Parallelism;

/// What the codecs get at a time.
const BLOCK: usize = 128 * 1024;
const GZIP_DEFAULT: u32 = 6;
const ZSTD_DEFAULT: i32 = 3;
/// Each of zstd's workers holds a few windows.
const WORKERS_MAX: u32 = 64;
const OP: &str = "compress layer";

/// Writes the compressed form of what it is given. [`finish`](Self::finish) completes it; dropped before, the output is truncated.
#[must_use = "the output is complete only after `finish`"]
pub struct Encoder<W: Write> {
    form: Form<W>,
    /// What waits for a full block; only used for the codecs.
    block: Vec<u8>,
}

enum Form<W: Write> {
    Plain(W),
    Gzip(Box<Gzip<W>>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// An encoder of this compression. `level` is gzip's 0 to 9 (6 by default) or zstd's 1 to 22 (3 by default); without
    /// compression it means nothing.
    ///
    /// # Errors
    /// `InvalidArgument` for a level that the compression does not have.
    pub fn new(writer: W, compression: Compression, level: Option<u32>) -> Result<Self> {
        let refuse = |level: u32, range: &str| {
            Error::new(ErrorKind::InvalidArgument, OP).because(format!("{compression} has the levels {range}, not {level}"))
        };
        let form = match compression {
            Compression::None => Form::Plain(writer),
            Compression::Gzip => {
                let level = level.unwrap_or(GZIP_DEFAULT);
                if level > 9 {
                    return Err(refuse(level, "0 to 9"));
                }
                Form::Gzip(Box::new(Gzip::new(writer, level)))
            }
            Compression::Zstd => {
                let level = match level {
                    None => ZSTD_DEFAULT,
                    Some(level @ 1..=22) => i32::try_from(level).unwrap_or(ZSTD_DEFAULT),
                    Some(level) => return Err(refuse(level, "1 to 22")),
                };
                // Only for want of memory are these refused.
                let mut encoder = zstd::stream::write::Encoder::new(writer, level).map_err(|error| Error::io(OP, error))?;
                encoder.include_checksum(true).map_err(|error| Error::io(OP, error))?;
                // Never none: what its workers make is the same whatever their number, but not what it makes without any.
                encoder.multithread(1).map_err(|error| Error::io(OP, error))?;
                Form::Zstd(encoder)
            }
        };
        Ok(Self { form, block: Vec::new() })
    }

    /// By so many threads, the caller's among them; by that one alone, as without this, no others are started, but for the one that zstd
    /// compresses in anyway. They have ended when the encoder is finished or dropped.
    pub fn parallel(self, parallelism: Parallelism) -> Self {
        let form = match self.form {
            Form::Gzip(encoder) => Form::Gzip(Box::new(encoder.parallel(parallelism))),
            Form::Zstd(mut encoder) => {
                let workers = u32::try_from(parallelism.get().saturating_sub(1)).unwrap_or(WORKERS_MAX).clamp(1, WORKERS_MAX);
                // Refused, it goes on with the one that it has.
                let _ = encoder.multithread(workers);
                Form::Zstd(encoder)
            }
            other => other,
        };
        Self { form, ..self }
    }

    /// What the output is compressed with.
    pub fn compression(&self) -> Compression {
        match self.form {
            Form::Plain(_) => Compression::None,
            Form::Gzip(_) => Compression::Gzip,
            Form::Zstd(_) => Compression::Zstd,
        }
    }

    /// Writes what is left and gives the writer back, unflushed.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> Result<W> {
        let rest = std::mem::take(&mut self.block);
        self.form.write_all(&rest).map_err(|error| Error::io(OP, error))?;
        match self.form {
            Form::Plain(writer) => Ok(writer),
            Form::Gzip(encoder) => encoder.finish().map_err(|error| Error::io(OP, error)),
            Form::Zstd(encoder) => encoder.finish().map_err(|error| Error::io(OP, error)),
        }
    }
}

impl<W: Write> Form<W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(writer) => writer.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Form::Plain(writer) = &mut self.form {
            return writer.write(bytes);
        }
        let room = BLOCK.saturating_sub(self.block.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        if self.block.is_empty() && taken.len() == BLOCK {
            self.form.write_all(taken)?;
        } else {
            self.block.extend_from_slice(taken);
            if self.block.len() == BLOCK {
                self.form.write_all(&self.block)?;
                self.block.clear();
            }
        }
        Ok(taken.len())
    }

    /// Flushes nothing but an uncompressed writer: a flush inside compressed data would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        if let Form::Plain(writer) = &mut self.form { writer.flush() } else { Ok(()) }
    }
}

impl<W: Write> fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("compression", &self.compression()).finish_non_exhaustive()
    }
}
