//! Work that lasts as long as a test likes: what becomes of it when clients vanish and servers stop.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::*;
use crate::containerd::server::serve_any;
use crate::containerd::snapshotter::Snapshotter;
use crate::error::Result as Outcome;
use crate::mount::Mount;
use crate::snapshot::{Info, Labels, Usage};

const PATIENCE: Duration = Duration::from_secs(30);

/// How far the work is.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_open: bool,
    begun: usize,
    ended: usize,
}

impl Gate {
    fn open(&self) {
        self.state.lock().unwrap().is_open = true;
        self.changed.notify_all();
    }

    #[track_caller]
    fn wait(&self, until: impl Fn(&State) -> bool) {
        let state = self.state.lock().unwrap();
        let (_state, timeout) = self.changed.wait_timeout_while(state, PATIENCE, |state| !until(state)).unwrap();
        assert!(!timeout.timed_out());
    }

    fn pass(&self) {
        self.state.lock().unwrap().begun += 1;
        self.changed.notify_all();
        self.wait(|state| state.is_open);
    }
}

/// A store that begins a Prepare only when the gate is open.
struct Gated {
    store: Store,
    gate: Arc<Gate>,
}

impl Snapshotter for Gated {
    fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Outcome<Mount> {
        self.gate.pass();
        let done = Snapshotter::prepare(&self.store, key, parent, labels);
        self.gate.state.lock().unwrap().ended += 1;
        self.gate.changed.notify_all();
        done
    }

    fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Outcome<Mount> {
        Snapshotter::view(&self.store, key, parent, labels)
    }

    fn mounts(&self, key: &str) -> Outcome<Mount> {
        Snapshotter::mounts(&self.store, key)
    }

    fn commit(&self, name: &str, key: &str, parent: Option<&str>, labels: Labels) -> Outcome<()> {
        Snapshotter::commit(&self.store, name, key, parent, labels)
    }

    fn remove(&self, key: &str) -> Outcome<()> {
        Snapshotter::remove(&self.store, key)
    }

    fn stat(&self, key: &str) -> Outcome<Info> {
        Snapshotter::stat(&self.store, key)
    }

    fn update(&self, key: &str, labels: &Labels, paths: &[String]) -> Outcome<Info> {
        Snapshotter::update(&self.store, key, labels, paths)
    }

    fn list(&self, filters: &[String]) -> Outcome<Vec<Info>> {
        Snapshotter::list(&self.store, filters)
    }

    fn usage(&self, key: &str) -> Outcome<Usage> {
        Snapshotter::usage(&self.store, key)
    }

    fn cleanup(&self) -> Outcome<()> {
        Snapshotter::cleanup(&self.store)
    }
}

fn gated(drain: Duration) -> (Served, Arc<Gate>) {
    let (store, directory) = crate::testing::temporary_store().unwrap();
    let gate = Arc::new(Gate::default());
    let snapshotter = Gated { store: store.clone(), gate: Arc::clone(&gate) };
    let address = directory.path().join("socket");
    let served = Served::with(store, address, |socket, stop| serve_any(snapshotter, None, socket, stop, drain));
    (Served { _directory: Some(directory), ..served }, gate)
}

fn request(key: &str) -> pb::PrepareSnapshotRequest {
    pb::PrepareSnapshotRequest { key: key.into(), ..Default::default() }
}

#[test]
fn a_prepare_whose_client_vanishes_is_done_to_its_end() {
    let (served, gate) = gated(PATIENCE);
    // A connection of its own, which ends with it.
    let mut client = served.runtime.block_on(connect(&served.address));
    let asked = served.runtime.spawn(async move { client.prepare(request("key")).await });
    gate.wait(|state| state.begun == 1);
    asked.abort();
    assert!(served.runtime.block_on(asked).unwrap_err().is_cancelled());
    // Others are served meanwhile, and what is not done yet is not there.
    assert_eq!(served.list(&[]).unwrap(), [""; 0]);
    assert_eq!(code(served.stat("key")), Code::NotFound);
    gate.open();
    gate.wait(|state| state.ended == 1);
    assert_eq!(served.stat("key").unwrap().kind(), pb::Kind::Active);
    assert_eq!(code(served.prepare("key", "")), Code::AlreadyExists);
    assert_eq!(served.mounts("key").unwrap().len(), 1);
    served.remove("key").unwrap();
}

#[test]
fn calls_at_work_are_answered_before_the_server_ends_and_later_ones_are_not_begun() {
    let (mut served, gate) = gated(PATIENCE);
    let mut client = served.client.clone();
    let asked = served.runtime.spawn(async move { client.prepare(request("key")).await });
    gate.wait(|state| state.begun == 1);
    let _ = served.stop.take().unwrap().send(());
    // Until nobody listens any more.
    let end = std::time::Instant::now() + PATIENCE;
    while UnixStream::connect(&served.address).is_ok() {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(served.prepare("late", "").is_err());
    assert!(!served.server.as_ref().unwrap().is_finished());
    gate.open();
    assert_eq!(served.runtime.block_on(asked).unwrap().unwrap().into_inner().mounts.len(), 1);
    served.runtime.block_on(served.server.take().unwrap()).unwrap().unwrap();
    assert_eq!(served.store.stat("containerd:key").unwrap().name, "containerd:key");
    assert!(served.store.stat("containerd:late").is_err());
    assert_eq!(gate.state.lock().unwrap().begun, 1);
}

#[test]
fn a_server_does_not_wait_for_ever() {
    let (mut served, gate) = gated(Duration::from_millis(100));
    let mut client = served.client.clone();
    served.runtime.spawn(async move { client.prepare(request("key")).await });
    gate.wait(|state| state.begun == 1);
    served.stop().unwrap();
    assert!(!served.address.exists());
    assert_eq!(gate.state.lock().unwrap().ended, 0);
    gate.open();
    gate.wait(|state| state.ended == 1);
}

#[test]
fn a_client_that_does_not_read_does_not_keep_a_server_from_ending() {
    let (mut served, gate) = gated(Duration::from_millis(100));
    gate.open();
    let label = "x".repeat(4000);
    for number in 0..100 {
        served.prepare_with(&format!("key-{number}"), "", &[("long", &label)]).unwrap();
    }
    let mut slow = served.runtime.block_on(connect(&served.address));
    let stream = served.runtime.block_on(slow.list(pb::ListSnapshotsRequest::default())).unwrap().into_inner();
    served.stop().unwrap();
    drop(stream);
}

#[test]
fn more_calls_than_work_at_a_time_wait_for_each_other() {
    let (served, gate) = gated(PATIENCE);
    let asked: Vec<_> = (0..200)
        .map(|number| {
            let mut client = served.client.clone();
            served.runtime.spawn(async move { client.prepare(request(&format!("key-{number}"))).await })
        })
        .collect();
    gate.wait(|state| state.begun == 64);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(gate.state.lock().unwrap().begun, 64);
    gate.open();
    for one in asked {
        served.runtime.block_on(one).unwrap().unwrap();
    }
    assert_eq!(served.list(&[]).unwrap().len(), 200);
}
