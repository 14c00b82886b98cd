//! Sparse files: which parts of a file the archive holds (GNU tar manual, "Sparse Formats").
//!
//! Four spellings of one map: old GNU (in the header block and extension blocks after it), PAX 0.0 (a pair of records per segment),
//! PAX 0.1 (one record), PAX 1.0 (text before the content). Whatever the spelling, the segments must be sorted, apart, inside the
//! file, and add up to the stored bytes.

use super::fault::Fault;
use super::pax::decimal;
use super::{Limits, header};

type Result<T, E = Fault> = std::result::Result<T, E>;

/// A part of a file that the archive holds; all else is a hole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Refuses a map that no file of `size` bytes with `stored` bytes of content can have.
pub(super) fn validate(segments: &[Segment], size: u64, stored: u64) -> Result<()> {
    let (mut end, mut sum) = (0u64, 0u64);
    for segment in segments {
        if segment.offset < end {
            return Err(Fault::new("the sparse map's segments overlap or are not sorted"));
        }
        end = segment.offset.checked_add(segment.length).ok_or_else(|| Fault::new("a sparse segment overflows"))?;
        // Never more than the end.
        sum = sum.saturating_add(segment.length);
    }
    if end > size {
        return Err(Fault::new("a sparse segment lies beyond the end of the file"));
    }
    if sum != stored {
        return Err(Fault::new("the sparse map's segments do not add up to the stored bytes"));
    }
    Ok(())
}

fn push(segments: &mut Vec<Segment>, segment: Segment, limits: &Limits) -> Result<()> {
    if segments.len() >= limits.sparse_segments {
        return Err(Fault::limit(format!("the file has more than {} sparse segments", limits.sparse_segments)));
    }
    segments.push(segment);
    Ok(())
}

/// Collects old GNU's map block by block.
#[derive(Debug, Default)]
pub(super) struct Builder {
    segments: Vec<Segment>,
    extended: bool,
}

impl Builder {
    /// Takes the fields of one block, and whether it says that another one follows.
    pub(super) fn block(&mut self, fields: &[tar::GnuSparseHeader], extended: bool) -> Result<()> {
        self.extended = extended;
        for field in fields {
            match (field.offset.first(), field.numbytes.first()) {
                (Some(0), Some(0)) => {
                    // GNU tar stops here; Go goes on with the next block.
                    return if extended { Err(Fault::new("a sparse map that ends before its last block")) } else { Ok(()) };
                }
                (Some(0), _) | (_, Some(0)) => return Err(Fault::new("half a sparse segment")),
                _ => {}
            }
            let part =
                |field, what| u64::try_from(header::number(field, what)?).map_err(|_| Fault::new("a sparse segment is negative"));
            let segment = Segment {
                offset: part(&field.offset, "offset of a sparse segment")?,
                length: part(&field.numbytes, "length of a sparse segment")?,
            };
            self.segments.push(segment);
        }
        Ok(())
    }

    /// Whether an extension block is to be read; refuses a map that has grown too long.
    pub(super) fn wants_block(&self, limits: &Limits) -> Result<bool> {
        if self.segments.len() > limits.sparse_segments {
            return Err(Fault::limit(format!("the file has more than {} sparse segments", limits.sparse_segments)));
        }
        Ok(self.extended)
    }

    pub(super) fn finish(self) -> Vec<Segment> {
        self.segments
    }
}

/// The `GNU.sparse.*` records of a PAX header.
#[derive(Debug, Default)]
pub(super) struct Keywords {
    any: bool,
    major: Option<Vec<u8>>,
    minor: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    real_size: Option<u64>,
    blocks: Option<u64>,
    map: Option<Vec<Segment>>,
    /// Format 0.0: finished pairs, and an offset whose length is yet to come.
    pairs: Vec<Segment>,
    offset: Option<u64>,
}

/// What the records make of a member.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PaxSparse {
    /// The file's own name; the header's is a made-up one.
    pub(super) name: Option<Vec<u8>>,
    /// The file's size, holes included.
    pub(super) size: u64,
    /// The map, or `None` where it stands before the content (1.0).
    pub(super) map: Option<Vec<Segment>>,
}

impl Keywords {
    pub(super) fn set(&mut self, keyword: &[u8], value: &[u8], limits: &Limits) -> Result<()> {
        self.any = true;
        let number = |what| if value.is_empty() { Ok(None) } else { decimal(value, what).map(Some) };
        match keyword {
            b"major" => self.major = Some(value.to_vec()),
            b"minor" => self.minor = Some(value.to_vec()),
            b"name" if value.contains(&0) => return Err(Fault::new("a NUL byte in a PAX path or name")),
            b"name" => self.name = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => self.size = number("size of a sparse file")?,
            b"realsize" => self.real_size = number("size of a sparse file")?,
            b"numblocks" => self.blocks = number("number of sparse segments")?,
            b"map" => self.map = Some(parse_list(value, limits)?),
            b"offset" => {
                if self.offset.replace(decimal(value, "offset of a sparse segment")?).is_some() {
                    return Err(Fault::new("two offsets of sparse segments in a row"));
                }
            }
            b"numbytes" => {
                let length = decimal(value, "length of a sparse segment")?;
                let offset = self.offset.take().ok_or_else(|| Fault::new("the length of a sparse segment without its offset"))?;
                push(&mut self.pairs, Segment { offset, length }, limits)?;
            }
            _ => return Err(Fault::new(format!("unknown PAX record GNU.sparse.{}", keyword.escape_ascii()))),
        }
        Ok(())
    }

    /// Whether there are any: on a member that is no regular file they belong to nothing.
    pub(super) fn any(&self) -> bool {
        self.any
    }

    /// The member's map, size and name; `None` without any record.
    pub(super) fn finish(self) -> Result<Option<PaxSparse>> {
        if !self.any {
            return Ok(None);
        }
        let stray = || Fault::new("GNU.sparse records that make no sparse file");
        if self.offset.is_some() || (self.map.is_some() && !self.pairs.is_empty()) {
            return Err(stray());
        }
        let size = match (self.size, self.real_size) {
            (Some(size), None) | (None, Some(size)) => size,
            _ => return Err(stray()),
        };
        let listed = self.map.or_else(|| (!self.pairs.is_empty()).then_some(self.pairs));
        let map = match (self.major.as_deref(), self.minor.as_deref()) {
            (Some(b"1"), Some(b"0")) if listed.is_none() && self.blocks.is_none() => None,
            (Some(b"0"), Some(b"0" | b"1")) | (None, None) => {
                // Without a version, Go takes an empty map for none.
                let map = listed.filter(|map| self.major.is_some() || !map.is_empty()).ok_or_else(stray)?;
                if self.blocks != Some(map.len() as u64) {
                    return Err(Fault::new("the number of sparse segments is not what the header says"));
                }
                Some(map)
            }
            _ => return Err(stray()),
        };
        Ok(Some(PaxSparse { name: self.name, size, map }))
    }
}

/// `offset,length,offset,length…`
fn parse_list(value: &[u8], limits: &Limits) -> Result<Vec<Segment>> {
    let mut segments = Vec::new();
    if value.is_empty() {
        return Ok(segments);
    }
    let mut numbers = value.split(|&byte| byte == b',');
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or_else(|| Fault::new("half a sparse segment"))?;
        let segment = Segment {
            offset: decimal(offset, "offset of a sparse segment")?,
            length: decimal(length, "length of a sparse segment")?,
        };
        push(&mut segments, segment, limits)?;
    }
    Ok(segments)
}

/// Reads format 1.0's map: decimal numbers, a newline after each: how many segments, then offset and length of each. It fills up
/// whole blocks at the beginning of the member's content.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    segments: Vec<Segment>,
    token: Vec<u8>,
    expected: Option<u64>,
    offset: Option<u64>,
}

impl MapReader {
    /// Takes one block; whether the map is complete, so that the content begins with the next one.
    pub(super) fn block(&mut self, block: &[u8], limits: &Limits) -> Result<bool> {
        for &byte in block {
            if self.complete() {
                // What fills the map's last block means nothing.
                break;
            }
            if byte == b'\n' {
                let number = decimal(&self.token, "number in a sparse map")?;
                self.token.clear();
                self.number(number, limits)?;
            } else if self.token.len() < 20 {
                self.token.push(byte);
            } else {
                return Err(Fault::new("a number in a sparse map is too long"));
            }
        }
        Ok(self.complete())
    }

    fn number(&mut self, number: u64, limits: &Limits) -> Result<()> {
        if self.expected.is_none() {
            if number > limits.sparse_segments as u64 {
                return Err(Fault::limit(format!("the file has more than {} sparse segments", limits.sparse_segments)));
            }
            self.expected = Some(number);
        } else if let Some(offset) = self.offset.take() {
            // No more than were announced.
            self.segments.push(Segment { offset, length: number });
        } else {
            self.offset = Some(number);
        }
        Ok(())
    }

    fn complete(&self) -> bool {
        self.expected == Some(self.segments.len() as u64)
    }

    pub(super) fn finish(self) -> Vec<Segment> {
        self.segments
    }
}

#[cfg(test)]
mod tests;
