//! Layers applied one on the other to real directories, in one form or the other.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::MountAttrFlags;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::apply::{Form, Place, answer, apply, guess, merge, settle};
use crate::entry::{Attributes, EntryStream};
use crate::error::{ErrorKind, Result};
use crate::progress::{Context, Report};
use crate::sys::mount::{Api, FsContext};
use crate::sys::{Dir, Root, inode, xattr};
use crate::testing::model::fold;
use crate::testing::{Layer, Tree};
use crate::tree::{Applied, Fact, Ids};
use crate::whiteout::overlay::Style;

pub(super) const OVERLAY: Form = Form::Overlay { style: Style::Trusted, escapes: true };
pub(super) const PLAIN: Form = Form::Plain { style: Style::Trusted, root: (0, 0) };

/// How many layers were applied by guesses, and how many of these their parents confirmed.
pub(super) static GUESSED: AtomicUsize = AtomicUsize::new(0);
pub(super) static CONFIRMED: AtomicUsize = AtomicUsize::new(0);

/// All forms, as this process can mount them.
pub(super) fn forms() -> [Form; 3] {
    let style = if crate::sys::namespace::is_initial() { Style::Trusted } else { Style::User };
    [Form::Overlay { style, escapes: true }, Form::Plain { style, root: (0, 0) }, Form::Change { style, root: (0, 0) }]
}

/// Whether layers with any owner can be applied and mounted here; says so where not.
pub(super) fn runs(test: &str) -> bool {
    let root = inode::may_give_away() && FsContext::open("overlay", Api::Descriptors).is_ok();
    if !root {
        crate::sys::test_support::skip(test, "needs root and overlayfs");
    }
    root
}

/// Trees on a disk, bottom first.
pub(super) struct Stack {
    temp: tempfile::TempDir,
    form: Form,
    chain: Vec<PathBuf>,
    root: Attributes,
    made: usize,
}

/// Does something while another thread has nothing to do but chores.
fn beside_a_hand<T>(cx: &Context<'_>, work: impl FnOnce() -> T) -> T {
    let (chores, is_over) = (cx.chores(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let hand = chores.lend_hand();
        let is_over = &is_over;
        scope.spawn(move || {
            let _hand = hand;
            chores.until(|| is_over.load(Ordering::Acquire));
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        is_over.store(true, Ordering::Release);
        chores.tell();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Stack {
    pub(super) fn new(form: Form) -> Self {
        Self { temp: tempfile::tempdir().unwrap(), form, chain: Vec::new(), root: Attributes::implied(), made: 0 }
    }

    fn new_dir(&mut self, what: &str) -> PathBuf {
        self.made += 1;
        let path = self.temp.path().join(format!("{}-{what}", self.made));
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// Whether a layer's tree that rests on this may stand here.
    pub(super) fn holds(&self, facts: &[Fact]) -> bool {
        let lower = (!self.chain.is_empty()).then(|| Root::from_fd(self.view().0));
        let questions: Vec<_> = facts.iter().map(|fact| fact.question.clone()).collect();
        answer(lower.as_ref(), &questions).unwrap().iter().eq(facts.iter().map(|fact| &fact.answer))
    }

    /// What a container sees with this tree of a layer on top.
    pub(super) fn with(&self, tree: &Path, applied: &Applied) -> Tree {
        set_root(&Dir::open(tree).unwrap(), applied.root.as_ref().unwrap_or(&self.root));
        let below = if applied.cut { &[][..] } else { &self.chain };
        self.mount(&below.iter().cloned().chain([tree.to_owned()]).collect::<Vec<_>>()).read()
    }

    /// The tree of the topmost layer alone.
    pub(super) fn top(&self) -> &Path {
        self.chain.last().unwrap()
    }

    /// Applies a layer; not in plain form also by guesses, which make the same or are found to be wrong.
    pub(super) fn apply(&mut self, layer: &Layer) -> Result<Applied> {
        let below = self.root.clone();
        let guessed = if self.form.is_change() { self.guess(layer)? } else { None };
        let before = matches!(self.form, Form::Change { .. }).then(|| self.new_whole("before"));
        let applied = self.apply_stream(&mut layer.stream()?, Ids::Exact);
        let Some((tree, guessed, reported)) = guessed else { return applied.map(|(applied, _)| applied) };
        let (applied, report) = applied.unwrap_or_else(|error| panic!("the guess was confirmed, and it is {error}\n{layer:#?}"));
        assert_eq!(reported, report, "{layer:#?}");
        // A guess may have to look again where the parent's answers did not, and then rests on less.
        // So may what it hides be told twice, or where nothing of the parent shows.
        let alone = |applied: &Applied| Applied { facts: Vec::new(), markers: Vec::new(), ..applied.clone() };
        assert_eq!(alone(&guessed), alone(&applied), "{layer:#?}");
        let tree = match before {
            Some(before) => {
                self.merge(&tree, &before, &guessed).unwrap();
                before
            }
            None => tree,
        };
        set_root(&Dir::open(&tree).unwrap(), applied.root.as_ref().unwrap_or(&below));
        let expected = self.read();
        let top = self.chain.pop().unwrap();
        self.chain.push(tree);
        let difference = expected.difference(&self.read());
        self.chain.pop();
        self.chain.push(top);
        assert!(difference.is_empty(), "guessed:\n{}\n{layer:#?}", difference.join("\n"));
        CONFIRMED.fetch_add(1, Ordering::Relaxed);
        Ok(applied)
    }

    /// The tree made by guesses, where the parent confirms them.
    pub(super) fn guess(&mut self, layer: &Layer) -> Result<Option<(PathBuf, Applied, Report)>> {
        let cx = Context::default();
        let (form, mut tree, mut scratch) = (self.form, PathBuf::new(), PathBuf::new());
        let mut fresh = || {
            (tree, scratch) = (self.new_dir("guess"), self.new_dir("scratch"));
            Ok(Place::new(Dir::open(&tree)?, Dir::open(&scratch)?))
        };
        let guessed = beside_a_hand(&cx, || guess(&mut fresh, form, &mut layer.stream()?, Ids::Exact, &cx));
        let Some(mut applied) = guessed? else { return Ok(None) };
        let lower = (!self.chain.is_empty()).then(|| Root::from_fd(self.view().0));
        let place = Place::new(Dir::open(&tree)?, Dir::open(&scratch)?);
        let settled = settle(place, lower.as_ref(), form, &mut applied, Ids::Exact, &cx)?;
        GUESSED.fetch_add(1, Ordering::Relaxed);
        Ok(settled.then(|| (tree, applied, cx.take_report())))
    }

    pub(super) fn apply_stream(&mut self, layer: &mut dyn EntryStream, ids: Ids) -> Result<(Applied, Report)> {
        let cx = Context::default();
        let applied = self.apply_stream_in(layer, ids, &cx)?;
        Ok((applied, cx.take_report()))
    }

    /// The same, in the context that the stream reports to as well.
    pub(super) fn apply_stream_in(&mut self, layer: &mut dyn EntryStream, ids: Ids, cx: &Context<'_>) -> Result<Applied> {
        let lower = (!self.chain.is_empty()).then(|| self.view());
        let lower = lower.map(|view| Root::from_fd(view.0));
        let form = self.form;
        let mut tree = PathBuf::new();
        let mut fresh = || {
            tree = self.new_dir("tree");
            let scratch = self.new_dir("scratch");
            if let Form::Plain { .. } = form {
                self.copy_top(&tree);
            }
            Ok(Place::new(Dir::open(&tree)?, Dir::open(&scratch)?))
        };
        let mut apply = || apply(&mut fresh, lower.as_ref(), form, layer, ids, cx);
        let applied = if form.is_change() { apply() } else { beside_a_hand(cx, apply) }?;
        let (questions, answers): (Vec<_>, Vec<_>) =
            applied.facts.iter().map(|fact| (fact.question.clone(), fact.answer.clone())).unzip();
        assert_eq!(answer(lower.as_ref(), &questions).unwrap(), answers, "the same parent answers the same");
        assert!(questions.is_sorted());
        if self.form.is_change() && applied.markers.is_empty() {
            let nothing = std::fs::read_dir(&tree).unwrap().next().is_none();
            assert_eq!(applied.empty, nothing && !applied.cut);
        }
        match self.form {
            Form::Overlay { .. } if applied.cut => self.chain.clear(),
            Form::Change { .. } => {
                let change = tree;
                tree = self.new_whole("whole");
                self.merge(&change, &tree, &applied)?;
            }
            _ => {}
        }
        self.root = applied.root.clone().unwrap_or(self.root.clone());
        set_root(&Dir::open(&tree).unwrap(), &self.root);
        self.chain.push(tree);
        Ok(applied)
    }

    fn copy_top(&self, to: &Path) {
        if let Some(top) = self.chain.last() {
            let done = std::process::Command::new("cp").arg("-a").arg(top.join(".")).arg(to).status().unwrap();
            assert!(done.success());
        }
    }

    /// A copy of the topmost tree.
    fn new_whole(&mut self, what: &str) -> PathBuf {
        let whole = self.new_dir(what);
        self.copy_top(&whole);
        whole
    }

    fn merge(&mut self, change: &Path, into: &Path, applied: &Applied) -> Result<()> {
        let place = Place::new(Dir::open(change)?, Dir::open(self.new_dir("scratch"))?);
        merge(place, &Dir::open(into)?, self.form, applied, Ids::Exact, &Context::default())
    }

    /// The merged tree.
    pub(super) fn view(&self) -> View {
        self.mount(&self.chain)
    }

    fn mount(&self, chain: &[PathBuf]) -> View {
        match self.form {
            Form::Plain { .. } | Form::Change { .. } => View(Dir::open(chain.last().unwrap()).unwrap().into()),
            Form::Overlay { .. } => {
                let directory = Dir::open(self.temp.path()).unwrap();
                let api = Api::probe(&directory);
                let fs = FsContext::open("overlay", api).unwrap();
                let empty = self.temp.path().join("empty");
                let _ = std::fs::create_dir(&empty);
                for lower in chain.iter().rev().chain([&empty]) {
                    let lower = Dir::open(lower).unwrap();
                    fs.set_directory("lowerdir+", std::os::fd::AsFd::as_fd(&lower)).unwrap();
                }
                if self.form.style() == Style::User {
                    fs.set_flag("userxattr").unwrap();
                }
                for (key, value) in [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")] {
                    fs.set_string(key, value).unwrap();
                }
                View(fs.mount(MountAttrFlags::MOUNT_ATTR_RDONLY).unwrap())
            }
        }
    }

    pub(super) fn read(&self) -> Tree {
        self.view().read()
    }
}

/// A tree to look at.
pub(super) struct View(OwnedFd);

impl View {
    pub(super) fn read(&self) -> Tree {
        Tree::read(format!("/proc/self/fd/{}", self.0.as_raw_fd())).unwrap()
    }
}

/// What a backend does with the root's attributes.
fn set_root(dir: &Dir, attributes: &Attributes) {
    for name in xattr::list(dir).unwrap() {
        xattr::remove(dir, &name).unwrap();
    }
    inode::set_owner(dir, attributes.uid, attributes.gid).unwrap();
    inode::set_mode(dir, attributes.mode).unwrap();
    for (name, value) in &attributes.xattrs {
        xattr::set(dir, name, value).unwrap();
    }
    inode::set_times(dir, attributes.mtime, attributes.mtime).unwrap();
}

/// What the layers make in one form, or the kind of the error.
pub(super) fn build(form: Form, layers: &[Layer]) -> Result<Tree> {
    let mut stack = Stack::new(form);
    for layer in layers {
        stack.apply(layer)?;
    }
    Ok(if layers.is_empty() { Tree::new() } else { stack.read() })
}

/// Checks the layers in all forms against the model.
pub(super) fn check(layers: &[Layer]) -> std::result::Result<(), String> {
    let expected = fold(layers);
    for form in forms() {
        match (&expected, build(form, layers)) {
            (Ok(expected), Ok(found)) => {
                let difference = expected.difference(&found);
                if !difference.is_empty() {
                    return Err(format!("{form:?}\n{}\n{layers:#?}", difference.join("\n")));
                }
            }
            (Err(_), Err(error)) if error.kind() == ErrorKind::InvalidLayer => {}
            (Ok(_), Err(error)) => return Err(format!("{form:?}: {error} ({:?})\n{layers:#?}", std::error::Error::source(&error))),
            (Err(invalid), Ok(_)) => return Err(format!("{form:?}: was applied, though {invalid}\n{layers:#?}")),
            (Err(invalid), Err(error)) => return Err(format!("{form:?}: {error}, though {invalid}\n{layers:#?}")),
        }
    }
    Ok(())
}

/// All forms and the model make this tree of the layers.
#[track_caller]
pub(super) fn gives(layers: &[Layer], tree: &Tree) {
    match fold(layers) {
        Ok(model) => assert_eq!(tree.difference(&model), [""; 0], "the model differs"),
        Err(invalid) => panic!("{invalid}"),
    }
    if let Err(text) = check(layers) {
        panic!("{text}");
    }
}

/// All forms and the model refuse the last layer.
#[track_caller]
pub(super) fn refuses(layers: &[Layer]) {
    assert!(fold(layers).is_err());
    if let Err(text) = check(layers) {
        panic!("{text}");
    }
}
