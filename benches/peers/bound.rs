//! What an import cannot be faster than, for `benches/peers/run`: one thread, no store, no checks.
//!
//!     bound inflate LAYOUT DIR      reads each layer once: sha256 of the blob, inflate, sha256 of the archive, the blob written to DIR
//!     bound create LAYOUT DIR       makes the inodes of each layer below DIR: content, owner, mode and times, and nothing else
//!
//! Prints wall, user and system seconds of that alone, and the wall seconds of the longest layer: reading the input for `create` comes
//! before. Neither syncs.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)] // a program, not the library

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use plywood::compression::Decoder;
use plywood::digest::{Algorithm, Tee};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, layout, directory] = arguments.as_slice() else { panic!("bound inflate|create LAYOUT DIR") };
    let (layers, directory) = (layers(Path::new(layout)), Path::new(directory));
    fs::create_dir_all(directory).unwrap();
    let mut clock = Clock::default();
    for (number, layer) in layers.iter().enumerate() {
        let target = directory.join(number.to_string());
        match what.as_str() {
            "inflate" => clock.measure(|| inflate(layer, &target)),
            "create" => {
                let mut archive = Vec::new();
                Decoder::new(File::open(layer).unwrap()).unwrap().read_to_end(&mut archive).unwrap();
                let inodes = read(&archive);
                clock.measure(|| create(&archive, &inodes, &target));
            }
            other => panic!("{other}: inflate or create"),
        }
    }
    println!("{:.3} {:.3} {:.3} {:.3}", clock.wall, clock.user, clock.system, clock.longest);
}

/// Seconds, summed over the layers.
#[derive(Default)]
struct Clock {
    wall: f64,
    user: f64,
    system: f64,
    longest: f64,
}

impl Clock {
    fn measure(&mut self, work: impl FnOnce()) {
        let usage = || {
            let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
            [usage.user_time(), usage.system_time()].map(|time| time.num_microseconds() as f64 / 1e6)
        };
        let (start, before) = (Instant::now(), usage());
        work();
        let (wall, after) = (start.elapsed().as_secs_f64(), usage());
        self.wall += wall;
        self.user += after[0] - before[0];
        self.system += after[1] - before[1];
        self.longest = self.longest.max(wall);
    }
}

/// The layers of a layout's one image, bottom first.
fn layers(layout: &Path) -> Vec<PathBuf> {
    let blob =
        |descriptor: &serde_json::Value| layout.join("blobs").join(descriptor["digest"].as_str().unwrap().replacen(':', "/", 1));
    let json = |path: PathBuf| -> serde_json::Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let manifest = json(blob(&json(layout.join("index.json"))["manifests"][0]));
    manifest["layers"].as_array().unwrap().iter().map(blob).collect()
}

/// Writes what is read through it to a file.
struct Kept(File, File);

impl Read for Kept {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.write_all(&buffer[..count])?;
        Ok(count)
    }
}

fn inflate(layer: &Path, target: &Path) {
    let blob = Tee::new(Kept(File::open(layer).unwrap(), File::create(target).unwrap()), Algorithm::Sha256);
    let mut archive = Tee::new(Decoder::new(blob).unwrap(), Algorithm::Sha256);
    let mut buffer = vec![0; 256 << 10];
    while archive.read(&mut buffer).unwrap() > 0 {}
}

/// One inode, or one more name of an inode.
struct Inode {
    path: CString,
    kind: tar::EntryType,
    link: Option<CString>,
    content: Range<usize>,
    owner: (Uid, Gid),
    mode: Mode,
    times: Timestamps,
}

fn read(archive: &[u8]) -> Vec<Inode> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(Result::unwrap);
    let inodes = entries.map(|entry| {
        let start = usize::try_from(entry.raw_file_position()).unwrap();
        let header = entry.header();
        let mtime = Timespec { tv_sec: header.mtime().unwrap().try_into().unwrap(), tv_nsec: 0 };
        Inode {
            path: CString::new(&*entry.path_bytes()).unwrap(),
            kind: header.entry_type(),
            link: entry.link_name_bytes().map(|link| CString::new(&*link).unwrap()),
            content: start..start + usize::try_from(entry.size()).unwrap(),
            owner: (Uid::from_raw(header.uid().unwrap() as u32), Gid::from_raw(header.gid().unwrap() as u32)),
            mode: Mode::from_raw_mode(header.mode().unwrap()),
            times: Timestamps { last_access: mtime, last_modification: mtime },
        }
    });
    inodes.collect()
}

/// As a loop in C would: one path after the other, directories finished at the end.
fn create(archive: &[u8], inodes: &[Inode], target: &Path) {
    fs::create_dir(target).unwrap();
    let root = rustix::fs::openat(CWD, target, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    for inode in inodes {
        let at = (root.as_fd(), inode.path.as_c_str());
        match inode.kind {
            tar::EntryType::Directory if inode.path.as_bytes() == b"./" => continue,
            tar::EntryType::Directory => {
                rustix::fs::mkdirat(at.0, at.1, Mode::RWXU).unwrap();
                continue;
            }
            tar::EntryType::Regular => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let mut file = File::from(rustix::fs::openat(at.0, at.1, flags, inode.mode).unwrap());
                file.write_all(&archive[inode.content.clone()]).unwrap();
                rustix::fs::fchown(&file, Some(inode.owner.0), Some(inode.owner.1)).unwrap();
                rustix::fs::fchmod(&file, inode.mode).unwrap();
                rustix::fs::futimens(&file, &inode.times).unwrap();
                continue;
            }
            tar::EntryType::Link => {
                rustix::fs::linkat(at.0, inode.link.as_deref().unwrap(), at.0, at.1, AtFlags::empty()).unwrap();
                continue;
            }
            tar::EntryType::Symlink => rustix::fs::symlinkat(inode.link.as_deref().unwrap(), at.0, at.1).unwrap(),
            tar::EntryType::Fifo => rustix::fs::mknodat(at.0, at.1, FileType::Fifo, inode.mode, 0).unwrap(),
            // Devices are few, and all alike to a file system.
            _ => rustix::fs::mknodat(at.0, at.1, FileType::CharacterDevice, inode.mode, 0).unwrap(),
        }
        let owner = (Some(inode.owner.0), Some(inode.owner.1));
        rustix::fs::chownat(at.0, at.1, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        rustix::fs::utimensat(at.0, at.1, &inode.times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    for inode in inodes.iter().rev().filter(|inode| inode.kind == tar::EntryType::Directory) {
        let at = (root.as_fd(), inode.path.as_c_str());
        rustix::fs::chownat(at.0, at.1, Some(inode.owner.0), Some(inode.owner.1), AtFlags::empty()).unwrap();
        rustix::fs::chmodat(at.0, at.1, inode.mode, AtFlags::empty()).unwrap();
        rustix::fs::utimensat(at.0, at.1, &inode.times, AtFlags::empty()).unwrap();
    }
}
