//! What a member's name and type mean as a change: SEMANTICS §2, and of §3 the type flags.

use super::{Header, Layer, Member};
use crate::entry::{Change, Entry, Node};
use crate::error::{Error, ErrorKind, Result};
use crate::path::{COMPONENT_MAX, EntryPath};

/// aufs's directory of inodes that hardlinks of the same layer point to, at the layer's root.
pub(in crate::testing) const PLNK: &[u8] = b".wh..wh.plnk";

const PATH_MAX: usize = 4096;
const UNKNOWN: &str = "the type flag is unknown";

/// A change with the content that follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerEntry {
    /// The change.
    pub entry: Entry,
    /// The bytes of a file; empty for anything else.
    pub content: Vec<u8>,
}

impl Layer {
    /// Whether every member is an ordinary one, so that [`entries`](Self::entries) can say what the layer means.
    pub fn is_plain(&self) -> bool {
        self.members.iter().all(|member| matches!(member, Member::Header(header) if header.records.is_empty()))
    }

    /// The changes that the members stand for, in their order. aufs's own files are left out.
    ///
    /// # Errors
    /// `InvalidLayer` for what the contract refuses by name or type.
    ///
    /// # Panics
    /// When the layer is not [plain](Self::is_plain).
    pub fn entries(&self) -> Result<Vec<LayerEntry>> {
        let mut entries = Vec::new();
        for member in &self.members {
            let Member::Header(header) = member else { panic!("raw blocks have a meaning to a tar reader alone") };
            assert!(header.records.is_empty(), "PAX records have a meaning to a tar reader alone");
            let invalid = |reason: &str| Error::new(ErrorKind::InvalidLayer, "read literal").because(reason);
            if let Some(entry) = header.entry().map_err(|reason| invalid(reason).at(header.name.escape_ascii().to_string()))? {
                let content = match entry.change {
                    Change::Upsert { node: Node::File { .. }, .. } => header.content.clone(),
                    _ => Vec::new(),
                };
                entries.push(LayerEntry { entry, content });
            }
        }
        Ok(entries)
    }
}

impl Header {
    /// `None` for aufs's own files.
    fn entry(&self) -> std::result::Result<Option<Entry>, &'static str> {
        if self.node() == Err(UNKNOWN) {
            return Err(UNKNOWN);
        }
        let path = EntryPath::parse(&self.name).map_err(|_| "the name has a component \"..\" or a NUL byte")?;
        let parent = path.parent().unwrap_or_default();
        let mut aside = false;
        for (depth, component) in parent.components().enumerate() {
            match component.strip_prefix(b".wh.") {
                None => {}
                Some(_) if component == PLNK && depth == 0 => aside = true,
                Some(aufs) if aufs.starts_with(b".wh.") && aufs != b".wh..opq" => return Ok(None),
                Some(_) => return Err("a directory of the path is called like a marker"),
            }
        }
        let marker = path.file_name().and_then(|name| name.strip_prefix(b".wh."));
        let (path, change) = match marker {
            None => (path, Change::Upsert { node: self.node()?, attributes: self.attributes.clone() }),
            Some(b"" | b"." | b"..") => return Err("a whiteout of nothing, or of a directory itself"),
            Some(_) if aside => return Ok(None),
            Some(b".wh..opq") => (parent, Change::Opaque),
            Some(aufs) if aufs.starts_with(b".wh.") => return Ok(None),
            Some(hidden) => (parent.join(hidden).map_err(|_| "a whiteout of no name")?, Change::Whiteout),
        };
        if path.is_root() && matches!(&change, Change::Upsert { node, .. } if *node != Node::Directory) {
            return Err("the root must be a directory");
        }
        if path.components().any(|component| component.len() > COMPONENT_MAX) {
            return Err("a component is over 255 bytes long");
        }
        if path.as_bytes().len() > PATH_MAX {
            return Err("the path is over 4,096 bytes long");
        }
        Ok(Some(Entry { path, change }))
    }

    fn node(&self) -> std::result::Result<Node, &'static str> {
        let (major, minor) = self.device;
        let node = match self.flag {
            0 if self.name.ends_with(b"/") => Node::Directory,
            // Go makes a file of it, GNU tar a directory.
            b'0' | b'7' if self.name.ends_with(b"/") => return Err("a regular file whose name ends in a slash"),
            b'0' | 0 | b'7' => return Ok(Node::File { size: self.content.len() as u64 }),
            b'1' => match EntryPath::parse(&self.link) {
                Ok(target) if target.is_root() => return Err("a hardlink to the root"),
                Ok(target) if target.components().any(|component| component.len() > COMPONENT_MAX) => {
                    return Err("a component of the link's target is over 255 bytes long");
                }
                Ok(target) => Node::Hardlink { target },
                Err(_) => return Err("the link's target has a component \"..\""),
            },
            b'2' if self.link.is_empty() || self.link.contains(&0) || self.link.len() >= PATH_MAX => {
                return Err("a symlink that no file system holds");
            }
            b'2' => Node::Symlink { target: self.link.clone() },
            b'3' if self.device == (0, 0) => return Err("the character device 0:0 means a whiteout to overlayfs"),
            b'3' => Node::CharDevice { major, minor },
            b'4' => Node::BlockDevice { major, minor },
            b'5' => Node::Directory,
            b'6' => Node::Fifo,
            _ => return Err(UNKNOWN),
        };
        if self.content.is_empty() { Ok(node) } else { Err("a type without a body has one") }
    }
}
