//! The fuzz targets' properties on their corpus, with the stable toolchain and no fuzzer.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::fuzz_properties::{archives, extensions, peers};

/// The corpus of a target; nothing where it is not part of the packaged crate.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let Ok(files) = fs::read_dir(&folder) else { return Vec::new() };
    let read = |path: &Path| (path.display().to_string(), fs::read(path).unwrap());
    files.map(|file| read(&file.unwrap().path())).collect()
}

/// Runs a property on the corpus of its target; at least so many of it are to reach something.
#[track_caller]
fn replay(target: &str, property: impl Fn(&[u8]) -> bool, least: usize) {
    let corpus = corpus(target);
    if corpus.is_empty() {
        return crate::support::skip(target, "the corpus is not part of the packaged crate");
    }
    let mut accepted = 0;
    for (name, data) in &corpus {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| property(data)));
        accepted += usize::from(outcome.unwrap_or_else(|_| panic!("{name}")));
    }
    println!("{target}: {accepted} of {} inputs reach something", corpus.len());
    assert!(accepted >= least, "{accepted} of {target}'s corpus reach anything: has it rotted?");
}

#[test]
fn tar_reader() {
    replay("tar_reader", archives::tar_reader, 20);
}

#[test]
fn tar_members() {
    replay("tar_members", archives::tar_members, 15);
}

#[test]
fn tar_extensions() {
    replay("tar_extensions", extensions::tar_extensions, 8);
}

#[test]
fn decompress() {
    replay("decompress", archives::decompress, 8);
}

#[test]
fn readers_agree() {
    replay("readers_agree", peers::readers_agree, 4);
}

/// The archives of all targets, by all readers. Each difference that is kept is seen: else its reason is out of date.
#[test]
fn kept_differences_between_readers_are_there() {
    let mut seen = BTreeSet::new();
    let targets = ["readers_agree", "tar_reader", "tar_members"];
    let inputs: Vec<_> = targets.iter().flat_map(|target| corpus(target)).collect();
    for (name, data) in &inputs {
        let outcome = std::panic::catch_unwind(|| peers::kept_differences(data));
        seen.extend(outcome.unwrap_or_else(|_| panic!("{name}")).unwrap_or_default());
    }
    let unseen: Vec<_> = peers::reasons().filter(|reason| !seen.contains(reason)).collect();
    assert!(inputs.is_empty() || unseen.is_empty(), "no input shows: {unseen:#?}");
}

#[cfg(feature = "testing")]
mod with_literals {
    use super::replay;
    use crate::conformance::{MEMORY, user_namespace};
    use crate::fuzz_properties::images::{self, Images, Stores};
    use crate::fuzz_properties::members::Power;
    use crate::fuzz_properties::names;
    use crate::fuzz_properties::trees::{self, Trees};
    use crate::support::Sandbox;

    #[test]
    fn member_names() {
        replay("member_names", names::member_names, 5);
    }

    #[test]
    fn identifiers() {
        replay("identifiers", names::identifiers, 3);
    }

    #[test]
    fn import_image() {
        user_namespace().run(|| {
            let images = Images::new();
            replay("import_image", |data| images::import_image(&images, data), 5);
        });
    }

    #[test]
    fn apply_model() {
        Sandbox::root().disk(MEMORY).run(|| {
            let trees = Trees::new(Power::Root);
            replay("apply_model", |data| trees::apply_model(&trees, data), 10);
        });
    }

    #[test]
    fn apply_diff() {
        Sandbox::root().disk(MEMORY).run(|| {
            let trees = Trees::new(Power::Root);
            replay("apply_diff", |data| trees::apply_diff(&trees, data), 10);
        });
    }

    /// The stacks of `apply_model` as images.
    #[test]
    fn import_model() {
        Sandbox::root().disk(MEMORY).run(|| {
            let stores = Stores::new(Power::Root);
            replay("import_model", |data| images::import_model(&stores, data), 10);
        });
    }

    #[test]
    fn stacks_in_a_user_namespace() {
        user_namespace().run(|| {
            let trees = Trees::new(Power::UserNamespace);
            replay("apply_model", |data| trees::apply_model(&trees, data), 10);
            replay("apply_diff", |data| trees::apply_diff(&trees, data), 10);
        });
    }
}
