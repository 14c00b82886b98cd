//! A tree against what its layer says: what differs, inode by inode and byte by byte.
//!
//! A layer's own stream is applied once more, by the very code that unpacks layers, to an **outline**: a tree with every inode, name
//! and attribute that the layer makes, whose files have no bytes. Each file's size is a number instead, under which [`Contents`]
//! remembers what the stream had for it. Tree and outline are then walked side by side. So nothing but inodes is written to check a
//! tree, no rule of layers is known twice, and whatever the file system refused or clamped when the layer came in, it refuses again.
//!
//! Memory: 48 bytes for each file of the layers, and the names of one directory a level. A tree that cannot be read in places is
//! damaged in these places; only an outline that cannot be read is an error.

mod difference;
mod outline;

use std::collections::HashMap;

pub use difference::{Difference, Fault};
pub use outline::Contents;
pub(crate) use outline::{ContentHash, Outline};

use outline::Content;

use crate::digest::Digest;
use crate::entry::Xattrs;
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::progress::Context;
use crate::sys::content::{self, Buffers};
use crate::sys::{Descent, Dir, FileType, Stat, inode, xattr};

/// What is compared.
pub(crate) struct Sides<'a> {
    pub(crate) tree: &'a Dir,
    pub(crate) outline: &'a Dir,
    pub(crate) contents: &'a Contents,
    /// Whether the root directory's time is the layer's.
    pub(crate) root_time: bool,
}

/// Gives the digest of everything of an inode of the tree, as a container sees it: what a fact says of one of the layers below.
type Take<'a> = dyn FnMut(&EntryPath) -> Result<Option<Digest>> + 'a;

/// Tells every path of the tree that is not what the outline says.
///
/// # Errors
/// `Cancelled`; `Io` where the outline cannot be read.
pub(crate) fn compare(sides: &Sides<'_>, take: &mut Take<'_>, found: &mut dyn FnMut(Difference), cx: &Context<'_>) -> Result<()> {
    let tree = Descent::new(sides.tree.try_clone()?)?;
    let outline = Descent::new(sides.outline.try_clone()?)?;
    let mut walk = Walk {
        sides,
        take,
        found,
        cx,
        tree,
        outline,
        path: EntryPath::ROOT,
        pairs: HashMap::new(),
        back: HashMap::new(),
        buffers: Buffers::default(),
    };
    walk.root()?;
    walk.run()
}

type Inode = ((u32, u32), u64);

fn key(stat: &Stat) -> Inode {
    (stat.dev, stat.ino)
}

struct Walk<'a> {
    sides: &'a Sides<'a>,
    take: &'a mut Take<'a>,
    found: &'a mut dyn FnMut(Difference),
    cx: &'a Context<'a>,
    tree: Descent,
    outline: Descent,
    path: EntryPath,
    /// Inodes with several names: which of the outline belongs to which of the tree, and the other way round.
    pairs: HashMap<Inode, Inode>,
    back: HashMap<Inode, Inode>,
    buffers: Buffers,
}

impl Walk<'_> {
    fn tell(&mut self, path: EntryPath, fault: Fault) {
        (self.found)(Difference { path, fault });
    }

    fn root(&mut self) -> Result<()> {
        let (tree, outline) = (inode::stat(self.sides.tree)?, inode::stat(self.sides.outline)?);
        let expected = Stat { mtime: if self.sides.root_time { outline.mtime } else { tree.mtime }, ..outline };
        self.attributes(&EntryPath::ROOT, &tree, &expected);
        let (tree, outline) = (readable(visible(self.sides.tree))?, visible(self.sides.outline)?);
        self.xattrs(&EntryPath::ROOT, tree, &outline);
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let mut frames = vec![self.directory()?];
        while let Some(directories) = frames.last_mut() {
            let Some(name) = directories.pop() else {
                frames.pop();
                self.tree.leave();
                self.outline.leave();
                self.path = self.path.parent().unwrap_or_default();
                continue;
            };
            self.cx.check("check")?;
            let path = self.join(&name)?;
            let entered = readable(self.tree.enter(&name))?;
            self.outline.enter(&name)?;
            match entered {
                Ok(true) => {
                    self.path = path;
                    frames.push(self.directory()?);
                }
                Ok(false) => {
                    self.tell(path, Fault::Missing);
                    self.tree.leave();
                    self.outline.leave();
                }
                Err(error) => {
                    self.tell(path, Fault::Unreadable { error });
                    self.outline.leave();
                }
            }
        }
        Ok(())
    }

    fn join(&self, name: &[u8]) -> Result<EntryPath> {
        self.path.join(name).map_err(|error| Error::new(ErrorKind::Io, "check tree").with_source(error))
    }

    /// Compares the names of a directory that was just entered, and gives those of the directories to enter next.
    fn directory(&mut self) -> Result<Vec<Box<[u8]>>> {
        let expected = match self.outline.here()? {
            Some(dir) => names(dir)?,
            None => Vec::new(),
        };
        let there = match self.tree.here()? {
            Some(dir) => readable(names(dir))?,
            None => Err("it went away while it was read".to_owned()),
        };
        let there = match there {
            Ok(there) => there,
            Err(error) => {
                self.tell(self.path.clone(), Fault::Unreadable { error });
                return Ok(Vec::new());
            }
        };
        for name in there.iter().filter(|name| expected.binary_search(name).is_err()) {
            self.tell(self.join(name)?, Fault::Unexpected);
        }
        let mut directories = Vec::new();
        for name in expected {
            self.cx.check("check")?;
            if self.name(&name)? {
                directories.push(name);
            }
        }
        self.cx.progress().entries(there.len() as u64);
        Ok(directories)
    }

    /// Compares what stands at a name, and says whether it is a directory on both sides.
    fn name(&mut self, name: &[u8]) -> Result<bool> {
        let path = self.join(name)?;
        let Some(outline) = self.outline.here()? else { return Ok(false) };
        let held = outline.child_path_fd(name)?;
        let (expected, wanted) = (inode::stat(&held)?, visible(&held)?);
        let target = if expected.is_symlink() { Some(outline.readlink(name)?) } else { None };
        let Some(tree) = self.tree.here()? else { return Ok(false) };
        let looked = readable(tree.stat(name).and_then(|stat| match stat {
            None => Ok(None),
            Some(_) => {
                let held = tree.child_path_fd(name)?;
                let stat = inode::stat(&held)?;
                let target = if stat.is_symlink() { Some(inode::readlink(&held)?) } else { None };
                Ok(Some((stat, visible(&held), target)))
            }
        }))?;
        let (stat, xattrs, found) = match looked {
            Ok(Some(looked)) => looked,
            Ok(None) => {
                self.tell(path, Fault::Missing);
                return Ok(false);
            }
            Err(error) => {
                self.tell(path, Fault::Unreadable { error });
                return Ok(false);
            }
        };
        let grouped = !stat.is_dir() && (stat.nlink > 1 || expected.nlink > 1);
        let seen_before = grouped && !self.group(&path, &stat, &expected);
        let number = if expected.is_file() { expected.size } else { 0 };
        if let Some(Content::Taken(digest)) = self.sides.contents.get(number) {
            let same = readable((self.take)(&path))?;
            if !matches!(&same, Ok(Some(found)) if found == digest) {
                self.tell(path, same.map_or_else(|error| Fault::Unreadable { error }, |_| Fault::Taken));
            }
            return Ok(false);
        }
        if stat.file_type != expected.file_type {
            let (expected, found) = (kind(expected.file_type), kind(stat.file_type));
            self.tell(path, Fault::Type { expected, found });
            return Ok(false);
        }
        if seen_before {
            return Ok(false);
        }
        self.attributes(&path, &stat, &expected);
        self.xattrs(&path, readable(xattrs)?, &wanted);
        if found != target {
            self.tell(path.clone(), Fault::Target);
        }
        if stat.rdev != expected.rdev && matches!(stat.file_type, FileType::CharacterDevice | FileType::BlockDevice) {
            self.tell(path.clone(), Fault::Device { expected: expected.rdev, found: stat.rdev });
        }
        if stat.is_file() {
            self.content(path, name, &stat, number)?;
        }
        Ok(stat.is_dir())
    }

    /// Notes that two inodes with several names belong together; says whether this pair is new. Whiteouts may share one inode in any
    /// way: they mean the same.
    fn group(&mut self, path: &EntryPath, stat: &Stat, expected: &Stat) -> bool {
        if expected.file_type == FileType::CharacterDevice && expected.rdev == (0, 0) {
            return true;
        }
        let (here, there) = (key(stat), key(expected));
        let (pair, back) = (self.pairs.insert(here, there), self.back.insert(there, here));
        let fits = pair.is_none_or(|before| before == there) && back.is_none_or(|before| before == here);
        if !fits || stat.nlink != expected.nlink {
            self.tell(path.clone(), Fault::Links);
        }
        pair.is_none()
    }

    fn attributes(&mut self, path: &EntryPath, stat: &Stat, expected: &Stat) {
        if stat.mode != expected.mode && !stat.is_symlink() {
            let octal = |mode: u32| format!("{mode:04o}");
            self.tell(path.clone(), Fault::Mode { expected: octal(expected.mode), found: octal(stat.mode) });
        }
        if (stat.uid, stat.gid) != (expected.uid, expected.gid) {
            let fault = Fault::Owner { expected: (expected.uid, expected.gid), found: (stat.uid, stat.gid) };
            self.tell(path.clone(), fault);
        }
        // A whiteout is all there is to it: the kernel and layers give it whatever time they like.
        let is_whiteout = expected.file_type == FileType::CharacterDevice && expected.rdev == (0, 0);
        if stat.mtime != expected.mtime && !is_whiteout {
            self.tell(path.clone(), Fault::Time { expected: expected.mtime, found: stat.mtime });
        }
    }

    fn xattrs(&mut self, path: &EntryPath, found: std::result::Result<Xattrs, String>, expected: &Xattrs) {
        let found = match found {
            Ok(found) => found,
            Err(error) => return self.tell(path.clone(), Fault::Unreadable { error }),
        };
        let mut names: Vec<_> =
            found.iter().filter(|(name, value)| expected.get(*name) != Some(value)).map(|(name, _)| name).collect();
        names.extend(expected.keys().filter(|name| !found.contains_key(*name)));
        for name in names {
            self.tell(path.clone(), Fault::Xattr { name: name.escape_ascii().to_string() });
        }
    }

    fn content(&mut self, path: EntryPath, name: &[u8], stat: &Stat, number: u64) -> Result<()> {
        let Some(Content::Bytes(size, digest)) = self.sides.contents.get(number) else {
            return Err(Error::new(ErrorKind::Io, "check tree").at(&path).because("the outline has a file that no entry made"));
        };
        if stat.size != *size {
            self.tell(path, Fault::Size { expected: *size, found: stat.size });
            return Ok(());
        }
        let Some(tree) = self.tree.here()? else { return Ok(()) };
        let (buffers, cx) = (&mut self.buffers, self.cx);
        let mut hash = ContentHash::default();
        let mut offset = 0;
        let read = tree.open_file_stat(name).and_then(|(file, held)| {
            content::stream(&file, &Stat { size: *size, ..held }, buffers, &mut |bytes| {
                cx.check("check")?;
                hash.write(offset, bytes);
                offset = offset.saturating_add(bytes.len() as u64);
                Ok(())
            })
        });
        match readable(read)? {
            Ok(_) if hash.finish() == *digest => {}
            Ok(_) => self.tell(path, Fault::Content),
            Err(error) => self.tell(path, Fault::Unreadable { error }),
        }
        self.cx.progress().bytes(*size);
        Ok(())
    }
}

/// The extended attributes that are the tree's and not the host's or the file system's own.
fn visible(fd: impl std::os::fd::AsFd) -> Result<Xattrs> {
    let mut all = xattr::all(fd)?;
    all.retain(|name, _| {
        let of = |prefix: &[u8]| name.starts_with(prefix);
        match name.as_slice() {
            b"security.selinux" | b"security.ima" | b"security.evm" | b"security.apparmor" => false,
            b"trusted.SGI_ACL_FILE" | b"trusted.SGI_ACL_DEFAULT" => false,
            _ => of(b"user.") || of(b"security.") || of(b"trusted.") || of(b"system.posix_acl_"),
        }
    });
    Ok(all)
}

/// Takes those errors apart that say what is wrong with what is read, and not with whoever reads it.
fn readable<T>(result: Result<T>) -> Result<std::result::Result<T, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => match error.raw_os_error() {
            Some(
                libc::EIO
                | libc::EUCLEAN
                | libc::EBADMSG
                | libc::ENODATA
                | libc::EILSEQ
                | libc::EOVERFLOW
                | libc::ENXIO
                | libc::ENOENT,
            ) => Ok(Err(error.to_string())),
            _ => Err(error),
        },
    }
}

fn names(dir: &Dir) -> Result<Vec<Box<[u8]>>> {
    let mut names = dir.entries()?.map(|entry| entry.map(|entry| entry.name)).collect::<Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

fn kind(file_type: FileType) -> String {
    match file_type {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::Unknown => "inode of unknown type",
    }
    .to_owned()
}
