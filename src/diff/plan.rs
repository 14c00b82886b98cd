//! Which hardlink groups are written, decided before anything is.
//!
//! A group is all names of a tree that share an inode. Where a lower group was broken up, the part that has its first surviving name
//! keeps the lower inode; every other group with a new, changed or moved member is written whole (SEMANTICS §5). "First" is the order of
//! the output, so that in every group the name written as the file comes before the links to it. No link of a diff leads to a name that
//! the same diff does not write: applied, it would take that name out of its lower group (§1.9).
//!
//! In an upperdir the names of a broken lower group may not stand at all: they show through, and have to be looked for in the lower tree.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::compare::{self, bad_name};
use super::walk::{Directory, Extras, Marks, Pair, Trees, Visitor, Walk, unsayable};
use crate::error::Result;
use crate::path::EntryPath;
use crate::progress::{Context, Reason};
use crate::sys::content::Buffers;
use crate::sys::{Descent, Dir, FileType, Stat};
use crate::whiteout::XattrStyle;

/// An inode of one of the two trees.
pub(super) type Inode = ((u32, u32), u64);

pub(super) fn inode(stat: &Stat) -> Inode {
    (stat.dev, stat.ino)
}

/// What is known before the first byte is written.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Of the inodes of the tree that have several names, or stand where the lower tree has such: whether they are written.
    written: HashMap<Inode, bool>,
    /// Names that show through an upperdir and are written.
    pub(super) extras: Extras,
    /// Whether a name was met that no layer can say; whether it is in the way shows only where it would be written.
    pub(super) marked: bool,
}

impl Plan {
    /// Whether an inode of the tree is written, as far as that was decided.
    pub(super) fn written(&self, inode: Inode) -> Option<bool> {
        self.written.get(&inode).copied()
    }
}

/// Looks the trees through.
pub(super) fn plan(trees: Trees<'_>, cx: &Context<'_>) -> Result<Plan> {
    let none = Extras::default();
    let mut walk = Walk::new(trees, &none, cx)?;
    let mut survey = Survey { groups: Groups::default(), buffers: Buffers::default(), cx };
    walk.run(&mut survey)?;
    let (mut groups, mut marked) = (survey.groups, walk.marked);
    let mut extras = Extras::default();
    if let (Some(style), Some(lower)) = (trees.shows, trees.lower)
        && !groups.keepers.is_empty()
    {
        for path in groups.moved_below(names_below(trees.upper, style, lower, &groups, cx)?) {
            marked |= path.components().any(|name| name.starts_with(b".wh."));
            extras.add(&path);
        }
    }
    Ok(Plan { written: groups.decide(), extras, marked })
}

/// The groups of the two trees, as far as the walk met them.
#[derive(Debug, Default)]
struct Groups {
    /// By inode of the tree.
    groups: HashMap<Inode, Group>,
    /// By inode of the lower tree, where that may have several names: who keeps it.
    keepers: HashMap<Inode, Keeper>,
}

/// The names of one inode of the tree.
#[derive(Debug)]
struct Group {
    /// The lower inode that its first name has below; meaningless once it is changed.
    lower: Inode,
    /// A member is new, changed, or has another lower inode than the first.
    changed: bool,
}

#[derive(Debug)]
struct Keeper {
    /// The first name that the walk met of those that survive, and its inode in the tree.
    path: EntryPath,
    upper: Inode,
    /// How many names the lower inode has at most.
    names: u32,
    /// A name that shows through comes before all of them: nobody else keeps the inode.
    below: bool,
}

impl Groups {
    /// A name of the tree, and what the lower tree has there. `same` is asked at most once for a pair of inodes.
    fn add(
        &mut self,
        path: &EntryPath,
        here: Inode,
        below: Option<(Inode, u32)>,
        same: impl FnOnce() -> Result<bool>,
    ) -> Result<()> {
        let Some((lower, names)) = below else {
            self.groups.entry(here).or_insert(Group { lower: here, changed: true }).changed = true;
            return Ok(());
        };
        if names > 1 {
            self.keepers.entry(lower).or_insert_with(|| Keeper { path: path.clone(), upper: here, names, below: false });
        }
        match self.groups.get_mut(&here) {
            Some(group) => group.changed |= group.lower != lower,
            None => {
                let changed = !same()?;
                self.groups.insert(here, Group { lower, changed });
            }
        }
        Ok(())
    }

    /// Takes the names of lower inodes that show through an upperdir, and gives those that are written because another part keeps
    /// the inode.
    fn moved_below(&mut self, names: HashMap<Inode, Vec<EntryPath>>) -> Vec<EntryPath> {
        let mut moved = Vec::new();
        for (inode, names) in names {
            let Some(keeper) = self.keepers.get_mut(&inode) else { continue };
            if names.iter().any(|name| order(name, &keeper.path) == Ordering::Less) {
                keeper.below = true;
            } else {
                moved.extend(names);
            }
        }
        moved
    }

    /// Which inodes of the tree are written.
    fn decide(self) -> HashMap<Inode, bool> {
        let moved =
            |inode, group: &Group| self.keepers.get(&group.lower).is_some_and(|keeper| keeper.below || keeper.upper != inode);
        self.groups.iter().map(|(&inode, group)| (inode, group.changed || moved(inode, group))).collect()
    }
}

/// The order of the output: component by component, each by its bytes.
fn order(one: &EntryPath, other: &EntryPath) -> Ordering {
    one.components().cmp(other.components())
}

/// Collects the groups on a walk.
struct Survey<'a> {
    groups: Groups,
    buffers: Buffers,
    cx: &'a Context<'a>,
}

impl Visitor for Survey<'_> {
    fn directory(&mut self, _: &Directory<'_>) -> Result<()> {
        Ok(())
    }

    fn leave(&mut self) {}

    fn gone(&mut self, _: EntryPath) -> Result<()> {
        Ok(())
    }

    fn leaf(&mut self, pair: &Pair<'_>) -> Result<()> {
        let below = pair.below.filter(|below| !below.stat.is_dir());
        if pair.here.stat.nlink < 2 && below.is_none_or(|below| below.stat.nlink < 2) {
            return Ok(());
        }
        let (buffers, cx) = (&mut self.buffers, self.cx);
        let same = || below.map_or(Ok(false), |below| compare::same(&pair.here, &below, buffers, cx));
        let lower = below.map(|below| (inode(&below.stat), below.stat.nlink));
        self.groups.add(&pair.path, inode(&pair.here.stat), lower, same)
    }

    fn unsayable(&mut self, _: &EntryPath, _: Reason) -> Result<()> {
        Ok(())
    }
}

/// Looks in the lower tree for the names of the inodes that have a keeper, and gives those that show through the upperdir.
fn names_below(
    upper: &Dir,
    style: XattrStyle,
    lower: &Dir,
    groups: &Groups,
    cx: &Context<'_>,
) -> Result<HashMap<Inode, Vec<EntryPath>>> {
    let mut open: HashMap<Inode, u32> = groups.keepers.iter().map(|(&inode, keeper)| (inode, keeper.names)).collect();
    let mut found: HashMap<Inode, Vec<EntryPath>> = HashMap::new();
    let mut lower = Descent::new(lower.try_clone()?)?;
    let mut upper = Descent::new(upper.try_clone()?)?;
    let mut path = EntryPath::ROOT;
    let mut frames: Vec<Vec<Box<[u8]>>> = Vec::new();
    loop {
        // A directory that was just entered.
        let mut directories = Vec::new();
        let here = upper.here()?;
        if let Some(dir) = lower.here()? {
            for entry in dir.entries()? {
                let entry = entry?;
                if matches!(entry.file_type, FileType::Directory) {
                    directories.push(entry.name);
                    continue;
                }
                let Some(stat) = dir.stat(&entry.name)? else { continue };
                if stat.is_dir() {
                    directories.push(entry.name);
                    continue;
                }
                let key = inode(&stat);
                let Some(names) = open.get_mut(&key).filter(|_| unsayable(&stat).is_none()) else { continue };
                let shows = match here {
                    Some(upper) => upper.stat(&entry.name)?.is_none(),
                    None => true,
                };
                if shows {
                    found.entry(key).or_default().push(path.join(&entry.name).map_err(bad_name)?);
                }
                *names = names.saturating_sub(1);
                if *names == 0 {
                    open.remove(&key);
                }
            }
        }
        frames.push(directories);
        // The next one in which anything shows through.
        loop {
            if open.is_empty() {
                return Ok(found);
            }
            cx.check("diff")?;
            let Some(frame) = frames.last_mut() else { return Ok(found) };
            let Some(name) = frame.pop() else {
                frames.pop();
                upper.leave();
                lower.leave();
                path = path.parent().unwrap_or_default();
                continue;
            };
            let shows = enter(&mut upper, &name, style)?;
            if lower.enter(&name)? && shows {
                path = path.join(&name).map_err(bad_name)?;
                break;
            }
            upper.leave();
            lower.leave();
        }
    }
}

/// Enters the directory of an upperdir that belongs to one of the lower tree, and says whether that shows through.
fn enter(upper: &mut Descent, name: &[u8], style: XattrStyle) -> Result<bool> {
    let here = match upper.here()? {
        Some(dir) => dir.stat(name)?,
        None => None,
    };
    match here {
        None => {
            upper.enter_absent(name);
            Ok(true)
        }
        Some(_) => {
            // A whiteout or anything else that is no directory hides all that is below.
            upper.enter(name)?;
            match upper.here()? {
                Some(dir) => Ok(!Marks::of(dir, style)?.opaque),
                None => Ok(false),
            }
        }
    }
}
