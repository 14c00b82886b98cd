//! Random stacks of layers: the model of the tree rule against what the backends make, and back through diff.
//!
//! `PLYWOOD_TEST_LONG=N` runs N stacks instead of the few of an ordinary run, `PLYWOOD_TEST_SEED=HEX` another sequence than the usual
//! one. A failure prints the smallest stack that shows it, as it would stand in a test's source.

mod stacks;

use std::fmt::Debug;
use std::path::Path;

use plywood::Parallelism;
use plywood::snapshot::Name;
use plywood::store::{BackendChoice, CheckOptions, DiffOptions, Store};
use plywood::tar::{Limits, Reader};
use plywood::testing::conformance::{import_image, import_layers, import_onto, show};
use plywood::testing::model::{self, Invalid, Written};
use plywood::testing::tree::assert_same_tree;
use plywood::testing::{Layer, TemporaryStore, Tree, temporary_directory};
use plywood::tree::Access;
use plywood::{Context, ErrorKind};
use proptest::collection::vec;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestError, TestRng, TestRunner};

use crate::conformance::{MEMORY, user_namespace};
use crate::fuzz_properties::changes::Change;
use crate::fuzz_properties::members::{Power, Stack};
use crate::support::Sandbox;
use stacks::{changes, stacks, with_markers_moved};

/// Runs `test` on `usual` values, or on as many as the environment says.
#[track_caller]
fn check<S: Strategy>(usual: u32, strategy: &S, test: impl Fn(S::Value) -> TestCaseResult)
where
    S::Value: Debug,
{
    let count = std::env::var("PLYWOOD_TEST_LONG").ok().and_then(|count| count.parse().ok()).unwrap_or(usual);
    let seed = std::env::var("PLYWOOD_TEST_SEED").unwrap_or_else(|_| "706c79776f6f6421".to_owned());
    println!("{count} cases, PLYWOOD_TEST_SEED={seed}");
    let mut bytes = seed.into_bytes();
    bytes.resize(32, 0);
    let config = Config { cases: count, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    match runner.run(strategy, test) {
        Ok(()) => {}
        Err(TestError::Fail(reason, smallest)) => panic!("{reason}\n{smallest:?}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

/// What the model makes of a stack: the tree below the first layer that is invalid, and how many layers that were.
fn folded(Stack(layers): &Stack) -> (usize, Result<Tree, Invalid>) {
    let mut last = Ok(Tree::new());
    for count in 1..=layers.len() {
        last = model::fold(&layers[..count]);
        if last.is_err() {
            return (count, last);
        }
    }
    (layers.len(), last)
}

/// Rule 1: markers act first, wherever they stand.
#[test]
fn where_markers_stand_makes_no_difference() {
    check(2_000, &with_markers_moved(), |(below, layer, moved)| {
        let Ok(lower) = model::fold(&below.0) else { return Ok(()) };
        let apply = |layer: &Layer| model::apply(&lower, &layer.entries().unwrap());
        match (apply(&layer), apply(&moved)) {
            (Ok(one), Ok(other)) => assert_same_tree(&one, &other),
            (one, other) => assert_eq!(one.err().map(|e| e.contradictory), other.err().map(|e| e.contradictory)),
        }
        Ok(())
    });
}

/// The random stacks are worth their time: most are valid, and they are not all alike.
#[test]
fn most_random_stacks_have_a_meaning() {
    use std::cell::Cell;
    let [valid, invalid, contradictory] = [const { Cell::new(0) }; 3];
    check(2_000, &stacks(Power::Root), |stack| {
        let counter = match folded(&stack).1 {
            Ok(_) => &valid,
            Err(error) if error.contradictory => &contradictory,
            Err(_) => &invalid,
        };
        counter.set(counter.get() + 1);
        Ok(())
    });
    println!("{} valid, {} invalid, {} contradictory", valid.get(), invalid.get(), contradictory.get());
    assert!(valid.get() > invalid.get() && contradictory.get() * 50 < valid.get());
}

/// The tree of a snapshot, as a View and as an Active one.
fn mounted(store: &Store, name: Option<&Name>, at: &Path) -> Tree {
    let [view, active] = [Access::ReadOnly, Access::ReadWrite].map(|access| {
        let _shown = show(store, name, at, access).unwrap();
        Tree::read(at).unwrap()
    });
    assert_same_tree(&view, &active);
    view
}

/// The entries of an archive, as the model of diff has them.
fn entries(layer: &[u8]) -> Vec<Written> {
    let cx = Context::default();
    let mut reader = Reader::new(layer, Limits::default(), &cx);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        let mut content = Vec::new();
        while let Some(chunk) = reader.chunk().unwrap() {
            content.resize(chunk.offset as usize, 0);
            content.extend_from_slice(chunk.data);
        }
        entries.push(Written::new(entry, &content));
    }
    entries
}

/// A diff writes what has changed, in its order, and nothing else.
#[track_caller]
fn assert_is_diff(backend: &str, layer: &[u8], lower: &Tree, upper: &Tree) {
    let (found, expected) = (entries(layer), model::diff(lower, upper));
    let show = |entries: &[Written]| entries.iter().map(|written| format!("{written:?}")).collect::<Vec<_>>().join("\n    ");
    assert!(found == expected, "{backend}: the diff has\n    {}\n  and should have\n    {}", show(&found), show(&expected));
}

fn diff(store: &Store, name: &Name) -> Vec<u8> {
    let mut layer = Vec::new();
    store.diff(name.as_str(), &mut layer, &DiffOptions::default(), &Context::default()).unwrap();
    layer
}

/// model = each backend's mount; what is invalid to the model is `InvalidLayer` to all, at the same layer; each layer's diff is the
/// same bytes on each backend, and applied again it makes the same tree.
fn backends_agree_with_the_model(stores: &[TemporaryStore], stack: &Stack, at: &Path) {
    let (count, folded) = folded(stack);
    if folded.as_ref().is_err_and(|invalid| invalid.contradictory) {
        return;
    }
    let (top, below) = stack.0[..count].split_last().unwrap();
    let mut diffs: Option<Vec<u8>> = None;
    for store in stores {
        let backend = store.backend().name();
        let mut parent = None;
        for layer in below {
            parent = Some(import_onto(store, parent.as_ref(), layer.tar().as_slice()).unwrap());
        }
        let name = match (import_onto(store, parent.as_ref(), top.tar().as_slice()), &folded) {
            (Ok(name), Ok(_)) => name,
            (Err(error), Err(_)) if error.kind() == ErrorKind::InvalidLayer => continue,
            (Ok(_), Err(invalid)) => panic!("{backend} accepts what the model refuses: {invalid}"),
            (Err(error), _) => panic!("{backend} refuses what the model accepts: {error}"),
        };
        let expected = folded.as_ref().unwrap();
        // On the disk the owners of a store that shifts them are others; what its diffs say is the model's.
        let difference = |name: &Name| match store.id_shift() {
            None => expected.difference(&mounted(store, Some(name), at)),
            Some(_) => Vec::new(),
        };
        let lines = difference(&name);
        assert!(lines.is_empty(), "{backend} differs from the model:\n  {}", lines.join("\n  "));

        let layer = diff(store, &name);
        assert_is_diff(backend, &layer, &model::fold(below).unwrap(), expected);
        let again =
            import_onto(store, parent.as_ref(), layer.as_slice()).unwrap_or_else(|error| panic!("{backend}'s diff: {error}"));
        let lines = difference(&again);
        assert!(lines.is_empty(), "{backend}: the diff, applied again, is another tree:\n  {}", lines.join("\n  "));
        assert!(diff(store, &again) == layer, "{backend}: the diff of the diff has other bytes");
        assert!(diffs.get_or_insert_with(|| layer.clone()) == &layer, "{backend}'s diff has other bytes");
    }
}

fn both_backends() -> Vec<TemporaryStore> {
    let open = |backend| Store::temporary_with(|options| options.backend(backend)).unwrap();
    [BackendChoice::Overlay, BackendChoice::Copy].map(open).into()
}

/// With every id there is another on the disk.
fn shifted() -> TemporaryStore {
    let map = "0:100000:4294867295,4294867295:0:100000".parse().unwrap();
    Store::temporary_with(|options| options.backend(BackendChoice::Copy).id_shift(map)).unwrap()
}

fn compare(power: Power) {
    let mut stores = both_backends();
    if matches!(power, Power::Root) {
        stores.push(shifted());
    }
    let directory = temporary_directory().unwrap();
    check(64, &stacks(power), |stack| {
        // A panic is a failure to proptest, and is minimised like one.
        backends_agree_with_the_model(&stores, &stack, directory.path());
        Ok(())
    });
}

#[test]
fn model_overlay_and_copy_are_the_same_trees() {
    Sandbox::root().disk(MEMORY).run(|| compare(Power::Root));
}

/// The layers in the middle of an image, from the top down, and what a full check says of them before and after they were asked for.
fn middles_are_the_models_trees(store: &Store, top: &Name, layers: &[Layer], at: &Path) {
    let whole = || {
        let outcome = store.check(&CheckOptions::default().full(), &Context::default()).unwrap();
        assert_eq!((outcome.findings.len(), outcome.unproven), (0, 0), "{:?}", outcome.findings);
    };
    whole();
    let mut next = store.stat(top.as_str()).unwrap().parent;
    for count in (1..layers.len()).rev() {
        let name = store.resolve(&next.unwrap()).unwrap();
        let lines = model::fold(&layers[..count]).unwrap().difference(&mounted(store, Some(&name), at));
        assert!(lines.is_empty(), "the lowest {count} differ from the model:\n  {}", lines.join("\n  "));
        next = store.stat(name.as_str()).unwrap().parent;
    }
    whole();
}

/// All layers of an image together, by threads that guess what their parents say, are the model's tree too.
fn images_are_the_models_trees(power: Power, usual: u32) {
    let directory = temporary_directory().unwrap();
    check(usual, &stacks(power), |stack| {
        let (count, folded) = folded(&stack);
        if folded.as_ref().is_err_and(|invalid| invalid.contradictory) {
            return Ok(());
        }
        let ways =
            [BackendChoice::Overlay, BackendChoice::Copy].into_iter().flat_map(|backend| [(backend.clone(), 1), (backend, 4)]);
        for (backend, threads) in ways {
            let parallelism = Parallelism::new(threads);
            let store = Store::temporary_with(|options| options.backend(backend).parallelism(parallelism)).unwrap();
            match (import_image(&store, &stack.0[..count]), &folded) {
                (Ok(name), Ok(expected)) => {
                    let lines = expected.difference(&mounted(&store, name.as_ref(), directory.path()));
                    assert!(lines.is_empty(), "{threads} threads differ from the model:\n  {}", lines.join("\n  "));
                    if let Some(name) = name.filter(|_| store.backend().is_whole()) {
                        middles_are_the_models_trees(&store, &name, &stack.0[..count], directory.path());
                    }
                }
                (Err(error), Err(_)) if error.kind() == ErrorKind::InvalidLayer => {}
                (Ok(_), Err(invalid)) => panic!("{threads} threads accept what the model refuses: {invalid}"),
                (Err(error), _) => panic!("{threads} threads refuse what the model accepts: {error}"),
            }
        }
        Ok(())
    });
}

#[test]
fn model_and_images_unpacked_by_threads_are_the_same_trees() {
    Sandbox::root().disk(MEMORY).run(|| images_are_the_models_trees(Power::Root, 48));
}

#[test]
fn model_overlay_and_copy_are_the_same_trees_in_a_user_namespace() {
    user_namespace().run(|| compare(Power::UserNamespace));
}

/// A container changes its tree: the commit keeps it, its diff makes it again on either backend, and how it came to be does not show
/// in the diff's bytes.
fn a_changed_tree_round_trips(stores: &[TemporaryStore], stack: &Stack, rounds: &[Vec<Change>], at: &Path) {
    let (count, folded) = folded(stack);
    let Ok(before) = folded else { return };
    let below = || stores.iter().map(|store| import_layers(store, &stack.0[..count]).unwrap()).collect::<Vec<_>>();
    for (index, store) in stores.iter().enumerate() {
        let backend = store.backend().name();
        let (mut lower, mut parents) = (before.clone(), below());
        for changes in rounds {
            let parent = parents[index].clone();
            let mut shown = show(store, parent.as_ref(), at, Access::ReadWrite).unwrap();
            changes.iter().for_each(|change| change.make(at));
            shown.unmount().unwrap();
            // Seen through a new mount: the old one remembers where copied-up inodes came from, and with `userxattr`, where a symlink
            // cannot keep its origin, shows two names of one such inode under two numbers.
            let again = store.mounts(shown.key().as_str()).unwrap().attach(at).unwrap();
            let written = Tree::read(at).unwrap();
            again.close().unwrap();

            let mut active = Vec::new();
            store.diff(shown.key().as_str(), &mut active, &DiffOptions::default(), &Context::default()).unwrap();
            assert_is_diff(backend, &active, &lower, &written);
            let name = Name::new(format!("committed-{}", shown.key())).unwrap();
            store.commit(&name, shown.key(), &Default::default()).unwrap();
            drop(shown);
            let lines = written.difference(&mounted(store, Some(&name), at));
            assert!(lines.is_empty(), "{backend}: the commit is another tree:\n  {}", lines.join("\n  "));
            assert!(diff(store, &name) == active, "{backend}: the commit's diff has other bytes");
            for (other, parent) in stores.iter().zip(&mut parents) {
                let way = format!("{backend} to {}", other.backend().name());
                let again = import_onto(other, parent.as_ref(), active.as_slice()).unwrap_or_else(|error| panic!("{way}: {error}"));
                let lines = written.difference(&mounted(other, Some(&again), at));
                assert!(lines.is_empty(), "{way}: the diff makes another tree:\n  {}", lines.join("\n  "));
                assert!(diff(other, &again) == active, "{way}: the diff of the diff has other bytes");
                *parent = Some(again);
            }
            lower = written;
        }
    }
}

fn change_and_compare(power: Power) {
    let stores = both_backends();
    let directory = temporary_directory().unwrap();
    check(32, &(stacks(power), vec(changes(), 1..3)), |(stack, rounds)| {
        a_changed_tree_round_trips(&stores, &stack, &rounds, directory.path());
        Ok(())
    });
}

#[test]
fn what_a_container_changes_round_trips() {
    Sandbox::root().disk(MEMORY).run(|| change_and_compare(Power::Root));
}

#[test]
fn what_a_container_changes_round_trips_in_a_user_namespace() {
    user_namespace().run(|| change_and_compare(Power::UserNamespace));
}
