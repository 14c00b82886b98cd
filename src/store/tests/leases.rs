//! Leases with a name and an expiry.

use super::*;
use crate::content::{Expected, Started};
use crate::digest::Algorithm;
use std::time::Duration;

fn gc(store: &Store) -> GcOutcome {
    store.gc(&GcOptions::default(), &crate::Context::default()).unwrap()
}

fn keeping(chain_id: &ChainId) -> LeaseOptions {
    LeaseOptions::default().snapshot(Name::from(chain_id))
}

#[test]
fn a_lease_keeps_a_layer_and_all_below_it_until_it_ends() {
    let store = Scratch::new();
    let a = store.layer(None, "a");
    let b = store.layer(Some(&a), "b");
    let info = store.add_lease("build", &keeping(&b)).unwrap();
    assert_eq!((info.name.as_str(), info.snapshots.as_slice()), ("build", [b.to_string()].as_slice()));
    assert_eq!(gc(&store.again()).snapshots, [""; 0], "whoever opens the store");
    store.remove_lease("build").unwrap();
    assert_eq!(gc(&store).snapshots, [b.to_string(), a.to_string()]);
}

#[test]
fn a_lease_whose_time_is_over_keeps_nothing_and_its_name_is_free() {
    let store = Scratch::new();
    let a = store.layer(None, "a");
    store.add_lease("build", &keeping(&a).duration(Duration::ZERO)).unwrap();
    assert_eq!(store.leases().unwrap(), []);
    assert_eq!(kind_of(store.remove_lease("build")), ErrorKind::NotFound);
    let anew = store.add_lease("build", &LeaseOptions::default()).unwrap();
    assert_eq!(anew.snapshots, [""; 0], "it is another lease");
    assert_eq!(gc(&store).snapshots, [a.to_string()]);
}

#[test]
fn a_lease_that_is_renewed_keeps_what_it_kept() {
    let store = Scratch::new();
    let (a, b) = (store.layer(None, "a"), store.layer(None, "b"));
    let first = store.add_lease("build", &keeping(&a)).unwrap();
    let renewed = store.add_lease("build", &keeping(&b).duration(Duration::MAX)).unwrap();
    assert_eq!((renewed.created, renewed.expires), (first.created, None));
    assert!(first.expires.unwrap() > first.created);
    assert_eq!(renewed.snapshots.len(), 2);
    assert_eq!(store.leases().unwrap(), [renewed]);
    assert_eq!(gc(&store).snapshots, [""; 0]);
    // A shorter time counts as well.
    store.add_lease("build", &LeaseOptions::default().duration(Duration::ZERO)).unwrap();
    assert_eq!(gc(&store).snapshots.len(), 2);
}

#[test]
fn a_blob_that_was_taken_in_by_hand_can_be_kept() {
    let store = Scratch::new();
    let digest = Algorithm::Sha256.digest(b"hello");
    let take_in = || match store.content().start(&Expected::digest(digest.clone())).unwrap() {
        Started::Ingest(mut ingest) => ingest.write(b"hello").and_then(|()| ingest.finish()).map(drop).unwrap(),
        Started::Present(_) => {}
    };
    take_in();
    store.add_lease("pull", &LeaseOptions::default().blob(digest.clone())).unwrap();
    gc(&store);
    assert!(store.content().blob(&digest).unwrap().is_some());
    store.remove_lease("pull").unwrap();
    let outcome = gc(&store);
    assert_eq!((outcome.blobs, outcome.blob_bytes), (vec![digest.clone()], 5));
    assert!(store.content().blob(&digest).unwrap().is_none());
    assert_eq!(store.names("ingest"), [""; 0], "nor is it there under another name");
}

#[test]
fn what_is_not_there_is_not_found_and_the_lease_is_as_before() {
    let store = Scratch::new();
    let a = store.layer(None, "a");
    store.add_lease("build", &keeping(&a)).unwrap();
    let before = store.leases().unwrap();
    let missing = LeaseOptions::default().duration(Duration::MAX).blob(Algorithm::Sha256.digest(b"nothing"));
    assert_eq!(kind_of(store.add_lease("build", &missing)), ErrorKind::NotFound);
    let missing = LeaseOptions::default().snapshot(Name::new("nothing").unwrap());
    assert_eq!(kind_of(store.add_lease("build", &missing)), ErrorKind::NotFound);
    assert_eq!(kind_of(store.add_lease("another", &missing)), ErrorKind::NotFound);
    for name in ["", "a\nb", &"x".repeat(5000)] {
        assert_eq!(kind_of(store.add_lease(name, &LeaseOptions::default())), ErrorKind::InvalidArgument);
    }
    assert_eq!(store.leases().unwrap(), before);
}

#[test]
fn a_lease_that_is_renewed_while_a_collection_looks_at_it_stays() {
    let store = Scratch::new();
    let a = store.layer(None, "a");
    store.add_lease("build", &keeping(&a).duration(Duration::ZERO)).unwrap();
    // As a collection that read it before.
    let id = store.metadata().read().unwrap().leases().unwrap().remove(0).id;
    let transaction = store.metadata().write().unwrap();
    transaction.put_lease("build", i64::MAX).unwrap();
    transaction.commit().unwrap();
    store.end_dead_lease(id).unwrap();
    assert_eq!(gc(&store).snapshots, [""; 0]);
    assert_eq!(store.leases().unwrap().len(), 1);
}
