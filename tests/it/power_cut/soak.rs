//! The same without a log: the file under the loop device is on a file system with reflinks, and is cloned while the store is at work.
//! A clone is the disk as it is at one moment, whatever of it has been flushed.

use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use plywood::store::{Store, StoreOptions};

use super::recorder::{FileSystem, boot_is};
use super::story::{Moment, Raise, Step, Story, Verb, round};
use super::{Count, judge};
use crate::support::Disk;
use crate::support::work::{Dice, chain};

/// How many are at work.
const THREADS: u8 = 2;

/// The order of all that happens.
#[derive(Default)]
struct Clock(AtomicUsize);

impl Clock {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// Clones the disk so many times, and judges each clone.
pub(super) fn soak(file_system: FileSystem, options: &StoreOptions, clones: usize, layouts: &Path, dice: &mut Dice) -> Count {
    let host = Path::new("/mnt/host");
    if !host.exists() {
        Disk::Xfs.mount(host);
    }
    let disk = host.join("disk");
    file_system.make(&disk);
    boot_is(0);
    let mounted = file_system.mount(&disk, "soaked").unwrap();
    let mut options = options.clone();
    options.root = mounted.path().join("store");
    let clock = Clock::default();
    let make = Step { verb: Verb::Make, began: clock.next(), ended: clock.next() };
    let store = Store::open_with(&options).unwrap();

    let (steps, done) = (Mutex::new(vec![make]), AtomicBool::new(false));
    let work = |thread: u8| {
        for verb in (0..).flat_map(|number| round(thread, number)) {
            if done.load(Ordering::Relaxed) {
                break;
            }
            let began = clock.next();
            verb.perform(&store, layouts).unwrap_or_else(|error| panic!("{verb:?}: {}", chain(&error)));
            let ended = clock.next();
            verb.follow_up(&store);
            steps.lock().unwrap().push(Step { verb, began, ended });
        }
    };
    let moments: Vec<Moment> = std::thread::scope(|scope| {
        let _ended = Raise(&done);
        for thread in 0..THREADS {
            scope.spawn(move || work(thread));
        }
        let mut clone = |number: usize| {
            std::thread::sleep(Duration::from_millis(dice.below(400)));
            let (from, copy) = (File::open(&disk).unwrap(), File::create(host.join(format!("clone {number}"))).unwrap());
            let began = clock.next();
            rustix::fs::ioctl_ficlone(&copy, &from).unwrap();
            Moment { from: began, to: clock.next() }
        };
        (0..clones).map(&mut clone).collect()
    });
    drop(store);
    mounted.unmount();

    let steps = steps.into_inner().unwrap();
    let story = Story { length: steps.len(), steps, flushes: Vec::new() };
    let mut count = Count { cuts: clones, ..Count::default() };
    for (number, moment) in moments.into_iter().enumerate() {
        boot_is(1 + number as u64);
        let clone = host.join(format!("clone {number}"));
        let mounted = file_system.mount(&clone, "clone").unwrap();
        let (seen, verdict) = judge::judge(mounted.path(), &options, &story, moment, layouts, number % 4 == 1);
        mounted.unmount();
        std::fs::remove_file(clone).unwrap();
        count.add(&story, moment, &format!("{file_system:?} {:?} {moment:?}", options.backend), &seen, verdict);
    }
    println!("{file_system:?} {:?} cloned under load: {} verbs; {count}", options.backend, story.length);
    count
}
