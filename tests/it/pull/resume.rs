//! A pull that stops, in whichever way, is gone on with.

use std::process::{Command, Stdio};
use std::time::Duration;

use plywood::store::LeaseOptions;

use super::*;

#[test]
fn a_dropped_pull_is_gone_on_with_where_it_stopped() {
    let (registry, cx) = (Registry::new(&image()), Context::default());
    on_each_backend(|store| {
        let (layers, pull) = (registry.layers(), registry.begin(store).unwrap());
        let mut ingest = pull.ingest(&layers[0], &cx).unwrap().unwrap();
        ingest.write(&registry.blob(&layers[0])[..100]).unwrap();
        drop(ingest);
        registry.stream(&pull, &layers[2]).unwrap();
        drop(pull);
        // Nothing of it is collected meanwhile.
        let gone = store.gc(&Default::default(), &cx).unwrap();
        assert_eq!((gone.blobs.len(), gone.snapshots.len()), (0, 0));
        assert_eq!(store.leases().unwrap()[0].name, format!("pull {}", registry.manifest.descriptor().digest));

        let pull = registry.begin(store).unwrap();
        let missing: Vec<_> = pull.missing().into_iter().map(|missing| missing.descriptor).collect();
        assert_eq!(missing, layers[..2]);
        let mut ingest = pull.ingest(&layers[0], &cx).unwrap().unwrap();
        assert_eq!(ingest.offset(), 100);
        ingest.copy_from(&registry.blob(&layers[0])[100..], &cx).unwrap();
        ingest.finish(&cx).unwrap();
        registry.push(&pull, &layers[1]).unwrap();
        assert_eq!(pull.finish("x:1", &cx).unwrap().unpacked, 3);
        assert!(store.leases().unwrap().is_empty());
    });
}

#[test]
fn a_reader_that_breaks_off_is_gone_on_with_by_the_same_ingest() {
    let (registry, cx) = (Registry::new(&image()), Context::default());
    on_each_backend(|store| {
        let (layers, pull) = (registry.layers(), registry.begin(store).unwrap());
        for layer in &layers {
            let blob = registry.blob(layer);
            let mut ingest = pull.ingest(layer, &cx).unwrap().unwrap();
            let mut broken = std::io::Read::chain(&blob[..70], Broken);
            assert_eq!(ingest.copy_from(&mut broken, &cx).unwrap_err().kind(), ErrorKind::Io);
            // One that just ends is not broken, but not whole either.
            ingest.copy_from(&blob[70..80], &cx).unwrap();
            assert_eq!(ingest.offset(), 80);
            ingest.copy_from(&blob[80..], &cx).unwrap();
            ingest.finish(&cx).unwrap();
        }
        assert_eq!(pull.finish("x:1", &cx).unwrap().unpacked, 3);
    });
}

struct Broken;

impl std::io::Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::ConnectionReset.into())
    }
}

#[test]
fn what_was_not_gone_on_with_in_time_is_collected() {
    let (registry, cx) = (Registry::new(&image()), Context::default());
    on_each_backend(|store| {
        let pull = registry.begin_with(store, &PullOptions::default().keep(Duration::ZERO)).unwrap();
        registry.push(&pull, &registry.layers()[0]).unwrap();
        registry.push(&pull, &registry.layers()[2]).unwrap();
        // It lives as long as the pull, whatever its lease says.
        let gone = store.gc(&Default::default(), &cx).unwrap();
        assert_eq!((gone.blobs.len(), gone.snapshots.len()), (0, 0));
        drop(pull);
        let gone = store.gc(&Default::default(), &cx).unwrap();
        assert_eq!((gone.blobs.len(), gone.snapshots.len()), (2, 1));
        assert!(store.leases().unwrap().is_empty());
    });
}

#[test]
fn an_aborted_pull_leaves_nothing() {
    let (registry, cx) = (Registry::new(&image()), Context::default());
    on_each_backend(|store| {
        let (layers, pull) = (registry.layers(), registry.begin(store).unwrap());
        registry.stream(&pull, &layers[0]).unwrap();
        registry.stream(&pull, &layers[2]).unwrap();
        let mut ingest = pull.ingest(&layers[1], &cx).unwrap().unwrap();
        ingest.write(&registry.blob(&layers[1])[..10]).unwrap();
        drop(ingest);
        pull.abort().unwrap();
        for folder in ["blobs/sha256", "ingest", "trees"] {
            let left: Vec<_> = std::fs::read_dir(store.root().join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        assert!(store.leases().unwrap().is_empty());
    });
}

#[test]
fn an_ended_lease_does_not_end_the_pull() {
    let (registry, cx) = (Registry::new(&image()), Context::default());
    on_each_backend(|store| {
        let pull = registry.begin(store).unwrap();
        registry.push(&pull, &registry.layers()[0]).unwrap();
        let lease = store.leases().unwrap().remove(0).name;
        store.add_lease(&lease, &LeaseOptions::default()).unwrap();
        store.remove_lease(&lease).unwrap();
        store.gc(&Default::default(), &cx).unwrap();
        registry.push(&pull, &registry.layers()[2]).unwrap();
        registry.push(&pull, &registry.layers()[1]).unwrap();
        assert_eq!(pull.finish("x:1", &cx).unwrap().unpacked, 3);
    });
}

/// Tells a puller where the store and the layout are.
const AT: &str = "PLYWOOD_TEST_PULLS_AT";

/// Not a test of its own: pulls, top layer first, and says after each layer, and in the middle of each, what it did.
#[test]
fn pulls_beside_others() {
    let Ok(text) = std::env::var(AT) else { return };
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    let [root, layout, name] = text.split('\n').collect::<Vec<_>>()[..] else { panic!("{text}") };
    let options = StoreOptions::new(root).ids(if is_root() { Ids::Exact } else { Ids::Squash });
    let (store, registry, cx) = (Store::open_with(&options).unwrap(), Registry::of_layout(Path::new(layout)), Context::default());
    let pull = registry.begin(&store).unwrap();
    for layer in registry.layers().iter().rev() {
        let Some(mut ingest) = pull.ingest(layer, &cx).unwrap() else { continue };
        for chunk in registry.blob(layer)[ingest.offset() as usize..].chunks(4096) {
            ingest.write(chunk).unwrap();
            println!("+chunk");
        }
        ingest.finish(&cx).unwrap();
        println!("+layer");
    }
    println!("unpacked {}", pull.finish(name, &cx).unwrap().unpacked);
}

fn start(root: &Path, layout: &Path, name: &str) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "pull::resume::pulls_beside_others", "--nocapture"])
        .env(AT, format!("{}\n{}\n{name}", root.display(), layout.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_pull_is_gone_on_with_by_another_process() {
    use std::io::BufRead;
    let image = image().layer(Layer::new().file("big", noise(60_000)), Compression::Gzip);
    let (tree, _) = imported(&image);
    let directory = tempfile::tempdir().unwrap();
    image.write_layout(directory.path(), "1").unwrap();
    let registry = Registry::of_layout(directory.path());
    on_each_backend(|store| {
        for life in 1.. {
            let mut child = start(store.root(), directory.path(), "x:1");
            let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(std::io::Result::ok);
            // Each lives for some steps more than the one before has done.
            let did_all = lines.by_ref().filter(|line| line.starts_with('+')).take(3).count() < 3;
            if !did_all {
                child.kill().unwrap();
            }
            child.wait().unwrap();
            if did_all || store.image("x:1").is_ok() {
                break;
            }
            assert!(life < 40, "nothing that came is kept");
        }
        if store.image("x:1").is_err() {
            let pull = registry.begin(store).unwrap();
            registry.layers().iter().for_each(|layer| registry.push(&pull, layer).unwrap());
            pull.finish("x:1", &Context::default()).unwrap();
        }
        assert_eq!(tree_of(store, "x:1"), tree);
        store.gc(&Default::default(), &Context::default()).unwrap();
        assert!(store.check(&Default::default(), &Context::default()).unwrap().findings.is_empty());
    });
}

#[test]
fn processes_that_pull_the_same_unpack_it_once() {
    let directory = tempfile::tempdir().unwrap();
    image().write_layout(directory.path(), "1").unwrap();
    on_each_backend(|store| {
        let children: Vec<_> = (0..4).map(|number| start(store.root(), directory.path(), &format!("x:{number}"))).collect();
        let mut unpacked = 0;
        for child in children {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{said}");
            let count = said.lines().find_map(|line| line.split_once("unpacked ")).unwrap().1;
            unpacked += count.parse::<usize>().unwrap();
        }
        assert_eq!((unpacked, store.images().unwrap().len()), (3, 4));
    });
}

/// What does not compress.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    next.take(length).collect()
}
