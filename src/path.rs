//! [`EntryPath`]: where something stands in a layer or a tree.
//!
//! Relative, normal and byte-exact: no leading or doubled `/`, no `.`, no `..`, no NUL. A value of this type is a *name*; that it
//! stays inside a root is the work of `sys::Root`, which resolves it.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The longest component that reaches a file system (`NAME_MAX`).
pub const COMPONENT_MAX: usize = 255;

/// The longest path of a layer that can be kept (`PATH_MAX`): no system call takes a longer one.
pub const PATH_BYTES_MAX: usize = 4096;

/// Why bytes are no [`EntryPath`] (SEMANTICS §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// A `..` component.
    #[error("a path must not contain \"..\"")]
    Parent,
    /// A NUL byte.
    #[error("a path must not contain a NUL byte")]
    Nul,
}

/// A relative path without `.`, `..`, NUL, and without empty components. The empty path is the root directory.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath(Vec<u8>);

impl EntryPath {
    /// The root directory.
    pub const ROOT: Self = Self(Vec::new());

    /// Normalises `bytes`: leading `/` and `./`, repeated and trailing `/` are dropped; `.`, `./`, `/` and nothing are the root.
    ///
    /// Component and path lengths are not checked here: a whiteout's basename may have 259 bytes, and the limit is the reader's.
    ///
    /// # Errors
    /// [`PathError`] for a `..` component or a NUL byte.
    pub fn parse(bytes: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let bytes = bytes.as_ref();
        if bytes.contains(&0) {
            return Err(PathError::Nul);
        }
        let mut normal = Vec::with_capacity(bytes.len());
        for component in bytes.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(PathError::Parent),
                _ => {
                    if !normal.is_empty() {
                        normal.push(b'/');
                    }
                    normal.extend_from_slice(component);
                }
            }
        }
        Ok(Self(normal))
    }

    /// Whether this is the root directory.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path's bytes, without a leading or trailing `/`; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path as the standard library's type; empty for the root.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The components, outermost first; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|component| !component.is_empty())
    }

    /// How many components the path has; 0 for the root.
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// The last component; none for the root.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The directory that holds this; none for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        Some(Self(self.0.get(..end).unwrap_or_default().to_vec()))
    }

    /// The path of `name` in this directory.
    ///
    /// # Errors
    /// [`PathError`] as [`parse`](Self::parse) gives it.
    pub fn join(&self, name: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let name = Self::parse(name)?;
        let mut joined = self.0.clone();
        if !joined.is_empty() && !name.is_root() {
            joined.push(b'/');
        }
        joined.extend_from_slice(&name.0);
        Ok(Self(joined))
    }

    /// Whether this is `ancestor` or stands below it.
    pub fn starts_with(&self, ancestor: &Self) -> bool {
        ancestor.is_root() || self.0.strip_prefix(ancestor.0.as_slice()).is_some_and(|rest| rest.first().is_none_or(|&b| b == b'/'))
    }
}

impl fmt::Display for EntryPath {
    /// Escaped as Rust and C escape bytes, so that a hostile name never reaches a terminal; the root is `.`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { write!(f, "{}", self.0.escape_ascii()) }
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl AsRef<Path> for EntryPath {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_the_same_path_are_equal() {
        for spelling in ["a/b", "/a/b", "./a/b", "a//b/", "//./a/./b/."] {
            assert_eq!(EntryPath::parse(spelling).unwrap().as_bytes(), b"a/b", "{spelling}");
        }
        for root in ["", ".", "/", "./", "//."] {
            assert!(EntryPath::parse(root).unwrap().is_root(), "{root}");
        }
    }

    #[test]
    fn parent_components_and_nul_are_refused() {
        assert_eq!(EntryPath::parse("a/../b"), Err(PathError::Parent));
        assert_eq!(EntryPath::parse("a\0b"), Err(PathError::Nul));
        assert_eq!(EntryPath::parse("a/..b/...").unwrap().as_bytes(), b"a/..b/...");
    }

    #[test]
    fn parents_end_at_the_root() {
        let path = EntryPath::parse("a/b").unwrap();
        assert_eq!(path.parent().unwrap().as_bytes(), b"a");
        assert!(path.parent().unwrap().parent().unwrap().is_root());
        assert_eq!(EntryPath::ROOT.parent(), None);
        assert!(path.starts_with(&EntryPath::parse("a").unwrap()));
        assert!(!EntryPath::parse("ab").unwrap().starts_with(&EntryPath::parse("a").unwrap()));
    }

    #[test]
    fn names_are_joined_and_shown_escaped() {
        let path = EntryPath::parse("a").unwrap();
        assert_eq!(path.join("b/../c"), Err(PathError::Parent));
        let joined = path.join("\u{1b}[1m/b").unwrap();
        assert_eq!((joined.to_string(), format!("{joined:?}")), (r"a/\x1b[1m/b".to_owned(), r#""a/\x1b[1m/b""#.to_owned()));
        assert_eq!(EntryPath::ROOT.join("").unwrap().to_string(), ".");
    }
}
