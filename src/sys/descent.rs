//! [`Descent`]: a walk down a tree that may be deeper than descriptors or paths reach, and may change under the walker.
//!
//! Each directory is opened by one name in the directory before it, never through a symlink; only the last [`HELD`] are held open. One
//! that was let go is opened again, as the parent of the one below it, else name by name, and must be the same inode as before: else
//! somebody moved it, and it counts as gone.
//! What is read in the directories is left to the walker.

use super::{Dir, Stat, inode};
use crate::error::Result;

/// How many directories one descent holds open beside its root.
const HELD: usize = 32;

/// A path of directories from a root down. It may lead through levels where there is no directory: below them all is absent.
#[derive(Debug)]
pub(crate) struct Descent {
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    name: Box<[u8]>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Open {
        dir: Dir,
        stat: Stat,
    },
    /// Let go, to be opened again when it is needed.
    Closed {
        stat: Stat,
    },
    /// There is no such directory, or no longer.
    Absent,
}

impl Descent {
    /// A descent that stands at its root.
    pub(crate) fn new(root: Dir) -> Result<Self> {
        let stat = inode::stat(&root)?;
        Ok(Self { levels: vec![Level { name: Box::default(), place: Place::Open { dir: root, stat } }] })
    }

    /// A descent through nothing at all.
    pub(crate) fn absent() -> Self {
        Self { levels: vec![Level { name: Box::default(), place: Place::Absent }] }
    }

    /// Enters a directory of the current one, and says whether it is there. Either way [`leave`](Self::leave) leads back.
    pub(crate) fn enter(&mut self, name: &[u8]) -> Result<bool> {
        let place = match self.here()? {
            Some(dir) => open(dir, name)?,
            None => Place::Absent,
        };
        let found = matches!(place, Place::Open { .. });
        self.push(name, place);
        Ok(found)
    }

    /// Enters a level of which the walker knows that it has no directory here.
    pub(crate) fn enter_absent(&mut self, name: &[u8]) {
        self.push(name, Place::Absent);
    }

    fn push(&mut self, name: &[u8], place: Place) {
        self.levels.push(Level { name: name.into(), place });
        let oldest = self.levels.len().saturating_sub(HELD + 1);
        if oldest > 0 {
            self.close(oldest);
        }
    }

    fn close(&mut self, index: usize) {
        if let Some(level) = self.levels.get_mut(index)
            && let Place::Open { stat, .. } = level.place
        {
            level.place = Place::Closed { stat };
        }
    }

    /// Goes back one level; the root stays.
    pub(crate) fn leave(&mut self) {
        if self.levels.len() < 2 {
            return;
        }
        let left = self.levels.pop();
        if let (Some(Level { place: Place::Open { dir, .. }, .. }), Some(above)) = (left, self.levels.last_mut())
            && let Place::Closed { stat: before } = above.place
            && let Ok(dir) = dir.parent()
            && inode::stat(&dir).is_ok_and(|stat| stat.same_inode(&before))
        {
            // One call a level, where from the root down it would be as many as there are levels. Whatever else `..` leads to, by
            // somebody who moved the directory, is left alone.
            above.place = Place::Open { dir, stat: before };
        }
    }

    /// The current directory; `None` where there is none.
    pub(crate) fn here(&mut self) -> Result<Option<&Dir>> {
        if let Some(Level { place: Place::Closed { .. }, .. }) = self.levels.last() {
            self.reopen()?;
        }
        Ok(match self.levels.last() {
            Some(Level { place: Place::Open { dir, .. }, .. }) => Some(dir),
            _ => None,
        })
    }

    /// What the current directory was when it was entered.
    pub(crate) fn stat(&self) -> Option<Stat> {
        match self.levels.last()?.place {
            Place::Open { stat, .. } | Place::Closed { stat } => Some(stat),
            Place::Absent => None,
        }
    }

    /// Opens the levels from the last open one down to the current one again, and keeps the nearest [`HELD`].
    fn reopen(&mut self) -> Result<()> {
        let last = self.levels.len().saturating_sub(1);
        let from = self.levels.iter().rposition(|level| matches!(level.place, Place::Open { .. })).unwrap_or(0);
        for index in from.saturating_add(1)..=last {
            let (above, rest) = self.levels.split_at_mut(index);
            let (Some(above), Some(level)) = (above.last(), rest.first_mut()) else { break };
            let Place::Closed { stat: before } = level.place else { break };
            let place = match &above.place {
                Place::Open { dir, .. } => open(dir, &level.name)?,
                _ => Place::Absent,
            };
            level.place = match place {
                Place::Open { dir, stat } if stat.same_inode(&before) => Place::Open { dir, stat: before },
                _ => Place::Absent,
            };
            if matches!(level.place, Place::Absent) {
                break;
            }
            let oldest = index.saturating_sub(HELD);
            if oldest > 0 {
                self.close(oldest);
            }
        }
        // What could not be reached below a level that is gone is gone too.
        if let Some(level) = self.levels.last_mut()
            && let Place::Closed { .. } = level.place
        {
            level.place = Place::Absent;
        }
        Ok(())
    }
}

fn open(parent: &Dir, name: &[u8]) -> Result<Place> {
    Ok(match parent.try_child(name)? {
        Some(dir) => {
            let stat = inode::stat(&dir)?;
            Place::Open { dir, stat }
        }
        None => Place::Absent,
    })
}

/// Takes those errors apart that mean that somebody removed or swapped a name in the meantime.
pub(crate) fn unless_gone<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENXIO | libc::ESTALE) => Ok(None),
            // Of what is no symlink any more; from any other call it is a fault.
            Some(libc::EINVAL) if error.op() == "readlinkat" => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_takes_no_descriptors_and_every_level_is_reached_again() {
        let temp = tempfile::tempdir().unwrap();
        let top = Dir::open(temp.path()).unwrap();
        let mut dir = top.try_clone().unwrap();
        for depth in 0..500 {
            dir.create_file(format!("{depth}").as_bytes(), 0o600).unwrap();
            dir = dir.mkdir_open(b"d", 0o700).unwrap();
        }
        let mut descent = Descent::new(top.try_clone().unwrap()).unwrap();
        for _ in 0..500 {
            assert!(descent.enter(b"d").unwrap());
        }
        let open = |descent: &Descent| descent.levels.iter().filter(|level| matches!(level.place, Place::Open { .. })).count();
        assert!(open(&descent) <= HELD + 1);
        for depth in (0..500).rev() {
            descent.leave();
            let here = descent.here().unwrap().unwrap();
            assert!(here.stat(format!("{depth}").as_bytes()).unwrap().is_some(), "{depth}");
            assert!(open(&descent) <= HELD + 1);
        }
        top.remove_tree(b"d").unwrap();
    }

    /// On the way back each level is opened once, as the parent of the one below it.
    #[test]
    fn the_way_back_is_as_long_as_the_way_down() {
        let temp = tempfile::tempdir().unwrap();
        let top = Dir::open(temp.path()).unwrap();
        let mut dir = top.try_clone().unwrap();
        let mut descent = Descent::new(top.try_clone().unwrap()).unwrap();
        for _ in 0..200 {
            dir = dir.mkdir_open(b"d", 0o700).unwrap();
            assert!(descent.enter(b"d").unwrap());
        }
        for depth in (0..200).rev() {
            descent.leave();
            let is_open = matches!(descent.levels.last(), Some(Level { place: Place::Open { .. }, .. }));
            assert!(is_open, "{depth}");
        }
        top.remove_tree(b"d").unwrap();
    }

    #[test]
    fn a_directory_that_was_moved_meanwhile_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let top = Dir::open(temp.path()).unwrap();
        let mut dir = top.try_clone().unwrap();
        let mut middle = None;
        for depth in 0..100 {
            dir = dir.mkdir_open(b"d", 0o700).unwrap();
            if depth == 40 {
                middle = Some(dir.try_clone().unwrap());
            }
        }
        let mut descent = Descent::new(top.try_clone().unwrap()).unwrap();
        for _ in 0..100 {
            assert!(descent.enter(b"d").unwrap());
        }
        top.mkdir(b"new", 0o700).unwrap();
        top.rename_exchange(b"d", &top, b"new").unwrap();
        middle.unwrap().rename(b"d", &top, b"moved").unwrap();
        for _ in 0..50 {
            descent.leave();
        }
        assert!(descent.here().unwrap().is_some(), "where its children are, wherever that is now");
        for _ in 0..40 {
            descent.leave();
        }
        assert!(descent.here().unwrap().is_none(), "its children were moved elsewhere, and so was what it stood in");
        for _ in 0..10 {
            descent.leave();
        }
        assert!(descent.here().unwrap().is_some());
        assert!(!descent.enter(b"missing").unwrap());
        assert!(!descent.enter(b"below").unwrap());
        descent.leave();
        descent.leave();
        assert!(descent.here().unwrap().is_some());
    }
}
