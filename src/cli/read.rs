//! `cat`, `ls`, `cp`: a snapshot's files without a mount.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::output::{self, Failure};
use super::session::Session;
use crate::entry::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{FileInfo, FileKind, OpenRoot, rfc3339};

fn open(session: &Session<'_>, key: &str) -> Result<OpenRoot> {
    session.store.open_root(session.store.resolve(key)?.as_str())
}

/// `cat KEY PATH…`
pub(super) fn cat(session: &Session<'_>, key: &str, paths: &[PathBuf]) -> Result<(), Failure> {
    let root = open(session, key)?;
    let mut out = session.output.sink();
    for path in paths {
        let mut file = root.open_file(path)?;
        io::copy(&mut file, &mut out).map_err(Failure::of_output)?;
    }
    io::Write::flush(&mut out).map_err(Failure::of_output)
}

/// `ls KEY [PATH]`
pub(super) fn ls(session: &Session<'_>, key: &str, path: &Path) -> Result<(), Failure> {
    let root = open(session, key)?;
    let found = match root.metadata(path) {
        Ok(info) if info.kind == FileKind::Directory => root.read_dir(path)?,
        // The name itself, which may be a symlink to nowhere.
        _ => vec![(path.as_os_str().to_owned(), root.symlink_metadata(path)?)],
    };
    let document: Vec<_> = found.iter().map(|(name, info)| row(Some(name), info)).collect();
    let lines: Vec<_> = found.iter().map(|(name, info)| line(name, info)).collect();
    session.output.result(&document, output::rows(&lines))
}

/// What stands at a name, or at a path that was named already.
pub(super) fn row(name: Option<&OsStr>, info: &FileInfo) -> serde_json::Value {
    let mut row = json!({
        "kind": info.kind,
        "mode": format!("{:04o}", info.mode),
        "uid": info.uid,
        "gid": info.gid,
        "size": info.size,
        "mtime": rfc3339(info.mtime),
        "target": info.target.as_ref().map(|target| target.to_string_lossy()),
        "device": info.device,
    });
    if let (Some(name), Some(fields)) = (name, row.as_object_mut()) {
        fields.insert("name".to_owned(), name.to_string_lossy().into());
    }
    row
}

/// `-0644`: type and permissions.
pub(super) fn kind_and_mode(info: &FileInfo) -> String {
    let letter = match info.kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
    };
    format!("{letter}{:04o}", info.mode)
}

fn line(name: &OsStr, info: &FileInfo) -> Vec<String> {
    let size = info.device.map_or_else(|| info.size.to_string(), |(major, minor)| format!("{major},{minor}"));
    let shown = |text: &OsStr| text.to_string_lossy().escape_debug().to_string();
    let target = info.target.as_ref().map_or_else(String::new, |target| format!(" -> {}", shown(target.as_os_str())));
    vec![
        kind_and_mode(info),
        format!("{}:{}", info.uid, info.gid),
        size,
        rfc3339(Timestamp::from_seconds(info.mtime.seconds)),
        format!("{}{target}", shown(name)),
    ]
}

/// `cp KEY PATH DEST`: files, directories and symlinks, as the caller's own and without set-id bits.
pub(super) fn cp(session: &Session<'_>, key: &str, path: &Path, target: &Path) -> Result<(), Failure> {
    let root = open(session, key)?;
    let info = root.metadata(path)?;
    let target = match path.file_name() {
        // As cp(1) has it.
        Some(name) if target.is_dir() => target.join(name),
        _ => target.to_owned(),
    };
    let mut skipped = Vec::new();
    // Not by recursion: a tree may be deeper than a stack.
    let mut todo = vec![(path.to_owned(), target.clone(), info)];
    let mut directories = Vec::new();
    while let Some((from, to, info)) = todo.pop() {
        match info.kind {
            FileKind::File => file(&root, &from, &to, &info)?,
            FileKind::Directory => {
                fs::create_dir(&to).map_err(|error| Error::io("mkdir", error).at(&to))?;
                for (name, info) in root.read_dir(&from)? {
                    todo.push((from.join(&name), to.join(&name), info));
                }
                directories.push((to, info));
            }
            FileKind::Symlink => {
                let target = info.target.unwrap_or_default();
                symlink(target, &to).map_err(|error| Error::io("symlink", error).at(&to))?;
            }
            _ => skipped.push(from.into_os_string()),
        }
    }
    // Children first: a directory that cannot be written to would take none.
    for (path, info) in directories.iter().rev() {
        let done = fs::set_permissions(path, fs::Permissions::from_mode(info.mode & 0o777));
        done.and_then(|()| times(&fs::File::open(path)?, info)).map_err(|error| Error::io("set attributes", error).at(path))?;
    }
    let names: Vec<_> = skipped.iter().map(|name: &OsString| name.to_string_lossy().escape_debug().to_string()).collect();
    for name in &names {
        session.output.remark(format!("plywood: {name} is no file, directory or symlink: left out"));
    }
    session.output.result(&json!({ "copied": target.to_string_lossy(), "skipped": names }), "")
}

fn file(root: &OpenRoot, from: &Path, to: &Path, info: &FileInfo) -> Result<()> {
    // What is listed may have become a symlink: in the root it leads nowhere else, and what it leads to is a file.
    let mut source = root.open_file(from)?;
    let failed = |error: io::Error| Error::io("copy", error).at(to);
    let mut copy = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            return Error::new(ErrorKind::AlreadyExists, "copy").at(to).because("nothing is written over");
        }
        failed(error)
    })?;
    io::copy(&mut source, &mut copy).map_err(failed)?;
    copy.set_permissions(fs::Permissions::from_mode(info.mode & 0o777)).map_err(failed)?;
    times(&copy, info).map_err(failed)
}

fn times(file: &fs::File, info: &FileInfo) -> io::Result<()> {
    let Timestamp { seconds, nanoseconds } = info.mtime;
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let whole =
        if seconds < 0 { SystemTime::UNIX_EPOCH.checked_sub(distance) } else { SystemTime::UNIX_EPOCH.checked_add(distance) };
    match whole.and_then(|whole| whole.checked_add(Duration::from_nanos(u64::from(nanoseconds)))) {
        Some(mtime) => file.set_times(fs::FileTimes::new().set_accessed(mtime).set_modified(mtime)),
        None => Ok(()),
    }
}
