use super::*;
use crate::entry::{Change, EntryStream as _, Node};
use crate::error::ErrorKind;

/// What another tar reader makes of the archive: names, flags, sizes, mtimes.
fn read_back(layer: &Layer) -> Vec<(Vec<u8>, u8, u64, u64)> {
    let tar = layer.tar();
    let mut archive = ::tar::Archive::new(tar.as_slice());
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let header = entry.header();
        (entry.path_bytes().into_owned(), header.entry_type().as_byte(), entry.size(), header.mtime().unwrap())
    });
    entries.collect()
}

#[test]
fn another_reader_finds_the_members() {
    let long = "n".repeat(150);
    let layer =
        Layer::new().dir("d", 0o755).file(&long, "text").file(&long, "").form(Form::Gnu).symlink("s", &long).whiteout("d/w");
    let time = 1_000_000_000;
    let expected = [
        (b"d/".to_vec(), b'5', 0, time),
        (long.clone().into_bytes(), b'0', 4, time),
        (long.into_bytes(), b'0', 0, time),
        (b"s".to_vec(), b'2', 0, time),
        (b"d/.wh.w".to_vec(), b'0', 0, 0),
    ];
    assert_eq!(read_back(&layer), expected);
}

#[test]
fn times_before_1970_are_decimal_fractions() {
    let tar = Layer::new().file("a", "").mtime(-1, 500_000_000).tar();
    assert!(tar.windows(19).any(|bytes| bytes == b"22 mtime=-0.5000000"), "{}", tar.escape_ascii());
    assert!(Layer::new().file("a", "").mtime(-2, 0).tar().windows(11).any(|bytes| bytes == b"12 mtime=-2"));
}

#[test]
fn markers_are_told_by_their_names() {
    let of = |name: &str| Layer::new().member(name, b'0').entries().unwrap();
    let change = |name: &str| of(name).pop().map(|read| (read.entry.path, read.entry.change));
    assert_eq!(change("a/.wh.b"), Some((literal_path("a/b"), Change::Whiteout)));
    assert_eq!(change(".wh..wh..opq"), Some((literal_path(""), Change::Opaque)));
    assert_eq!(change("a/.wh..wh..opq"), Some((literal_path("a"), Change::Opaque)));
    assert_eq!(change("a/.wh..wh.aufs"), None);
    assert_eq!(change(".wh..wh.aufs/a"), None);
    assert_eq!(change(".wh..wh.plnk"), None);
    assert_eq!(change(".wh..wh"), Some((literal_path(".wh"), Change::Whiteout)));
    assert_eq!(change(".wh...x"), Some((literal_path("..x"), Change::Whiteout)));
    assert!(matches!(change(".wh..wh.plnk/1.2"), Some((_, Change::Upsert { .. }))));
    let longest = "n".repeat(255);
    assert_eq!(change(&format!(".wh.{longest}")), Some((literal_path(&longest), Change::Whiteout)));
    for flag in [b'1', b'2', b'5', b'6', b'7', 0] {
        let entries = Layer::new().member("a/.wh.b/", flag).link("x").entries().unwrap();
        assert_eq!(entries.first().map(|read| &read.entry.change), Some(&Change::Whiteout), "{flag}");
    }
}

#[test]
fn names_that_mean_harm_are_refused() {
    let long = "n".repeat(256);
    let whiteout = format!(".wh.{long}");
    for name in [".wh.", "a/.wh..", ".wh...", "../a", "a/../b", ".wh.a/b", "a/.wh..wh..opq/b", &long, &whiteout] {
        let error = Layer::new().member(name, b'0').entries().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{name}");
    }
    assert!(Layer::new().hardlink("a", "../b").entries().is_err());
    assert!(Layer::new().char_device("a", 0, 0).entries().is_err());
    assert!(Layer::new().fifo("a").content("x").entries().is_err());
    assert!(Layer::new().member("a", b'V').entries().is_err());
}

#[test]
fn a_stream_has_holes_and_can_begin_again() {
    let mut content = vec![0; 2 * 4096];
    content.extend_from_slice(b"end");
    let mut stream = Layer::new().file("a", &content).fifo("p").stream().unwrap();
    for _ in 0..2 {
        let entry = stream.next().unwrap().unwrap();
        assert!(matches!(entry.change, Change::Upsert { node: Node::File { size: 8195 }, .. }));
        let chunk = stream.chunk().unwrap().unwrap();
        assert_eq!((chunk.offset, chunk.data), (8192, &b"end"[..]));
        assert_eq!(stream.chunk().unwrap(), None);
        stream.next().unwrap().unwrap();
        assert_eq!(stream.chunk().unwrap(), None);
        assert_eq!(stream.next().unwrap(), None);
        stream.restart().unwrap();
    }
}

#[test]
fn a_layer_prints_as_it_is_written() {
    let layer =
        Layer::new().dir("d", 0o700).file("d/f", "x").mode(0o600).whiteout("d/w").opaque("d").symlink("s", "d").hardlink("h", "s");
    let text = "Layer::new().dir(\"d\", 0o700).file(\"d/f\", \"x\").mode(0o600).whiteout(\"d/w\").opaque(\"d/\").symlink(\"s\", \"d\")\
                .hardlink(\"h\", \"s\")";
    assert_eq!(format!("{layer:?}"), text);
}
