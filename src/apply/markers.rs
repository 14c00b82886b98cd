//! Markers (SEMANTICS §1.1, §1.3 to §1.5): collected while the layer streams, resolved in the lower tree as it stands, put in place.
//!
//! Which symlinks a marker is led through depends on where the layer's entries landed; where those land depends on what is hidden.
//! [`Markers::settle`] works that out.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::directories::{State, join};
use super::entries::Applier;
use super::facts::Facts;
use super::placed::{ENTRY, OPAQUE, OWN};
use super::{Form, PASSES};
use crate::entry::Position;
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::sys::root::HOPS_MAX;
use crate::tree::{Answer, Detail, Marker};

/// The markers of a layer by the directory in which they stand, as the layer spells it.
#[derive(Debug, Default)]
pub(super) struct Markers(BTreeMap<EntryPath, InDirectory>);

#[derive(Debug, Default)]
struct InDirectory {
    /// Where the first of them stands.
    position: Option<Position>,
    opaque: bool,
    whiteouts: BTreeSet<Vec<u8>>,
}

/// What the markers hide, by literal directories of the lower tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hidden(BTreeMap<EntryPath, HiddenIn>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct HiddenIn {
    /// The opaque markers that lead here.
    opaque: Sources,
    names: BTreeMap<Vec<u8>, HiddenName>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct HiddenName {
    /// The whiteouts that lead here.
    sources: Sources,
    /// Whether the lower tree has a directory there.
    is_directory: bool,
}

/// Numbers of the directories of [`Markers`] in which markers stand: with what they hide, that tells one from another.
type Sources = BTreeSet<usize>;

/// A marker that asks for its way.
#[derive(Clone, Copy, Debug)]
enum Asking<'a> {
    Whiteout(usize, &'a [u8]),
    Opaque(usize),
}

impl Hidden {
    /// Whether a whiteout hides exactly this path.
    pub(super) fn hides(&self, path: &EntryPath) -> bool {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
        !self.0.is_empty() && self.0.get(&parent).is_some_and(|inside| inside.names.contains_key(name))
    }

    /// Whether nothing of the lower tree shows in this directory.
    pub(super) fn hides_children(&self, path: &EntryPath) -> bool {
        self.0.get(path).is_some_and(HiddenIn::is_opaque) || self.hides(path)
    }

    /// Whether this path, or anything above it, is hidden, the marker that asks aside: it does not stand in its own way.
    fn covers(&self, path: &EntryPath, asking: Option<Asking<'_>>) -> bool {
        let mut at = Some(path.clone());
        while let Some(path) = at.filter(|_| !self.0.is_empty()) {
            let (parent, name) = (path.parent(), path.file_name());
            if let Some((inside, name)) = parent.as_ref().and_then(|parent| self.0.get(parent)).zip(name) {
                let opaque = inside.opaque.iter().any(|&source| !matches!(asking, Some(Asking::Opaque(own)) if own == source));
                let own = |source| matches!(asking, Some(Asking::Whiteout(own, hides)) if own == source && hides == name);
                if opaque || inside.names.get(name).is_some_and(|hidden| hidden.sources.iter().any(|&source| !own(source))) {
                    return true;
                }
            }
            at = parent;
        }
        false
    }

    /// Whether this hides something that was used.
    fn contradicts(&self, facts: &Facts) -> Result<bool> {
        for (directory, inside) in &self.0 {
            if inside.is_opaque() && facts.used_below(directory) {
                return Ok(true);
            }
            for name in inside.names.keys() {
                let path = join(directory, name)?;
                if facts.used(&path) || facts.used_below(&path) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

impl HiddenIn {
    fn is_opaque(&self) -> bool {
        !self.opaque.is_empty()
    }

    /// The markers that lead here.
    fn sources(&self) -> impl Iterator<Item = usize> {
        let named = self.names.values().flat_map(|hidden| &hidden.sources);
        self.opaque.iter().chain(named).copied()
    }
}

impl Markers {
    pub(super) fn whiteout(&mut self, path: &EntryPath, position: Option<Position>) -> Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::new(ErrorKind::InvalidLayer, "apply entry").because("the root cannot be hidden"));
        };
        self.directory(parent, position).whiteouts.insert(name.to_vec());
        Ok(())
    }

    pub(super) fn opaque(&mut self, directory: EntryPath, position: Option<Position>) {
        self.directory(directory, position).opaque = true;
    }

    fn directory(&mut self, directory: EntryPath, position: Option<Position>) -> &mut InDirectory {
        self.0.entry(directory).or_insert_with(|| InDirectory { position, ..InDirectory::default() })
    }

    /// Says where markers stand that hide something only if they do not.
    pub(super) fn contradictory(&self, before: &Hidden, after: &Hidden) -> Error {
        let only_in = |one: &Hidden, other: &Hidden| {
            let differs = one.0.iter().find(|(directory, inside)| other.0.get(*directory) != Some(*inside));
            differs.and_then(|(_, inside)| inside.sources().min())
        };
        let number = only_in(before, after).or_else(|| only_in(after, before)).unwrap_or_default();
        let rule = "its markers contradict each other: whether one hides something depends on whether it does";
        let error = Error::new(ErrorKind::InvalidLayer, "apply layer").because(rule);
        match self.0.iter().nth(number) {
            Some((directory, markers)) => super::at_entry(error, directory, markers.position),
            None => error,
        }
    }

    /// Whether one stands at the root and hides everything below.
    pub(super) fn cut(&self) -> bool {
        self.0.get(&EntryPath::ROOT).is_some_and(|markers| markers.opaque)
    }

    /// What the markers hide, now that the entries have landed with `known` hidden: `Ok` where the tree is right as it is, else what
    /// has to be hidden from the start.
    pub(super) fn settle(&self, applier: &mut Applier<'_>, known: &Hidden) -> Result<Result<Hidden, Hidden>> {
        let mut current = known.clone();
        for _ in 0..PASSES {
            let next = self.resolve(applier, &current)?;
            if next == current {
                return Ok(Ok(current));
            }
            if *known != Hidden::default() || next.contradicts(&applier.facts)? {
                return Ok(Err(next));
            }
            current = next;
        }
        Err(self.contradictory(known, &current))
    }

    /// What is hidden, if the other markers hide what `others` says.
    fn resolve(&self, applier: &mut Applier<'_>, others: &Hidden) -> Result<Hidden> {
        let mut hidden = Hidden::default();
        for (number, (directory, markers)) in self.0.iter().enumerate() {
            let mut reach = Reach { applier: &mut *applier, directory, others };
            // Where the way is free for any marker, it is the same for all of this directory.
            let free = reach.go(None)?;
            if markers.opaque
                && let Some(at) = free.clone().map_or_else(|| reach.go(Some(Asking::Opaque(number))), |at| Ok(Some(at)))?
            {
                hidden.0.entry(at).or_default().opaque.insert(number);
            }
            for name in &markers.whiteouts {
                let own = Asking::Whiteout(number, name);
                let Some(at) = free.clone().map_or_else(|| reach.go(Some(own)), |at| Ok(Some(at)))? else { continue };
                let answer = reach.ask(join(&at, name)?)?;
                if answer != Answer::Absent {
                    // Not known: noted where it matters.
                    let is_directory = matches!(answer, Answer::Directory(_)) || reach.applier.lower.is_unknown();
                    let inside = hidden.0.entry(at).or_default().names.entry(name.clone()).or_default();
                    inside.sources.insert(number);
                    inside.is_directory = is_directory;
                }
            }
        }
        Ok(hidden)
    }
}

/// The way of a directory's markers through the lower tree.
struct Reach<'r, 'a> {
    applier: &'r mut Applier<'a>,
    directory: &'r EntryPath,
    others: &'r Hidden,
}

impl Reach<'_, '_> {
    /// The directory of the lower tree to which a marker's parents lead. No symlink is followed at whose place the layer has an entry
    /// or another whiteout of its own, nor one that stands below another marker.
    fn go(&mut self, asking: Option<Asking<'_>>) -> Result<Option<EntryPath>> {
        // Mostly all of it are directories: one question.
        let directly = self.applier.lower.answer(self.directory, Detail::Kind, Answer::Directory(None))?;
        if matches!(directly, Answer::Directory(_)) {
            self.applier.marker_facts.record(self.directory.clone(), Detail::Kind, directly);
            return Ok(Some(self.directory.clone()));
        }
        let mut here = EntryPath::ROOT;
        let mut todo: Vec<Vec<u8>> = self.directory.components().rev().map(<[u8]>::to_vec).collect();
        let mut hops = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                here = here.parent().unwrap_or_default();
                continue;
            }
            let next = join(&here, &name)?;
            match self.ask(next.clone())? {
                Answer::Directory(_) => here = next,
                Answer::Symlink(target) if hops < HOPS_MAX && !self.is_blocked(&next, asking) => {
                    hops = hops.saturating_add(1);
                    if target.first() == Some(&b'/') {
                        here = EntryPath::ROOT;
                    }
                    let names = target.rsplit(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
                    todo.extend(names.map(<[u8]>::to_vec));
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    fn is_blocked(&self, path: &EntryPath, asking: Option<Asking<'_>>) -> bool {
        self.applier.placed.has(path, ENTRY) || self.others.covers(path, asking)
    }

    fn ask(&mut self, path: EntryPath) -> Result<Answer> {
        // Nobody hides what is not there.
        let answer = self.applier.lower.answer(&path, Detail::Kind, Answer::Other(None))?;
        self.applier.marker_facts.record(path, Detail::Kind, answer.clone());
        Ok(answer)
    }
}

impl Applier<'_> {
    /// Puts the markers in place; says whether the layer hides the whole lower tree.
    pub(super) fn place_markers(&mut self, hidden: &Hidden) -> Result<bool> {
        if !self.form.is_change() {
            // What was known beforehand was removed before the entries came.
            if *self.hidden != *hidden {
                self.remove_hidden(hidden)?;
            }
            return Ok(hidden.0.get(&EntryPath::ROOT).is_some_and(HiddenIn::is_opaque));
        }
        for (directory, inside) in &hidden.0 {
            self.cx.check("apply layer")?;
            if hidden.covers(directory, None) {
                continue;
            }
            if inside.is_opaque() {
                if directory.is_root() {
                    return Ok(true);
                }
                self.place_opaque(directory)?;
                continue;
            }
            for (name, hidden) in &inside.names {
                self.place_whiteout(directory, name, hidden.is_directory)?;
            }
        }
        Ok(false)
    }

    fn place_whiteout(&mut self, directory: &EntryPath, name: &[u8], is_directory: bool) -> Result<()> {
        if !self.go_where_lower_shows(directory)? {
            return Ok(());
        }
        if self.here()?.state == State::InTree
            && let Some(stat) = self.dir()?.stat(name)?
        {
            // Only a directory lets something of the lower tree show.
            let path = self.here_path(name)?;
            if !(stat.is_dir() && is_directory && !self.placed.has(&path, OPAQUE)) {
                return Ok(());
            }
            if self.lower.is_unknown() {
                self.marker_facts.record(path, Detail::Kind, Answer::Directory(None));
            }
            return self.opaque_child(name);
        }
        self.make_way()?;
        self.link_whiteout(name)
    }

    fn place_opaque(&mut self, directory: &EntryPath) -> Result<()> {
        let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else { return Ok(()) };
        if !self.go_where_lower_shows(&parent)? {
            return Ok(());
        }
        if self.here()?.state == State::InTree
            && let Some(stat) = self.dir()?.stat(name)?
        {
            let needed = stat.is_dir() && !self.placed.has(directory, OPAQUE);
            return if needed { self.opaque_child(name) } else { Ok(()) };
        }
        // Its name is the lower tree's alone: it is made with the attributes that it has there.
        self.push(name, State::Lower)?;
        self.make_way()?;
        let dir = self.modify()?;
        self.make_opaque(&dir, directory)
    }

    fn opaque_child(&mut self, name: &[u8]) -> Result<()> {
        let path = self.here_path(name)?;
        if !self.step(name) {
            self.push(name, State::InTree)?;
        }
        let dir = self.modify()?;
        self.make_opaque(&dir, &path)
    }

    /// Goes to a directory of the lower tree, if names of it show there.
    fn go_where_lower_shows(&mut self, directory: &EntryPath) -> Result<bool> {
        self.reset()?;
        self.go_to(directory)?;
        let on_the_way = self.frames.iter().take(self.cursor.saturating_add(1));
        Ok(on_the_way.clone().count() > 0 && on_the_way.clone().all(|frame| frame.lower))
    }

    /// A whiteout; in overlay form all are names of one inode, for as long as it takes more.
    fn link_whiteout(&mut self, name: &[u8]) -> Result<()> {
        const WHITEOUT: &[u8] = b"whiteout";
        let scratch = Rc::clone(&self.scratch);
        let dir = self.modify()?;
        if let Form::Change { .. } = self.form {
            let path = self.here_path(name)?;
            self.hides.push(Marker::Whiteout(path));
            return Ok(());
        }
        for _ in 0..2 {
            match scratch.link(WHITEOUT, &dir, name) {
                Ok(()) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EMLINK) => scratch.unlink(WHITEOUT)?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let device = crate::whiteout::overlay::WHITEOUT_DEVICE;
            scratch.mknod(WHITEOUT, crate::sys::FileType::CharacterDevice, 0, device)?;
        }
        scratch.link(WHITEOUT, &dir, name)
    }

    /// Plain form: removes what is hidden and not of this layer.
    pub(super) fn remove_hidden(&mut self, hidden: &Hidden) -> Result<()> {
        for (directory, inside) in &hidden.0 {
            self.cx.check("apply layer")?;
            if hidden.covers(directory, None) || !self.go_to_existing(directory)? {
                continue;
            }
            if inside.is_opaque() {
                self.remove_foreign(directory.clone())?;
                continue;
            }
            for name in inside.names.keys() {
                if self.go_to_existing(directory)? && self.remove_name(name)? {
                    self.remove_foreign(join(directory, name)?)?;
                }
            }
        }
        Ok(())
    }

    /// Removes a name that is not of this layer; says whether it is this layer's, and a directory.
    fn remove_name(&mut self, name: &[u8]) -> Result<bool> {
        let path = self.here_path(name)?;
        let Some(stat) = self.dir()?.stat(name)? else { return Ok(false) };
        if self.placed.has(&path, OWN) {
            return Ok(stat.is_dir());
        }
        self.remove(name)?;
        Ok(false)
    }

    /// Removes everything below a directory that is not of this layer.
    fn remove_foreign(&mut self, directory: EntryPath) -> Result<()> {
        let mut todo = vec![directory];
        while let Some(directory) = todo.pop() {
            if !self.go_to_existing(&directory)? {
                continue;
            }
            let names = self.dir()?.entries()?.map(|entry| entry.map(|entry| entry.name)).collect::<Result<Vec<_>>>()?;
            for name in names {
                if self.remove_name(&name)? {
                    todo.push(join(&directory, &name)?);
                }
            }
        }
        Ok(())
    }

    /// Goes to a directory of the tree; `false` where there is none.
    fn go_to_existing(&mut self, directory: &EntryPath) -> Result<bool> {
        self.reset()?;
        self.go_to(directory)?;
        Ok(self.frames.iter().take(self.cursor.saturating_add(1)).all(|frame| frame.state == State::InTree))
    }
}
