//! Every verb, killed at every system call that changes something, and with every such call failing: afterwards the store is whole, what
//! was there is there, the same verb then does its work, and a collection leaves exactly what a run without trouble leaves.
//!
//! The ordinary run takes three calls of each verb at random; `PLYWOOD_TEST_LONG=N` takes N, `sync` those that make durable, `all`
//! each, with every error. `PLYWOOD_TEST_VERBS=Import,Gc` takes these verbs alone, `PLYWOOD_TEST_RANGE=40..50` of `all` these calls alone.
//! `PLYWOOD_TEST_SEED=N` repeats a run's choices.

mod inherited;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufReader, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use plywood::compression::Compression;
use plywood::snapshot::{Key, Name};
use plywood::store::{
    BackendChoice, CheckOptions, Filter, ImageSource, ImportOptions, LayerSource, LeaseOptions, Store, StoreOptions,
};
use plywood::testing::{Image, Layer};
use plywood::{Context, Error, ErrorKind, Result};

use crate::support::tracer::{self, At, Traced};
use crate::support::work::{Dice, chain, seed};
use crate::support::{Disk, Others, Sandbox, is_root, skip};

/// Tells the process that is to be traced where the store is, and what to do in it.
const DOES: &str = "PLYWOOD_TEST_TRACED";

/// What is done under trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Import,
    /// Of an archive that is read in place.
    Archive,
    /// Of an archive that comes out of a pipe.
    Pipe,
    Prepare,
    /// On a layer whose tree the copy backend has not made yet.
    Make,
    View,
    Mount,
    Apply,
    Commit,
    Diff,
    Remove,
    Gc,
    Check,
    Repair,
    Export,
    Lease,
}

const VERBS: [Verb; 16] = [
    Verb::Import,
    Verb::Archive,
    Verb::Pipe,
    Verb::Prepare,
    Verb::Make,
    Verb::View,
    Verb::Mount,
    Verb::Apply,
    Verb::Commit,
    Verb::Diff,
    Verb::Remove,
    Verb::Gc,
    Verb::Check,
    Verb::Repair,
    Verb::Export,
    Verb::Lease,
];

fn image(number: u8) -> Image {
    let base =
        Layer::new().dir("", 0o755).dir("etc", 0o755).file("etc/motd", "hello").file("etc/old", "old").symlink("lib", "usr/lib");
    let top = Layer::new()
        .file("usr/lib/large", vec![number; 40_000])
        .mode(0o4755)
        .hardlink("same", "etc/motd")
        .whiteout("etc/old")
        .xattr("user.kind", "none");
    // Stands on nothing below: who guesses is right.
    let own = Layer::new().dir("opt", 0o755).file(format!("opt/{number}"), vec![number; 5000]);
    Image::new()
        .env(&format!("N={number}"))
        .layer(base, Compression::Gzip)
        .layer(top, Compression::None)
        .layer(own, Compression::Gzip)
}

fn name_of(number: u8) -> Name {
    Name::from(&image(number).chain_id().unwrap())
}

/// The lower of its two layers.
fn lower_of(number: u8) -> Name {
    let lower = image(number).layers().swap_remove(0);
    Name::from(&Image::new().layer(lower, Compression::Gzip).chain_id().unwrap())
}

/// What is applied to a fresh snapshot of the first image, and which paths that changes.
fn applied() -> (Vec<u8>, [&'static str; 6]) {
    let layer = Layer::new()
        .whiteout("etc/motd")
        .file("lib/new", vec![3; 20_000])
        .hardlink("linked", "usr/lib/large")
        .dir("etc/folder", 0o700)
        .file("etc/folder/inside", "inside");
    (layer.tar(), ["etc/folder", "etc/folder/inside", "etc/motd", "linked", "usr/lib/large", "usr/lib/new"])
}

fn open(directory: &Path) -> Result<Store> {
    Store::open(directory.join("store"))
}

fn import(store: &Store, directory: &Path, number: u8) -> Result<()> {
    import_from(ImageSource::path(directory.parent().unwrap().join(format!("image {number}"))), store, number)
}

fn import_from(source: ImageSource<'_>, store: &Store, number: u8) -> Result<()> {
    let options = ImportOptions::default().reference(format!("image {number}"));
    store.import(source, &options, &Context::default()).map(drop)
}

/// Where the second image stands as an archive.
fn archive(directory: &Path) -> PathBuf {
    directory.parent().unwrap().join("image 2.tar")
}

/// The blobs first: who imports it from a pipe has to guess what they are.
fn write_archive(layout: &Path, path: &Path) {
    let mut archive = tar::Builder::new(fs::File::create(path).unwrap());
    archive.append_dir_all("blobs", layout.join("blobs")).unwrap();
    for name in ["index.json", "oci-layout"] {
        archive.append_path_with_name(layout.join(name), name).unwrap();
    }
    archive.finish().unwrap();
}

/// Where [`Verb::Mount`] attaches.
fn mount_point(directory: &Path) -> PathBuf {
    directory.join("mounted")
}

fn writable(store: &Store, key: &str) -> PathBuf {
    let mount = store.mounts(key).unwrap();
    let upper = mount.options().unwrap().iter().find_map(|option| option.strip_prefix("upperdir=").map(PathBuf::from));
    upper.unwrap_or_else(|| mount.source())
}

impl Verb {
    /// Makes the store in which it is done.
    fn set_up(self, directory: &Path, backend: &BackendChoice) {
        let store = Store::open_with(&StoreOptions::new(directory.join("store")).backend(backend.clone())).unwrap();
        let cx = Context::default();
        import(&store, directory, 1).unwrap();
        store.prepare(&Key::new("box").unwrap(), Some(&name_of(1)), &Default::default()).unwrap();
        fs::write(writable(&store, "box").join("data"), vec![7; 9000]).unwrap();
        store.prepare(&Key::new("old").unwrap(), Some(&name_of(1)), &Default::default()).unwrap();
        store.commit(&Name::new("kept").unwrap(), &Key::new("old").unwrap(), &Default::default()).unwrap();
        match self {
            Self::Mount => fs::create_dir(mount_point(directory)).unwrap(),
            Self::Apply => {
                drop(store.prepare(&Key::new("extract").unwrap(), Some(&name_of(1)), &Default::default()).unwrap());
            }
            Self::Gc => {
                import(&store, directory, 2).unwrap();
                store.untag("image 2").unwrap();
                store.prepare(&Key::new("gone").unwrap(), Some(&name_of(1)), &Default::default()).unwrap();
                store.remove("gone").unwrap();
            }
            Self::Repair => {
                for tree in fs::read_dir(directory.join("store/trees")).unwrap() {
                    let path = tree.unwrap().path().join("fs/usr/lib/large");
                    if path.exists() {
                        fs::write(path, "rotten").unwrap();
                    }
                }
                assert!(!store.check(&CheckOptions::default().full(), &cx).unwrap().is_sound());
            }
            _ => {}
        }
    }

    fn perform(self, store: &Store, directory: &Path) -> Result<()> {
        let cx = Context::default();
        match self {
            Self::Import => import(store, directory, 2),
            Self::Archive => import_from(ImageSource::path(archive(directory)), store, 2),
            Self::Pipe => {
                let file = fs::File::open(archive(directory)).map_err(|error| Error::io("open", error))?;
                import_from(ImageSource::reader(file), store, 2)
            }
            Self::Prepare => store.prepare(&Key::new("new")?, Some(&Name::new("kept")?), &Default::default()).map(drop),
            Self::Make => store.prepare(&Key::new("new")?, Some(&lower_of(1)), &Default::default()).map(drop),
            Self::View => store.view(&Key::new("new")?, Some(&name_of(1)), &Default::default()).map(drop),
            Self::Mount => {
                let mount = store.mounts("box")?.detached()?;
                let written = format!("/proc/self/fd/{}/written", mount.as_fd().as_raw_fd());
                fs::write(written, "in the mount").map_err(|error| Error::io("write", error))?;
                mount.attach(mount_point(directory))?.close()
            }
            Self::Apply => {
                let (layer, _) = applied();
                store.apply(&Key::new("extract")?, LayerSource::reader(&layer[..]), &Default::default(), &cx).map(drop)
            }
            Self::Commit => store.commit(&Name::new("boxed")?, &Key::new("box")?, &Default::default()).map(drop),
            Self::Diff => {
                let file = fs::File::create(directory.join("diff")).map_err(|error| Error::io("open", error))?;
                store.diff("kept", file, &Default::default(), &cx).map(drop)
            }
            Self::Remove => store.remove("box").and_then(|()| store.empty_trash(&cx)).map(drop),
            Self::Gc => store.gc(&Default::default(), &cx).map(drop),
            Self::Repair => {
                let outcome = store.check(&CheckOptions::default().full().repair(), &cx)?;
                assert!(outcome.is_sound(), "{:?}", outcome.findings);
                Ok(())
            }
            Self::Check => {
                let outcome = store.check(&CheckOptions::default().full(), &cx)?;
                assert!(outcome.is_sound(), "{:?}", outcome.findings);
                Ok(())
            }
            Self::Lease => {
                let options = LeaseOptions::default().duration(Duration::from_secs(600));
                store.add_lease("build", &options.clone().snapshot(Name::new("kept")?))?;
                store.add_lease("build", &options.snapshot(name_of(1)))?;
                store.remove_lease("build")
            }
            Self::Export => store.export("image 1", &directory.join("layout"), &Default::default(), &cx).map(drop),
        }
    }

    /// The same once more: what was done already is done.
    fn again(self, store: &Store, directory: &Path) {
        match self.perform(store, directory) {
            Err(error) if self.is_done_already(&error) => {}
            done => done.unwrap_or_else(|error| panic!("{self:?} again: {}", chain(&error))),
        }
    }

    fn is_done_already(self, error: &Error) -> bool {
        match self {
            Self::Prepare | Self::Make | Self::View | Self::Commit => error.kind() == ErrorKind::AlreadyExists,
            Self::Remove => error.kind() == ErrorKind::NotFound,
            // It has changes.
            Self::Apply => error.kind() == ErrorKind::Unsupported,
            _ => false,
        }
    }

    /// Whether it is made durable in another way where others have much to write.
    fn brings_in(self) -> bool {
        matches!(self, Self::Import | Self::Archive | Self::Pipe)
    }

    /// What is there whatever happens to it.
    fn keeps(self) -> &'static [&'static str] {
        match self {
            Self::Remove | Self::Commit => &["kept"],
            _ => &["kept", "box"],
        }
    }
}

/// What a store holds, in names and numbers.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    snapshots: BTreeMap<String, String>,
    images: Vec<String>,
    /// How many names each directory has.
    counts: BTreeMap<&'static str, usize>,
}

fn shape(store: &Store) -> Shape {
    let mut snapshots = BTreeMap::new();
    store
        .walk(&Filter::all(), |info| {
            snapshots.insert(info.name, info.kind.to_string());
            Ok(())
        })
        .unwrap();
    let images = store.images().unwrap().into_iter().map(|image| image.reference).collect();
    let places = ["trees", "blobs/sha256", "blobs/sha512", "ingest", "lost+found"];
    let count = |place| fs::read_dir(store.root().join(place)).map(Iterator::count).unwrap_or_default();
    Shape { snapshots, images, counts: places.map(|place| (place, count(place))).into() }
}

/// Not a test of its own: what the others trace.
#[test]
fn performs() {
    let Ok(text) = std::env::var(DOES) else { return };
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    let (directory, verb) = text.split_once('\n').unwrap();
    let directory = Path::new(directory);
    let verb = VERBS.into_iter().find(|known| format!("{known:?}") == verb).unwrap();
    let asked = inherited::answer_when_asked();
    let store = open(directory).unwrap();
    asked.store_is_open();
    tracer::be_traced();
    let done = verb.perform(&store, directory);
    drop(store);
    match done {
        Ok(()) => println!("\nDONE"),
        Err(error) => println!("\nFAILED {}", chain(&error)),
    }
}

/// One run of a verb in a copy of its store.
struct Run {
    directory: PathBuf,
    traced: Traced,
    said: String,
}

struct Stage {
    verb: Verb,
    backend: BackendChoice,
    others: Option<&'static Others>,
    temporary: tempfile::TempDir,
}

impl Stage {
    fn new(verb: Verb, backend: BackendChoice, others: Option<&'static Others>) -> Self {
        let stage = Self { verb, backend, others, temporary: tempfile::tempdir().unwrap() };
        for number in [1, 2] {
            image(number).write_layout(stage.temporary.path().join(format!("image {number}")), "latest").unwrap();
        }
        write_archive(&stage.temporary.path().join("image 2"), &archive(&stage.template()));
        fs::create_dir(stage.template()).unwrap();
        verb.set_up(&stage.template(), &stage.backend);
        stage
    }

    fn template(&self) -> PathBuf {
        self.temporary.path().join("template")
    }

    fn run(&self, at: At) -> Run {
        self.others.iter().for_each(|others| others.write());
        let (directory, mut child) = self.start(&[]);
        let traced = tracer::follow(&child, at, &mut ());
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        Run { directory, traced, said }
    }

    /// Starts the verb, to be followed, in a new copy of its store.
    fn start(&self, environment: &[(&str, &str)]) -> (PathBuf, Child) {
        let directory = self.temporary.path().join("run");
        let _ = fs::remove_dir_all(&directory);
        let copied = Command::new("cp").args(["-a", "--reflink=auto"]).arg(self.template()).arg(&directory).status().unwrap();
        assert!(copied.success());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "system_calls::performs", "--nocapture"])
            .env(DOES, format!("{}\n{:?}", directory.display(), self.verb))
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        (directory, child)
    }

    /// Nothing but the process is gone; all else is as it was, or as it was to be.
    fn assert_recovers(&self, run: &Run, expected: &Shape, told: &str) {
        let verb = self.verb;
        if verb == Verb::Mount {
            // What was attached is the caller's, and stays when he dies.
            let _ = plywood::mount::unmount(mount_point(&run.directory));
        }
        let store = open(&run.directory).unwrap_or_else(|error| panic!("{told}: open: {}", chain(&error)));
        let check = |options: &CheckOptions| {
            let outcome =
                store.check(options, &Context::default()).unwrap_or_else(|error| panic!("{told}: check: {}", chain(&error)));
            outcome.findings.iter().filter(|finding| finding.stays()).map(ToString::to_string).collect::<Vec<_>>()
        };
        if verb != Verb::Repair {
            assert_eq!(check(&CheckOptions::default().full()), [""; 0], "{told}");
        }
        for name in verb.keeps() {
            store.stat(name).unwrap_or_else(|error| panic!("{told}: {}", chain(&error)));
        }
        assert_eq!(store.images().unwrap().iter().filter(|image| image.reference == "image 1").count(), 1, "{told}");
        verb.again(&store, &run.directory);
        if verb == Verb::Apply {
            let mut changed = BTreeSet::new();
            let listed = store.changes("extract", &Context::default(), |change| {
                changed.insert(change.path.to_string());
                Ok(())
            });
            listed.unwrap_or_else(|error| panic!("{told}: {}", chain(&error)));
            // All of the layer, whatever else is said of the directories in which it is.
            assert!(applied().1.iter().all(|path| changed.contains(*path)), "{told}: {changed:?}");
        }
        store.gc(&Default::default(), &Context::default()).unwrap_or_else(|error| panic!("{told}: gc: {}", chain(&error)));
        assert_eq!(check(&CheckOptions::default().full()), [""; 0], "{told}");
        assert_eq!(&shape(&store), expected, "{told}");
    }
}

/// What is mounted. Mounts that this namespace has from others may go with their directories.
fn mounts() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    // By number and place: what is mounted may get another name meanwhile.
    let known = text.lines().map(|line| line.split(' ').enumerate().filter(|(at, _)| [0, 4].contains(at)).map(|(_, word)| word));
    known.map(|words| words.collect::<Vec<_>>().join(" ")).collect()
}

/// Which calls of each verb are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Some(u64),
    Syncs,
    All,
}

fn taken() -> Taken {
    match std::env::var("PLYWOOD_TEST_LONG").as_deref() {
        Ok("all") => Taken::All,
        Ok("sync") => Taken::Syncs,
        Ok(text) => Taken::Some(text.parse().unwrap()),
        Err(_) => Taken::Some(3),
    }
}

/// The verbs to be taken.
fn verbs() -> Vec<Verb> {
    let Ok(text) = std::env::var("PLYWOOD_TEST_VERBS") else { return VERBS.to_vec() };
    VERBS.into_iter().filter(|verb| text.split(',').any(|name| name == format!("{verb:?}"))).collect()
}

/// The numbers of the calls to be taken.
fn sample(calls: &[&str], dice: &mut Dice) -> Vec<usize> {
    match taken() {
        Taken::All => {
            let range = std::env::var("PLYWOOD_TEST_RANGE").unwrap_or_default();
            let (from, to) =
                range.split_once("..").map_or((0, usize::MAX), |(from, to)| (from.parse().unwrap(), to.parse().unwrap()));
            (from..to.min(calls.len())).collect()
        }
        Taken::Syncs => (0..calls.len()).filter(|&number| calls[number].contains("sync")).collect(),
        Taken::Some(some) => (0..some).map(|_| dice.below(calls.len() as u64) as usize).collect(),
    }
}

/// Whether a call is a sync that counts. SQLite passes over one that fails, that of the directory when it has synced a log which may
/// be new; ours was there, durably, when the store was made. And a check takes outlines away as well as it can: what it cannot forget
/// stays in the trash. Who unpacks by guesses what comes out of a pipe gives up where the tree's row cannot be written, and the layer
/// is unpacked when the image is known; trees that were guessed in vain are trash, too.
fn is_sync_that_counts(verb: Verb, traced: &Traced, number: usize) -> bool {
    // With several threads a run may make fewer calls than the one that was counted.
    let Some(&[last, before]) = traced.before.get(number) else { return false };
    let of_log = [last, before] == ["fsync", "pwrite64"];
    let of_trash = matches!(verb, Verb::Check | Verb::Repair | Verb::Pipe) && last == "unlinkat";
    let of_guess = verb == Verb::Pipe && last == "pwrite64";
    traced.calls[number].contains("sync") && !of_log && !of_trash && !of_guess
}

/// Runs each verb on both backends; `trouble` says what happens at the Nth call.
fn everywhere(trouble: impl Fn(usize, &mut Dice) -> Vec<At>) {
    if let Err(reason) = tracer::available() {
        return skip("system_calls", &reason);
    }
    let mut dice = Dice::new(seed());
    let others = is_root().then(others);
    let before = mounts();
    for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
        for verb in verbs() {
            let others = others.filter(|_| verb.brings_in() && dice.below(2) == 0);
            let stage = Stage::new(verb, backend.clone(), others);
            let counted = stage.run(At::Nothing);
            assert!(counted.said.contains("\nDONE"), "{verb:?}: {}", counted.said);
            let calls = counted.traced.calls.clone();
            if std::env::var_os("PLYWOOD_TEST_CALLS").is_some() {
                println!("{backend:?} {verb:?}: {}", calls.join(" "));
            }
            let expected = {
                let store = open(&counted.directory).unwrap();
                store.gc(&Default::default(), &Context::default()).unwrap();
                shape(&store)
            };
            let mut ignored = BTreeMap::<String, usize>::new();
            let mut runs = 0;
            for number in sample(&calls, &mut dice) {
                for at in trouble(number, &mut dice) {
                    let run = stage.run(at);
                    let call = run.traced.calls.get(number).copied().unwrap_or("none");
                    let told = format!("{backend:?} {verb:?} {at:?} {call} of {}: {}", calls.len(), run.said);
                    match at {
                        At::Kill(_) => assert!(run.traced.status.is_none() || run.traced.calls.len() <= number, "{told}"),
                        _ => assert_eq!(run.traced.status, Some(0), "{told}"),
                    }
                    if let At::Fail(_, error) = at {
                        assert!(run.said.contains("\nDONE") || run.said.contains("\nFAILED"), "{told}");
                        if run.said.contains("\nDONE") {
                            let lost = error == Errno::EIO && is_sync_that_counts(verb, &run.traced, number);
                            assert!(!lost, "passed over: {told} {:?}", run.traced.calls.get(number.saturating_sub(30)..=number));
                            let place = if call.contains("sync") { format!(" at {number}") } else { String::new() };
                            *ignored.entry(format!("{call} {error:?}{place}")).or_default() += 1;
                        }
                    }
                    stage.assert_recovers(&run, &expected, &told);
                    assert_eq!(mounts().difference(&before).next(), None, "{told}");
                    runs += 1;
                }
            }
            let beside = if others.is_some() { " beside others" } else { "" };
            println!("{backend:?} {verb:?}{beside}: {} calls, {runs} runs; done in spite of a failed {ignored:?}", calls.len());
        }
    }
    let loops = fs::read_dir("/sys/block").unwrap().filter(|block| {
        let backing = block.as_ref().unwrap().path().join("loop/backing_file");
        fs::read_to_string(backing).is_ok_and(|file| file.contains("/run/store"))
    });
    assert_eq!(loops.count(), 0, "loop devices");
}

/// Who has much to write meanwhile.
fn others() -> &'static Others {
    static OTHERS: OnceLock<Others> = OnceLock::new();
    OTHERS.get_or_init(|| Others::on(Path::new("/mnt/others")))
}

fn sandbox() -> Sandbox {
    if is_root() { Sandbox::root().disk(Disk::Ext4) } else { Sandbox::user_namespace() }
}

const ERRORS: [Errno; 5] = [Errno::ENOSPC, Errno::EIO, Errno::EMFILE, Errno::EINTR, Errno::EDQUOT];

#[test]
fn whoever_is_killed_at_any_call_leaves_a_whole_store() {
    sandbox().run(|| everywhere(|number, _| vec![At::Kill(number)]));
}

#[test]
fn a_call_that_fails_is_an_error_and_leaves_a_whole_store() {
    sandbox().run(|| {
        everywhere(|number, dice| match taken() {
            Taken::Syncs => vec![At::Fail(number, Errno::EIO)],
            Taken::Some(_) => vec![At::Fail(number, ERRORS[dice.below(ERRORS.len() as u64) as usize])],
            Taken::All => ERRORS.map(|error| At::Fail(number, error)).to_vec(),
        });
    });
}
