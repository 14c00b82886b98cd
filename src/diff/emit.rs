//! The walk that writes: what differs, with the directories that lead there, as entries.

use std::collections::HashMap;

use super::compare::{self, Held, Leaf};
use super::plan::{Inode, Plan, inode};
use super::seen::{self, Form, Seen};
use super::walk::{Below, Directory, Pair, Side, Visitor};
use crate::entry::{Attributes, Change, Entry, EntrySink, Node, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::progress::{Context, Reason};
use crate::sys::FileType;
use crate::sys::content::{self, Buffers};

/// The two root directories, as the snapshots say.
#[derive(Clone, Debug)]
pub(super) struct RootPair {
    /// `None` where there is no parent: what a root has that nobody described.
    pub(super) lower: Option<Attributes>,
    /// `None` where the tree's own directory says.
    pub(super) upper: Option<Attributes>,
}

pub(super) struct Emit<'a> {
    pub(super) plan: &'a Plan,
    pub(super) roots: &'a RootPair,
    pub(super) out: &'a mut dyn EntrySink,
    pub(super) cx: &'a Context<'a>,
    /// The directories that lead to where the walk is, the root first.
    parents: Vec<Parent>,
    /// The first name of each inode with several names that was written.
    first: HashMap<(Side, Inode), EntryPath>,
    buffers: Buffers,
}

/// A directory on the way. It is written at the latest before the first change below it.
struct Parent {
    path: EntryPath,
    /// Until it is written.
    seen: Option<Seen>,
}

impl<'a> Emit<'a> {
    pub(super) fn new(plan: &'a Plan, roots: &'a RootPair, out: &'a mut dyn EntrySink, cx: &'a Context<'a>) -> Self {
        Self { plan, roots, out, cx, parents: Vec::new(), first: HashMap::new(), buffers: Buffers::default() }
    }

    /// Writes one change, after the directories that lead to it.
    fn write(&mut self, path: EntryPath, change: Change, status: Status) -> Result<()> {
        for parent in &mut self.parents {
            if let Some(seen) = parent.seen.take() {
                let change = Change::Upsert { node: Node::Directory, attributes: told(seen, &parent.path, self.cx)? };
                put(self.out, Entry { path: parent.path.clone(), change }, Status::Modified, self.cx)?;
            }
        }
        put(self.out, Entry { path, change }, status, self.cx)
    }

    fn write_root(&mut self, directory: &Directory<'_>) -> Result<()> {
        let upper = match &self.roots.upper {
            Some(attributes) => seen::see(attributes.clone(), Form::Plain),
            None => seen::read(directory.dir, directory.form)?,
        };
        // Every tree has a root: without a parent it is the one that nobody described.
        let lower = seen::see(self.roots.lower.clone().unwrap_or(Attributes::implied()), Form::Plain);
        if upper.attributes != lower.attributes {
            let change = Change::Upsert { node: Node::Directory, attributes: told(upper, directory.path, self.cx)? };
            self.write(EntryPath::ROOT, change, Status::Modified)?;
        }
        // The root is no parent that must be written: it is there in every tree.
        self.parents.push(Parent { path: EntryPath::ROOT, seen: None });
        Ok(())
    }

    fn write_leaf(&mut self, pair: &Pair<'_>, status: Status) -> Result<()> {
        let Pair { path, side, here, .. } = pair;
        let Some((held, stat)) = here.hold()? else { return Ok(()) };
        let key = (*side, inode(&stat));
        let seen = seen::read_with(&held, &stat, here.form)?;
        let grouped = stat.nlink > 1;
        if grouped && let Some(target) = self.first.get(&key) {
            // What the inode lacks was reported with its first name. Its attributes are said again, because other tools set them again.
            let change = Change::Upsert { node: Node::Hardlink { target: target.clone() }, attributes: seen.attributes };
            return self.write(path.clone(), change, status);
        }
        let attributes = told(seen, path, self.cx)?;
        let Some(node) = node(here, &stat)? else { return Ok(()) };
        self.write(path.clone(), Change::Upsert { node, attributes }, status)?;
        if grouped {
            self.first.insert(key, path.clone());
        }
        let Held::File(file) = &held else { return Ok(()) };
        if !self.out.wants_data() {
            return Ok(());
        }
        let (out, cx) = (&mut *self.out, self.cx);
        let changed = content::stream(file, &stat, &mut self.buffers, &mut |bytes| {
            cx.check("diff")?;
            cx.progress().bytes(bytes.len() as u64);
            out.data(bytes)
        })?;
        if changed { cx.skip(path, Reason::ChangedWhileRead) } else { Ok(()) }
    }
}

impl Visitor for Emit<'_> {
    fn directory(&mut self, directory: &Directory<'_>) -> Result<()> {
        if directory.path.is_root() {
            return self.write_root(directory);
        }
        let seen = seen::read(directory.dir, directory.form)?;
        let changed = match &directory.below {
            Below::Nothing => Some(Status::Added),
            Below::Other => Some(Status::Modified),
            Below::Directory(below) => (seen::read(below, Form::Plain)?.attributes != seen.attributes).then_some(Status::Modified),
        };
        let seen = match changed {
            None => Some(seen),
            Some(status) => {
                let attributes = told(seen, directory.path, self.cx)?;
                self.write(directory.path.clone(), Change::Upsert { node: Node::Directory, attributes }, status)?;
                None
            }
        };
        self.parents.push(Parent { path: directory.path.clone(), seen });
        Ok(())
    }

    fn leave(&mut self) {
        self.parents.pop();
    }

    fn gone(&mut self, path: EntryPath) -> Result<()> {
        self.write(path, Change::Whiteout, Status::Deleted)
    }

    fn leaf(&mut self, pair: &Pair<'_>) -> Result<()> {
        let planned = match pair.side {
            // Of what shows through an upperdir only that is visited which is written.
            Side::Lower => Some(true),
            Side::Upper => self.plan.written(inode(&pair.here.stat)),
        };
        let written = match (planned, &pair.below) {
            (Some(written), _) => written,
            (None, None) => true,
            (None, Some(below)) => !compare::same(&pair.here, below, &mut self.buffers, self.cx)?,
        };
        let status = if pair.below.is_some() { Status::Modified } else { Status::Added };
        if written { self.write_leaf(pair, status) } else { Ok(()) }
    }

    fn unsayable(&mut self, path: &EntryPath, reason: Reason) -> Result<()> {
        self.cx.skip(path, reason)
    }
}

/// Type and what belongs to it alone; `None` where it went away.
fn node(leaf: &Leaf<'_>, stat: &crate::sys::Stat) -> Result<Option<Node>> {
    let (major, minor) = stat.rdev;
    Ok(match stat.file_type {
        FileType::RegularFile => Some(Node::File { size: stat.size }),
        FileType::Symlink => leaf.target()?.map(|target| Node::Symlink { target }),
        FileType::CharacterDevice => Some(Node::CharDevice { major, minor }),
        FileType::BlockDevice => Some(Node::BlockDevice { major, minor }),
        FileType::Fifo => Some(Node::Fifo),
        _ => None,
    })
}

/// Reports what a written inode had and no layer carries.
fn told(seen: Seen, path: &EntryPath, cx: &Context<'_>) -> Result<Attributes> {
    for name in seen.left_out {
        cx.skip(path, Reason::XattrForbidden { name: name.escape_ascii().to_string() })?;
    }
    Ok(seen.attributes)
}

fn put(out: &mut dyn EntrySink, entry: Entry, status: Status, cx: &Context<'_>) -> Result<()> {
    if entry.path.file_name().is_some_and(|name| name.starts_with(b".wh.")) {
        return Err(Error::new(ErrorKind::Unsupported, "diff")
            .at(&entry.path)
            .because("a layer cannot say a name that begins with \".wh.\": it would mark another name as removed")
            .with_hint("rename or remove it, then diff again"));
    }
    out.entry(&entry, status)?;
    cx.progress().entries(1);
    Ok(())
}
