use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use super::*;

impl Turn {
    /// The number of the ticket: one more than that of whoever took one before, or the first where nobody was there.
    pub(crate) fn ticket(&self) -> i64 {
        self.ticket
    }
}

struct Queue(tempfile::TempDir);

impl Queue {
    fn new() -> Self {
        let queue = Self(tempfile::tempdir().unwrap());
        File::create(queue.path()).unwrap();
        queue
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("queue")
    }

    fn wait(&self) -> Turn {
        Turn::wait(open(&self.path())).unwrap()
    }

    /// Until the last ticket is this one; it is waited for by somebody who has been started.
    fn until_taken(&self, ticket: i64) {
        while after_last(open(&self.path())).unwrap() != ticket + 1 {
            std::thread::yield_now();
        }
    }
}

fn open(path: &Path) -> OwnedFd {
    File::options().read(true).write(true).open(path).unwrap().into()
}

#[test]
fn turns_come_in_the_order_of_asking() {
    let queue = Queue::new();
    let order = Mutex::new(Vec::new());
    let first = queue.wait();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (queue, order) = (&queue, &order);
            scope.spawn(move || {
                let turn = queue.wait();
                order.lock().unwrap().push(number);
                drop(turn);
            });
            queue.until_taken(FIRST + 1 + number);
        }
        drop(first);
    });
    assert_eq!(order.into_inner().unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(queue.wait().ticket(), FIRST, "nobody is there: numbers begin again");
    assert_eq!(File::open(queue.path()).unwrap().metadata().unwrap().len(), 0);
}

/// With a lock for the quickest, who asks at once again has it before the other is awake.
#[test]
fn nobody_passes_by_who_waits() {
    let queue = Queue::new();
    let entered = Mutex::new(0);
    for round in 0..200 {
        let turn = queue.wait();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let turn = queue.wait();
                *entered.lock().unwrap() += 1;
                drop(turn);
            });
            queue.until_taken(turn.ticket() + 1);
            drop(turn);
            let again = queue.wait();
            assert_eq!(*entered.lock().unwrap(), round + 1);
            drop(again);
        });
    }
}

/// Run by the tests below in a process of its own.
#[test]
#[ignore = "the other half of who_is_killed_leaves_the_queue"]
fn wait_until_killed() {
    let Some(path) = std::env::var_os("PLYWOOD_TEST_QUEUE") else { return };
    let _turn = Turn::wait(open(Path::new(&path))).unwrap();
    println!("entered");
    std::thread::park();
}

fn start(queue: &Queue) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sys::turn::tests::wait_until_killed", "--ignored", "--nocapture"])
        .env("PLYWOOD_TEST_QUEUE", queue.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn who_is_killed_leaves_the_queue() {
    let queue = Queue::new();
    let mut holder = start(&queue);
    assert!(BufReader::new(holder.stdout.take().unwrap()).lines().any(|line| line.unwrap().contains("entered")));
    let waiting = start(&queue);
    queue.until_taken(FIRST + 1);
    let is_over = Mutex::new(false);
    std::thread::scope(|scope| {
        let (queue, over) = (&queue, &is_over);
        let last = scope.spawn(move || {
            let turn = queue.wait();
            assert!(*over.lock().unwrap(), "who was killed while waiting lets nobody in before the holder's turn is over");
            turn.ticket()
        });
        queue.until_taken(FIRST + 2);
        kill(waiting);
        // If it could go on now, it would.
        (0..1000).for_each(|_| std::thread::yield_now());
        *is_over.lock().unwrap() = true;
        kill(holder);
        assert_eq!(last.join().unwrap(), FIRST + 2);
    });
}
