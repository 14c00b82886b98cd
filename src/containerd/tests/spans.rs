//! What operators see of a call.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::*;

/// The fields of each span, and its name as that of a field `span`.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Vec<BTreeMap<String, String>>>>);

struct Values<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Values<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target() == "plywood"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut spans = self.0.lock().unwrap();
        let mut fields = BTreeMap::from([("span".to_owned(), span.metadata().name().to_owned())]);
        span.record(&mut Values(&mut fields));
        spans.push(fields);
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        values.record(&mut Values(&mut self.0.lock().unwrap()[span.into_u64() as usize - 1]));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A server whose threads tell the listener, and nobody else's.
fn listened(listener: &Listener) -> Served {
    let listener = listener.clone();
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.enable_all().on_thread_start(move || std::mem::forget(tracing::subscriber::set_default(listener.clone())));
    let (store, directory) = crate::testing::temporary_store().unwrap();
    let (snapshotter, address) = (store.clone(), directory.path().join("socket"));
    let served = Served::within(threads.build().unwrap(), store, address, |socket, stop| serve(snapshotter, socket, stop));
    Served { _directory: Some(directory), ..served }
}

#[test]
fn each_call_is_a_span_with_its_key_code_and_duration_around_the_stores_own() {
    let listener = Listener::default();
    let served = listened(&listener);
    served.prepare("key", "").unwrap();
    assert_eq!(code(served.view("key", "")), Code::AlreadyExists);
    served.list(&["name==key", "kind==view"]).unwrap();
    let spans = listener.0.lock().unwrap();
    let calls: Vec<_> = spans.iter().filter(|span| span["span"] == "serve call").collect();
    let said = calls.iter().map(|call| (call["call"].as_str(), call["key"].as_str(), call["code"].as_str()));
    assert_eq!(
        said.collect::<Vec<_>>(),
        [("prepare", "key", "Ok"), ("view", "key", "AlreadyExists"), ("list", "name==key or kind==view", "Ok")]
    );
    assert!(calls.iter().all(|call| call["duration"].parse::<f64>().is_ok_and(|seconds| seconds > 0.0)), "{calls:?}");
    assert_eq!(calls[1]["error"], "AlreadyExists");
    assert!(!calls[0].contains_key("error"));
    assert!(spans.iter().any(|span| span["span"] == "prepare" && span["key"] == "containerd:key"), "{spans:?}");
}
