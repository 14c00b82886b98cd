//! Changes to a mounted tree, as a container makes them.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// One thing that a container does. What cannot be done is not done.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write(String, &'static str),
    Append(String),
    Truncate(String),
    /// Opened for writing, and nothing written: copied up, and the same.
    Open(String),
    Mkdir(String),
    Remove(String),
    /// Removed and made again, with a directory in it.
    Remake(String),
    Rename(String, String),
    Link(String, String),
    Symlink(String, &'static str),
    Fifo(String),
    Chmod(String, u32),
    /// Changed and changed back.
    ChmodBack(String),
    Time(String, u32),
    Xattr(String),
}

impl Change {
    /// Makes the change below `root`. Symlinks could lead out of it: nothing is done through one.
    pub(crate) fn make(&self, root: &Path) {
        let _ = self.try_make(root);
    }

    fn try_make(&self, root: &Path) -> io::Result<()> {
        let at = |path: &str| inside(root, path);
        match self {
            Self::Write(path, content) => fs::write(no_link(at(path)?)?, content),
            Self::Append(path) => OpenOptions::new().append(true).open(regular(at(path)?)?)?.write_all(b"more"),
            Self::Truncate(path) => OpenOptions::new().write(true).open(regular(at(path)?)?)?.set_len(1),
            Self::Open(path) => OpenOptions::new().write(true).open(regular(at(path)?)?).map(drop),
            Self::Mkdir(path) => fs::create_dir(at(path)?),
            Self::Remove(path) => remove(&at(path)?),
            Self::Remake(path) => {
                let path = at(path)?;
                remove(&path)?;
                fs::create_dir_all(path.join("a"))
            }
            Self::Rename(from, to) => fs::rename(at(from)?, at(to)?),
            Self::Link(from, to) => {
                let (from, to) = (at(from)?, at(to)?);
                if fs::symlink_metadata(&from)?.is_dir() {
                    return Err(io::ErrorKind::IsADirectory.into());
                }
                fs::hard_link(from, to)
            }
            Self::Symlink(path, target) => symlink(target, at(path)?),
            Self::Fifo(path) => Ok(nix::unistd::mkfifo(&at(path)?, nix::sys::stat::Mode::S_IRWXU)?),
            Self::Chmod(path, mode) => fs::set_permissions(no_link(at(path)?)?, Permissions::from_mode(*mode)),
            Self::ChmodBack(path) => {
                let path = no_link(at(path)?)?;
                let mode = fs::metadata(&path)?.permissions();
                fs::set_permissions(&path, Permissions::from_mode(0o640))?;
                fs::set_permissions(&path, mode)
            }
            Self::Time(path, nanoseconds) => {
                let path = no_link(at(path)?)?;
                if !path.is_dir() {
                    regular(path.clone())?;
                }
                // The time that literals have: set to it, an mtime may become what it was.
                File::open(path)?.set_times(FileTimes::new().set_modified(UNIX_EPOCH + Duration::new(1_500_000_000, *nanoseconds)))
            }
            Self::Xattr(path) => {
                let path = no_link(at(path)?)?;
                if !path.is_dir() {
                    regular(path.clone())?;
                }
                xattr::set(path, "user.x", b"changed")
            }
        }
    }
}

/// A path whose parents are directories of the tree.
fn inside(root: &Path, path: &str) -> io::Result<PathBuf> {
    let mut here = root.to_owned();
    if path.is_empty() {
        return Ok(here);
    }
    let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
    for component in parents.split('/').filter(|component| !component.is_empty()) {
        here.push(component);
        if !fs::symlink_metadata(&here)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
    }
    Ok(here.join(name))
}

/// Not a symlink, and nothing that blocks.
fn no_link(path: PathBuf) -> io::Result<PathBuf> {
    match fs::symlink_metadata(&path) {
        Ok(found) if !found.is_file() && !found.is_dir() => Err(io::ErrorKind::InvalidInput.into()),
        _ => Ok(path),
    }
}

fn regular(path: PathBuf) -> io::Result<PathBuf> {
    if fs::symlink_metadata(&path)?.is_file() { Ok(path) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}
