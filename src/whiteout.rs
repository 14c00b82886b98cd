//! OCI's whiteout names (OCI image-spec, layer.md, "Whiteouts"), as pure functions of names.
//!
//! A marker is known by its basename alone, whatever the tar member's type: real images ship whiteouts as hardlinks, directories and
//! non-empty files. Names that would hide a directory itself (`.wh.`, `.wh..`, `.wh...`) are no markers but attacks, and errors.

pub(crate) mod overlay;

pub use overlay::Style as XattrStyle;

use crate::path::EntryPath;

/// What every marker's basename begins with.
pub const PREFIX: &[u8] = b".wh.";
/// The basename of an opaque marker: everything below its directory is hidden.
pub const OPAQUE: &[u8] = b".wh..wh..opq";
/// What the basenames of aufs's own files begin with, and [`OPAQUE`].
const METADATA_PREFIX: &[u8] = b".wh..wh.";
/// The directory, at a layer's root, where aufs kept the inodes of hardlinks.
const HARDLINKS: &[u8] = b".wh..wh.plnk";

/// What a basename beginning with `.wh.` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Marker<'a> {
    /// The sibling of this name is hidden.
    Whiteout(&'a [u8]),
    /// All lower children of the directory are hidden.
    Opaque,
    /// aufs's own: `.wh..wh.plnk`, `.wh..wh.aufs`, `.wh..wh.orph`…
    AufsMetadata(&'a [u8]),
}

/// A name that begins with `.wh.` where none may (SEMANTICS §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MarkerError {
    /// `.wh.`, `.wh..` or `.wh...`: it names no sibling, but its own directory or that one's parent.
    #[error("a whiteout must name something: \".wh.\" with nothing, \".\" or \"..\" after it does not")]
    NamesDirectory,
    /// A directory on the way.
    #[error("a directory's name must not begin with \".wh.\"")]
    InParent,
}

impl<'a> Marker<'a> {
    /// What `name`, one component, marks; `None` for an ordinary name.
    ///
    /// # Errors
    /// [`MarkerError::NamesDirectory`].
    ///
    /// ```
    /// use plywood::whiteout::Marker;
    /// assert_eq!(Marker::parse(b".wh.passwd"), Ok(Some(Marker::Whiteout(b"passwd"))));
    /// assert_eq!(Marker::parse(b".wh..wh..opq"), Ok(Some(Marker::Opaque)));
    /// assert_eq!(Marker::parse(b"passwd"), Ok(None));
    /// assert!(Marker::parse(b".wh..").is_err());
    /// ```
    pub fn parse(name: &'a [u8]) -> Result<Option<Self>, MarkerError> {
        match name.strip_prefix(PREFIX) {
            None => Ok(None),
            Some(b"" | b"." | b"..") => Err(MarkerError::NamesDirectory),
            Some(_) if name == OPAQUE => Ok(Some(Self::Opaque)),
            Some(_) if name.starts_with(METADATA_PREFIX) => Ok(Some(Self::AufsMetadata(name))),
            Some(hidden) => Ok(Some(Self::Whiteout(hidden))),
        }
    }
}

/// What a member's whole path says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// An ordinary entry, or an inode below the root's `.wh..wh.plnk/`.
    Entry(EntryPath),
    /// What this path names is hidden.
    Whiteout(EntryPath),
    /// What lies below this path is hidden.
    Opaque(EntryPath),
    /// aufs's own, to be left out.
    AufsMetadata(EntryPath),
}

/// Tells markers from entries.
///
/// # Errors
/// [`MarkerError`] for names that must not stand in a layer.
pub(crate) fn classify(path: EntryPath) -> Result<Meaning, MarkerError> {
    let may_mean_more = |_: &&[u8]| path.components().any(|component| component.starts_with(PREFIX));
    let Some(name) = path.file_name().filter(may_mean_more) else { return Ok(Meaning::Entry(path)) };
    let parent = path.parent().unwrap_or_default();
    let mut in_links = false;
    for (depth, component) in parent.components().enumerate() {
        match Marker::parse(component)? {
            None => {}
            Some(Marker::AufsMetadata(HARDLINKS)) if depth == 0 => in_links = true,
            Some(Marker::AufsMetadata(_)) => return Ok(Meaning::AufsMetadata(path)),
            Some(Marker::Whiteout(_) | Marker::Opaque) => return Err(MarkerError::InParent),
        }
    }
    match Marker::parse(name)? {
        None => Ok(Meaning::Entry(path)),
        Some(_) if in_links => Ok(Meaning::AufsMetadata(path)),
        Some(Marker::AufsMetadata(_)) => Ok(Meaning::AufsMetadata(path)),
        Some(Marker::Opaque) => Ok(Meaning::Opaque(parent)),
        Some(Marker::Whiteout(hidden)) => Ok(Meaning::Whiteout(sibling(&parent, hidden))),
    }
}

/// Whether this lies in the directory where aufs kept the inodes of hardlinks.
pub fn is_aufs_inode(path: &EntryPath) -> bool {
    path.depth() > 1 && path.components().next() == Some(HARDLINKS)
}

/// The basename of the whiteout that hides `name`.
pub fn whiteout_of(name: &[u8]) -> Vec<u8> {
    [PREFIX, name].concat()
}

fn sibling(parent: &EntryPath, name: &[u8]) -> EntryPath {
    // A component of a parsed path joins without error.
    parent.join(name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::parse(text).unwrap()
    }

    #[test]
    fn markers_are_known_by_their_basename() {
        for (name, marker) in [
            ("a", None),
            (".wha", None),
            ("x.wh.a", None),
            (".wh.a", Some(Marker::Whiteout(b"a".as_slice()))),
            (".wh....", Some(Marker::Whiteout(b"..."))),
            (".wh..a", Some(Marker::Whiteout(b".a"))),
            (".wh..wh", Some(Marker::Whiteout(b".wh"))),
            (".wh..wh..opq", Some(Marker::Opaque)),
            (".wh..wh..opq2", Some(Marker::AufsMetadata(b".wh..wh..opq2"))),
            (".wh..wh.", Some(Marker::AufsMetadata(b".wh..wh."))),
            (".wh..wh.plnk", Some(Marker::AufsMetadata(b".wh..wh.plnk"))),
        ] {
            assert_eq!(Marker::parse(name.as_bytes()), Ok(marker), "{name}");
        }
    }

    #[test]
    fn a_marker_that_names_its_directory_is_refused() {
        for name in [".wh.", ".wh..", ".wh..."] {
            assert_eq!(Marker::parse(name.as_bytes()), Err(MarkerError::NamesDirectory), "{name}");
            assert_eq!(classify(path(&format!("a/{name}"))), Err(MarkerError::NamesDirectory), "{name}");
            assert!(classify(path(&format!("a/{name}/b"))).is_err(), "{name}");
        }
    }

    #[test]
    fn paths_mean_what_their_names_say() {
        for (text, meaning) in [
            ("", Ok(Meaning::Entry(path("")))),
            ("a/b", Ok(Meaning::Entry(path("a/b")))),
            (".wh.a", Ok(Meaning::Whiteout(path("a")))),
            ("a/.wh.b", Ok(Meaning::Whiteout(path("a/b")))),
            (".wh..wh..opq", Ok(Meaning::Opaque(path("")))),
            ("a/b/.wh..wh..opq", Ok(Meaning::Opaque(path("a/b")))),
            (".wh..wh.plnk", Ok(Meaning::AufsMetadata(path(".wh..wh.plnk")))),
            (".wh..wh.plnk/1.2", Ok(Meaning::Entry(path(".wh..wh.plnk/1.2")))),
            (".wh..wh.plnk/.wh.x", Ok(Meaning::AufsMetadata(path(".wh..wh.plnk/.wh.x")))),
            ("a/.wh..wh.plnk/1.2", Ok(Meaning::AufsMetadata(path("a/.wh..wh.plnk/1.2")))),
            (".wh..wh.orph/x", Ok(Meaning::AufsMetadata(path(".wh..wh.orph/x")))),
            (".wh.a/b", Err(MarkerError::InParent)),
            (".wh.a/.wh.b", Err(MarkerError::InParent)),
            (".wh..wh..opq/b", Err(MarkerError::InParent)),
        ] {
            assert_eq!(classify(path(text)), meaning, "{text}");
        }
        assert!(is_aufs_inode(&path(".wh..wh.plnk/1.2")));
        assert!(!is_aufs_inode(&path(".wh..wh.plnk")));
        assert!(!is_aufs_inode(&path("a/.wh..wh.plnk/1.2")));
    }
}
