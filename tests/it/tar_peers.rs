//! Archives that GNU tar, bsdtar and Python's tarfile write, read by plywood; and plywood's, read by them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use plywood::entry::{Attributes, Change, Entry, EntrySink, EntryStream, Node, Status, Timestamp};
use plywood::path::EntryPath;
use plywood::tar::{MemoryLayer, Writer};

use crate::support::{Tool, require, skip};

type Tree = BTreeMap<String, (Entry, Vec<u8>)>;

/// What plywood makes of an archive, by path.
fn read(archive: &[u8]) -> Tree {
    let cx = plywood::Context::default();
    let mut layer = MemoryLayer::new(archive, &cx);
    let mut tree = Tree::new();
    while let Some(entry) = layer.next().unwrap() {
        let mut content = Vec::new();
        while let Some(chunk) = layer.chunk().unwrap() {
            content.resize(chunk.offset.try_into().unwrap(), 0);
            content.extend_from_slice(chunk.data);
        }
        if let Change::Upsert { node: Node::File { size }, .. } = entry.change {
            content.resize(size.try_into().unwrap(), 0);
        }
        tree.insert(entry.path.to_string(), (entry, content));
    }
    tree
}

fn attributes(tree: &Tree, path: &str) -> Attributes {
    match &tree[path].0.change {
        Change::Upsert { attributes, .. } => attributes.clone(),
        change => panic!("{path}: {change:?}"),
    }
}

fn node(tree: &Tree, path: &str) -> Node {
    match &tree[path].0.change {
        Change::Upsert { node, .. } => node.clone(),
        change => panic!("{path}: {change:?}"),
    }
}

/// Names of 90, 150 (with a slash to part at), 101 and 220 bytes in one component.
fn names(longest: usize) -> Vec<String> {
    let names = ["n".repeat(90), format!("{}/{}", "d".repeat(60), "e".repeat(80)), "o".repeat(101), "p".repeat(220)];
    names.into_iter().filter(|name| name.len() <= longest).collect()
}

/// A tree on the disk, as an archive of `longest` bytes to a name can hold it.
fn make(root: &Path, longest: usize) {
    fs::create_dir(root.join("dir")).unwrap();
    fs::write(root.join("dir/file"), b"hello").unwrap();
    fs::write(root.join("dir/block"), [7; 512]).unwrap();
    fs::set_permissions(root.join("dir/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(root.join("dir/file"), root.join("dir/hard")).unwrap();
    symlink("../dir/file", root.join("dir/link")).unwrap();
    fs::write(root.join("dir/\u{e4}\u{df}"), b"utf-8").unwrap();
    nix::unistd::mkfifo(&root.join("dir/fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    for name in names(longest) {
        fs::create_dir_all(root.join(&name).parent().unwrap()).unwrap();
        fs::write(root.join(&name), &name).unwrap();
        if name.len() <= 100 || longest > 256 {
            symlink(&name, root.join("dir").join(format!("to{}", name.len()))).unwrap();
        }
    }
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(10_000_000).unwrap();
    for at in 0..40 {
        sparse.write_all_at(b"island", at * 200_000 + 7).unwrap();
    }
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 0);
    for file in ["dir/file", "dir/block", "sparse"] {
        fs::File::open(root.join(file)).unwrap().set_modified(time).unwrap();
    }
}

/// Compares a tree on the disk with what was read; times to the second, as not all formats have more.
fn compare(root: &Path, tree: &Tree, longest: usize) {
    let mut seen = 0;
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let relative = EntryPath::parse(path.strip_prefix(root).unwrap().as_os_str().as_encoded_bytes()).unwrap().to_string();
        let meta = path.symlink_metadata().unwrap();
        seen += 1;
        let (entry, content) = &tree[&relative];
        let Change::Upsert { node, attributes } = &entry.change else { panic!("{relative}") };
        let found = (attributes.mode, attributes.uid, attributes.gid, attributes.mtime.seconds);
        assert_eq!(found, (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime()), "{relative}");
        match node {
            Node::Directory => {
                assert!(meta.is_dir());
                todo.extend(fs::read_dir(&path).unwrap().map(|child| child.unwrap().path()));
            }
            Node::File { size } => {
                assert_eq!(*size, meta.len(), "{relative}");
                assert!(*content == fs::read(&path).unwrap(), "{relative}");
            }
            Node::Symlink { target } => assert_eq!(*target, fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()),
            Node::Hardlink { target } => {
                assert_eq!(meta.nlink(), 2);
                assert!(relative.starts_with("dir/") && target.to_string().starts_with("dir/"), "{relative}");
            }
            Node::Fifo => assert_eq!(meta.mode() & 0o170_000, 0o010_000, "{relative}"),
            other => panic!("{relative}: {other:?}"),
        }
    }
    assert_eq!(seen, tree.len());
    assert!(names(longest).iter().all(|name| tree.contains_key(name)));
}

#[test]
fn what_gnu_tar_writes_is_read() {
    if !require("what_gnu_tar_writes_is_read", &["tar"]) {
        return;
    }
    for (format, longest, sparse) in [
        ("v7", 99, None),
        ("ustar", 256, None),
        ("oldgnu", 999, None),
        ("gnu", 999, None),
        ("gnu", 999, Some("0.0")),
        ("posix", 999, None),
        ("posix", 999, Some("0.0")),
        ("posix", 999, Some("0.1")),
        ("posix", 999, Some("1.0")),
    ] {
        // One component above 100 bytes fits neither of ustar's fields.
        let longest = if longest == 256 { 100 } else { longest };
        let folder = tempfile::tempdir().unwrap();
        let (root, file) = (folder.path().join("root"), folder.path().join("out.tar"));
        fs::create_dir(&root).unwrap();
        make(&root, longest);
        if format == "v7" {
            fs::remove_file(root.join("dir/fifo")).unwrap();
        }
        let mut tar =
            Tool::new("tar").arg("-C").arg(&root).arg("--numeric-owner").arg("--format").arg(format).arg("-cf").arg(&file);
        if let Some(version) = sparse {
            tar = tar.arg("--sparse").arg(format!("--sparse-version={version}"));
        }
        tar.arg(".").ok();
        let archive = fs::read(&file).unwrap();
        assert_eq!(sparse.is_some(), archive.len() < 1_000_000, "{format} {sparse:?}");
        compare(&root, &read(&archive), longest);
    }
}

#[test]
fn extended_attributes_and_nanoseconds_of_gnu_tar_are_read() {
    const TEST: &str = "extended_attributes_and_nanoseconds_of_gnu_tar_are_read";
    if !require(TEST, &["tar"]) {
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let (root, file) = (folder.path().join("root"), folder.path().join("out.tar"));
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a"), b"x").unwrap();
    if let Err(error) = xattr::set(root.join("a"), "user.test", b"one\ntwo=\0three") {
        return skip(TEST, &format!("no xattrs under /var/tmp: {error}"));
    }
    xattr::set(root.join("a"), "user.empty", b"").unwrap();
    let time = std::time::UNIX_EPOCH - std::time::Duration::new(1, 250_000_000);
    fs::File::open(root.join("a")).unwrap().set_modified(time).unwrap();
    Tool::new("tar").arg("-C").arg(&root).args(["--format=posix", "--xattrs", "-cf"]).arg(&file).arg("a").ok();
    let tree = read(&fs::read(&file).unwrap());
    let found = attributes(&tree, "a");
    assert_eq!(found.mtime, Timestamp { seconds: -2, nanoseconds: 750_000_000 });
    let xattrs: Vec<_> = found.xattrs.iter().filter(|(name, _)| name.starts_with(b"user.")).collect();
    let expected: [(&[u8], &[u8]); 2] = [(b"user.empty", b""), (b"user.test", b"one\ntwo=\0three")];
    assert!(xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).eq(expected), "{xattrs:?}");
}

#[test]
fn what_bsdtar_writes_is_read() {
    if !require("what_bsdtar_writes_is_read", &["bsdtar"]) {
        return;
    }
    for (format, longest) in [("v7", 99), ("ustar", 100), ("gnutar", 999), ("pax", 999), ("paxr", 999)] {
        let folder = tempfile::tempdir().unwrap();
        let (root, file) = (folder.path().join("root"), folder.path().join("out.tar"));
        fs::create_dir(&root).unwrap();
        make(&root, longest);
        if format == "v7" {
            fs::remove_file(root.join("dir/fifo")).unwrap();
        }
        let command = Tool::new("bsdtar").arg("-C").arg(&root).arg("--format").arg(format).arg("-cf").arg(&file).arg(".");
        command.env("LC_ALL", "C.UTF-8").ok();
        compare(&root, &read(&fs::read(&file).unwrap()), longest);
    }
}

const PYTHON_WRITES: &str = r#"
import io, sys, tarfile
form = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}[sys.argv[1]]
rich = sys.argv[1] == "pax"
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=form) as out:
    def add(name, kind, **more):
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.uid, info.gid, info.mtime = kind, 0o4711, 1, 2, 1_000_000_000
        content = more.pop("content", b"")
        info.size = len(content)
        for key, value in more.items():
            setattr(info, key, value)
        out.addfile(info, io.BytesIO(content))
    add("./", tarfile.DIRTYPE)
    add("dir", tarfile.DIRTYPE)
    add("dir/file", tarfile.REGTYPE, content=b"x" * 1000)
    add("dir/old", tarfile.AREGTYPE, content=b"y")
    add("dir/sym", tarfile.SYMTYPE, linkname="a/b")
    add("dir/hard", tarfile.LNKTYPE, linkname="dir/file")
    add("dir/char", tarfile.CHRTYPE, devmajor=1, devminor=3)
    add("dir/block", tarfile.BLKTYPE, devmajor=7, devminor=260)
    add("dir/fifo", tarfile.FIFOTYPE)
    add("dir/.wh.gone", tarfile.REGTYPE)
    add("p" * 120 + "/" + "q" * 90, tarfile.REGTYPE, content=b"prefix")
    if sys.argv[1] != "ustar":
        add("n" * 200, tarfile.SYMTYPE, linkname="l" * 300)
        add("big", tarfile.REGTYPE, uid=4_000_000_000, gid=3_000_000, mtime=2**34)
        add("early", tarfile.REGTYPE, mtime=-7)
    if rich:
        add("xattr", tarfile.REGTYPE, mtime=12.5, pax_headers={"SCHILY.xattr.user.a": "b", "comment": "c"})
"#;

/// Whether Python is here, with its tarfile (Debian's minimal one has none).
fn python(test: &str) -> bool {
    if !require(test, &["python3"]) {
        return false;
    }
    let there = Tool::new("python3").args(["-c", "import tarfile"]).run().status == 0;
    if !there {
        skip(test, "python3 has no module tarfile");
    }
    there
}

#[test]
fn what_python_writes_is_read() {
    if !python("what_python_writes_is_read") {
        return;
    }
    for format in ["ustar", "gnu", "pax"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("out.tar");
        let script = r#"exec python3 -c "$1" "$2" > "$3""#;
        Tool::new("sh").args(["-c", script, "sh", PYTHON_WRITES, format]).arg(&file).ok();
        let tree = read(&fs::read(&file).unwrap());
        let dir =
            Attributes { mode: 0o4711, uid: 1, gid: 2, mtime: Timestamp::from_seconds(1_000_000_000), ..Attributes::implied() };
        assert_eq!((attributes(&tree, "."), attributes(&tree, "dir")), (dir.clone(), dir), "{format}");
        assert_eq!((node(&tree, "dir/file"), tree["dir/file"].1.len()), (Node::File { size: 1000 }, 1000));
        assert_eq!(tree["dir/old"].1, b"y");
        assert_eq!(node(&tree, "dir/sym"), Node::Symlink { target: b"a/b".to_vec() });
        assert_eq!(node(&tree, "dir/hard"), Node::Hardlink { target: EntryPath::parse("dir/file").unwrap() });
        assert_eq!(node(&tree, "dir/char"), Node::CharDevice { major: 1, minor: 3 });
        assert_eq!(node(&tree, "dir/block"), Node::BlockDevice { major: 7, minor: 260 });
        assert_eq!(node(&tree, "dir/fifo"), Node::Fifo);
        assert_eq!(tree["dir/gone"].0.change, Change::Whiteout);
        assert_eq!(tree[&format!("{}/{}", "p".repeat(120), "q".repeat(90))].1, b"prefix");
        if format != "ustar" {
            assert_eq!(node(&tree, &"n".repeat(200)), Node::Symlink { target: vec![b'l'; 300] });
            let big = attributes(&tree, "big");
            assert_eq!((big.uid, big.gid, big.mtime.seconds), (4_000_000_000, 3_000_000, 1 << 34), "{format}");
            assert_eq!(attributes(&tree, "early").mtime, Timestamp::from_seconds(-7));
        }
        if format == "pax" {
            let found = attributes(&tree, "xattr");
            assert_eq!(found.mtime, Timestamp { seconds: 12, nanoseconds: 500_000_000 });
            assert_eq!(found.xattrs, [(b"user.a".to_vec(), b"b".to_vec())].into());
        }
    }
}

/// An archive of everything the writer can say, and the lines that a peer should list.
fn written() -> (Vec<u8>, Vec<String>) {
    let mut writer = Writer::new(Vec::new());
    let mut lines = Vec::new();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let target = "t".repeat(300);
    for (name, node, line) in [
        ("", Node::Directory, "./ 5 0"),
        ("dir", Node::Directory, "dir/ 5 0"),
        ("dir/file", Node::File { size: 600 }, "dir/file 0 600"),
        ("dir/sym", Node::Symlink { target: target.clone().into() }, &*format!("dir/sym 2 0 {target}")),
        ("dir/hard", Node::Hardlink { target: EntryPath::parse("dir/file").unwrap() }, "dir/hard 1 0 dir/file"),
        ("dir/fifo", Node::Fifo, "dir/fifo 6 0"),
        ("dir/\u{e4}\u{df}", Node::File { size: 0 }, "dir/\u{e4}\u{df} 0 0"),
        (&*"n".repeat(100), Node::File { size: 1 }, &*format!("{} 0 1", "n".repeat(100))),
        (&*long, Node::File { size: 513 }, &*format!("{long} 0 513")),
    ] {
        let mut attributes = Attributes { mode: 0o2751, uid: 5, gid: 3_000_000, ..Attributes::implied() };
        attributes.mtime = Timestamp { seconds: 1_600_000_000, nanoseconds: 500_000_000 };
        if !matches!(node, Node::Symlink { .. } | Node::Fifo) {
            attributes.xattrs.insert(b"user.a".to_vec(), b"1\n2".to_vec());
        }
        let size = if let Node::File { size } = node { size } else { 0 };
        let entry = Entry { path: EntryPath::parse(name).unwrap(), change: Change::Upsert { node, attributes } };
        writer.entry(&entry, Status::Added).unwrap();
        writer.data(&vec![b'x'; size.try_into().unwrap()]).unwrap();
        lines.push(format!("{line} 2751 5 3000000 1600000000"));
        if name == "dir" {
            let gone = Entry { path: EntryPath::parse("dir/gone").unwrap(), change: Change::Whiteout };
            writer.entry(&gone, Status::Deleted).unwrap();
            lines.push("dir/.wh.gone 0 0 0 0 0 0".to_owned());
        }
    }
    (writer.finish().unwrap(), lines)
}

const PYTHON_LISTS: &str = r#"
import sys, tarfile
for m in tarfile.open(sys.argv[1]):
    name = m.name + ("/" if m.isdir() else "")
    name = "./" if name == "./" or name == "/" else name
    link = " " + m.linkname if m.linkname else ""
    size = 0 if m.islnk() else m.size
    sys.stdout.buffer.write(f"{name} {m.type.decode()} {size}{link} {m.mode:o} {m.uid} {m.gid} {int(m.mtime)}\n".encode())
    if m.uid and not m.issym() and not m.isfifo() and m.pax_headers.get("SCHILY.xattr.user.a") != "1\n2":
        print("no xattr")
"#;

#[test]
fn python_reads_what_is_written() {
    if !python("python_reads_what_is_written") {
        return;
    }
    let (archive, lines) = written();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.tar");
    fs::write(&file, archive).unwrap();
    let listed = Tool::new("python3").args(["-c", PYTHON_LISTS]).arg(&file).ok();
    assert_eq!(listed.stdout.lines().collect::<Vec<_>>(), lines);
}

#[test]
fn gnu_tar_and_bsdtar_unpack_what_is_written() {
    for program in ["tar", "bsdtar"] {
        if !require("gnu_tar_and_bsdtar_unpack_what_is_written", &[program]) {
            continue;
        }
        let (archive, lines) = written();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(folder.path().join("out.tar"), archive).unwrap();
        let unpack = Tool::new(program).arg("-C").arg(&root).args(["--no-same-owner", "-xpf"]).arg(folder.path().join("out.tar"));
        let said = unpack.env("LC_ALL", "C.UTF-8").ok();
        assert_eq!(said.stderr, "", "{program} complains about nothing");
        for line in lines {
            let name = line.split(' ').next().unwrap();
            let meta = root.join(name).symlink_metadata().unwrap();
            if name.contains(".wh.") {
                assert_eq!((meta.len(), meta.mtime()), (0, 0), "{program} {name}");
                continue;
            }
            if (program, name) == ("bsdtar", "./") {
                continue; // It leaves the folder that it unpacks into alone.
            }
            // A parent's time is set last, so that its children do not touch it.
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_600_000_000, 500_000_000), "{program} {name}");
            if meta.is_file() {
                let size = if name == "dir/hard" { "600" } else { line.split(' ').nth(2).unwrap() };
                assert_eq!(meta.len().to_string(), size, "{program} {name}");
                assert!(fs::read(root.join(name)).unwrap().iter().all(|&byte| byte == b'x'));
            }
        }
        let inode = |name| root.join(name).symlink_metadata().unwrap().ino();
        assert_eq!(inode("dir/hard"), inode("dir/file"), "{program}");
        assert_eq!(fs::read_link(root.join("dir/sym")).unwrap().as_os_str().len(), 300, "{program}");
    }
}
