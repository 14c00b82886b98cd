//! Our reader against the `tar`, `tar-core` and `astral-tokio-tar` crates: what it accepts, they read as the same members, or refuse.
//! Where they read something else, two tools would see two trees in one blob; [`KEPT`] lists where that stays so, and why.

use std::io::Read as _;
use std::pin::pin;
use std::task::{Context as Task, Poll, Waker};

use plywood::Context;
use plywood::entry::{Change, Entry, Node};
use plywood::path::EntryPath;
use plywood::tar::{Limits, Reader};
use tar_core::parse::{ParseEvent, ParsedEntry, Parser};
use tokio_stream::StreamExt as _;

use super::archives::members_archive;

/// Files with more than this are not compared by content.
const CONTENT_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Tar,
    TarCore,
    AstralTokioTar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Path,
    Type,
    Link,
    Content,
    Owner,
    Mode,
    Mtime,
    Device,
}

/// A member as a reader shows it.
#[derive(Clone, Debug, Default)]
struct Seen {
    path: Vec<u8>,
    /// A type flag, one for each meaning.
    flag: u8,
    link: Vec<u8>,
    content: Vec<u8>,
    owner: (u64, u64),
    mode: u32,
    mtime: i64,
    device: (u64, u64),
}

impl Seen {
    /// What both say of their member and differs. What a marker carries beside its name means nothing.
    fn difference(&self, other: &Self) -> Vec<Field> {
        let marker = self.flag == b'M';
        let file = self.flag == b'0';
        let link = matches!(self.flag, b'1' | b'2');
        let has_attributes = !marker && self.flag != b'1';
        let differs = [
            (Field::Path, self.path != other.path),
            (Field::Type, !marker && self.flag != other.flag),
            (Field::Link, link && self.link != other.link),
            (Field::Content, file && self.content != other.content),
            (Field::Owner, has_attributes && self.owner != other.owner),
            (Field::Mode, has_attributes && self.mode != other.mode),
            (Field::Mtime, has_attributes && self.mtime != other.mtime),
            (Field::Device, matches!(self.flag, b'3' | b'4') && self.device != other.device),
        ];
        differs.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
    }

    /// In one form whoever read it: paths normal, flags by meaning.
    fn normal(mut self) -> Self {
        self.flag = match self.flag {
            // Every reader that unpacks takes a v7 directory for what it is; iterators leave it to their caller.
            0 if self.path.ends_with(b"/") => b'5',
            0 | b'7' | b'S' => b'0',
            flag => flag,
        };
        let normal = |path: &[u8]| EntryPath::parse(path).map_or_else(|_| path.to_vec(), |path| path.as_bytes().to_vec());
        self.path = normal(&self.path);
        if self.flag == b'1' {
            self.link = normal(&self.link);
        }
        self.mode &= 0o7777;
        self.content.truncate(CONTENT_MAX);
        self
    }
}

/// A difference that we mean to keep.
struct Kept {
    peers: &'static [Peer],
    fields: &'static [Field],
    /// Whether the member is such a one.
    of: fn(&Raw) -> bool,
    why: &'static str,
}

use Field::{Content, Link, Mtime, Path};
use Peer::{AstralTokioTar, Tar, TarCore};

const ALL: &[Field] = &[Path, Field::Type, Link, Content, Field::Owner, Field::Mode, Mtime, Field::Device];

const KEPT: &[Kept] = &[
    Kept {
        peers: &[Tar],
        fields: ALL,
        of: |raw| raw.pax.iter().enumerate().any(|(at, (keyword, _))| raw.pax[..at].iter().any(|(before, _)| before == keyword)),
        why: "it takes the first of equal keywords; POSIX has the last, and so have Go and GNU tar",
    },
    Kept {
        peers: &[Tar, TarCore],
        fields: &[Path, Link],
        of: |raw| raw.pax.iter().any(|(_, value)| value.is_empty()),
        why: "an empty value is none: the header's counts (POSIX), as in Go",
    },
    Kept {
        peers: &[Tar, TarCore],
        fields: ALL,
        of: |raw| raw.long_names.iter().any(|name| name.strip_suffix(&[0]).unwrap_or(name).contains(&0)),
        why: "a GNU long name ends at its first NUL, as in Go and GNU tar",
    },
    Kept {
        peers: &[Tar, AstralTokioTar],
        fields: &[Path, Content],
        of: |raw| raw.pax.iter().any(|(keyword, _)| keyword.starts_with(b"GNU.sparse.")),
        why: "they do not know PAX's sparse files, and show the map and the data as they lie in the archive",
    },
    Kept {
        peers: &[Tar, AstralTokioTar],
        fields: &[Mtime],
        of: |raw| raw.pax.iter().any(|(keyword, _)| keyword == b"mtime"),
        why: "they leave PAX's mtime to their caller",
    },
];

/// What we refuse though these three read it alike: a piece of the rule's text, and why.
const STRICTER: &[(&str, &str)] = &[
    ("the archive ends inside its last block", "a stream that was cut off is not whole"),
    ("a member that can have no content has a size", "GNU tar and Go's readers take no body, these three do"),
    ("a regular file whose name ends in \"/\"", "to some readers it is a directory"),
    ("a device in a v7 header has no numbers", "what stands there is not a number of a device"),
    ("a device number that the kernel cannot hold", "it would be another device"),
    ("the character device 0:0", "to overlayfs it is a whiteout"),
    ("a hardlink to the root, or to nothing", "nothing can be another name of these"),
    ("the hardlink's target", "it lies outside of the tree"),
    ("a symlink's target is empty or has a NUL byte", "no file system takes it"),
    ("a symlink's target of more than", "no file system takes it"),
    ("a name of more than", "no file system takes it"),
    ("a path of more than", "a limit"),
    ("the root must be a directory", "the tree would have no root"),
    ("is negative or above", "no user or group has it"),
    ("the mode is negative", "it is none"),
    ("the mtime is no time, or out of range", "no file system keeps it"),
    ("overflows", "what the others read is another number"),
    ("is neither octal nor base 256", "what the others read is another number"),
    ("is no number", "what the others read is another number"),
    ("extension headers without a member after them", "what they belong to was cut off"),
    ("a single block of zeros with data after it", "some readers end there and some go on"),
    ("a name prefix that ustar and star read differently", "two readers would make two files of it"),
    ("a name prefix in a header that is not ustar", "two readers would make two files of it"),
    ("a GNU long name and a PAX path for one member", "readers disagree which one counts"),
    ("a GNU long link and a PAX linkpath for one member", "readers disagree which one counts"),
    ("a PAX ", "a record that is none, or one in a place where it means nothing"),
    ("unknown type flag", "what it is, nobody knows"),
];

/// What stands in the archive for one member: enough to say why it is read differently.
#[derive(Debug, Default)]
struct Raw {
    pax: Vec<(Vec<u8>, Vec<u8>)>,
    long_names: Vec<Vec<u8>>,
}

/// The members of an archive that our reader accepted, in their order: global headers apart.
fn raw_members(mut archive: &[u8]) -> Vec<Raw> {
    let (mut members, mut raw) = (Vec::new(), Raw::default());
    while let Some((block, rest)) = archive.split_at_checked(512).filter(|(block, _)| block.iter().any(|&byte| byte != 0)) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        let flag = block[156];
        let extension = matches!(flag, b'x' | b'g' | b'L' | b'K');
        let of_pax = raw.pax.iter().rev().find(|(keyword, value)| !extension && keyword == b"size" && !value.is_empty());
        let size = match of_pax {
            Some((_, value)) => String::from_utf8_lossy(value).parse().unwrap_or(0),
            None => header.entry_size().unwrap_or(0),
        };
        archive = rest;
        let mut more = flag == b'S' && header.as_gnu().is_some_and(|gnu| gnu.isextended != [0]);
        while let Some((block, rest)) = archive.split_at_checked(512).filter(|_| more) {
            (more, archive) = (block[504] != 0, rest);
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let body = archive.get(..size).unwrap_or(archive);
        archive = archive.get(size.checked_next_multiple_of(512).unwrap_or(usize::MAX)..).unwrap_or_default();
        match flag {
            b'x' => raw.pax = records(body),
            b'L' | b'K' => raw.long_names.push(body.to_vec()),
            b'g' => {}
            _ => members.push(std::mem::take(&mut raw)),
        }
    }
    members
}

fn records(mut body: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records = Vec::new();
    while let Some(space) = body.iter().position(|&byte| byte == b' ')
        && let Ok(length) = String::from_utf8_lossy(&body[..space]).parse::<usize>()
        && let Some((record, rest)) = body.split_at_checked(length)
        && let Some(record) = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n"))
    {
        let equals = record.iter().position(|&byte| byte == b'=').unwrap_or(record.len());
        records.push((record[..equals].to_vec(), record.get(equals + 1..).unwrap_or_default().to_vec()));
        body = rest;
    }
    records
}

/// What we make of an archive, or why we refuse it.
fn ours(archive: &[u8]) -> plywood::Result<Vec<Seen>> {
    let cx = Context::default();
    let mut reader = Reader::new(archive, Limits::default(), &cx);
    let mut members = Vec::new();
    while let Some(Entry { path, change }) = reader.next()? {
        let mut content = Vec::new();
        while let Some(chunk) = reader.chunk()? {
            if let Some(begin) = usize::try_from(chunk.offset).ok().filter(|&begin| begin < CONTENT_MAX) {
                content.resize(begin, 0);
                content.extend_from_slice(chunk.data);
            }
        }
        let mut seen = Seen { path: path.as_bytes().to_vec(), content, ..Seen::default() };
        let Change::Upsert { node, attributes } = change else {
            let parent = path.parent().unwrap_or_default();
            seen.path =
                parent.join(plywood::whiteout::whiteout_of(path.file_name().unwrap_or_default())).unwrap().as_bytes().to_vec();
            members.push(Seen { flag: b'M', ..seen });
            continue;
        };
        (seen.owner, seen.mode) = ((attributes.uid.into(), attributes.gid.into()), attributes.mode);
        seen.mtime = attributes.mtime.seconds;
        match node {
            Node::Directory => seen.flag = b'5',
            Node::File { size } => {
                seen.flag = b'0';
                seen.content.resize(usize::try_from(size).unwrap_or(usize::MAX).min(CONTENT_MAX), 0);
            }
            Node::Symlink { target } => (seen.flag, seen.link) = (b'2', target),
            Node::Hardlink { target } => (seen.flag, seen.link) = (b'1', target.as_bytes().to_vec()),
            Node::CharDevice { major, minor } => (seen.flag, seen.device) = (b'3', (major.into(), minor.into())),
            Node::BlockDevice { major, minor } => (seen.flag, seen.device) = (b'4', (major.into(), minor.into())),
            Node::Fifo => seen.flag = b'6',
            other => unreachable!("{other:?}"),
        }
        members.push(seen);
    }
    Ok(members)
}

/// Fills in what the header alone says; `None` where the reader cannot make sense of it.
macro_rules! from_header {
    ($seen:expr, $header:expr) => {{
        let header = $header;
        $seen.flag = header.as_bytes()[156];
        $seen.owner = (header.uid().ok()?, header.gid().ok()?);
        $seen.mode = header.mode().ok()?;
        $seen.mtime = header.mtime().ok()?.cast_signed();
        if matches!($seen.flag, b'3' | b'4') {
            $seen.device = (header.device_major().ok()??.into(), header.device_minor().ok()??.into());
        }
        Some(())
    }};
}

/// What a peer makes of an archive, up to where it ends or is refused, and whether it was refused.
type Reading = (Vec<Seen>, bool);
type Read = fn(&[u8]) -> Reading;

const READERS: [(Peer, Read); 3] = [(Tar, by_tar), (TarCore, by_tar_core), (AstralTokioTar, by_astral_tokio_tar)];

fn by_tar(archive: &[u8]) -> Reading {
    let (mut archive, mut members) = (tar::Archive::new(archive), Vec::new());
    for entry in archive.entries().unwrap() {
        let Ok(mut entry) = entry else { return (members, true) };
        let mut member = || {
            let mut seen = Seen { path: entry.path_bytes().into_owned(), ..Seen::default() };
            seen.link = entry.link_name_bytes().unwrap_or_default().into_owned();
            from_header!(seen, entry.header())?;
            entry.by_ref().take(CONTENT_MAX as u64).read_to_end(&mut seen.content).ok()?;
            Some(seen)
        };
        match member() {
            Some(seen) => members.push(seen),
            None => return (members, true),
        }
    }
    (members, false)
}

fn by_tar_core(mut archive: &[u8]) -> Reading {
    let (mut parser, mut members) = (Parser::with_defaults(), Vec::new());
    loop {
        let (consumed, entry, map) = match parser.parse(archive) {
            Ok(ParseEvent::Entry { consumed, entry }) => (consumed, entry, None),
            Ok(ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size }) => {
                (consumed, entry, Some((sparse_map, real_size)))
            }
            Ok(ParseEvent::GlobalExtensions { consumed, .. }) => {
                archive = &archive[consumed..];
                continue;
            }
            // After a single block of zeros it would go on.
            Ok(ParseEvent::NeedData { .. }) => return (members, archive.iter().any(|&byte| byte != 0)),
            Ok(ParseEvent::End { .. }) => return (members, false),
            Err(_) => return (members, true),
        };
        let ParsedEntry { header, path, link_target, mode, uid, gid, mtime, size, dev_major, dev_minor, .. } = entry;
        let Some(after) = archive.get(consumed..) else { return (members, true) };
        let stored = usize::try_from(size).ok().and_then(|size| Some((after.get(..size)?, size.checked_next_multiple_of(512)?)));
        let Some((stored, padded)) = stored else { return (members, true) };
        let Some(content) = expanded(stored, map) else { return (members, true) };
        members.push(Seen {
            path: path.into_owned(),
            flag: header.as_bytes()[156],
            link: link_target.unwrap_or_default().into_owned(),
            content,
            owner: (uid, gid),
            mode,
            mtime: mtime.cast_signed(),
            device: (dev_major.unwrap_or_default().into(), dev_minor.unwrap_or_default().into()),
        });
        archive = after.get(padded..).unwrap_or_default();
    }
}

/// A sparse file's content from what is stored of it.
fn expanded(mut stored: &[u8], map: Option<(Vec<tar_core::SparseEntry>, u64)>) -> Option<Vec<u8>> {
    let Some((map, size)) = map else { return Some(stored.to_vec()) };
    let mut content = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(CONTENT_MAX)];
    for entry in map {
        let (data, rest) = stored.split_at_checked(entry.length.try_into().ok()?)?;
        let begin = usize::try_from(entry.offset).ok()?;
        for (at, &byte) in data.iter().enumerate() {
            if let Some(place) = content.get_mut(begin.checked_add(at)?) {
                *place = byte;
            }
        }
        stored = rest;
    }
    Some(content)
}

/// Nothing has to be waited for: the archive lies in memory.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Task::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("an archive in memory was waited for"),
    }
}

fn by_astral_tokio_tar(archive: &[u8]) -> Reading {
    use tokio::io::AsyncReadExt as _;
    let mut members = Vec::new();
    let refused = now(async {
        // It wants an owner for what it reads.
        let mut archive = tokio_tar::Archive::new(std::io::Cursor::new(archive.to_vec()));
        let mut entries = archive.entries().ok()?;
        while let Some(entry) = entries.next().await {
            let mut entry = entry.ok()?;
            let mut seen = Seen { path: entry.path_bytes().ok()?.into_owned(), ..Seen::default() };
            seen.link = entry.link_name_bytes().ok()?.unwrap_or_default().into_owned();
            from_header!(seen, entry.header())?;
            (&mut entry).take(CONTENT_MAX as u64).read_to_end(&mut seen.content).await.ok()?;
            members.push(seen);
        }
        Some(())
    });
    (members, refused.is_none())
}

/// An archive that we accept, by all readers: the bytes as they are, or members made of them.
pub(crate) fn readers_agree(data: &[u8]) -> bool {
    kept_differences(data).is_some()
}

/// Why differences are kept: every reason there is.
#[cfg(test)]
pub(crate) fn reasons() -> impl Iterator<Item = &'static str> {
    KEPT.iter().map(|kept| kept.why)
}

/// Why differences between the readers were kept; `None` where we refuse the archive.
pub(crate) fn kept_differences(data: &[u8]) -> Option<Vec<&'static str>> {
    let archive = if data.get(257..262) == Some(b"ustar") { data.to_vec() } else { members_archive(data) };
    // aufs's own files are members to the others.
    if archive.windows(8).any(|window| window == b".wh..wh.") {
        return None;
    }
    let readings = READERS.map(|(peer, read)| {
        let (members, refused) = read(&archive);
        let members: Vec<Seen> = members.into_iter().filter(|seen| seen.flag != b'g').map(Seen::normal).collect();
        (peer, members, refused)
    });
    let ours = match ours(&archive) {
        Ok(ours) => ours,
        Err(error) => {
            let [first, rest @ ..] = &readings;
            let alike = |(_, members, refused): &(_, Vec<Seen>, bool)| {
                !refused
                    && members.len() == first.1.len()
                    && members.iter().zip(&first.1).all(|(one, other)| one.difference(other).is_empty())
            };
            let rule = error.reason().unwrap_or_default();
            // What stands in a global header the others leave to their callers.
            let global = by_tar(&archive).0.iter().any(|seen| seen.flag == b'g');
            let known = global || STRICTER.iter().any(|(fragment, _)| rule.contains(fragment));
            assert!(
                known || first.2 || !rest.iter().all(alike),
                "all others read the same, and we refuse it: {rule}\n{:?}",
                first.1
            );
            return None;
        }
    };
    let mut reasons = Vec::new();
    let raw = raw_members(&archive);
    assert_eq!(raw.len(), ours.len());
    for (peer, theirs, refused) in readings {
        let before = reasons.len();
        for ((ours, theirs), raw) in ours.iter().zip(&theirs).zip(&raw) {
            for field in ours.difference(theirs) {
                let kept = |kept: &&Kept| kept.peers.contains(&peer) && kept.fields.contains(&field) && (kept.of)(raw);
                match KEPT.iter().find(kept) {
                    Some(kept) => reasons.push(kept.why),
                    None => panic!("{peer:?} reads another {field:?}:\n  {theirs:?}\nours:\n  {ours:?}\nof {raw:?}"),
                }
            }
        }
        let same_number = theirs.len() == ours.len() || refused && theirs.len() < ours.len();
        assert!(same_number || reasons.len() > before, "{peer:?} reads {} members, and we {}", theirs.len(), ours.len());
    }
    Some(reasons)
}
