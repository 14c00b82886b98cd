//! Stacks of layers through the backends themselves: against the model, and out and in again.

use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use arbitrary::Unstructured;
use plywood::backend::{Backend, Copy, Overlay, Roots};
use plywood::entry::{Attributes, Change, Entry, EntrySink, Node, Status};
use plywood::mount::{Base, Detached};
use plywood::path::EntryPath;
use plywood::tar::{MemoryLayer, Writer};
use plywood::testing::model::{self, Invalid};
use plywood::testing::{Layer, TemporaryDirectory, Tree, temporary_directory};
use plywood::tree::{Access, Applied, Ids, TreeId};
use plywood::whiteout::XattrStyle;
use plywood::{Context, ErrorKind, Result};

use super::members::{self, Power, Stack};

/// Both backends, each in a directory of its own where temporary files go: best in memory, in a private mount namespace.
pub(crate) struct Trees {
    power: Power,
    backends: Vec<Box<dyn Backend>>,
    next: AtomicU64,
    _directories: Vec<TemporaryDirectory>,
}

impl Trees {
    pub(crate) fn new(power: Power) -> Self {
        let style = if power == Power::Root { XattrStyle::Trusted } else { XattrStyle::User };
        let directories = [0, 1].map(|_| temporary_directory().unwrap());
        let [copy, overlay] = [0, 1].map(|index| Base::open(directories[index].path()).unwrap());
        let backends: Vec<Box<dyn Backend>> =
            vec![Box::new(Copy::new(copy, style)), Box::new(Overlay::new(overlay, style).unwrap())];
        Self { power, backends, next: AtomicU64::new(1), _directories: directories.into() }
    }

    fn chains(&self) -> Vec<Chain<'_>> {
        self.backends.iter().map(|backend| Chain::new(self, &**backend)).collect()
    }
}

/// Layers on one another, on one backend. What is made goes with it.
struct Chain<'a> {
    trees: &'a Trees,
    backend: &'a dyn Backend,
    chain: Vec<TreeId>,
    root: Attributes,
    made: Vec<TreeId>,
}

impl Drop for Chain<'_> {
    fn drop(&mut self) {
        for tree in &self.made {
            let removed = self.backend.remove(*tree);
            assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
        }
    }
}

impl<'a> Chain<'a> {
    fn new(trees: &'a Trees, backend: &'a dyn Backend) -> Self {
        Self { trees, backend, chain: Vec::new(), root: Attributes::implied(), made: Vec::new() }
    }

    fn id(&mut self) -> TreeId {
        let tree = TreeId(self.trees.next.fetch_add(1, Ordering::Relaxed));
        self.made.push(tree);
        tree
    }

    /// Puts a layer on top. A layer that fails leaves nothing.
    fn apply(&mut self, archive: &[u8]) -> Result<(TreeId, Applied)> {
        let (tree, cx) = (self.id(), Context::default());
        let applied = self.backend.apply(tree, &self.chain, &mut MemoryLayer::new(archive, &cx), Ids::Exact, &cx);
        let applied = applied.inspect_err(|_| {
            let left = self.backend.usage(tree);
            assert!(left.is_err_and(|error| error.kind() == ErrorKind::NotFound), "a failed layer left a tree");
        })?;
        Ok((tree, applied))
    }

    fn put(&mut self, tree: TreeId, applied: &Applied) {
        self.root = applied.root.clone().unwrap_or_else(|| self.root.clone());
        if applied.cut {
            self.chain.clear();
        }
        if !applied.empty {
            self.chain.insert(0, tree);
        }
    }

    fn push(&mut self, archive: &[u8]) -> Result<()> {
        let (tree, applied) = self.apply(archive)?;
        self.put(tree, &applied);
        Ok(())
    }

    /// Puts a layer on top, and gives its changes against what was there, as a layer.
    fn push_and_diff(&mut self, archive: &[u8]) -> Result<Vec<u8>> {
        let (tree, applied) = self.apply(archive)?;
        let (lower_root, below) = (self.root.clone(), self.chain.clone());
        self.put(tree, &applied);
        let mut out = Writer::new(Vec::new());
        if applied.empty {
            // The store writes such a change itself: there is no tree.
            if lower_root != self.root {
                let change = Change::Upsert { node: Node::Directory, attributes: self.root.clone() };
                out.entry(&Entry { path: EntryPath::ROOT, change }, Status::Modified)?;
            }
        } else {
            let roots = Roots { lower: Some(&lower_root), upper: Some(&self.root), cut: applied.cut };
            self.backend.diff(tree, &below, roots, &mut out, &Context::default())?;
        }
        out.finish()
    }

    fn diff(&self, tree: TreeId, upper: Option<&Attributes>) -> Vec<u8> {
        let mut out = Writer::new(Vec::new());
        let roots = Roots { lower: Some(&self.root), upper, cut: false };
        self.backend.diff(tree, &self.chain, roots, &mut out, &Context::default()).unwrap();
        out.finish().unwrap()
    }

    fn mount(&self, tree: TreeId, access: Access) -> Detached {
        self.backend.mount(tree, &self.chain, access).unwrap().detached().unwrap()
    }

    /// What a View shows.
    fn shown(&mut self) -> Tree {
        let tree = self.id();
        self.backend.create_view(tree, &self.chain, &self.root).unwrap();
        let mount = self.mount(tree, Access::ReadOnly);
        Tree::read(seen(&mount)).unwrap()
    }

    #[track_caller]
    fn assert_shows(&mut self, expected: &Tree, what: &str) {
        let lines = expected.difference(&self.shown());
        assert!(lines.is_empty(), "{}: {what}:\n  {}", self.backend.name(), lines.join("\n  "));
    }
}

/// A mount that is attached nowhere, as a path.
fn seen(mount: &Detached) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), mount.as_fd().as_raw_fd()).into()
}

/// What the model makes of one layer more.
fn applied(lower: &Tree, layer: &Layer) -> std::result::Result<Tree, Option<Invalid>> {
    let entries = layer.entries().map_err(|_| None)?;
    model::apply(lower, &entries).map_err(Some)
}

/// Applies layers while the model takes them, and gives its trees; what it refuses is refused. `None` where a layer has no meaning.
fn build(chains: &mut [Chain<'_>], layers: &[Layer]) -> Option<Vec<Tree>> {
    let mut trees = vec![Tree::new()];
    for layer in layers {
        let expected = applied(trees.last()?, layer);
        if matches!(&expected, Err(Some(invalid)) if invalid.contradictory) {
            return None;
        }
        let archive = layer.tar();
        for chain in &mut *chains {
            let name = chain.backend.name();
            match (chain.push(&archive), &expected) {
                (Ok(()), Ok(_)) => {}
                (Err(error), Err(_)) => assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{name}: {error}"),
                (Ok(()), Err(invalid)) => panic!("{name} accepts what the model refuses: {invalid:?}"),
                (Err(error), Ok(_)) => panic!("{name} refuses what the model accepts: {error}"),
            }
        }
        trees.push(expected.ok()?);
    }
    Some(trees)
}

/// A failure shows the stack as it would stand in a test's source.
pub(super) fn explained<T>(stack: &dyn std::fmt::Debug, work: impl FnOnce() -> T) -> T {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        eprintln!("{stack:?}");
        std::panic::resume_unwind(panic)
    })
}

/// A stack of layers: each backend makes the model's tree of it, and refuses what the model refuses.
pub(crate) fn apply_model(trees: &Trees, data: &[u8]) -> bool {
    let stack = members::stack(&mut Unstructured::new(data), trees.power);
    explained(&stack, || {
        let mut chains = trees.chains();
        let Some(expected) = build(&mut chains, &stack.0) else { return false };
        let expected = expected.last().unwrap();
        chains.iter_mut().for_each(|chain| chain.assert_shows(expected, "not the model's tree"));
        true
    })
}

/// A stack of layers, and changes as a container makes them in its tree: what a diff says, applied, makes the same tree again on each
/// backend, and its diff is the same bytes.
pub(crate) fn apply_diff(trees: &Trees, data: &[u8]) -> bool {
    let mut bytes = Unstructured::new(data);
    let changes = members::changes(&mut bytes);
    let stack = members::stack(&mut bytes, trees.power);
    explained(&(&changes, &stack), || {
        if changes.is_empty() {
            return top_layer_round_trips(trees, &stack);
        }
        for index in 0..trees.backends.len() {
            let mut chains = trees.chains();
            if build(&mut chains, &stack.0).is_none() {
                return false;
            }
            let chain = &mut chains[index];
            let name = chain.backend.name();
            let tree = chain.id();
            chain.backend.create(tree, &chain.chain, &chain.root).unwrap();
            let mount = chain.mount(tree, Access::ReadWrite);
            changes.iter().for_each(|change| change.make(&seen(&mount)));
            drop(mount);
            // Through a new mount: the old one may show two names of one inode, copied up, under two numbers.
            let mount = chain.mount(tree, Access::ReadWrite);
            let written = Tree::read(seen(&mount)).unwrap();
            drop(mount);
            let layer = chain.diff(tree, None);
            let frozen = chain.backend.commit(tree).unwrap();
            assert!(chain.diff(tree, Some(&frozen.root)) == layer, "{name}: the commit's diff has other bytes");
            for chain in &mut chains {
                let again = chain.push_and_diff(&layer).unwrap();
                chain.assert_shows(&written, &format!("a diff of {name} makes another tree"));
                assert!(again == layer, "{name} to {}: the diff of the diff has other bytes", chain.backend.name());
            }
        }
        true
    })
}

/// The top layer's diff is the same bytes on each backend, and makes the same tree.
fn top_layer_round_trips(trees: &Trees, Stack(layers): &Stack) -> bool {
    let Some((top, below)) = layers.split_last() else { return false };
    let mut chains = trees.chains();
    let Some(lower) = build(&mut chains, below) else { return false };
    let Ok(expected) = applied(lower.last().unwrap(), top) else { return false };
    let mut again = trees.chains();
    build(&mut again, below);
    let mut first: Option<Vec<u8>> = None;
    for chain in &mut chains {
        let layer = chain.push_and_diff(&top.tar()).unwrap();
        chain.assert_shows(&expected, "not the model's tree");
        if first.get_or_insert_with(|| layer.clone()) == &layer {
            continue;
        }
        panic!("{}'s diff has other bytes", chain.backend.name());
    }
    let layer = first.unwrap();
    for chain in &mut again {
        let repeated = chain.push_and_diff(&layer).unwrap();
        chain.assert_shows(&expected, "the diff, applied again, makes another tree");
        assert!(repeated == layer, "{}: the diff of the diff has other bytes", chain.backend.name());
    }
    true
}
