//! What applying a layer asked of the parent, and what the parent says to such questions.
//!
//! Answers are always those of the parent as it stands, before any marker of the layer acts: [`answer`] must give the same ones for the
//! same parent later.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};

use super::metadata;
use crate::digest::{Algorithm, Hasher};
use crate::error::{Error, Result};
use crate::path::EntryPath;
use crate::sys::{FileType, Root, inode};
use crate::tree::{Answer, Detail, Fact, Question};

/// What a parent says to questions, in their order. `lower` is the parent's tree as a container sees it; `None` where there is none.
///
/// # Errors
/// `Io`.
pub(crate) fn answer(lower: Option<&Root>, questions: &[Question]) -> Result<Vec<Answer>> {
    questions.iter().map(|question| answer_one(lower, &question.path, question.detail)).collect()
}

/// The parent that is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lower<'a> {
    /// There is none: everything is absent in it.
    Nothing,
    /// Its tree as a container sees it.
    Tree(&'a Root),
    /// It is not there yet. What is mostly so is taken for its answer, and is to be compared with the real one: see [`settle`](super::settle).
    Unknown,
}

impl<'a> From<Option<&'a Root>> for Lower<'a> {
    fn from(lower: Option<&'a Root>) -> Self {
        lower.map_or(Self::Nothing, Self::Tree)
    }
}

impl<'a> Lower<'a> {
    /// What it has at a path; `guess`, where it is not known.
    pub(super) fn answer(self, path: &EntryPath, detail: Detail, guess: Answer) -> Result<Answer> {
        match self {
            Self::Nothing => Ok(Answer::Absent),
            Self::Tree(root) => answer_one(Some(root), path, detail),
            Self::Unknown => Ok(guess),
        }
    }

    pub(super) fn is_unknown(self) -> bool {
        matches!(self, Self::Unknown)
    }

    pub(super) fn tree(self) -> Option<&'a Root> {
        match self {
            Self::Tree(root) => Some(root),
            Self::Nothing | Self::Unknown => None,
        }
    }
}

/// Whether a parent's answer is the guessed one as far as that mattered: `Other` stands for anything that is there.
pub(super) fn confirms(guess: &Answer, real: &Answer) -> bool {
    match guess {
        Answer::Absent | Answer::Symlink(_) => guess == real,
        Answer::Directory(_) => matches!(real, Answer::Directory(_)),
        Answer::Other(_) => *real != Answer::Absent,
    }
}

fn answer_one(lower: Option<&Root>, path: &EntryPath, detail: Detail) -> Result<Answer> {
    let Some(held) = lower.map(|lower| lower.literal(path)).transpose()?.flatten() else { return Ok(Answer::Absent) };
    let stat = inode::stat(&held)?;
    Ok(match stat.file_type {
        FileType::Directory if detail == Detail::Kind => Answer::Directory(None),
        FileType::Directory => Answer::Directory(Some(Box::new(metadata::read(&held)?))),
        FileType::Symlink if detail != Detail::Content => Answer::Symlink(inode::readlink(&held)?),
        _ if detail == Detail::Content => Answer::Other(Some(digest(held, &stat)?)),
        _ => Answer::Other(None),
    })
}

/// A digest of everything that a link into the parent takes over.
fn digest(held: OwnedFd, stat: &inode::Stat) -> Result<crate::digest::Digest> {
    let attributes = metadata::read(&held)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    let node =
        (stat.file_type.as_raw_mode(), attributes.mode, attributes.uid, attributes.gid, attributes.mtime, stat.rdev, stat.size);
    field(format!("{node:?}").as_bytes());
    for (name, value) in &attributes.xattrs {
        field(name);
        field(value);
    }
    if stat.is_symlink() {
        field(&inode::readlink(&held)?);
    } else if stat.is_file() {
        let mut file = File::from(inode::reopen(held)?);
        std::io::copy(&mut file, &mut Sink(&mut hasher))
            .map_err(|error| Error::io("read", error).at(crate::sys::describe(file.as_fd(), b"")))?;
    }
    Ok(hasher.finish())
}

struct Sink<'a>(&'a mut Hasher);

impl std::io::Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Questions with their answers, each path once, in as much detail as was ever asked.
#[derive(Debug, Default)]
pub(super) struct Facts {
    known: BTreeMap<EntryPath, (Detail, Answer)>,
    /// One path was guessed to be there and to be absent, or a guess can be settled no more.
    contradictory: bool,
}

impl Facts {
    pub(super) fn record(&mut self, path: EntryPath, detail: Detail, answer: Answer) {
        match self.known.get_mut(&path) {
            Some(known) => {
                self.contradictory |= (known.1 == Answer::Absent) != (answer == Answer::Absent);
                // A guess that says more takes the place of one that says only that something is there.
                let says_more = known.0 == detail && matches!((&known.1, &answer), (Answer::Other(None), Answer::Directory(_)));
                if known.0 < detail || says_more {
                    *known = (detail, answer);
                }
            }
            None => {
                self.known.insert(path, (detail, answer));
            }
        }
    }

    /// Whether something that is there was used at this path.
    pub(super) fn used(&self, path: &EntryPath) -> bool {
        self.known.get(path).is_some_and(|(_, answer)| *answer != Answer::Absent)
    }

    /// Whether something that is there was used below this path.
    pub(super) fn used_below(&self, path: &EntryPath) -> bool {
        self.below(path).any(|(_, (_, answer))| *answer != Answer::Absent)
    }

    fn below(&self, path: &EntryPath) -> impl Iterator<Item = (&EntryPath, &(Detail, Answer))> {
        // What lies below `a` is all that begins with `a/`, and `a0` is the first name after that. A path that can have no longer one has
        // nothing below it.
        let first = path.join("\u{1}").ok();
        let known = first.map(|first| self.known.range::<EntryPath, _>((Bound::Included(first), Bound::Unbounded)));
        known.into_iter().flatten().take_while(move |(found, _)| found.starts_with(path))
    }

    /// Directories that were made with the attributes of the parent's do not have these any more: this one, or with `below` all that lie
    /// there too. If they were guessed, the parent's own would be set on something else.
    pub(super) fn overwritten(&mut self, path: &EntryPath, below: bool) {
        let was_read = |(_, (detail, _)): (&EntryPath, &(Detail, Answer))| *detail == Detail::Attributes;
        let here = self.known.get_key_value(path).is_some_and(was_read);
        self.contradictory |= here || (below && self.below(path).any(was_read));
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.contradictory |= other.contradictory;
        for (path, (detail, answer)) in other.known {
            self.record(path, detail, answer);
        }
    }

    /// Whether guesses contradict each other, so that no parent gives these answers, or cannot be settled.
    pub(super) fn is_contradictory(&self) -> bool {
        self.contradictory
    }

    /// Sorted by question. That `a` is a directory goes without saying where something was found below it.
    pub(super) fn finish(self) -> Vec<Fact> {
        let implied: Vec<bool> = self
            .known
            .iter()
            .map(|(path, (_, answer))| path.is_root() || (*answer == Answer::Directory(None) && self.used_below(path)))
            .collect();
        self.known
            .into_iter()
            .zip(implied)
            .filter(|(_, implied)| !implied)
            .map(|((path, (detail, answer)), _)| Fact { question: Question { path, detail }, answer })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::parse(text).unwrap()
    }

    #[test]
    fn what_lies_below_is_told_from_neighbours() {
        let mut facts = Facts::default();
        facts.record(path("a-b"), Detail::Kind, Answer::Other(None));
        facts.record(path("a/x"), Detail::Kind, Answer::Absent);
        facts.record(path("a0"), Detail::Kind, Answer::Other(None));
        assert!(!facts.used_below(&path("a")) && !facts.used(&path("a/x")) && facts.used(&path("a0")));
        assert!(facts.used_below(&EntryPath::ROOT));
        facts.record(path("a/y"), Detail::Kind, Answer::Other(None));
        assert!(facts.used_below(&path("a")));
    }

    #[test]
    fn each_path_is_kept_once_and_ancestors_go_without_saying() {
        let mut facts = Facts::default();
        for (name, detail, answer) in [
            ("a", Detail::Kind, Answer::Directory(None)),
            ("a/b", Detail::Kind, Answer::Symlink(b"c".to_vec())),
            ("e", Detail::Kind, Answer::Directory(None)),
            ("e/f", Detail::Kind, Answer::Absent),
            ("a/b", Detail::Content, Answer::Other(None)),
            ("a/b", Detail::Kind, Answer::Symlink(b"c".to_vec())),
        ] {
            facts.record(path(name), detail, answer);
        }
        let kept: Vec<_> = facts.finish().into_iter().map(|fact| (fact.question.path, fact.question.detail)).collect();
        assert_eq!(kept, [(path("a/b"), Detail::Content), (path("e"), Detail::Kind), (path("e/f"), Detail::Kind)]);
    }
}
