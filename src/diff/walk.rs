//! The walk over a tree beside the tree below it: every name that may have changed, in the order of a layer.
//!
//! Depth first; in each directory first the names that only the lower tree has, then those that are there, by their bytes, and a
//! directory's content right after it. A whole tree is walked beside the whole lower tree. Of an upperdir only what stands in it is
//! walked, and a directory in which the lower tree shows through asks below only for the names that it has; [`Extras`] adds names of
//! the lower tree that must be visited all the same. What is done with a name is the visitor's.

use std::collections::{BTreeSet, HashMap};

use super::compare::{Leaf, bad_name};
use super::seen::Form;
use crate::error::Result;
use crate::path::EntryPath;
use crate::progress::{Context, Reason};
use crate::sys::descent::unless_gone;
use crate::sys::{Descent, Dir, DirEntry, FileType, Stat, xattr};
use crate::whiteout::XattrStyle;
use crate::whiteout::overlay::{OPAQUE_VALUE, WHITEOUT_DEVICE};

/// What is walked.
#[derive(Clone, Copy)]
pub(super) struct Trees<'a> {
    pub(super) upper: &'a Dir,
    pub(super) form: Form,
    pub(super) lower: Option<&'a Dir>,
    /// The style of an upperdir through which the lower tree shows.
    pub(super) shows: Option<XattrStyle>,
}

/// Names of the lower tree that show through an upperdir and are visited all the same, by their directory.
#[derive(Debug, Default)]
pub(super) struct Extras(HashMap<EntryPath, BTreeSet<Box<[u8]>>>);

impl Extras {
    /// Adds a path, with all directories that lead to it.
    pub(super) fn add(&mut self, path: &EntryPath) {
        let mut path = path.clone();
        while let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
            if !self.0.entry(parent.clone()).or_default().insert(name.into()) {
                return;
            }
            path = parent;
        }
    }
}

/// Which of the two trees shows at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Upper,
    Lower,
}

/// A directory of the tree, and what is below it.
pub(super) struct Directory<'a> {
    pub(super) path: &'a EntryPath,
    pub(super) dir: &'a Dir,
    pub(super) form: Form,
    pub(super) below: Below<'a>,
}

/// What the lower tree has where the tree has a directory.
pub(super) enum Below<'a> {
    Nothing,
    Directory(&'a Dir),
    Other,
}

/// Anything else of the tree, and what is below it.
pub(super) struct Pair<'a> {
    pub(super) path: EntryPath,
    pub(super) side: Side,
    pub(super) here: Leaf<'a>,
    /// A directory too: it is never the same.
    pub(super) below: Option<Leaf<'a>>,
}

/// What is done on the way.
pub(super) trait Visitor {
    /// A directory; what is in it follows until [`leave`](Self::leave).
    fn directory(&mut self, directory: &Directory<'_>) -> Result<()>;
    fn leave(&mut self);
    /// A name that only the lower tree has.
    fn gone(&mut self, path: EntryPath) -> Result<()>;
    fn leaf(&mut self, pair: &Pair<'_>) -> Result<()>;
    /// A name that counts as missing because no layer can say what stands there.
    fn unsayable(&mut self, path: &EntryPath, reason: Reason) -> Result<()>;
}

/// A name that is there.
struct Name {
    name: Box<[u8]>,
    side: Side,
}

/// What a name of the tree's own directory stands for.
enum Kind {
    Here,
    Whiteout,
    Unsayable(Reason),
}

/// A directory that was entered.
struct Frame {
    /// What is still to be visited.
    names: std::vec::IntoIter<Name>,
    /// The lower tree shows through. Where it does not, it does so nowhere below: the kernel marks no directory in an opaque one.
    through: bool,
}

pub(super) struct Walk<'a> {
    form: Form,
    shows: bool,
    upper: Descent,
    lower: Descent,
    extras: &'a Extras,
    cx: &'a Context<'a>,
    /// The directories that were entered.
    frames: Vec<Frame>,
    path: EntryPath,
    /// Whether a name was met that begins with `.wh.`, which no layer can say.
    pub(super) marked: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(trees: Trees<'_>, extras: &'a Extras, cx: &'a Context<'a>) -> Result<Self> {
        Ok(Self {
            form: trees.form,
            shows: trees.shows.is_some(),
            upper: Descent::new(trees.upper.try_clone()?)?,
            lower: trees.lower.map_or(Ok(Descent::absent()), |lower| Descent::new(lower.try_clone()?))?,
            extras,
            cx,
            frames: Vec::new(),
            path: EntryPath::ROOT,
            marked: false,
        })
    }

    pub(super) fn run(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
        self.enter(Side::Upper, true, visitor)?;
        while let Some(frame) = self.frames.last_mut() {
            self.cx.check("diff")?;
            match frame.names.next() {
                Some(name) => self.step(&name, visitor)?,
                None => {
                    visitor.leave();
                    self.frames.pop();
                    self.leave();
                }
            }
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.upper.leave();
        self.lower.leave();
        self.path = self.path.parent().unwrap_or_default();
    }

    fn step(&mut self, Name { name, side }: &Name, visitor: &mut dyn Visitor) -> Result<()> {
        let below = match self.lower.here()? {
            Some(lower) => lower.stat(name)?,
            None => None,
        };
        let here = match side {
            Side::Lower => below,
            Side::Upper => match self.upper.here()? {
                Some(upper) => upper.stat(name)?,
                None => None,
            },
        };
        // What a running container removed since the directory was listed is as good as deleted before.
        let Some(here) = here else { return Ok(()) };
        let path = self.path.join(name).map_err(bad_name)?;
        if !here.is_dir() {
            if unsayable(&here).is_some() {
                return Ok(());
            }
            let form = if *side == Side::Upper { self.form } else { Form::Plain };
            let lower = self.lower.here()?;
            let dir = if *side == Side::Upper { self.upper.here()? } else { lower };
            let Some(dir) = dir else { return Ok(()) };
            let below = lower.zip(below).map(|(dir, stat)| Leaf { dir, name, stat, form: Form::Plain });
            return visitor.leaf(&Pair { path, side: *side, here: Leaf { dir, name, stat: here, form }, below });
        }
        self.path = path;
        let there = match side {
            Side::Upper => self.upper.enter(name)?,
            Side::Lower => {
                self.upper.enter_absent(name);
                true
            }
        };
        match below {
            Some(below) if below.is_dir() => {
                self.lower.enter(name)?;
            }
            _ => self.lower.enter_absent(name),
        }
        if !there {
            self.leave();
            return Ok(());
        }
        self.enter(*side, below.is_none(), visitor)
    }

    /// Shows the directory to which both descents lead, and reads its names.
    fn enter(&mut self, side: Side, nothing_below: bool, visitor: &mut dyn Visitor) -> Result<()> {
        let lower = self.lower.here()?;
        let (dir, form) = match side {
            Side::Upper => (self.upper.here()?, self.form),
            Side::Lower => (lower, Form::Plain),
        };
        let Some(dir) = dir else {
            self.leave();
            return Ok(());
        };
        let below = match lower {
            Some(lower) => Below::Directory(lower),
            None if nothing_below => Below::Nothing,
            None => Below::Other,
        };
        visitor.directory(&Directory { path: &self.path, dir, form, below })?;
        let Names { mut gone, mut here, mut unsayable, through } = self.list(side)?;
        unsayable.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        for (name, reason) in unsayable {
            visitor.unsayable(&self.path.join(name).map_err(bad_name)?, reason)?;
        }
        gone.sort_unstable();
        for name in gone {
            self.marked |= name.starts_with(b".wh.");
            visitor.gone(self.path.join(name).map_err(bad_name)?)?;
        }
        here.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        self.marked |= here.iter().any(|name| name.name.starts_with(b".wh."));
        self.frames.push(Frame { names: here.into_iter(), through });
        Ok(())
    }

    /// Reads the names of the directory to which both descents lead.
    fn list(&mut self, side: Side) -> Result<Names> {
        let mut names = Names::default();
        let lower = self.lower.here()?;
        let upper = if side == Side::Upper { self.upper.here()? } else { None };
        // What hides the lower directory hides all that is below it.
        let mut through = lower.is_some() && self.frames.last().map_or(self.shows, |above| above.through);
        let mut seen = BTreeSet::new();
        if let Some(dir) = upper {
            let marks = match self.form {
                Form::Plain => Marks::default(),
                Form::Overlay(style) => Marks::of(dir, style)?,
            };
            // overlayfs does not look for the mark on the root of a layer.
            through &= !marks.opaque || self.path.is_root();
            for entry in dir.entries()? {
                let Some(entry) = unless_gone(entry)? else { break };
                let Some(kind) = kind(dir, &entry, self.form, &marks)? else { continue };
                seen.insert(entry.name.clone());
                if matches!(kind, Kind::Here) {
                    names.here.push(Name { name: entry.name, side: Side::Upper });
                    continue;
                }
                let below = match lower {
                    Some(lower) => lower.stat(&entry.name)?,
                    None => None,
                };
                if let Kind::Unsayable(reason) = kind {
                    if below.as_ref().is_some_and(|below| unsayable(below).is_some()) {
                        continue;
                    }
                    names.unsayable.push((entry.name.clone(), reason));
                }
                if below.is_some() {
                    names.gone.push(entry.name);
                }
            }
        }
        names.through = through;
        match lower {
            Some(_) if through => {
                for name in self.extras.0.get(&self.path).into_iter().flatten().filter(|name| !seen.contains(*name)) {
                    names.here.push(Name { name: name.clone(), side: Side::Lower });
                }
            }
            Some(lower) => {
                for entry in lower.entries()? {
                    let name = entry?.name;
                    if !seen.contains(&name) {
                        names.gone.push(name);
                    }
                }
            }
            None => {}
        }
        Ok(names)
    }
}

/// What an upperdir's directory says of itself.
#[derive(Default)]
pub(super) struct Marks {
    /// Nothing of the lower directory shows through.
    pub(super) opaque: bool,
    /// Empty files that carry an attribute are whiteouts too.
    whiteouts: Option<XattrStyle>,
}

impl Marks {
    pub(super) fn of(dir: &Dir, style: XattrStyle) -> Result<Self> {
        let value = xattr::get(dir, style.opaque())?;
        Ok(match value.as_deref() {
            Some(OPAQUE_VALUE) => Self { opaque: true, whiteouts: None },
            Some(b"x") => Self { opaque: false, whiteouts: Some(style) },
            _ => Self::default(),
        })
    }
}

/// What a directory holds, in no order.
#[derive(Default)]
struct Names {
    gone: Vec<Box<[u8]>>,
    here: Vec<Name>,
    unsayable: Vec<(Box<[u8]>, Reason)>,
    through: bool,
}

/// What a name in the tree's own directory stands for; `None` where it went away.
fn kind(dir: &Dir, DirEntry { name, file_type }: &DirEntry, form: Form, marks: &Marks) -> Result<Option<Kind>> {
    let suspicious = match file_type {
        FileType::Socket | FileType::CharacterDevice | FileType::Unknown => true,
        FileType::RegularFile => marks.whiteouts.is_some(),
        _ => false,
    };
    if !suspicious {
        return Ok(Some(Kind::Here));
    }
    let Some(stat) = dir.stat(name)? else { return Ok(None) };
    if form != Form::Plain && is_whiteout(dir, name, &stat, marks)? {
        return Ok(Some(Kind::Whiteout));
    }
    Ok(Some(unsayable(&stat).map_or(Kind::Here, Kind::Unsayable)))
}

/// Whether what stands at a name of an upperdir is one of overlayfs's whiteouts.
pub(super) fn is_whiteout(dir: &Dir, name: &[u8], stat: &Stat, marks: &Marks) -> Result<bool> {
    if is_whiteout_device(stat) {
        return Ok(true);
    }
    if let (Some(style), true, 0) = (marks.whiteouts, stat.is_file(), stat.size)
        && let Some(held) = unless_gone(dir.child_path_fd(name))?
    {
        return Ok(xattr::get(held, &[style.prefix(), b"whiteout"].concat())?.is_some());
    }
    Ok(false)
}

/// Why no layer can say this inode. A character device 0:0 would be a whiteout to overlayfs (SEMANTICS §3).
pub(super) fn unsayable(stat: &Stat) -> Option<Reason> {
    match stat.file_type {
        FileType::Socket => Some(Reason::Socket),
        _ if is_whiteout_device(stat) => Some(Reason::DeviceRefused),
        _ => None,
    }
}

fn is_whiteout_device(stat: &Stat) -> bool {
    stat.file_type == FileType::CharacterDevice && stat.rdev == WHITEOUT_DEVICE
}
