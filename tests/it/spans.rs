//! What operators see: a span for each verb, with the fields that the documentation of `store` lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use plywood::snapshot::{Key, Name};
use plywood::store::{BackendChoice, ImageSource, ImportOptions, Store};
use plywood::{Context, Parallelism};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_core::span::Current;

use crate::support::verbs::{every_verb, image};
use crate::support::{Sandbox, is_root};

/// A span that ended, or is open yet.
#[derive(Clone, Debug, Default)]
struct Seen {
    of: Option<&'static Metadata<'static>>,
    name: &'static str,
    level: String,
    declared: BTreeSet<String>,
    fields: BTreeMap<String, String>,
    /// The name of the span in which it began.
    within: Option<&'static str>,
}

#[derive(Clone, Debug, Default)]
struct Listener(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    spans: Vec<Seen>,
    taken: usize,
    entered: BTreeMap<String, Vec<usize>>,
}

struct Values<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Values<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

fn thread() -> String {
    format!("{:?}", std::thread::current().id())
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target() == "plywood"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut heard = self.0.lock().unwrap();
        let metadata = span.metadata();
        let within = heard.entered.get(&thread()).and_then(|entered| entered.last()).map(|&at| heard.spans[at].name);
        let declared = metadata.fields().iter().map(|field| field.name().to_owned()).collect();
        let mut seen = Seen {
            of: Some(metadata),
            name: metadata.name(),
            level: metadata.level().to_string(),
            declared,
            within,
            ..Seen::default()
        };
        span.record(&mut Values(&mut seen.fields));
        heard.spans.push(seen);
        Id::from_u64(heard.spans.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let at = span.into_u64() as usize - 1;
        values.record(&mut Values(&mut self.0.lock().unwrap().spans[at].fields));
    }

    fn current_span(&self) -> Current {
        let heard = self.0.lock().unwrap();
        let entered = heard.entered.get(&thread()).and_then(|entered| entered.last());
        entered.map_or_else(Current::none, |&at| Current::new(Id::from_u64(at as u64 + 1), heard.spans[at].of.unwrap()))
    }

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, _event: &Event<'_>) {}

    fn enter(&self, span: &Id) {
        self.0.lock().unwrap().entered.entry(thread()).or_default().push(span.into_u64() as usize - 1);
    }

    fn exit(&self, _span: &Id) {
        self.0.lock().unwrap().entered.entry(thread()).or_default().pop();
    }
}

impl Listener {
    /// The spans since the last time.
    fn take(&self) -> Vec<Seen> {
        let mut heard = self.0.lock().unwrap();
        assert!(heard.entered.values().all(Vec::is_empty), "no verb is going on: {:?}", heard.entered);
        let (from, all) = (heard.taken, heard.spans.len());
        heard.taken = all;
        heard.spans[from..].to_vec()
    }

    /// The one span of this name since the last time, with its fields.
    #[track_caller]
    fn one(&self, name: &str) -> BTreeMap<String, String> {
        let spans = self.take();
        let mut found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
        assert_eq!(found.len(), 1, "{spans:?}");
        found.pop().unwrap().fields.clone()
    }
}

/// The rows of the table in the documentation: span and fields.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = include_str!("../../src/store/mod.rs");
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | `"));
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    rows.map(|row| (row.split('`').next().unwrap().to_owned(), names(row.rsplit(" | ").next().unwrap()))).collect()
}

/// A process of its own: the listener hears all of its threads.
fn listening(body: impl FnOnce(&Listener)) {
    let listener = Listener::default();
    tracing::subscriber::set_global_default(listener.clone()).unwrap();
    body(&listener);
}

fn sandbox() -> Sandbox {
    if is_root() { Sandbox::root() } else { Sandbox::user_namespace() }
}

#[test]
fn each_verb_is_a_span_with_the_fields_of_the_table_and_no_others() {
    sandbox().run(|| {
        listening(|listener| {
            for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
                let store = Store::temporary_with(|options| options.backend(backend)).unwrap();
                every_verb(&store, "one", &Context::default());
            }
            let table = documented();
            let spans = listener.take();
            for span in &spans {
                assert_eq!(span.level, "INFO", "{span:?}");
                let mut expected = table.get(span.name).unwrap_or_else(|| panic!("{} is not documented", span.name)).clone();
                expected.extend(["duration".to_owned(), "error".to_owned()]);
                // `mount` is one in two forms: a detached one has no target.
                if span.name == "mount" && !span.declared.contains("target") {
                    expected.remove("target");
                }
                assert_eq!(span.declared, expected, "{}", span.name);
                let failed = span.fields.contains_key("error");
                assert!(span.fields["duration"].parse::<f64>().unwrap() >= 0.0, "{span:?}");
                let told: BTreeSet<String> = span.fields.keys().cloned().collect();
                let may_lack = ["error", "parent", "target", "reference", "chain_id"];
                let lacking: Vec<_> = expected.difference(&told).filter(|field| !may_lack.contains(&field.as_str())).collect();
                assert!(failed || lacking.is_empty(), "{}: {lacking:?} are not told: {span:?}", span.name);
            }
            let names: BTreeSet<&str> = spans.iter().map(|span| span.name).collect();
            // That one needs damage.
            let silent: Vec<_> = table.keys().filter(|name| !names.contains(name.as_str()) && *name != "repair").collect();
            assert!(silent.is_empty(), "documented, and never seen: {silent:?}");
        });
    });
}

#[test]
fn a_span_says_which_what_how_much_and_why_not() {
    sandbox().run(|| {
        listening(|listener| {
            let directory = plywood::testing::temporary_directory().unwrap();
            let store = Store::temporary_with(|options| options.parallelism(Parallelism::new(3))).unwrap();
            assert_eq!(listener.one("open")["backend"], store.backend().name());
            let cx = Context::default();
            let layout = directory.path().join("image");
            image().write_layout(&layout, "one").unwrap();
            let imported = store.import(ImageSource::path(&layout), &ImportOptions::default(), &cx).unwrap().image;

            let spans = listener.take();
            let import = spans.iter().find(|span| span.name == "import").unwrap();
            let (digest, top) = (imported.manifest.digest.to_string(), imported.chain_id.unwrap().to_string());
            let told = |name: &str| import.fields[name].as_str();
            assert_eq!((told("reference"), told("digest"), told("chain_id")), ("one", digest.as_str(), top.as_str()));
            assert_eq!((told("layers"), told("unpacked")), ("2", "2"));
            if store.backend().unpacks_ahead() {
                let layers: Vec<_> = spans.iter().filter(|span| span.name == "layer").collect();
                assert!(layers.iter().all(|layer| layer.within == Some("import")), "whichever thread does it: {layers:?}");
                let chain_ids: BTreeSet<_> = layers.iter().map(|layer| layer.fields["chain_id"].clone()).collect();
                assert_eq!(chain_ids, imported.layers.iter().map(|layer| layer.chain_id.to_string()).collect());
                let sum = |field: &str| layers.iter().map(|layer| layer.fields[field].parse::<u64>().unwrap()).sum::<u64>();
                assert!(sum("entries") >= 5 && sum("bytes") > 0, "{layers:?}");
                let whole: u64 = told("bytes").parse().unwrap();
                assert!(whole >= sum("bytes"), "the documents count too");
            }

            let key = Key::new("a b\n").unwrap();
            store.prepare(&key, Some(&Name::from(&imported.layers[1].chain_id)), &Default::default()).unwrap();
            let prepare = listener.one("prepare");
            assert_eq!((prepare["key"].as_str(), prepare["parent"].as_str()), ("a b\n", top.as_str()));
            assert!(!prepare.contains_key("error"));

            store.prepare(&key, None, &Default::default()).unwrap_err();
            assert_eq!(listener.one("prepare")["error"], "AlreadyExists");

            let mut layer = Vec::new();
            let diff = store.diff(&top, &mut layer, &Default::default(), &cx).unwrap();
            let told = listener.one("diff");
            assert_eq!((told["key"].as_str(), &told["digest"]), (top.as_str(), &diff.descriptor.digest.to_string()));
            assert_eq!(told["size"], layer.len().to_string());
        });
    });
}
