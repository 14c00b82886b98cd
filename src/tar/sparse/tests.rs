//! Four spellings of one sparse map, and what none of them may say.

use super::*;
use crate::entry::{Change, Entry, Node};
use crate::error::ErrorKind;
use crate::tar::testing::{Block, Read, archive, invalid, padded, pax, read, read_with};

/// What every archive below says: 3 bytes at 5, 4 bytes at 1000, a hole up to 2000.
const SEGMENTS: [(u64, u64); 2] = [(5, 3), (1000, 4)];
const STORED: &[u8] = b"abcWXYZ";
const SIZE: u64 = 2000;

fn expanded() -> Vec<u8> {
    let mut content = vec![0; 2000];
    content[5..8].copy_from_slice(b"abc");
    content[1000..1004].copy_from_slice(b"WXYZ");
    content
}

fn file(name: &str) -> Vec<u8> {
    Block::ustar(name, b'0').seal()
}

fn octal(number: u64) -> String {
    format!("{number:011o}\0")
}

/// Old GNU: four segments in the header, the others in blocks of 21.
fn old(segments: &[(u64, u64)], size: u64, stored: &[u8]) -> Vec<u8> {
    let pair = |&(offset, length): &(u64, u64)| octal(offset) + &octal(length);
    let (first, rest) = segments.split_at(segments.len().min(4));
    let mut member = Block::gnu("sparse", b'S')
        .size(stored.len())
        .at(386, first.iter().map(pair).collect::<String>())
        .at(482, [u8::from(!rest.is_empty())])
        .at(483, octal(size))
        .seal();
    for (at, more) in rest.chunks(21).enumerate() {
        let mut block = more.iter().map(pair).collect::<String>().into_bytes();
        block.resize(504, 0);
        block.push(u8::from((at + 1) * 21 < rest.len()));
        member.extend(padded(&block));
    }
    member.extend(padded(stored));
    member
}

type Keyword = (&'static str, String);

fn version_0_0(segments: &[(u64, u64)], size: u64) -> Vec<Keyword> {
    let mut records = vec![("GNU.sparse.size", size.to_string()), ("GNU.sparse.numblocks", segments.len().to_string())];
    for (offset, length) in segments {
        records.push(("GNU.sparse.offset", offset.to_string()));
        records.push(("GNU.sparse.numbytes", length.to_string()));
    }
    records
}

fn version_0_1(segments: &[(u64, u64)], size: u64) -> Vec<Keyword> {
    let list: Vec<_> = segments.iter().map(|(offset, length)| format!("{offset},{length}")).collect();
    vec![
        ("GNU.sparse.size", size.to_string()),
        ("GNU.sparse.numblocks", segments.len().to_string()),
        ("GNU.sparse.name", "sparse".to_owned()),
        ("GNU.sparse.map", list.join(",")),
    ]
}

fn version_1_0(size: u64) -> Vec<Keyword> {
    vec![
        ("GNU.sparse.major", "1".to_owned()),
        ("GNU.sparse.minor", "0".to_owned()),
        ("GNU.sparse.name", "sparse".to_owned()),
        ("GNU.sparse.realsize", size.to_string()),
    ]
}

fn map_1_0(segments: &[(u64, u64)]) -> Vec<u8> {
    let mut map = format!("{}\n", segments.len());
    for (offset, length) in segments {
        map += &format!("{offset}\n{length}\n");
    }
    padded(map.as_bytes())
}

fn member(records: &[Keyword], stored: &[u8]) -> Vec<Vec<u8>> {
    let records: Vec<_> = records.iter().map(|(keyword, value)| (*keyword, value.as_bytes())).collect();
    vec![pax(b'x', &records), Block::ustar("GNUSparseFile.0/sparse", b'0').body(stored)]
}

fn spellings(segments: &[(u64, u64)], size: u64, stored: &[u8]) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![
        ("old", vec![old(segments, size, stored)]),
        ("0.0", member(&version_0_0(segments, size), stored)),
        ("0.1", member(&version_0_1(segments, size), stored)),
        ("1.0", member(&version_1_0(size), &[map_1_0(segments), stored.to_vec()].concat())),
    ]
}

fn read_two(mut members: Vec<Vec<u8>>) -> (Entry, Vec<u8>) {
    members.push(file("after"));
    let mut entries: Vec<Read> = read(&archive(&members)).unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1].0.path.as_bytes(), b"after");
    entries.remove(0)
}

#[test]
fn all_spellings_give_the_same_file() {
    for (spelling, members) in spellings(&SEGMENTS, SIZE, STORED) {
        let (entry, content) = read_two(members);
        assert!(entry.path.as_bytes().ends_with(b"sparse"), "{spelling}");
        assert_eq!(entry.path.depth() == 1, spelling != "0.0", "{spelling}: 0.0 has no name of its own");
        assert!(matches!(entry.change, Change::Upsert { node: Node::File { size: SIZE }, .. }), "{spelling}");
        assert!(content == expanded(), "{spelling}");
    }
}

#[test]
fn maps_of_every_length_are_read() {
    for count in [1u64, 3, 4, 5, 24, 25, 26, 46, 47, 100] {
        let segments: Vec<_> = (0..count).map(|n| (n * 10, 1)).collect();
        let stored = vec![b'x'; segments.len()];
        for (spelling, members) in spellings(&segments, count * 10, &stored) {
            let (_, content) = read_two(members);
            assert_eq!(content.iter().filter(|&&byte| byte == b'x').count() as u64, count, "{spelling} {count}");
        }
    }
}

#[test]
fn holes_alone_and_no_holes_at_all() {
    for (spelling, members) in spellings(&[(5000, 0)], 5000, b"") {
        assert_eq!(read_two(members).1, [0; 5000], "{spelling}");
    }
    for (spelling, members) in spellings(&[(0, 3), (3, 0), (3, 4)], 7, STORED) {
        assert_eq!(read_two(members).1, STORED, "{spelling}");
    }
    // A hole of 8 EiB takes no memory, and its size arrives.
    let huge = i64::MAX.unsigned_abs();
    for (spelling, members) in spellings(&[(huge, 0)], huge, b"").into_iter().skip(1) {
        let bytes = archive(&members);
        let cx = crate::Context::default();
        let mut layer = crate::tar::MemoryLayer::new(&bytes, &cx);
        let entry = crate::entry::EntryStream::next(&mut layer).unwrap().unwrap();
        assert!(matches!(entry.change, Change::Upsert { node: Node::File { size }, .. } if size == huge), "{spelling}");
        assert!(crate::entry::EntryStream::chunk(&mut layer).unwrap().is_none());
    }
}

#[test]
fn maps_that_no_file_can_have_are_refused() {
    for (segments, size, why) in [
        (vec![(5, 3), (6, 4)], 2000, "overlap"),
        (vec![(1000, 4), (5, 3)], 2000, "unsorted"),
        (vec![(5, 3), (1000, 4)], 1003, "beyond the end"),
        (vec![(5, 3), (1000, 5)], 2000, "more than is stored"),
        (vec![(5, 3)], 2000, "less than is stored"),
        (vec![(5, 3), (1000, 4), (2001, 0)], 2000, "an empty one beyond the end"),
    ] {
        for (spelling, members) in spellings(&segments, size, STORED) {
            assert!(invalid(&members).contains("spars"), "{spelling}: {why}");
        }
    }
    for (spelling, members) in
        spellings(&[(i64::MAX.unsigned_abs(), i64::MAX.unsigned_abs()), (1, 1)], SIZE, STORED).into_iter().skip(1)
    {
        assert!(invalid(&members).contains("spars"), "{spelling}");
    }
}

#[test]
fn the_number_of_segments_is_bounded() {
    let segments: Vec<_> = (0..40).map(|n| (n * 10, 1)).collect();
    for (spelling, members) in spellings(&segments, 400, &[b'x'; 40]) {
        let limits = Limits { sparse_segments: 39, ..Limits::default() };
        let error = read_with(&archive(&members), limits).0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{spelling}");
        read_with(&archive(&members), Limits { sparse_segments: 40, ..Limits::default() }).0.unwrap();
    }
}

#[test]
fn a_truncated_map_is_an_error() {
    let segments: Vec<_> = (0..100).map(|n| (n * 10, 1)).collect();
    for (_, members) in spellings(&segments, 1000, &[b'x'; 100]) {
        let bytes = members.concat();
        for len in (1..bytes.len()).step_by(37) {
            assert_eq!(read(&bytes[..len]).unwrap_err().kind(), ErrorKind::InvalidLayer, "{len}");
        }
    }
}

#[test]
fn old_maps_on_which_readers_differ_are_refused() {
    let header = |block: Block| block.at(483, octal(SIZE));
    let pair = |offset, length| octal(offset) + &octal(length);
    // The flag that more follows, though the map has ended.
    invalid(&[header(Block::gnu("s", b'S').at(386, pair(5, 0)).at(482, [1])).seal(), vec![0; 512]]);
    // Half a pair.
    invalid(&[header(Block::gnu("s", b'S').at(386, octal(5))).seal()]);
    invalid(&[header(Block::gnu("s", b'S').at(398, octal(5))).seal()]);
    invalid(&[header(Block::gnu("s", b'S').at(386, "-0000000001\0").at(398, octal(0))).seal()]);
    // In a block of its own.
    let mut more = old(&SEGMENTS.repeat(3), SIZE, STORED);
    more[512] = b'-';
    assert!(invalid(&[more]).contains("is no number"));
    // Not GNU's layout.
    invalid(&[Block::ustar("s", b'S').seal()]);
    invalid(&[Block::v7("s", b'S').seal()]);
    invalid(&[Block::gnu("s", b'S').at(483, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").seal()]);
    invalid(&[header(Block::gnu("s/", b'S')).seal()]);
}

#[test]
fn stray_sparse_records_are_refused() {
    let good = version_0_1(&SEGMENTS, SIZE);
    let without = |keyword: &str| good.iter().filter(|(found, _)| *found != keyword).cloned().collect::<Vec<_>>();
    let and = |more: &[(&'static str, &str)]| {
        let mut records = good.clone();
        records.extend(more.iter().map(|(keyword, value)| (*keyword, (*value).to_owned())));
        records
    };
    for (records, why) in [
        (without("GNU.sparse.size"), "no size"),
        (without("GNU.sparse.map"), "no map"),
        (without("GNU.sparse.numblocks"), "no count"),
        (and(&[("GNU.sparse.realsize", "2000")]), "two sizes"),
        (and(&[("GNU.sparse.numblocks", "3")]), "a wrong count"),
        (and(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")]), "1.0 with a map of 0.1"),
        (and(&[("GNU.sparse.major", "0"), ("GNU.sparse.minor", "2")]), "an unknown version"),
        (and(&[("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0")]), "an unknown version"),
        (and(&[("GNU.sparse.major", "0")]), "half a version"),
        (and(&[("GNU.sparse.offset", "5")]), "half a pair"),
        (and(&[("GNU.sparse.offset", "5"), ("GNU.sparse.offset", "6")]), "two offsets"),
        (and(&[("GNU.sparse.numbytes", "5")]), "a length without offset"),
        (and(&[("GNU.sparse.offset", "5"), ("GNU.sparse.numbytes", "3")]), "two maps"),
        (and(&[("GNU.sparse.other", "5")]), "an unknown record"),
        (and(&[("GNU.sparse.map", "5,3,1000")]), "an odd list"),
        (and(&[("GNU.sparse.map", "5,3,,4")]), "a hole in the list"),
        (and(&[("GNU.sparse.map", "5,3,1000,+4")]), "a sign"),
        (and(&[("GNU.sparse.size", "-1")]), "a negative size"),
        (and(&[("GNU.sparse.size", "")]), "a size that is taken back"),
        (and(&[("GNU.sparse.offset", "x")]), "an offset that is none"),
        (and(&[("GNU.sparse.offset", "5"), ("GNU.sparse.numbytes", "x")]), "a length that is none"),
        (and(&[("GNU.sparse.map", ""), ("GNU.sparse.numblocks", "0")]), "an empty map without a version"),
        (vec![("GNU.sparse.name", "x".to_owned())], "a name alone"),
        (vec![("GNU.sparse.numblocks", "0".to_owned()), ("GNU.sparse.size", "5".to_owned())], "nothing but a size"),
    ] {
        let mut members = member(&records, STORED);
        members.push(file("after"));
        invalid(&members);
        assert!(read(&archive(&members)).is_err(), "{why}");
    }
    read(&archive(&member(&and(&[("GNU.sparse.major", "0"), ("GNU.sparse.minor", "1")]), STORED))).unwrap();
    invalid(&[member(&good, STORED).remove(0), Block::ustar("d", b'5').seal()]);
    invalid(&[member(&good, STORED).remove(0), old(&SEGMENTS, SIZE, STORED)]);
    invalid(&[Block::gnu("L", b'L').body(b"long"), member(&good, STORED).concat()]);
}

#[test]
fn maps_before_the_content_are_decimal_lines() {
    let with = |map: &[u8]| member(&version_1_0(SIZE), &[&padded(map), STORED].concat());
    read(&archive(&with(b"2\n5\n3\n1000\n4\n"))).unwrap();
    read(&archive(&with(b"2\n5\n3\n1000\n4\nwhatever fills the block"))).unwrap();
    for map in [
        b"2\n5\n3\n1000\n".as_slice(),
        b"x\n",
        b"\n2\n5\n3\n1000\n4\n",
        b"2\n5\n3\n1000\n 4\n",
        b"-2\n",
        b"2\n5\n3\n1000\n0x4\n",
        b"2\n5\n3\n1000\n000000000000000000000000004\n",
        b"99999999999999999999\n",
        b"",
    ] {
        invalid(&with(map));
    }
    // A map that would need more than what is stored.
    invalid(&member(&version_1_0(SIZE), b"2\n5\n"));
    invalid(&member(&version_1_0(SIZE), b""));
}

#[test]
fn segments_never_overflow() {
    let refused = |segments: &[(u64, u64)]| {
        let segments: Vec<_> = segments.iter().map(|&(offset, length)| Segment { offset, length }).collect();
        validate(&segments, u64::MAX, 7).unwrap_err().rule
    };
    assert_eq!(refused(&[(3, 4), (u64::MAX, 1)]), "a sparse segment overflows");
    assert!(refused(&[(0, u64::MAX)]).contains("do not add up"));
}
