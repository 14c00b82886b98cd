//! Names: of tar members, of blobs, of snapshots.

use arbitrary::Unstructured;
use plywood::descriptor::Descriptor;
use plywood::digest::{Algorithm, ChainId, DiffId, Digest};
use plywood::entry::Entry;
use plywood::path::EntryPath;
use plywood::snapshot::{Key, Name};
use plywood::tar::{Limits, Reader};
use plywood::testing::Layer;
use plywood::whiteout::Marker;
use plywood::{Context, ErrorKind};

/// Members by name, type flag and link alone: what the reader makes of them is what the literal's own reading says.
pub(crate) fn member_names(data: &[u8]) -> bool {
    let mut bytes = Unstructured::new(data);
    let mut layer = Layer::new();
    let mut count = 0;
    while count < 8
        && !bytes.is_empty()
        && let Ok([flag, name, link]) = bytes.arbitrary::<[u8; 3]>()
    {
        count += 1;
        let mut take = |length: u8| bytes.bytes(bytes.len().min(length.into())).unwrap_or_default().to_vec();
        let (name, link) = (take(name), take(link));
        // The usual flags, and any other.
        let flag = [b'0', b'0', b'5', b'1', b'2', b'6', b'7', 0].get(usize::from(flag)).copied().unwrap_or(flag);
        path(&name);
        // No header says these: the literal itself refuses them, or they are for `tar_extensions`.
        if matches!(flag, b'x' | b'g' | b'L' | b'K' | b'S') || name.contains(&0) || link.contains(&0) || name.is_empty() {
            continue;
        }
        layer = layer.member(name, flag).link(link);
    }
    let expected = layer.entries().map(|entries| entries.into_iter().map(|entry| entry.entry).collect::<Vec<_>>());
    let found = read(&layer.tar());
    match (expected, found) {
        (Ok(expected), Ok(found)) => {
            assert_eq!(found, expected, "{layer:?}");
            !found.is_empty()
        }
        (Err(_), Err(error)) => {
            assert_eq!(error.kind(), ErrorKind::InvalidLayer);
            false
        }
        (expected, found) => panic!("{layer:?}: {found:?}, expected {expected:?}"),
    }
}

fn read(archive: &[u8]) -> plywood::Result<Vec<Entry>> {
    let cx = Context::default();
    let mut reader = Reader::new(archive, Limits::default(), &cx);
    std::iter::from_fn(|| reader.next().transpose()).collect()
}

/// A path is normal, and its parts make it again.
fn path(name: &[u8]) {
    let Ok(path) = EntryPath::parse(name) else {
        assert!(name.contains(&0) || name.split(|&byte| byte == b'/').any(|component| component == b".."));
        return;
    };
    let components: Vec<_> = name.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    assert!(path.components().eq(components.iter().copied()));
    assert_eq!(path.as_bytes(), components.join(&b'/'));
    assert_eq!(EntryPath::parse(path.as_bytes()).unwrap(), path);
    if let Some((parent, name)) = path.parent().zip(path.file_name()) {
        assert_eq!(parent.join(name).unwrap(), path);
        if let Ok(Some(Marker::Whiteout(hidden))) = Marker::parse(name) {
            assert_eq!(plywood::whiteout::whiteout_of(hidden), name);
            assert!(!hidden.is_empty() && hidden != b"." && hidden != b"..");
        }
    }
}

/// Text as a digest, a key, a name and a descriptor: what is taken is what the specification allows, and comes out as it went in.
pub(crate) fn identifiers(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let well_formed = [Algorithm::Sha256, Algorithm::Sha512].iter().any(|algorithm| {
        let hex = text.strip_prefix(algorithm.as_str()).and_then(|rest| rest.strip_prefix(':'));
        hex.is_some_and(|hex| {
            hex.len() == 2 * algorithm.digest_len() && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    });
    let digest: Result<Digest, _> = text.parse();
    assert_eq!(digest.is_ok(), well_formed, "{text:?}: {digest:?}");
    assert_eq!((text.parse::<DiffId>().is_ok(), text.parse::<ChainId>().is_ok()), (well_formed, well_formed));
    if let Ok(digest) = &digest {
        assert_eq!(digest.to_string(), text);
        let json = serde_json::to_string(digest).unwrap();
        assert_eq!(json, format!("{text:?}"));
        assert_eq!(&serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }
    let (key, name) = (Key::new(text), Name::new(text));
    assert!(key.is_err() || key.as_ref().unwrap().as_str() == text);
    assert!(name.is_err() || name.as_ref().unwrap().as_str() == text);
    assert!(!well_formed || (key.is_err() && name.is_err()), "a chain id is no key, and no name of a commit");
    for error in key.err().into_iter().chain(name.err()).chain(digest.err()) {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    let descriptor: Result<Descriptor, _> = serde_json::from_str(text);
    if let Ok(descriptor) = &descriptor {
        let json = serde_json::to_string(descriptor).unwrap();
        assert_eq!(&serde_json::from_str::<Descriptor>(&json).unwrap(), descriptor);
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(value["digest"], descriptor.digest.to_string());
        assert_eq!(value["size"], descriptor.size);
        assert_eq!(value["mediaType"], descriptor.media_type.as_str());
    }
    well_formed || descriptor.is_ok()
}
