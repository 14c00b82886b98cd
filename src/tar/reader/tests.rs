//! Framing: headers, extension headers, ends and limits.

use super::*;
use crate::entry::{Attributes, Change, Node, Timestamp};
use crate::progress::{Progress, Report};
use crate::tar::testing::{Block, archive, attributes, invalid, one, padded, pax, read, read_with, refused};

fn report(members: &[Vec<u8>]) -> Report {
    let (result, report) = read_with(&archive(members), Limits::default());
    assert!(result.unwrap().is_empty());
    report
}

fn file(name: &str) -> Vec<u8> {
    Block::ustar(name, b'0').seal()
}

#[test]
fn nothing_at_all_is_an_empty_layer() {
    for zeros in [0, 512, 1024, 1536, 10_240] {
        let (result, report) = read_with(&vec![0; zeros], Limits::default());
        assert!(result.unwrap().is_empty(), "{zeros}");
        assert!(report.is_empty(), "{zeros}");
    }
}

#[test]
fn contents_and_padding_of_every_length_are_framed() {
    for len in [0, 1, 511, 512, 513, 262_143, 262_144, 262_145, 600_000] {
        let body: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let entries = read(&archive(&[Block::ustar("a", b'0').body(&body), Block::ustar("b", b'0').body(b"end")])).unwrap();
        assert!(entries[0].1 == body, "{len}");
        assert_eq!(entries[1].1, b"end", "{len}");
    }
}

#[test]
fn content_that_is_not_taken_is_skipped() {
    let bytes = archive(&[Block::ustar("a", b'0').body([7; 300_000]), Block::ustar("b", b'0').body(b"end")]);
    let cx = Context::default();
    let mut reader = Reader::new(bytes.as_slice(), Limits::default(), &cx);
    reader.next().unwrap().unwrap();
    assert_eq!(reader.chunk().unwrap().unwrap().offset, 0);
    assert_eq!(reader.next().unwrap().unwrap().path.as_bytes(), b"b");
    assert_eq!(reader.position(), Some(Position { member: 2, offset: 512 + 300_032 }));
    assert!(reader.next().unwrap().is_none());
    assert!(reader.next().unwrap().is_none(), "the end stays the end");
    assert!(reader.chunk().unwrap().is_none());
    assert!(reader.get_ref().is_empty(), "read to the last byte");
}

#[test]
fn checksums_are_unsigned_or_signed_sums() {
    let good = Block::ustar("na\u{ff}me", b'0').at(0, b"\xff\xfe\xfd").seal();
    assert_eq!(read(&archive(std::slice::from_ref(&good))).unwrap().len(), 1);

    let signed: i64 = good.iter().enumerate().map(|(at, &b)| if (148..156).contains(&at) { 32 } else { i64::from(b as i8) }).sum();
    let mut sun = good.clone();
    sun[148..156].copy_from_slice(format!("{signed:06o}\0 ").as_bytes());
    assert_eq!(read(&archive(&[sun])).unwrap().len(), 1);

    for at in [0, 50, 130, 257, 511] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(invalid(&[bad]).contains("checksum"), "{at}");
    }
    let mut none = good.clone();
    none[148..156].copy_from_slice(b"\0\0\0\0\0\0\0\0");
    assert!(invalid(&[none]).contains("checksum"));
}

#[test]
fn every_dialect_is_read() {
    let long = "p".repeat(100);
    for (block, name) in [
        (Block::v7("v7", b'0'), "v7".to_owned()),
        (Block::v7("v7", 0), "v7".to_owned()),
        (Block::ustar("n", b'0').prefix("p/q"), "p/q/n".to_owned()),
        (Block::ustar("n", b'0').prefix("p").at(263, b"  "), "p/n".to_owned()),
        (Block::ustar(&long, b'0').prefix(&long), format!("{long}/{long}")),
        (Block::gnu("gnu", b'0'), "gnu".to_owned()),
        (Block::gnu("gnu", b'0').prefix(b"00000000001\0"), "gnu".to_owned()),
    ] {
        assert_eq!(one(&[block.seal()]).path.as_bytes(), name.as_bytes());
    }
}

#[test]
fn an_extension_header_that_only_some_readers_see_is_refused() {
    // By the flag alone it is one, by the magic a member.
    for flag in *b"gxLK" {
        invalid(&[Block::v7("n", flag).body("13 comment=x\n"), Block::ustar("x", b'0').seal()]);
        one(&[Block::ustar("n", flag).body("13 comment=x\n"), Block::ustar("x", b'0').seal()]);
    }
}

#[test]
fn a_prefix_that_only_some_readers_see_is_refused() {
    invalid(&[Block::v7("n", b'0').prefix("p").seal()]);
    invalid(&[Block::v7("n", b'0').at(257, "ustar9\0\0").prefix("p").seal()]);
    invalid(&[Block::gnu("n", b'0').prefix("path/to").seal()]);
    invalid(&[Block::gnu("n", b'0').at(357, "path/to").seal()]);
    // star: the last bytes of the block say so, and two times stand where ustar's prefix goes on.
    let star = |prefix: &str| Block::ustar("n", b'0').prefix(prefix).at(508, b"tar\0").seal();
    assert_eq!(one(&[star("p")]).path.as_bytes(), b"p/n");
    invalid(&[star(&"p".repeat(140))]);
}

#[test]
fn numbers_come_from_every_spelling() {
    let entry = one(&[Block::ustar("n", b'0')
        .at(100, b"104755 \0")
        .at(108, b"\x80\0\0\0\xff\xff\xff\xfe")
        .at(116, b"    17 \0")
        .at(136, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
        .seal()]);
    let found = attributes(&entry);
    assert_eq!((found.mode, found.uid, found.gid, found.mtime.seconds), (0o4755, u32::MAX - 1, 0o17, -1));
}

#[test]
fn bad_negative_and_overflowing_numbers_are_refused() {
    for (offset, field) in [
        (100, b"64x4567\0".as_slice()),
        (100, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        (108, b"\x80\0\0\0\xff\xff\xff\xff"),
        (108, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        (116, b"-1\0\0\0\0\0\0"),
        (116, b"\x80\0\0\x01\0\0\0\0"),
        (124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        (124, b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
        (136, b"99999999999\0"),
        (136, b"\x80\x01\0\0\0\0\0\0\0\0\0\0"),
    ] {
        invalid(&[Block::ustar("n", b'0').at(offset, field).seal()]);
    }
}

#[test]
fn an_end_may_be_two_blocks_one_or_none() {
    let member = Block::ustar("a", b'0').body(b"x");
    for zeros in [0, 512, 1024, 1536, 2000, 9216] {
        let (result, report) = read_with(&[member.clone(), vec![0; zeros]].concat(), Limits::default());
        assert_eq!(result.unwrap().len(), 1, "{zeros}");
        assert!(report.is_empty(), "{zeros}");
    }
}

#[test]
fn a_lone_zero_block_followed_by_data_is_refused() {
    let member = Block::ustar("a", b'0').body(b"x");
    assert!(refused(&[member.clone(), vec![0; 512], member.clone()].concat(), ErrorKind::InvalidLayer).contains("single block"));
    refused(&[member.clone(), vec![0; 512], vec![0; 511]].concat(), ErrorKind::InvalidLayer);
    refused(&[member, vec![0; 512], vec![0; 511], vec![1]].concat(), ErrorKind::InvalidLayer);
}

#[test]
fn what_follows_the_end_is_read_and_reported() {
    let mut bytes = archive(&[Block::ustar("a", b'0').body(b"x")]);
    bytes.extend([0; 700]);
    bytes.extend(Block::ustar("smuggled", b'0').seal());
    let (result, report) = read_with(&bytes, Limits::default());
    assert_eq!(result.unwrap().len(), 1);
    assert_eq!(report.skipped.len(), 1);
    assert_eq!((report.skipped[0].path.as_str(), &report.skipped[0].reason), (".", &Reason::TrailingData));
}

/// Ends that are whole: after a member with nothing pending, or after a zero block.
#[test]
fn truncation_anywhere_else_is_an_error() {
    let members = [
        Block::ustar("a", b'0').body(b"content"),
        pax(b'x', &[("path", b"long"), ("mtime", b"1.5")]),
        Block::ustar("b", b'0').body([1; 600]),
        Block::gnu("L", b'L').body(b"long name\0"),
        Block::gnu("K", b'K').body(b"long link\0"),
        Block::gnu("c", b'2').link("x").seal(),
    ];
    let bytes = archive(&members);
    let mut whole = vec![0];
    whole.push(members[0].len());
    whole.push(members[..3].concat().len());
    let end = members.concat().len();
    whole.extend([end, end + 512, end + 1024]);
    for len in 0..=bytes.len() {
        let result = read(&bytes[..len]);
        assert_eq!(result.is_ok(), whole.contains(&len), "{len}");
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{len}");
        }
    }
}

#[test]
fn pax_records_replace_what_the_header_says() {
    let entry = one(&[
        pax(
            b'x',
            &[
                ("path", b"new/name"),
                ("uid", b"4294967294"),
                ("gid", b"007"),
                ("mtime", b"-1.75"),
                ("SCHILY.xattr.user.a", b"1\n2=\0"),
                ("SCHILY.xattr.user.empty", b""),
                ("SCHILY.xattr.user.twice", b"first"),
                ("SCHILY.xattr.user.twice", b"last"),
                ("LIBARCHIVE.xattr.user.other", b"eA=="),
                ("RHT.security.selinux", b"label"),
                ("SCHILY.acl.access", b"user::rwx"),
                ("atime", b"not even a number"),
                ("uname", b"root"),
                ("comment", b""),
            ],
        ),
        Block::ustar("old", b'0').seal(),
    ]);
    assert_eq!(entry.path.as_bytes(), b"new/name");
    let found = attributes(&entry);
    let xattrs: [(&[u8], &[u8]); 3] = [(b"user.a", b"1\n2=\0"), (b"user.empty", b""), (b"user.twice", b"last")];
    let expected = Attributes {
        mode: 0o644,
        uid: u32::MAX - 1,
        gid: 7,
        mtime: Timestamp { seconds: -2, nanoseconds: 250_000_000 },
        xattrs: xattrs.into_iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
    };
    assert_eq!(found, expected);
}

#[test]
fn the_last_duplicate_wins_and_an_empty_value_keeps_the_header() {
    let entry = one(&[
        pax(
            b'x',
            &[("path", b"a"), ("path", b"b"), ("uid", b"nonsense"), ("uid", b"5"), ("gid", b"6"), ("gid", b""), ("mtime", b"")],
        ),
        Block::ustar("old", b'0').at(116, b"0000007\0").at(136, b"00000000011\0").seal(),
    ]);
    let found = attributes(&entry);
    assert_eq!((entry.path.as_bytes(), found.uid, found.gid, found.mtime.seconds), (b"b".as_slice(), 5, 7, 9));
    let entry = one(&[pax(b'x', &[("path", b"a"), ("path", b""), ("linkpath", b"")]), Block::ustar("old", b'2').link("t").seal()]);
    assert_eq!(entry.path.as_bytes(), b"old");
}

/// The body's length, and where the next header stands, are the PAX size's: otherwise the content below is a header (CVE-2025-62518).
#[test]
fn the_pax_size_frames_the_body() {
    let inner = Block::ustar("smuggled", b'0').seal();
    let entries = read(&archive(&[
        pax(b'x', &[("size", inner.len().to_string().as_bytes())]),
        Block::ustar("a", b'0').size(0).seal(),
        inner.clone(),
        file("b"),
    ]))
    .unwrap();
    assert_eq!(entries.iter().map(|(entry, _)| entry.path.as_bytes()).collect::<Vec<_>>(), [b"a", b"b"]);
    assert_eq!(entries[0].1, inner);

    let entries = read(&archive(&[pax(b'x', &[("size", b"0")]), Block::ustar("a", b'0').size(512).seal(), file("b")])).unwrap();
    assert_eq!(entries.len(), 2);
}

#[test]
fn extension_headers_never_belong_to_each_other() {
    // A PAX size before a GNU long name: it is the file's, not the long name's.
    let entries = read(&archive(&[
        pax(b'x', &[("size", b"3")]),
        Block::gnu("L", b'L').body(b"long"),
        Block::gnu("short", b'0').size(0).seal(),
        crate::tar::testing::padded(b"abc"),
        file("b"),
    ]))
    .unwrap();
    assert_eq!((entries[0].0.path.as_bytes(), entries[0].1.as_slice()), (b"long".as_slice(), b"abc".as_slice()));
    assert_eq!(entries.len(), 2);
}

#[test]
fn two_of_a_kind_before_one_member_are_refused() {
    for twice in [pax(b'x', &[("comment", b"")]), Block::gnu("L", b'L').body(b"n"), Block::gnu("K", b'K').body(b"l")] {
        assert!(invalid(&[twice.clone(), twice, file("a")]).contains("two "));
    }
}

#[test]
fn extension_headers_without_a_member_are_refused() {
    for pending in [pax(b'x', &[("comment", b"")]), Block::gnu("L", b'L').body(b"n"), Block::gnu("K", b'K').body(b"l")] {
        assert!(invalid(std::slice::from_ref(&pending)).contains("without a member"));
        assert!(refused(&pending, ErrorKind::InvalidLayer).contains("without a member"));
    }
}

#[test]
fn gnu_long_names_end_at_their_first_nul() {
    let long = "d/".repeat(150) + "n";
    let entry = one(&[
        Block::gnu("././@LongLink", b'K').body(format!("{long}\0")),
        Block::gnu("././@LongLink", b'L').body(format!("{long}\0ignored")),
        Block::gnu("cut", b'2').link("cut").seal(),
    ]);
    assert_eq!(entry.path.as_bytes(), long.as_bytes());
    assert!(matches!(entry.change, Change::Upsert { node: Node::Symlink { target }, .. } if target == long.as_bytes()));
    // Without a NUL all of it is the name.
    assert_eq!(one(&[Block::gnu("L", b'L').body(b"name"), file("x")]).path.as_bytes(), b"name");
    for empty in ["", "\0", "\0name"] {
        invalid(&[Block::gnu("L", b'L').body(empty), file("x")]);
    }
}

#[test]
fn a_gnu_long_name_and_a_pax_path_are_refused() {
    let (long, path) = (Block::gnu("L", b'L').body(b"one"), pax(b'x', &[("path", b"two")]));
    invalid(&[long.clone(), path.clone(), file("x")]);
    invalid(&[path, long.clone(), file("x")]);
    let (link, linkpath) = (Block::gnu("K", b'K').body(b"one"), pax(b'x', &[("linkpath", b"two")]));
    invalid(&[link, linkpath, Block::ustar("x", b'2').link("y").seal()]);
    // An empty path is none.
    assert_eq!(one(&[long, pax(b'x', &[("path", b"")]), file("x")]).path.as_bytes(), b"one");
}

#[test]
fn malformed_pax_records_are_refused() {
    for body in [
        "5 a=b\n",
        "6 a=b",
        "6 a=b\n\0",
        "7 a=b\n",
        "06 a=b\n",
        "6a=bcd\n",
        "6  a=b\n",
        "+6 a=b\n",
        "-6 a=b\n",
        "6 abc\n",
        "5 =b\n",
        " 6 a=b\n",
        "a=b\n",
        "4 a\n",
        "0 a=b\n",
        "1\n",
        "2 \n",
        "99999999999999999999999 a=b\n",
        "6 a=b\n6 c=d",
        "\n",
        "\0\0\0\0",
        "7 a\0=b\n",
    ] {
        invalid(&[Block::ustar("pax", b'x').body(body), file("a")]);
        invalid(&[Block::ustar("pax", b'g').body(body)]);
    }
    // Cut by length alone: newlines and equals signs are data, and a length may have leading zeros.
    let mut body = b"010 uid=5\n".to_vec();
    crate::tar::pax::write_record(&mut body, b"SCHILY.xattr.user.a", b"\n12 path=evil\n");
    let entry = one(&[Block::ustar("pax", b'x').body(body), file("a")]);
    assert_eq!(entry.path.as_bytes(), b"a");
    assert_eq!(attributes(&entry).uid, 5);
    assert_eq!(attributes(&entry).xattrs[b"user.a".as_slice()], b"\n12 path=evil\n");
}

#[test]
fn bad_pax_values_are_refused() {
    for (keyword, value) in [
        ("path", b"a\0b".as_slice()),
        ("linkpath", b"a\0b"),
        ("uname", b"a\0b"),
        ("size", b"-1"),
        ("size", b"+1"),
        ("size", b"1.0"),
        ("size", b"0x1"),
        ("size", b" 1"),
        ("size", b"9223372036854775808"),
        ("uid", b"4294967295"),
        ("uid", b"-1"),
        ("gid", b"18446744073709551616"),
        ("mtime", b"x"),
        ("mtime", b".5"),
        ("mtime", b"1.x"),
        ("mtime", b"--1"),
        ("mtime", b"+1"),
        ("mtime", b"1.-5"),
        ("mtime", b"9223372036854775808"),
        ("mtime", b"-9223372036854775808.5"),
        ("SCHILY.xattr.", b"value"),
        ("SCHILY.realsize", b"5"),
        ("SCHILY.devmajor", b"x"),
        ("SCHILY.devminor", b"-1"),
    ] {
        invalid(&[pax(b'x', &[(keyword, value)]), file("a")]);
    }
}

#[test]
fn global_headers_are_ignored_and_reported() {
    let comment = pax(b'g', &[("comment", b"0123456789abcdef")]);
    let found = report(&[comment.clone(), comment]);
    assert_eq!(found.total, 2);
    assert!(found.skipped.iter().all(|skipped| skipped.reason == Reason::GlobalHeader));
}

#[test]
fn global_headers_that_would_change_members_are_refused() {
    let harmful =
        ["path", "linkpath", "size", "uid", "gid", "mtime", "SCHILY.xattr.user.a", "SCHILY.x", "GNU.sparse.major", "GNU.x"];
    for keyword in harmful {
        assert!(invalid(&[pax(b'g', &[(keyword, b"")])]).contains(keyword));
    }
    let comment = pax(b'g', &[("comment", b"c")]);
    invalid(&[pax(b'x', &[("path", b"p")]), comment.clone(), file("a")]);
    invalid(&[Block::gnu("L", b'L').body(b"n"), comment, file("a")]);
}

#[test]
fn errors_say_which_member_where_and_what() {
    let message = invalid(&[file("a"), pax(b'x', &[("path", b"b\nad/../x")]), file("b")]);
    assert_eq!(message, r#"read layer b\nad/../x: member 2 at offset 512: a path must not contain "..""#);
}

#[test]
fn a_declared_size_allocates_nothing() {
    // 8 EiB of file, and a PAX header of nearly the limit: the stream ends, that is all.
    for block in
        [Block::ustar("a", b'0').at(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), Block::ustar("a", b'x').size(1 << 20)]
    {
        refused(&block.seal(), ErrorKind::InvalidLayer);
    }
}

#[derive(Default)]
struct Watch {
    bytes: std::sync::atomic::AtomicU64,
    entries: std::sync::atomic::AtomicU64,
    cancelled: std::sync::atomic::AtomicBool,
}

impl Progress for Watch {
    fn bytes(&self, count: u64) {
        self.bytes.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
    }
    fn entries(&self, count: u64) {
        self.entries.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
    }
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[test]
fn a_second_reading_gives_the_same_skips_included_and_counts_nothing_twice() {
    let bytes = archive(&[pax(b'g', &[("comment", b"c")]), file("a"), file(".wh..wh.aufs"), file("b")]);
    let watch = Watch::default();
    let cx = Context::new(&watch);
    let mut reader = Reader::new(bytes.as_slice(), Limits::default(), &cx);
    let all = |reader: &mut Reader<'_, &[u8]>| {
        let mut entries = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            entries.push((entry, reader.position()));
        }
        entries
    };
    reader.next().unwrap();
    cx.take_report();
    reader.rewind(&bytes);
    let first = all(&mut reader);
    let report = cx.take_report();
    reader.rewind(&bytes);
    assert_eq!(all(&mut reader), first);
    assert_eq!(first.len(), 2);
    assert_eq!((report.total, cx.take_report()), (2, report));
    assert_eq!(watch.bytes.into_inner(), bytes.len() as u64);
    assert_eq!(watch.entries.into_inner(), 4);
}

#[test]
fn the_caller_can_stop_it() {
    let bytes = archive(&[file("a"), file("b")]);
    let watch = Watch::default();
    let cx = Context::new(&watch);
    let mut reader = Reader::new(bytes.as_slice(), Limits::default(), &cx);
    reader.next().unwrap();
    watch.cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(reader.next().unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(reader.next().is_err(), "after an error there is no more");
}

#[test]
fn strict_callers_get_an_error_for_each_skip() {
    for bytes in
        [archive(&[pax(b'g', &[("comment", b"c")])]), archive(&[file(".wh..wh.plnk")]), [archive(&[]), b"x".to_vec()].concat()]
    {
        let cx = Context::default().strict();
        let mut reader = Reader::new(bytes.as_slice(), Limits::default(), &cx);
        assert_eq!(reader.next().unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn a_layer_in_memory_says_where_its_entries_stand() {
    use crate::entry::EntryStream as _;
    let (cx, bytes) = (Context::default(), archive(&[file("a"), file("b")]));
    let mut layer = crate::tar::MemoryLayer::new(&bytes, &cx);
    assert_eq!(layer.position(), None);
    layer.next().unwrap();
    layer.next().unwrap();
    assert_eq!(layer.position(), Some(Position { member: 2, offset: 512 }));
}

/// An archive in which everything stands that is read by itself, bytes after its end included.
fn everything() -> Vec<u8> {
    let pair = |offset, length| format!("{offset:011o}\0{length:011o}\0");
    let more = [pair(3, 1), pair(6, 1)].concat();
    let old = Block::gnu("old", b'S').size(3).at(386, pair(0, 1)).at(410, pair(1, 0)).at(434, pair(1, 0)).at(458, pair(1, 0));
    let sparse =
        [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9"), ("GNU.sparse.name", b"new")];
    let members = [
        pax(b'g', &[("comment", &[b'x'; 600])]),
        pax(b'x', &[("mtime", b"1.5")]),
        Block::ustar("file", b'0').body([7; 1300]),
        Block::gnu("L", b'L').body("l/".repeat(350) + "l"),
        Block::gnu("l", b'0').seal(),
        [old.at(482, [1]).at(483, format!("{:011o}\0", 9)).seal(), padded(more.as_bytes()), padded(b"abc")].concat(),
        pax(b'x', &sparse),
        Block::ustar("new", b'0').body([padded(b"1\n2\n3\n"), b"abc".to_vec()].concat()),
    ];
    [archive(&members), vec![0; 512], b"more".to_vec()].concat()
}

/// Is interrupted before each piece of at most 512 bytes, and ends with an error where it has one.
struct Pieces<'a>(&'a [u8], Option<i32>, bool);

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.2 = !self.2;
        match (self.2, self.1) {
            (true, _) => Err(std::io::ErrorKind::Interrupted.into()),
            (false, Some(error)) if self.0.is_empty() => Err(std::io::Error::from_raw_os_error(error)),
            _ => (&mut self.0).take(512).read(out),
        }
    }
}

fn read_all(source: impl Read, cx: &Context<'_>) -> Result<Vec<(Entry, usize)>> {
    let mut reader = Reader::new(source, Limits::default(), cx);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut length = 0;
        while let Some(chunk) = reader.chunk()? {
            length += chunk.data.len();
        }
        entries.push((entry, length));
    }
    Ok(entries)
}

#[test]
fn a_source_that_fails_anywhere_is_told_from_a_bad_layer() {
    let bytes = everything();
    let entries = read_all(Pieces(&bytes, None, false), &Context::default()).unwrap();
    assert_eq!(entries, read_all(bytes.as_slice(), &Context::default()).unwrap());
    assert_eq!(
        entries.iter().map(|(entry, length)| (entry.path.depth(), *length)).collect::<Vec<_>>(),
        [(1, 1300), (351, 0), (1, 3), (1, 3)]
    );
    for len in (0..=bytes.len()).step_by(4) {
        let error = read_all(Pieces(&bytes[..len], Some(libc::EIO), false), &Context::default()).unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Io, Some(libc::EIO)), "{len}: {error}");
    }
}

/// Cancels when it was asked so often.
struct Patience(std::sync::atomic::AtomicUsize);

impl Progress for Patience {
    fn is_cancelled(&self) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

#[test]
fn the_caller_can_stop_it_anywhere() {
    let bytes = everything();
    let read = |often: usize| read_all(Pieces(&bytes, None, false), &Context::new(&Patience(often.into())));
    let enough = (0..1000).find(|&often| read(often).is_ok_and(|entries| entries.len() == 4)).unwrap();
    assert!(enough > bytes.len() / 512, "{enough}");
    (0..enough).for_each(|often| assert_eq!(read(often).unwrap_err().kind(), ErrorKind::Cancelled, "{often}"));
}

#[test]
fn a_reader_shows_where_it_stands_and_nothing_of_the_layer() {
    let (cx, bytes) = (Context::default(), archive(&[file("secret")]));
    let mut reader = Reader::new(bytes.as_slice(), Limits::default(), &cx);
    reader.next().unwrap();
    let shown = format!("{reader:?}");
    assert!(shown.contains("member: 1") && !shown.contains("secret"), "{shown}");
}
