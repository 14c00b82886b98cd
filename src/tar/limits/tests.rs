//! Each limit at its figure and one above, lowered; the defaults where they cost little, and those that cost much on request.

use std::io;

use super::*;
use crate::error::ErrorKind::{self, InvalidLayer, LimitExceeded};
use crate::progress::Context;
use crate::tar::Reader;
use crate::tar::testing::{Block, archive, pax, read_with};

fn file(name: &str) -> Vec<u8> {
    Block::ustar(name, b'0').seal()
}

fn named(name: &str) -> Vec<u8> {
    [pax(b'x', &[("path", name.as_bytes())]), file("x")].concat()
}

/// Format 1.0's map of so many empty segments, and its file.
fn segments(count: usize) -> Vec<u8> {
    let mut map = format!("{count}\n{}", "0\n0\n".repeat(count)).into_bytes();
    map.resize(map.len().next_multiple_of(512), 0);
    let records: [(&str, &[u8]); 3] = [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"0")];
    [pax(b'x', &records), Block::ustar("x", b'0').body(map)].concat()
}

fn xattr(bytes: usize) -> Vec<u8> {
    [pax(b'x', &[("SCHILY.xattr.user.a", &vec![1; bytes - 6])]), file("x")].concat()
}

/// A path of `bytes` bytes, in components that a file system takes.
fn long(bytes: usize) -> String {
    (1..=bytes).map(|at| if at % 200 == 0 && at < bytes { '/' } else { 'n' }).collect()
}

fn deep(depth: usize) -> String {
    vec!["d"; depth].join("/")
}

type Set = fn(&mut Limits, usize);
type Row<'a> = (&'a str, &'a dyn Fn(usize) -> Vec<u8>, usize, Set, ErrorKind, &'a str);

#[test]
fn each_limit_takes_its_figure_and_refuses_one_more() {
    let table: [Row<'_>; 12] = [
        ("entries", &|n| file("a").repeat(n), 7, |l, n| l.entries = n as u64, LimitExceeded, "the layer has more than 7 entries"),
        (
            "entries: a global header is one, too",
            &|n| pax(b'g', &[("comment", b"c")]).repeat(n),
            7,
            |l, n| l.entries = n as u64,
            LimitExceeded,
            "the layer has more than 7 entries",
        ),
        ("path-bytes", &|n| named(&long(n)), 300, |l, n| l.path_bytes = n, InvalidLayer, "a path of more than 300 bytes"),
        (
            "path-bytes of what is skipped and kept in the report",
            &|n| named(&format!(".wh..wh.{}", "n".repeat(n - 8))),
            100,
            |l, n| l.path_bytes = n,
            InvalidLayer,
            "a path of more than 100 bytes",
        ),
        (
            "path-bytes of a hardlink's target",
            &|n| Block::ustar("x", b'1').link("n".repeat(n)).seal(),
            50,
            |l, n| l.path_bytes = n,
            InvalidLayer,
            "a path of more than 50 bytes",
        ),
        (
            "path-bytes of a symlink's target",
            &|n| Block::ustar("x", b'2').link("n".repeat(n)).seal(),
            50,
            |l, n| l.path_bytes = n,
            InvalidLayer,
            "a symlink's target of more than 50 bytes",
        ),
        ("path-depth", &|n| named(&deep(n)), 9, |l, n| l.path_depth = n, InvalidLayer, "a path of more than 9 components"),
        (
            "header-bytes of PAX",
            &|n| [pax(b'x', &[("comment", &vec![b'c'; n - 13])]), file("x")].concat(),
            150,
            |l, n| l.header_bytes = n as u64,
            LimitExceeded,
            "an extension header has more than 150 bytes",
        ),
        (
            "header-bytes of a GNU long name",
            &|n| [Block::gnu("L", b'L').body("n".repeat(n)), file("x")].concat(),
            99,
            |l, n| l.header_bytes = n as u64,
            LimitExceeded,
            "an extension header has more than 99 bytes",
        ),
        ("xattr-bytes", &xattr, 500, |l, n| l.xattr_bytes = n, LimitExceeded, "the extended attributes have more than 500 bytes"),
        (
            "sparse segments",
            &segments,
            100,
            |l, n| l.sparse_segments = n,
            LimitExceeded,
            "the file has more than 100 sparse segments",
        ),
        (
            "file-bytes",
            &|n| Block::ustar("x", b'0').body(vec![b'c'; n]),
            600,
            |l, n| l.file_bytes = Some(n as u64),
            LimitExceeded,
            "the file has more than 600 bytes",
        ),
    ];
    for (what, members, figure, set, kind, rule) in table {
        let mut limits = Limits::default();
        set(&mut limits, figure);
        read_with(&archive(&[members(figure)]), limits.clone()).0.unwrap_or_else(|error| panic!("{what}: {error}"));
        let error = read_with(&archive(&[members(figure + 1)]), limits).0.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(error.to_string().ends_with(rule), "{what}: {error}");
        read_with(&archive(&[members(figure + 1)]), Limits::default()).0.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

#[test]
fn bytes_after_the_end_count() {
    let mut layer = archive(&[file("a")]);
    layer.resize(1 << 20, 0);
    let limits = Limits { unpacked_bytes: 1 << 20, ..Limits::default() };
    read_with(&layer, limits.clone()).0.unwrap();
    for byte in [0, 1] {
        let error = read_with(&[layer.as_slice(), &[byte]].concat(), limits.clone()).0.unwrap_err();
        assert_eq!(error.kind(), LimitExceeded);
        assert!(error.to_string().contains("the layer has more than 1048576 bytes uncompressed"), "{error}");
    }
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let expected = Limits {
        entries: 5_000_000,
        unpacked_bytes: 1024 * 1024 * 1024 * 1024,
        path_bytes: 4096,
        path_depth: 1024,
        header_bytes: 1024 * 1024,
        xattr_bytes: 1024 * 1024,
        sparse_segments: 1_000_000,
        file_bytes: None,
        expansion_ratio: None,
    };
    assert_eq!(Limits::default(), expected);
}

#[test]
fn defaults_that_cost_little_hold_as_they_stand() {
    let read = |members: Vec<u8>, raised: fn(&mut Limits)| {
        let mut limits = Limits::default();
        raised(&mut limits);
        read_with(&archive(&[members]), limits).0.map(drop).map_err(|error| error.to_string())
    };
    let same: fn(&mut Limits) = |_| {};
    read(named(&long(4096)), same).unwrap();
    for raised in [same, |limits| limits.path_bytes = 1 << 20] {
        assert!(read(named(&long(4097)), raised).unwrap_err().ends_with("a path of more than 4096 bytes"));
        let bomb = read(named(&deep(100_000)), raised).unwrap_err();
        assert!(bomb.ends_with("a path of more than 4096 bytes") && bomb.len() < 5000, "{bomb}");
    }
    read(named(&deep(1024)), same).unwrap();
    assert!(read(named(&deep(1025)), same).unwrap_err().ends_with("a path of more than 1024 components"));
    let header = |bytes: usize| [pax(b'x', &[("comment", &vec![b'c'; bytes - 17])]), file("x")].concat();
    read(header(1 << 20), same).unwrap();
    assert!(read(header((1 << 20) + 1), same).unwrap_err().ends_with("an extension header has more than 1048576 bytes"));
    // With the default for headers, no xattrs of that many bytes can be said.
    let raised: fn(&mut Limits) = |limits| limits.header_bytes = 2 << 20;
    read(xattr(1 << 20), raised).unwrap();
    assert!(read(xattr((1 << 20) + 1), raised).unwrap_err().ends_with("the extended attributes have more than 1048576 bytes"));
    read(segments(1_000_000), same).unwrap();
    assert!(read(segments(1_000_001), same).unwrap_err().ends_with("the file has more than 1000000 sparse segments"));
}

/// One block again and again, then so many bytes that are whatever was there: nobody looks at what a file that is skipped holds.
struct Repeated {
    block: Vec<u8>,
    times: u64,
    rest: u64,
}

impl io::Read for Repeated {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let blocks = (out.len() / 512).min(usize::try_from(self.times).unwrap());
        if blocks > 0 {
            out[..blocks * 512].chunks_exact_mut(512).for_each(|part| part.copy_from_slice(&self.block));
            self.times -= blocks as u64;
            return Ok(blocks * 512);
        }
        let count = usize::try_from(self.rest).unwrap().min(out.len());
        self.rest -= count as u64;
        Ok(count)
    }
}

fn read_long(block: Vec<u8>, times: u64, rest: u64) -> Result<(), String> {
    let cx = Context::default();
    let mut reader = Reader::new(Repeated { block, times, rest }, Limits::default(), &cx);
    loop {
        match reader.next() {
            Ok(None) => return Ok(()),
            Ok(Some(_)) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[test]
#[ignore = "long: fifteen million headers"]
fn the_default_for_entries_holds_as_it_stands() {
    read_long(file("a"), 5_000_000, 0).unwrap();
    for times in [5_000_001, 10_000_000] {
        assert!(read_long(file("a"), times, 0).unwrap_err().ends_with("the layer has more than 5000000 entries"));
    }
}

#[test]
#[ignore = "long: two tebibytes"]
fn the_default_for_unpacked_bytes_holds_as_it_stands() {
    let sized = |size: u64| Block::ustar("a", b'0').at(124, [&[0x80, 0, 0, 0][..], &size.to_be_bytes()].concat()).seal();
    let most = (1u64 << 40) - 512;
    read_long(sized(most), 1, most).unwrap();
    let error = read_long(sized(most + 1), 1, most + 1).unwrap_err();
    assert!(error.ends_with("the layer has more than 1099511627776 bytes uncompressed"), "{error}");
}
