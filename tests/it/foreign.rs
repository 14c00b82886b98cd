//! A backend of somebody else's making: what the public interface must have for one. It keeps whole trees in memory and knows
//! directories, files and symlinks; what it is asked to mount is an empty directory.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};

use plywood::backend::{Backend, Frozen, Roots};
use plywood::digest::DiffId;
use plywood::entry::{Attributes, Change, Entry, EntrySink, EntryStream, Node, Status};
use plywood::mount::{Base, Mount};
use plywood::path::EntryPath;
use plywood::snapshot::{Key, Name, Usage};
use plywood::store::{BackendChoice, ImportLayerOptions, LayerSource, Store};
use plywood::testing::Layer;
use plywood::tree::{Access, Answer, Applied, Ids, Question, TreeId};
use plywood::{Context, Error, ErrorKind, Result};

use crate::support::Sandbox;

type Tree = BTreeMap<EntryPath, (Node, Attributes, Vec<u8>)>;

#[derive(Debug)]
struct Memory {
    trees: Mutex<HashMap<TreeId, Tree>>,
    base: Base,
}

impl Memory {
    fn new(place: &Path) -> Result<Self> {
        std::fs::create_dir(place).unwrap();
        Ok(Self { trees: Mutex::default(), base: Base::open(place)? })
    }

    fn tree(&self, tree: Option<&TreeId>) -> Tree {
        tree.and_then(|tree| self.trees.lock().unwrap().get(tree).cloned()).unwrap_or_default()
    }

    fn keep(&self, id: TreeId, tree: Tree) -> Usage {
        let usage = usage(&tree);
        self.trees.lock().unwrap().insert(id, tree);
        usage
    }
}

fn usage(tree: &Tree) -> Usage {
    Usage::new(tree.len() as u64, tree.values().map(|(_, _, content)| content.len() as u64).sum())
}

/// Takes a layer's entries, or its markers alone.
fn pass(
    tree: &mut Tree,
    layer: &mut dyn EntryStream,
    markers: bool,
    root: &mut Option<Attributes>,
    cx: &Context<'_>,
) -> Result<()> {
    while let Some(Entry { path, change }) = layer.next()? {
        cx.check("apply layer")?;
        match change {
            Change::Whiteout if markers => tree.retain(|name, _| !name.starts_with(&path)),
            Change::Opaque if markers => tree.retain(|name, _| *name == path || !name.starts_with(&path)),
            Change::Upsert { node: Node::Directory, attributes } if !markers && path.is_root() => *root = Some(attributes),
            Change::Upsert { node, attributes } if !markers => {
                if node != Node::Directory {
                    tree.retain(|name, _| !name.starts_with(&path));
                }
                let mut content = Vec::new();
                while let Some(chunk) = layer.chunk()? {
                    content.resize(chunk.offset.try_into().unwrap(), 0);
                    content.extend_from_slice(chunk.data);
                }
                tree.insert(path, (node, attributes, content));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Backend for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn longest_chain(&self) -> usize {
        usize::MAX
    }

    fn create(&self, tree: TreeId, chain: &[TreeId], _: &Attributes) -> Result<()> {
        self.keep(tree, self.tree(chain.first()));
        Ok(())
    }

    fn apply(&self, id: TreeId, chain: &[TreeId], layer: &mut dyn EntryStream, _: Ids, cx: &Context<'_>) -> Result<Applied> {
        let (mut tree, mut root) = (self.tree(chain.first()), None);
        let report = cx.mark();
        pass(&mut tree, layer, true, &mut root, cx)?;
        layer.restart()?;
        cx.rewind(report);
        pass(&mut tree, layer, false, &mut root, cx)?;
        let mut applied = Applied::new(self.keep(id, tree));
        applied.root = root;
        Ok(applied)
    }

    fn answer(&self, _: &[TreeId], questions: &[Question]) -> Result<Vec<Answer>> {
        Ok(vec![Answer::Absent; questions.len()])
    }

    fn shares_trees(&self) -> bool {
        false
    }

    fn diff(&self, tree: TreeId, chain: &[TreeId], _: Roots<'_>, out: &mut dyn EntrySink, _: &Context<'_>) -> Result<()> {
        let (lower, upper) = (self.tree(chain.first()), self.tree(Some(&tree)));
        let changed = |path: &EntryPath| lower.get(path) != upper.get(path);
        let all: std::collections::BTreeSet<&EntryPath> = lower.keys().chain(upper.keys()).collect();
        for &path in all.iter().filter(|path| all.iter().any(|below| below.starts_with(path) && changed(below))) {
            let Some((node, attributes, content)) = upper.get(path) else {
                out.entry(&Entry { path: path.clone(), change: Change::Whiteout }, Status::Deleted)?;
                continue;
            };
            let status = if lower.contains_key(path) { Status::Modified } else { Status::Added };
            let change = Change::Upsert { node: node.clone(), attributes: attributes.clone() };
            out.entry(&Entry { path: path.clone(), change }, status)?;
            if out.wants_data() && !content.is_empty() {
                out.data(content)?;
            }
        }
        Ok(())
    }

    fn mount(&self, _: TreeId, _: &[TreeId], access: Access) -> Result<Mount> {
        Ok(Mount::bind(self.base.clone(), EntryPath::ROOT, access))
    }

    fn commit(&self, tree: TreeId) -> Result<Frozen> {
        Ok(Frozen::new(self.usage(tree)?, Attributes::implied()))
    }

    fn usage(&self, tree: TreeId) -> Result<Usage> {
        let trees = self.trees.lock().unwrap();
        trees.get(&tree).map(usage).ok_or_else(|| Error::new(ErrorKind::NotFound, "usage").at(tree.to_string()))
    }

    fn remove(&self, tree: TreeId) -> Result<()> {
        self.trees.lock().unwrap().remove(&tree);
        Ok(())
    }
}

/// Imports two layers, and gives the second one's changes and its diff.
fn changes(store: &Store) -> (Vec<String>, Vec<u8>, DiffId) {
    let cx = Context::default();
    let base = Layer::new().dir("etc", 0o755).file("etc/motd", "hello\n").file("etc/old", "old\n").symlink("link", "etc/motd");
    let top = Layer::new().whiteout("etc/old").dir("etc", 0o700).file("etc/motd", "changed\n").dir("var", 0o755);
    let import = |layer: &Layer, parent: Option<&str>| {
        let options = parent.map_or_else(ImportLayerOptions::default, |parent| ImportLayerOptions::default().parent(parent));
        store.import_layer(LayerSource::reader(layer.tar().as_slice()), &options, &cx).unwrap().chain_id
    };
    let base = import(&base, None);
    let top = import(&top, Some(&base.to_string())).to_string();
    let mut list = Vec::new();
    let visit = |changed: plywood::store::Changed| {
        list.push(format!("{:?} {}", changed.status, changed.path));
        Ok(())
    };
    store.changes(&top, &cx, visit).unwrap();
    let mut bytes = Vec::new();
    let diff_id = store.diff(&top, &mut bytes, &Default::default(), &cx).unwrap().diff_id;
    store.view(&Key::new("look").unwrap(), Some(&store.resolve(&top).unwrap()), &Default::default()).unwrap();
    store.prepare(&Key::new("box").unwrap(), None, &Default::default()).unwrap();
    store.commit(&Name::new("empty").unwrap(), &Key::new("box").unwrap(), &Default::default()).unwrap();
    store.remove("look").unwrap();
    assert!(store.gc(&Default::default(), &cx).unwrap().trees >= 3);
    (list, bytes, diff_id)
}

#[test]
fn a_backend_can_be_made_outside_of_the_crate() {
    // The copy backend, which it is compared with, makes files of root.
    Sandbox::user_namespace().run(|| {
        let foreign = Store::temporary_in(std::env::temp_dir(), |place, options| {
            Ok(options.backend(BackendChoice::Custom(Arc::new(Memory::new(place)?))))
        });
        let foreign = foreign.unwrap();
        assert_eq!((foreign.backend().name(), foreign.backend_reason()), ("memory", "the caller brought it"));
        let (list, bytes, diff_id) = changes(&foreign);
        assert_eq!(list, ["Modified etc", "Modified etc/motd", "Deleted etc/old", "Added var"]);
        assert_eq!(DiffId(plywood::digest::Algorithm::Sha256.digest(&bytes)), diff_id);
        let own = Store::temporary_with(|options| options.backend(BackendChoice::Copy)).unwrap();
        // Whiteouts come first in a directory; this backend does not trouble to.
        let sorted = |mut list: Vec<String>| {
            list.sort();
            list
        };
        assert_eq!(sorted(changes(&own).0), sorted(list));
    });
}
