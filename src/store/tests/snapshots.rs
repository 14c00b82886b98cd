//! What a runtime relies on: containerd's contract, sentence by sentence.

use super::*;
use std::sync::atomic::Ordering;

#[test]
fn keys_are_any_strings() {
    let store = Scratch::new();
    for key in ["/run/containers/1", "../..", "with space\n", "ünï", "-", &"x".repeat(4096)] {
        store.prepare(key, None).unwrap();
        assert_eq!(store.stat(key).unwrap().name, key);
        store.remove(key).unwrap();
    }
}

#[test]
fn keys_and_names_share_one_space() {
    let store = Scratch::new();
    store.base("base", None);
    assert_eq!(kind_of(store.prepare("base", None)), ErrorKind::AlreadyExists);
    assert_eq!(kind_of(store.view("base", None)), ErrorKind::AlreadyExists);
    store.prepare("key", None).unwrap();
    assert_eq!(kind_of(store.commit("key", "key")), ErrorKind::AlreadyExists);
}

#[test]
fn prepare_or_view_on_an_existing_key_is_already_exists() {
    let store = Scratch::new();
    store.prepare("a", None).unwrap();
    store.view("v", None).unwrap();
    for key in ["a", "v"] {
        assert_eq!(kind_of(store.prepare(key, None)), ErrorKind::AlreadyExists);
        assert_eq!(kind_of(store.view(key, None)), ErrorKind::AlreadyExists);
    }
    assert_eq!(store.names("trees").len(), 2, "nothing is left of the refused ones");
}

#[test]
fn a_missing_parent_is_not_found_and_one_that_is_not_committed_is_an_invalid_argument() {
    let store = Scratch::new();
    store.prepare("active", None).unwrap();
    store.view("view", None).unwrap();
    let prepare = |parent: &str| {
        let parent = Name::new(parent).unwrap();
        store.store.prepare(&Key::new("new").unwrap(), Some(&parent), &PrepareOptions::default())
    };
    assert_eq!(kind_of(prepare("missing")), ErrorKind::NotFound);
    assert_eq!(kind_of(prepare("active")), ErrorKind::InvalidArgument);
    assert_eq!(kind_of(prepare("view")), ErrorKind::InvalidArgument);
}

#[test]
fn commit_to_an_existing_name_is_already_exists_and_the_active_one_stays() {
    let store = Scratch::new();
    store.base("base", None);
    store.prepare("key", None).unwrap();
    assert_eq!(kind_of(store.commit("base", "key")), ErrorKind::AlreadyExists);
    assert_eq!(store.stat("key").unwrap().kind, Kind::Active);
    store.commit("other", "key").unwrap();
}

#[test]
fn commit_of_a_view_or_of_a_committed_one_is_an_invalid_argument_and_of_nothing_not_found() {
    let store = Scratch::new();
    store.base("base", None);
    store.view("view", Some("base")).unwrap();
    assert_eq!(kind_of(store.commit("new", "view")), ErrorKind::InvalidArgument);
    assert_eq!(kind_of(store.commit("new", "base")), ErrorKind::InvalidArgument);
    assert_eq!(kind_of(store.commit("new", "missing")), ErrorKind::NotFound);
}

#[test]
fn after_commit_the_key_is_free_and_the_labels_are_those_given() {
    let store = Scratch::new();
    let labels = |name: &str| Labels::from([(name.to_owned(), "x".to_owned())]);
    let key = Key::new("key").unwrap();
    store.store.prepare(&key, None, &PrepareOptions::default().labels(labels("of the active one"))).unwrap();
    assert_eq!(store.stat("key").unwrap().labels, labels("of the active one"));
    let options = CommitOptions::default().labels(labels("of the committed one"));
    let info = store.store.commit(&Name::new("name").unwrap(), &key, &options).unwrap();
    assert_eq!(info.labels, labels("of the committed one"));
    assert_eq!(info, store.stat("name").unwrap());
    assert_eq!(kind_of(store.stat("key")), ErrorKind::NotFound);
    store.prepare("key", Some("name")).unwrap();
}

#[test]
fn remove_with_children_is_in_use_and_says_that_it_cannot_remove() {
    let store = Scratch::new();
    store.base("base", None);
    for child in ["a", "b", "c", "d"] {
        store.prepare(child, Some("base")).unwrap();
    }
    let error = store.remove("base").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert_eq!(error.to_string(), "remove base: cannot remove it: snapshots stand on it (a, b, c, …)");
    for child in ["a", "b", "c", "d"] {
        store.remove(child).unwrap();
    }
    store.remove("base").unwrap();
    assert_eq!(kind_of(store.remove("base")), ErrorKind::NotFound);
}

#[test]
fn remove_of_what_is_mounted_is_in_use() {
    let store = Scratch::new();
    store.prepare("key", None).unwrap();
    store.fake.mounted.store(true, Ordering::SeqCst);
    let error = store.remove("key").unwrap_err();
    assert_eq!((error.kind(), error.reason()), (ErrorKind::InUse, Some("cannot remove it: it is mounted")));
    store.fake.mounted.store(false, Ordering::SeqCst);
    store.remove("key").unwrap();
}

#[test]
fn mounts_of_a_committed_one_is_an_invalid_argument() {
    let store = Scratch::new();
    store.base("base", None);
    store.prepare("key", Some("base")).unwrap();
    store.view("view", Some("base")).unwrap();
    store.mounts("key").unwrap();
    store.mounts("view").unwrap();
    assert_eq!(kind_of(store.mounts("base")), ErrorKind::InvalidArgument);
    assert_eq!(kind_of(store.mounts("missing")), ErrorKind::NotFound);
}

#[test]
fn update_moves_only_the_time_of_the_update_and_the_labels() {
    let store = Scratch::new();
    store.prepare("key", None).unwrap();
    let before = store.stat("key").unwrap();
    assert_eq!(before.created, before.updated);
    let after = store.update("key", &LabelUpdate::keep().set("a", "1")).unwrap();
    assert!(after.updated > before.updated);
    let expected = crate::snapshot::Info { updated: after.updated, labels: after.labels.clone(), ..before };
    assert_eq!(after, expected);
    assert_eq!(after, store.stat("key").unwrap());
    assert_eq!(kind_of(store.update("missing", &LabelUpdate::keep())), ErrorKind::NotFound);
}

#[test]
fn times_are_now_in_nanoseconds() {
    let store = Scratch::new();
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let before = now();
    store.prepare("key", None).unwrap();
    let created = store.stat("key").unwrap().created;
    let created = std::time::Duration::new(created.seconds.try_into().unwrap(), created.nanoseconds);
    assert!(before <= created && created <= now());
    let committed = store.commit("name", "key").unwrap();
    assert_eq!(committed.created, committed.updated);
    assert!(committed.created.seconds >= before.as_secs().try_into().unwrap());
}

#[test]
fn labels_are_set_removed_and_replaced_also_by_field_path() {
    let store = Scratch::new();
    store.prepare("key", None).unwrap();
    let labels =
        |pairs: &[(&str, &str)]| pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect::<Labels>();
    let update = |update: &LabelUpdate| store.update("key", update).unwrap().labels;
    assert_eq!(update(&LabelUpdate::keep().set("a", "1").set("b", "2")), labels(&[("a", "1"), ("b", "2")]));
    assert_eq!(update(&LabelUpdate::keep().remove("a").remove("missing").set("c", "")), labels(&[("b", "2"), ("c", "")]));
    assert_eq!(update(&LabelUpdate::replace_all(labels(&[("x", "y")]))), labels(&[("x", "y")]));

    let wanted = labels(&[("x", "z"), ("dotted.name/with.path", "v"), ("unnamed", "not taken")]);
    let by_path = |paths: &[&'static str]| LabelUpdate::from_field_paths(&wanted, paths.iter().copied());
    let set = by_path(&["labels.x", "labels.dotted.name/with.path"]).unwrap();
    assert_eq!(update(&set), labels(&[("x", "z"), ("dotted.name/with.path", "v")]));
    assert_eq!(
        update(&LabelUpdate::from_field_paths(&Labels::new(), ["labels.x"]).unwrap()),
        labels(&[("dotted.name/with.path", "v")])
    );
    assert_eq!(update(&by_path(&["labels"]).unwrap()), wanted);
    assert_eq!(update(&by_path(&[]).unwrap()), wanted);
    assert_eq!(kind_of(by_path(&["parent"])), ErrorKind::InvalidArgument);
}

#[test]
fn walk_takes_what_the_filter_takes_in_the_order_of_names() {
    let store = Scratch::new();
    store.base("base", None);
    store.base("base-2", Some("base"));
    store.prepare("web-1", Some("base")).unwrap();
    store.view("web-2", Some("base-2")).unwrap();
    store.update("web-1", &LabelUpdate::keep().set("owner", "ada")).unwrap();
    store.update("base", &LabelUpdate::keep().set("owner", "bob").set("x", "")).unwrap();
    let names = |filter: Filter| {
        let mut names = Vec::new();
        store.walk(&filter, |info| Ok(names.push(info.name))).unwrap();
        names
    };
    assert_eq!(names(Filter::all()), ["base", "base-2", "web-1", "web-2"]);
    assert_eq!(names(Filter::all().kind(Kind::Committed)), ["base", "base-2"]);
    assert_eq!(names(Filter::all().parent("base")), ["base-2", "web-1"]);
    assert_eq!(names(Filter::all().name_prefix("web-")), ["web-1", "web-2"]);
    assert_eq!(names(Filter::all().name_prefix("%")), [""; 0]);
    assert_eq!(names(Filter::all().label("owner")), ["base", "web-1"]);
    assert_eq!(names(Filter::all().label("owner").label_is("x", "")), ["base"]);
    assert_eq!(names(Filter::all().label_is("owner", "ada").kind(Kind::Active)), ["web-1"]);
    let mut all = Vec::new();
    store.walk(&Filter::all(), |info| Ok(all.push(info))).unwrap();
    assert!(all.iter().all(|info| *info == store.stat(&info.name).unwrap()), "a walk tells what stat tells");
}

#[test]
fn every_verb_can_be_used_inside_a_walk() {
    let store = Scratch::new();
    for key in ["a", "b"] {
        store.prepare(key, None).unwrap();
    }
    store
        .walk(&Filter::all(), |info| {
            store.stat(&info.name)?;
            store.walk(&Filter::all(), |_| Ok(()))?;
            store.commit(&format!("{} committed", info.name), &info.name)?;
            store.prepare(&info.name, None)
        })
        .unwrap();
    let stop = store.walk(&Filter::all(), |_| Err(Error::new(ErrorKind::Cancelled, "visit")));
    assert_eq!(kind_of(stop), ErrorKind::Cancelled);
}

#[test]
fn usage_counts_the_snapshot_alone() {
    let store = Scratch::new();
    store.prepare("key", None).unwrap();
    let tree = store.names("trees")[0].clone();
    std::fs::write(store.path("trees").join(tree).join("file"), "12345").unwrap();
    assert_eq!(store.usage("key").unwrap(), Usage::new(2, 5), "of an active one as it is now");
    store.commit("base", "key").unwrap();
    store.prepare("child", Some("base")).unwrap();
    assert_eq!(store.usage("base").unwrap(), Usage::new(2, 5));
    assert_eq!(store.usage("child").unwrap(), Usage::new(1, 0));
    assert_eq!(kind_of(store.usage("missing")), ErrorKind::NotFound);
}

#[test]
fn a_fresh_root_is_0755_and_a_childs_is_its_parents() {
    let store = Scratch::new();
    store.prepare("key", None).unwrap();
    let root = |name: &str| store.metadata().read().unwrap().snapshot(name).unwrap().unwrap().root;
    assert_eq!(root("key"), crate::entry::Attributes::implied());
    store.commit("base", "key").unwrap();
    assert_eq!(root("base").mode, 0o711, "as the backend found it");
    store.view("view", Some("base")).unwrap();
    assert_eq!(root("view").mode, 0o711);
}

#[test]
fn chains_are_topmost_first_and_stop_at_a_cut_without_empty_or_repeated_trees() {
    let store = Scratch::new();
    let chain = |name: &ChainId| {
        store.view("probe", Some(&name.to_string())).unwrap();
        store.remove("probe").unwrap();
        store.fake.last_chain()
    };
    let a = store.layer(None, "a");
    let b = store.layer(Some(&a), "b");
    assert_eq!(chain(&b), [2, 1]);
    let empty = store.layer_with(Some(&b), "empty", |applied| applied.empty = true);
    assert_eq!(chain(&empty), chain(&b));
    let cut = store.layer_with(Some(&empty), "cut", |applied| applied.cut = true);
    let top = store.layer(Some(&cut), "top");
    let [top_tree, cut_tree] = chain(&top)[..] else { panic!("{:?}", chain(&top)) };
    assert!(top_tree > cut_tree);

    // The first layer's tree once more on top.
    let reader = store.metadata().read().unwrap();
    let shared = reader.shareable_trees(&diff_id("a"), Ids::Exact).unwrap().remove(0).id;
    drop(reader);
    let transaction = store.metadata().write().unwrap();
    let parent = transaction.layer(&b).unwrap().unwrap();
    let new = NewLayer { parent: Some(&parent), diff_id: &diff_id("a"), tree: shared, root: None, labels: &Labels::new() };
    let again = transaction.insert_layer(&new).unwrap().chain_id.unwrap();
    transaction.commit().unwrap();
    assert_eq!(chain(&again), [1, 2]);
}

#[test]
fn a_layers_root_attributes_fold_upwards() {
    let store = Scratch::new();
    let attributes = crate::entry::Attributes { mode: 0o700, ..crate::entry::Attributes::implied() };
    let bottom = store.layer_with(None, "a", |applied| applied.root = Some(attributes.clone()));
    let top = store.layer(Some(&bottom), "b");
    let empty = store.layer_with(Some(&top), "c", |applied| applied.empty = true);
    let root = |name: &ChainId| store.metadata().read().unwrap().layer(name).unwrap().unwrap().root;
    assert_eq!([root(&bottom), root(&top), root(&empty)], [attributes.clone(), attributes.clone(), attributes]);
}

#[test]
fn a_stack_that_the_backend_cannot_mount_is_refused_with_both_figures() {
    let store = Scratch::new();
    store.fake.longest.store(1, Ordering::SeqCst);
    store.base("one", None);
    store.base("two", Some("one"));
    let error = store.prepare("three", Some("two")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert_eq!(error.to_string(), "prepare three: 2 layers would be stacked, and the fake backend mounts 1 at most");
}

#[test]
fn names_with_a_proof_are_given_by_import_alone() {
    let store = Scratch::new();
    let chain_id = store.layer(None, "a");
    assert_eq!(store.stat(&chain_id.to_string()).unwrap().diff_id, Some(diff_id("a")));
    assert_eq!(kind_of(Name::new(chain_id.to_string())), ErrorKind::InvalidArgument);
    assert_eq!(kind_of(Key::new(chain_id.to_string())), ErrorKind::InvalidArgument);
    store.base("on top", Some(&chain_id.to_string()));
    let transaction = store.metadata().write().unwrap();
    let parent = transaction.snapshot("on top").unwrap().unwrap();
    let new = NewLayer { parent: Some(&parent), diff_id: &diff_id("a"), tree: parent.tree, root: None, labels: &Labels::new() };
    assert_eq!(kind_of(transaction.insert_layer(&new)), ErrorKind::InvalidArgument);
}

#[test]
fn resolve_takes_exact_names_then_references_then_unique_prefixes() {
    let store = Scratch::new();
    // Two layers whose chain ids (their diff ids, as nothing is below) share four digits.
    let mut seen = std::collections::BTreeMap::new();
    let digits = |content: &str| diff_id(content).0.to_hex()[..4].to_owned();
    let [one, two] = (0..)
        .map(|number: u32| number.to_string())
        .find_map(|content| seen.insert(digits(&content), content.clone()).map(|before| [before, content]))
        .unwrap();
    let (layer, twin, prefix) = (store.layer(None, &one), store.layer(None, &two), digits(&one));
    let hex = layer.0.to_hex();
    let resolved = |text: &str| store.resolve(text).map(|name| name.as_str().to_owned());
    for text in [layer.to_string(), hex.clone(), hex[..16].to_owned(), format!("sha256:{}", &hex[..16])] {
        assert_eq!(resolved(&text).unwrap(), layer.to_string(), "{text}");
    }
    assert_eq!(kind_of(resolved(&hex[..3])), ErrorKind::NotFound, "three digits are no prefix");
    assert_eq!(kind_of(resolved("sha256:")), ErrorKind::NotFound);
    assert_eq!(kind_of(resolved("")), ErrorKind::NotFound);
    let error = resolved(&prefix).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!([&layer, &twin].iter().all(|name| error.to_string().contains(&name.to_string())), "{error}");
    // A name that a person gave comes first, even where it looks like a prefix.
    store.base(&prefix, None);
    assert_eq!(resolved(&prefix).unwrap(), prefix);
}

#[test]
fn diff_gives_both_digests_and_a_committed_one_its_diff_id() {
    let store = Scratch::new();
    store.prepare("key", None).unwrap();
    let tree = store.names("trees")[0].clone();
    std::fs::write(store.path("trees").join(tree).join("file"), "12345").unwrap();
    let cx = crate::Context::default();
    let mut plain = Vec::new();
    let outcome = store.diff("key", &mut plain, &DiffOptions::default(), &cx).unwrap();
    assert_eq!(outcome.descriptor.digest, outcome.diff_id.0);
    assert_eq!(outcome.descriptor.digest, crate::digest::Algorithm::Sha256.digest(&plain));
    assert_eq!(store.stat("key").unwrap().diff_id, None);
    store.commit("base", "key").unwrap();
    for compression in [crate::compression::Compression::Gzip, crate::compression::Compression::Zstd] {
        let mut compressed = Vec::new();
        let options = DiffOptions::default().compression(compression);
        let other = store.diff("base", &mut compressed, &options, &cx).unwrap();
        assert_eq!(other.diff_id, outcome.diff_id);
        assert_eq!(other.descriptor.digest, crate::digest::Algorithm::Sha256.digest(&compressed));
        assert_eq!(other.descriptor.size, compressed.len() as u64);
    }
    assert_eq!(store.stat("base").unwrap().diff_id, Some(outcome.diff_id));
    let mut changes = Vec::new();
    store.changes("base", &cx, |changed| Ok(changes.push(changed.path.to_string()))).unwrap();
    assert_eq!(changes, ["file"]);
}

#[test]
fn an_empty_layer_differs_in_its_root_at_most() {
    let store = Scratch::new();
    let attributes = crate::entry::Attributes { mode: 0o700, ..crate::entry::Attributes::implied() };
    let bottom = store.layer_with(None, "a", |applied| {
        applied.empty = true;
        applied.root = Some(attributes);
    });
    let top = store.layer_with(Some(&bottom), "b", |applied| applied.empty = true);
    let changes = |name: &ChainId| {
        let mut changes = Vec::new();
        store.changes(&name.to_string(), &crate::Context::default(), |changed| Ok(changes.push(changed.path.to_string()))).unwrap();
        changes
    };
    assert_eq!(changes(&bottom), ["."]);
    assert_eq!(changes(&top), [""; 0]);
}
