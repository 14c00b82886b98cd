//! Whole images from files that the bytes make: OCI layouts and docker archives.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use arbitrary::Unstructured;
use plywood::compression::{Compression, Encoder};
use plywood::digest::{Algorithm, Digest};
use plywood::snapshot::Name;
use plywood::store::{BackendChoice, Filter, ImageSource, ImportOptions, Store};
use plywood::tar::Limits;
use plywood::testing::conformance::show;
use plywood::testing::{Image, Layer, TemporaryDirectory, TemporaryStore, Tree, model, temporary_directory};
use plywood::tree::Access;
use plywood::{Context, ErrorKind};

use super::members::{self, Power};
use super::trees::explained;

const FILES_MAX: usize = 12;
/// Digests, sizes and diff ids of the files before, in a file's text: high nibbles, the file's number below.
const DIGEST: u8 = 0x80;
const SIZE: u8 = 0x90;
const HEX: u8 = 0xa0;
const DIFF_ID: u8 = 0xb0;

struct File {
    name: String,
    content: Vec<u8>,
    digest: Digest,
    diff_id: Digest,
}

/// The files that the bytes say: which, how long, and the text.
fn files(bytes: &mut Unstructured<'_>) -> Vec<File> {
    let mut files: Vec<File> = Vec::new();
    while files.len() < FILES_MAX
        && !bytes.is_empty()
        && let Ok([which, low, high]) = bytes.arbitrary::<[u8; 3]>()
    {
        let length = usize::from(low) | usize::from(high) << 8;
        let text = bytes.bytes(bytes.len().min(length)).unwrap_or_default();
        let plain = match which >> 4 {
            1..=3 => members::stack(&mut Unstructured::new(text), Power::UserNamespace).0.first().map_or(Vec::new(), Layer::tar),
            _ => spelled(text, &files),
        };
        let compression = match which >> 4 {
            2 => Compression::Gzip,
            3 => Compression::Zstd,
            _ => Compression::None,
        };
        let mut encoder = Encoder::new(Vec::new(), compression, Some(1)).unwrap();
        encoder.write_all(&plain).unwrap();
        let content = encoder.finish().unwrap();
        let (digest, diff_id) = (Algorithm::Sha256.digest(&content), Algorithm::Sha256.digest(&plain));
        let name = match which & 15 {
            1 => "oci-layout".to_owned(),
            2 => "index.json".to_owned(),
            3 => "manifest.json".to_owned(),
            4 => "repositories".to_owned(),
            5 => "config.json".to_owned(),
            6 => "layer.tar".to_owned(),
            7 => "a/layer.tar".to_owned(),
            8 => format!("blobs/sha512/{}", Algorithm::Sha512.digest(&content).to_hex()),
            _ => format!("blobs/sha256/{}", digest.to_hex()),
        };
        files.push(File { name, content, digest, diff_id });
    }
    files
}

/// A text with what it says of the files before.
fn spelled(text: &[u8], files: &[File]) -> Vec<u8> {
    let mut out = Vec::new();
    for &byte in text {
        match (byte & 0xf0, files.get(usize::from(byte & 15))) {
            (DIGEST, Some(file)) => out.extend(file.digest.to_string().bytes()),
            (SIZE, Some(file)) => out.extend(file.content.len().to_string().bytes()),
            (HEX, Some(file)) => out.extend(file.digest.to_hex().bytes()),
            (DIFF_ID, Some(file)) => out.extend(file.diff_id.to_string().bytes()),
            _ => out.push(byte),
        }
    }
    out
}

/// A store that one image after the other goes into and out of.
pub(crate) struct Images(TemporaryStore);

impl Images {
    pub(crate) fn new() -> Self {
        Self(Store::temporary_with(|options| options.backend(BackendChoice::Copy)).unwrap())
    }
}

/// Takes everything away; nothing may be left of it.
fn empty(store: &Store) {
    for image in store.images().unwrap() {
        store.untag(&image.reference).unwrap();
    }
    store.gc(&Default::default(), &Context::default()).unwrap();
    let mut left = BTreeSet::new();
    store.walk(&Filter::all(), |info| Ok(_ = left.insert(info.name))).unwrap();
    for place in ["trees", "blobs/sha256", "blobs/sha512", "ingest", "lost+found"] {
        let names = fs::read_dir(store.root().join(place)).into_iter().flatten();
        left.extend(names.map(|name| format!("{place}/{}", name.unwrap().file_name().display())));
    }
    left.remove("trees/0");
    assert_eq!(left, BTreeSet::new());
}

/// A store of each backend, and a place to mount at.
pub(crate) struct Stores {
    power: Power,
    stores: [TemporaryStore; 2],
    at: TemporaryDirectory,
}

impl Stores {
    pub(crate) fn new(power: Power) -> Self {
        let open = |backend| Store::temporary_with(|options| options.backend(backend)).unwrap();
        let stores = [BackendChoice::Copy, BackendChoice::Overlay].map(open);
        Self { power, stores, at: temporary_directory().unwrap() }
    }
}

/// A stack of layers as one image, whose layers are unpacked side by side: each store shows the model's tree, and refuses what the model
/// refuses.
pub(crate) fn import_model(stores: &Stores, data: &[u8]) -> bool {
    let stack = members::stack(&mut Unstructured::new(data), stores.power);
    explained(&stack, || {
        let expected = model::fold(&stack.0);
        if expected.as_ref().is_err_and(|invalid| invalid.contradictory) {
            return false;
        }
        let image = stack.0.iter().fold(Image::new(), |image, layer| image.layer(layer.clone(), Compression::None));
        let archive = image.docker_archive(&["stack:latest"]);
        for store in &stores.stores {
            let name = store.backend().name();
            match (store.import(ImageSource::reader(archive.as_slice()), &ImportOptions::default(), &Context::default()), &expected)
            {
                (Ok(_), Ok(tree)) => {
                    let top = image.chain_id().map(|chain_id| Name::from(&chain_id));
                    let shown = show(store, top.as_ref(), stores.at.path(), Access::ReadOnly).unwrap();
                    let lines = tree.difference(&Tree::read(stores.at.path()).unwrap());
                    assert!(lines.is_empty(), "{name}: not the model's tree:\n  {}", lines.join("\n  "));
                    drop(shown);
                }
                (Err(error), Err(_)) => assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{name}: {error}"),
                (Ok(_), Err(invalid)) => panic!("{name} accepts what the model refuses: {invalid:?}"),
                (Err(error), Ok(_)) => panic!("{name} refuses what the model accepts: {error}"),
            }
            empty(store);
        }
        expected.is_ok()
    })
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.unpacked_bytes = 1 << 20;
    limits.entries = 1000;
    limits
}

/// Files as an archive or a directory: an image, or an error that says what is wrong with it and leaves nothing.
pub(crate) fn import_image(images: &Images, data: &[u8]) -> bool {
    let mut bytes = Unstructured::new(data);
    let form: u8 = bytes.arbitrary().unwrap_or_default();
    let files = files(&mut bytes);
    let options = ImportOptions::default().reference("fuzz").limits(limits());
    let imported = if form & 1 == 0 {
        let archive = files.iter().fold(Layer::new(), |archive, file| archive.file(&file.name, &file.content)).tar();
        images.0.import(ImageSource::reader(archive.as_slice()), &options, &Context::default())
    } else {
        let directory = temporary_directory().unwrap();
        files.iter().for_each(|file| write(directory.path(), file));
        images.0.import(ImageSource::path(directory.path()), &options, &Context::default())
    };
    let accepted = imported.is_ok();
    match imported {
        Ok(_) => assert_eq!(images.0.images().unwrap().len(), 1),
        Err(error) => {
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::InvalidLayer
                        | ErrorKind::InvalidArgument
                        | ErrorKind::DigestMismatch
                        | ErrorKind::NotFound
                        | ErrorKind::LimitExceeded
                        | ErrorKind::Unsupported
                ),
                "{:?}: {error}",
                error.kind()
            );
            assert!(images.0.images().unwrap().is_empty(), "a failed import left an image");
        }
    }
    empty(&images.0);
    accepted
}

fn write(directory: &Path, file: &File) {
    let path = directory.join(&file.name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, &file.content).unwrap();
}
