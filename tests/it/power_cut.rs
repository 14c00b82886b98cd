//! Power cuts. The disk is a file of a FUSE file system, which logs every write and every flush; on it, by way of a loop device, is ext4,
//! xfs or btrfs with a store at work. From the log are made the disks that a cut could have left: all that was heard up to some moment, or
//! all that was flushed and none, some, or torn parts of the rest. Each is mounted, as a machine does when it is back, and judged: what
//! was acknowledged is there and whole, what was not is absent or whole, and what is left over goes with a collection.
//!
//! The ordinary run makes a few cuts for each file system, in a story that has some of everything; `PLYWOOD_TEST_LONG=N` makes N for each
//! file system, backend and workload. `PLYWOOD_TEST_SEED=N` makes the same choices, of the story and of the cuts; when the kernel writes
//! back is its own.

mod containerd;
mod disk;
mod judge;
mod recorder;
mod server;
mod soak;
mod story;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::{fmt, fs};

use plywood::Durability;
use plywood::snapshot::Key;
use plywood::store::{BackendChoice, Store, StoreOptions};

use self::disk::{Cut, Rest};
use self::judge::Seen;
use self::recorder::{FileSystem, Recorder, boot_is};
use self::story::{IMAGES, Moment, Story, Workload, image};
use crate::support::work::{Dice, seed};
use crate::support::{Disk, Others, Sandbox, skip};

/// Not a test of its own: what serves the disks of the others.
#[test]
fn serves_a_disk() {
    recorder::serve_if_told();
}

/// What came of the cuts.
#[derive(Default)]
struct Count {
    cuts: usize,
    /// The file system itself could not be mounted.
    unmountable: usize,
    /// Trees that no row names were put aside: how often, by what was going on.
    lost: BTreeMap<String, usize>,
    /// Each with the cut.
    wrong: Vec<String>,
    /// Of those, how many a quick check is content with.
    unnoticed: usize,
}

impl Count {
    fn add(&mut self, story: &Story, at: Moment, cut: &str, seen: &Seen, verdict: Result<(), String>) {
        let doing: Vec<_> = story.pending(at).map(|verb| format!("{verb:?}")).collect();
        if seen.lost > 0 {
            let names = doing.iter().map(|verb| verb.split('(').next().unwrap_or_default());
            *self.lost.entry(names.collect::<Vec<_>>().join("+")).or_default() += 1;
        }
        if let Err(reason) = verdict {
            self.wrong.push(format!("{cut} during {doing:?}: {reason}"));
            self.unnoticed += usize::from(seen.quick);
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cuts, unmountable, lost, wrong, unnoticed } = self;
        write!(f, "{cuts} cuts, {unmountable} not mountable, {} wrong ({unnoticed} unnoticed), put aside {lost:?}", wrong.len())
    }
}

/// Right after something was acknowledged, with nothing that was not flushed before.
fn choose_acknowledged(story: &Story, dice: &mut Dice) -> Cut {
    let step = &story.steps[dice.below(story.steps.len() as u64) as usize];
    Cut { at: step.ended, rest: Rest::Dropped, seed: 0 }
}

/// Where to cut: after a flush, anywhere, and now and then right after something was acknowledged.
fn choose(story: &Story, dice: &mut Dice) -> Cut {
    let (at, rest) = match dice.below(8) {
        0..=2 => (story.flushes[dice.below(story.flushes.len() as u64) as usize], Rest::Kept),
        3 => return choose_acknowledged(story, dice),
        _ => (dice.below(story.length as u64 + 1) as usize, Rest::ALL[dice.below(4) as usize]),
    };
    Cut { at, rest, seed: dice.below(1 << 32) }
}

/// Where the images are that are imported.
fn layouts() -> &'static Path {
    let layouts = Path::new("/mnt/layouts");
    if !layouts.exists() {
        for number in 0..IMAGES {
            image(number).write_layout(layouts.join(number.to_string()), "latest").unwrap();
        }
    }
    layouts
}

/// Who has much to write meanwhile.
fn others() -> &'static Others {
    static OTHERS: OnceLock<Others> = OnceLock::new();
    OTHERS.get_or_init(|| Others::on(Path::new("/mnt/others")))
}

/// Records a workload, and cuts the power of it so many times.
fn cut(
    file_system: FileSystem,
    workload: Workload,
    options: &StoreOptions,
    (cuts, choose): (usize, impl Fn(&Story, &mut Dice) -> Cut),
    dice: &mut Dice,
) -> Count {
    let layouts = layouts();
    boot_is(0);
    let mut recorder = Recorder::new(file_system);
    // Where others have much to write, imports wait for their own data alone, if the file system is one for that.
    let others = (dice.below(2) == 0).then(others);
    let story = Story::record(&mut recorder, workload, options, layouts, others, dice);
    let mut chosen: Vec<_> = (0..cuts).map(|_| choose(&story, dice)).collect();
    chosen.sort_by_key(|cut| cut.at);
    let mut count = Count { cuts, ..Count::default() };
    for (number, cut) in chosen.into_iter().enumerate() {
        boot_is(1 + number as u64);
        let mounted = match recorder.cut(cut) {
            Ok(mounted) => mounted,
            // A disk that tears is more than some file systems are made for.
            Err(_) if cut.rest == Rest::Torn => {
                count.unmountable += 1;
                continue;
            }
            Err(reason) => panic!("{cut:?}: {reason}"),
        };
        let at = Moment { from: cut.at, to: cut.at };
        let (seen, verdict) = judge::judge(mounted.path(), options, &story, at, layouts, number % 4 == 1);
        mounted.unmount();
        count.add(&story, at, &format!("{file_system:?} {:?} {workload:?} {cut:?}", options.backend), &seen, verdict);
    }
    println!(
        "{file_system:?} {:?} {workload:?}{}: log of {} with {} flushes; {count}",
        options.backend,
        if others.is_some() { " beside others" } else { "" },
        story.length,
        story.flushes.len()
    );
    count
}

fn options(backend: BackendChoice) -> StoreOptions {
    StoreOptions::new("").backend(backend)
}

/// Why no power can be cut here.
fn missing() -> Option<String> {
    let open = |path: &str| fs::OpenOptions::new().read(true).write(true).open(path);
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if let Err(error) = open(device) {
            return Some(format!("{device}: {error}"));
        }
    }
    FileSystem::ALL.into_iter().find_map(FileSystem::missing)
}

/// Both; one of them in the ordinary run.
fn backends(dice: &mut Dice) -> Vec<BackendChoice> {
    let one = dice.below(2) as usize;
    let both = vec![BackendChoice::Overlay, BackendChoice::Copy];
    if long().is_some() { both } else { vec![both[one].clone()] }
}

/// All of them; one in the ordinary run.
fn file_systems(dice: &mut Dice) -> Vec<FileSystem> {
    let one = dice.below(3) as usize;
    if long().is_some() { FileSystem::ALL.to_vec() } else { vec![FileSystem::ALL[one]] }
}

/// How many cuts or clones, if that is said.
fn long() -> Option<usize> {
    std::env::var("PLYWOOD_TEST_LONG").ok().and_then(|count| count.parse().ok())
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    if let Some(reason) = missing() {
        return skip("power_cut", &reason);
    }
    Sandbox::root().run(|| {
        let mut dice = Dice::new(seed());
        let (workloads, cuts) = long().map_or((&[Workload::Mixed][..], 6), |cuts| (&Workload::LONG[..], cuts));
        let mut wrong = Vec::new();
        for file_system in FileSystem::ALL {
            for workload in workloads {
                for backend in backends(&mut dice) {
                    wrong.extend(cut(file_system, *workload, &options(backend), (cuts, choose), &mut dice).wrong);
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
fn a_disk_that_is_cloned_at_work_holds_a_whole_store() {
    if let Some(reason) = missing() {
        return skip("power_cut", &reason);
    }
    Sandbox::root().run(|| {
        let mut dice = Dice::new(seed());
        let mut wrong = Vec::new();
        for file_system in file_systems(&mut dice) {
            for backend in backends(&mut dice) {
                wrong.extend(soak::soak(file_system, &options(backend), long().unwrap_or(2), layouts(), &mut dice).wrong);
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

/// The documents say so, and it shows that the judge sees what is lost.
#[test]
fn relaxed_durability_loses_what_was_acknowledged() {
    if let Some(reason) = missing() {
        return skip("power_cut", &reason);
    }
    Sandbox::root().run(|| {
        let mut dice = Dice::new(seed());
        let relaxed = options(BackendChoice::Overlay).durability(Durability::Relaxed);
        for file_system in file_systems(&mut dice) {
            let count = match long() {
                Some(cuts) => cut(file_system, Workload::Imports, &relaxed, (cuts, choose), &mut dice),
                None => cut(file_system, Workload::Imports, &relaxed, (3, choose_acknowledged), &mut dice),
            };
            assert!(!count.wrong.is_empty(), "{count}");
        }
    });
}

/// The kernel counts them. A fast commit by the sync of the database's log would leave out what was done to a snapshot's root after
/// another program's sync had made the directory durable.
#[test]
fn snapshots_on_ext4_with_fast_commits_come_by_full_ones() {
    Sandbox::root().disk(Disk::FastExt4).run(|| {
        let place = std::env::temp_dir();
        let device = fs::metadata(&place).unwrap().dev();
        let device = fs::read_link(format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device))).unwrap();
        let counts = Path::new("/proc/fs/ext4").join(device.file_name().unwrap()).join("fc_info");
        let fast = || -> Option<u64> {
            let text = fs::read_to_string(&counts).ok()?;
            text.lines().find_map(|line| line.trim().strip_suffix(" commits")?.parse().ok())
        };
        let store = Store::open_with(&StoreOptions::new(place.join("store")).backend(BackendChoice::Overlay)).unwrap();
        let prepare =
            |number: u32| drop(store.prepare(&Key::new(format!("box-{number}")).unwrap(), None, &Default::default()).unwrap());
        // The first ones make what all share.
        (0..3).for_each(prepare);
        fs::write(place.join("file"), "").unwrap();
        let before = fast();
        fs::File::open(place.join("file")).unwrap().sync_all().unwrap();
        let counted = fast();
        if counted <= before {
            return skip("fast_commits", "this kernel has none, or does not count them");
        }
        (3..20).for_each(prepare);
        assert_eq!(fast(), counted);
    });
}

/// What a peer loses: containerd from the root file system that `PLYWOOD_TEST_CONTAINERD` names, a debootstrap of Debian testing.
#[test]
fn what_containerd_loses() {
    let (Ok(root), Some(cuts)) = (std::env::var(containerd::PEER), long()) else { return };
    Sandbox::root().run(|| {
        let mut dice = Dice::new(seed());
        containerd::lay_root(&root);
        for file_system in FileSystem::ALL {
            let lost = containerd::lose(file_system, cuts, &mut dice);
            println!("{file_system:?} containerd: of {cuts} cuts {lost}");
        }
    });
}
