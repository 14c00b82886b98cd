//! The conformance kit, run through the library on both backends, as root and as the root of a user namespace.

use std::path::Path;

use plywood::compression::Compression;
use plywood::snapshot::Name;
use plywood::store::{BackendChoice, ImageSource, ImportOptions, Store};
use plywood::testing::conformance::{Means, conformance, images, show, store_suite, through_store};
use plywood::testing::image::Layout;
use plywood::testing::{Image, Layer};
use plywood::tree::Access;
use plywood::{Context, Parallelism};

use crate::support::{Disk, Sandbox, is_root, skip};

#[track_caller]
fn run(backend: &BackendChoice, means: Means) {
    let outcome = store_suite(means, || Store::temporary_with(|options| options.backend(backend.clone())));
    println!("{backend:?}: {outcome}");
    outcome.passed_over.iter().for_each(|case| println!("  passed over: {case}"));
    outcome.assert_passed();
}

/// In a user namespace, and in memory where that can be had: nothing has to reach a real disk.
pub(crate) fn user_namespace() -> Sandbox {
    if is_root() { Sandbox::user_namespace().disk(MEMORY) } else { Sandbox::user_namespace() }
}

pub(crate) const MEMORY: Disk = Disk::Tmpfs(1 << 30);

#[test]
fn overlay_as_root() {
    Sandbox::root().disk(MEMORY).run(|| run(&BackendChoice::Overlay, Means::ROOT));
}

/// The same trees however many threads unpack an image; with one, no layer is unpacked before its parent is there.
#[test]
fn images_by_one_thread_and_by_several() {
    let run = |means| {
        for threads in [1, 4] {
            let open =
                || Store::temporary_with(|options| options.backend(BackendChoice::Overlay).parallelism(Parallelism::new(threads)));
            let outcome = images(means, open);
            println!("{threads} threads: {outcome}");
            outcome.assert_passed();
        }
    };
    Sandbox::root().disk(MEMORY).run(|| run(Means::ROOT));
}

/// The same from archives: `docker save`'s and OCI's, read in place, compressed, and as they come out of a pipe. Each case goes one way,
/// and all ways in the long form.
#[test]
fn images_out_of_archives() {
    const WAYS: [&str; 5] = ["docker by a pipe", "oci by a pipe", "docker", "oci", "oci, compressed"];
    let import = |layers: &[Layer], at: &Path, way: &str| {
        let packing = if way.starts_with("docker") { Compression::None } else { Compression::Gzip };
        let image = layers.iter().fold(Image::new(), |image, layer| image.layer(layer.clone(), packing));
        let layout = Layout::new().image("image", &image);
        let archive = match way {
            "docker" | "docker by a pipe" => image.docker_archive(&["image"]),
            "oci, compressed" => layout.archive(Compression::Zstd),
            _ => layout.archive(Compression::None),
        };
        let store = Store::temporary_with(|options| options.backend(BackendChoice::Overlay).parallelism(Parallelism::new(4)))?;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, &archive).unwrap();
        let source = if way.ends_with("pipe") { ImageSource::reader(archive.as_slice()) } else { ImageSource::path(file.path()) };
        let imported = store.import(source, &ImportOptions::default(), &Context::default())?;
        let name = imported.image.layers.last().map(|layer| Name::from(&layer.chain_id));
        // The snapshot goes before its store.
        show(&store, name.as_ref(), at, Access::ReadOnly).map(|shown| (shown, store))
    };
    Sandbox::root().disk(MEMORY).run(|| {
        let rounds = if std::env::var_os("PLYWOOD_TEST_LONG").is_some() { WAYS.len() } else { 1 };
        for round in 0..rounds {
            let mut ways = WAYS.iter().cycle().skip(round);
            let outcome = conformance(Means::ROOT, |layers, at| import(layers, at, ways.next().unwrap()));
            println!("round {round}: {outcome}");
            outcome.assert_passed();
        }
    });
}

#[test]
fn copy_as_root() {
    Sandbox::root().disk(MEMORY).run(|| run(&BackendChoice::Copy, Means::ROOT));
}

#[test]
fn overlay_in_a_user_namespace() {
    user_namespace().run(|| run(&BackendChoice::Overlay, Means::USER_NAMESPACE));
}

#[test]
fn copy_in_a_user_namespace() {
    user_namespace().run(|| run(&BackendChoice::Copy, Means::USER_NAMESPACE));
}

#[test]
fn on_xfs_and_btrfs_as_root() {
    for disk in [Disk::Xfs, Disk::Btrfs] {
        if let Some(reason) = disk.missing() {
            return skip("conformance::on_xfs_and_btrfs_as_root", &reason);
        }
    }
    Sandbox::root().run(|| {
        // Every case with everything takes minutes on a disk that must be waited for.
        let long = std::env::var_os("PLYWOOD_TEST_LONG").is_some();
        for (disk, name) in [(Disk::Xfs, "xfs"), (Disk::Btrfs, "btrfs")] {
            let target = std::path::Path::new("/mnt").join(name);
            disk.mount(&target);
            for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
                let open = || Store::temporary_in(&target, |_, options| Ok(options.backend(backend.clone())));
                let outcome = if long {
                    store_suite(Means::ROOT, open)
                } else {
                    conformance(Means::ROOT, through_store(&open().unwrap(), Access::ReadOnly))
                };
                println!("{name}, {backend:?}: {outcome}");
                outcome.assert_passed();
            }
        }
    });
}
