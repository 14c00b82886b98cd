//! Where an image comes from: a directory or a tar, opened once, read by the names of its files.
//!
//! Both forms of both formats (OCI image layout, `docker save`) look the same to what stands above: documents by name, and blobs that
//! go through a verified ingest. What the documents mean is left to `select` and `docker_archive`.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::compression::Compression;
use crate::content::{Blob, Expected, Started};
use crate::digest::Algorithm;
use crate::error::{Error, ErrorKind, Result};
use crate::store::archive::Archive;
use crate::store::early::Early;
use crate::store::extent::Extent;
use crate::store::image::document::{DOCUMENT_MAX, Reference};
use crate::store::intake::Intake;
use crate::store::layout::Layout;
use crate::store::supply::Supply;
use crate::sys::host::{self, Opened};
use crate::tar::Limits;

/// An image to import: the directory of an OCI image layout, or a tar of one or of `docker save`, compressed or not.
///
/// ```
/// use plywood::store::ImageSource;
/// let _directory = ImageSource::parse("build/image")?;
/// let _one_of_several = ImageSource::parse("oci:build/image:1.0")?;
/// let _standard_input = ImageSource::reader(std::io::stdin());
/// let error = ImageSource::parse("docker://docker.io/library/alpine").unwrap_err();
/// assert!(error.hint().is_some_and(|hint| hint.contains("skopeo copy")));
/// # Ok::<(), plywood::Error>(())
/// ```
pub struct ImageSource<'a> {
    form: Form<'a>,
    reference: Option<String>,
}

enum Form<'a> {
    Path(PathBuf),
    Reader(Box<dyn Read + 'a>),
}

impl fmt::Debug for ImageSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.form {
            Form::Path(path) => write!(f, "ImageSource({path:?}, {:?})", self.reference),
            Form::Reader(_) => write!(f, "ImageSource(reader, {:?})", self.reference),
        }
    }
}

impl<'a> ImageSource<'a> {
    const OP: &'static str = "import";

    /// A directory or a file of the host.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self { form: Form::Path(path.into()), reference: None }
    }

    /// A tar that is read once, from here to its end.
    pub fn reader(reader: impl Read + 'a) -> Self {
        Self { form: Form::Reader(Box::new(reader)), reference: None }
    }

    /// The image of this name or tag, where the source holds several.
    #[must_use]
    pub fn with_reference(self, reference: impl Into<String>) -> Self {
        Self { reference: Some(reference.into()), ..self }
    }

    /// A source as people write it: a path, or skopeo's `oci:PATH[:TAG]`, `oci-archive:PATH[:TAG]`, `docker-archive:PATH[:NAME:TAG]`.
    ///
    /// # Errors
    /// `InvalidArgument` for what cannot be read here, a registry above all; the hint shows the pipe that can.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(name) = text.strip_prefix("docker://") {
            // A docker archive takes tags alone.
            let tagged = if name.contains('@') { String::new() } else { format!(":{name}") };
            return Err(Error::new(ErrorKind::InvalidArgument, Self::OP).at(text).because("plywood does not talk to registries").with_hint(
                format!(
                    "let skopeo fetch it: `skopeo copy --quiet docker://{name} docker-archive:/dev/stdout{tagged} | plywood import -`, or, \
                     with the registry's own manifest: `skopeo copy docker://{name} oci:DIR:latest && plywood import DIR`"
                ),
            ));
        }
        for scheme in ["docker-daemon:", "containers-storage:", "dir:", "sif:", "ostree:"] {
            if text.starts_with(scheme) {
                return Err(Error::new(ErrorKind::InvalidArgument, Self::OP)
                    .at(text)
                    .because("only layouts and archives are read")
                    .with_hint(format!(
                        "let skopeo copy it: `skopeo copy --quiet {text} docker-archive:/dev/stdout | plywood import -`"
                    )));
            }
        }
        let Some(rest) = ["oci:", "oci-archive:", "docker-archive:"].iter().find_map(|scheme| text.strip_prefix(scheme)) else {
            if text.is_empty() {
                return Err(Error::new(ErrorKind::InvalidArgument, Self::OP).because("the source is empty"));
            }
            return Ok(Self::path(text));
        };
        // As skopeo has it: the path ends at the first colon.
        Ok(match rest.split_once(':') {
            Some((path, reference)) if !reference.is_empty() => Self::path(path).with_reference(reference),
            Some((path, _)) => Self::path(path),
            None => Self::path(rest),
        })
    }

    /// The path that it is read from, if it is one.
    pub(crate) fn place(&self) -> Option<&Path> {
        match &self.form {
            Form::Path(path) => Some(path),
            Form::Reader(_) => None,
        }
    }

    pub(crate) fn reference(&self) -> Option<&str> {
        self.reference.as_deref()
    }

    /// Opens the source. An archive that is a file and not compressed is looked through.
    pub(crate) fn open(self, limits: &Limits, intake: &mut Intake<'_>) -> Result<Source<'a>> {
        let passing = |reader, size, place| Ok(Source::Passing(Passing { reader, size, place }));
        match self.form {
            Form::Reader(reader) => passing(reader, None, None),
            Form::Path(path) => match host::open(&path)? {
                Opened::Directory(directory) => Ok(Source::InPlace(Files::Layout(Layout::new(directory, path)))),
                Opened::Pipe(pipe) => passing(Box::new(pipe), None, Some(path)),
                Opened::File(file) => {
                    let whole = Extent::whole(file)?;
                    if whole.compression()? != Compression::None {
                        let size = whole.size();
                        return passing(Box::new(whole), Some(size), Some(path));
                    }
                    let archive = Archive::in_place(whole, limits, intake);
                    archive.map(|archive| Source::InPlace(Files::Archive(archive))).map_err(|error| perhaps_a_layer(error).at(path))
                }
            },
        }
    }
}

/// What came of opening a source.
pub(crate) enum Source<'a> {
    InPlace(Files),
    Passing(Passing<'a>),
}

/// An archive that is read once, from its beginning to its end.
pub(crate) struct Passing<'a> {
    reader: Box<dyn Read + 'a>,
    size: Option<u64>,
    place: Option<PathBuf>,
}

impl Passing<'_> {
    /// Reads it all, and takes its blobs in; what looks like a layer is offered from its beginning on.
    pub(super) fn read(self, limits: &Limits, intake: &mut Intake<'_>, early: &Early<'_>) -> Result<Files> {
        Archive::read(self.reader, self.size, limits, intake, early).map(Files::Archive).map_err(|error| match self.place {
            Some(place) => perhaps_a_layer(error).at(place),
            None => perhaps_a_layer(error),
        })
    }
}

/// An archive that cannot be read as an image's may be one layer of one.
fn perhaps_a_layer(error: Error) -> Error {
    match (error.kind(), error.hint()) {
        (ErrorKind::InvalidLayer, None) => error.with_hint("if it is a single layer and not an image: `plywood layer import`"),
        _ => error,
    }
}

/// The files of an image's source.
#[derive(Debug)]
pub(crate) enum Files {
    Layout(Layout),
    Archive(Archive),
}

impl Files {
    /// A document at the top of the source, whole; `None` where there is none.
    pub(crate) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Layout(layout) => layout.document(name),
            Self::Archive(archive) => Ok(archive.document(name)),
        }
    }

    /// What a file of the source is called in messages.
    pub(crate) fn locate(&self, name: &str) -> PathBuf {
        match self {
            Self::Layout(layout) => layout.locate(name),
            Self::Archive(_) => PathBuf::from(name),
        }
    }

    /// Takes in a blob that a document of this source refers to.
    ///
    /// # Errors
    /// `NotFound` where the source does not hold it; `Unsupported` where it would have to be fetched; `DigestMismatch`.
    pub(crate) fn blob(&self, intake: &mut Intake<'_>, reference: &Reference) -> Result<Blob> {
        self.find(intake, reference)?.ok_or_else(|| Self::lacks(reference))
    }

    /// The same; `None` where neither the source nor the store holds it.
    pub(super) fn find(&self, intake: &mut Intake<'_>, reference: &Reference) -> Result<Option<Blob>> {
        let descriptor = &reference.descriptor;
        let expected = Expected::from(descriptor);
        let media_type = descriptor.media_type.as_str();
        if let Some(blob) = intake.present(&expected, media_type)? {
            return Ok(Some(blob));
        }
        if let Some(data) = &reference.data {
            return intake.add(&expected, media_type, &mut data.as_slice()).map(Some);
        }
        match self.open_blob(reference)? {
            Some(mut source) => intake.add(&expected, media_type, &mut source).map(Some),
            // What passed by was taken in then.
            None => Ok(None),
        }
    }

    /// Says which blob is missing, and where to get it.
    pub(super) fn lacks(reference: &Reference) -> Error {
        let digest = &reference.descriptor.digest;
        match reference.urls.first() {
            Some(url) => Error::new(ErrorKind::Unsupported, ImageSource::OP)
                .at(digest.to_string())
                .because(format!("the image does not hold this layer, which is to be fetched from {}", url.escape_debug())),
            None => Error::new(ErrorKind::NotFound, ImageSource::OP)
                .at(digest.to_string())
                .because("neither the image nor the store holds this blob, and without it nothing can be unpacked")
                .with_hint("fetch the blob of this digest into the image's `blobs` and import it again"),
        }
    }

    /// A blob to be read now: what is read in place comes in while it is read. `None` where neither the source nor the store holds it.
    ///
    /// # Errors
    /// As [`blob`](Self::blob).
    pub(super) fn supply(&self, intake: &mut Intake<'_>, reference: &Reference) -> Result<Option<Supply>> {
        let descriptor = &reference.descriptor;
        let source = if reference.data.is_some() { None } else { self.open_blob(reference)? };
        match source {
            None => self.find(intake, reference).map(|blob| blob.map(Supply::stored)),
            Some(source) => Ok(Some(match intake.start(&Expected::from(descriptor), descriptor.media_type.as_str())? {
                Started::Present(blob) => Supply::stored(blob),
                Started::Ingest(ingest) => Supply::arriving(descriptor.digest.clone(), descriptor.size, ingest, source),
            })),
        }
    }

    /// The bytes that a blob is to be found in, where they are read in place.
    fn open_blob(&self, reference: &Reference) -> Result<Option<Extent>> {
        match &reference.file {
            Some(name) => self.open(name),
            None => {
                let digest = &reference.descriptor.digest;
                self.open(&format!("blobs/{}/{}", digest.algorithm().as_str(), digest.to_hex()))
            }
        }
    }

    /// A file by its name in the source, symlinks inside the source followed, where it is read in place; `None` where there is none.
    pub(crate) fn open(&self, name: &str) -> Result<Option<Extent>> {
        match self {
            Self::Layout(layout) => layout.open(name),
            Self::Archive(archive) => archive.open(name),
        }
    }

    /// A small blob, whole.
    pub(crate) fn small_blob(&self, intake: &mut Intake<'_>, reference: &Reference) -> Result<Vec<u8>> {
        let descriptor = &reference.descriptor;
        if descriptor.size > DOCUMENT_MAX {
            return Err(Error::new(ErrorKind::LimitExceeded, ImageSource::OP)
                .at(descriptor.digest.to_string())
                .because(format!("the document has {} bytes, at most {DOCUMENT_MAX} are read", descriptor.size)));
        }
        self.blob(intake, reference)?.read_to_vec(DOCUMENT_MAX)
    }

    /// Takes in a file by its name in the source, symlinks inside the source followed; `None` where there is none.
    pub(crate) fn file(&self, intake: &mut Intake<'_>, name: &str, media_type: &str) -> Result<Option<Blob>> {
        match self {
            Self::Layout(layout) => match layout.open(name)? {
                Some(mut file) => intake.add(&Expected::unknown(Algorithm::default()), media_type, &mut file).map(Some),
                None => Ok(None),
            },
            Self::Archive(archive) => archive.file(intake, name, media_type),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_written_as_for_skopeo() {
        for (text, path, reference) in [
            ("a/b", "a/b", None),
            ("a:b", "a:b", None),
            ("oci:a/b", "a/b", None),
            ("oci:a/b:1.0", "a/b", Some("1.0")),
            ("oci-archive:a.tar:", "a.tar", None),
            ("docker-archive:a.tar:docker.io/x/y:1", "a.tar", Some("docker.io/x/y:1")),
        ] {
            let source = ImageSource::parse(text).unwrap();
            assert_eq!(source.reference(), reference, "{text}");
            assert!(matches!(source.form, Form::Path(found) if found == std::path::Path::new(path)), "{text}");
        }
    }

    #[test]
    fn a_registry_is_answered_with_the_pipe() {
        for text in ["docker://alpine", "docker-daemon:alpine:latest", "containers-storage:alpine", ""] {
            assert_eq!(ImageSource::parse(text).unwrap_err().kind(), ErrorKind::InvalidArgument, "{text}");
        }
        let hint = ImageSource::parse("docker://alpine").unwrap_err().hint().map(str::to_owned).unwrap();
        assert!(
            hint.contains("skopeo copy --quiet docker://alpine docker-archive:/dev/stdout:alpine | plywood import -"),
            "{hint}"
        );
    }
}
