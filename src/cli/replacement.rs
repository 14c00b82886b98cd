//! Output files that are there when they are whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file that appears under its name when it is whole. What cannot be replaced so (a pipe, a device) is written to directly.
pub(super) struct Replacement {
    pub(super) file: File,
    rename: Option<(PathBuf, PathBuf)>,
}

impl Replacement {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let fail = |error| Error::io("open", error).at(path);
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Ok(Self { file: File::options().write(true).open(path).map_err(fail)?, rename: None });
        }
        let mut part = path.as_os_str().to_owned();
        part.push(format!(".part-{}", std::process::id()));
        let part = PathBuf::from(part);
        let file = File::create_new(&part).map_err(fail)?;
        Ok(Self { file, rename: Some((part, path.to_owned())) })
    }

    pub(super) fn replace(mut self) -> Result<()> {
        let Some((part, path)) = self.rename.take() else { return Ok(()) };
        self.file.sync_all().and_then(|()| fs::rename(&part, &path)).map_err(|error| {
            let _ = fs::remove_file(&part);
            Error::io("write", error).at(&path)
        })
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some((part, _)) = &self.rename {
            let _ = fs::remove_file(part);
        }
    }
}
