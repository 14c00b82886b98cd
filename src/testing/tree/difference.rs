//! What differs between two trees, in words that a failed test can show.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::{Inode, InodeId, Kind, Tree};
use crate::entry::{Attributes, Timestamp};
use crate::path::EntryPath;

impl Tree {
    /// Where `found` is another tree than this one, which is what was expected: one line for each name, in the order of the names.
    /// Empty when they are the same.
    pub fn difference(&self, found: &Self) -> Vec<String> {
        let (mine, theirs) = (self.first_names(), found.first_names());
        let mut lines = Vec::new();
        let mut names: Vec<&EntryPath> = self.names.keys().chain(found.names.keys()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            match (self.inode(name), found.inode(name)) {
                (Some(inode), None) => lines.push(format!("{name}: missing; expected {}", Line(inode))),
                (None, Some(inode)) => lines.push(format!("{name}: must not be there; found {}", Line(inode))),
                (Some(expected), Some(inode)) => {
                    let mut text = compare(expected, inode);
                    let groups = (mine.get(name), theirs.get(name));
                    if groups.0 != groups.1 {
                        let show =
                            |tree: &Self| tree.names_of(name).iter().map(ToString::to_string).collect::<Vec<_>>().join(" = ");
                        text.push(format!("shares its inode as {}, expected {}", show(found), show(self)));
                    }
                    if !text.is_empty() {
                        lines.push(format!("{name}: {}", text.join("; ")));
                    }
                }
                (None, None) => {}
            }
        }
        lines
    }

    /// For each name the smallest name of its inode. Two trees of the same names have the same groups exactly if these are equal:
    /// where the smallest agree for all names, so do the groups.
    fn first_names(&self) -> BTreeMap<&EntryPath, &EntryPath> {
        let mut first: BTreeMap<InodeId, &EntryPath> = BTreeMap::new();
        for (name, id) in &self.names {
            first.entry(*id).or_insert(name);
        }
        self.names.iter().filter_map(|(name, id)| Some((name, *first.get(id)?))).collect()
    }
}

fn compare(expected: &Inode, found: &Inode) -> Vec<String> {
    let mut text = Vec::new();
    if expected.kind != found.kind {
        text.push(format!("{:?}, expected {:?}", found.kind, expected.kind));
    }
    let (a, b) = (&expected.attributes, &found.attributes);
    if a.mode != b.mode {
        text.push(format!("mode {:04o}, expected {:04o}", b.mode, a.mode));
    }
    if (a.uid, a.gid) != (b.uid, b.gid) {
        text.push(format!("owner {}:{}, expected {}:{}", b.uid, b.gid, a.uid, a.gid));
    }
    if a.mtime != b.mtime {
        text.push(format!("mtime {}, expected {}", Seconds(b.mtime), Seconds(a.mtime)));
    }
    for (name, value) in &b.xattrs {
        match a.xattrs.get(name) {
            None => text.push(format!("must not have {}={}", name.escape_ascii(), value.escape_ascii())),
            Some(wanted) if wanted != value => {
                text.push(format!("{}={}, expected {}", name.escape_ascii(), value.escape_ascii(), wanted.escape_ascii()));
            }
            Some(_) => {}
        }
    }
    for (name, value) in a.xattrs.iter().filter(|(name, _)| !b.xattrs.contains_key(*name)) {
        text.push(format!("lacks {}={}", name.escape_ascii(), value.escape_ascii()));
    }
    text
}

impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        self.difference(other).is_empty()
    }
}

impl Eq for Tree {}

/// Fails the test when `found` is another tree than `expected`, and says where.
///
/// # Panics
/// When the trees differ.
#[track_caller]
pub fn assert_same_tree(expected: &Tree, found: &Tree) {
    let lines = expected.difference(found);
    assert!(lines.is_empty(), "the trees differ:\n  {}\n", lines.join("\n  "));
}

struct Seconds(Timestamp);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.seconds)?;
        if self.0.nanoseconds == 0 { Ok(()) } else { write!(f, "+{}ns", self.0.nanoseconds) }
    }
}

/// An inode in one line: `0644 0:0 1000000000 file "x"`.
struct Line<'a>(&'a Inode);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attributes { mode, uid, gid, mtime, xattrs } = &self.0.attributes;
        write!(f, "{mode:04o} {uid}:{gid} {} {:?}", Seconds(*mtime), self.0.kind)?;
        for (name, value) in xattrs {
            write!(f, " {}={}", name.escape_ascii(), value.escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Tree {
    /// A listing, one name a line; further names of an inode show as ` = first name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first_names();
        let mut text = String::new();
        for (name, id) in &self.names {
            match (first.get(name), self.inodes.get(id)) {
                (Some(other), _) if *other != name => writeln!(text, "{name} = {other}")?,
                (_, Some(inode)) if inode.kind == Kind::Directory => writeln!(text, "{name}/ {}", Line(inode))?,
                (_, Some(inode)) => writeln!(text, "{name} {}", Line(inode))?,
                (_, None) => {}
            }
        }
        f.write_str(&text)
    }
}
