//! How high, how large: long chains, repeated and empty layers, memory. Through the command, as the figures concern its users.

use std::fs;
use std::path::Path;

use nix::sys::resource::{UsageWho, getrusage};
use plywood::compression::{Compression, Encoder};
use plywood::entry::{Attributes, Change, Entry, EntrySink, Node, Status};
use plywood::path::EntryPath;
use plywood::tar::Writer;
use plywood::testing::{Image, Layer};
use serde_json::Value;

use crate::support::{Disk, Sandbox, Tool, plywood};

fn layer(number: usize) -> Layer {
    Layer::new().file(format!("layer-{number}"), number.to_string()).file("top", number.to_string())
}

fn image(layers: usize) -> Image {
    (0..layers).fold(Image::new(), |image, number| image.layer(layer(number), Compression::None))
}

fn store(work: &Path, backend: &str) -> impl Fn(&[&str]) -> Tool {
    let root = work.join(format!("store-{backend}"));
    let (work, backend) = (work.to_owned(), backend.to_owned());
    move |arguments| plywood().arg("--root").arg(&root).args(["--backend", &backend]).args(arguments).current_dir(&work)
}

#[test]
fn chains_of_128_and_499_layers_mount_and_one_more_is_refused() {
    Sandbox::root().disk(Disk::Ext4).run(|| {
        let work = std::env::temp_dir();
        let store = store(&work, "overlay");
        for length in [128, 499] {
            let layout = work.join(format!("layout-{length}"));
            image(length).write_layout(&layout, "long").unwrap();
            let chain = store(&["import", layout.to_str().unwrap()]).ok().last_word().to_owned();
            for verb in ["view", "prepare"] {
                let key = format!("{verb}-{length}");
                let target = work.join(&key);
                fs::create_dir(&target).unwrap();
                store(&[verb, &key, &chain, "--mount", &key]).ok();
                for number in 0..length {
                    assert_eq!(fs::read_to_string(target.join(format!("layer-{number}"))).unwrap(), number.to_string());
                }
                assert_eq!(fs::read_to_string(target.join("top")).unwrap(), (length - 1).to_string());
                assert_eq!(fs::write(target.join("new"), "x").is_ok(), verb == "prepare");
                store(&["umount", &key]).ok();
                let mounts: Value = serde_json::from_str(&store(&["mounts", &key, "--json"]).ok().stdout).unwrap();
                assert_eq!(mounts[0]["options_fit_one_page"], false, "{key}");
                assert_eq!(mounts[0]["relative_options_fit_one_page"], true, "{key}: what containerd's clients do");
            }
        }
        let before = store(&["snapshots", "--json"]).ok().stdout;
        image(500).write_layout(work.join("layout-500"), "longer").unwrap();
        let output = store(&["--json", "import", "layout-500"]).run();
        assert_eq!(output.status, 1, "{output:?}");
        let error: Value = serde_json::from_str(&output.stderr).unwrap();
        assert_eq!(error["kind"], "LimitExceeded");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("500") && message.contains("499"), "{message}");
        assert_eq!(store(&["snapshots", "--json"]).ok().stdout, before, "nothing of it is left");
    });
}

#[test]
fn repeated_and_empty_layers_mount() {
    Sandbox::root().run(|| {
        let work = tempfile::tempdir().unwrap();
        let layers = [layer(0), Layer::new(), layer(1), layer(0), Layer::new(), layer(1), layer(1)];
        let image = layers.into_iter().fold(Image::new(), |image, layer| image.layer(layer, Compression::Gzip));
        image.write_layout(work.path().join("layout"), "twice").unwrap();
        for backend in ["overlay", "copy"] {
            let store = store(work.path(), backend);
            store(&["import", "layout"]).ok();
            let target = work.path().join(backend);
            fs::create_dir(&target).unwrap();
            store(&["prepare", "box", "twice", "--mount", backend]).ok();
            let read = |name: &str| fs::read_to_string(target.join(name)).unwrap();
            assert_eq!((read("layer-0"), read("layer-1"), read("top")), ("0".to_owned(), "1".to_owned(), "1".to_owned()));
            store(&["umount", backend]).ok();
        }
    });
}

#[test]
fn a_layer_of_1_gib_is_unpacked_in_64_mib() {
    Sandbox::root().disk(Disk::Ext4).run(|| {
        let work = std::env::temp_dir();
        // Eight files of 128 MiB; the pipe keeps them off this process's own memory.
        let make = "for i in 1 2 3 4 5 6 7 8; do yes \"line of file $i\" | head -c 134217728 > file-$i || true; done; tar -cf - file-* | gzip -1 > layer.tar.gz; rm file-*";
        Tool::new("sh").args(["-c", make]).current_dir(&work).ok();
        let before = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
        assert!(before < 64 << 10, "the tools took {before} KiB, so nothing could be measured");
        store(&work, "overlay")(&["layer", "import", "layer.tar.gz"]).ok();
        let most = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
        assert!(most < 64 << 10, "{most} KiB were resident");
    });
}

/// Peak memory of importing `layer.tar.gz`, in KiB; other programs that were waited for took less.
fn peak_of_import(work: &Path) -> i64 {
    let before = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    store(work, "overlay")(&["layer", "import", "layer.tar.gz"]).ok();
    let most = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    println!("{most} KiB were resident at most, {before} KiB before");
    most
}

/// A layer of so many files of a few bytes, a thousand in each directory.
fn many_files(at: &Path, count: usize) {
    let file = fs::File::create(at).unwrap();
    let mut writer = Writer::new(Encoder::new(file, Compression::Gzip, Some(1)).unwrap());
    let mut entry = |path: String, node: Node| {
        let path = EntryPath::parse(path).unwrap();
        let attributes = Attributes { mode: 0o755, ..Attributes::implied() };
        writer.entry(&Entry { path, change: Change::Upsert { node, attributes } }, Status::Added).unwrap();
    };
    for number in 0..count {
        if number % 1000 == 0 {
            entry(format!("d{}", number / 1000), Node::Directory);
        }
        entry(format!("d{}/file-{number}", number / 1000), Node::File { size: 0 });
    }
    writer.finish().unwrap().finish().unwrap();
}

fn assert_many_files_take_256_bytes_each(count: usize) {
    let work = std::env::temp_dir();
    many_files(&work.join("layer.tar.gz"), count);
    let (most, limit) = (peak_of_import(&work), (64 << 10) + i64::try_from(count).unwrap() / 4);
    assert!(most < limit, "{most} KiB were resident for {count} files, {limit} at most");
}

#[test]
fn a_layer_of_20_000_files_takes_64_mib_and_256_bytes_each() {
    Sandbox::root().disk(Disk::Ext4).run(|| assert_many_files_take_256_bytes_each(20_000));
}

#[test]
#[ignore = "the long form: minutes"]
fn a_layer_of_a_million_files_takes_64_mib_and_256_bytes_each() {
    Sandbox::root().disk(Disk::Ext4).run(|| assert_many_files_take_256_bytes_each(1_000_000));
}

#[test]
fn a_sparse_file_of_10_gib_takes_64_mib_of_memory_and_nothing_of_the_disk() {
    Sandbox::root().disk(Disk::Ext4).run(|| {
        let work = std::env::temp_dir();
        let make = "truncate -s 10G sparse; printf end | dd of=sparse bs=1 seek=10000000000 conv=notrunc status=none; \
                    tar -Sczf layer.tar.gz sparse; rm sparse";
        Tool::new("sh").args(["-c", make]).current_dir(&work).ok();
        let most = peak_of_import(&work);
        assert!(most < 64 << 10, "{most} KiB were resident");
        let tree = store(&work, "overlay")(&["snapshots", "--json"]).ok();
        let snapshots: Value = serde_json::from_str(&tree.stdout).unwrap();
        assert!(snapshots.to_string().contains("sha256:"), "{snapshots}");
        let taken = Tool::new("du").args(["-sk", "store-overlay/trees"]).current_dir(&work).ok().stdout;
        let kib: u64 = taken.split_whitespace().next().unwrap().parse().unwrap();
        assert!(kib < 1024, "{taken}");
    });
}
