//! Clients that vanish, dawdle and talk nonsense; servers that stop and start.

use std::io::{Read as _, Write as _};

use super::*;

#[test]
fn two_servers_serve_one_store() {
    let one = Served::new();
    let two = Served::at(one.store.clone(), one.address.with_file_name("second"));
    one.prepare("key", "").unwrap();
    assert_eq!(code(two.prepare("key", "")), Code::AlreadyExists);
    two.commit("name", "key").unwrap();
    assert_eq!(one.list(&[]).unwrap(), ["name"]);
}

#[test]
fn a_server_that_stops_lets_go_of_its_socket_and_loses_nothing() {
    let mut served = Served::new();
    served.prepare("key", "").unwrap();
    let mounts = served.mounts("key").unwrap();
    served.stop().unwrap();
    assert!(!served.address.exists());
    assert!(served.stat("key").is_err());
    let again = Served::at(served.store.clone(), served.address.clone());
    assert_eq!(again.mounts("key").unwrap(), mounts);
}

#[test]
fn a_call_that_is_at_work_ends_before_the_server_does() {
    let mut served = Served::new();
    let mut client = served.client.clone();
    for number in 0..100 {
        served.prepare(&format!("key-{number}"), "").unwrap();
    }
    // Its first message is here, and the stream goes on.
    let mut stream = served.runtime.block_on(client.list(pb::ListSnapshotsRequest::default())).unwrap().into_inner();
    let _ = served.stop.take().unwrap().send(());
    let listed = served.runtime.block_on(async {
        let mut listed = 0;
        while let Some(page) = stream.message().await.unwrap() {
            listed += page.info.len();
        }
        listed
    });
    assert_eq!(listed, 100);
    served.runtime.block_on(served.server.take().unwrap()).unwrap().unwrap();
}

#[test]
fn a_client_that_vanishes_or_talks_nonsense_disturbs_nobody() {
    let served = Served::new();
    drop(served.raw());
    let mut nonsense = served.raw();
    nonsense.write_all(&[0xff; 4096]).unwrap();
    let mut answer = Vec::new();
    let _ = nonsense.read_to_end(&mut answer);
    let mut half = served.raw();
    half.write_all(b"PRI * HTTP/2.0\r\n\r\nSM").unwrap();
    served.prepare("key", "").unwrap();
    drop(half);
    served.remove("key").unwrap();
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let served = Served::new();
    let label = "x".repeat(4000);
    for number in 0..100 {
        served.prepare_with(&format!("key-{number}"), "", &[("long", &label)]).unwrap();
    }
    let mut slow = served.runtime.block_on(connect(&served.address));
    let stream = served.runtime.block_on(slow.list(pb::ListSnapshotsRequest::default())).unwrap().into_inner();
    assert_eq!(served.list(&[]).unwrap().len(), 100);
    drop(stream);
}

#[test]
fn a_store_whose_path_containerd_would_take_apart_is_refused() {
    let directory = crate::testing::temporary_directory().unwrap();
    for name in ["a:b", "a,b", "a\\b"] {
        let store = Store::temporary_in(directory.path(), |_, mut options| {
            options.root = directory.path().join(name);
            Ok(options)
        });
        let store = store.unwrap();
        let socket = Socket::bind(directory.path().join("socket")).unwrap();
        let served = Runtime::new().unwrap().block_on(serve((*store).clone(), socket, std::future::pending()));
        assert_eq!(served.unwrap_err().kind(), crate::ErrorKind::InvalidArgument, "{name}");
    }
}
