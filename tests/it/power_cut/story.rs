//! What is done to a store while the disk is recorded, and what of it must be there after a power cut.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use plywood::compression::Compression;
use plywood::snapshot::{Key, Name};
use plywood::store::{ImageSource, ImportOptions, LabelUpdate, Store, StoreOptions};
use plywood::testing::{Image, Layer};
use plywood::{Context, Result};
use rustix::fs::{Advice, fadvise};

use super::recorder::Recorder;
use crate::support::Others;
use crate::support::work::{self, Dice, chain};

/// What the story is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    Imports,
    Commits,
    Removals,
    Collections,
    Checkpoints,
    /// Some of each.
    Mixed,
}

impl Workload {
    /// What the long form goes through.
    pub(super) const LONG: [Self; 5] = [Self::Imports, Self::Commits, Self::Removals, Self::Collections, Self::Checkpoints];
}

/// One verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Make,
    Import(u8),
    Untag(u8),
    Prepare(String, Parent),
    /// The key, and the name that it gets.
    Commit(String, String),
    Remove(String),
    Collect,
    /// Large labels of this version.
    Label(String, u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    Nothing,
    Image(u8),
    Named(String),
}

/// What can be there after a cut.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thing {
    Store,
    Image(u8),
    Active(String),
    Committed(String),
    Labels(String),
}

/// A verb, how long the log was when it began, and how long when it was acknowledged.
pub(super) struct Step {
    pub(super) verb: Verb,
    pub(super) began: usize,
    pub(super) ended: usize,
}

pub(super) const IMAGES: u8 = 4;

/// How many small ones the lowest layer has: more than are held at once while they are written back.
const FILES: u64 = 150;

fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    (0..size).map(|_| dice.below(256) as u8).collect()
}

pub(super) fn image(number: u8) -> Image {
    let base = (0..FILES).fold(Layer::new().dir("etc", 0o755), |layer, file| layer.file(format!("etc/{file}"), noise(file, 3000)));
    let base = base.dir("usr", 0o755).dir("usr/lib", 0o755).file("usr/lib/large", noise(99, 500_000));
    let middle = Layer::new().dir("srv", 0o700).file("srv/data", noise(u64::from(number / 2), 90_000)).xattr("user.kind", "data");
    let top = (0..20).fold(Layer::new().dir("opt", 0o750), |layer, file| {
        layer.file(format!("opt/{file}"), noise(file ^ u64::from(number) << 8, 5000))
    });
    let top = top
        .file("opt/large", noise(u64::from(number) << 16, 200_000))
        .hardlink("opt/same", "opt/large")
        .symlink("opt/link", "large")
        .whiteout(format!("etc/{number}"));
    Image::new().layer(base, Compression::Gzip).layer(middle, Compression::None).layer(top, Compression::Zstd)
}

pub(super) fn name_of(number: u8) -> Name {
    Name::from(&image(number).chain_id().unwrap())
}

/// Labels that take many pages of the database.
fn labels(version: u64) -> LabelUpdate {
    let text: String = noise(version, 60_000).into_iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    LabelUpdate::keep().set("version", version.to_string()).set("text", text)
}

impl Verb {
    /// Does it, as whoever uses a store does.
    pub(super) fn perform(&self, store: &Store, layouts: &Path) -> Result<()> {
        let cx = Context::default();
        match self {
            Self::Make => Ok(()),
            Self::Import(number) => {
                let options = ImportOptions::default().reference(format!("image {number}"));
                store.import(ImageSource::path(layouts.join(number.to_string())), &options, &cx).map(drop)
            }
            Self::Untag(number) => store.untag(&format!("image {number}")),
            Self::Prepare(key, parent) => {
                let parent = match parent {
                    Parent::Nothing => None,
                    Parent::Image(number) => Some(name_of(*number)),
                    Parent::Named(name) => Some(Name::new(name.as_str())?),
                };
                store.prepare(&Key::new(key.as_str())?, parent.as_ref(), &Default::default()).map(drop)
            }
            Self::Commit(key, name) => {
                store.commit(&Name::new(name.as_str())?, &Key::new(key.as_str())?, &Default::default()).map(drop)
            }
            Self::Remove(name) => store.remove(name),
            Self::Collect => store.gc(&Default::default(), &cx).map(drop),
            Self::Label(name, version) => store.update(name, &labels(*version)).map(drop),
        }
    }

    /// What a container writes is the container's to sync; here it does not.
    pub(super) fn follow_up(&self, store: &Store) {
        if let Self::Prepare(key, _) = self {
            work::write_data(store, key).unwrap();
        }
    }

    /// What is so from then on: 0 for what is gone, else 1, or the labels' version.
    fn effects(&self) -> Vec<(Thing, u64)> {
        match self {
            Self::Make => vec![(Thing::Store, 1)],
            Self::Import(number) => vec![(Thing::Image(*number), 1)],
            Self::Untag(number) => vec![(Thing::Image(*number), 0)],
            Self::Prepare(key, _) => vec![(Thing::Active(key.clone()), 1)],
            Self::Commit(key, name) => vec![(Thing::Active(key.clone()), 0), (Thing::Committed(name.clone()), 1)],
            Self::Remove(name) if name.ends_with(work::COMMITTED) => vec![(Thing::Committed(name.clone()), 0)],
            Self::Remove(name) => vec![(Thing::Active(name.clone()), 0)],
            Self::Collect => Vec::new(),
            Self::Label(name, version) => vec![(Thing::Labels(name.clone()), *version)],
        }
    }
}

fn key(number: u64) -> String {
    format!("key {number}")
}

/// What the snapshot of a key is committed as.
fn name(number: u64) -> String {
    format!("key {number}{}", work::COMMITTED)
}

fn prepare(number: u64, parent: Parent) -> Verb {
    Verb::Prepare(key(number), parent)
}

fn commit(number: u64) -> Verb {
    Verb::Commit(key(number), name(number))
}

/// Every verb, with two images and three keys from `first` on. The last key's snapshot and the second image stay.
fn some_of_each(first: u64, one: u8, other: u8) -> Vec<Verb> {
    vec![
        Verb::Import(one),
        prepare(first, Parent::Image(one)),
        Verb::Label(key(first), 1),
        commit(first),
        prepare(first + 1, Parent::Named(name(first))),
        Verb::Import(other),
        Verb::Remove(key(first + 1)),
        Verb::Untag(one),
        prepare(first + 2, Parent::Image(other)),
        Verb::Remove(name(first)),
        Verb::Collect,
        commit(first + 2),
    ]
}

/// The verbs of one of those who are at work in a store for long, in its round: as above, and what stays goes as well.
pub(super) fn round(thread: u8, round: u64) -> Vec<Verb> {
    let first = u64::from(thread) * 1_000_000 + round * 3;
    let mut verbs = some_of_each(first, thread, thread + IMAGES / 2);
    verbs.extend([Verb::Remove(name(first + 2)), Verb::Untag(thread + IMAGES / 2)]);
    verbs
}

impl Workload {
    fn verbs(self, dice: &mut Dice) -> Vec<Verb> {
        let mut verbs = vec![Verb::Make];
        match self {
            Self::Imports => {
                let first = dice.below(u64::from(IMAGES)) as u8;
                verbs.extend((0..IMAGES).map(|number| Verb::Import((first + number) % IMAGES)));
                verbs.push(Verb::Import(first));
            }
            Self::Commits => {
                verbs.push(Verb::Import(0));
                for number in 0..8 {
                    let parent = match dice.below(3) {
                        0 => Parent::Nothing,
                        1 if number > 1 => Parent::Named(name(number - 2)),
                        _ => Parent::Image(0),
                    };
                    verbs.push(prepare(number, parent));
                    // One stays behind, so that its bytes have time to be written.
                    verbs.extend((number > 0).then(|| commit(number - 1)));
                }
            }
            Self::Removals => {
                verbs.extend([Verb::Import(0), Verb::Import(1), prepare(0, Parent::Image(0)), commit(0)]);
                verbs.extend([prepare(1, Parent::Named(name(0))), prepare(2, Parent::Image(1)), prepare(3, Parent::Nothing)]);
                verbs.extend([Verb::Remove(key(1)), Verb::Remove(name(0)), Verb::Untag(0), Verb::Remove(key(3))]);
                verbs.extend([
                    prepare(4, Parent::Image(1)),
                    commit(4),
                    Verb::Remove(name(4)),
                    Verb::Remove(key(2)),
                    Verb::Untag(1),
                ]);
            }
            Self::Collections => {
                verbs.extend((0..3).map(Verb::Import));
                verbs.extend([prepare(0, Parent::Image(1)), Verb::Untag(0), Verb::Collect, Verb::Untag(1), Verb::Import(3)]);
                verbs.extend([Verb::Collect, Verb::Remove(key(0)), Verb::Import(0), Verb::Collect, Verb::Untag(2), Verb::Untag(3)]);
                verbs.extend([Verb::Collect, Verb::Import(1)]);
            }
            Self::Checkpoints => {
                verbs.extend([prepare(0, Parent::Nothing), prepare(1, Parent::Nothing), commit(1)]);
                verbs.extend((1..=80).map(|version| {
                    let name = if version % 2 == 0 { key(0) } else { name(1) };
                    Verb::Label(name, version)
                }));
            }
            Self::Mixed => verbs.extend(some_of_each(0, dice.below(2) as u8, 2 + dice.below(2) as u8)),
        }
        verbs
    }
}

/// When a cut was: at one moment of the log, or between two that are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) from: usize,
    pub(super) to: usize,
}

/// What was done, and when.
#[derive(Default)]
pub(super) struct Story {
    pub(super) steps: Vec<Step>,
    pub(super) length: usize,
    pub(super) flushes: Vec<usize>,
}

impl Story {
    /// Does all of a workload on a new store, on a file system that is recorded.
    pub(super) fn record(
        recorder: &mut Recorder,
        workload: Workload,
        options: &StoreOptions,
        layouts: &Path,
        others: Option<&Others>,
        dice: &mut Dice,
    ) -> Self {
        let mounted = recorder.record();
        let mut options = options.clone();
        options.root = mounted.path().join("store");
        let verbs = workload.verbs(dice);
        let (done, mut stir) = (AtomicBool::new(false), Dice::new(dice.below(u64::MAX >> 1)));
        let steps = std::thread::scope(|scope| {
            scope.spawn(|| stir_up(mounted.path(), &done, &mut stir));
            let _ended = Raise(&done);
            let mut steps = Vec::new();
            let mut store = None;
            let (mut log, mut checkpoints) = (0, 0);
            for verb in verbs {
                if let (Some(others), Verb::Import(_)) = (others, &verb) {
                    others.write();
                }
                let began = recorder.mark();
                let done = match &store {
                    None => Store::open_with(&options).map(|made| store = Some(made)),
                    Some(store) => verb.perform(store, layouts),
                };
                done.unwrap_or_else(|error| panic!("{verb:?}: {}", chain(&error)));
                steps.push(Step { verb: verb.clone(), began, ended: recorder.mark() });
                store.iter().for_each(|store| verb.follow_up(store));
                let now = fs::metadata(options.root.join("plywood.db-wal")).map_or(0, |log| log.len());
                checkpoints += usize::from(now < log);
                log = now;
            }
            assert!(workload != Workload::Checkpoints || checkpoints > 0, "the database's log was never copied back");
            steps
        });
        let length = recorder.stop();
        mounted.unmount();
        Self { steps, length, flushes: recorder.flushes() }
    }

    /// The verbs that had begun and not ended.
    pub(super) fn pending(&self, at: Moment) -> impl Iterator<Item = &Verb> {
        self.steps.iter().filter(move |step| step.began <= at.to && at.from < step.ended).map(|step| &step.verb)
    }

    /// What may be so of each thing after a cut: as it was acknowledged last, or as what was going on makes it.
    pub(super) fn may_be(&self, at: Moment) -> BTreeMap<Thing, Vec<u64>> {
        let mut things = BTreeMap::new();
        for step in &self.steps {
            for (thing, state) in step.verb.effects() {
                let may = things.entry(thing).or_insert_with(|| vec![0]);
                if step.ended <= at.from {
                    *may = vec![state];
                } else if step.began <= at.to {
                    may.push(state);
                }
            }
        }
        things
    }
}

/// Raises a flag however the scope is left.
pub(super) struct Raise<'a>(pub(super) &'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes a busy machine of it: somebody else's files are synced, and the kernel writes back files of the store when it likes.
fn stir_up(mounted: &Path, done: &AtomicBool, dice: &mut Dice) {
    let own = mounted.join("other");
    fs::create_dir(&own).unwrap();
    while !done.load(Ordering::Relaxed) {
        match dice.below(5) {
            0 => {
                let mut file = File::create(own.join(dice.below(4).to_string())).unwrap();
                file.write_all(&vec![1; dice.below(20_000) as usize]).unwrap();
                file.sync_all().unwrap();
            }
            1 => write_back(&mounted.join("store/plywood.db-wal")),
            2 => write_back(&mounted.join("store/plywood.db")),
            _ => {
                let files =
                    walkdir::WalkDir::new(mounted.join("store")).into_iter().flatten().filter(|entry| entry.file_type().is_file());
                let files: Vec<_> = files.collect();
                if !files.is_empty() {
                    write_back(files[dice.below(files.len() as u64) as usize].path());
                }
            }
        }
        std::thread::sleep(Duration::from_micros(dice.below(4000)));
    }
}

/// Has the kernel begin to write a file's data, and tells the disk to flush nothing.
fn write_back(path: &Path) {
    if let Ok(file) = File::open(path) {
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
    }
}
