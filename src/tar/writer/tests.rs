use super::*;
use crate::tar::testing::read;

fn path(text: impl AsRef<[u8]>) -> EntryPath {
    EntryPath::parse(text).unwrap()
}

fn upsert(name: impl AsRef<[u8]>, node: Node) -> Entry {
    Entry { path: path(name), change: Change::Upsert { node, attributes: Attributes::implied() } }
}

fn with(name: impl AsRef<[u8]>, change: impl FnOnce(&mut Attributes)) -> Entry {
    let mut attributes = Attributes::implied();
    change(&mut attributes);
    Entry { path: path(name), change: Change::Upsert { node: Node::Directory, attributes } }
}

fn write(entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for entry in entries {
        writer.entry(entry, Status::Added).unwrap();
    }
    writer.finish().unwrap()
}

/// An archive of one entry, and what it is read as.
fn round(entry: Entry) -> Vec<u8> {
    let archive = write(std::slice::from_ref(&entry));
    let back = read(&archive).unwrap();
    assert_eq!(back.len(), 1);
    assert_eq!(back[0].0, entry);
    archive
}

/// The type flags of the blocks of an archive without contents: `x` is a PAX header.
fn has_pax(archive: &[u8]) -> bool {
    archive[156] == b'x'
}

/// The records of the PAX header at the start of an archive.
fn records(archive: &[u8]) -> String {
    assert!(has_pax(archive));
    let size = usize::from_str_radix(std::str::from_utf8(&archive[124..135]).unwrap(), 8).unwrap();
    String::from_utf8(archive[512..512 + size].to_vec()).unwrap()
}

#[test]
fn every_kind_of_change_is_read_back() {
    let mut entries = vec![
        upsert("", Node::Directory),
        upsert("dir", Node::Directory),
        upsert("dir/link", Node::Symlink { target: b"../x y".to_vec() }),
        upsert("dir/hard", Node::Hardlink { target: path("dir/link") }),
        upsert("dir/char", Node::CharDevice { major: 4095, minor: 1_048_575 }),
        upsert("dir/block", Node::BlockDevice { major: 8, minor: 1 }),
        upsert("dir/fifo", Node::Fifo),
        upsert("dir/empty", Node::File { size: 0 }),
        Entry { path: path("dir/gone"), change: Change::Whiteout },
        Entry { path: path("gone"), change: Change::Whiteout },
        Entry { path: path("dir"), change: Change::Opaque },
        Entry { path: path(""), change: Change::Opaque },
    ];
    for Entry { change, .. } in &mut entries {
        if let Change::Upsert { attributes, .. } = change {
            *attributes = Attributes { mode: 0o7751, uid: 5, gid: 6, mtime: Timestamp::from_seconds(7), ..Attributes::implied() };
        }
    }
    let archive = write(&entries);
    assert_eq!(archive.len(), (entries.len() + 2) * 512, "nothing of this needs PAX");
    let back: Vec<Entry> = read(&archive).unwrap().into_iter().map(|(entry, _)| entry).collect();
    assert_eq!(back, entries);
}

#[test]
fn a_header_block_is_exactly_this() {
    let file = with("etc/motd", |attributes| {
        *attributes =
            Attributes { mode: 0o4755, uid: 1000, gid: 100, mtime: Timestamp::from_seconds(1_700_000_000), ..attributes.clone() };
    });
    let mut expected = [0u8; 512];
    expected[..9].copy_from_slice(b"etc/motd/");
    expected[100..108].copy_from_slice(b"0004755\0");
    expected[108..116].copy_from_slice(b"0001750\0");
    expected[116..124].copy_from_slice(b"0000144\0");
    expected[124..136].copy_from_slice(b"00000000000\0");
    expected[136..148].copy_from_slice(b"14524770400\0");
    expected[156] = b'5';
    expected[257..265].copy_from_slice(b"ustar\x0000");
    expected[329..345].copy_from_slice(b"0000000\x000000000\0");
    let sum: u32 = expected.iter().map(|&byte| u32::from(byte)).sum::<u32>() + 8 * 32;
    expected[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let archive = write(&[file]);
    assert_eq!(archive[..512].escape_ascii().to_string(), expected.escape_ascii().to_string());
    assert_eq!(archive[512..], [0; 1024]);
}

#[test]
fn a_whiteout_is_an_empty_file_of_nobody() {
    let archive = write(&[Entry { path: path("d/gone"), change: Change::Whiteout }]);
    assert_eq!(&archive[..11], b"d/.wh.gone\0");
    assert_eq!(&archive[100..148], b"0000000\x000000000\x000000000\x0000000000000\x0000000000000\0");
    assert_eq!(archive[156], b'0');
}

#[test]
fn the_root_is_written_as_a_dot() {
    assert_eq!(&round(upsert("", Node::Directory))[..3], b"./\0");
}

#[test]
fn names_use_the_prefix_before_pax() {
    // As files: no trailing slash.
    let file = |name: &str| round(upsert(name, Node::File { size: 0 }));
    for (name, pax) in [
        ("n".repeat(99), false),
        ("n".repeat(100), false),
        ("n".repeat(101), true),
        (format!("{}/{}", "p".repeat(155), "n".repeat(100)), false),
        (format!("{}/{}", "p".repeat(154), "n".repeat(101)), true),
        (format!("p/{}", "n".repeat(100)), false),
        (format!("p/{}", "n".repeat(101)), true),
        (format!("{}/{}", "p".repeat(156), "n".repeat(99)), true),
        (format!("{}/q/{}", "p".repeat(153), "n".repeat(100)), false),
        (format!("{}/{}", "p".repeat(100), "q/".repeat(76) + "n"), false),
        (format!("{}/{}", "p".repeat(100), "q/".repeat(77) + "n"), true),
        ("\u{e4}\u{f6}".repeat(25), false),
    ] {
        assert_eq!(has_pax(&file(&name)), pax, "{name}");
    }
    // As directories: the slash counts, and is never the one that parts the fields.
    let directory = |name: &str| round(upsert(name, Node::Directory));
    for (name, pax) in [
        ("n".repeat(99), false),
        ("n".repeat(100), true),
        (format!("{}/{}", "p".repeat(155), "n".repeat(99)), false),
        (format!("{}/{}", "p".repeat(155), "n".repeat(100)), true),
    ] {
        assert_eq!(has_pax(&directory(&name)), pax, "{name}");
    }
    assert_eq!(records(&file(&"n".repeat(101))), format!("111 path={}\n", "n".repeat(101)));
    assert!(has_pax(&round(Entry { path: path("n".repeat(255)), change: Change::Whiteout })));
}

#[test]
fn link_targets_of_every_length() {
    for (len, pax) in [(1, false), (100, false), (101, true), (4095, true)] {
        assert_eq!(has_pax(&round(upsert("l", Node::Symlink { target: vec![b't'; len] }))), pax, "{len}");
    }
    for (len, pax) in [(100, false), (101, true)] {
        assert_eq!(has_pax(&round(upsert("l", Node::Hardlink { target: path("t".repeat(len)) }))), pax, "{len}");
    }
}

#[test]
fn pax_records_say_only_what_ustar_cannot() {
    let time = |seconds, nanoseconds| with("d", |attributes| attributes.mtime = Timestamp { seconds, nanoseconds });
    for (entry, expected) in [
        (with("d", |attributes| attributes.uid = 2_097_151), None),
        (with("d", |attributes| attributes.uid = 2_097_152), Some("15 uid=2097152\n")),
        (with("d", |attributes| attributes.gid = u32::MAX - 1), Some("18 gid=4294967294\n")),
        (time(0, 0), None),
        (time(8_589_934_591, 0), None),
        (time(8_589_934_592, 0), Some("20 mtime=8589934592\n")),
        (time(-1, 0), Some("12 mtime=-1\n")),
        (time(5, 1), Some("21 mtime=5.000000001\n")),
        (time(-1, 500_000_000), Some("14 mtime=-0.5\n")),
        (
            with("d", |attributes| drop(attributes.xattrs.insert(b"user.b".to_vec(), b"\n\0=".to_vec()))),
            Some("27 SCHILY.xattr.user.b=\n\0=\n"),
        ),
    ] {
        let archive = round(entry.clone());
        match expected {
            None => assert!(!has_pax(&archive), "{entry:?}"),
            Some(text) => assert_eq!(records(&archive), text),
        }
    }
}

#[test]
fn pax_records_are_sorted() {
    let archive = round(with("n".repeat(120), |attributes| {
        attributes.mtime.nanoseconds = 5;
        attributes.uid = 3_000_000;
        attributes.gid = 3_000_000;
        for name in ["user.z", "user.a", "security.capability", "system.posix_acl_access"] {
            attributes.xattrs.insert(name.into(), b"v".to_vec());
        }
    }));
    let text = records(&archive);
    let keywords: Vec<_> = text.lines().map(|line| line.split([' ', '=']).nth(1).unwrap()).collect();
    let expected = [
        "SCHILY.xattr.security.capability",
        "SCHILY.xattr.system.posix_acl_access",
        "SCHILY.xattr.user.a",
        "SCHILY.xattr.user.z",
        "gid",
        "mtime",
        "path",
        "uid",
    ];
    assert_eq!(keywords, expected);
}

#[test]
fn sizes_that_ustar_cannot_say() {
    for (size, pax) in [(8_589_934_591, false), (8_589_934_592, true), (i64::MAX.unsigned_abs(), true)] {
        let entry = upsert("f", Node::File { size });
        let mut writer = Writer::new(Vec::new());
        writer.entry(&entry, Status::Added).unwrap();
        let archive = std::mem::take(&mut writer.inner);
        assert_eq!(has_pax(&archive), pax, "{size}");
        let cx = crate::Context::default();
        let mut layer = crate::tar::MemoryLayer::new(&archive, &cx);
        assert_eq!(crate::entry::EntryStream::next(&mut layer).unwrap().unwrap(), entry);
    }
}

#[test]
fn times_are_clamped_only_where_they_are_later() {
    for (seconds, nanoseconds, expected) in
        [(5, 0, (5, 0)), (9, 999, (9, 999)), (10, 0, (10, 0)), (10, 1, (10, 0)), (11, 0, (10, 0)), (-5, 3, (-5, 3))]
    {
        let mut writer = Writer::new(Vec::new()).clamp_mtime(10);
        writer.entry(&with("d", |attributes| attributes.mtime = Timestamp { seconds, nanoseconds }), Status::Added).unwrap();
        let back = read(&writer.finish().unwrap()).unwrap();
        let found = crate::tar::testing::attributes(&back[0].0).mtime;
        assert_eq!((found.seconds, found.nanoseconds), expected);
    }
}

#[test]
fn a_file_gets_exactly_its_size() {
    let write = |pieces: &[&[u8]], last: bool| -> Result<Vec<u8>> {
        let mut writer = Writer::new(Vec::new());
        writer.entry(&upsert("f", Node::File { size: 5 }), Status::Added)?;
        for piece in pieces {
            writer.data(piece)?;
        }
        if !last {
            writer.entry(&upsert("g", Node::Directory), Status::Added)?;
        }
        writer.finish()
    };
    for last in [true, false] {
        assert_eq!(read(&write(&[b"ab", b"", b"cde"], last).unwrap()).unwrap()[0].1, b"abcde");
        for wrong in [[b"abcd".as_slice(), b""], [b"abcde", b"f"], [b"abcdef", b""]] {
            let error = write(&wrong, last).unwrap_err();
            assert_eq!((error.kind(), error.path().unwrap().to_str()), (ErrorKind::InvalidArgument, Some("f")));
        }
    }
    assert!(Writer::new(Vec::new()).data(b"x").is_err());
}

#[test]
fn what_no_archive_can_say_is_refused() {
    let refused = |entry: Entry| Writer::new(Vec::new()).entry(&entry, Status::Added).unwrap_err().kind();
    for name in ["user.a=b", "", "user.a\0b"] {
        let entry = with("d", |attributes| drop(attributes.xattrs.insert(name.into(), b"v".to_vec())));
        assert_eq!(refused(entry), ErrorKind::Unsupported, "{name:?}");
    }
    assert_eq!(refused(upsert("", Node::Fifo)), ErrorKind::InvalidArgument);
    assert_eq!(refused(Entry { path: path(""), change: Change::Whiteout }), ErrorKind::InvalidArgument);
}

/// Takes so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or_else(|| std::io::Error::from_raw_os_error(libc::ENOSPC))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_that_is_full_anywhere_is_told() {
    let write = |room| {
        let mut writer = Writer::new(Full(room));
        writer.entry(&upsert("n".repeat(300), Node::File { size: 5 }), Status::Added)?;
        writer.data(b"hello")?;
        writer.entry(&Entry { path: path("gone"), change: Change::Whiteout }, Status::Deleted)?;
        writer.finish()
    };
    // A PAX header with its records, the file with its content, a marker, the end.
    let length = (2 + 2 + 1 + 2) * 512;
    assert_eq!(write(length).unwrap().0, 0);
    for room in 0..length {
        let error = write(room).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{room}");
    }
}

#[test]
fn a_writer_shows_what_it_writes() {
    let mut writer = Writer::new(Vec::new());
    writer.entry(&upsert("a", Node::File { size: 5 }), Status::Added).unwrap();
    assert_eq!(format!("{writer:?}"), "Writer { path: \"a\", missing: 5, .. }");
}
