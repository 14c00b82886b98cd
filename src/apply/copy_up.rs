//! A link's target leaves its lower group: a new inode with its content and metadata takes its name (SEMANTICS §1.9).

use std::fs::File;

use super::directories::join;
use super::entries::Applier;
use super::metadata::{self, Before, Mode};
use crate::error::Result;
use crate::path::EntryPath;
use crate::sys::{Dir, FileType, copy, inode};
use crate::tree::{Answer, Detail};

impl Applier<'_> {
    /// Gives the name, in the directory on which the cursor stands, an inode of its own. `false` for a device where none can be made.
    ///
    /// The copy is complete before it gets the name. In plain form it replaces the old one, else nothing is there yet.
    pub(super) fn copy_up(&mut self, parent: &EntryPath, name: &[u8]) -> Result<bool> {
        let path = join(parent, name)?;
        let original = if self.form.is_change() {
            let answer = self.lower.answer(&path, Detail::Content, Answer::Absent)?;
            self.facts.record(path.clone(), Detail::Content, answer);
            self.make_way()?;
            self.lower.tree().map(|lower| lower.literal(&path)).transpose()?.flatten()
        } else {
            Some(self.dir()?.child_path_fd(name)?)
        };
        let Some(original) = original else { return Ok(false) };
        let copied = self.new_name();
        let scratch = std::rc::Rc::clone(&self.scratch);
        if !self.copy_inode(&path, original, &scratch, &copied)? {
            return Ok(false);
        }
        scratch.rename(&copied, &*self.modify()?, name)?;
        Ok(true)
    }

    fn copy_inode(&mut self, path: &EntryPath, original: std::os::fd::OwnedFd, to: &Dir, name: &[u8]) -> Result<bool> {
        let stat = inode::stat(&original)?;
        let attributes = metadata::read(&original)?;
        match stat.file_type {
            FileType::RegularFile => {
                let file = to.create_file(name, 0o600)?;
                let cx = self.cx;
                copy::copy_data(&File::from(inode::reopen(original)?), &file, &mut || cx.check("apply layer"))?;
                self.metadata.set(&file, path, &attributes, Before::New, Mode::Set)?;
                self.files.finished(file);
            }
            FileType::Symlink => {
                to.symlink(&inode::readlink(&original)?, name)?;
                self.metadata.set(to.child_path_fd(name)?, path, &attributes, Before::New, Mode::None)?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                return self.make_device(to, name, path, stat.file_type, stat.rdev, &attributes);
            }
            other => {
                to.mknod(name, other, 0o600, (0, 0))?;
                self.metadata.set(to.child_path_fd(name)?, path, &attributes, Before::New, Mode::Set)?;
            }
        }
        Ok(true)
    }
}
