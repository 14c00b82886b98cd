//! Names, types and markers.

use crate::entry::{Change, Entry, Node};
use crate::progress::Reason;
use crate::tar::Limits;
use crate::tar::testing::{Block, archive, invalid, one, pax, read, read_with};

fn node(entry: Entry) -> Node {
    match entry.change {
        Change::Upsert { node, .. } => node,
        change => panic!("{change:?}"),
    }
}

/// A member whose name is in a PAX record, so that it may have any length.
fn named(name: impl AsRef<[u8]>, flag: u8) -> Vec<Vec<u8>> {
    vec![pax(b'x', &[("path", name.as_ref())]), Block::ustar("x", flag).link("target").seal()]
}

#[test]
fn every_type_flag_has_its_node() {
    for (flag, expected) in [
        (0, Node::File { size: 0 }),
        (b'0', Node::File { size: 0 }),
        (b'7', Node::File { size: 0 }),
        (b'2', Node::Symlink { target: b"t".to_vec() }),
        (b'1', Node::Hardlink { target: crate::path::EntryPath::parse("t").unwrap() }),
        (b'3', Node::CharDevice { major: 1, minor: 3 }),
        (b'4', Node::BlockDevice { major: 1, minor: 3 }),
        (b'5', Node::Directory),
        (b'6', Node::Fifo),
    ] {
        for block in [Block::ustar("n", flag), Block::gnu("n", flag)] {
            let block = block.link("t").at(329, b"0000001\0").at(337, b"0000003\0").seal();
            assert_eq!(node(one(&[block])), expected, "{}", flag.escape_ascii());
        }
    }
}

#[test]
fn unknown_type_flags_are_refused() {
    for flag in (1..=255u8).filter(|flag| !b"01234567gxLKS".contains(flag)) {
        assert!(invalid(&[Block::ustar("n", flag).seal()]).contains("type flag"), "{}", flag.escape_ascii());
    }
}

#[test]
fn a_trailing_slash_makes_a_directory_of_nul_and_an_error_of_files() {
    assert_eq!(node(one(&[Block::v7("d/", 0).seal()])), Node::Directory);
    assert_eq!(node(one(&[Block::ustar("d/", b'5').seal()])), Node::Directory);
    assert_eq!(node(one(&[Block::ustar("d/", b'2').link("t").seal()])), Node::Symlink { target: b"t".to_vec() });
    assert_eq!(node(one(&[pax(b'x', &[("path", b"d/")]), Block::ustar("d", 0).seal()])), Node::Directory);
    for flag in [b'0', b'7'] {
        invalid(&[Block::ustar("d/", flag).seal()]);
    }
    invalid(&[Block::v7("d/", 0).body(b"x")]);
}

#[test]
fn types_without_content_with_a_size_are_refused() {
    for flag in *b"123456" {
        let block = |size| Block::ustar("n", flag).link("t").at(337, b"0000003\0").size(size);
        assert!(invalid(&[block(1).seal(), vec![0; 512]]).contains("no content"), "{}", flag as char);
        invalid(&[block(512).seal()]);
        invalid(&[pax(b'x', &[("size", b"512")]), block(0).seal(), vec![0; 512]]);
        one(&[pax(b'x', &[("size", b"0")]), block(0).seal()]);
    }
}

#[test]
fn names_of_every_length_up_to_the_limits() {
    let (at, over) = ("n".repeat(255), "n".repeat(256));
    assert_eq!(one(&named(&at, b'0')).path.as_bytes(), at.as_bytes());
    invalid(&named(&over, b'0'));
    invalid(&named(format!("{over}/x"), b'5'));
    assert_eq!(one(&named(format!(".wh.{at}"), b'0')).path.as_bytes(), at.as_bytes(), "259 bytes");
    invalid(&named(format!(".wh.{over}"), b'0'));

    let longest = "d/".repeat(1023) + &"n".repeat(255);
    one(&named(&longest, b'0'));
    assert!(invalid(&named("d/".repeat(1024) + "n", b'0')).contains("components"));
    let bytes = ("d".repeat(254) + "/").repeat(16) + &"n".repeat(16);
    assert_eq!(bytes.len(), 4096);
    one(&named(&bytes, b'0'));
    assert!(invalid(&named(bytes + "n", b'0')).contains("4096 bytes"));
}

#[test]
fn header_fields_need_no_nul_when_they_are_full() {
    for len in [99, 100] {
        let name = "n".repeat(len);
        let entry = one(&[Block::ustar(&name, b'2').link(&name).seal()]);
        assert_eq!(entry.path.as_bytes(), name.as_bytes());
        assert_eq!(node(entry), Node::Symlink { target: name.into_bytes() });
    }
    let prefix = "p".repeat(77) + "/" + &"q".repeat(77);
    let entry = one(&[Block::ustar("n".repeat(100), b'0').prefix(&prefix).seal()]);
    assert_eq!(entry.path.as_bytes().len(), 256);
}

#[test]
fn names_are_bytes() {
    let name = b"\xff\xfe \n\x1b[31m\\";
    assert_eq!(one(&named(name, b'0')).path.as_bytes(), name);
    assert_eq!(one(&[Block::ustar(name, b'0').seal()]).path.as_bytes(), name);
}

#[test]
fn spellings_of_a_path_are_one_path() {
    for name in ["a/b", "/a/b", "./a/b", "//a///./b", "a/b/."] {
        assert_eq!(one(&[Block::ustar(name, b'5').seal()]).path.as_bytes(), b"a/b", "{name}");
    }
}

#[test]
fn parent_components_are_refused() {
    for name in ["..", "../a", "a/..", "a/../b", "/..", ".wh.a/..", "../.wh.a"] {
        invalid(&[Block::ustar(name, b'0').seal()]);
        invalid(&[Block::ustar("link", b'1').link(name).seal()]);
    }
    assert_eq!(node(one(&[Block::ustar("l", b'2').link("../..").seal()])), Node::Symlink { target: b"../..".to_vec() });
}

#[test]
fn the_root_is_a_directory() {
    for name in ["", ".", "./", "/", ".//."] {
        let entry = one(&[Block::ustar(name, b'5').seal()]);
        assert!(entry.path.is_root() && node(entry) == Node::Directory, "{name}");
        for flag in *b"012346" {
            invalid(&[Block::ustar(name, flag).link("t").at(337, b"0000003\0").seal()]);
        }
    }
}

#[test]
fn hardlink_targets_are_paths_in_the_root() {
    for target in ["a/b", "/a/b", "./a//b/"] {
        let Node::Hardlink { target: found } = node(one(&[Block::ustar("l", b'1').link(target).seal()])) else { panic!() };
        assert_eq!(found.as_bytes(), b"a/b");
    }
    for target in ["", ".", "/"] {
        invalid(&[Block::ustar("l", b'1').link(target).seal()]);
    }
}

#[test]
fn symlink_targets_are_kept_as_they_are() {
    let long = vec![b't'; 4095];
    let link = |target: &[u8]| vec![pax(b'x', &[("linkpath", target)]), Block::ustar("l", b'2').link("t").seal()];
    for target in [b"/abs/".as_slice(), b"./a/../b", b" ", &long] {
        assert_eq!(node(one(&link(target))), Node::Symlink { target: target.to_vec() });
    }
    invalid(&link(&[b't'; 4096]));
    invalid(&[Block::ustar("l", b'2').seal()]);
}

#[test]
fn devices_are_what_the_kernel_can_hold() {
    let device = |flag, major: &str, minor: &str| vec![Block::ustar("d", flag).at(329, major).at(337, minor).seal()];
    assert_eq!(node(one(&device(b'3', "0007777\0", "3777777\0"))), Node::CharDevice { major: 4095, minor: 1_048_575 });
    invalid(&device(b'3', "0010000\0", "0000000\0"));
    invalid(&device(b'4', "0000001\0", "4000000\0"));
    assert_eq!(node(one(&device(b'4', "0000000\0", "0000000\0"))), Node::BlockDevice { major: 0, minor: 0 });
    assert!(invalid(&device(b'3', "0000000\0", "0000000\0")).contains("overlayfs"));
    assert!(invalid(&[Block::v7("d", b'3').at(329, "0000001\0").seal()]).contains("v7"));
    // star and libarchive would take the PAX numbers, Go the header's.
    invalid(&[vec![pax(b'x', &[("SCHILY.devmajor", b"5")])], device(b'3', "0000001\0", "0000003\0")].concat());
    one(&[vec![pax(b'x', &[("SCHILY.devmajor", b"1")])], device(b'3', "0000001\0", "0000003\0")].concat());
}

#[test]
fn markers_are_markers_whatever_their_type() {
    for (name, path, change) in [
        (".wh.a", "a", Change::Whiteout),
        ("d/.wh.a", "d/a", Change::Whiteout),
        ("./d//.wh.a/", "d/a", Change::Whiteout),
        (".wh..wh..opq", "", Change::Opaque),
        ("d/.wh..wh..opq", "d", Change::Opaque),
        ("d/.wh..wh.", "", Change::Whiteout),
    ] {
        for flag in [0, b'0', b'1', b'2', b'3', b'5', b'6', b'7'] {
            let block = Block::ustar(name, flag).link(".wh..wh.plnk/x").seal();
            if name == "d/.wh..wh." {
                let (result, report) = read_with(&archive(&[block]), Limits::default());
                assert!(result.unwrap().is_empty());
                assert_eq!(report.skipped[0].reason, Reason::AufsMetadata);
            } else {
                let entry = one(&[block]);
                assert_eq!((entry.path.as_bytes(), &entry.change), (path.as_bytes(), &change), "{name} {}", flag.escape_ascii());
            }
        }
    }
    let entries = read(&archive(&[Block::ustar(".wh.a", b'0').body(b"content"), Block::ustar("b", b'0').seal()])).unwrap();
    assert_eq!(entries.len(), 2, "a whiteout with content");
}

#[test]
fn markers_that_name_a_directory_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh...", ".wh.a/b", "d/.wh.a/.wh.b", ".wh..wh..opq/a"] {
        invalid(&[Block::ustar(name, b'0').seal()]);
    }
}

#[test]
fn aufs_metadata_is_skipped_but_for_the_inodes_of_hardlinks() {
    let names = [".wh..wh.plnk/", ".wh..wh.plnk/1.2", ".wh..wh.aufs", ".wh..wh.orph/3", "d/.wh..wh.plnk/4", "kept"];
    let members: Vec<_> =
        names.iter().map(|name| Block::ustar(name, if name.ends_with('/') { b'5' } else { b'0' }).seal()).collect();
    let (result, report) = read_with(&archive(&members), Limits::default());
    let paths: Vec<_> = result.unwrap().into_iter().map(|(entry, _)| entry.path.to_string()).collect();
    assert_eq!(paths, [".wh..wh.plnk/1.2", "kept"]);
    let skipped: Vec<_> = report.skipped.iter().map(|skipped| skipped.path.as_str()).collect();
    assert_eq!(skipped, [".wh..wh.plnk", ".wh..wh.aufs", ".wh..wh.orph/3", "d/.wh..wh.plnk/4"]);
    assert!(report.skipped.iter().all(|skipped| skipped.reason == Reason::AufsMetadata));
}
