//! How high, how large: long chains, repeated and empty layers, memory. Through the command, as the figures concern its users.

use std::fs;
use std::path::Path;

use nix::sys::resource::{UsageWho, getrusage};
use plywood::compression::Compression;
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
