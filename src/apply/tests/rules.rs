//! SEMANTICS §1, sentence by sentence, and random stacks against the model.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use std::sync::atomic::Ordering;

use super::stack::{CONFIRMED, GUESSED, OVERLAY, Stack, check, forms, gives, refuses, runs};
use crate::apply::Form;
use crate::sys::test_support::{Place, mounting};
use crate::testing::{Layer, Tree};
use crate::tree::{Answer, Detail};
use crate::whiteout::overlay::Style;

fn base() -> Layer {
    base_of(5, 6)
}

fn base_of(uid: u32, gid: u32) -> Layer {
    Layer::new()
        .dir("usr", 0o755)
        .dir("usr/lib", 0o750)
        .owner(uid, gid)
        .mtime(7, 8)
        .xattr("user.note", "low")
        .file("usr/lib/x", "low")
        .dir("usr/lib/sub", 0o700)
        .file("usr/lib/sub/deep", "low")
        .symlink("lib", "usr/lib")
        .symlink("absolute", "/usr/lib")
        .symlink("up", "../../usr/lib")
        .symlink("dangling", "not/there")
        .symlink("loop", "loop")
        .symlink("tofile", "usr/lib/x")
        .file("a", "low")
        .hardlink("b", "a")
        .hardlink("c", "a")
        .dir("d", 0o711)
        .mtime(9, 0)
        .file("d/low", "low")
        .dir("d/sub", 0o700)
        .file("d/sub/low", "low")
}

/// What [`base`] makes.
fn tree() -> Tree {
    crate::testing::model::fold(&[base()]).unwrap()
}

#[test]
fn the_rules_hold_in_both_forms() {
    if !runs("the_rules_hold_in_both_forms") {
        return;
    }
    let layers = layers().into_iter().chain([
        ("new metadata replaces the old", Layer::new().dir("usr/lib", 0o1777).owner(1, 2).xattr("user.other", "new")),
        ("the root", Layer::new().dir("", 0o710).owner(3, 4).mtime(-5, 6).xattr("user.root", "x")),
        ("devices", Layer::new().char_device("null", 1, 3).block_device("disk", 8, 0).mode(0o4755)),
        ("a device over a directory", Layer::new().char_device("d", 1, 3)),
        ("a device over a file", Layer::new().block_device("a", 8, 0)),
    ]);
    check_each(layers.collect(), &base()).unwrap();
}

/// Each rule as a layer over nothing, over the base, and over more.
fn check_each(layers: Vec<(&str, Layer)>, base: &Layer) -> Result<(), String> {
    let more = vec![base.clone(), Layer::new().file("d/second", ""), Layer::new().whiteout("usr/lib/x")];
    let mut failed = Vec::new();
    for (rule, layer) in layers {
        for below in [vec![], vec![base.clone()], more.clone()] {
            let stack: Vec<Layer> = below.into_iter().chain([layer.clone()]).collect();
            failed.extend(check(&stack).err().map(|text| format!("{rule}: {text}")));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("{} failed\n{}", failed.len(), failed.join("\n\n"))) }
}

#[test]
fn the_rules_hold_in_a_user_namespace() {
    // With one id: owners are root, and there are no devices.
    mounting(|place| {
        if place == Place::UserNamespace {
            assert!(matches!(forms()[0], Form::Overlay { style: Style::User, .. }));
            check_each(layers(), &base_of(0, 0)).and_then(|()| random(60)).unwrap_or_else(|text| panic!("{text}"));
        }
    });
}

/// One layer a rule; owners are 0:0, and devices are not in them.
fn layers() -> Vec<(&'static str, Layer)> {
    let l = Layer::new;
    vec![
        ("nothing", l()),
        ("marker after its entry", l().file("a", "new").whiteout("a")),
        ("marker before its entry", l().whiteout("a").file("a", "new")),
        ("hidden symlinks are not there for parents", l().file("lib/x", "new").whiteout("lib")),
        ("hidden directories are not there for parents", l().file("usr/lib/x", "new").whiteout("usr/lib")),
        ("hidden targets are not there for links", l().hardlink("n", "a").file("a", "new").whiteout("a")),
        ("a hidden directory is no link target", l().hardlink("n", "d").file("d", "new").whiteout("d")),
        ("a file over a directory", l().file("d", "new")),
        ("a directory over a file", l().dir("a", 0o700).file("a/new", "")),
        ("what was replaced does not come back", l().dir("d", 0o700).file("d", "").dir("d", 0o701)),
        ("nor below an implied directory", l().file("d", "").file("d/new", "")),
        ("nor what a symlink replaced", l().symlink("d", "loop2").symlink("loop2", "d").file("d/new", "").file("d/sub/x", "")),
        ("whiteout beside the directory", l().whiteout("d").dir("d", 0o700).file("d/new", "")),
        ("whiteout beside implied content", l().whiteout("d").file("d/new", "").file("d/sub/new", "")),
        ("opaque", l().opaque("d").file("d/new", "").dir("d/sub", 0o701)),
        ("opaque with implied content", l().opaque("d").file("d/sub/new", "")),
        ("opaque after implied content", l().file("d/sub/new", "").opaque("d")),
        ("opaque alone keeps the directory's attributes", l().opaque("d")),
        ("opaque through a symlink", l().opaque("lib")),
        ("the root opaque", l().opaque("").file("new", "").file("d/new", "")),
        ("the root opaque after use", l().file("usr/lib/new", "").file("lib/new", "").opaque("")),
        ("a marker through a symlink", l().whiteout("lib/x")),
        ("a marker through a replaced symlink", l().dir("lib", 0o755).opaque("lib").whiteout("lib/x")),
        ("a marker through a hidden symlink", l().whiteout("lib").whiteout("lib/x")),
        ("markers in the void", l().whiteout("none").whiteout("no/ne").whiteout("dangling/x").whiteout("loop/x").whiteout("a/x")),
        ("a marker below a marker", l().whiteout("d").whiteout("d/sub").whiteout("d/sub/low")),
        ("a marker in an opaque directory", l().opaque("d").whiteout("d/sub").file("d/sub2/x", "")),
        ("a marker where a file replaced", l().file("d", "").whiteout("d/low").opaque("d")),
        ("implied parents keep their attributes", l().file("usr/lib/new", "")),
        ("an entry after what it implies", l().file("d/new", "").dir("d", 0o755)),
        ("a directory in the place of an implied one", l().file("d/new", "").file("d", "").dir("d", 0o755)),
        ("an implied directory in the place of one", l().file("d/new", "").file("d", "").file("d/new", "")),
        ("an absolute symlink", l().file("absolute/new", "")),
        ("a symlink that climbs", l().file("up/new", "")),
        ("a dangling symlink", l().file("dangling/new", "")),
        ("a loop is replaced", l().file("loop/new", "")),
        ("a symlink to a file is replaced", l().file("tofile/new", "")),
        ("a file on the way is replaced", l().file("a/new", "")),
        ("an explicit directory replaces the symlink from there on", l().file("lib/one", "").dir("lib", 0o700).file("lib/two", "")),
        ("symlinks of this layer", l().symlink("l", "usr/new/../made").file("l/x", "")),
        ("a detour is made", l().symlink("l", "one/../two/./three/../../four").file("l/x", "")),
        ("a detour back to a detour", l().symlink("l", "one/../two/../one").file("l/x", "")),
        (
            "a detour through a name that no file system has",
            l().symlink("l", format!("one/../{}/..", "n".repeat(256))).file("l/x", ""),
        ),
        ("deep, and back to the middle", l().file(format!("{}x", "d/".repeat(80)), "").file(format!("{}x", "d/".repeat(10)), "")),
        (
            "the last entry of a directory counts",
            l().dir("n", 0o700).xattr("user.a", "1").file("a", "").dir("n", 0o711).xattr("user.b", "2"),
        ),
        (
            "also of one that hides",
            l().file("d", "").dir("d", 0o700).xattr("user.a", "1").file("a", "").dir("d", 0o711).file("d/low", "new"),
        ),
        ("a failed detour is not", l().file("f", "").symlink("l", "one/../f").file("l/x", "")),
        ("a lower target leaves its group", l().hardlink("n", "a").hardlink("m", "a")),
        ("a target through a symlink", l().hardlink("n", "lib/x").hardlink("m", "/absolute/x")),
        ("a symlink as a target", l().hardlink("n", "lib")),
        ("a link that waits", l().hardlink("n", "later").file("later", "x")),
        ("a chain that waits", l().hardlink("n3", "n2").hardlink("n2", "n1").hardlink("n1", "later").file("later", "x")),
        ("a waiting link is dropped", l().hardlink("n", "never").file("n", "x")),
        ("a link to its own name", l().hardlink("a", "a").hardlink("/d/../a".trim_start_matches("/d/.."), "a")),
        ("a link over a directory", l().hardlink("d", "a")),
        ("a link of this layer's file over it", l().file("f", "x").hardlink("d", "f").hardlink("f", "d")),
        ("aufs's links", l().file(".wh..wh.plnk/1.2", "x").hardlink("n", ".wh..wh.plnk/1.2").hardlink("m", ".wh..wh.plnk/1.2")),
        ("aufs's links to the lower tree", l().hardlink(".wh..wh.plnk/1.2", "a").hardlink("n", ".wh..wh.plnk/1.2")),
        ("aufs's links to what is hidden", l().hardlink(".wh..wh.plnk/1.2", "a").hardlink("n", ".wh..wh.plnk/1.2").whiteout("a")),
        (
            "aufs's links to a name of the layer",
            l().file("a", "new").hardlink(".wh..wh.plnk/1.2", "a").hardlink("n", ".wh..wh.plnk/1.2"),
        ),
        ("aufs's links that wait", l().hardlink("n", ".wh..wh.plnk/1.2").file(".wh..wh.plnk/1.2", "x")),
        ("a lower hardlink replaced", l().file("a", "new")),
        ("a FIFO", l().fifo("p").fifo("d").mode(0o4755)),
    ]
}

#[test]
fn the_model_is_not_alone() {
    if !runs("the_model_is_not_alone") {
        return;
    }
    // A few written out by hand: else the model could be wrong in the same way.
    gives(
        &[base(), Layer::new().dir("d", 0o700).file("d", "").dir("d", 0o701).whiteout("usr").whiteout("a")],
        &Tree::new()
            .symlink("lib", "usr/lib")
            .symlink("absolute", "/usr/lib")
            .symlink("up", "../../usr/lib")
            .symlink("dangling", "not/there")
            .symlink("loop", "loop")
            .symlink("tofile", "usr/lib/x")
            .file("b", "low")
            .hardlink("c", "b")
            .dir("d", 0o701),
    );
    gives(
        &[Layer::new().dir("d", 0o711).mtime(9, 0).file("d/low", "").symlink("l", "d"), Layer::new().opaque("d").file("l/new", "")],
        &Tree::new().dir("d", 0o711).mtime(9, 0).file("d/new", "").symlink("l", "d"),
    );
    assert!(tree().get("usr/lib/sub/deep").is_some());
}

#[test]
fn layers_that_mean_nothing_are_refused() {
    if !runs("layers_that_mean_nothing_are_refused") {
        return;
    }
    let l = Layer::new;
    for layer in [
        l().hardlink("n", "never"),
        l().hardlink("n", "d"),
        l().hardlink("n", "m").hardlink("m", "n"),
        l().hardlink("d", "d/low"),
        l().hardlink("a/x", "a"),
        l().file("", "x"),
        l().hardlink("n", "a").whiteout("a"),
        l().hardlink("n", ""),
        l().hardlink("n", "l".repeat(256)),
        l().hardlink("", "a"),
        l().dir(".wh..wh.plnk/d", 0o755).hardlink("n", ".wh..wh.plnk/d"),
        // Each hides the way of the other.
        l().whiteout("here/there").whiteout("there/here"),
    ] {
        refuses(&[base().symlink("here", ".").symlink("there", "."), layer]);
    }
}

#[test]
fn an_entry_asks_only_what_it_needs() {
    if !runs("an_entry_asks_only_what_it_needs") {
        return;
    }
    let asked = |layer: Layer| {
        let mut stack = Stack::new(OVERLAY);
        stack.apply(&base()).unwrap();
        let facts = stack.apply(&layer).unwrap().facts;
        facts.into_iter().map(|fact| (fact.question.path.to_string(), fact.question.detail, fact.answer)).collect::<Vec<_>>()
    };
    assert_eq!(asked(Layer::new().dir("usr", 0o755).dir("usr/lib", 0o755).file("usr/lib/x", "").dir("d", 0o755)), []);
    assert_eq!(asked(Layer::new().dir("d", 0o755).file("d/new/x", "")), [("d/new".to_owned(), Detail::Kind, Answer::Absent)]);
    let facts = asked(Layer::new().file("lib/sub/x", ""));
    assert_eq!(facts[0], ("lib".to_owned(), Detail::Kind, Answer::Symlink(b"usr/lib".to_vec())));
    let paths: Vec<_> = facts.iter().map(|(path, detail, _)| (path.as_str(), *detail)).collect();
    let attributes = Detail::Attributes;
    assert_eq!(paths, [("lib", Detail::Kind), ("usr", attributes), ("usr/lib", attributes), ("usr/lib/sub", attributes)]);
    assert_eq!(asked(Layer::new().opaque("").whiteout("usr/lib/x")), []);
    assert_eq!(asked(Layer::new().hardlink("n", "a"))[0].1, Detail::Content);
}

fn member() -> impl Strategy<Value = (u8, usize, usize, u32)> {
    (0..10_u8, 0..NAMES.len(), 0..TARGETS.len(), 0..4_u32)
}

pub(super) const NAMES: &[&str] = &["a", "b", "c", "a/b", "a/c", "b/a", "b/c", "a/b/c", "c/a/b", "b/a/c"];
pub(super) const TARGETS: &[&str] = &["a", "b", "c", "a/b", "b/a", "..", "/b", "../c", "x/../a", "a/b/c", ".", "c/y"];

fn layer(members: Vec<(u8, usize, usize, u32)>) -> Layer {
    members.into_iter().fold(Layer::new(), |layer, (kind, name, target, number)| {
        let (name, target) = (NAMES[name], TARGETS[target]);
        match kind {
            0 | 1 => layer.file(name, number.to_string()).mtime(i64::from(number), 0),
            2 | 3 => layer.dir(name, 0o700 | number).mtime(i64::from(number), 1),
            4 | 5 => layer.symlink(name, target),
            6 => layer.whiteout(name),
            7 => layer.opaque(if number == 0 { "" } else { name }),
            _ => layer.hardlink(name, target.trim_start_matches("../").replace("x/../", "").replace("..", "a").replace('.', "b")),
        }
    })
}

#[test]
fn random_stacks_make_what_the_model_makes() {
    if !runs("random_stacks_make_what_the_model_makes") {
        return;
    }
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(150);
    random(cases).unwrap_or_else(|text| panic!("{text}"));
    let (guessed, confirmed) = (GUESSED.load(Ordering::Relaxed), CONFIRMED.load(Ordering::Relaxed));
    println!("{guessed} layers were applied by guesses, {confirmed} guesses were confirmed");
    assert!(confirmed > guessed / 10 && confirmed < guessed);
}

fn random(cases: u32) -> Result<(), String> {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() });
    let stacks = prop::collection::vec(prop::collection::vec(member(), 1..8), 1..4);
    let result = runner.run(&stacks, |stack| {
        let layers: Vec<Layer> = stack.into_iter().map(layer).collect();
        // The stack is valid up to the first layer that is refused: each is a case of its own.
        (1..=layers.len()).try_for_each(|count| check(&layers[..count])).map_err(TestCaseError::fail)
    });
    result.map_err(|error| error.to_string())
}
