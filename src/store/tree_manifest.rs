//! What is kept of a layer whose blob was dropped: each of its entries with the digest of a file's content instead of the content.
//!
//! A manifest is a blob like others (content-addressed, hashed by `check --full`) of the media type [`TREE_MANIFEST`], whose row has the
//! layer's diff id. It is kept for as long as a tree of that layer is there. Its bytes are a zstd stream of lines of JSON. The first says
//! what it is: `{"plywood_tree_manifest":1,"diff_id":"sha256:…"}`. Each of the others is a [`Line`]: an entry of the layer, in the layer's
//! order, markers included. Paths, targets and names of xattrs are any bytes, and stand in hex. `content` is
//! [`ContentHash`](crate::compare::ContentHash): SHA-256 over each block of 4096 bytes that is not all zeros (the last one filled up with
//! zeros), each preceded by its offset in the file as 8 bytes, little-endian.
//!
//! A reader is a stream of changes without the bytes of files: enough to compare a tree with, never to unpack one.

use std::io::{BufRead as _, BufReader, Read, Write as _};

use serde::{Deserialize, Serialize};

use crate::compare::ContentHash;
use crate::compression::{Compression, Decoder, Encoder};
use crate::content::{Blob, BlobReader, Expected};
use crate::digest::{Algorithm, DiffId, Hasher};
use crate::entry::{Attributes, Change, Chunk, Entry, EntryStream, Node};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{ImageLayer, TREE_MANIFEST};
use crate::path::EntryPath;
use crate::progress::Context;
use crate::store::Store;
use crate::store::intake::Intake;
use crate::tar::{Limits, Reader};

const OP: &str = "read tree manifest";

const VERSION: u32 = 1;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head {
    plywood_tree_manifest: u32,
    diff_id: DiffId,
}

/// An entry.
#[derive(Serialize, Deserialize)]
struct Line {
    path: String,
    #[serde(flatten)]
    what: What,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attributes: Option<Attributes>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum What {
    Directory,
    File { size: u64, content: String },
    Symlink { target: String },
    Hardlink { target: String },
    Char { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
    Whiteout,
    Opaque,
}

/// The manifest of a layer, whose blob is known to be it.
pub(super) fn of_layer(layer: &Blob, diff_id: &DiffId, limits: Limits, cx: &Context<'_>) -> Result<Vec<u8>> {
    // What the layer may not say was reported when it came in.
    let quiet = Context::new(cx.progress());
    let decoder = Decoder::new(layer.reader())?.expansion_ratio(limits.expansion_ratio, Some(layer.size()));
    let mut reader = Reader::new(decoder, limits, &quiet);
    let mut out = Encoder::new(Vec::new(), Compression::Zstd, None)?;
    write_line(&mut out, &Head { plywood_tree_manifest: VERSION, diff_id: diff_id.clone() })?;
    while let Some(Entry { path, change }) = reader.next()? {
        cx.check("write tree manifest")?;
        let (what, attributes) = match change {
            Change::Whiteout => (What::Whiteout, None),
            Change::Opaque => (What::Opaque, None),
            Change::Upsert { node, attributes } => (what(node, &mut reader)?, Some(attributes)),
        };
        write_line(&mut out, &Line { path: hex::encode(path.as_bytes()), what, attributes })?;
    }
    out.finish()
}

fn what(node: Node, reader: &mut Reader<'_, impl Read>) -> Result<What> {
    Ok(match node {
        Node::Directory => What::Directory,
        Node::File { size } => {
            let mut hash = ContentHash::default();
            while let Some(Chunk { offset, data }) = reader.chunk()? {
                hash.write(offset, data);
            }
            What::File { size, content: hex::encode(hash.finish()) }
        }
        Node::Symlink { target } => What::Symlink { target: hex::encode(target) },
        Node::Hardlink { target } => What::Hardlink { target: hex::encode(target.as_bytes()) },
        Node::CharDevice { major, minor } => What::Char { major, minor },
        Node::BlockDevice { major, minor } => What::Block { major, minor },
        Node::Fifo => What::Fifo,
    })
}

fn write_line(out: &mut Encoder<Vec<u8>>, line: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec(line)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, "write tree manifest").with_source(error))?;
    text.push(b'\n');
    out.write_all(&text).map_err(|error| Error::io("write tree manifest", error))
}

/// A manifest as a stream of changes without the bytes of files.
pub(crate) struct ManifestReader<'a> {
    blob: &'a Blob,
    diff_id: DiffId,
    lines: BufReader<Decoder<BlobReader>>,
    content: Option<[u8; 32]>,
}

impl<'a> ManifestReader<'a> {
    /// Opens a manifest whose bytes are those of its digest still.
    ///
    /// # Errors
    /// `Corrupt` for bytes that rotted, and for what is none.
    pub(crate) fn open(blob: &'a Blob) -> Result<Self> {
        let mut hasher = Hasher::new(blob.digest().algorithm());
        let mut reader = blob.reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => hasher.update(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(OP, error)),
            }
        }
        if hasher.finish() != *blob.digest() {
            return Err(corrupt("its bytes have another digest"));
        }
        let (diff_id, lines) = begin(blob)?;
        Ok(Self { blob, diff_id, lines, content: None })
    }

    /// The layer that it is of.
    pub(crate) fn diff_id(&self) -> &DiffId {
        &self.diff_id
    }
}

fn begin(blob: &Blob) -> Result<(DiffId, BufReader<Decoder<BlobReader>>)> {
    let mut lines = BufReader::new(Decoder::new(blob.reader())?);
    let head: Head = read_line(&mut lines)?.ok_or_else(|| corrupt("it is empty"))?;
    if head.plywood_tree_manifest != VERSION {
        return Err(corrupt("it is of another version"));
    }
    Ok((head.diff_id, lines))
}

fn read_line<T: serde::de::DeserializeOwned>(lines: &mut BufReader<Decoder<BlobReader>>) -> Result<Option<T>> {
    let mut line = Vec::new();
    lines.read_until(b'\n', &mut line).map_err(|error| Error::io(OP, error))?;
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&line).map(Some).map_err(|error| corrupt("a line is not what it should be").with_source(error))
}

impl EntryStream for ManifestReader<'_> {
    fn next(&mut self) -> Result<Option<Entry>> {
        self.content = None;
        let Some(Line { path, what, attributes }) = read_line(&mut self.lines)? else { return Ok(None) };
        let node = match what {
            What::Whiteout => return Ok(Some(Entry { path: to_path(&path)?, change: Change::Whiteout })),
            What::Opaque => return Ok(Some(Entry { path: to_path(&path)?, change: Change::Opaque })),
            What::Directory => Node::Directory,
            What::File { size, content } => {
                let digest = to_bytes(&content)?.try_into().map_err(|_| corrupt("a digest is not 32 bytes"))?;
                self.content = Some(digest);
                Node::File { size }
            }
            What::Symlink { target } => Node::Symlink { target: to_bytes(&target)? },
            What::Hardlink { target } => Node::Hardlink { target: to_path(&target)? },
            What::Char { major, minor } => Node::CharDevice { major, minor },
            What::Block { major, minor } => Node::BlockDevice { major, minor },
            What::Fifo => Node::Fifo,
        };
        let attributes = attributes.ok_or_else(|| corrupt("an entry has no attributes"))?;
        Ok(Some(Entry { path: to_path(&path)?, change: Change::Upsert { node, attributes } }))
    }

    fn chunk(&mut self) -> Result<Option<Chunk<'_>>> {
        Ok(None)
    }

    fn restart(&mut self) -> Result<()> {
        (self.diff_id, self.lines) = begin(self.blob)?;
        self.content = None;
        Ok(())
    }

    fn content_digest(&self) -> Option<[u8; 32]> {
        self.content
    }
}

fn to_bytes(text: &str) -> Result<Vec<u8>> {
    hex::decode(text).map_err(|error| corrupt("a name is not in hex").with_source(error))
}

fn to_path(text: &str) -> Result<EntryPath> {
    EntryPath::parse(to_bytes(text)?).map_err(|error| corrupt("a path is none").with_source(error))
}

fn corrupt(reason: &str) -> Error {
    Error::new(ErrorKind::Corrupt, OP).because(reason.to_owned())
}

impl Store {
    /// Sees to it that each layer whose blob is about to be dropped has a manifest. They are kept for as long as a tree of theirs is there.
    pub(super) fn keep_manifests<'l>(
        &self,
        intake: &mut Intake<'_>,
        layers: impl Iterator<Item = &'l ImageLayer>,
        limits: &Limits,
        cx: &Context<'_>,
    ) -> Result<()> {
        for layer in layers {
            if let Some(row) = self.metadata().read()?.tree_manifest_of(&layer.diff_id)?
                && intake.present(&Expected::digest(row.digest), TREE_MANIFEST)?.is_some()
            {
                continue;
            }
            let digest = &layer.descriptor.digest;
            // The import has just taken it in, and its lease keeps it.
            let blob = self.content().blob(digest)?.ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, "write tree manifest").at(digest.to_string()).because("the layer's blob is missing")
            })?;
            let manifest = of_layer(&blob, &layer.diff_id, limits.clone(), cx)?;
            let expected = Expected::digest(Algorithm::Sha256.digest(&manifest)).size(manifest.len() as u64);
            let kept = intake.add(&expected, TREE_MANIFEST, &mut manifest.as_slice())?;
            let transaction = self.metadata().write()?;
            transaction.set_blob_diff_id(kept.digest(), &layer.diff_id)?;
            transaction.commit()?;
        }
        Ok(())
    }
}
