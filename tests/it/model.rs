//! Random stacks of layers: the model of the tree rule against what the backends make, and back through diff.
//!
//! `PLYWOOD_TEST_LONG=N` runs N stacks instead of the few of an ordinary run, `PLYWOOD_TEST_SEED=HEX` another sequence than the usual
//! one. A failure prints the smallest stack that shows it, as it would stand in a test's source.

mod stacks;

use std::fmt::Debug;

use plywood::testing::model::{self, Invalid};
use plywood::testing::tree::assert_same_tree;
use plywood::testing::{Layer, Tree};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestError, TestRng, TestRunner};

use stacks::{Stack, stacks, with_markers_moved};

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
    check(2_000, &stacks(), |stack| {
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
