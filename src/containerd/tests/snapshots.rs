//! The rules that a runtime relies on.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::snapshot::{Key, Kind};
use crate::sys::test_support;

#[test]
fn keys_and_names_are_any_strings() {
    let served = Served::new();
    let digest = format!("sha256:{}", "0".repeat(64));
    for key in ["/run/x/1", "../..", "a b\n", "ünï", "containerd:x", &digest, &"x".repeat(4000)] {
        served.prepare(key, "").unwrap();
        assert_eq!(served.stat(key).unwrap().name, key);
        served.commit(&format!("{key}!"), key).unwrap();
        assert_eq!(served.list(&[]).unwrap(), [format!("{key}!")]);
        served.remove(&format!("{key}!")).unwrap();
    }
    assert_eq!(code(served.prepare("", "")), Code::InvalidArgument);
    assert_eq!(code(served.prepare("a\0b", "")), Code::InvalidArgument);
}

#[test]
fn a_layer_is_committed_under_its_chain_id_without_a_proof() {
    let served = Served::new();
    let chain_id = format!("sha256:{}", "1".repeat(64));
    served.base(&chain_id, "");
    assert!(served.store.stat(&chain_id).is_err(), "to the store it is no layer");
    assert_eq!(served.store.stat(&format!("containerd:{chain_id}")).unwrap().diff_id, None);
}

#[test]
fn keys_and_names_share_one_space() {
    let served = Served::new();
    served.base("base", "");
    served.prepare("key", "").unwrap();
    for taken in ["base", "key"] {
        assert_eq!(code(served.prepare(taken, "")), Code::AlreadyExists);
        assert_eq!(code(served.view(taken, "base")), Code::AlreadyExists);
    }
    assert_eq!(code(served.commit("key", "key")), Code::AlreadyExists);
}

#[test]
fn a_missing_parent_is_not_found_and_one_that_is_not_committed_is_an_invalid_argument() {
    let served = Served::new();
    served.prepare("active", "").unwrap();
    served.view("view", "").unwrap();
    for (parent, wanted) in [("missing", Code::NotFound), ("active", Code::InvalidArgument), ("view", Code::InvalidArgument)] {
        assert_eq!(code(served.prepare("new", parent)), wanted, "{parent}");
        assert_eq!(code(served.view("new", parent)), wanted, "{parent}");
    }
    assert_eq!(code(served.prepare("new", "new")), Code::NotFound, "nothing stands on itself");
    assert_eq!(served.list(&[]).unwrap(), ["active", "view"]);
}

#[test]
fn a_commit_frees_the_key_and_takes_the_labels_that_it_is_given() {
    let served = Served::new();
    served.prepare_with("key", "", &[("mine", "1")]).unwrap();
    served.commit_on("name", "key", "", &[("other", "2")]).unwrap();
    let info = served.stat("name").unwrap();
    assert_eq!((info.kind(), info.labels), (pb::Kind::Committed, owned(&[("other", "2")])));
    assert_eq!(code(served.stat("key")), Code::NotFound);
    served.prepare("key", "name").unwrap();
    assert_eq!(served.stat("key").unwrap().parent, "name");
}

#[test]
fn a_refused_commit_leaves_the_active_one() {
    let served = Served::new();
    served.base("base", "");
    served.prepare("key", "").unwrap();
    served.view("view", "base").unwrap();
    assert_eq!(code(served.commit("base", "key")), Code::AlreadyExists);
    assert_eq!(code(served.commit("new", "view")), Code::InvalidArgument);
    assert_eq!(code(served.commit("new", "base")), Code::InvalidArgument);
    assert_eq!(code(served.commit("new", "missing")), Code::NotFound);
    assert_eq!(served.stat("key").unwrap().kind(), pb::Kind::Active);
    served.commit("new", "key").unwrap();
}

#[test]
fn what_something_stands_on_cannot_be_removed() {
    let served = Served::new();
    served.base("base", "");
    served.prepare("key", "base").unwrap();
    let status = served.remove("base").unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("cannot remove"), "{status}");
    served.remove("key").unwrap();
    served.remove("base").unwrap();
    assert_eq!(code(served.remove("base")), Code::NotFound);
}

#[test]
fn a_committed_snapshot_has_no_mounts() {
    let served = Served::new();
    served.base("base", "");
    assert_eq!(code(served.mounts("base")), Code::InvalidArgument);
    assert_eq!(code(served.mounts("missing")), Code::NotFound);
}

#[test]
fn mounts_are_an_overlay_or_a_bind_with_options_that_mount_8_knows() {
    let served = Served::new();
    served.base("base", "");
    let writable = served.prepare("key", "base").unwrap();
    assert_eq!(served.mounts("key").unwrap(), writable);
    let read_only = served.view("view", "base").unwrap();
    assert_eq!(served.mounts("view").unwrap(), read_only);
    for (mounts, access) in [(&writable, "rw"), (&read_only, "ro")] {
        let [mount] = mounts.as_slice() else { panic!("{mounts:?}") };
        let has = |option: &str| mount.options.iter().any(|given| given == option || given.starts_with(&format!("{option}=")));
        match mount.r#type.as_str() {
            "overlay" => assert!(has("lowerdir") && (access == "ro") != has("upperdir"), "{mount:?}"),
            "bind" => assert!(has("rbind") && has(access) && Path::new(&mount.source).is_dir(), "{mount:?}"),
            other => panic!("{other}"),
        }
        assert_eq!(has("ro"), access == "ro", "{mount:?}");
    }
}

#[test]
fn times_are_in_nanoseconds_and_an_update_moves_only_the_second() {
    let served = Served::new();
    served.prepare("key", "").unwrap();
    let before = served.stat("key").unwrap();
    let after = served.update("key", &[("a", "1")], &[]).unwrap();
    assert_eq!(after.created_at, before.created_at);
    let nanoseconds = |time: &Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos)).unwrap();
    assert!(nanoseconds(&after.updated_at) > nanoseconds(&before.updated_at));
    assert_eq!(nanoseconds(&before.created_at), nanoseconds(&before.updated_at));
}

#[test]
fn labels_are_updated_by_field_paths() {
    let served = Served::new();
    served.prepare_with("key", "", &[("a", "1"), ("b", "2"), ("c", "3")]).unwrap();
    let labels = |info: pb::Info| info.labels;
    let info = served.update("key", &[("a", "x"), ("b", "ignored")], &["labels.a"]).unwrap();
    assert_eq!(labels(info), owned(&[("a", "x"), ("b", "2"), ("c", "3")]));
    let info = served.update("key", &[("b", "")], &["labels.b", "labels.c"]).unwrap();
    assert_eq!(labels(info), owned(&[("a", "x")]), "an empty value removes");
    let info = served.update("key", &[("d.e/f", "4")], &["labels"]).unwrap();
    assert_eq!(labels(info), owned(&[("d.e/f", "4")]));
    assert_eq!(labels(served.update("key", &[], &[]).unwrap()), owned(&[]));
    assert_eq!(code(served.update("key", &[], &["parent"])), Code::InvalidArgument);
    assert_eq!(code(served.update("missing", &[], &[])), Code::NotFound);
}

#[test]
fn a_listing_takes_what_one_of_the_filters_does() {
    let served = Served::new();
    served.base("base", "");
    served.prepare_with("web", "base", &[("containerd.io/gc.root", "1")]).unwrap();
    served.view("look", "base").unwrap();
    assert_eq!(served.list(&[]).unwrap(), ["base", "look", "web"]);
    assert_eq!(served.list(&["kind==view"]).unwrap(), ["look"]);
    assert_eq!(served.list(&["parent==base,kind!=view", "name==base"]).unwrap(), ["base", "web"]);
    assert_eq!(served.list(&["labels.\"containerd.io/gc.root\""]).unwrap(), ["web"]);
    assert_eq!(served.list(&["name~=/^(we|lo)/"]).unwrap(), ["look", "web"]);
    assert_eq!(code(served.list(&["name=="])), Code::InvalidArgument);
}

#[test]
fn others_work_while_a_listing_is_read() {
    let served = Served::new();
    for number in 0..150 {
        served.prepare(&format!("key-{number}"), "").unwrap();
    }
    let mut client = served.client.clone();
    served.runtime.block_on(async {
        let mut stream = client.list(pb::ListSnapshotsRequest::default()).await.unwrap().into_inner();
        let mut seen = 0;
        while let Some(page) = stream.message().await.unwrap() {
            for info in page.info {
                let request = pb::StatSnapshotRequest { key: info.name.clone(), ..Default::default() };
                assert_eq!(client.stat(request).await.unwrap().into_inner().info.unwrap(), info);
                let request = pb::RemoveSnapshotRequest { key: info.name, ..Default::default() };
                client.remove(request).await.unwrap();
                seen += 1;
            }
        }
        assert_eq!(seen, 150);
    });
    assert_eq!(served.list(&[]).unwrap(), [""; 0]);
}

#[test]
fn usage_is_that_of_the_snapshot_alone_and_space_comes_back_with_a_cleanup() {
    let served = Served::new();
    served.base("base", "");
    served.prepare("key", "base").unwrap();
    let (base, key) = (served.usage("base").unwrap(), served.usage("key").unwrap());
    assert!(base.inodes >= 1 && key.inodes >= 1 && base.size >= 0, "{base:?} {key:?}");
    assert_eq!(code(served.usage("missing")), Code::NotFound);
    served.remove("key").unwrap();
    served.cleanup().unwrap();
    assert_eq!(served.store.empty_trash(&Default::default()).unwrap(), 0);
}

#[test]
fn containerd_is_shown_its_own_snapshots_alone() {
    let served = Served::new();
    let key = Key::new("web").unwrap();
    served.store.prepare(&key, None, &Default::default()).unwrap();
    // containerd would remove what it does not know.
    assert_eq!(served.list(&[]).unwrap(), [""; 0]);
    assert_eq!(code(served.stat("web")), Code::NotFound);
    assert_eq!(code(served.remove("web")), Code::NotFound);
    served.prepare("web", "").unwrap();
    served.remove("web").unwrap();
    assert_eq!(served.store.stat("web").unwrap().kind, Kind::Active);
}

#[test]
fn a_collection_of_the_stores_own_takes_nothing_of_containerds() {
    let served = Served::new();
    let chain_id = format!("sha256:{}", "2".repeat(64));
    served.base(&chain_id, "");
    served.prepare("key", "").unwrap();
    served.base("alone", "");
    served.remove("alone").unwrap();
    let collected = served.store.gc(&Default::default(), &Default::default()).unwrap();
    assert_eq!((collected.snapshots, served.list(&[]).unwrap()), (vec![], vec!["key".to_owned(), chain_id]));
    assert_eq!(collected.trees, 1, "what was removed before");
}

#[test]
fn what_others_put_on_a_snapshot_keeps_it() {
    let served = Served::new();
    served.base("base", "");
    let parent = crate::snapshot::Name::new("containerd:base").unwrap();
    served.store.prepare(&Key::new("mine").unwrap(), Some(&parent), &Default::default()).unwrap();
    assert_eq!(code(served.remove("base")), Code::FailedPrecondition);
    served.store.remove("mine").unwrap();
    served.remove("base").unwrap();
}

#[test]
fn a_snapshot_that_was_prepared_on_nothing_gets_its_parent_with_its_commit() {
    let served = Served::new();
    for key in ["a", "b", "c"] {
        served.prepare(key, "").unwrap();
    }
    served.commit("A", "a").unwrap();
    if !served.store.backend().shares_trees() {
        assert_eq!(code(served.commit_on("B", "b", "A", &[])), Code::FailedPrecondition);
        return;
    }
    assert_eq!(code(served.commit_on("B", "b", "missing", &[])), Code::NotFound);
    served.commit_on("B", "b", "A", &[]).unwrap();
    assert_eq!(served.stat("B").unwrap().parent, "A");
    assert_eq!(code(served.commit_on("C", "c", "c", &[])), Code::InvalidArgument, "it is not committed");
    served.commit_on("C", "c", "B", &[]).unwrap();
    assert_eq!(code(served.remove("B")), Code::FailedPrecondition);
    served.prepare("d", "C").unwrap();
    assert_eq!(code(served.commit_on("D", "d", "A", &[])), Code::InvalidArgument, "it has another parent");
    served.commit_on("D", "d", "C", &[]).unwrap();
    let lowers = served.view("look", "D").unwrap()[0].options.iter().find(|option| option.starts_with("lowerdir=")).cloned();
    assert!(lowers.as_ref().is_some_and(|lowers| lowers.matches("/fs").count() >= 4), "{lowers:?}");
}

#[test]
fn what_was_unpacked_ahead_is_seen_over_its_parent() {
    let served = Served::new();
    if !test_support::is_root() || !served.store.backend().shares_trees() {
        return test_support::skip("what_was_unpacked_ahead_is_seen_over_its_parent", "needs root and overlayfs");
    }
    let upper = |key: &str| {
        let mounts = served.prepare(key, "").unwrap();
        let upper = mounts[0].options.iter().find_map(|option| option.strip_prefix("upperdir=")).map(PathBuf::from);
        upper.expect("a snapshot on nothing is an overlay, not a bind mount, so that whiteouts are kept as such")
    };
    let (a, b) = (upper("a"), upper("b"));
    std::fs::write(a.join("both"), "a").unwrap();
    std::fs::write(a.join("gone"), "a").unwrap();
    std::fs::set_permissions(&a, std::fs::Permissions::from_mode(0o711)).unwrap();
    std::fs::write(b.join("both"), "b").unwrap();
    nix::sys::stat::mknod(&b.join("gone"), nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::empty(), 0).unwrap();
    served.commit("A", "a").unwrap();
    served.commit_on("B", "b", "A", &[]).unwrap();
    let names: Vec<_> = served.store.read_dir("containerd:B", "/").unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["both"]);
    let mut text = String::new();
    served.store.open_file("containerd:B", "/both").unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "b");
    assert_eq!(
        served.store.open_root("containerd:B").unwrap().metadata("/").unwrap().mode & 0o7777,
        0o711,
        "the root says nothing of its own"
    );
}
