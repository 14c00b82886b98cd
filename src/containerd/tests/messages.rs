//! Messages as long as they may be, and longer.

use super::*;
use crate::snapshot::Labels;
use crate::store::{LabelUpdate, StoreOptions};
use crate::{Durability, snapshot::Key, snapshot::Name};

/// Labels that take about so many bytes, each as long as containerd lets one be.
fn labels(bytes: usize) -> Vec<(String, String)> {
    (0..bytes / 4096).map(|number| (format!("label-{number:06}"), "x".repeat(4096 - 12))).collect()
}

fn borrowed(labels: &[(String, String)]) -> Vec<(&str, &str)> {
    labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[test]
fn a_message_that_is_too_long_is_refused() {
    let served = Served::new();
    let label = "x".repeat(17 << 20);
    assert_eq!(code(served.prepare_with("key", "", &[("long", &label)])), Code::OutOfRange);
    assert_eq!(code(served.prepare(&label, "")), Code::OutOfRange);
    assert_eq!(code(served.prepare(&label[..5 << 20], "")), Code::InvalidArgument, "a name has 4 KiB");
    served.prepare("key", "").unwrap();
}

#[test]
fn labels_with_which_a_snapshot_could_not_be_listed_are_refused() {
    let served = Served::new();
    let (three, five) = (labels(3 << 20), labels(5 << 20));
    let (three, five) = (borrowed(&three), borrowed(&five));
    assert_eq!(code(served.prepare_with("key", "", &five)), Code::ResourceExhausted);
    // Short ones take more bytes in a message than they have.
    let short: Vec<_> = (0..300_000).map(|number| (format!("{number:x}"), String::new())).collect();
    assert_eq!(code(served.prepare_with("key", "", &borrowed(&short))), Code::ResourceExhausted);
    served.prepare_with("key", "", &three).unwrap();
    assert_eq!(code(served.commit_on("name", "key", "", &five)), Code::ResourceExhausted);
    let more: Vec<_> = three.iter().map(|(name, value)| (format!("more-{name}"), (*value).to_owned())).collect();
    let paths: Vec<_> = more.iter().map(|(name, _)| format!("labels.{name}")).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    assert_eq!(code(served.update("key", &borrowed(&more), &paths)), Code::ResourceExhausted, "added, one by one");
    served.update("key", &borrowed(&more), &["labels"]).unwrap();
    assert_eq!(served.stat("key").unwrap().labels.len(), more.len());
}

#[test]
fn a_listing_is_no_longer_than_containerd_takes_whatever_the_labels() {
    let served = Served::new();
    let (small, large) = (labels(900 << 10), labels(4_000 << 10));
    for number in 0..3 {
        served.prepare_with(&format!("{number}-a"), "", &borrowed(&small)).unwrap();
        served.prepare_with(&format!("{number}-b"), "", &borrowed(&large)).unwrap();
    }
    // What somebody else gave one, without asking: it goes alone, and in one message.
    let huge: Labels = labels(15_900 << 10).into_iter().collect();
    served.store.update("containerd:2-b", &LabelUpdate::replace_all(huge)).unwrap();
    let pages = served.pages(&[]).unwrap();
    assert_eq!(pages.iter().map(Vec::len).sum::<usize>(), 6);
    assert!(pages.iter().all(|page| page.len() == 1), "{:?}", pages.iter().map(Vec::len).collect::<Vec<_>>());
}

#[test]
fn thousands_of_snapshots_are_listed_in_many_messages() {
    let (store, directory) = crate::testing::temporary_store().unwrap();
    let options = StoreOptions { ids: store.ids(), ..StoreOptions::new(store.root()) }.durability(Durability::Relaxed);
    let relaxed = Store::open_with(&options).unwrap();
    let base = Key::new("base").unwrap();
    relaxed.prepare(&base, None, &Default::default()).unwrap();
    let parent = Name::new("containerd:base").unwrap();
    relaxed.commit(&parent, &base, &Default::default()).unwrap();
    for number in 0..2000 {
        let key = Key::new(format!("containerd:default/{number:04}/key")).unwrap();
        relaxed.view(&key, Some(&parent), &Default::default()).unwrap();
    }
    let served = Served { _directory: Some(directory), ..Served::at(store.clone(), store.root().with_file_name("socket")) };
    let pages = served.pages(&[]).unwrap();
    assert!(pages.iter().all(|page| !page.is_empty() && page.len() <= 100), "{:?}", pages.iter().map(Vec::len).collect::<Vec<_>>());
    let names: Vec<_> = pages.into_iter().flatten().map(|info| info.name).collect();
    assert_eq!((names.len(), names[1].as_str(), names[2000].as_str()), (2001, "default/0000/key", "default/1999/key"));
    assert_eq!(served.list(&["kind==view,name~=|^default/19|"]).unwrap().len(), 100);
}
