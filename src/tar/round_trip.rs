//! What is written is read back: any entries, any bytes, any compression, in pieces of any length.

use std::io::{self, Read, Write as _};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::{Limits, Reader, Writer};
use crate::compression::{Compression, Decoder, Encoder};
use crate::entry::{Attributes, Change, Entry, EntrySink as _, Node, Status, Timestamp};
use crate::path::EntryPath;
use crate::progress::Context;

/// A component: mostly short and plain, now and then long or wild.
fn component() -> impl Strategy<Value = Vec<u8>> {
    let wild = vec(any::<u8>().prop_filter("no part of a name", |&byte| byte != 0 && byte != b'/'), 1..256);
    let name =
        prop_oneof![4 => "[a-c]{1,3}".prop_map(String::into_bytes), 1 => "[a-z]{90,160}".prop_map(String::into_bytes), 1 => wild];
    name.prop_filter("a marker, or no name", |name| !name.starts_with(b".wh.") && name != b"." && name != b"..")
}

fn path() -> impl Strategy<Value = EntryPath> {
    vec(component(), 1..6).prop_map(|components| EntryPath::parse(components.join(&b'/')).unwrap())
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let id = || prop_oneof![0..10u32, 2_097_150..2_097_155u32, 0..u32::MAX];
    let seconds = prop_oneof![-3..3i64, 8_589_934_590..8_589_934_594i64, any::<i64>()];
    let nanoseconds = prop_oneof![Just(0), 0..1_000_000_000u32];
    let name = vec(any::<u8>().prop_filter("PAX cannot say it", |byte| !b"=\0".contains(byte)), 1..40);
    let xattrs = prop_oneof![3 => Just(Default::default()), 1 => btree_map(name, vec(any::<u8>(), 0..120), 0..4)];
    (0..0o10000u32, id(), id(), (seconds, nanoseconds), xattrs).prop_map(|(mode, uid, gid, (seconds, nanoseconds), xattrs)| {
        Attributes { mode, uid, gid, mtime: Timestamp { seconds, nanoseconds }, xattrs }
    })
}

fn node() -> impl Strategy<Value = Node> {
    let size = prop_oneof![0..4u64, 500..520u64, 0..300_000u64];
    prop_oneof![
        Just(Node::Directory),
        size.prop_map(|size| Node::File { size }),
        vec(1..=255u8, 1..300).prop_map(|target| Node::Symlink { target }),
        path().prop_map(|target| Node::Hardlink { target }),
        (0..4096u32, 1..1_048_576u32).prop_map(|(major, minor)| Node::CharDevice { major, minor }),
        (0..4096u32, 0..1_048_576u32).prop_map(|(major, minor)| Node::BlockDevice { major, minor }),
        Just(Node::Fifo),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let upsert = || (node(), attributes()).prop_map(|(node, attributes)| Change::Upsert { node, attributes });
    let root = attributes().prop_map(|attributes| Change::Upsert { node: Node::Directory, attributes });
    prop_oneof![
        8 => (path(), upsert()),
        2 => (path(), Just(Change::Whiteout)),
        1 => (path(), Just(Change::Opaque)),
        1 => (Just(EntryPath::ROOT), prop_oneof![root, Just(Change::Opaque)]),
    ]
    .prop_map(|(path, change)| Entry { path, change })
}

fn content(entry: &Entry) -> Vec<u8> {
    match entry.change {
        Change::Upsert { node: Node::File { size }, .. } => (0..size).map(|at| (at * 7 % 253) as u8).collect(),
        _ => Vec::new(),
    }
}

/// Reads pieces of any length, as a pipe gives them.
struct Pieces<R>(R, Vec<usize>, usize);

impl<R: Read> Read for Pieces<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.2 += 1;
        let most = self.1[self.2 % self.1.len()].min(out.len());
        self.0.read(&mut out[..most])
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_written_is_read_back(
        entries in vec(entry(), 0..8),
        compression in prop_oneof![Just(Compression::None), Just(Compression::Gzip), Just(Compression::Zstd)],
        pieces in vec(1..5000usize, 1..5),
    ) {
        let mut writer = Writer::new(Encoder::new(Vec::new(), compression, Some(1)).unwrap());
        for entry in &entries {
            writer.entry(entry, Status::Added).unwrap();
            for piece in content(entry).chunks(pieces[0]) {
                writer.data(piece).unwrap();
            }
        }
        let blob = writer.finish().unwrap().finish().unwrap();

        let cx = Context::default();
        let source = Pieces(Decoder::new(Pieces(blob.as_slice(), pieces.clone(), 0)).unwrap(), pieces, 0);
        let mut reader = Reader::new(source, Limits::default(), &cx);
        for expected in &entries {
            let found = reader.next().unwrap();
            prop_assert_eq!(found.as_ref(), Some(expected));
            let mut bytes = Vec::new();
            while let Some(chunk) = reader.chunk().unwrap() {
                prop_assert_eq!(chunk.offset, bytes.len() as u64);
                bytes.write_all(chunk.data).unwrap();
            }
            prop_assert!(bytes == content(expected));
        }
        prop_assert_eq!(reader.next().unwrap(), None);
        prop_assert!(cx.take_report().is_empty());
    }
}
