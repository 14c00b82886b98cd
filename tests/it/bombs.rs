//! Layers that ask for more than there is: refused by the command with bounded memory, and nothing is left.
//!
//! Peak memory is that of the command's own processes (`ru_maxrss` of this process's children, VmHWM in other words), which the
//! sandbox keeps apart from those of other tests. Bombs are written piece by piece: what this process holds would count, too.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use nix::sys::resource::{UsageWho, getrusage};
use plywood::compression::{Compression, Encoder};
use plywood::testing::{Image, Layer};
use serde_json::Value;

use crate::support::{Output, Sandbox, Tool, plywood};

/// SEMANTICS §8, in KiB.
const MOST: i64 = 64 << 10;

struct Bombs {
    directory: tempfile::TempDir,
}

impl Bombs {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn tool(&self, arguments: &[&str]) -> Tool {
        plywood().args(["--json", "--root", "store"]).args(arguments).current_dir(self.path())
    }

    /// A file of these pieces.
    fn write<P: AsRef<[u8]>>(&self, name: &str, compression: Compression, pieces: impl IntoIterator<Item = P>) {
        let file = BufWriter::new(File::create(self.path().join(name)).unwrap());
        let mut encoder = Encoder::new(file, compression, None).unwrap();
        pieces.into_iter().for_each(|piece| encoder.write_all(piece.as_ref()).unwrap());
        encoder.finish().unwrap().flush().unwrap();
    }

    /// Runs the command, which may not take more than that.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Output {
        let output = self.tool(arguments).run();
        let peak = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
        assert!(peak < MOST, "{arguments:?}: {peak} KiB were resident");
        output
    }

    fn only_snapshot(&self) -> String {
        let snapshots: Value = serde_json::from_str(&self.tool(&["snapshots"]).ok().stdout).unwrap();
        snapshots[0]["name"].as_str().unwrap_or_else(|| panic!("{snapshots}")).to_owned()
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], kind: &str, rule: &str) {
        let output = self.run(arguments);
        assert_eq!(output.status, 1, "{arguments:?}: {output:?}");
        let error: Value = serde_json::from_str(&output.stderr).unwrap();
        assert_eq!(error["kind"], kind, "{arguments:?}: {error}");
        assert!(error.to_string().contains(rule), "{arguments:?}: {error}");
        assert_eq!(self.tool(&["snapshots"]).ok().stdout.trim(), "[]", "{arguments:?}");
        for folder in ["ingest", "trees", "trash"] {
            let left = fs::read_dir(self.path().join("store").join(folder)).map_or(0, Iterator::count);
            assert_eq!(left, 0, "{arguments:?}: something is left in {folder}");
        }
    }
}

/// A member's header, whose content is to follow.
fn header(name: &str, flag: u8, size: u64) -> Vec<u8> {
    let layer = Layer::new().member(name, flag).record("size", size.to_string()).without_end().tar();
    assert_eq!(layer.len() % 512, 0);
    layer
}

fn zeros(mib: usize) -> impl Iterator<Item = Vec<u8>> {
    std::iter::repeat_n(vec![0; 1 << 20], mib)
}

/// One zstd frame of this window: `head` as it is, then `blocks` times 128 KiB of zeros, four bytes each.
fn zstd(window_log: u8, head: &[u8], blocks: usize) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (window_log - 10) << 3];
    let mut block = |kind: usize, size: usize, bytes: &[u8], last: bool| {
        frame.extend(&(size << 3 | kind << 1 | usize::from(last)).to_le_bytes()[..3]);
        frame.extend(bytes);
    };
    block(0, head.len(), head, false);
    (1..=blocks).for_each(|number| block(1, 128 << 10, &[0], number == blocks));
    frame
}

#[test]
fn compressed_bombs_are_refused_while_they_expand() {
    Sandbox::user().run(|| {
        let bombs = Bombs::new();
        let head = header("zeros", b'0', 256 << 20);
        let pieces = || std::iter::once(head.clone()).chain(zeros(256)).chain([vec![0; 1024]]);
        bombs.write("bomb.gz", Compression::Gzip, pieces());
        let ratio = (256 << 20) / fs::metadata(bombs.path().join("bomb.gz")).unwrap().len();
        assert!(ratio > 1000, "{ratio}");
        let frame = zstd(20, &header("zeros", b'0', 4 << 30), 32 << 10);
        assert!((4u64 << 30) / frame.len() as u64 > 30_000);
        fs::write(bombs.path().join("bomb.zst"), frame).unwrap();
        let wrong = Layer::new().diff_id().to_string();
        for bomb in ["bomb.gz", "bomb.zst"] {
            // Whether their digest is told or not.
            for more in [&[][..], &["--diff-id", &wrong]] {
                let import = |limit| [&["layer", "import", bomb, "--limit", limit][..], more].concat();
                bombs.refused(&import("unpacked-bytes=32M"), "LimitExceeded", "more than 33554432 bytes uncompressed");
                bombs.refused(&import("expansion-ratio=100"), "LimitExceeded", "more than 100 times as many bytes uncompressed");
            }
            let import = ["layer", "import", bomb, "--diff-id", &wrong, "--limit", "file-bytes=200M"];
            bombs.refused(&import, "LimitExceeded", "the file has more than 209715200 bytes");
        }
        // What follows the archive's end counts.
        let tail = Layer::new().tar();
        bombs.write("tail.gz", Compression::Gzip, std::iter::once(tail).chain(zeros(64)));
        bombs.refused(&["layer", "import", "tail.gz", "--limit", "unpacked-bytes=1M"], "LimitExceeded", "more than 1048576 bytes");
        bombs.refused(&["layer", "import", "tail.gz", "--limit", "expansion-ratio=99"], "LimitExceeded", "more than 99 times");
        // A window that asks for gigabytes.
        fs::write(bombs.path().join("window.zst"), zstd(31, &header("zeros", b'0', 4 << 30), 32 << 10)).unwrap();
        bombs.refused(&["layer", "import", "window.zst"], "InvalidLayer", "zstd");
    });
}

#[test]
fn a_window_for_which_there_is_no_memory_is_no_fault_of_the_layer() {
    Sandbox::user().run(|| {
        let bombs = Bombs::new();
        fs::write(bombs.path().join("window.zst"), zstd(27, &Layer::new().tar(), 1)).unwrap();
        // As much address space as the command takes, and not 128 MiB more.
        let import = |most: &str| {
            let import = ["--json", "--root", "store", "--threads", "1", "layer", "import", "window.zst"];
            Tool::new("prlimit").arg(format!("--as={most}")).arg(plywood().program()).args(import).current_dir(bombs.path()).run()
        };
        import("unlimited").ok();
        let output = import("134217728");
        let error: Value = serde_json::from_str(&output.stderr).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!((&error["kind"], output.status), (&"Io".into(), 1), "{error}");
        assert!(error.to_string().contains("not enough memory"), "{error}");
    });
}

#[test]
fn headers_that_ask_for_too_much_are_refused() {
    Sandbox::user().run(|| {
        let bombs = Bombs::new();
        let bomb = |name: &str, layer: Layer| fs::write(bombs.path().join(name), layer.tar()).unwrap();
        // 10 GiB of PAX header, in base 256.
        let mut pax = Layer::new().member("pax", b'x').without_end().tar();
        pax[124] = 0x80;
        pax[125..128].fill(0);
        pax[128..136].copy_from_slice(&(10u64 << 30).to_be_bytes());
        let sum: u32 =
            pax[..512].iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) }).sum();
        pax[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bomb("pax.tar", Layer::new().raw(pax));
        bombs.refused(&["layer", "import", "pax.tar"], "LimitExceeded", "an extension header has more than 1048576 bytes");
        bomb("deep.tar", Layer::new().file("d/".repeat(100_000) + "f", ""));
        for more in [&[][..], &["--limit", "path-bytes=1M", "--limit", "path-depth=200000"]] {
            bombs.refused(&[&["layer", "import", "deep.tar"][..], more].concat(), "InvalidLayer", "a path of more than 4096 bytes");
        }
        bomb("xattrs.tar", Layer::new().file("f", "").xattr("user.a", vec![1; 1 << 20]));
        let import = ["layer", "import", "xattrs.tar", "--limit", "header-bytes=4M"];
        bombs.refused(&import, "LimitExceeded", "the extended attributes have more than 1048576 bytes");
        // Each path is short enough; together, through symlinks, they are not.
        let down = "d/".repeat(1000);
        let links = Layer::new().dir(&down, 0o755).symlink("s1", &down).dir(format!("s1/{down}"), 0o755);
        let links = links.symlink("s2", format!("s1/{down}"));
        bomb("links.tar", links.clone().dir(format!("s2/{}", "d/".repeat(48)), 0o755));
        bombs.run(&["layer", "import", "links.tar"]).ok();
        bombs.run(&["remove", &bombs.only_snapshot()]).ok();
        bombs.run(&["gc"]).ok();
        bomb("links.tar", links.dir(format!("s2/{}", "d/".repeat(49)), 0o755));
        bombs.refused(
            &["layer", "import", "links.tar"],
            "InvalidLayer",
            "through symlinks, it lands at a path of more than 4096 bytes",
        );
        // Segments: their number is told before they come.
        let mut map = format!("1000001\n{}", "0\n0\n".repeat(1_000_001)).into_bytes();
        map.resize(map.len().next_multiple_of(512), 0);
        let sparse = Layer::new().file("f", map);
        bomb(
            "sparse.tar",
            sparse.record("GNU.sparse.major", "1").record("GNU.sparse.minor", "0").record("GNU.sparse.realsize", "0"),
        );
        bombs.refused(&["layer", "import", "sparse.tar"], "LimitExceeded", "the file has more than 1000000 sparse segments");
        let entries = (0..3000).fold(Layer::new(), |layer, number| layer.file(format!("f{number}"), ""));
        bomb("entries.tar", entries);
        bombs.refused(&["layer", "import", "entries.tar", "--limit", "entries=2999"], "LimitExceeded", "more than 2999 entries");
        bombs.run(&["layer", "import", "entries.tar", "--limit", "entries=3000"]).ok();
    });
}

#[test]
fn what_a_hostile_layer_has_reported_and_set_aside_is_bounded() {
    Sandbox::user().run(|| {
        let bombs = Bombs::new();
        // 100 MiB of names of xattrs that no file system takes.
        let name = format!("user.{}", "n".repeat(512 << 10));
        let refused = |number: i32| Layer::new().file(format!("f{number}"), "").xattr(&name, "").without_end().tar();
        bombs.write("report.gz", Compression::Gzip, (0..200).map(refused).chain([vec![0; 1024]]));
        let output = bombs.run(&["layer", "import", "report.gz"]).ok();
        let document: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(document["report"]["total"], 200);
        assert!(output.stdout.len() < 10 << 20);
        // 100 MiB of xattrs of directories that are not finished before their children.
        let nested = |depth: usize| {
            let layer = Layer::new().dir("d/".repeat(depth), 0o755);
            let layer = (0..8).fold(layer, |layer, number| layer.xattr(format!("user.{number}"), vec![1; 60_000]));
            layer.without_end().tar()
        };
        bombs.write("nested.gz", Compression::Gzip, (1..=200).map(nested).chain([vec![0; 1024]]));
        bombs.run(&["layer", "import", "nested.gz"]).ok();
    });
}

#[test]
fn limits_hold_for_the_layers_of_images_and_the_archive_around_them() {
    Sandbox::user().run(|| {
        let bombs = Bombs::new();
        let layer = Layer::new().file("a", vec![0; 8 << 20]).file("b", "");
        let image = Image::new().layer(layer, Compression::Gzip);
        image.write_layout(bombs.path().join("layout"), "bomb").unwrap();
        bombs.refused(&["import", "layout", "--limit", "entries=1"], "LimitExceeded", "more than 1 entries");
        bombs.refused(&["import", "layout", "--limit", "expansion-ratio=99"], "LimitExceeded", "more than 99 times");
        let around = header("zeros", b'0', 64 << 20);
        bombs.write("image.tar.gz", Compression::Gzip, std::iter::once(around).chain(zeros(64)).chain([vec![0; 1024]]));
        bombs.refused(&["import", "image.tar.gz", "--limit", "expansion-ratio=99"], "LimitExceeded", "more than 99 times");
        bombs.run(&["import", "layout", "--limit", "entries=2", "--limit", "file-bytes=8M"]).ok();
    });
}

#[test]
fn an_unknown_limit_is_a_usage_error_that_lists_those_there_are() {
    for command in [&["import", "x"][..], &["layer", "import", "x"]] {
        for limit in ["size=5", "entries", "entries=many", "entries=5M"] {
            let output = plywood().args(command).args(["--limit", limit]).run();
            assert_eq!((output.status, output.stdout.as_str()), (2, ""), "{output:?}");
            let listed = [
                "entries",
                "unpacked-bytes",
                "file-bytes",
                "path-bytes",
                "path-depth",
                "expansion-ratio",
                "header-bytes",
                "xattr-bytes",
            ];
            assert!(limit != "size=5" || listed.iter().all(|name| output.stderr.contains(name)), "{output:?}");
        }
        assert!(plywood().args(command).arg("--help").ok().stdout.contains("expansion-ratio"));
    }
}
