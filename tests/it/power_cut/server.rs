//! The disk as two files of a FUSE file system, which a process of its own serves: `disk`, which logs all that it is told, and
//! `crashed`, which is what a power cut left of it.
//!
//! Nobody but this process has anything to do with how the requests are answered, and it touches no file: whoever waits for the
//! disk is answered as long as this process lives, and is told of an error by the kernel when it ends. It ends with its parent, or when
//! that closes the socket that the orders come through. It must be in another mount namespace than what is mounted from the disk: if it
//! were the last one there, it would unmount that while it ends, and wait for its own answers for ever.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use super::disk::{Cut, Disk, Log, Rest, Told};

pub(super) const RECORDED: &str = "disk";
pub(super) const CRASHED: &str = "crashed";
/// Each answer is a line that begins so; what else comes through the socket is the test framework's.
pub(super) const ANSWER: &str = "answer: ";

const DISK: INodeNo = INodeNo(2);
const CRASH: INodeNo = INodeNo(3);
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

struct State {
    /// As it is now.
    disk: Disk,
    log: Log,
    /// What is done to the disk is logged.
    records: bool,
    crashed: Disk,
}

impl State {
    fn tell(&mut self, inode: INodeNo, told: Told) {
        let disk = if inode == DISK { &mut self.disk } else { &mut self.crashed };
        match &told {
            Told::Write { offset, bytes } => disk.write(*offset, bytes),
            Told::Zero { offset, length } => disk.zero(*offset, *length),
            Told::Flush => {}
        }
        if inode == DISK && self.records {
            self.log.told.push(told);
        }
    }
}

struct Files(Arc<Mutex<State>>);

impl Files {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let size = self.0.lock().unwrap().disk.size();
        let is_root = inode == INodeNo::ROOT;
        FileAttr {
            ino: inode,
            size: if is_root { 0 } else { size },
            blocks: if is_root { 0 } else { size / 512 },
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_root { FileType::Directory } else { FileType::RegularFile },
            perm: if is_root { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Filesystem for Files {
    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str() {
            Some(RECORDED) => reply.entry(&FOR_EVER, &self.attributes(DISK), Generation(0)),
            Some(CRASHED) => reply.entry(&FOR_EVER, &self.attributes(CRASH), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_EVER, &self.attributes(inode));
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Past the page cache: what the loop device is told comes here at once, and is done when it is answered.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn flush(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        // A descriptor is closed, no more than that.
        reply.ok();
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.0.lock().unwrap();
        let disk = if inode == DISK { &state.disk } else { &state.crashed };
        let mut bytes = vec![0; u64::from(size).min(disk.size().saturating_sub(offset)) as usize];
        disk.read(offset, &mut bytes);
        reply.data(&bytes);
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.0.lock().unwrap().tell(inode, Told::Write { offset, bytes: data.into() });
        reply.written(data.len() as u32);
    }

    fn fallocate(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        self.0.lock().unwrap().tell(inode, Told::Zero { offset, length });
        reply.ok();
    }

    fn fsync(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, _data: bool, reply: ReplyEmpty) {
        self.0.lock().unwrap().tell(inode, Told::Flush);
        reply.ok();
    }

    fn readdir(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _offset: u64, reply: ReplyDirectory) {
        reply.ok();
    }
}

fn read_disk(path: &Path) -> io::Result<Disk> {
    let mut file = File::open(path)?;
    let mut disk = Disk::new(file.metadata()?.len());
    let mut chunk = vec![0; 1 << 20];
    let zeros = vec![0; 4096];
    for offset in (0..disk.size()).step_by(chunk.len()) {
        let length = chunk.len().min((disk.size() - offset) as usize);
        file.read_exact(&mut chunk[..length])?;
        for (number, page) in chunk[..length].chunks(4096).enumerate() {
            if page != zeros {
                disk.write(offset + number as u64 * 4096, page);
            }
        }
    }
    Ok(disk)
}

/// Serves the disk whose content is in the file `base`. Standard input is the connection to the kernel, standard output the socket for
/// orders and answers; until that is closed.
pub(super) fn serve(base: &Path) -> io::Result<()> {
    // What this process must wait for to get memory may wait for this process. Root that has not all of root's power goes without.
    let _ = rustix::process::configure_io_flusher_behavior(true);
    // Nor may anybody wait for a thread that is gone.
    std::panic::set_hook(Box::new(|told| {
        eprintln!("{told}");
        std::process::exit(101);
    }));
    let disk = read_disk(base)?;
    let state = State { log: Log::new(disk.clone()), crashed: disk.clone(), disk, records: false };
    let state = Arc::new(Mutex::new(state));
    let kernel = io::stdin().as_fd().try_clone_to_owned()?;
    let session = fuser::Session::from_fd(Files(Arc::clone(&state)), kernel, fuser::SessionACL::Owner, Config::default())?;
    std::thread::spawn(|| session.run());
    let mut orders = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    writeln!(orders, "\n{ANSWER}serving")?;
    for line in BufReader::new(orders.try_clone()?).lines() {
        let answer = obey(&line?, &state);
        writeln!(orders, "{ANSWER}{answer}")?;
    }
    // Whatever is mounted: the kernel ends the connection with the process.
    std::process::exit(0);
}

fn obey(order: &str, state: &Mutex<State>) -> String {
    let words: Vec<&str> = order.split(' ').collect();
    let mut state = state.lock().unwrap();
    match words[..] {
        ["record"] => {
            state.log = Log::new(state.disk.clone());
            state.records = true;
            String::new()
        }
        ["stop"] => {
            state.records = false;
            String::new()
        }
        ["mark"] => state.log.told.len().to_string(),
        ["flushes"] => state.log.flushes().iter().map(usize::to_string).collect::<Vec<_>>().join(" "),
        ["cut", at, rest, seed] => {
            let rest = Rest::ALL.into_iter().find(|known| format!("{known:?}") == rest).unwrap();
            let cut = Cut { at: at.parse().unwrap(), rest, seed: seed.parse().unwrap() };
            state.crashed = state.log.after(cut);
            String::new()
        }
        _ => panic!("{order}"),
    }
}
