//! A tar of an image layout or of `docker save`, looked through once from its beginning to its end.
//!
//! Of a file that is not compressed only the headers are read, and where each member stands is remembered: its bytes are read when they
//! are asked for, like a directory's. Of everything else blobs go through verified ingests as they pass, whatever the order of the
//! members. Only the documents at the top are kept in memory. Names are those of a tar in a root: none leads outside the archive.

use std::collections::BTreeMap;
use std::io::Read;

use crate::compression::{Compression, Decoder};
use crate::content::{Blob, Expected, Ingest, Started};
use crate::digest::{Algorithm, DiffId, Digest};
use crate::entry::{Change, Node};
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::store::early::Early;
use crate::store::extent::Extent;
use crate::store::growing::Grower;
use crate::store::image::document::DOCUMENT_MAX;
use crate::store::intake::Intake;
use crate::store::supply::Supply;
use crate::tar::{Limits, Reader};

const OP: &str = "read archive";

/// What an index, a list of images or a version stands in.
const DOCUMENTS: [&str; 3] = ["index.json", "manifest.json", "oci-layout"];

/// How many files an archive may hold; an image has two for each layer and three more.
const FILES_MAX: usize = 20_000;

/// How many symlinks lead from a name to its file at most; `docker save` writes one.
const HOPS_MAX: usize = 8;

/// What an archive holds, by its names.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    documents: BTreeMap<EntryPath, Vec<u8>>,
    files: BTreeMap<EntryPath, Member>,
    links: BTreeMap<EntryPath, EntryPath>,
    /// The archive itself, where its members are read in place.
    whole: Option<Extent>,
}

/// A file of an archive.
#[derive(Debug)]
enum Member {
    /// In the store.
    Taken(Digest),
    InPlace(Extent),
}

impl Archive {
    /// Looks through a file that is not compressed: its members stay where they are.
    ///
    /// # Errors
    /// `InvalidLayer` for what is no tar; `LimitExceeded`.
    pub(crate) fn in_place(whole: Extent, limits: &Limits, intake: &mut Intake<'_>) -> Result<Self> {
        let stream = Reader::new(whole.clone(), own_limits(limits), intake.context()).passing(Extent::pass);
        Self { whole: Some(whole), ..Self::default() }.look_through(stream, intake, None)
    }

    /// Reads an archive of `size` bytes, where that is known, to its end, and offers what looks like a layer from its beginning on. It
    /// is no layer: of a layer's limits its expansion alone counts.
    ///
    /// # Errors
    /// `InvalidLayer` for what is no tar; `DigestMismatch` for a blob that is not what its name says; `LimitExceeded`.
    pub(super) fn read(
        reader: Box<dyn Read + '_>,
        size: Option<u64>,
        limits: &Limits,
        intake: &mut Intake<'_>,
        early: &Early<'_>,
    ) -> Result<Self> {
        let decoder = Decoder::new(reader)?.expansion_ratio(limits.expansion_ratio, size);
        let stream = Reader::new(decoder, own_limits(limits), intake.context());
        Self::default().look_through(stream, intake, Some(early))
    }

    fn look_through(
        mut self,
        mut stream: Reader<'_, impl Read>,
        intake: &mut Intake<'_>,
        early: Option<&Early<'_>>,
    ) -> Result<Self> {
        let archive = &mut self;
        while let Some(entry) = stream.next()? {
            if archive.documents.len().saturating_add(archive.files.len()).saturating_add(archive.links.len()) >= FILES_MAX {
                return Err(Error::new(ErrorKind::LimitExceeded, OP).because(format!("it holds more than {FILES_MAX} files")));
            }
            let path = entry.path;
            match entry.change {
                Change::Upsert { node: Node::File { size }, .. } => archive.take_file(&mut stream, path, size, intake, early)?,
                Change::Upsert { node: Node::Symlink { target }, .. } => {
                    let target = resolve(&path, &target)?;
                    archive.links.insert(path, target);
                }
                Change::Upsert { node: Node::Hardlink { target }, .. } => {
                    archive.links.insert(path, target);
                }
                Change::Upsert { node: Node::Directory, .. } => {}
                _ => return Err(invalid(&path, "it is neither a file, a directory nor a link")),
            }
        }
        Ok(self)
    }

    fn take_file(
        &mut self,
        stream: &mut Reader<'_, impl Read>,
        path: EntryPath,
        size: u64,
        intake: &mut Intake<'_>,
        early: Option<&Early<'_>>,
    ) -> Result<()> {
        if self.documents.contains_key(&path) || self.files.contains_key(&path) || self.links.contains_key(&path) {
            // The first or the last: readers differ.
            return Err(invalid(&path, "the archive holds it twice"));
        }
        if DOCUMENTS.iter().any(|name| path.as_bytes() == name.as_bytes()) {
            let bytes = document(stream, &path, size)?;
            self.documents.insert(path, bytes);
            return Ok(());
        }
        // What old versions of Docker wrote beside each layer for still older ones.
        if matches!(path.file_name(), Some(b"VERSION" | b"json" | b"repositories")) {
            return Ok(());
        }
        if let Some((at, length)) = stream.content_at()
            && length == size
            && let Some(whole) = &self.whole
        {
            self.files.insert(path, Member::InPlace(whole.part(at, size)));
            return Ok(());
        }
        let expected = match named_digest(&path) {
            Some(digest) => Expected::digest(digest),
            None => Expected::unknown(Algorithm::default()),
        };
        let blob = match intake.start(&expected.size(size), Intake::UNKNOWN_TYPE)? {
            Started::Present(blob) => blob,
            Started::Ingest(mut ingest) => {
                let offer = Offer { early: early.filter(|early| early.is_manned()), path: &path };
                copy(stream, &mut ingest, size, offer)?;
                intake.publish(ingest, Intake::UNKNOWN_TYPE)?
            }
        };
        self.files.insert(path, Member::Taken(blob.digest().clone()));
        Ok(())
    }

    pub(crate) fn document(&self, name: &str) -> Option<Vec<u8>> {
        self.documents.get(&EntryPath::parse(name).ok()?).cloned()
    }

    /// A file that is read in place, symlinks followed; `None` where there is none, or it was taken in.
    pub(crate) fn open(&self, name: &str) -> Result<Option<Extent>> {
        Ok(match self.find(name)? {
            Some(Member::InPlace(extent)) => Some(extent.clone()),
            Some(Member::Taken(_)) | None => None,
        })
    }

    pub(crate) fn file(&self, intake: &mut Intake<'_>, name: &str, media_type: &str) -> Result<Option<Blob>> {
        match self.find(name)? {
            Some(Member::Taken(digest)) => intake.present(&Expected::digest(digest.clone()), Intake::UNKNOWN_TYPE),
            Some(Member::InPlace(extent)) => {
                intake.add(&Expected::unknown(Algorithm::default()), media_type, &mut extent.clone()).map(Some)
            }
            None => Ok(None),
        }
    }

    fn find(&self, name: &str) -> Result<Option<&Member>> {
        let mut path = EntryPath::parse(name).map_err(|error| {
            Error::new(ErrorKind::InvalidLayer, OP).at(name).because("the name leads outside").with_source(error)
        })?;
        for _ in 0..HOPS_MAX {
            if let Some(member) = self.files.get(&path) {
                return Ok(Some(member));
            }
            match self.links.get(&path) {
                Some(target) => path = target.clone(),
                None => return Ok(None),
            }
        }
        Err(invalid(&path, "its symlinks go on and on"))
    }
}

/// What the archive itself may ask for.
fn own_limits(limits: &Limits) -> Limits {
    let mut own = Limits::default();
    own.unpacked_bytes = own.unpacked_bytes.max(limits.unpacked_bytes);
    own
}

fn invalid(path: &EntryPath, reason: &str) -> Error {
    Error::new(ErrorKind::InvalidLayer, OP).at(path).because(reason)
}

/// The digest that a blob's name in a layout says.
fn named_digest(path: &EntryPath) -> Option<Digest> {
    let components: Vec<&[u8]> = path.components().collect();
    let [b"blobs", algorithm, hex] = components.as_slice() else { return None };
    format!("{}:{}", std::str::from_utf8(algorithm).ok()?, std::str::from_utf8(hex).ok()?).parse().ok()
}

/// The diff id in the name that skopeo and podman give a layer.
fn named_diff_id(path: &EntryPath) -> Option<DiffId> {
    let hex = std::str::from_utf8(path.as_bytes()).ok()?.strip_suffix(".tar")?;
    format!("{}:{hex}", Algorithm::default().as_str()).parse().ok().map(DiffId)
}

/// Where a symlink leads, by name alone.
fn resolve(link: &EntryPath, target: &[u8]) -> Result<EntryPath> {
    let outside = || invalid(link, "the symlink leads outside the archive");
    if target.starts_with(b"/") {
        return Err(outside());
    }
    let mut at = link.parent().unwrap_or_default();
    for component in target.split(|&byte| byte == b'/') {
        at = match component {
            b"" | b"." => at,
            b".." => at.parent().ok_or_else(outside)?,
            name => at.join(name).map_err(|error| outside().with_source(error))?,
        };
    }
    Ok(at)
}

fn document(stream: &mut Reader<'_, impl Read>, path: &EntryPath, size: u64) -> Result<Vec<u8>> {
    if size > DOCUMENT_MAX {
        let reason = format!("it has {size} bytes, at most {DOCUMENT_MAX} are read");
        return Err(Error::new(ErrorKind::LimitExceeded, OP).at(path).because(reason));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk()? {
        // What no chunk covers is a hole.
        bytes.resize(usize::try_from(chunk.offset).unwrap_or(bytes.len()), 0);
        bytes.extend_from_slice(chunk.data);
    }
    bytes.resize(usize::try_from(size).unwrap_or(bytes.len()), 0);
    Ok(bytes)
}

/// To whom a member is offered, if it looks like a layer.
#[derive(Clone, Copy)]
struct Offer<'a> {
    early: Option<&'a Early<'a>>,
    path: &'a EntryPath,
}

impl Offer<'_> {
    /// Begins to unpack what begins like a layer.
    fn make(self, start: &[u8], ingest: &Ingest, size: u64) -> Result<Option<Grower>> {
        let Some(early) = self.early.filter(|_| looks_like_a_layer(start)) else { return Ok(None) };
        let (supply, grower) = Supply::growing(ingest, Some(size))?;
        early.offer(supply, named_diff_id(self.path));
        Ok(Some(grower))
    }
}

/// Whether bytes are compressed, as no document is, or begin as a tar does (POSIX `ustar` at 257).
fn looks_like_a_layer(start: &[u8]) -> bool {
    Compression::sniff(start) != Compression::None || start.get(257..262) == Some(b"ustar")
}

fn copy(stream: &mut Reader<'_, impl Read>, ingest: &mut Ingest, size: u64, offer: Offer<'_>) -> Result<()> {
    let (mut grower, mut offer) = (None, Some(offer));
    while let Some(chunk) = stream.chunk()? {
        fill(ingest, chunk.offset)?;
        if let Some(offer) = offer.take().filter(|_| ingest.offset() == 0) {
            grower = offer.make(chunk.data, ingest, size)?;
        }
        ingest.write(chunk.data)?;
        if let Some(grower) = &grower {
            grower.grew(ingest.offset());
        }
    }
    fill(ingest, size)?;
    if let Some(grower) = grower {
        grower.complete(ingest.checked()?);
    }
    Ok(())
}

/// Writes the zeros of a hole that ends at `end`.
fn fill(ingest: &mut Ingest, end: u64) -> Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while ingest.offset() < end {
        let count = usize::try_from(end.saturating_sub(ingest.offset())).unwrap_or(usize::MAX).min(ZEROS.len());
        ingest.write(ZEROS.get(..count).unwrap_or_default())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_blobs_are_their_digests() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest = |path: &str| named_digest(&EntryPath::parse(path).unwrap());
        assert_eq!(digest(&format!("./blobs/sha256/{hex}")).unwrap().to_string(), format!("sha256:{hex}"));
        for path in ["blobs/sha256/x", "blobs/sha512/00", &format!("x/blobs/sha256/{hex}"), &format!("blobs/{hex}")] {
            assert_eq!(digest(path), None, "{path}");
        }
    }

    #[test]
    fn symlinks_stay_in_the_archive() {
        let link = EntryPath::parse("id/layer.tar").unwrap();
        assert_eq!(resolve(&link, b"../other/layer.tar").unwrap().as_bytes(), b"other/layer.tar");
        assert_eq!(resolve(&link, b"./a//b").unwrap().as_bytes(), b"id/a/b");
        for target in [&b"../../etc/shadow"[..], b"/etc/shadow", b"a/../../../x"] {
            assert_eq!(resolve(&link, target).unwrap_err().kind(), ErrorKind::InvalidLayer);
        }
    }
}
