//! [`Layer`]: a layer as a literal, to be had as the bytes of a tar or as a stream of changes.
//!
//! Awkward archives are its business: any type flag, any order, doubled names, GNU and PAX forms, raw blocks. How its members are
//! understood as changes ([`Layer::entries`]) is written here a second time, from the contract (SEMANTICS §2) and not with the
//! reader's code, so that the two check each other.

use std::fmt;

use crate::entry::{Attributes, Timestamp};

mod names;
mod stream;
#[cfg(test)]
mod tests;
mod write;

use super::tree::{LITERAL_MTIME, literal_path};
pub use names::LayerEntry;
pub(super) use names::PLNK;
pub use stream::LayerStream;
pub(super) use write::pack;

/// How a member's header says what ustar's fields have no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// A ustar header, with PAX records before it where they are needed. Xattrs and nanoseconds can be said in this form alone.
    #[default]
    Pax,
    /// A GNU header: base-256 numbers, `L` and `K` members for long names.
    Gnu,
    /// The header of Unix V7: no magic, no devices.
    V7,
}

/// A layer, member by member.
///
/// ```
/// use plywood::testing::Layer;
///
/// let layer = Layer::new()
///     .whiteout("etc/old")
///     .dir("etc", 0o755)
///     .file("etc/new", "text").mode(0o600).owner(5, 5)
///     .hardlink("etc/alias", "etc/new");
/// assert_eq!(layer.entries().unwrap().len(), 4);
/// assert_eq!(layer.tar().len() % 512, 0);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Layer {
    members: Vec<Member>,
    /// Whether the two zero blocks at the end are missing.
    unended: bool,
}

#[derive(Clone, PartialEq, Eq)]
enum Member {
    Header(Header),
    /// Blocks of the archive as they are.
    Raw(Vec<u8>),
}

/// One tar member, as its header has it.
#[derive(Clone, PartialEq, Eq)]
struct Header {
    name: Vec<u8>,
    flag: u8,
    link: Vec<u8>,
    device: (u32, u32),
    attributes: Attributes,
    content: Vec<u8>,
    /// PAX records beside those that the fields above need, after them.
    records: Vec<(Vec<u8>, Vec<u8>)>,
    form: Form,
}

/// Members. Each is 0:0 with [`LITERAL_MTIME`] until a modifier says otherwise.
impl Layer {
    /// A layer without entries: nothing but the end of an archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// A directory; `""` is the root.
    #[must_use]
    pub fn dir(self, path: impl AsRef<[u8]>, mode: u32) -> Self {
        let mut name = path.as_ref().to_vec();
        if name.is_empty() {
            name.push(b'.');
        }
        if !name.ends_with(b"/") {
            name.push(b'/');
        }
        self.member(name, b'5').mode(mode)
    }

    /// A regular file, 0644.
    #[must_use]
    pub fn file(self, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        self.member(path, b'0').content(content)
    }

    /// A symlink, 0777.
    #[must_use]
    pub fn symlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.member(path, b'2').link(target).mode(0o777)
    }

    /// A hardlink.
    #[must_use]
    pub fn hardlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.member(path, b'1').link(target)
    }

    /// A named pipe, 0644.
    #[must_use]
    pub fn fifo(self, path: impl AsRef<[u8]>) -> Self {
        self.member(path, b'6')
    }

    /// A character device, 0644.
    #[must_use]
    pub fn char_device(self, path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        self.member(path, b'3').device(major, minor)
    }

    /// A block device, 0644.
    #[must_use]
    pub fn block_device(self, path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        self.member(path, b'4').device(major, minor)
    }

    /// A whiteout of `path`: an empty file `.wh.NAME` in its directory.
    ///
    /// # Panics
    /// When `path` is the root, or no path of a layer.
    #[must_use]
    pub fn whiteout(self, path: impl AsRef<[u8]>) -> Self {
        let path = literal_path(path);
        let mut name = path.parent().expect("the root cannot be hidden").as_bytes().to_vec();
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(b".wh.");
        name.extend_from_slice(path.file_name().unwrap_or_default());
        self.member(name, b'0').mode(0).mtime(0, 0)
    }

    /// An opaque marker in the directory `path`; `""` is the root.
    #[must_use]
    pub fn opaque(self, path: impl AsRef<[u8]>) -> Self {
        let mut name = path.as_ref().to_vec();
        if !name.is_empty() && !name.ends_with(b"/") {
            name.push(b'/');
        }
        name.extend_from_slice(b".wh..wh..opq");
        self.member(name, b'0').mode(0).mtime(0, 0)
    }

    /// A member of any name and type flag, 0644, empty.
    #[must_use]
    pub fn member(mut self, name: impl AsRef<[u8]>, flag: u8) -> Self {
        let attributes = Attributes { mode: 0o644, mtime: LITERAL_MTIME, ..Attributes::implied() };
        self.members.push(Member::Header(Header {
            name: name.as_ref().to_vec(),
            flag,
            link: Vec::new(),
            device: (0, 0),
            attributes,
            content: Vec::new(),
            records: Vec::new(),
            form: Form::default(),
        }));
        self
    }

    /// Bytes of the archive as they are: 512-byte blocks, if the members after them are to be found.
    #[must_use]
    pub fn raw(mut self, blocks: impl AsRef<[u8]>) -> Self {
        self.members.push(Member::Raw(blocks.as_ref().to_vec()));
        self
    }

    /// The archive ends with its last member. A layer without members then has no bytes at all.
    #[must_use]
    pub fn without_end(mut self) -> Self {
        self.unended = true;
        self
    }

    /// The members of another layer after these.
    #[must_use]
    pub fn then(mut self, other: Self) -> Self {
        self.members.extend(other.members);
        self
    }
}

/// Modifiers of the member before them.
///
/// All panic when there is none.
impl Layer {
    /// Permission bits.
    #[must_use]
    pub fn mode(self, mode: u32) -> Self {
        self.modify(|member| member.attributes.mode = mode)
    }

    /// Owner and group.
    #[must_use]
    pub fn owner(self, uid: u32, gid: u32) -> Self {
        self.modify(|member| (member.attributes.uid, member.attributes.gid) = (uid, gid))
    }

    /// mtime.
    #[must_use]
    pub fn mtime(self, seconds: i64, nanoseconds: u32) -> Self {
        self.modify(|member| member.attributes.mtime = Timestamp { seconds, nanoseconds })
    }

    /// An extended attribute (a `SCHILY.xattr.` record).
    #[must_use]
    pub fn xattr(self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.modify(|member| {
            member.attributes.xattrs.insert(name.as_ref().to_vec(), value.as_ref().to_vec());
        })
    }

    /// The type flag.
    #[must_use]
    pub fn flag(self, flag: u8) -> Self {
        self.modify(|member| member.flag = flag)
    }

    /// The link name.
    #[must_use]
    pub fn link(self, target: impl AsRef<[u8]>) -> Self {
        self.modify(|member| member.link = target.as_ref().to_vec())
    }

    /// The body.
    #[must_use]
    pub fn content(self, content: impl AsRef<[u8]>) -> Self {
        self.modify(|member| member.content = content.as_ref().to_vec())
    }

    /// The device number.
    #[must_use]
    pub fn device(self, major: u32, minor: u32) -> Self {
        self.modify(|member| member.device = (major, minor))
    }

    /// One more PAX record. What it means is between the archive and its reader: such a layer has no [`entries`](Self::entries).
    #[must_use]
    pub fn record(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.modify(|member| member.records.push((key.as_ref().to_vec(), value.as_ref().to_vec())))
    }

    /// How the header is written.
    #[must_use]
    pub fn form(self, form: Form) -> Self {
        self.modify(|member| member.form = form)
    }

    fn modify(mut self, change: impl FnOnce(&mut Header)) -> Self {
        match self.members.last_mut() {
            Some(Member::Header(member)) => change(member),
            _ => panic!("there is no member before the modifier"),
        }
        self
    }
}

/// What it takes to unpack the layer.
impl Layer {
    pub(super) fn has_devices(&self) -> bool {
        self.headers().any(|header| matches!(header.flag, b'3' | b'4'))
    }

    pub(super) fn needs_privileges(&self) -> bool {
        self.headers().any(|Header { attributes, .. }| {
            (attributes.uid, attributes.gid) != (0, 0) || attributes.xattrs.keys().any(|name| !name.starts_with(b"user."))
        })
    }

    fn headers(&self) -> impl Iterator<Item = &Header> {
        self.members.iter().filter_map(|member| match member {
            Member::Header(header) => Some(header),
            Member::Raw(_) => None,
        })
    }
}

impl fmt::Debug for Layer {
    /// As it would stand in a test's source.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Layer::new()")?;
        self.members.iter().try_for_each(|member| write!(f, "{member:?}"))?;
        f.write_str(if self.unended { ".without_end()" } else { "" })
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header { name, flag, link, device, attributes, content, records, form } = match self {
            Self::Raw(blocks) => return write!(f, ".raw(/* {} bytes */)", blocks.len()),
            Self::Header(header) => header,
        };
        let path = name.strip_suffix(b"/").unwrap_or(name).escape_ascii();
        let base = name.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let parent = name.strip_suffix(base).unwrap_or_default().escape_ascii();
        let (mut mode, mut mtime) = (0o644, LITERAL_MTIME);
        if *flag == b'0' && content.is_empty() && base.starts_with(b".wh.") {
            (mode, mtime) = (0, Timestamp::default());
            match base.strip_prefix(b".wh.").unwrap_or_default() {
                b".wh..opq" => write!(f, ".opaque(\"{}\")", name.strip_suffix(b".wh..wh..opq").unwrap_or_default().escape_ascii())?,
                hidden => write!(f, ".whiteout(\"{parent}{}\")", hidden.escape_ascii())?,
            }
        } else {
            match flag {
                b'0' => write!(f, ".file(\"{}\", \"{}\")", name.escape_ascii(), content.escape_ascii())?,
                b'1' => write!(f, ".hardlink(\"{}\", \"{}\")", name.escape_ascii(), link.escape_ascii())?,
                b'2' => {
                    mode = 0o777;
                    write!(f, ".symlink(\"{}\", \"{}\")", name.escape_ascii(), link.escape_ascii())?;
                }
                b'5' => {
                    mode = attributes.mode;
                    write!(f, ".dir(\"{path}\", 0o{mode:o})")?;
                }
                b'6' => write!(f, ".fifo(\"{}\")", name.escape_ascii())?,
                b'3' => write!(f, ".char_device(\"{}\", {}, {})", name.escape_ascii(), device.0, device.1)?,
                b'4' => write!(f, ".block_device(\"{}\", {}, {})", name.escape_ascii(), device.0, device.1)?,
                other => write!(f, ".member(\"{}\", {other})", name.escape_ascii())?,
            }
        }
        if attributes.mode != mode {
            write!(f, ".mode(0o{:o})", attributes.mode)?;
        }
        if (attributes.uid, attributes.gid) != (0, 0) {
            write!(f, ".owner({}, {})", attributes.uid, attributes.gid)?;
        }
        if attributes.mtime != mtime {
            write!(f, ".mtime({}, {})", attributes.mtime.seconds, attributes.mtime.nanoseconds)?;
        }
        for (name, value) in &attributes.xattrs {
            write!(f, ".xattr(b\"{}\", b\"{}\")", name.escape_ascii(), value.escape_ascii())?;
        }
        for (key, value) in records {
            write!(f, ".record(b\"{}\", b\"{}\")", key.escape_ascii(), value.escape_ascii())?;
        }
        if *form != Form::Pax {
            write!(f, ".form(Form::{form:?})")?;
        }
        Ok(())
    }
}
