//! The backend by itself, and beside the overlay one: the same layers make the same trees, and the same trees the same layers.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::super::Overlay;
use super::*;
use crate::entry::{Change, Entry, Node, Status};
use crate::sys::namespace;
use crate::sys::test_support::mounting;
use crate::testing::conformance::{Means, cases};
use crate::testing::layer::{LayerEntry, LayerStream};
use crate::testing::tree::assert_same_tree;
use crate::testing::{Layer, Tree, model};

/// A store's directory of trees, a backend, and a chain that grows.
struct Stack {
    temp: tempfile::TempDir,
    backend: Arc<dyn Backend>,
    chain: Vec<TreeId>,
    root: Attributes,
    next: u64,
}

fn style() -> XattrStyle {
    if namespace::is_initial() { XattrStyle::Trusted } else { XattrStyle::User }
}

fn means() -> Means {
    if namespace::is_initial() { Means::ROOT } else { Means::USER_NAMESPACE }
}

impl Stack {
    fn new(name: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        in_memory(temp.path());
        let base = Base::open(temp.path()).unwrap();
        let backend: Arc<dyn Backend> =
            if name == "copy" { Arc::new(Copy::new(base, style())) } else { Arc::new(Overlay::new(base, style()).unwrap()) };
        Self { temp, backend, chain: Vec::new(), root: Attributes::implied(), next: 1 }
    }

    fn both() -> [Self; 2] {
        ["overlay", "copy"].map(Self::new)
    }

    fn id(&mut self) -> TreeId {
        self.next += 1;
        TreeId(self.next)
    }

    /// Puts a layer on top; gives its changes against what was there.
    fn push(&mut self, layer: &[LayerEntry]) -> Result<Vec<(LayerEntry, Status)>> {
        let tree = self.id();
        let lower_root = self.root.clone();
        let mut stream = LayerStream::new(layer.to_vec());
        let applied = self.backend.apply(tree, &self.chain, &mut stream, Ids::Exact, &Context::default())?;
        self.root = applied.root.clone().unwrap_or(lower_root.clone());
        let mut out = Changes::default();
        if applied.empty {
            // The store writes such a change itself: there is no tree.
            self.backend.remove(tree)?;
            if lower_root != self.root {
                let change = Change::Upsert { node: Node::Directory, attributes: self.root.clone() };
                out.entry(&Entry { path: EntryPath::ROOT, change }, Status::Modified)?;
            }
            return Ok(out.0);
        }
        let roots = Roots { lower: Some(&lower_root), upper: Some(&self.root), cut: applied.cut };
        self.backend.diff(tree, &self.chain, roots, &mut out, &Context::default())?;
        if applied.cut {
            self.chain.clear();
        }
        self.chain.insert(0, tree);
        Ok(out.0)
    }

    /// Whether the tree is on the disk.
    fn has(&self, tree: TreeId) -> bool {
        self.temp.path().join(tree.to_string()).exists()
    }

    /// What a View shows.
    fn shown(&mut self) -> Tree {
        let tree = self.id();
        self.backend.create_view(tree, &self.chain, &self.root).unwrap();
        let mount = self.backend.mount(tree, &self.chain, Access::ReadOnly).unwrap().detached().unwrap();
        let shown = Tree::read(by_descriptor(&mount)).unwrap();
        drop(mount);
        self.backend.remove(tree).unwrap();
        shown
    }
}

/// Where it can, puts a tmpfs there: making hundreds of trees durable on a busy disk takes minutes.
fn in_memory(place: &Path) {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let none: Option<&str> = None;
    if mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), none).is_err() {
        return;
    }
    // Before Linux 6.6 it has no `user.` xattrs.
    if ::xattr::set(place, "user.try", b"").and_then(|()| ::xattr::remove(place, "user.try")).is_err() {
        umount2(place, MntFlags::MNT_DETACH).unwrap();
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.temp.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

fn by_descriptor(mount: impl AsFd) -> std::path::PathBuf {
    use std::os::fd::AsRawFd as _;
    format!("/proc/{}/fd/{}", std::process::id(), mount.as_fd().as_raw_fd()).into()
}

/// Collects what a diff says.
#[derive(Default)]
pub(in crate::backend) struct Changes(pub(in crate::backend) Vec<(LayerEntry, Status)>);

impl EntrySink for Changes {
    fn entry(&mut self, entry: &Entry, status: Status) -> Result<()> {
        self.0.push((LayerEntry { entry: entry.clone(), content: Vec::new() }, status));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.last_mut().unwrap().0.content.extend_from_slice(bytes);
        Ok(())
    }
}

fn only(changes: &[(LayerEntry, Status)]) -> Vec<LayerEntry> {
    changes.iter().map(|(entry, _)| entry.clone()).collect()
}

#[track_caller]
fn sh(dir: &Path, script: &str) {
    let done = Command::new("sh").args(["-euc", script]).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

fn sample() -> Layer {
    Layer::new()
        .dir("", 0o750)
        .mtime(5, 7)
        .xattr("user.root", "1")
        .dir("d", 0o2755)
        .mtime(1, 2)
        .file("d/a", "a")
        .hardlink("d/b", "d/a")
        .symlink("l", "d/a")
        .file("empty", "")
        .fifo("p")
}

#[test]
fn the_same_layers_have_the_same_diffs_on_both_backends_and_these_make_the_same_trees() {
    mounting(|_| {
        for case in cases() {
            if case.lacks(means()).is_some() || case.layers.iter().any(|layer| !layer.is_plain()) {
                continue;
            }
            let [mut overlay, mut copy] = Stack::both();
            let [mut again, mut again_copy] = Stack::both();
            let mut expected = Tree::new();
            for layer in &case.layers {
                let Ok(entries) = layer.entries() else { break };
                let (one, other) = match (overlay.push(&entries), copy.push(&entries)) {
                    (Ok(one), Ok(other)) => (one, other),
                    (Err(_), Err(_)) => break,
                    (one, other) => panic!("{} {}: {one:?}, {other:?}", case.rule, case.name),
                };
                assert_eq!(one, other, "{} {}", case.rule, case.name);
                // What a diff says is the tree: in memory, and on both backends.
                expected = model::apply(&expected, &only(&one)).unwrap();
                assert_same_tree(&overlay.shown(), &expected);
                for stack in [&mut again, &mut again_copy] {
                    let repeated = stack.push(&only(&one)).unwrap();
                    assert_eq!(repeated, one, "{} {}: the diff of an applied diff", case.rule, case.name);
                    assert_same_tree(&expected, &stack.shown());
                }
            }
        }
    });
}

/// What containers do, on one backend; the layer, on both.
#[test]
fn a_containers_changes_come_back_on_both_backends() {
    let scripts = [
        "echo more >>d/a; chmod 700 d; touch -d @7.5 l2; rm p; mkdir p; echo in >p/f",
        "rm -r d; mkdir d; echo new >d/new; ln d/new top; ln top p2",
        "ln d/a d/c; mv d/b moved; ln -sf x l; : >empty; touch -h -d @9 l",
        "cp -p d/a d/t; mv d/t d/a; mkdir -p x/y/z; echo deep >x/y/z/f; chmod 1777 x; chmod 6711 .; rm empty",
        "mv d e; ln -s e d",
        "truncate -s 100000 empty; printf x | dd of=empty bs=1 seek=70000 conv=notrunc 2>/dev/null; mkfifo q; ln q d/q; rm p",
    ];
    let run = |backend: &str| {
        for script in scripts {
            let mut stack = Stack::new(backend);
            stack.push(&sample().entries().unwrap()).unwrap();
            let tree = stack.id();
            stack.backend.create(tree, &stack.chain, &stack.root).unwrap();
            let mount = stack.backend.mount(tree, &stack.chain, Access::ReadWrite).unwrap().detached().unwrap();
            sh(&by_descriptor(&mount), script);
            let written = Tree::read(by_descriptor(&mount)).unwrap();
            let mut live = Changes::default();
            let live_roots = Roots { lower: Some(&stack.root), upper: None, cut: false };
            stack.backend.diff(tree, &stack.chain, live_roots, &mut live, &Context::default()).unwrap();
            drop(mount);
            let frozen = stack.backend.commit(tree).unwrap();
            assert_eq!(stack.backend.commit(tree).unwrap(), frozen);
            let mut changes = Changes::default();
            let roots = Roots { lower: Some(&stack.root), upper: Some(&frozen.root), cut: false };
            stack.backend.diff(tree, &stack.chain, roots, &mut changes, &Context::default()).unwrap();
            assert_eq!(changes.0, live.0, "{script}: a commit changes nothing");
            for mut other in Stack::both() {
                other.push(&sample().entries().unwrap()).unwrap();
                assert_eq!(other.push(&only(&changes.0)).unwrap(), changes.0, "{script}");
                assert_same_tree(&written, &other.shown());
            }
        }
    };
    // `mounting` takes a closure that stands here.
    mounting(|_| ["overlay", "copy"].into_iter().for_each(run));
}

#[test]
fn until_its_first_change_an_active_snapshot_is_its_parent() {
    mounting(|_| {
        let mut stack = Stack::new("copy");
        stack.push(&sample().entries().unwrap()).unwrap();
        let expected = model::fold(&[sample()]).unwrap();
        let tree = stack.id();
        stack.backend.create(tree, &stack.chain, &stack.root).unwrap();
        let mount = stack.backend.mount(tree, &stack.chain, Access::ReadWrite).unwrap().detached().unwrap();
        assert_same_tree(&expected, &Tree::read(by_descriptor(&mount)).unwrap());
        // It is a whole tree of its own.
        std::fs::write(by_descriptor(&mount).join("d/a"), "changed").unwrap();
        drop(mount);
        assert_same_tree(&expected, &stack.shown());
        assert_eq!(stack.backend.usage(tree).unwrap().inodes, 6, "the root, d, a with b, l, empty, p");
        // A directory that a crash left there is replaced, and the root has what the snapshot says.
        let other = Attributes { mode: 0o700, ..Attributes::implied() };
        stack.backend.create(tree, &stack.chain, &other).unwrap();
        let frozen = stack.backend.commit(tree).unwrap();
        assert_eq!(frozen.root, other);
    });
}

#[test]
fn a_view_copies_nothing_unless_its_root_is_another() {
    mounting(|_| {
        let mut stack = Stack::new("copy");
        stack.push(&sample().entries().unwrap()).unwrap();
        let expected = model::fold(&[sample()]).unwrap();
        let (view, other) = (stack.id(), stack.id());
        stack.backend.create_view(view, &stack.chain, &stack.root).unwrap();
        assert_eq!(stack.backend.usage(view).unwrap(), Usage::default());
        assert!(!stack.backend.is_mounted(view).unwrap());
        let mount = stack.backend.mount(view, &stack.chain, Access::ReadOnly).unwrap().detached().unwrap();
        assert_same_tree(&expected, &Tree::read(by_descriptor(&mount)).unwrap());
        let written = std::fs::write(by_descriptor(&mount).join("d/a"), "x").unwrap_err();
        assert_eq!(written.raw_os_error(), Some(libc::EROFS));
        drop(mount);
        let mut changes = Changes::default();
        let roots = Roots { lower: Some(&stack.root), upper: None, cut: false };
        stack.backend.diff(view, &stack.chain, roots, &mut changes, &Context::default()).unwrap();
        assert_eq!(changes.0, []);
        // A View can only be shown.
        assert_eq!(stack.backend.mount(view, &stack.chain, Access::ReadWrite).unwrap_err().kind(), ErrorKind::NotFound);

        stack.root = Attributes { mode: 0o711, ..Attributes::implied() };
        stack.backend.create_view(other, &stack.chain, &stack.root).unwrap();
        assert_eq!(stack.backend.usage(other).unwrap().inodes, 6);
        let shown = stack.shown();
        assert_eq!(shown.get("").unwrap().attributes, stack.root);
        assert_eq!(shown.len(), expected.len());
        stack.backend.remove(other).unwrap();
        stack.backend.remove(other).unwrap();
        assert!(!stack.has(other));
        assert_eq!(stack.backend.usage(other).unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn what_is_mounted_is_not_committed() {
    mounting(|_| {
        let mut stack = Stack::new("copy");
        let tree = stack.id();
        stack.backend.create(tree, &[], &Attributes::implied()).unwrap();
        let place = tempfile::tempdir().unwrap();
        let mounted = stack.backend.mount(tree, &[], Access::ReadWrite).unwrap().attach(place.path()).unwrap();
        assert!(stack.backend.is_mounted(tree).unwrap());
        assert_eq!(stack.backend.commit(tree).unwrap_err().kind(), ErrorKind::InUse);
        mounted.close().unwrap();
        assert!(!stack.backend.is_mounted(tree).unwrap());
        stack.backend.commit(tree).unwrap();
    });
}

#[test]
fn a_failed_layer_leaves_nothing() {
    mounting(|_| {
        let mut stack = Stack::new("copy");
        stack.push(&sample().entries().unwrap()).unwrap();
        let bad = Layer::new().file("x", "x").whiteout("d").hardlink("y", "nowhere");
        let error = stack.push(&bad.entries().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidLayer);
        assert!(!stack.has(TreeId(stack.next)));
        assert_eq!(std::fs::read_dir(stack.temp.path()).unwrap().count(), 1);
        assert_same_tree(&model::fold(&[sample()]).unwrap(), &stack.shown());
    });
}

#[test]
fn a_layer_that_is_cancelled_while_its_parent_is_copied_leaves_nothing() {
    struct Stop;
    impl crate::progress::Progress for Stop {
        fn is_cancelled(&self) -> bool {
            true
        }
    }
    mounting(|_| {
        let mut stack = Stack::new("copy");
        stack.push(&sample().entries().unwrap()).unwrap();
        let tree = stack.id();
        let mut layer = sample().stream().unwrap();
        let error = stack.backend.apply(tree, &stack.chain, &mut layer, Ids::Exact, &Context::new(&Stop)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(!stack.has(tree));
    });
}
