//! Layers that are applied to active snapshots, one after the other, make what imports make.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use plywood::mount::Mounted;
use plywood::snapshot::{Key, Name};
use plywood::store::{ApplyOptions, BackendChoice, CommitOptions, LayerSource, Store};
use plywood::testing::conformance::{Expected, Means, cases, conformance, show};
use plywood::testing::{Layer, Tree};
use plywood::tree::Access;
use plywood::{Context, ErrorKind, Result};

use crate::conformance::{MEMORY, user_namespace};
use crate::support::Sandbox;

fn fresh() -> (Key, Name) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    (Key::new(format!("extract {number}")).unwrap(), Name::new(format!("layer {number}")).unwrap())
}

fn apply(store: &Store, key: &Key, layer: &Layer) -> Result<()> {
    store.apply(key, LayerSource::reader(layer.tar().as_slice()), &ApplyOptions::default(), &Context::default()).map(drop)
}

/// An applied layer that is committed on `parent`; after an error the snapshot is as it was, and goes.
fn commit(store: &Store, parent: Option<&Name>, layer: &Layer) -> Result<Name> {
    let (key, name) = fresh();
    store.prepare(&key, parent, &Default::default())?;
    if let Err(error) = apply(store, &key, layer) {
        store.changes(key.as_str(), &Context::default(), |changed| panic!("{changed:?}")).unwrap();
        store.remove(key.as_str()).unwrap();
        return Err(error);
    }
    store.commit(&name, &key, &CommitOptions::default())?;
    Ok(name)
}

fn commit_all(store: &Store, layers: &[Layer]) -> Result<Option<Name>> {
    layers.iter().try_fold(None, |parent, layer| commit(store, parent.as_ref(), layer).map(Some))
}

/// A snapshot that is mounted, and goes when this is dropped.
struct Mounting {
    mounted: Option<Mounted>,
    store: Store,
    key: Key,
}

impl Drop for Mounting {
    fn drop(&mut self) {
        drop(self.mounted.take());
        self.store.remove(self.key.as_str()).unwrap();
    }
}

/// A view of what was committed.
fn committed(store: &Store, layers: &[Layer], at: &Path) -> Result<Mounting> {
    let (parent, (key, _)) = (commit_all(store, layers)?, fresh());
    let mount = store.view(&key, parent.as_ref(), &Default::default())?;
    let mut view = Mounting { mounted: None, store: store.clone(), key };
    view.mounted = Some(mount.attach(at)?);
    Ok(view)
}

/// The topmost layer stays active, and is seen by the mounts that were told before it came.
fn active(store: &Store, layers: &[Layer], at: &Path) -> Result<Mounting> {
    let Some((top, below)) = layers.split_last() else { return committed(store, layers, at) };
    let (parent, (key, _)) = (commit_all(store, below)?, fresh());
    let mount = store.prepare(&key, parent.as_ref(), &Default::default())?;
    let mut active = Mounting { mounted: None, store: store.clone(), key };
    apply(store, &active.key, top)?;
    active.mounted = Some(mount.attach(at)?);
    Ok(active)
}

/// Each case goes one way, and both in the long form.
fn run(backend: &BackendChoice, means: Means) {
    let rounds = if std::env::var_os("PLYWOOD_TEST_LONG").is_some() { 2 } else { 1 };
    for round in 0..rounds {
        let store = Store::temporary_with(|options| options.backend(backend.clone())).unwrap();
        let mut number = round;
        let outcome = conformance(means, |layers, at| {
            number += 1;
            if number % 2 == 0 { committed(&store, layers, at) } else { active(&store, layers, at) }
        });
        println!("{backend:?}, round {round}: {outcome}");
        outcome.assert_passed();
    }
}

#[test]
fn on_overlays_as_root() {
    Sandbox::root().disk(MEMORY).run(|| run(&BackendChoice::Overlay, Means::ROOT));
}

#[test]
fn on_copies_as_root() {
    Sandbox::root().disk(MEMORY).run(|| run(&BackendChoice::Copy, Means::ROOT));
}

#[test]
fn in_a_user_namespace() {
    user_namespace().run(|| {
        for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
            run(&backend, Means::USER_NAMESPACE);
        }
    });
}

/// A layer that was applied to nothing gets a parent where it is the same tree on that, and no other.
#[test]
fn a_new_parent_makes_the_same_tree_or_is_refused() {
    Sandbox::root().disk(MEMORY).run(|| {
        let store = Store::temporary_with(|options| options.backend(BackendChoice::Overlay)).unwrap();
        let (mut same, mut refused) = (0, 0);
        for case in cases() {
            let (Some((top, below)), Expected::Tree(tree)) = (case.layers.split_last(), &case.expected) else { continue };
            let Some(parent) = commit_all(&store, below).unwrap() else { continue };
            let (key, name) = fresh();
            store.prepare(&key, None, &Default::default()).unwrap();
            // A link to what is below is none on nothing.
            if apply(&store, &key, top).is_err() {
                refused += 1;
                continue;
            }
            match store.commit(&name, &key, &CommitOptions::default().parent(parent)) {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                    refused += 1;
                }
                Ok(_) => {
                    let at = tempfile::tempdir().unwrap();
                    let shown = show(&store, Some(&name), at.path(), Access::ReadOnly).unwrap();
                    let difference = tree.difference(&Tree::read(at.path()).unwrap());
                    assert_eq!(difference, Vec::<String>::new(), "{} {}", case.rule, case.name);
                    drop(shown);
                    same += 1;
                }
            }
        }
        println!("{same} the same, {refused} refused");
        assert!(same > 20 && refused > 20);
    });
}

/// All layers of a stack are applied before one is committed, the topmost first, and put onto each other then.
#[test]
fn layers_that_are_applied_ahead_are_the_ones_that_are_applied_in_turn_or_are_refused() {
    Sandbox::root().disk(MEMORY).run(|| {
        let store = Store::temporary_with(|options| options.backend(BackendChoice::Overlay)).unwrap();
        let (mut same, mut refused) = (0, Vec::new());
        for case in cases() {
            let Expected::Tree(tree) = &case.expected else { continue };
            let keys: Vec<_> = case.layers.iter().map(|_| fresh()).collect();
            let put = || -> Result<Option<Name>> {
                for (number, (layer, (key, _))) in case.layers.iter().zip(&keys).enumerate().rev() {
                    store.prepare(key, None, &Default::default())?;
                    let bytes = layer.tar();
                    let (source, options) = (LayerSource::reader(bytes.as_slice()), ApplyOptions::default());
                    // The lowest stands on nothing for good.
                    let options = if number > 0 { options.ahead() } else { options };
                    store.apply(key, source, &options, &Context::default())?;
                }
                keys.iter().try_fold(None::<Name>, |parent, (key, name)| {
                    let options = CommitOptions::default();
                    store.commit(name, key, &parent.map_or(options.clone(), |parent| options.parent(parent)))?;
                    Ok(Some(name.clone()))
                })
            };
            match put() {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error} {error:?}");
                    refused.push(format!("{} {}", case.rule, case.name));
                }
                Ok(name) => {
                    let at = tempfile::tempdir().unwrap();
                    let shown = show(&store, name.as_ref(), at.path(), Access::ReadOnly).unwrap();
                    let difference = tree.difference(&Tree::read(at.path()).unwrap());
                    assert_eq!(difference, Vec::<String>::new(), "{} {}", case.rule, case.name);
                    drop(shown);
                    same += 1;
                }
            }
        }
        println!("{same} the same; refused: {refused:#?}");
        assert!(same > refused.len());
    });
}

#[test]
fn a_root_directory_that_a_layer_applied_ahead_describes_is_its_own() {
    Sandbox::root().disk(MEMORY).run(|| {
        let store = Store::temporary_with(|options| options.backend(BackendChoice::Overlay)).unwrap();
        let below = Layer::new().dir("", 0o711).mtime(1000, 0);
        let parent = commit(&store, None, &below).unwrap();
        // As a new root is, but for its time; and not described.
        for above in [Layer::new().dir("", 0o755).mtime(2000, 0).file("x", "x"), Layer::new().file("x", "x")] {
            let in_turn = commit(&store, Some(&parent), &above).unwrap();
            let (key, name) = fresh();
            store.prepare(&key, None, &Default::default()).unwrap();
            let bytes = above.tar();
            let (source, options) = (LayerSource::reader(bytes.as_slice()), ApplyOptions::default().ahead());
            store.apply(&key, source, &options, &Context::default()).unwrap();
            store.commit(&name, &key, &CommitOptions::default().parent(parent.clone())).unwrap();
            let [in_turn, ahead] = [in_turn, name].map(|name| {
                let at = tempfile::tempdir().unwrap();
                let _shown = show(&store, Some(&name), at.path(), Access::ReadOnly).unwrap();
                Tree::read(at.path()).unwrap()
            });
            assert_eq!(in_turn.difference(&ahead), Vec::<String>::new());
        }
    });
}

#[test]
fn what_is_mounted_or_changed_is_refused_and_stays() {
    Sandbox::root().disk(MEMORY).run(|| {
        let store = Store::temporary_with(|options| options.backend(BackendChoice::Overlay)).unwrap();
        let layer = Layer::new().dir("", 0o755).file("new", "new");
        let (key, _) = fresh();
        let mount = store.prepare(&key, None, &Default::default()).unwrap();
        let at = tempfile::tempdir().unwrap();
        let mounted = mount.attach(at.path()).unwrap();
        assert_eq!(apply(&store, &key, &layer).unwrap_err().kind(), ErrorKind::InUse);
        std::fs::write(at.path().join("mine"), "mine").unwrap();
        mounted.close().unwrap();
        assert_eq!(apply(&store, &key, &layer).unwrap_err().kind(), ErrorKind::Unsupported);
        let mounted = mount.attach(at.path()).unwrap();
        assert!(at.path().join("mine").exists() && !at.path().join("new").exists());
        drop(mounted);

        // On a copy it is one more layer on what is there.
        let store = Store::temporary_with(|options| options.backend(BackendChoice::Copy)).unwrap();
        let mount = store.prepare(&key, None, &Default::default()).unwrap();
        let mounted = mount.attach(at.path()).unwrap();
        assert_eq!(apply(&store, &key, &layer).unwrap_err().kind(), ErrorKind::InUse);
        std::fs::write(at.path().join("mine"), "mine").unwrap();
        mounted.close().unwrap();
        apply(&store, &key, &layer).unwrap();
        let _mounted = mount.attach(at.path()).unwrap();
        assert!(at.path().join("mine").exists() && at.path().join("new").exists());
    });
}
