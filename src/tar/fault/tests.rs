//! Every rule that the reader has, broken once: the message says which member it is, where it stands, its name, and the rule.
//!
//! What a rule says is looked up in the sources, so that a new one without a case here fails.

use std::collections::BTreeSet;

use crate::entry::Position;
use crate::error::{Error, ErrorKind};
use crate::progress::Context;
use crate::tar::testing::{Block, padded, pax, read_with};
use crate::tar::{Limits, Reader};

const SOURCES: [&str; 5] = [
    include_str!("../header.rs"),
    include_str!("../member.rs"),
    include_str!("../pax.rs"),
    include_str!("../reader.rs"),
    include_str!("../sparse.rs"),
];

/// Rules that no archive can break: what stands before them in the code sees to that.
const UNREACHABLE: [&str; 2] = [
    // Offsets and lengths are below 2^63 each.
    "a sparse segment overflows",
    // Said of a reader that goes on after an error: see the last test.
    "the layer was found invalid before",
];

/// The archive, and its limits.
struct Case {
    members: Vec<Vec<u8>>,
    limits: Limits,
    /// The name in the message, escaped; none where there is no header to take one from.
    name: Option<&'static str>,
}

fn case(members: impl IntoIterator<Item = Vec<u8>>) -> Case {
    Case { members: members.into_iter().collect(), limits: Limits::default(), name: Some("n") }
}

impl Case {
    fn limits(mut self, set: impl FnOnce(&mut Limits)) -> Self {
        set(&mut self.limits);
        self
    }

    fn name(self, name: impl Into<Option<&'static str>>) -> Self {
        Self { name: name.into(), ..self }
    }
}

fn file() -> Block {
    Block::ustar("n", b'0')
}

fn records(records: &[(&str, &[u8])]) -> Case {
    case([pax(b'x', records), file().seal()]).name("pax")
}

/// Records that are read, and make no member.
fn merged(given: &[(&str, &[u8])]) -> Case {
    records(given).name("n")
}

fn raw_pax(body: &str) -> Case {
    case([Block::ustar("pax", b'x').body(body), file().seal()]).name("pax")
}

fn octal(number: u64) -> String {
    format!("{number:011o}\0")
}

fn old_sparse(map: &[(u64, u64)]) -> Block {
    let map: String = map.iter().map(|&(offset, length)| octal(offset) + &octal(length)).collect();
    Block::gnu("n", b'S').at(386, map).at(483, octal(2000))
}

fn sparse_0_1(map: &'static str, count: &'static str) -> Case {
    merged(&[("GNU.sparse.size", b"20"), ("GNU.sparse.numblocks", count.as_bytes()), ("GNU.sparse.map", map.as_bytes())])
}

fn sparse_1_0(body: &str) -> Case {
    let version: [(&str, &[u8]); 3] = [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"20")];
    case([pax(b'x', &version), file().body(body)])
}

fn headers() -> Vec<(&'static str, Case)> {
    vec![
        ("a device in a v7 header has no numbers", case([Block::v7("n", b'3').seal()])),
        ("the size is negative", case([file().at(124, [0xff; 12]).seal()])),
        ("the header's checksum is wrong", case([vec![1; 512]]).name(None)),
        ("an extension header in a v7 header", case([Block::v7("n", b'L').body("x")])),
        ("a name prefix in a header that is not ustar", case([Block::v7("n", b'0').prefix("p").seal()])),
        ("a name prefix that ustar and star read differently", case([file().prefix("p".repeat(140)).at(508, "tar\0").seal()])),
        ("the mode is negative", case([file().at(100, [0xff; 8]).seal()])),
        ("the size overflows", case([file().at(124, b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff").seal()])),
        ("the mtime is neither octal nor base 256", case([file().at(136, b"\x81").seal()])),
        ("the uid is no number", case([file().at(108, b"7_7").seal()])),
        ("a sparse member that is not in GNU's format", case([Block::ustar("n", b'S').seal()])),
        ("the real size is negative", case([Block::gnu("n", b'S').at(483, [0xff; 12]).seal()])),
    ]
}

fn members() -> Vec<(&'static str, Case)> {
    let link = |flag, target: &str| case([Block::ustar("n", flag).link(target).seal()]);
    let long = "d".repeat(200) + "/";
    vec![
        (
            "a GNU long name and a PAX path for one member",
            case([Block::gnu("L", b'L').body("l"), pax(b'x', &[("path", b"p")]), file().seal()]),
        ),
        (
            "a GNU long link and a PAX linkpath for one member",
            case([Block::gnu("K", b'K').body("l"), pax(b'x', &[("linkpath", b"p")]), file().seal()]),
        ),
        ("a member that can have no content has a size", case([Block::ustar("n", b'5').size(1).seal()])),
        (
            "GNU.sparse records on a member that is no regular file",
            case([
                pax(b'x', &[("GNU.sparse.size", b"0"), ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"0,0")]),
                Block::ustar("n", b'5').seal(),
            ]),
        ),
        (
            "PAX and the header name different devices",
            case([pax(b'x', &[("SCHILY.devminor", b"2")]), Block::ustar("n", b'3').at(337, "0000001\0").seal()]),
        ),
        (
            "PAX and the header name different devices",
            case([pax(b'x', &[("SCHILY.devmajor", b"2")]), Block::ustar("n", b'3').at(329, "0000001\0").seal()]),
        ),
        ("the root must be a directory", case([Block::ustar("./", b'6').seal()]).name("./")),
        ("a regular file whose name ends in \"/\"", case([Block::ustar("n/", b'0').seal()]).name("n/")),
        ("the file has more than 600 bytes", case([file().body([1; 601])]).limits(|limits| limits.file_bytes = Some(600))),
        ("a symlink's target is empty or has a NUL byte", link(b'2', "")),
        ("a symlink's target of more than 6 bytes", link(b'2', "a/b/c/d").limits(|limits| limits.path_bytes = 6)),
        ("the hardlink's target: a path must not contain \"..\"", link(b'1', "../x")),
        ("a hardlink to the root, or to nothing", link(b'1', "/")),
        ("the character device 0:0 is overlayfs's whiteout", case([Block::ustar("n", b'3').seal()])),
        ("a device number that the kernel cannot hold", case([Block::ustar("n", b'4').at(329, "7777777\0").seal()])),
        ("unknown type flag '\\xff'", case([Block::ustar("n", 0xff).seal()])),
        ("the gid is negative or above 4294967294", case([file().at(116, [0xff; 8]).seal()])),
        ("a name of more than 255 bytes", records(&[("path", &[b'x'; 256])]).name(None)),
        ("a path of more than 4096 bytes", records(&[("path", (long.repeat(21) + "n").as_bytes())]).name(None)),
        ("a path of more than 1 components", merged(&[("path", b"a/n")]).limits(|limits| limits.path_depth = 1).name("a/n")),
        // What names and markers may not be.
        ("a path must not contain \"..\"", case([Block::ustar("a/../\nb", b'0').seal()]).name("a/../\\nb")),
        ("a whiteout must name something", case([Block::ustar("a/.wh...", b'0').seal()]).name("a/.wh...")),
        ("a directory's name must not begin with \".wh.\"", case([Block::ustar(".wh.a/b", b'0').seal()]).name(".wh.a/b")),
    ]
}

fn extensions() -> Vec<(&'static str, Case)> {
    vec![
        ("star's sparse files are not supported", records(&[("SCHILY.realsize", b"5")])),
        ("an extended attribute without a name", records(&[("SCHILY.xattr.", b"v")])),
        (
            "the extended attributes have more than 3 bytes",
            records(&[("SCHILY.xattr.ab", b"cd")]).limits(|limits| limits.xattr_bytes = 3),
        ),
        ("a NUL byte in a PAX path or name", records(&[("path", b"a\0")])),
        ("a PAX global header sets uid", case([pax(b'g', &[("uid", b"0")])]).name("pax")),
        ("a PAX record with a bad length", raw_pax("9 a=b\n")),
        ("a PAX record without a newline at its end", raw_pax("5 a=b")),
        ("a PAX record without \"=\"", raw_pax("5 ab\n")),
        ("a PAX record with an empty keyword, or one with a NUL byte", raw_pax("5 =b\n")),
        ("the size is no number, or too large", records(&[("size", b"-1")])),
        ("the mtime is no time, or out of range", records(&[("mtime", b"x")])),
        ("a NUL byte in a PAX path or name", records(&[("GNU.sparse.name", b"a\0")])),
        ("an empty GNU long name", case([Block::gnu("L", b'L').body("\0"), file().seal()]).name("L")),
        (
            "two GNU long names before one member",
            case([Block::gnu("L", b'L').body("a"), Block::gnu("L", b'L').body("a")]).name("L"),
        ),
        ("an extension header has more than 4 bytes", raw_pax("6 a=b\n").limits(|limits| limits.header_bytes = 4)),
        (
            "a PAX global header between a member and its extension headers",
            case([Block::gnu("L", b'L').body("a"), pax(b'g', &[("comment", b"")])]).name("pax"),
        ),
        ("extension headers without a member after them", case([pax(b'x', &[("path", b"p")])]).name("pax")),
    ]
}

fn ends() -> Vec<(&'static str, Case)> {
    let cut = |member: Vec<u8>, end: usize| case([member[..end].to_vec()]);
    vec![
        ("the archive ends inside a header", cut(file().seal(), 511).name(None)),
        ("the archive ends inside an extension header", cut(pax(b'x', &[("path", b"p")]), 1023).name("pax")),
        ("the archive ends inside a member", cut(file().body("abc"), 600)),
        (
            "the archive ends inside a sparse map",
            cut(
                old_sparse(&[(0, 1)])
                    .at(410, octal(1) + &octal(1))
                    .at(434, octal(2) + &octal(1))
                    .at(458, octal(3) + &octal(1))
                    .at(482, [1])
                    .size(4)
                    .seal(),
                512,
            ),
        ),
        ("a single block of zeros with data after it", case([vec![0; 512], file().seal()]).name(None)),
        ("the archive ends inside its last block", case([vec![0; 700]]).name(None)),
        ("the layer has more than 1 entries", case([file().seal()]).limits(|limits| limits.entries = 1).name(None)),
    ]
}

fn sparse() -> Vec<(&'static str, Case)> {
    vec![
        ("the sparse map's segments overlap or are not sorted", sparse_0_1("5,0,4,0", "2")),
        ("a sparse segment lies beyond the end of the file", sparse_0_1("21,0", "1")),
        ("the sparse map's segments do not add up to the stored bytes", sparse_0_1("5,1", "1")),
        (
            "the file has more than 1 sparse segments",
            case([old_sparse(&[(0, 0), (1, 0)]).seal()]).limits(|limits| limits.sparse_segments = 1),
        ),
        (
            "the file has more than 0 sparse segments",
            sparse_0_1("0,0", "1").limits(|limits| limits.sparse_segments = 0).name("pax"),
        ),
        ("a sparse map that ends before its last block", case([old_sparse(&[]).at(482, [1]).seal()])),
        ("half a sparse segment", case([Block::gnu("n", b'S').at(386, octal(5)).seal()])),
        ("a sparse segment is negative", case([Block::gnu("n", b'S').at(386, [0xff; 24]).seal()])),
        ("two offsets of sparse segments in a row", records(&[("GNU.sparse.offset", b"1"), ("GNU.sparse.offset", b"1")])),
        ("the length of a sparse segment without its offset", records(&[("GNU.sparse.numbytes", b"1")])),
        ("unknown PAX record GNU.sparse.x", records(&[("GNU.sparse.x", b"1")])),
        ("GNU.sparse records that make no sparse file", merged(&[("GNU.sparse.size", b"1")])),
        ("the number of sparse segments is not what the header says", sparse_0_1("0,0", "2")),
        ("a sparse map without an end", sparse_1_0("")),
        ("a number in a sparse map is too long", sparse_1_0(&"0".repeat(512))),
    ]
}

#[test]
fn every_rule_is_told_with_the_member_its_place_and_its_name() {
    let cases: Vec<_> = [headers(), members(), extensions(), ends(), sparse()].into_iter().flatten().collect();
    // A member before it, of three blocks: the broken one is the second.
    let before = [Block::ustar("before", b'0').body([1; 600])].concat();
    let (mut told, mut failed) = (BTreeSet::new(), Vec::new());
    for (rule, Case { members, limits, name }) in cases {
        let bytes = [before.clone(), members.concat()].concat();
        let error = read_with(&bytes, limits).0.expect_err(rule);
        assert!(matches!(error.kind(), ErrorKind::InvalidLayer | ErrorKind::LimitExceeded), "{rule}: {error}");
        let text = error.to_string();
        let place = Position { member: 2, offset: 1536 };
        let named = match name {
            Some(name) => text.starts_with(&format!("read layer {name}: {place}: {rule}")),
            None => text.contains(&format!(": {place}: {rule}")),
        };
        if !named {
            failed.push(format!("{rule}: {text}"));
        }
        told.extend(error.reason().and_then(|reason| reason.split_once(": ")).map(|(_, rule)| rule.to_owned()));
    }
    let known =
        |pattern: &Vec<String>| UNREACHABLE.contains(&pattern.concat().as_str()) || told.iter().any(|rule| matches(rule, pattern));
    failed.extend(
        SOURCES
            .into_iter()
            .flat_map(patterns)
            .filter(|pattern| !known(pattern))
            .map(|pattern| format!("no case breaks {pattern:?}")),
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// What [`Fault`](super::Fault)s say, as the pieces between what is filled in.
fn patterns(source: &'static str) -> Vec<Vec<String>> {
    let starts = ["Fault::new(\"", "Fault::new(format!(\"", "Fault::limit(\"", "Fault::limit(format!(\""];
    let texts = starts.iter().flat_map(|start| source.match_indices(start).map(|(at, _)| &source[at + start.len()..]));
    let texts = texts.map(|text| {
        let quote = text.match_indices('"').find(|(at, _)| !text[..*at].ends_with('\\')).unwrap().0;
        text[..quote].replace("\\\"", "\"")
    });
    texts.map(|text| text.split(['{', '}']).step_by(2).map(str::to_owned).collect()).collect()
}

fn matches(rule: &str, pattern: &[String]) -> bool {
    let mut rest = rule;
    for (index, piece) in pattern.iter().enumerate() {
        match rest.find(piece.as_str()) {
            Some(0) => rest = &rest[piece.len()..],
            Some(at) if index > 0 => rest = &rest[at + piece.len()..],
            _ => return false,
        }
    }
    true
}

#[test]
fn rules_are_found_in_the_sources() {
    let found: Vec<_> = SOURCES.into_iter().flat_map(patterns).collect();
    assert!(found.len() > 70, "{found:?}");
    assert!(matches("the uid overflows", &["the ".to_owned(), " overflows".to_owned()]));
    assert!(!matches("the uid is no number", &["the ".to_owned(), " overflows".to_owned()]));
}

/// A source that fails like a decoder: with an error of its own kind, after some bytes.
struct Damaged(Vec<u8>);

impl std::io::Read for Damaged {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() {
            return Err(Error::new(ErrorKind::InvalidLayer, "decompress layer").because("gzip: the stream is truncated").into());
        }
        let count = self.0.len().min(out.len());
        out[..count].copy_from_slice(&self.0[..count]);
        self.0.drain(..count);
        Ok(count)
    }
}

#[test]
fn what_is_wrong_below_the_archive_is_told_with_the_member_too() {
    let first = file().body([1; 600]);
    for (bytes, name, member, offset) in [
        (vec![], None, 1, 0),
        (first[..512].to_vec(), Some("n"), 1, 0),
        (first.clone(), None, 2, 1536),
        ([first.clone(), vec![0; 1024]].concat(), None, 2, 1536),
        ([first, padded(&file().seal())[..100].to_vec()].concat(), None, 2, 1536),
    ] {
        let cx = Context::default();
        let mut reader = Reader::new(Damaged(bytes), Limits::default(), &cx);
        let error = loop {
            match reader.next().and_then(|entry| if entry.is_some() { reader.chunk().map(drop) } else { Ok(()) }) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        let name = name.map(|name| format!(" {name}")).unwrap_or_default();
        let place = Position { member, offset };
        assert_eq!(error.to_string(), format!("read layer{name}: {place}: gzip: the stream is truncated"));
        assert_eq!(error.kind(), ErrorKind::InvalidLayer);
        let again = reader.next().unwrap_err();
        assert_eq!(again.to_string(), format!("read layer{name}: {place}: the layer was found invalid before"));
    }
}
