//! What a collection keeps and what goes.

use super::*;
use crate::descriptor::Descriptor;
use crate::digest::Algorithm;
use crate::metadata::{BlobRow, ImageLayer, ImageRow};

fn gc(store: &Store) -> GcOutcome {
    store.gc(&GcOptions::default(), &crate::Context::default()).unwrap()
}

/// An image of these layers, with a config blob of its own.
fn image(store: &Scratch, reference: &str, layers: &[(&ChainId, &str)]) {
    let lease = store.lease().unwrap();
    let config = blob(store, &lease, &format!("config of {reference}"));
    let layers = layers
        .iter()
        .map(|&(chain_id, content)| ImageLayer {
            descriptor: config.clone(),
            diff_id: diff_id(content),
            chain_id: chain_id.clone(),
        })
        .collect();
    let transaction = store.metadata().write().unwrap();
    transaction
        .put_image(&ImageRow {
            reference: reference.to_owned(),
            target: config.clone(),
            manifest: config.clone(),
            blobs: vec![config.digest.clone()],
            config,
            platform: "linux/amd64".to_owned(),
            annotations: Default::default(),
            layers,
            created: Default::default(),
            updated: Default::default(),
        })
        .unwrap();
    transaction.commit().unwrap();
    lease.release().unwrap();
}

fn blob(store: &Scratch, lease: &lease::Lease, content: &str) -> Descriptor {
    let digest = Algorithm::Sha256.digest(content.as_bytes());
    let descriptor = Descriptor::new("text/plain", digest.clone(), content.len() as u64);
    let transaction = store.metadata().write().unwrap();
    let row = BlobRow { digest: digest.clone(), size: descriptor.size, media_type: descriptor.media_type.clone(), diff_id: None };
    transaction.put_blob(&row).unwrap();
    transaction.lease_blob(lease.id(), &digest).unwrap();
    std::fs::write(store.path("blobs/sha256").join(digest.to_hex()), content).unwrap();
    transaction.commit().unwrap();
    descriptor
}

#[test]
fn what_nothing_reaches_goes_from_the_top_down() {
    let store = Scratch::new();
    let a = store.layer(None, "a");
    let b = store.layer(Some(&a), "b");
    let outcome = gc(&store);
    assert_eq!(outcome.snapshots, [b.to_string(), a.to_string()]);
    assert_eq!(outcome.trees, 2);
    assert_eq!(store.names("trees"), [""; 0]);
    assert_eq!(gc(&store), GcOutcome::default());
}

#[test]
fn keys_names_images_leases_and_roots_keep_what_they_reach() {
    let store = Scratch::new();
    let layers: Vec<_> = ["key", "name", "image", "lease", "root"]
        .map(|content| {
            let below = store.layer(None, content);
            (below.clone(), store.layer(Some(&below), &format!("top of {content}")))
        })
        .into();
    store.prepare("key", Some(&layers[0].1.to_string())).unwrap();
    store.base("name", Some(&layers[1].1.to_string()));
    image(&store, "image", &[(&layers[2].0, "image"), (&layers[2].1, "top of image")]);
    let lease = store.lease().unwrap();
    let transaction = store.metadata().write().unwrap();
    let row = transaction.layer(&layers[3].1).unwrap().unwrap();
    transaction.lease_snapshot(lease.id(), row.id).unwrap();
    transaction.commit().unwrap();
    let options = GcOptions::default().root(Name::from(&layers[4].1));
    let cx = crate::Context::default();
    assert_eq!(store.gc(&options, &cx).unwrap(), GcOutcome::default());
    // Then each of them lets go.
    assert_eq!(gc(&store).snapshots.len(), 2, "the caller's root");
    lease.release().unwrap();
    assert_eq!(gc(&store).snapshots.len(), 2, "the lease");
    let transaction = store.metadata().write().unwrap();
    assert!(transaction.remove_image("image").unwrap());
    transaction.commit().unwrap();
    let outcome = gc(&store);
    assert_eq!((outcome.snapshots.len(), outcome.blobs.len(), outcome.blob_bytes), (2, 1, 15), "the image");
    assert_eq!(store.names("blobs/sha256"), [""; 0]);
    store.remove("key").unwrap();
    assert_eq!(gc(&store).snapshots.len(), 2, "the key");
    store.remove("name").unwrap();
    assert_eq!(gc(&store).snapshots.len(), 2, "the name");
    assert_eq!(store.names("trees"), [""; 0]);
}

#[test]
fn what_an_image_stands_on_cannot_be_removed() {
    let store = Scratch::new();
    let a = store.layer(None, "a");
    image(&store, "one", &[(&a, "a")]);
    let transaction = store.metadata().write().unwrap();
    transaction.tag_image("one", "two").unwrap();
    transaction.commit().unwrap();
    let error = store.remove(&a.to_string()).unwrap_err();
    assert_eq!((error.kind(), error.reason()), (ErrorKind::InUse, Some("cannot remove it: images stand on it (one, two)")));
    assert_eq!(store.resolve("two").unwrap(), Name::from(&a));
}

#[test]
fn a_dry_run_says_the_same_and_removes_nothing() {
    let store = Scratch::new();
    let a = store.layer(None, "a");
    store.prepare("key", None).unwrap();
    store.remove("key").unwrap();
    let cx = crate::Context::default();
    let plan = store.gc(&GcOptions::default().dry_run(), &cx).unwrap();
    assert_eq!((plan.snapshots.clone(), plan.trees), (vec![a.to_string()], 2));
    assert!(plan.tree_bytes > 0);
    assert_eq!(store.names("trees").len(), 2);
    let expected = GcOutcome { trees: 2, ..plan.clone() };
    assert_eq!(gc(&store), expected, "with the same sizes");
}

#[test]
fn a_shared_tree_goes_with_its_last_snapshot() {
    let store = Scratch::new();
    let a = store.layer(None, "a");
    let b = store.layer(None, "b");
    let transaction = store.metadata().write().unwrap();
    let shared = transaction.shareable_trees(&diff_id("b"), Ids::Exact).unwrap().remove(0);
    let parent = transaction.layer(&a).unwrap().unwrap();
    let new = NewLayer { parent: Some(&parent), diff_id: &diff_id("b"), tree: shared.id, root: None, labels: &Labels::new() };
    let second = transaction.insert_layer(&new).unwrap();
    transaction.commit().unwrap();
    store.remove(&b.to_string()).unwrap();
    assert_eq!(store.empty_trash(&crate::Context::default()).unwrap(), 0);
    assert!(store.fake.path(shared.id).exists());
    store.remove(&second.name).unwrap();
    assert_eq!(store.empty_trash(&crate::Context::default()).unwrap(), 1);
    assert!(!store.fake.path(shared.id).exists());
}

#[test]
fn a_tree_that_is_being_built_stays_and_goes_with_its_lease() {
    let store = Scratch::new();
    let lease = store.lease().unwrap();
    let transaction = store.metadata().write().unwrap();
    let tree = transaction.allocate_tree(lease.id(), "fake").unwrap();
    transaction.commit().unwrap();
    store.fake.fill(tree, "half of it");
    assert_eq!(gc(&store.again()).trees, 0);
    assert!(store.fake.path(tree).exists());
    drop(lease);
    assert_eq!(gc(&store).trees, 1);
    assert!(!store.fake.path(tree).exists());
}

#[test]
fn a_blob_that_comes_back_while_its_file_waits_to_be_deleted_stays() {
    let store = Scratch::new();
    let lease = store.lease().unwrap();
    let descriptor = blob(&store, &lease, "x");
    lease.release().unwrap();
    let transaction = store.metadata().write().unwrap();
    transaction.trash_blob(&descriptor.digest).unwrap();
    transaction.commit().unwrap();
    let lease = store.lease().unwrap();
    blob(&store, &lease, "x");
    assert_eq!(gc(&store).blobs, []);
    assert_eq!(store.names("blobs/sha256").len(), 1);
    drop(lease);
    assert_eq!(gc(&store).blobs, [descriptor.digest]);
}

#[test]
fn many_layers_go_in_several_transactions() {
    let store = Scratch::new();
    let mut below = None;
    for number in 0..150 {
        below = Some(store.layer(below.as_ref(), &number.to_string()));
    }
    assert_eq!(gc(&store).snapshots.len(), 150);
    assert_eq!(store.names("trees"), [""; 0]);
}

#[test]
fn a_wait_for_another_collection_can_be_cancelled() {
    struct Impatient;

    impl crate::progress::Progress for Impatient {
        fn is_cancelled(&self) -> bool {
            true
        }
    }

    let store = Scratch::new();
    let _collecting = store.locks().wait(crate::lock::Subject::Collection).unwrap();
    let cx = crate::Context::new(&Impatient);
    assert_eq!(kind_of(store.again().gc(&GcOptions::default(), &cx)), ErrorKind::Cancelled);
    assert_eq!(kind_of(store.again().empty_trash(&cx)), ErrorKind::Cancelled);
    // What ends a failed import waits for nobody.
    store.empty_trash_if_free().unwrap();
}

#[test]
fn what_is_removed_while_it_is_compared_is_no_layer() {
    let store = Scratch::new();
    store.prepare("key", None).unwrap();
    std::fs::write(store.fake.path(crate::tree::TreeId(1)).join("file"), "content").unwrap();
    let error = store.changes("key", &crate::Context::default(), |_| store.remove("key")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("meanwhile"), "{error}");
}
