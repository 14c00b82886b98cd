//! Archives and compressed blobs of any bytes.

use std::io::{Cursor, Read, Write};

use plywood::compression::{Compression, Decoder, Encoder};
use plywood::entry::{Change, Chunk, Entry, EntrySink, Node, Status};
use plywood::path::COMPONENT_MAX;
use plywood::tar::{Limits, Reader, Writer};
use plywood::{Context, Error, ErrorKind};

/// Files with more than this, holes included, are not written back.
const WRITTEN_BACK: usize = 1 << 20;

type Entries = Vec<(Entry, Vec<(u64, Vec<u8>)>)>;

/// Gives its bytes in pieces of changing, odd lengths.
struct Pieces<'a> {
    rest: &'a [u8],
    last: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.last = self.last * 5 % 1009 + 1;
        let count = self.last.min(out.len()).min(self.rest.len());
        let (piece, rest) = self.rest.split_at(count);
        out[..count].copy_from_slice(piece);
        self.rest = rest;
        Ok(count)
    }
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.sparse_segments = 1000;
    limits.header_bytes = 64 << 10;
    limits
}

/// All entries with their chunks joined where they touch, or the error's kind and message.
fn read(source: impl Read) -> Result<Entries, (ErrorKind, String)> {
    let cx = Context::default();
    let mut reader = Reader::new(source, limits(), &cx);
    let mut entries = Entries::new();
    let said = |error: Error| (error.kind(), error.to_string());
    while let Some(entry) = reader.next().map_err(said)? {
        check(&entry);
        let mut content: Vec<(u64, Vec<u8>)> = Vec::new();
        while let Some(Chunk { offset, data }) = reader.chunk().map_err(said)? {
            assert!(!data.is_empty());
            match content.last_mut() {
                Some((begin, bytes)) if *begin + bytes.len() as u64 == offset => bytes.extend_from_slice(data),
                Some((begin, bytes)) => {
                    assert!(offset > *begin + bytes.len() as u64, "chunks rise");
                    content.push((offset, data.to_vec()));
                }
                None => content.push((offset, data.to_vec())),
            }
        }
        let end = content.last().map_or(0, |(begin, bytes)| begin + bytes.len() as u64);
        match entry.change {
            Change::Upsert { node: Node::File { size }, .. } => assert!(end <= size),
            // A marker's content is nobody's, but readable.
            Change::Whiteout | Change::Opaque => content.clear(),
            _ => assert!(content.is_empty()),
        }
        entries.push((entry, content));
    }
    assert!(reader.next().is_ok_and(|end| end.is_none()));
    let mut left = [0];
    assert_eq!(reader.into_inner().read(&mut left).unwrap(), 0, "the end is the stream's end");
    Ok(entries)
}

/// What no entry may be, whatever the archive says.
fn check(entry: &Entry) {
    let path = &entry.path;
    assert!(path.components().all(|name| name != b".." && name != b"." && name.len() <= COMPONENT_MAX && !name.contains(&0)));
    assert!(path.as_bytes().len() <= 4096 && path.depth() <= 1024);
    let aufs = path.as_bytes().starts_with(b".wh..wh.plnk/");
    assert!(aufs || path.components().all(|name| !name.starts_with(b".wh.") || entry.change == Change::Whiteout));
    if let Change::Upsert { node, attributes } = &entry.change {
        assert!(attributes.mode <= 0o7777 && attributes.uid != u32::MAX && attributes.gid != u32::MAX);
        assert!(attributes.mtime.nanoseconds < 1_000_000_000);
        match node {
            Node::CharDevice { major: 0, minor: 0 } => panic!("a whiteout of overlayfs"),
            Node::Symlink { target } => assert!(!target.is_empty() && !target.contains(&0) && target.len() < 4096),
            Node::Hardlink { target } => assert!(!target.is_root()),
            Node::File { size } => assert!(i64::try_from(*size).is_ok()),
            _ => {}
        }
        assert!(!path.is_root() || *node == Node::Directory);
    }
}

fn write(entries: &Entries) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, content) in entries {
        writer.entry(entry, Status::Added).unwrap();
        if let Change::Upsert { node: Node::File { size }, .. } = entry.change {
            let mut bytes = vec![0; size.try_into().unwrap()];
            for (offset, data) in content {
                let begin = usize::try_from(*offset).unwrap();
                bytes[begin..begin + data.len()].copy_from_slice(data);
            }
            writer.data(&bytes).unwrap();
        }
    }
    writer.finish().unwrap()
}

/// Holes as zeros, so that contents compare.
fn solid(entries: &Entries) -> Vec<(Entry, Vec<u8>)> {
    let fill = |(entry, content): &(Entry, Vec<(u64, Vec<u8>)>)| {
        let mut bytes = Vec::new();
        for (offset, data) in content {
            bytes.resize(usize::try_from(*offset).unwrap(), 0);
            bytes.extend_from_slice(data);
        }
        if let Change::Upsert { node: Node::File { size }, .. } = entry.change {
            bytes.resize(size.try_into().unwrap(), 0);
        }
        (entry.clone(), bytes)
    };
    entries.iter().map(fill).collect()
}

/// Any bytes as an uncompressed layer: no panic; the same result however the bytes arrive; no entry that the contract forbids; and
/// what was read can be written and read again, to the same entries and then to the same bytes.
pub(crate) fn tar_reader(data: &[u8]) -> bool {
    let result = read(Cursor::new(data));
    assert_eq!(read(Pieces { rest: data, last: 7 }), result);
    let Ok(entries) = result else { return false };
    let size = |(entry, _): &(Entry, _)| match entry.change {
        Change::Upsert { node: Node::File { size }, .. } => usize::try_from(size).unwrap_or(usize::MAX),
        _ => 0,
    };
    if entries.iter().map(size).fold(0, usize::saturating_add) > WRITTEN_BACK {
        return true;
    }
    let archive = write(&entries);
    let again = read(Cursor::new(&archive)).unwrap();
    assert_eq!(solid(&again), solid(&entries));
    assert_eq!(write(&again), archive);
    true
}

/// The same for archives of [members](members_archive).
pub(crate) fn tar_members(data: &[u8]) -> bool {
    tar_reader(&members_archive(data))
}

/// An archive of a list of members: a byte of choices, and pieces of a header. Magic, checksum and often the size are made right.
pub(crate) fn members_archive(mut data: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    while let Some((&choice, rest)) = data.split_first() {
        data = rest;
        let mut take = |most: usize| {
            let (length, rest) = data.split_first().map_or((0, data), |(&length, rest)| (usize::from(length), rest));
            let (piece, rest) = rest.split_at(length.min(most).min(rest.len()));
            data = rest;
            piece
        };
        let mut block = [0u8; 512];
        let mut put = |offset: usize, bytes: &[u8]| block[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, take(100));
        put(100, b"0000644\0");
        put(156, take(1));
        put(157, take(100));
        match choice & 3 {
            0 => {}
            1 => put(257, b"ustar\x0000"),
            _ => put(257, b"ustar  \0"),
        }
        if choice & 4 != 0 {
            // Any field, prefix and sparse map included.
            let offset = usize::from(take(1).first().copied().unwrap_or(0)) * 2;
            let piece = take(512 - offset);
            put(offset, piece);
        }
        let body = take(255).repeat(if choice & 8 != 0 { 20 } else { 1 });
        if choice & 16 == 0 {
            put(124, format!("{:011o}\0", body.len()).as_bytes());
        }
        put(148, b"        ");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend(block);
        archive.extend_from_slice(&body);
        if choice & 32 == 0 {
            archive.resize(archive.len().next_multiple_of(512), 0);
        }
    }
    archive.extend([0; 1024]);
    archive
}

/// A ustar header with a right checksum.
pub(crate) fn sealed(fill: impl FnOnce(&mut tar::Header)) -> [u8; 512] {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    fill(&mut header);
    header.set_cksum();
    *header.as_bytes()
}

fn decode(source: impl Read) -> Result<Vec<u8>, ErrorKind> {
    let mut decoder = Decoder::new(source).map_err(|error| error.kind())?;
    let mut out = Vec::new();
    let result = decoder.by_ref().take(16 << 20).read_to_end(&mut out);
    match result {
        Ok(_) => Ok(out),
        Err(error) => {
            assert!(decoder.read(&mut [0]).is_err(), "a failed stream stays failed");
            Err(Error::io("decode", error).kind())
        }
    }
}

/// Any bytes as a blob: no panic; the same result however the bytes arrive; damage is `InvalidLayer`; and what came out survives each
/// compression.
pub(crate) fn decompress(data: &[u8]) -> bool {
    let result = decode(data);
    assert_eq!(decode(Pieces { rest: data, last: 3 }), result);
    match &result {
        Err(kind) => assert_eq!(*kind, ErrorKind::InvalidLayer),
        Ok(bytes) if bytes.len() <= WRITTEN_BACK => {
            for compression in [Compression::Gzip, Compression::Zstd] {
                let mut encoder = Encoder::new(Vec::new(), compression, Some(1)).unwrap();
                encoder.write_all(bytes).unwrap();
                assert_eq!(decode(encoder.finish().unwrap().as_slice()).as_ref(), Ok(bytes));
            }
        }
        Ok(_) => {}
    }
    result.is_ok()
}
