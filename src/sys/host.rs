//! Paths of the host that the caller chose: opened once, symlinks followed, and held from then on.
//!
//! Never for a path that came out of an image or a layer; those are resolved in a `Root`.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Dir, inode};
use crate::error::{Error, ErrorKind, Result};

/// What stands at a path of the host.
#[derive(Debug)]
pub(crate) enum Opened {
    Directory(Dir),
    /// A regular file.
    File(File),
    /// `<(command)` of a shell.
    Pipe(File),
}

/// Opens a directory, a file or a pipe for reading.
///
/// # Errors
/// `NotFound`, `PermissionDenied`; `InvalidArgument` for a device or a socket.
pub(crate) fn open(path: &Path) -> Result<Opened> {
    let fail = |errno: Errno| Error::io("open", errno).at(path);
    // Looked at before it is opened: opening a device has effects.
    let held = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    match inode::stat(&held)?.file_type {
        FileType::Directory => Dir::open(path).map(Opened::Directory),
        FileType::RegularFile => inode::reopen(held).map(|fd| Opened::File(fd.into())),
        FileType::Fifo => {
            let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty()).map_err(fail)?;
            Ok(Opened::Pipe(fd.into()))
        }
        _ => Err(Error::new(ErrorKind::InvalidArgument, "open").at(path).because("it is neither a directory nor a file")),
    }
}

/// Opens a directory, made with mode 0755 less the umask where it is missing; its parent must be there.
///
/// # Errors
/// `NotFound`, `PermissionDenied`, `NoSpace`, `Io`.
pub(crate) fn open_or_create_dir(path: &Path) -> Result<Dir> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Dir::open(path),
        Err(errno) => Err(Error::io("mkdir", errno).at(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn what_the_caller_names_is_opened_and_devices_are_not() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", temp.path().join("link")).unwrap();
        for name in ["file", "link"] {
            let Opened::File(mut file) = open(&temp.path().join(name)).unwrap() else { panic!("{name}") };
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "x");
        }
        assert!(matches!(open(temp.path()).unwrap(), Opened::Directory(_)));
        assert_eq!(open(Path::new("/dev/null")).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(open(&temp.path().join("missing")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_directory_is_made_once_and_its_parents_never() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("new");
        open_or_create_dir(&path).unwrap();
        open_or_create_dir(&path).unwrap();
        assert_eq!(open_or_create_dir(&temp.path().join("a/b")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
