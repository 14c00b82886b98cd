//! A tree may stand wherever its facts hold: whether it was made over a parent or by guesses, it is the one that is made there.
//!
//! Random stacks of more kinds of members than those of `rules`: directories that are described as nobody describes them, entries of
//! what was implied before, root entries, attributes, aufs's links.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::rules::{NAMES, TARGETS};
use super::stack::{OVERLAY, Stack, check, runs};
use crate::testing::Layer;
use crate::testing::model::fold;

type Member = (u8, usize, usize, u32);

fn member() -> impl Strategy<Value = Member> {
    (0..20_u8, 0..NAMES.len(), 0..TARGETS.len(), 0..4_u32)
}

fn layer(below: &[Layer], members: &[Member]) -> Layer {
    members.iter().fold(Layer::new(), |layer, member| {
        let more = with(layer.clone(), member);
        // Mostly links without a target.
        if fold(&whole(below, &more)).is_ok() { more } else { layer }
    })
}

fn whole(below: &[Layer], top: &Layer) -> Vec<Layer> {
    below.iter().chain([top]).cloned().collect()
}

fn stack_of(stack: &[Vec<Member>]) -> Vec<Layer> {
    stack.iter().fold(Vec::new(), |below, members| {
        let top = layer(&below, members);
        whole(&below, &top)
    })
}

fn with(layer: Layer, &(kind, name, target, number): &Member) -> Layer {
    let (name, target) = (NAMES[name], TARGETS[target]);
    let plain = || target.trim_start_matches("../").replace("x/../", "").replace("..", "a").replace('.', "b");
    let aside = format!(".wh..wh.plnk/{number}");
    match kind {
        0 | 1 => layer.file(name, number.to_string()).mtime(i64::from(number), 0),
        2 => layer.file(format!("{name}/x"), "deep"),
        3 => layer.dir(name, 0o700 | number).mtime(i64::from(number), 1),
        // What an implied directory has.
        4 => layer.dir(name, 0o755).mtime(0, 0),
        5 => layer.dir(name, 0o2750).owner(number, 7).xattr("user.note", number.to_string()),
        6 => layer.dir(name, 0o755).xattr("trusted.overlay.opaque", "y").xattr("trusted.other", "left out"),
        7 | 8 => layer.symlink(name, target),
        9 | 10 => layer.whiteout(name),
        11 => layer.opaque(if number == 0 { "" } else { name }),
        12 | 13 => layer.hardlink(name, plain()),
        14 => layer.dir("", 0o700 | number).mtime(i64::from(number), 2),
        15 => layer.file(aside, "aside"),
        16 => layer.hardlink(name, aside),
        17 => layer.hardlink(aside, plain()),
        18 => layer.fifo(name).mode(0o4755).owner(3, number),
        _ => layer.char_device(name, 1, number),
    }
}

/// Another parent: a member less, or one more.
fn changed(stack: &[Vec<Member>], at: usize, more: Option<Member>) -> Vec<Vec<Member>> {
    let mut stack = stack.to_vec();
    let index = at % stack.len();
    let layer = &mut stack[index];
    let place = at / 7 % (layer.len() + 1);
    match more {
        Some(member) => layer.insert(place, member),
        None => drop(layer.drain(place.min(layer.len() - 1)..).next()),
    }
    stack
}

#[test]
fn a_tree_is_the_same_wherever_its_facts_hold() {
    if !runs("a_tree_is_the_same_wherever_its_facts_hold") {
        return;
    }
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() });
    let members = |most| prop::collection::vec(member(), 1..most);
    let stacks = (prop::collection::vec(members(7), 1..3), members(7), any::<u16>(), prop::option::of(member()));
    let (held, guessed) = (Cell::new(0), Cell::new(0));
    let result = runner.run(&stacks, |(below, top, at, more)| {
        let (one, other) = (stack_of(&below), stack_of(&changed(&below, usize::from(at), more)));
        let top = layer(&one, &top);
        check(&whole(&one, &top)).map_err(TestCaseError::fail)?;
        let standing = |layers: &[Layer]| {
            let mut stack = Stack::new(OVERLAY);
            layers.iter().for_each(|layer| drop(stack.apply(layer).unwrap()));
            stack
        };
        let (mut here, there) = (standing(&one), standing(&other));
        let by_guesses = here.guess(&top).unwrap().map(|(tree, applied, _)| (tree, applied, true));
        let known = here.apply(&top).ok().map(|applied| (here.top().to_owned(), applied, false));
        for (tree, applied, is_guess) in known.into_iter().chain(by_guesses) {
            if !there.holds(&applied.facts) {
                continue;
            }
            let expected = fold(&whole(&other, &top)).map_err(|invalid| {
                TestCaseError::fail(format!("its facts {:?} hold where it is {invalid}: {other:#?}\n{top:#?}", applied.facts))
            })?;
            let difference = expected.difference(&there.with(&tree, &applied));
            prop_assert!(
                difference.is_empty(),
                "guessed {is_guess}, {:?}:\n{}\n{one:#?}\n{other:#?}\n{top:#?}",
                applied.facts,
                difference.join("\n")
            );
            let count = if is_guess { &guessed } else { &held };
            count.set(count.get() + 1);
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    println!("{} trees stood over another parent, {} more by guesses", held.get(), guessed.get());
    assert!(held.get() > 0 && guessed.get() > 0);
}
