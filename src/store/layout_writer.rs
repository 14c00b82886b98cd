//! Writing into the directory of an OCI image layout (image-layout.md), new or in use.
//!
//! Invariant: the index names only blobs that are whole and durable, and is replaced as a whole. Writers of one layout exclude each
//! other while they change the index; a blob is written under a name of its own, with a lock on it, and renamed. What a killed writer
//! left has no lock, and goes when the next one opens the layout. Who fails takes back the blobs that he brought, unless another writer
//! is at work, who may count on them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use crate::descriptor::Descriptor;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, ErrorKind, Result};
use crate::store::image::Platform;
use crate::store::image::document::{DOCUMENT_MAX, Index, REF_NAME, parse_json};
use crate::sys::descent::unless_gone;
use crate::sys::flock::{Flock, Sharing};
use crate::sys::{Dir, durable, host, inode};

const OP: &str = "export";

#[derive(Debug)]
pub(crate) struct LayoutWriter {
    root: Dir,
    blobs: Dir,
    path: PathBuf,
    /// On the directory of blobs, shared with other writers.
    at_work: Option<Flock>,
    brought: Brought,
}

/// The blobs that were not there before.
type Brought = Arc<Mutex<Vec<Digest>>>;

/// A blob that is being written; it has no name until [`finish`](Self::finish).
#[derive(Debug)]
pub(crate) struct NewBlob {
    directory: Dir,
    name: Vec<u8>,
    file: File,
    /// On the same description as `file`: held until both are closed.
    _alive: Flock,
    /// None where whoever writes it knows its digest.
    hasher: Option<Hasher>,
    size: u64,
    is_named: bool,
    brought: Brought,
}

/// What the names of blobs begin with that are being written.
const UNNAMED: &[u8] = b".plywood-";

impl LayoutWriter {
    /// Opens a layout to write into, making the directory and what belongs in it where they are missing.
    ///
    /// # Errors
    /// `InvalidArgument` for a directory that holds something else than a layout; `PermissionDenied`, `NoSpace`, `Io`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let root = host::open_or_create_dir(path)?;
        if root.stat(b"oci-layout")?.is_none() {
            if root.stat(b"index.json")?.is_none() && !is_free(&root)? {
                return Err(Error::new(ErrorKind::InvalidArgument, OP)
                    .at(path)
                    .because("the directory is not empty, and holds no OCI image layout"));
            }
            durable::write_file(&root, Path::new("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        }
        let blobs = directory(&root, b"blobs")?;
        let at_work = Some(Flock::wait(lock_of(&root)?, Sharing::Shared)?);
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            if let Some(blobs) = blobs.try_child(algorithm.as_str().as_bytes())? {
                sweep(&blobs)?;
            }
        }
        Ok(Self { root, blobs, path: path.to_owned(), at_work, brought: Brought::default() })
    }

    /// After a failure: removes the blobs that it brought, where nobody else can count on them yet.
    ///
    /// # Errors
    /// `InvalidLayer` for an index that cannot be read; `PermissionDenied`, `Io`.
    pub(crate) fn take_back(mut self) -> Result<()> {
        drop(self.at_work.take());
        let Ok(_alone) = Flock::attempt(lock_of(&self.root)?, Sharing::Exclusive)? else { return Ok(()) };
        let brought = self.brought.lock().unwrap_or_else(PoisonError::into_inner);
        let index = self.read_index()?;
        let manifests = index.get("manifests").and_then(Value::as_array);
        let mut named = manifests.into_iter().flatten().filter_map(|entry| entry.get("digest").and_then(Value::as_str));
        // What failed was to make the new index durable: it is there.
        if named.any(|named| brought.iter().any(|digest| digest.to_string() == named)) {
            return Ok(());
        }
        for digest in brought.iter() {
            unless_gone(self.directory_of(digest.algorithm())?.unlink(digest.to_hex().as_bytes()))?;
        }
        Ok(())
    }

    fn directory_of(&self, algorithm: Algorithm) -> Result<Dir> {
        directory(&self.blobs, algorithm.as_str().as_bytes())
    }

    /// Begins a blob of whatever digest.
    pub(crate) fn new_blob(&self, algorithm: Algorithm) -> Result<NewBlob> {
        self.begin(algorithm, Some(Hasher::new(algorithm)))
    }

    /// The same for who computes the digest anyway: it is [named](NewBlob::name) by that.
    pub(crate) fn new_blob_unhashed(&self, algorithm: Algorithm) -> Result<NewBlob> {
        self.begin(algorithm, None)
    }

    fn begin(&self, algorithm: Algorithm, hasher: Option<Hasher>) -> Result<NewBlob> {
        let directory = self.directory_of(algorithm)?;
        let mut number = 0u64;
        loop {
            let name = format!(".plywood-{}-{number}", std::process::id()).into_bytes();
            number = number.saturating_add(1);
            let file = match directory.create_file(&name, 0o600) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                created => created?,
            };
            // Somebody who sweeps may have come between: then the name is gone, or about to go.
            if let Some(alive) = claim(&directory, &name, &file)? {
                let brought = Arc::clone(&self.brought);
                return Ok(NewBlob { directory, name, file, _alive: alive, hasher, size: 0, is_named: false, brought });
            }
        }
    }

    /// Puts a blob there. One that is there and whole is left alone.
    pub(crate) fn put(&self, digest: &Digest, reader: &mut dyn Read) -> Result<()> {
        if self.holds(digest)? {
            return Ok(());
        }
        let mut blob = self.new_blob(digest.algorithm())?;
        io::copy(reader, &mut blob).map_err(|error| Error::io("copy blob", error).at(digest.to_string()))?;
        let (found, _) = blob.finish()?;
        if found == *digest {
            return Ok(());
        }
        // Named by what it is, it does no harm; but the store has lost what it should be.
        Err(Error::new(ErrorKind::Corrupt, OP).at(digest.to_string()).because(format!("the store's blob has the digest {found}")))
    }

    /// Whether the blob is there and is what its name says.
    fn holds(&self, digest: &Digest) -> Result<bool> {
        let directory = self.directory_of(digest.algorithm())?;
        let mut file = match directory.open_file(digest.to_hex().as_bytes()) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = file.read(&mut buffer).map_err(|error| Error::io("read", error).at(digest.to_string()))?;
            match buffer.get(..count).filter(|bytes| !bytes.is_empty()) {
                Some(bytes) => hasher.update(bytes),
                None => return Ok(hasher.finish() == *digest),
            }
        }
    }

    /// Adds a manifest to the index, in the place of one of the same name, or of the same digest where it has none.
    pub(crate) fn name(&self, manifest: &Descriptor, platform: Option<&Platform>, reference: Option<&str>) -> Result<()> {
        // A description of its own, so that the lock excludes other exporters of this process too.
        let _turn = Flock::wait(OwnedFd::from(Dir::open(&self.path)?), Sharing::Exclusive)?;
        let mut index = self.read_index()?;
        let manifests = index.entry("manifests").or_insert_with(|| json!([]));
        if manifests.is_null() {
            *manifests = json!([]);
        }
        let manifests = manifests.as_array_mut().ok_or_else(|| {
            Error::new(ErrorKind::InvalidLayer, OP).at(self.path.join("index.json")).because("manifests is no array")
        })?;
        let digest = manifest.digest.to_string();
        manifests.retain(|entry| {
            let name = entry.get("annotations").and_then(|annotations| annotations.get(REF_NAME)).and_then(Value::as_str);
            match reference {
                Some(reference) => name != Some(reference),
                None => name.is_some() || entry.get("digest").and_then(Value::as_str) != Some(&digest),
            }
        });
        manifests.push(entry(manifest, platform, reference));
        let bytes = serde_json::to_vec(&index).map_err(|error| Error::new(ErrorKind::Corrupt, OP).with_source(error))?;
        durable::write_file(&self.root, Path::new("index.json"), &bytes, 0o644)
    }

    fn read_index(&self) -> Result<Map<String, Value>> {
        let path = self.path.join("index.json");
        let file = match self.root.open_file(b"index.json") {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut index = Map::new();
                index.insert("schemaVersion".to_owned(), json!(2));
                return Ok(index);
            }
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(DOCUMENT_MAX + 1).read_to_end(&mut bytes).map_err(|error| Error::io("read", error).at(&path))?;
        if bytes.len() as u64 > DOCUMENT_MAX {
            return Err(Error::new(ErrorKind::LimitExceeded, OP)
                .at(&path)
                .because(format!("it has more than {DOCUMENT_MAX} bytes")));
        }
        Index::parse(&bytes, None).map_err(|error| error.at(&path))?;
        parse_json(OP, &bytes)
    }
}

/// What those lock who write into a layout. A description of its own each time.
fn lock_of(root: &Dir) -> Result<OwnedFd> {
    root.child(b"blobs").map(OwnedFd::from)
}

/// Whether a directory holds nothing, or only what an export left that was killed before there was a layout.
fn is_free(root: &Dir) -> Result<bool> {
    for entry in root.entries()? {
        if !durable::is_temporary(&entry?.name) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn entry(manifest: &Descriptor, platform: Option<&Platform>, reference: Option<&str>) -> Value {
    let mut entry = json!({ "mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size });
    if let (Some(platform), Some(members)) = (platform, entry.as_object_mut()) {
        members.insert("platform".to_owned(), json!(platform));
    }
    if let (Some(reference), Some(members)) = (reference, entry.as_object_mut()) {
        members.insert("annotations".to_owned(), json!({ REF_NAME: reference }));
    }
    entry
}

impl Write for NewBlob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes.get(..count).unwrap_or_default());
        }
        self.size = self.size.saturating_add(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewBlob {
    /// Names the blob by its digest, as it was computed here. Durable when it returns.
    pub(crate) fn finish(mut self) -> Result<(Digest, u64)> {
        let hasher = self.hasher.take().ok_or_else(|| Error::new(ErrorKind::InvalidArgument, OP))?;
        let digest = hasher.finish();
        let size = self.name(&digest)?;
        Ok((digest, size))
    }

    /// Names the blob by this digest, which was computed over the same bytes, and gives its size. Durable when it returns.
    pub(crate) fn name(mut self, digest: &Digest) -> Result<u64> {
        inode::set_mode(&self.file, 0o644)?;
        durable::sync(&self.file)?;
        let hex = digest.to_hex();
        let is_new = self.directory.stat(hex.as_bytes())?.is_none();
        self.directory.rename(&self.name, &self.directory, hex.as_bytes())?;
        self.is_named = true;
        if is_new {
            self.brought.lock().unwrap_or_else(PoisonError::into_inner).push(digest.clone());
        }
        self.directory.sync()?;
        Ok(self.size)
    }
}

impl Drop for NewBlob {
    fn drop(&mut self) {
        // After `finish` the name may be another thread's already.
        if !self.is_named {
            let _ = self.directory.unlink(&self.name);
        }
    }
}

/// Locks a blob that is being written, if nobody else has it and it still has its name.
fn claim(directory: &Dir, name: &[u8], file: &File) -> Result<Option<Flock>> {
    let fd = file.try_clone().map_err(|error| Error::io("dup", error))?;
    let Ok(held) = Flock::attempt(fd.into(), Sharing::Exclusive)? else { return Ok(None) };
    let named = directory.stat(name)?.is_some_and(|named| inode::stat(file).is_ok_and(|stat| stat.same_inode(&named)));
    Ok(named.then_some(held))
}

/// Removes blobs that nobody is writing any more.
fn sweep(blobs: &Dir) -> Result<()> {
    let names = blobs.entries()?.map(|entry| entry.map(|entry| entry.name)).collect::<Result<Vec<_>>>()?;
    for name in names.iter().filter(|name| name.starts_with(UNNAMED)) {
        let opened = match blobs.open_file(name) {
            // Not ours to look at: then not ours to remove.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => continue,
            opened => unless_gone(opened)?,
        };
        if let Some(file) = opened
            && let Some(_abandoned) = claim(blobs, name, &file)?
        {
            unless_gone(blobs.unlink(name))?;
        }
    }
    Ok(())
}

/// Opens a directory of the layout, making it where it is missing.
fn directory(parent: &Dir, name: &[u8]) -> Result<Dir> {
    match parent.mkdir(name, 0o755) {
        Ok(()) => {
            let made = parent.child(name)?;
            inode::set_mode(&made, 0o755)?;
            parent.sync()?;
            Ok(made)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => parent.child(name),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::MediaType;

    fn descriptor(content: &str) -> Descriptor {
        Descriptor::new(MediaType::MANIFEST, Algorithm::Sha256.digest(content.as_bytes()), content.len() as u64)
    }

    fn names(path: &Path) -> Vec<(String, Option<String>)> {
        let index: Value = serde_json::from_slice(&std::fs::read(path.join("index.json")).unwrap()).unwrap();
        let entries = index["manifests"].as_array().unwrap();
        let name = |entry: &Value| entry["annotations"][REF_NAME].as_str().map(str::to_owned);
        entries.iter().map(|entry| (entry["digest"].as_str().unwrap().to_owned(), name(entry))).collect()
    }

    #[test]
    fn an_index_grows_and_a_name_is_moved() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("layout");
        let (one, two) = (descriptor("one"), descriptor("two"));
        LayoutWriter::open(&path).unwrap().name(&one, None, Some("a")).unwrap();
        let writer = LayoutWriter::open(&path).unwrap();
        writer.name(&one, None, None).unwrap();
        writer.name(&one, None, None).unwrap();
        writer.name(&one, Some(&Platform::new("linux", "arm", None)), Some("b")).unwrap();
        writer.name(&two, None, Some("a")).unwrap();
        let (one, two) = (one.digest.to_string(), two.digest.to_string());
        assert_eq!(names(&path), [(one.clone(), None), (one, Some("b".to_owned())), (two, Some("a".to_owned()))]);
        assert_eq!(std::fs::read_to_string(path.join("oci-layout")).unwrap(), r#"{"imageLayoutVersion":"1.0.0"}"#);
    }

    #[test]
    fn what_others_wrote_in_an_index_stays() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("index.json"), r#"{"schemaVersion":2,"annotations":{"x":"y"},"manifests":null}"#).unwrap();
        LayoutWriter::open(temp.path()).unwrap().name(&descriptor("one"), None, None).unwrap();
        let index: Value = serde_json::from_slice(&std::fs::read(temp.path().join("index.json")).unwrap()).unwrap();
        assert_eq!((&index["annotations"], index["manifests"].as_array().unwrap().len()), (&json!({ "x": "y" }), 1));
    }

    #[test]
    fn a_directory_of_something_else_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("thesis.tex"), "").unwrap();
        assert_eq!(LayoutWriter::open(temp.path()).unwrap_err().kind(), ErrorKind::InvalidArgument);
        std::fs::write(temp.path().join("index.json"), "{}").unwrap();
        let writer = LayoutWriter::open(temp.path()).unwrap();
        assert_eq!(writer.name(&descriptor("one"), None, None).unwrap_err().kind(), ErrorKind::InvalidLayer);
        assert_eq!(std::fs::read_to_string(temp.path().join("index.json")).unwrap(), "{}");
    }

    #[test]
    fn blobs_are_whole_or_not_there_and_damaged_ones_are_mended() {
        let temp = tempfile::tempdir().unwrap();
        let writer = LayoutWriter::open(temp.path()).unwrap();
        let digest = Algorithm::Sha512.digest(b"hello");
        let path = temp.path().join("blobs/sha512").join(digest.to_hex());
        writer.put(&digest, &mut &b"hello"[..]).unwrap();
        writer.put(&digest, &mut io::empty()).unwrap();
        std::fs::write(&path, "hellO").unwrap();
        writer.put(&digest, &mut &b"hello"[..]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"hello");
        drop(writer.new_blob(Algorithm::Sha512).unwrap());
        assert_eq!(std::fs::read_dir(temp.path().join("blobs/sha512")).unwrap().count(), 1);
        assert_eq!(writer.put(&Algorithm::Sha256.digest(b"x"), &mut &b"y"[..]).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn what_a_killed_writer_left_goes_and_what_is_being_written_stays() {
        let temp = tempfile::tempdir().unwrap();
        let writer = LayoutWriter::open(temp.path()).unwrap();
        let mut writing = writer.new_blob(Algorithm::Sha256).unwrap();
        let left = temp.path().join("blobs/sha256/.plywood-1-0");
        std::fs::write(&left, "half a layer").unwrap();
        std::fs::write(temp.path().join("blobs/sha256/.other"), "somebody's").unwrap();
        LayoutWriter::open(temp.path()).unwrap();
        assert!(!left.exists());
        writing.write_all(b"whole").unwrap();
        let (digest, _) = writing.finish().unwrap();
        LayoutWriter::open(temp.path()).unwrap();
        let mut names: Vec<_> =
            std::fs::read_dir(temp.path().join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".other".into(), std::ffi::OsString::from(digest.to_hex())]);
    }

    #[test]
    fn a_failed_writer_takes_back_what_nobody_counts_on() {
        let temp = tempfile::tempdir().unwrap();
        let put = |writer: &LayoutWriter, content: &str| {
            let digest = Algorithm::Sha256.digest(content.as_bytes());
            writer.put(&digest, &mut content.as_bytes()).unwrap();
            temp.path().join("blobs/sha256").join(digest.to_hex())
        };
        let writer = LayoutWriter::open(temp.path()).unwrap();
        let old = put(&writer, "one");
        writer.name(&descriptor("one"), None, None).unwrap();
        writer.take_back().unwrap();
        assert!(old.exists(), "the index names it");
        std::fs::write(&old, "rotten").unwrap();
        let (writer, other) = (LayoutWriter::open(temp.path()).unwrap(), LayoutWriter::open(temp.path()).unwrap());
        let new = [put(&writer, "one"), put(&writer, "two")];
        put(&other, "two");
        writer.take_back().unwrap();
        assert!(new.iter().all(|path| path.exists()), "another writer counts on it");
        drop(other);
        let writer = LayoutWriter::open(temp.path()).unwrap();
        std::fs::write(&old, "rotten").unwrap();
        put(&writer, "one");
        let third = put(&writer, "three");
        writer.take_back().unwrap();
        assert!(!third.exists() && old.exists(), "only what was not there before goes");
    }

    #[test]
    fn threads_put_blobs_into_one_layout() {
        let temp = tempfile::tempdir().unwrap();
        let writer = LayoutWriter::open(temp.path()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let writer = &writer;
                scope.spawn(move || {
                    for round in 0..25 {
                        let content = format!("{thread} {round}");
                        writer.put(&Algorithm::Sha256.digest(content.as_bytes()), &mut content.as_bytes()).unwrap();
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(temp.path().join("blobs/sha256")).unwrap().count(), 100);
    }
}
