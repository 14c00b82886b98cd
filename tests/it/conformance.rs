//! The conformance kit, run through the library on both backends, as root and as the root of a user namespace.

use plywood::Parallelism;
use plywood::store::{BackendChoice, Store};
use plywood::testing::conformance::{Means, conformance, images, store_suite, through_store};
use plywood::tree::Access;

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
