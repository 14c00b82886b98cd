//! Archives made by hand, block by block, and their reading.

use super::{Limits, MemoryLayer};
use crate::entry::{Attributes, Change, Entry, EntryStream as _, Node};
use crate::error::{ErrorKind, Result};
use crate::progress::{Context, Report};

/// A header block under construction.
pub(crate) struct Block(tar::Header);

impl Block {
    fn new(mut header: tar::Header, name: &[u8], flag: u8) -> Self {
        set(&mut header.as_old_mut().name, name);
        header.as_old_mut().linkflag = [flag];
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mtime(0);
        Self(header)
    }

    pub(crate) fn ustar(name: impl AsRef<[u8]>, flag: u8) -> Self {
        Self::new(tar::Header::new_ustar(), name.as_ref(), flag)
    }

    pub(crate) fn gnu(name: impl AsRef<[u8]>, flag: u8) -> Self {
        Self::new(tar::Header::new_gnu(), name.as_ref(), flag)
    }

    pub(crate) fn v7(name: impl AsRef<[u8]>, flag: u8) -> Self {
        Self::new(tar::Header::new_old(), name.as_ref(), flag)
    }

    pub(crate) fn size(mut self, size: usize) -> Self {
        self.0.set_size(size as u64);
        self
    }

    pub(crate) fn link(mut self, target: impl AsRef<[u8]>) -> Self {
        set(&mut self.0.as_old_mut().linkname, target.as_ref());
        self
    }

    /// Overwrites bytes at an offset in the block.
    pub(crate) fn at(mut self, offset: usize, bytes: impl AsRef<[u8]>) -> Self {
        set(&mut self.0.as_mut_bytes()[offset..], bytes.as_ref());
        self
    }

    pub(crate) fn prefix(self, prefix: impl AsRef<[u8]>) -> Self {
        self.at(345, prefix)
    }

    /// The block alone, with a right checksum.
    pub(crate) fn seal(mut self) -> Vec<u8> {
        self.0.set_cksum();
        self.0.as_bytes().to_vec()
    }

    /// The block, with `body` after it, padded.
    pub(crate) fn body(self, body: impl AsRef<[u8]>) -> Vec<u8> {
        let body = body.as_ref();
        let mut member = self.size(body.len()).seal();
        member.extend(padded(body));
        member
    }
}

fn set(field: &mut [u8], value: &[u8]) {
    field[..value.len()].copy_from_slice(value);
}

pub(crate) fn padded(body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(512), 0);
    body
}

/// A PAX header member of these records.
pub(crate) fn pax(flag: u8, records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (keyword, value) in records {
        super::pax::write_record(&mut body, keyword.as_bytes(), value);
    }
    Block::ustar("pax", flag).body(body)
}

/// Members, and the two blocks at the end.
pub(crate) fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut archive = members.concat();
    archive.extend([0; 1024]);
    archive
}

/// An entry with its content, holes as zeros.
pub(crate) type Read = (Entry, Vec<u8>);

/// Reads an archive to its end.
pub(crate) fn read(archive: &[u8]) -> Result<Vec<Read>> {
    read_with(archive, Limits::default()).0
}

pub(crate) fn read_with(archive: &[u8], limits: Limits) -> (Result<Vec<Read>>, Report) {
    let cx = Context::default();
    let mut layer = MemoryLayer::with_limits(archive, limits, &cx);
    let mut entries = Vec::new();
    let result = loop {
        match layer.next() {
            Ok(None) => break Ok(entries),
            Ok(Some(entry)) => match content(&mut layer, &entry) {
                Ok(content) => entries.push((entry, content)),
                Err(error) => break Err(error),
            },
            Err(error) => break Err(error),
        }
    };
    (result, cx.take_report())
}

fn content(layer: &mut MemoryLayer<'_>, entry: &Entry) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    while let Some(chunk) = layer.chunk()? {
        assert!(!chunk.data.is_empty());
        let offset = usize::try_from(chunk.offset).unwrap();
        assert!(offset >= content.len(), "chunks rise");
        content.resize(offset, 0);
        content.extend_from_slice(chunk.data);
    }
    if let Change::Upsert { node: Node::File { size }, .. } = &entry.change {
        let size = usize::try_from(*size).unwrap();
        assert!(size >= content.len(), "no chunk beyond the end");
        content.resize(size, 0);
    }
    Ok(content)
}

/// Reads a single member of which an entry is made.
pub(crate) fn one(members: &[Vec<u8>]) -> Entry {
    let mut entries = read(&archive(members)).unwrap();
    assert_eq!(entries.len(), 1);
    entries.remove(0).0
}

/// The attributes of an entry that has some.
pub(crate) fn attributes(entry: &Entry) -> Attributes {
    match &entry.change {
        Change::Upsert { attributes, .. } => attributes.clone(),
        change => panic!("{change:?}"),
    }
}

/// The message of the rule that an archive breaks.
pub(crate) fn invalid(members: &[Vec<u8>]) -> String {
    refused(&archive(members), ErrorKind::InvalidLayer)
}

pub(crate) fn refused(archive: &[u8], kind: ErrorKind) -> String {
    refused_with(archive, Limits::default(), kind)
}

/// The same, with limits of its own. Whatever the rule, the message says which member, and where.
pub(crate) fn refused_with(archive: &[u8], limits: Limits, kind: ErrorKind) -> String {
    let error = read_with(archive, limits).0.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    let reason = error.reason().unwrap();
    let place = reason.strip_prefix("member ").and_then(|rest| rest.split_once(": ")).map(|(place, _)| place).expect(reason);
    let (member, offset) = place.split_once(" at offset ").expect(reason);
    assert!(member.parse::<u64>().unwrap() > 0, "{reason}");
    assert!(offset.parse::<usize>().unwrap().is_multiple_of(512) && offset.parse::<usize>().unwrap() <= archive.len(), "{reason}");
    error.to_string()
}
