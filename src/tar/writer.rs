//! Changes as an archive.
//!
//! The same changes give the same bytes, always: ustar headers, PAX records only for what ustar cannot say, no user or group names,
//! no time of writing (SEMANTICS §5).

use std::fmt;
use std::io::Write;

use super::{BLOCK, padding, pax};
use crate::entry::{Attributes, Change, Entry, EntrySink, Node, Status, Timestamp, Xattrs};
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::whiteout;

const OP: &str = "write layer";
/// What eleven and seven octal digits hold.
const SIZE_MAX: u64 = 0o777_7777_7777;
const ID_MAX: u32 = 0o777_7777;
/// The name of every PAX header member; no reader makes a file of it.
const PAX_NAME: &[u8] = b"././@PaxHeader";
const ZEROS: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Writes changes as a tar archive, in the order in which they come.
///
/// ```
/// use plywood::entry::{Attributes, Change, Entry, EntrySink as _, Node, Status};
/// use plywood::{path::EntryPath, tar::Writer};
/// let mut writer = Writer::new(Vec::new());
/// let file = Change::Upsert { node: Node::File { size: 3 }, attributes: Attributes::implied() };
/// writer.entry(&Entry { path: EntryPath::parse("etc/motd").unwrap(), change: file }, Status::Added)?;
/// writer.data(b"hi\n")?;
/// let archive = writer.finish()?;
/// assert_eq!(archive.len(), 4 * 512);
/// # Ok::<(), plywood::Error>(())
/// ```
#[must_use = "the archive is complete only after `finish`"]
pub struct Writer<W> {
    inner: W,
    clamp: Option<i64>,
    /// Bytes of the current file that are still to come, and how it will be padded.
    missing: u64,
    padding: u64,
    path: EntryPath,
}

impl<W: Write> Writer<W> {
    /// An archive that goes to `inner`, unbuffered: headers are written one by one.
    pub fn new(inner: W) -> Self {
        Self { inner, clamp: None, missing: 0, padding: 0, path: EntryPath::ROOT }
    }

    /// Writes no time later than `seconds` after 1970 (`SOURCE_DATE_EPOCH`): later ones become this one.
    pub fn clamp_mtime(mut self, seconds: i64) -> Self {
        self.clamp = Some(seconds);
        self
    }

    /// Writes the end of the archive and gives the stream back, unflushed.
    ///
    /// # Errors
    /// `InvalidArgument` if the last file is not complete, or those of the stream.
    pub fn finish(mut self) -> Result<W> {
        self.end_file()?;
        self.write(&ZEROS)?;
        Ok(self.inner)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.write_all(bytes).map_err(|error| Error::io(OP, error).at(&self.path))
    }

    fn pad(&mut self, count: u64) -> Result<()> {
        let count = usize::try_from(count).unwrap_or(BLOCK);
        self.write(ZEROS.get(..count).unwrap_or_default())
    }

    fn end_file(&mut self) -> Result<()> {
        if self.missing > 0 {
            let reason = format!("{} bytes of the file's content did not come", self.missing);
            return Err(Error::new(ErrorKind::InvalidArgument, OP).at(&self.path).because(reason));
        }
        let padding = std::mem::take(&mut self.padding);
        self.pad(padding)
    }

    fn member(&mut self, member: &Member<'_>) -> Result<()> {
        let (mut header, records) = member.encode().map_err(|error| error.at(&self.path))?;
        if !records.is_empty() {
            let size = records.len() as u64;
            let mut extension = tar::Header::new_ustar();
            set(&mut extension.as_old_mut().name, PAX_NAME);
            fields(&mut extension, b'x', 0o644, 0, 0, size, 0);
            seal(&mut extension);
            self.write(extension.as_bytes())?;
            self.write(&records)?;
            self.pad(padding(size))?;
        }
        seal(&mut header);
        self.write(header.as_bytes())
    }

    fn upsert(&mut self, path: &EntryPath, node: &Node, attributes: &Attributes) -> Result<()> {
        let mut mtime = attributes.mtime;
        if let Some(seconds) = self.clamp {
            mtime = mtime.min(Timestamp::from_seconds(seconds));
        }
        let member = Member::new(path, node, attributes, mtime)?;
        self.member(&member)?;
        self.missing = member.size;
        self.padding = padding(member.size);
        Ok(())
    }
}

impl<W: Write> EntrySink for Writer<W> {
    fn entry(&mut self, entry: &Entry, _status: Status) -> Result<()> {
        self.end_file()?;
        self.path = entry.path.clone();
        match &entry.change {
            Change::Upsert { node, attributes } => self.upsert(&entry.path, node, attributes),
            Change::Whiteout => match entry.path.parent().zip(entry.path.file_name()) {
                Some((parent, name)) => self.member(&Member::marker(&parent, &whiteout::whiteout_of(name))),
                None => Err(Error::new(ErrorKind::InvalidArgument, OP).at(".").because("the root cannot be whited out")),
            },
            Change::Opaque => self.member(&Member::marker(&entry.path, whiteout::OPAQUE)),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.missing = self.missing.checked_sub(bytes.len() as u64).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, OP).at(&self.path).because("more content than the file's size")
        })?;
        self.write(bytes)
    }
}

impl<W> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("path", &self.path).field("missing", &self.missing).finish_non_exhaustive()
    }
}

/// One member, as it will be written.
struct Member<'a> {
    name: Vec<u8>,
    link: Vec<u8>,
    flag: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: Timestamp,
    device: (u32, u32),
    /// Of a hardlink too: other tools apply what the link's header says to the shared inode.
    xattrs: Option<&'a Xattrs>,
}

impl<'a> Member<'a> {
    fn new(path: &EntryPath, node: &Node, attributes: &'a Attributes, mtime: Timestamp) -> Result<Self> {
        let mut member = Self {
            name: path.as_bytes().to_vec(),
            link: Vec::new(),
            flag: b'0',
            mode: attributes.mode & 0o7777,
            uid: attributes.uid,
            gid: attributes.gid,
            size: 0,
            mtime,
            device: (0, 0),
            xattrs: Some(&attributes.xattrs),
        };
        match node {
            Node::Directory => {
                member.flag = b'5';
                member.name.extend_from_slice(if path.is_root() { b"./" } else { b"/" });
            }
            _ if path.is_root() => {
                return Err(Error::new(ErrorKind::InvalidArgument, OP).at(".").because("the root is a directory"));
            }
            Node::File { size } => member.size = *size,
            Node::Symlink { target } => {
                member.flag = b'2';
                member.link = target.clone();
            }
            Node::Hardlink { target } => {
                member.flag = b'1';
                member.link = target.as_bytes().to_vec();
            }
            Node::CharDevice { major, minor } => {
                member.flag = b'3';
                member.device = (*major, *minor);
            }
            Node::BlockDevice { major, minor } => {
                member.flag = b'4';
                member.device = (*major, *minor);
            }
            Node::Fifo => member.flag = b'6',
        }
        Ok(member)
    }

    fn marker(directory: &EntryPath, name: &[u8]) -> Self {
        let mut path = directory.as_bytes().to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self {
            name: path,
            link: Vec::new(),
            flag: b'0',
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Timestamp::from_seconds(0),
            device: (0, 0),
            xattrs: None,
        }
    }

    /// The header block, and the PAX records for what does not fit in it, sorted by keyword.
    fn encode(&self) -> Result<(tar::Header, Vec<u8>)> {
        let mut header = tar::Header::new_ustar();
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut record = |keyword: &[u8], value: &[u8]| records.push((keyword.to_vec(), value.to_vec()));

        let (prefix, name) = split(&self.name).unwrap_or_else(|| {
            record(b"path", &self.name);
            (&[], &self.name)
        });
        set(&mut header.as_old_mut().name, name);
        if self.link.len() > 100 {
            record(b"linkpath", &self.link);
        }
        set(&mut header.as_old_mut().linkname, &self.link);
        for (keyword, id) in [("uid", self.uid), ("gid", self.gid)] {
            if id > ID_MAX {
                record(keyword.as_bytes(), id.to_string().as_bytes());
            }
        }
        if self.size > SIZE_MAX {
            record(b"size", self.size.to_string().as_bytes());
        }
        let seconds = u64::try_from(self.mtime.seconds).ok().filter(|&seconds| seconds <= SIZE_MAX);
        if seconds.is_none() || self.mtime.nanoseconds > 0 {
            record(b"mtime", pax::format_time(self.mtime).as_bytes());
        }
        for (name, value) in self.xattrs.into_iter().flatten() {
            let keyword = pax::xattr_keyword(name).ok_or_else(|| {
                let reason = format!("a tar archive cannot say the extended attribute {}", name.escape_ascii());
                Error::new(ErrorKind::Unsupported, OP).because(reason)
            })?;
            record(&keyword, value);
        }

        let fits = |id: u32| if id > ID_MAX { 0 } else { id };
        let size = if self.size > SIZE_MAX { 0 } else { self.size };
        fields(&mut header, self.flag, self.mode, fits(self.uid), fits(self.gid), size, seconds.unwrap_or(0));
        if let Some(ustar) = header.as_ustar_mut() {
            set(&mut ustar.prefix, prefix);
            octal(&mut ustar.dev_major, self.device.0.into());
            octal(&mut ustar.dev_minor, self.device.1.into());
        } // It was made as one.
        records.sort_unstable();
        let mut body = Vec::new();
        for (keyword, value) in &records {
            pax::write_record(&mut body, keyword, value);
        }
        Ok((header, body))
    }
}

/// ustar's two fields for a name: none for the prefix if it fits without, else the longest prefix that leaves a name.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((&[], name));
    }
    // The slash between the two is not written; one at the very end belongs to the name.
    let within = name.get(..name.len().saturating_sub(1).min(156)).unwrap_or_default();
    let slash = within.iter().rposition(|&byte| byte == b'/').filter(|&at| at > 0)?;
    let (prefix, rest) = name.split_at_checked(slash).unwrap_or_default();
    // The slash is not counted.
    (rest.len() <= 101).then(|| (prefix, rest.get(1..).unwrap_or_default()))
}

/// Copies as much as there is room for; the rest stays NUL.
fn set(field: &mut [u8], value: &[u8]) {
    for (to, &from) in field.iter_mut().zip(value) {
        *to = from;
    }
}

/// Octal digits, zero-filled, with a NUL at the end. What does not fit was refused or moved to a PAX record before.
fn octal(field: &mut [u8], mut value: u64) {
    field.fill(0);
    for byte in field.iter_mut().rev().skip(1) {
        // A digit: the mask leaves 0 to 7.
        *byte = b'0' | u8::try_from(value & 7).unwrap_or(0);
        value >>= 3;
    }
}

fn fields(header: &mut tar::Header, flag: u8, mode: u32, uid: u32, gid: u32, size: u64, mtime: u64) {
    let old = header.as_old_mut();
    old.linkflag = [flag];
    octal(&mut old.mode, mode.into());
    octal(&mut old.uid, uid.into());
    octal(&mut old.gid, gid.into());
    octal(&mut old.size, size);
    octal(&mut old.mtime, mtime);
}

/// Sets the checksum: six digits, NUL, space.
fn seal(header: &mut tar::Header) {
    header.as_old_mut().cksum = [b' '; 8];
    let sum = header.as_bytes().iter().fold(0u64, |sum, &byte| sum.saturating_add(u64::from(byte)));
    let mut field = [0; 7];
    octal(&mut field, sum);
    let [a, b, c, d, e, f, g] = field;
    header.as_old_mut().cksum = [a, b, c, d, e, f, g, b' '];
}

#[cfg(test)]
mod tests;
