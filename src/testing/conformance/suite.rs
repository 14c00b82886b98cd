//! What every backend must do beside making the right trees: the suite that a third party's backend is run through.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::through::{Shown, import_image, import_layers, import_onto, show, through_store};
use super::{Means, Outcome, cases, conformance};
use crate::backend::Backend;
use crate::entry::Attributes;
use crate::error::{ErrorKind, Result};
use crate::progress::{Context, Reason};
use crate::snapshot::Name;
use crate::store::{BackendChoice, DiffOptions, Store};
use crate::testing::temporary::{TemporaryStore, temporary_directory};
use crate::testing::tree::Kind;
use crate::testing::{Layer, Tree, model};
use crate::tree::{Access, Answer, Detail, Ids, Question, TreeId};

type Checked = std::result::Result<(), Box<dyn StdError>>;

/// Runs a backend through everything that the kit has. `make` makes one that keeps its trees in the given directory, which is empty.
pub fn backend_suite(means: Means, make: impl Fn(&Path) -> Result<Arc<dyn Backend>>) -> Outcome {
    store_suite(means, || {
        Store::temporary_in(std::env::temp_dir(), |place, options| {
            fs::create_dir(place).map_err(|error| crate::Error::io("mkdir", error).at(place))?;
            Ok(options.backend(BackendChoice::Custom(make(place)?)))
        })
    })
}

/// The same for the backend that a store has. `open` makes a new, empty store each time.
pub fn store_suite(means: Means, open: impl Fn() -> Result<TemporaryStore>) -> Outcome {
    let mut outcome = Outcome::default();
    match open() {
        Ok(store) => {
            outcome.add("views", conformance(means, through_store(&store, Access::ReadOnly)));
            outcome.add("active snapshots", conformance(means, through_store(&store, Access::ReadWrite)));
        }
        Err(error) => outcome.failures.push(format!("  no store: {error}")),
    }
    match open() {
        Ok(store) => outcome.add("views, after the layers came in by other ways", conformance(means, over_shared_trees(&store))),
        Err(error) => outcome.failures.push(format!("  no store: {error}")),
    }
    outcome.add("views of images whose layers came in together", images(means, &open));
    for (name, check) in CHECKS {
        outcome.ran += 1;
        let checked = open().map_err(Into::into).and_then(|store| check(&store, means));
        if let Err(error) = checked {
            let mut text = format!("  {name}\n    {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                text.push_str(&format!("\n    {cause}"));
                source = cause.source();
            }
            outcome.failures.push(text);
        }
    }
    outcome
}

/// Runs all cases as images, each imported into a new store as a whole: where a backend unpacks layers together, no tree of them is
/// there before.
pub fn images(means: Means, open: impl Fn() -> Result<TemporaryStore>) -> Outcome {
    conformance(means, |layers, at| {
        let store = open()?;
        let name = import_image(&store, layers)?;
        // The snapshot goes before its store.
        show(&store, name.as_ref(), at, Access::ReadOnly).map(|shown| (shown, store))
    })
}

/// Each layer is imported by itself first, and all in the other order: a backend that shares trees between stacks must see where it
/// may not.
fn over_shared_trees(store: &Store) -> impl Fn(&[Layer], &Path) -> Result<Shown> {
    let (store, unpack) = (Store::clone(store), through_store(store, Access::ReadOnly));
    move |layers, at| {
        let backwards: Vec<Layer> = layers.iter().rev().cloned().collect();
        for other in layers.iter().map(std::slice::from_ref).chain([backwards.as_slice()]) {
            // Not every one of these stacks is valid.
            drop(import_layers(&store, other));
        }
        unpack(layers, at)
    }
}

type Check = fn(&Store, Means) -> Checked;

const CHECKS: [(&str, Check); 14] = [
    ("a view refuses writes", a_view_refuses_writes),
    ("what is written in one snapshot is seen in no other", writes_stay_in_their_snapshot),
    ("a commit keeps what was written, to the nanosecond", a_commit_keeps_what_was_written),
    ("one layer over many parents is the right tree over each", one_layer_over_many_parents),
    ("a diff of each case's top layer, applied again, is the same tree", diffs_round_trip),
    ("a diff of what a container changed, applied again, is the same tree", a_containers_changes_round_trip),
    ("a name that no layer can say is Unsupported, and nothing is written", a_markers_name_is_refused),
    ("a socket is left out of a diff, and reported", sockets_are_reported),
    ("usage counts an inode once", usage_counts_an_inode_once),
    ("what is removed is gone, and removing it again is success", removing_is_final),
    ("freezing a tree twice says the same", freezing_is_idempotent),
    ("an invalid layer leaves nothing", an_invalid_layer_leaves_nothing),
    ("a chain's answers are what stands there", answers_are_true),
    ("making a tree replaces what a crash left of it", making_replaces_leftovers),
];

fn sample() -> Layer {
    Layer::new()
        .dir("etc", 0o755)
        .file("etc/hosts", "localhost")
        .dir("var/old", 0o700)
        .file("var/old/log", "line")
        .file("var/old/deep/log", "line")
        .symlink("run", "var/run")
        .file("bin/tool", "#!")
        .mode(0o755)
        .hardlink("bin/alias", "bin/tool")
}

fn expect_same(expected: &Tree, found: &Tree) -> Checked {
    let lines = expected.difference(found);
    if lines.is_empty() { Ok(()) } else { Err(lines.join("\n    ").into()) }
}

fn a_view_refuses_writes(store: &Store, _: Means) -> Checked {
    let directory = temporary_directory()?;
    let name = import_layers(store, &[sample()])?;
    let shown = show(store, name.as_ref(), directory.path(), Access::ReadOnly)?;
    let written = [
        fs::write(directory.path().join("new"), ""),
        fs::write(directory.path().join("etc/hosts"), ""),
        fs::create_dir(directory.path().join("etc/new")),
        fs::remove_file(directory.path().join("bin/tool")),
    ];
    if written.iter().any(std::result::Result::is_ok) {
        return Err("something was written through a view".into());
    }
    expect_same(&model::fold(&[sample()])?, &Tree::read(directory.path())?)?;
    drop(shown);
    Ok(())
}

/// Changes a tree as a container would.
fn change(root: &Path) -> std::io::Result<()> {
    fs::write(root.join("etc/hosts"), "changed")?;
    fs::write(root.join("etc/new"), "new")?;
    fs::remove_dir_all(root.join("var/old"))?;
    fs::create_dir_all(root.join("var/old/deep"))?;
    fs::write(root.join("var/old/deep/fresh"), "")?;
    fs::remove_file(root.join("run"))?;
    fs::create_dir_all(root.join("run/lock"))?;
    fs::rename(root.join("bin/tool"), root.join("bin/moved"))?;
    fs::hard_link(root.join("bin/moved"), root.join("bin/third"))?;
    std::os::unix::fs::symlink("moved", root.join("bin/tool"))
}

fn writes_stay_in_their_snapshot(store: &Store, _: Means) -> Checked {
    let (one, other) = (temporary_directory()?, temporary_directory()?);
    let name = import_layers(store, &[sample()])?;
    let expected = model::fold(&[sample()])?;
    {
        let _one = show(store, name.as_ref(), one.path(), Access::ReadWrite)?;
        let _other = show(store, name.as_ref(), other.path(), Access::ReadWrite)?;
        change(one.path())?;
        expect_same(&expected, &Tree::read(other.path())?)?;
    }
    let _view = show(store, name.as_ref(), other.path(), Access::ReadOnly)?;
    expect_same(&expected, &Tree::read(other.path())?)
}

fn a_commit_keeps_what_was_written(store: &Store, _: Means) -> Checked {
    let directory = temporary_directory()?;
    let name = import_layers(store, &[sample()])?;
    let mut shown = show(store, name.as_ref(), directory.path(), Access::ReadWrite)?;
    change(directory.path())?;
    let written = Tree::read(directory.path())?;
    shown.unmount()?;
    let committed = Name::new("committed")?;
    store.commit(&committed, shown.key(), &Default::default())?;
    drop(shown);
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let _shown = show(store, Some(&committed), directory.path(), access)?;
        expect_same(&written, &Tree::read(directory.path())?)?;
    }
    Ok(())
}

/// Parents that differ in what a layer may ask of them. All in one store: a backend that shares trees must see where it may not.
fn one_layer_over_many_parents(store: &Store, _: Means) -> Checked {
    let layer = Layer::new;
    let mut parents = vec![
        vec![],
        vec![layer()],
        vec![layer().file("b", "")],
        vec![layer().file("a", "")],
        vec![layer().file("a", "other")],
        vec![layer().file("a", "").hardlink("b", "a")],
        vec![layer().dir("a", 0o700)],
        vec![layer().dir("a", 0o711).file("a/b", "")],
        vec![layer().dir("a/b", 0o700).file("a/b/c", "")],
    ];
    for target in ["/", ".", "..", "a", "b", "/b", "b/c", "missing"] {
        parents.push(vec![layer().symlink("a", target)]);
        parents.push(vec![layer().dir("b", 0o700).file("b/b", ""), layer().symlink("a", target)]);
        parents.push(vec![layer().symlink("b", "/").symlink("a", target)]);
    }
    let tops = [
        layer().opaque("a"),
        layer().whiteout("a"),
        layer().whiteout("a/b"),
        layer().opaque("a").file("a/x", ""),
        layer().file("a/x", ""),
        layer().file("a/b/x", ""),
        layer().dir("a", 0o750),
        layer().opaque(""),
        layer().hardlink("n", "a/b"),
        layer().hardlink("n", "a"),
        layer().hardlink("a/n", "b").file("b", "late"),
    ];
    let directory = temporary_directory()?;
    let mut wrong = Vec::new();
    for top in &tops {
        for parent in &parents {
            let stack = [parent.as_slice(), std::slice::from_ref(top)].concat();
            let seen = import_layers(store, &stack).and_then(|name| {
                let _shown = show(store, name.as_ref(), directory.path(), Access::ReadOnly)?;
                Tree::read(directory.path())
            });
            match (model::fold(&stack), seen) {
                (Ok(expected), Ok(found)) if expected == found => {}
                (Err(_), Err(error)) if error.kind() == ErrorKind::InvalidLayer => {}
                (Ok(expected), Ok(found)) => wrong.push(format!("{stack:?}: {}", expected.difference(&found).join("; "))),
                (Ok(_), Err(error)) => wrong.push(format!("{stack:?}: {error}")),
                (Err(invalid), _) => wrong.push(format!("{stack:?}: was not refused, though {invalid}")),
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n    ").into()) }
}

/// The layer that a snapshot is, against its parent.
fn diff(store: &Store, name: &str) -> Result<Vec<u8>> {
    let mut layer = Vec::new();
    store.diff(name, &mut layer, &DiffOptions::default(), &Context::default())?;
    Ok(layer)
}

fn diffs_round_trip(store: &Store, means: Means) -> Checked {
    let directory = temporary_directory()?;
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|case| case.lacks(means).is_none()) {
        let (super::Expected::Tree(expected), Some((_, below))) = (&case.expected, case.layers.split_last()) else { continue };
        let again = || -> Checked {
            let parent = import_layers(store, below)?;
            let Some(name) = import_layers(store, &case.layers)? else { return Ok(()) };
            let layer = diff(store, name.as_str())?;
            let again = import_onto(store, parent.as_ref(), layer.as_slice())?;
            let _shown = show(store, Some(&again), directory.path(), Access::ReadOnly)?;
            expect_same(expected, &Tree::read(directory.path())?)
        };
        if let Err(error) = again() {
            wrong.push(format!("{} {}: {:?}\n      {error}", case.rule, case.name, case.layers));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n    ").into()) }
}

fn a_containers_changes_round_trip(store: &Store, _: Means) -> Checked {
    let directory = temporary_directory()?;
    let name = import_layers(store, &[sample()])?;
    let mut shown = show(store, name.as_ref(), directory.path(), Access::ReadWrite)?;
    change(directory.path())?;
    let written = Tree::read(directory.path())?;
    shown.unmount()?;
    let active = diff(store, shown.key().as_str())?;
    store.commit(&Name::new("committed")?, shown.key(), &Default::default())?;
    if diff(store, "committed")? != active {
        return Err("an Active snapshot and its commit have different diffs".into());
    }
    drop(shown);
    let again = import_onto(store, name.as_ref(), active.as_slice())?;
    let _shown = show(store, Some(&again), directory.path(), Access::ReadOnly)?;
    expect_same(&written, &Tree::read(directory.path())?)
}

fn a_markers_name_is_refused(store: &Store, _: Means) -> Checked {
    let directory = temporary_directory()?;
    let name = import_layers(store, &[sample()])?;
    let shown = show(store, name.as_ref(), directory.path(), Access::ReadWrite)?;
    fs::write(directory.path().join("bin/.wh.tool"), "")?;
    let mut layer = Vec::new();
    match store.diff(shown.key().as_str(), &mut layer, &DiffOptions::default(), &Context::default()) {
        Err(error) if error.kind() == ErrorKind::Unsupported && layer.is_empty() => {
            let path = error.path().map(Path::to_owned);
            if path.as_deref() == Some(Path::new("bin/.wh.tool")) {
                Ok(())
            } else {
                Err(format!("the error names {path:?}").into())
            }
        }
        other => Err(format!("{other:?}, and {} bytes were written", layer.len()).into()),
    }
}

fn sockets_are_reported(store: &Store, _: Means) -> Checked {
    let directory = temporary_directory()?;
    let shown = show(store, None, directory.path(), Access::ReadWrite)?;
    fs::create_dir(directory.path().join("run"))?;
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("run/socket"))?);
    let mut layer = Vec::new();
    let outcome = store.diff(shown.key().as_str(), &mut layer, &DiffOptions::default(), &Context::default())?;
    let told: Vec<_> = outcome.report.skipped.iter().map(|skipped| (skipped.path.as_str(), &skipped.reason)).collect();
    if told != [("run/socket", &Reason::Socket)] {
        return Err(format!("reported: {told:?}").into());
    }
    let again = import_onto(store, None, layer.as_slice())?;
    let _shown = show(store, Some(&again), directory.path(), Access::ReadOnly)?;
    let names: Vec<String> = Tree::read(directory.path())?.paths().map(ToString::to_string).collect();
    if names == [".", "run"] { Ok(()) } else { Err(format!("the diff makes {names:?}").into()) }
}

fn usage_counts_an_inode_once(store: &Store, _: Means) -> Checked {
    let one = Layer::new().file("d/a", vec![b'x'; 1 << 20]);
    let many = (0..10).fold(one.clone(), |layer, number| layer.hardlink(format!("d/l{number}"), "d/a"));
    let more = one.clone().file("d/b", vec![b'y'; 1 << 20]);
    let usage = |layer: Layer| -> std::result::Result<_, Box<dyn StdError>> {
        let name = import_layers(store, &[layer])?.ok_or("nothing was imported")?;
        Ok(store.usage(name.as_str())?)
    };
    let (one, many, more) = (usage(one)?, usage(many)?, usage(more)?);
    let sound = one.inodes == many.inodes && one.bytes >= 1 << 20 && many.bytes < 2 << 20 && more.inodes == one.inodes + 1;
    if sound { Ok(()) } else { Err(format!("one file: {one:?}; ten more names: {many:?}; another file: {more:?}").into()) }
}

/// Numbers of trees that the store itself will not come to.
const TREES: [TreeId; 3] = [TreeId(1 << 40), TreeId((1 << 40) + 1), TreeId((1 << 40) + 2)];

fn apply(backend: &dyn Backend, tree: TreeId, chain: &[TreeId], layer: &Layer) -> Result<()> {
    backend.apply(tree, chain, &mut layer.stream()?, Ids::Exact, &Context::default()).map(drop)
}

fn expect_no_tree(backend: &dyn Backend, tree: TreeId) -> Checked {
    match backend.usage(tree) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => Err(format!("the usage of a tree that is not there is NotFound, not {other:?}").into()),
    }
}

fn removing_is_final(store: &Store, _: Means) -> Checked {
    let (backend, [tree, ..]) = (store.backend(), TREES);
    backend.remove(tree)?;
    apply(backend, tree, &[], &sample().dir("closed", 0).file("closed/f", ""))?;
    backend.usage(tree)?;
    backend.remove(tree)?;
    expect_no_tree(backend, tree)?;
    Ok(backend.remove(tree)?)
}

fn freezing_is_idempotent(store: &Store, _: Means) -> Checked {
    let (backend, [lower, tree, _]) = (store.backend(), TREES);
    apply(backend, lower, &[], &sample())?;
    let root = Attributes { mode: 0o711, ..Attributes::implied() };
    backend.create(tree, &[lower], &root)?;
    let (first, second) = (backend.commit(tree)?, backend.commit(tree)?);
    if first != second || first.root.mode != 0o711 {
        return Err(format!("frozen once: {first:?}; twice: {second:?}").into());
    }
    Ok(())
}

fn an_invalid_layer_leaves_nothing(store: &Store, _: Means) -> Checked {
    let (backend, [lower, tree, _]) = (store.backend(), TREES);
    apply(backend, lower, &[], &sample())?;
    let layer = Layer::new().file("etc/hosts", "new").whiteout("bin").hardlink("b", "nowhere");
    match apply(backend, tree, &[lower], &layer) {
        Err(error) if error.kind() == ErrorKind::InvalidLayer => expect_no_tree(backend, tree),
        other => Err(format!("the layer is InvalidLayer, not {other:?}").into()),
    }
}

/// Each path of the tree, and some beside it, asked for in full.
fn answers_are_true(store: &Store, _: Means) -> Checked {
    let (backend, [lower, tree, _]) = (store.backend(), TREES);
    let layers = [
        sample().file("same", "localhost"),
        Layer::new().whiteout("bin/tool").file("etc/new", "x").dir("var/old", 0o711).opaque("var/old").symlink("s", "etc"),
    ];
    let expected = model::fold(&layers)?;
    apply(backend, lower, &[], &layers[0])?;
    apply(backend, tree, &[lower], &layers[1])?;
    let beside = ["bin/tool", "var/old/log", "nowhere/x", "etc/hosts/x", "s/hosts"].map(crate::testing::tree::literal_path);
    let paths = expected.paths().filter(|path| !path.is_root()).chain(&beside);
    let questions: Vec<Question> = paths.map(|path| Question { path: path.clone(), detail: Detail::Content }).collect();
    let answers = backend.answer(&[tree, lower], &questions)?;
    if answers.len() != questions.len() {
        return Err("not one answer for each question".into());
    }
    let mut contents = BTreeMap::new();
    for (question, answer) in questions.iter().zip(answers) {
        let inode = expected.inode(&question.path);
        let right = match (inode.map(|inode| &inode.kind), &answer) {
            (None, Answer::Absent) => true,
            (Some(Kind::Directory), Answer::Directory(Some(attributes))) => {
                inode.is_some_and(|inode| inode.attributes == **attributes)
            }
            (Some(Kind::File(_) | Kind::Symlink(_)), Answer::Other(Some(digest))) => {
                contents.insert(question.path.clone(), digest.clone());
                true
            }
            _ => false,
        };
        if !right {
            return Err(format!("{}: {answer:?}, but there is {inode:?}", question.path).into());
        }
    }
    let symlink = Question { path: crate::testing::tree::literal_path("s"), detail: Detail::Kind };
    if backend.answer(&[tree, lower], &[symlink])? != [Answer::Symlink(b"etc".to_vec())] {
        return Err("a symlink's target is its kind".into());
    }
    let content = |path: &str| contents.get(&crate::testing::tree::literal_path(path));
    if content("same") != content("etc/hosts") || content("same") == content("etc/new") {
        return Err("equal files have equal digests, and others others".into());
    }
    Ok(())
}

fn making_replaces_leftovers(store: &Store, _: Means) -> Checked {
    let (backend, [tree, ..]) = (store.backend(), TREES);
    let directory = temporary_directory()?;
    apply(backend, tree, &[], &sample())?;
    backend.create(tree, &[], &Attributes::implied())?;
    let mounted = backend.mount(tree, &[], Access::ReadWrite)?.attach(directory.path())?;
    expect_same(&Tree::new(), &Tree::read(directory.path())?)?;
    Ok(mounted.close()?)
}
