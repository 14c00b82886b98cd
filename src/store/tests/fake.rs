//! A backend of plain directories: a tree is a directory of files, nothing is stacked, and what was asked is remembered.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::backend::{Backend, Frozen, Roots};
use crate::entry::{Attributes, Change, Entry, EntrySink, EntryStream, Node, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::mount::{Base, Mount};
use crate::path::EntryPath;
use crate::progress::Context;
use crate::snapshot::Usage;
use crate::tree::{Access, Answer, Applied, Ids, Question, TreeId};

#[derive(Debug)]
pub(super) struct Fake {
    trees: PathBuf,
    pub(super) longest: AtomicUsize,
    pub(super) mounted: AtomicBool,
    /// The next call of `create` or `commit` fails.
    pub(super) fails: AtomicBool,
    pub(super) chains: Mutex<Vec<Vec<TreeId>>>,
    /// This tree cannot be deleted.
    pub(super) stuck: Mutex<Option<TreeId>>,
}

impl Fake {
    pub(super) fn new(store: &Path) -> Self {
        Self {
            trees: store.join("trees"),
            longest: AtomicUsize::new(499),
            mounted: AtomicBool::new(false),
            fails: AtomicBool::new(false),
            chains: Mutex::default(),
            stuck: Mutex::default(),
        }
    }

    pub(super) fn path(&self, tree: TreeId) -> PathBuf {
        self.trees.join(tree.to_string())
    }

    pub(super) fn fill(&self, tree: TreeId, content: &str) {
        fs::create_dir(self.path(tree)).unwrap();
        fs::write(self.path(tree).join("content"), content).unwrap();
    }

    pub(super) fn last_chain(&self) -> Vec<u64> {
        self.chains.lock().unwrap().last().unwrap().iter().map(|tree| tree.0).collect()
    }

    fn may_fail(&self) -> Result<()> {
        if self.fails.swap(false, Ordering::SeqCst) { Err(Error::new(ErrorKind::NoSpace, "fake")) } else { Ok(()) }
    }
}

impl Backend for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn longest_chain(&self) -> usize {
        self.longest.load(Ordering::SeqCst)
    }

    fn create(&self, tree: TreeId, chain: &[TreeId], _root: &Attributes) -> Result<()> {
        self.chains.lock().unwrap().push(chain.to_vec());
        for below in chain {
            assert!(self.path(*below).is_dir(), "tree {below} of the chain is there");
        }
        fs::create_dir(self.path(tree)).unwrap();
        self.may_fail()
    }

    fn apply(&self, _: TreeId, _: &[TreeId], _: &mut dyn EntryStream, _: Ids, _: &Context<'_>) -> Result<Applied> {
        Err(Error::new(ErrorKind::Unsupported, "apply"))
    }

    fn answer(&self, _: &[TreeId], questions: &[Question]) -> Result<Vec<Answer>> {
        Ok(vec![Answer::Absent; questions.len()])
    }

    fn shares_trees(&self) -> bool {
        true
    }

    fn diff(&self, tree: TreeId, _: &[TreeId], _: Roots<'_>, out: &mut dyn EntrySink, _: &Context<'_>) -> Result<()> {
        let mut names: Vec<_> = fs::read_dir(self.path(tree)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            let content = fs::read(self.path(tree).join(&name)).unwrap();
            let node = Node::File { size: content.len() as u64 };
            let path = EntryPath::parse(name.as_encoded_bytes()).unwrap();
            let change = Change::Upsert { node, attributes: Attributes::implied() };
            out.entry(&Entry { path, change }, Status::Added)?;
            if out.wants_data() && !content.is_empty() {
                out.data(&content)?;
            }
        }
        Ok(())
    }

    fn mount(&self, tree: TreeId, _: &[TreeId], access: Access) -> Result<Mount> {
        Ok(Mount::bind(Base::open(&self.trees)?, EntryPath::parse(tree.to_string()).unwrap(), access))
    }

    fn commit(&self, tree: TreeId) -> Result<Frozen> {
        self.may_fail()?;
        let root = Attributes { mode: 0o711, ..Attributes::implied() };
        Ok(Frozen::new(self.usage(tree)?, root))
    }

    fn is_mounted(&self, _: TreeId) -> Result<bool> {
        Ok(self.mounted.load(Ordering::SeqCst))
    }

    fn usage(&self, tree: TreeId) -> Result<Usage> {
        let sizes: Vec<_> = fs::read_dir(self.path(tree)).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
        Ok(Usage::new(1 + sizes.len() as u64, sizes.iter().sum()))
    }

    fn remove(&self, tree: TreeId) -> Result<()> {
        if *self.stuck.lock().unwrap() == Some(tree) {
            return Err(Error::new(ErrorKind::InUse, "remove"));
        }
        match fs::remove_dir_all(self.path(tree)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|error| Error::io("remove", error)),
        }
    }
}
