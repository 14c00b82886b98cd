//! The conformance kit, run through the library on both backends, as root and as the root of a user namespace.

use plywood::store::{BackendChoice, Store};
use plywood::testing::conformance::{Means, store_suite};

use crate::support::{Disk, Sandbox, skip};

#[track_caller]
fn run(backend: &BackendChoice, means: Means) {
    let outcome = store_suite(means, || Store::temporary_with(|options| options.backend(backend.clone())));
    println!("{backend:?}: {outcome}");
    outcome.passed_over.iter().for_each(|case| println!("  passed over: {case}"));
    outcome.assert_passed();
}

/// Nothing has to reach a real disk.
const MEMORY: Disk = Disk::Tmpfs(1 << 30);

#[test]
fn overlay_as_root() {
    Sandbox::root().disk(MEMORY).run(|| run(&BackendChoice::Overlay, Means::ROOT));
}

#[test]
fn copy_as_root() {
    Sandbox::root().disk(MEMORY).run(|| run(&BackendChoice::Copy, Means::ROOT));
}

#[test]
fn overlay_in_a_user_namespace() {
    Sandbox::user_namespace().run(|| run(&BackendChoice::Overlay, Means::USER_NAMESPACE));
}

#[test]
fn copy_in_a_user_namespace() {
    Sandbox::user_namespace().run(|| run(&BackendChoice::Copy, Means::USER_NAMESPACE));
}

#[test]
fn on_xfs_and_btrfs_as_root() {
    for disk in [Disk::Xfs, Disk::Btrfs] {
        if let Some(reason) = disk.missing() {
            return skip("conformance::on_xfs_and_btrfs_as_root", &reason);
        }
    }
    Sandbox::root().run(|| {
        for (disk, name) in [(Disk::Xfs, "xfs"), (Disk::Btrfs, "btrfs")] {
            let target = std::path::Path::new("/mnt").join(name);
            disk.mount(&target);
            for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
                let outcome =
                    store_suite(Means::ROOT, || Store::temporary_in(&target, |_, options| Ok(options.backend(backend.clone()))));
                println!("{name}, {backend:?}: {outcome}");
                outcome.assert_passed();
            }
        }
    });
}
