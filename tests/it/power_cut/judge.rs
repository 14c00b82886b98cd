//! What a store must be after a power cut: whole, with all that was acknowledged, and with nothing that a collection leaves behind.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use plywood::snapshot::{Key, Kind};
use plywood::store::{CheckOptions, Damage, GcOptions, Store, StoreOptions};
use plywood::testing::{Tree, model, tree::assert_same_tree};
use plywood::{Context, Error, ErrorKind};

use super::story::{IMAGES, Moment, Story, Thing, Verb, image, name_of};
use crate::support::work::{self, chain};

/// What was seen after a cut.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Trees that no row names were put aside.
    pub(super) lost: usize,
    /// A quick check is content.
    pub(super) quick: bool,
}

/// Looks at the store that stands in `mounted`; in the end it is emptied, or its database is lost. What is wrong with it otherwise.
pub(super) fn judge(
    mounted: &Path,
    options: &StoreOptions,
    story: &Story,
    at: Moment,
    layouts: &Path,
    loses_database: bool,
) -> (Seen, Result<(), String>) {
    let mut options = options.clone();
    options.root = mounted.join("store");
    let mut seen = Seen::default();
    let judged = catch_unwind(AssertUnwindSafe(|| look(&options, story, at, (layouts, loses_database), &mut seen)));
    let verdict = judged.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
    });
    (seen, verdict)
}

fn look(
    options: &StoreOptions,
    story: &Story,
    at: Moment,
    (layouts, loses_database): (&Path, bool),
    seen: &mut Seen,
) -> Result<(), String> {
    let may = story.may_be(at);
    if may[&Thing::Store] == [1] && !options.root.join("plywood.db").exists() {
        return Err("the store is not there".to_owned());
    }
    let store = Store::open_with(options).map_err(told("open"))?;
    let cx = Context::default();
    seen.quick = store.check(&CheckOptions::default(), &cx).is_ok_and(|outcome| outcome.is_sound());

    let lost = work::names(&store.root().join("lost+found"));
    let outcome = store.check(&CheckOptions::default().full(), &cx).map_err(told("check"))?;
    seen.lost = outcome.findings.iter().filter(|finding| finding.damage == Damage::Lost).count();
    let stays: Vec<_> = outcome.findings.iter().filter(|finding| finding.stays()).map(ToString::to_string).collect();
    if !stays.is_empty() {
        return Err(format!("damaged: {stays:?}"));
    }
    if seen.lost != lost.len() {
        return Err(format!("in lost+found is {lost:?}, and the check says {:?}", outcome.findings));
    }

    for (thing, states) in &may {
        let is = state(&store, thing)?;
        // Labels go with what they are on.
        let went_with_it = is == 0 && matches!(thing, Thing::Labels(_));
        if !states.contains(&is) && !went_with_it {
            return Err(format!("{thing:?} is {is}, and may be {states:?}"));
        }
    }
    for verb in story.pending(at) {
        let Verb::Commit(key, name) = verb else { continue };
        let there = [Thing::Active(key.clone()), Thing::Committed(name.clone())].map(|thing| state(&store, &thing));
        if !matches!(there, [Ok(0), Ok(1)] | [Ok(1), Ok(0)]) {
            return Err(format!("half a commit: {there:?}"));
        }
    }

    // What was going on can be done.
    for verb in story.pending(at) {
        match verb.perform(&store, layouts) {
            Err(error) if is_done_already(verb, &error) => {}
            done => done.map_err(told("again"))?,
        }
    }
    store.gc(&Default::default(), &cx).map_err(told("gc"))?;
    let kept = work::names(&store.root().join("lost+found"));
    if kept != lost {
        return Err(format!("a collection that was not told to has taken {lost:?} to {kept:?}"));
    }
    store.gc(&GcOptions::default().lost_found(), &cx).map_err(told("gc --lost-found"))?;
    drop(store);
    if loses_database {
        return lose_the_database(options);
    }
    work::empty_store(&Store::open_with(options).map_err(told("open again"))?);
    Ok(())
}

/// Without its database a store names nothing any more. What may be containers' data is put aside as it is, named by a check, and goes
/// when it is asked for.
fn lose_the_database(options: &StoreOptions) -> Result<(), String> {
    let read = |place: &str| -> Result<BTreeMap<String, Tree>, String> {
        let trees = work::names(&options.root.join(place)).into_iter().filter(|name| name != "0");
        let read = |name: String| Tree::read(options.root.join(place).join(&name)).map(|tree| (name, tree));
        trees.map(read).collect::<Result<_, _>>().map_err(|error| error.to_string())
    };
    let before = read("trees")?;
    for name in ["plywood.db", "plywood.db-wal", "plywood.db-shm"] {
        let _ = std::fs::remove_file(options.root.join(name));
    }
    let store = Store::open_with(options).map_err(told("open without database"))?;
    let cx = Context::default();
    for told_to in [GcOptions::default(), GcOptions::default(), GcOptions::default().lost_found()] {
        let lost = read("lost+found")?;
        assert!(lost.keys().eq(before.keys()), "{:?} and {:?}", lost.keys(), before.keys());
        before.iter().for_each(|(name, tree)| assert_same_tree(tree, &lost[name]));
        let outcome = store.check(&CheckOptions::default().full(), &cx).map_err(told("check"))?;
        let named = outcome.findings.iter().filter(|finding| finding.damage == Damage::Lost && !finding.stays());
        assert_eq!((named.count(), outcome.findings.len()), (lost.len(), lost.len()), "{:?}", outcome.findings);
        store.gc(&told_to, &cx).map_err(told("gc without database"))?;
    }
    work::assert_nothing_left(&store);
    Ok(())
}

fn told(what: &str) -> impl Fn(Error) -> String + '_ {
    move |error| format!("{what}: {}", chain(&error))
}

fn is_done_already(verb: &Verb, error: &Error) -> bool {
    match verb {
        Verb::Prepare(..) => error.kind() == ErrorKind::AlreadyExists,
        Verb::Commit(..) => matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound),
        Verb::Remove(_) | Verb::Untag(_) => error.kind() == ErrorKind::NotFound,
        _ => false,
    }
}

/// How a thing is: 0 where it is not there, else 1, or the labels' version. It is whole, or that is the error.
fn state(store: &Store, thing: &Thing) -> Result<u64, String> {
    let info = |name: &str| match store.stat(name) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        info => info.map(Some).map_err(told("stat")),
    };
    match thing {
        Thing::Store => Ok(1),
        Thing::Image(number) => {
            let reference = format!("image {number}");
            if !store.images().map_err(told("images"))?.iter().any(|image| image.reference == reference) {
                return Ok(0);
            }
            look_at_image(store, *number).map(|()| 1)
        }
        Thing::Active(key) => {
            let Some(info) = info(key)? else { return Ok(0) };
            assert_eq!(info.kind, Kind::Active);
            let mount = store.mounts(key).map_err(told("mounts"))?;
            drop(mount.detached().map_err(told("mount"))?);
            Ok(1)
        }
        Thing::Committed(name) => {
            let Some(info) = info(name)? else { return Ok(0) };
            assert_eq!(info.kind, Kind::Committed);
            work::check_committed(store, name).map_err(told("diff")).map(|()| 1)
        }
        Thing::Labels(name) => {
            let info = info(name)?;
            Ok(info.and_then(|info| info.labels.get("version").map(|version| version.parse().unwrap())).unwrap_or_default())
        }
    }
}

/// An image that has its name has all its layers, and each byte of them.
fn look_at_image(store: &Store, number: u8) -> Result<(), String> {
    assert!(number < IMAGES);
    let key = Key::new("to be looked at").unwrap();
    let view = store.view(&key, Some(&name_of(number)), &Default::default()).map_err(told("view"))?;
    let mount = view.detached().map_err(told("mount a view"))?;
    let found = Tree::read(format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd())).map_err(|error| error.to_string())?;
    assert_same_tree(&model::fold(&image(number).layers()).unwrap(), &found);
    drop(mount);
    store.remove(key.as_str()).map_err(told("remove"))
}
