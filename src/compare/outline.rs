//! A layer without the bytes of its files: what each file should hold is remembered under a number, which is the file's size instead.

use std::sync::Arc;

use crate::digest::{Algorithm, Digest, Hasher};
use crate::entry::{Change, Chunk, Entry, EntryStream, Node, Position};
use crate::error::Result;

/// What a file of an outline should hold.
#[derive(Debug)]
pub(super) enum Content {
    /// So many bytes, of this digest.
    Bytes(u64, [u8; 32]),
    /// An inode of the layers below, content and attributes: a fact's digest.
    Taken(Digest),
}

/// What the files of an outline should hold, by the number that each has as its size. An outline that was made over another one
/// shares the numbers of that.
#[derive(Debug, Default)]
pub struct Contents {
    below: Option<Arc<Contents>>,
    first: u64,
    own: Vec<Content>,
}

impl Contents {
    /// Goes on with the numbers of an outline over which another one is made.
    pub fn over(below: Arc<Self>) -> Self {
        Self { first: below.next(), below: Some(below), own: Vec::new() }
    }

    fn next(&self) -> u64 {
        self.first.saturating_add(self.own.len() as u64)
    }

    /// 0 is the size of a file that is no outline's.
    fn push(&mut self, content: Content) -> u64 {
        self.own.push(content);
        self.next()
    }

    /// Numbers an inode that a link takes over from the layers below.
    pub(crate) fn taken(&mut self, digest: Digest) -> u64 {
        self.push(Content::Taken(digest))
    }

    pub(super) fn get(&self, number: u64) -> Option<&Content> {
        let index = number.checked_sub(1)?;
        match (index.checked_sub(self.first), &self.below) {
            (Some(own), _) => self.own.get(usize::try_from(own).ok()?),
            (None, Some(below)) => below.get(number),
            (None, None) => None,
        }
    }
}

/// A layer without the bytes of its files, which are remembered instead.
pub(crate) struct Outline<'a> {
    layer: &'a mut dyn EntryStream,
    contents: &'a mut Contents,
    /// How much was remembered before the layer began.
    before: usize,
}

impl<'a> Outline<'a> {
    pub(crate) fn new(layer: &'a mut dyn EntryStream, contents: &'a mut Contents) -> Self {
        let before = contents.own.len();
        Self { layer, contents, before }
    }
}

impl EntryStream for Outline<'_> {
    fn next(&mut self) -> Result<Option<Entry>> {
        let Some(mut entry) = self.layer.next()? else { return Ok(None) };
        if let Change::Upsert { node: Node::File { size }, .. } = &mut entry.change {
            let digest = match self.layer.content_digest() {
                Some(digest) => digest,
                None => {
                    let mut hash = ContentHash::default();
                    while let Some(Chunk { offset, data }) = self.layer.chunk()? {
                        hash.write(offset, data);
                    }
                    hash.finish()
                }
            };
            *size = self.contents.push(Content::Bytes(*size, digest));
        }
        Ok(Some(entry))
    }

    fn chunk(&mut self) -> Result<Option<Chunk<'_>>> {
        Ok(None)
    }

    fn restart(&mut self) -> Result<()> {
        self.contents.own.truncate(self.before);
        self.layer.restart()
    }

    fn position(&self) -> Option<Position> {
        self.layer.position()
    }
}

const BLOCK: usize = 4096;

/// A digest of a file's bytes that passes over blocks of zeros: holes cost nothing, wherever they are told as such.
pub(crate) struct ContentHash {
    hasher: Hasher,
    block: Vec<u8>,
    /// Where the block begins in the file.
    start: u64,
}

impl Default for ContentHash {
    fn default() -> Self {
        Self { hasher: Hasher::new(Algorithm::Sha256), block: vec![0; BLOCK], start: 0 }
    }
}

impl ContentHash {
    /// Takes bytes at an offset; offsets rise, and what is left out is zeros.
    pub(crate) fn write(&mut self, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let within = usize::try_from(offset.rem_euclid(BLOCK as u64)).unwrap_or_default();
            let start = offset.saturating_sub(within as u64);
            if start != self.start {
                self.flush();
                self.start = start;
            }
            let take = data.len().min(BLOCK.saturating_sub(within));
            let (now, rest) = data.split_at(take);
            if take == BLOCK {
                hash_block(&mut self.hasher, start, now);
            } else if let Some(place) = self.block.get_mut(within..).and_then(|rest| rest.get_mut(..take)) {
                place.copy_from_slice(now);
            }
            data = rest;
            offset = offset.saturating_add(take as u64);
        }
    }

    fn flush(&mut self) {
        hash_block(&mut self.hasher, self.start, &self.block);
        self.block.fill(0);
    }

    pub(crate) fn finish(mut self) -> [u8; 32] {
        self.flush();
        let mut digest = [0; 32];
        // The hex of a digest of our own always decodes.
        let _ = hex::decode_to_slice(self.hasher.finish().to_hex(), &mut digest);
        digest
    }
}

fn hash_block(hasher: &mut Hasher, start: u64, block: &[u8]) {
    if block.iter().any(|&byte| byte != 0) {
        hasher.update(&start.to_le_bytes());
        hasher.update(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(pieces: &[(u64, &[u8])]) -> [u8; 32] {
        let mut hash = ContentHash::default();
        pieces.iter().for_each(|(offset, data)| hash.write(*offset, data));
        hash.finish()
    }

    #[test]
    fn how_bytes_are_cut_and_where_holes_are_told_makes_no_difference() {
        let mut whole = vec![0; 20_000];
        whole[3..9].copy_from_slice(b"abcdef");
        whole[8192..12_288].fill(7);
        whole[19_999] = 1;
        let expected = hash(&[(0, &whole)]);
        assert_eq!(hash(&[(3, b"abc"), (6, b"def"), (8192, &[7; 4096]), (19_999, &[1])]), expected);
        for cut in [1, 7, 4095, 4096, 4097, 9999] {
            let pieces: Vec<(u64, &[u8])> = whole.chunks(cut).enumerate().map(|(at, piece)| ((at * cut) as u64, piece)).collect();
            assert_eq!(hash(&pieces), expected, "{cut}");
        }
        whole[8192] = 8;
        assert_ne!(hash(&[(0, &whole)]), expected);
        assert_eq!(hash(&[]), hash(&[(0, &[0; 9000])]), "the size is compared by itself");
        assert_ne!(hash(&[(0, b"a")]), hash(&[(4096, b"a")]));
    }

    #[test]
    fn numbers_go_on_over_another_outline() {
        let mut below = Contents::default();
        let one = below.push(Content::Bytes(5, [1; 32]));
        let mut above = Contents::over(Arc::new(below));
        let two = above.push(Content::Bytes(6, [2; 32]));
        assert_eq!((one, two), (1, 2));
        assert!(matches!(above.get(one), Some(Content::Bytes(5, _))));
        assert!(matches!(above.get(two), Some(Content::Bytes(6, _))));
        assert!(above.get(0).is_none() && above.get(3).is_none());
    }
}
