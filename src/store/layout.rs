//! The directory of an OCI image layout (image-layout.md), or of an unpacked `docker save`, read by descriptor.
//!
//! Every name is resolved with this directory as the root: whatever symlinks it holds, nothing outside is read, and nothing but
//! regular files.

use std::io::Read;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::store::extent::Extent;
use crate::store::image::document::DOCUMENT_MAX;
use crate::sys::{Dir, Root, inode};

#[derive(Debug)]
pub(crate) struct Layout {
    root: Root,
    /// For messages.
    path: PathBuf,
}

impl Layout {
    pub(crate) fn new(directory: Dir, path: PathBuf) -> Self {
        Self { root: Root::new(directory), path }
    }

    pub(crate) fn locate(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A regular file by its name.
    pub(crate) fn open(&self, name: &str) -> Result<Option<Extent>> {
        let held = match self.root.open(name.as_bytes()) {
            Ok(held) => held,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !inode::stat(&held)?.is_file() {
            return Err(Error::new(ErrorKind::InvalidLayer, "open layout").at(self.locate(name)).because("it is no regular file"));
        }
        inode::reopen(held).and_then(|fd| Extent::whole(fd.into())).map(Some)
    }

    pub(crate) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(DOCUMENT_MAX + 1).read_to_end(&mut bytes).map_err(|error| Error::io("read", error).at(self.locate(name)))?;
        if bytes.len() as u64 > DOCUMENT_MAX {
            return Err(Error::new(ErrorKind::LimitExceeded, "read layout")
                .at(self.locate(name))
                .because(format!("it has more than {DOCUMENT_MAX} bytes")));
        }
        Ok(Some(bytes))
    }
}
