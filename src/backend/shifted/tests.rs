//! The translation beside the backend without it: the same layers make the same changes, in the container's ids.

use std::path::Path;

use super::*;
use crate::backend::copy::tests::Changes as Collected;
use crate::mount::Base;
use crate::sys::Dir;
use crate::sys::test_support::{is_root, skip};
use crate::testing::conformance::cases;
use crate::testing::layer::{LayerEntry, LayerStream};
use crate::testing::{Layer, model};
use crate::tree::Detail;
use crate::whiteout::XattrStyle;

/// A chain that grows, on one backend.
struct Stack {
    _directory: tempfile::TempDir,
    backend: Box<dyn Backend>,
    chain: Vec<TreeId>,
    root: Attributes,
    made: u64,
}

impl Stack {
    fn new(map: Option<&IdMap>) -> Self {
        // In memory where that can be had.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let copy =
            Copy::new(Base::new(directory.path().to_owned(), Dir::open(directory.path()).unwrap()).unwrap(), XattrStyle::Trusted);
        let backend: Box<dyn Backend> = match map {
            Some(map) => Box::new(Shifted::new(copy, map.clone(), Ids::Exact)),
            None => Box::new(copy),
        };
        Self { _directory: directory, backend, chain: Vec::new(), root: Attributes::implied(), made: 0 }
    }

    /// Puts a layer on top; what came of it, and its changes against what was there.
    fn push(&mut self, layer: &[LayerEntry]) -> Result<(Applied, Vec<(LayerEntry, Status)>)> {
        self.made += 1;
        let tree = TreeId(self.made);
        let lower = self.root.clone();
        let mut stream = LayerStream::new(layer.to_vec());
        let applied = self.backend.apply(tree, &self.chain, &mut stream, Ids::Exact, &Context::default())?;
        self.root = applied.root.clone().unwrap_or(lower.clone());
        let lower = (!self.chain.is_empty()).then_some(&lower);
        let mut changes = Collected::default();
        let roots = Roots { lower, upper: Some(&self.root), cut: applied.cut };
        self.backend.diff(tree, &self.chain, roots, &mut changes, &Context::default())?;
        self.chain = vec![tree];
        Ok((applied, changes.0))
    }

    fn place(&self) -> &Path {
        self._directory.path()
    }
}

fn map() -> IdMap {
    "u:0:100000:1,u:1:200000:70000,g:0:300000:65536".parse().unwrap()
}

#[test]
fn the_diff_of_what_is_applied_is_what_it_is_without_a_map() {
    if !is_root() {
        return skip("the_diff_of_what_is_applied_is_what_it_is_without_a_map", "needs root");
    }
    // Every id there is, turned round by 100,000.
    let turned: IdMap = "0:100000:4294867295,4294867295:0:100000".parse().unwrap();
    let mut layers = 0;
    for case in cases() {
        if case.layers.iter().any(|layer| !layer.is_plain()) {
            continue;
        }
        let [mut shifted, mut plain, mut again] = [Some(&turned), None, Some(&turned)].map(Stack::new);
        for layer in &case.layers {
            let Ok(entries) = layer.entries() else { break };
            let name = format!("{} {}", case.rule, case.name);
            match (shifted.push(&entries), plain.push(&entries)) {
                (Ok((one, changes)), Ok((other, expected))) => {
                    layers += 1;
                    assert_eq!(changes, expected, "{name}");
                    assert_eq!(
                        (&one.root, &one.facts, &one.markers, one.empty),
                        (&other.root, &other.facts, &other.markers, other.empty),
                        "{name}"
                    );
                    assert_eq!(one.usage.inodes, other.usage.inodes, "{name}");
                    let only: Vec<LayerEntry> = changes.iter().map(|(entry, _)| entry.clone()).collect();
                    assert_eq!(again.push(&only).unwrap().1, changes, "{name}: the diff of an applied diff");
                }
                (Err(one), Err(other)) => {
                    assert_eq!(one.kind(), other.kind(), "{name}");
                    break;
                }
                (one, other) => panic!("{name}: {one:?}, {other:?}"),
            }
        }
    }
    assert!(layers > 100, "{layers}");
}

#[test]
fn roots_answers_and_looks_have_the_containers_ids_and_the_disk_the_hosts() {
    if !is_root() {
        return skip("roots_answers_and_looks_have_the_containers_ids_and_the_disk_the_hosts", "needs root");
    }
    use std::os::unix::fs::MetadataExt as _;
    let layer =
        Layer::new().dir("", 0o711).owner(1, 2).dir("d", 0o700).owner(3, 4).file("d/f", "").owner(69_000, 5).file("implied/x", "");
    let expected = model::fold(std::slice::from_ref(&layer)).unwrap();
    let mut stack = Stack::new(Some(&map()));
    let (applied, _) = stack.push(&layer.entries().unwrap()).unwrap();
    let (backend, tree) = (&stack.backend, stack.chain[0]);
    let root = applied.root.unwrap();
    assert_eq!((root.uid, root.gid), (1, 2));
    let path = |text: &str| EntryPath::parse(text).unwrap();
    let questions = ["d", "implied"].map(|text| Question { path: path(text), detail: Detail::Attributes });
    for (question, answer) in questions.iter().zip(backend.answer(&[tree], &questions).unwrap()) {
        let inode = expected.get(question.path.to_string()).unwrap().attributes.clone();
        assert_eq!(answer, Answer::Directory(Some(Box::new(inode))), "{}", question.path);
    }
    match backend.look(tree, &path("d/f")).unwrap() {
        Look::Found(found) => assert_eq!((found.attributes.uid, found.attributes.gid), (69_000, 5)),
        look => panic!("{look:?}"),
    }
    let on_disk = |name: &str| {
        let found = std::fs::metadata(stack.place().join(format!("{tree}/fs")).join(name)).unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!(
        ["", "d", "d/f", "implied"].map(on_disk),
        [(200_000, 300_002), (200_002, 300_004), (268_999, 300_005), (100_000, 300_000)]
    );
    // A container's tree, with a root directory of its own, and what it is when it is frozen.
    let own = Attributes { mode: 0o755, uid: 9, gid: 10, ..Attributes::implied() };
    backend.create(TreeId(50), &[tree], &own).unwrap();
    let frozen = backend.commit(TreeId(50)).unwrap();
    assert_eq!(frozen.root, own);
    backend.create_view(TreeId(51), &[tree], &root).unwrap();
    assert_eq!(backend.usage(TreeId(51)).unwrap(), Usage::default(), "the root is the parent's, and nothing is copied");
}

#[test]
fn a_directory_that_the_host_put_there_stays_the_hosts_under_a_layer() {
    if !is_root() {
        return skip("a_directory_that_the_host_put_there_stays_the_hosts_under_a_layer", "needs root");
    }
    use std::os::unix::fs::MetadataExt as _;
    // Too few ids for nobody to be one of them.
    let mut stack = Stack::new(Some(&"0:100000:1000".parse().unwrap()));
    stack.push(&Layer::new().dir("d", 0o750).entries().unwrap()).unwrap();
    let (backend, tree, cx) = (&stack.backend, stack.chain[0], Context::default());
    std::fs::create_dir(stack.place().join(format!("{tree}/fs/host"))).unwrap();
    let mut layer = LayerStream::new(Layer::new().file("host/x", "x").entries().unwrap());
    let (change, whole) = (TreeId(60), TreeId(61));
    let applied = backend.apply_ahead(change, Some(&[tree]), &mut layer, Ids::Exact, &cx).unwrap().unwrap();
    backend.copy(whole, &[tree], &cx).unwrap();
    backend.merge(change, whole, &applied, Ids::Exact, &cx).unwrap();
    let owner = |path: &str| {
        std::fs::metadata(stack.place().join(format!("{whole}/fs")).join(path)).map(|found| (found.uid(), found.gid()))
    };
    assert_eq!((owner("host").unwrap(), owner("host/x").unwrap()), ((0, 0), (100_000, 100_000)));
}
