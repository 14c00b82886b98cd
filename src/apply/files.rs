//! Regular files get their content and attributes, small ones from whichever thread has time for it.
//!
//! A new file is reached by its descriptor alone, and nothing of a pass depends on what is in it: so only its name has to be made in turn.
//! What would have to be reported, in the order of the layer, is not left to others.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::at_entry;
use super::metadata::set_plain;
use crate::entry::{Attributes, EntryStream, Position};
use crate::error::{Error, ErrorKind, Result};
use crate::parallel::Chores;
use crate::path::EntryPath;
use crate::progress::Context;
use crate::sys::durable::WriteBehind;
use crate::sys::write_back::WriteBack;

/// Larger files are written as their content comes, and begin to be written back.
const SMALL: u64 = 128 << 10;

/// The files of one pass that others write.
#[derive(Debug)]
pub(super) struct Files {
    chores: Arc<Chores>,
    batch: Arc<Batch>,
    written: Option<Arc<WriteBack>>,
}

#[derive(Debug, Default)]
struct Batch {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    left: usize,
    failure: Option<Error>,
}

/// One of the files that are left; it counts as done whatever becomes of it.
struct Left(Arc<Batch>);

impl Files {
    /// Their data is written back while more of them come, if that is asked for.
    pub(super) fn new(written: Option<WriteBack>, cx: &Context<'_>) -> Self {
        Self { chores: Arc::clone(cx.chores()), batch: Arc::default(), written: written.map(Arc::new) }
    }

    /// Whether somebody would write a file of this size.
    pub(super) fn takes(&self, size: u64) -> bool {
        size <= SMALL && self.chores.are_wanted()
    }

    /// Leaves it to others to write a new file, with attributes that [`set_plain`] sets.
    ///
    /// # Errors
    /// Of a file that was left to them before.
    pub(super) fn leave(&self, new: NewFile) -> Result<()> {
        let mut state = self.batch.lock();
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        state.left = state.left.saturating_add(1);
        drop(state);
        let (left, written) = (Left(Arc::clone(&self.batch)), self.written.clone());
        self.chores.offer(Box::new(move || {
            // Of a pass that has failed nothing is wanted any more.
            if left.0.lock().failure.is_some() {
                return;
            }
            match new.write() {
                Ok(()) => write_back(written.as_deref(), new.file),
                Err(error) => {
                    left.0.lock().failure.get_or_insert(error);
                }
            }
        }));
        Ok(())
    }

    /// Takes a file that was not left to others, with all its content and attributes.
    pub(super) fn finished(&self, file: File) {
        write_back(self.written.as_deref(), file);
    }

    /// All files that were left to others are written when this returns.
    ///
    /// # Errors
    /// Of one of them.
    pub(super) fn finish(&self) -> Result<()> {
        while self.chores.do_one() {}
        let mut state = self.batch.lock();
        while state.left > 0 {
            state = self.batch.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.failure.take().map_or(Ok(()), Err)
    }

    /// Whether the data of all files is on the disk; waits for that, where it was asked for.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub(super) fn are_written_back(&self) -> Result<bool> {
        self.written.as_ref().map_or(Ok(false), |written| written.finish())
    }
}

impl Drop for Files {
    /// Nobody writes into a tree that is given up.
    fn drop(&mut self) {
        let mut state = self.batch.lock();
        if state.left > 0 {
            state.failure.get_or_insert_with(|| Error::new(ErrorKind::Cancelled, "apply layer"));
            drop(state);
            let _ = self.finish();
        }
    }
}

fn write_back(written: Option<&WriteBack>, file: File) {
    if let Some(written) = written {
        written.add(file);
    }
}

impl Batch {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.left = state.left.saturating_sub(1);
        if state.left == 0 {
            self.0.done.notify_all();
        }
    }
}

/// A file that has its name, and nothing else.
pub(super) struct NewFile {
    pub(super) file: File,
    pub(super) content: Vec<u8>,
    pub(super) attributes: Attributes,
    /// Where it stands in the layer, for errors.
    pub(super) path: EntryPath,
    pub(super) position: Option<Position>,
}

impl NewFile {
    fn write(&self) -> Result<()> {
        write(&self.file, &self.content, 0)
            .and_then(|()| set_plain(&self.file, &self.attributes))
            .map_err(|error| at_entry(error, &self.path, self.position))
    }
}

/// Writes an entry's content; what no chunk covers is a hole. Where it shall be `gathered`, and has no holes, it is given back instead.
pub(super) fn fill(
    file: &File,
    size: u64,
    layer: &mut dyn EntryStream,
    gathered: bool,
    cx: &Context<'_>,
) -> Result<Option<Vec<u8>>> {
    let mut end = 0;
    let mut chunks = 0_u32;
    let mut behind = WriteBehind::default();
    let mut content = gathered.then(|| Vec::with_capacity(usize::try_from(size.min(SMALL)).unwrap_or_default()));
    while let Some(chunk) = layer.chunk()? {
        let is_next = chunk.offset == end;
        let next = chunk.offset.checked_add(chunk.data.len() as u64).filter(|&next| next <= size && chunk.offset >= end);
        end = next.ok_or_else(|| {
            Error::new(ErrorKind::InvalidLayer, "apply entry").because("its content does not fit the size that was declared")
        })?;
        if let Some(content) = content.as_mut().filter(|_| is_next) {
            content.extend_from_slice(chunk.data);
        } else {
            if let Some(before) = content.take() {
                write(file, &before, 0)?;
            }
            write(file, chunk.data, chunk.offset)?;
            behind.wrote(file, end);
        }
        chunks = chunks.wrapping_add(1);
        if chunks.is_multiple_of(64) {
            cx.check("apply layer")?;
        }
    }
    behind.ended(file, end);
    if end < size {
        file.set_len(size).map_err(|error| Error::io("ftruncate", error))?;
    }
    Ok(content)
}

fn write(file: &File, bytes: &[u8], offset: u64) -> Result<()> {
    file.write_all_at(bytes, offset).map_err(|error| Error::io("pwrite", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_file(path: &str, file: File) -> NewFile {
        let ((uid, gid), path) = (crate::sys::inode::creator(), EntryPath::parse(path.as_bytes()).unwrap());
        let attributes = Attributes { uid, gid, ..Attributes::implied() };
        NewFile { file, content: b"content".to_vec(), attributes, path, position: None }
    }

    #[test]
    fn what_nobody_came_to_do_is_done_at_the_end_and_its_failure_told_with_the_entry() {
        let cx = Context::default();
        let files = Files::new(None, &cx);
        assert!(!files.takes(0), "nobody else is there");
        let hand = cx.chores().lend_hand();
        assert!(files.takes(SMALL) && !files.takes(SMALL + 1));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        files.leave(new_file("a", File::create(&path).unwrap())).unwrap();
        files.leave(new_file("full", File::options().write(true).open("/dev/full").unwrap())).unwrap();
        files.leave(new_file("b", File::create(directory.path().join("b")).unwrap())).unwrap();
        let error = files.finish().unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::NoSpace, Some(std::path::Path::new("full"))));
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
        assert_eq!(std::fs::read(directory.path().join("b")).unwrap(), b"", "after a failure nothing is written");
        drop(hand);
    }

    #[test]
    fn a_pass_that_is_given_up_writes_no_more() {
        let cx = Context::default();
        let _hand = cx.chores().lend_hand();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let files = Files::new(None, &cx);
        files.leave(new_file("a", File::create(&path).unwrap())).unwrap();
        drop(files);
        assert!(!cx.chores().do_one(), "nothing is left to do");
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}
