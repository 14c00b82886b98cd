//! Connections to the database: how they are opened, lent and given back, and what a fork does to them.
//!
//! Invariant: no connection runs a checkpoint by itself, not when the log grows and not when it is closed (SQLite before 3.51.3 can
//! lose rows when one runs beside a writer); and no connection is used, or closed, by another process than the one that opened it.
//! A lent connection is the borrower's alone. What is asked of it is left to `transaction`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{Error, ErrorKind, Result};
use crate::sys::Dir;
use crate::sys::posix_lock::{self, LockBytes};

/// How many connections wait for their next use.
const IDLE_MAX: usize = 4;

/// Only opening after a crash makes anybody wait: one process then rebuilds the index of the log, the others wait for that.
pub(super) const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// A failed statement, in our terms.
pub(super) fn failed(op: &'static str, error: rusqlite::Error) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Locked,
        Some(ErrorCode::DiskFull) => ErrorKind::NoSpace,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => {
            ErrorKind::Corrupt
        }
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => ErrorKind::PermissionDenied,
        Some(_) => ErrorKind::Io,
        // Values of the wrong type or shape.
        None => ErrorKind::Corrupt,
    };
    Error::new(kind, op).at(super::DATABASE).with_source(error)
}

/// The connections of one opened store.
#[derive(Debug)]
pub(super) struct Pool {
    path: PathBuf,
    root: Dir,
    way: Way,
    state: Mutex<State>,
}

/// How the database is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To be written, beside other processes.
    Write,
    /// To be read, beside others who may write: with their log, and the index of it that they share.
    Read,
    /// To be read where nobody writes and there is a log without an index: each connection makes its own in memory, and takes no lock.
    ReadLog,
    /// To be read where nobody writes and there is no log: SQLite looks at nothing but the database itself.
    ReadImmutable,
}

#[derive(Debug)]
struct State {
    pid: u32,
    idle: Vec<Connection>,
    lent: usize,
    files: Vec<Identity>,
}

/// Which inode a file of the database is, and how long: the database, its log, the log's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    dev: (u32, u32),
    ino: u64,
    size: u64,
}

/// A connection that is the borrower's until it is dropped.
#[derive(Debug)]
pub(super) struct Lent<'pool> {
    pool: &'pool Pool,
    connection: Option<Connection>,
    broken: bool,
    pid: u32,
}

impl Pool {
    /// Connections to the database at `path`, which is in `root` and exists.
    pub(super) fn new(root: Dir, path: PathBuf, way: Way) -> Self {
        let state = State { pid: std::process::id(), idle: Vec::new(), lent: 0, files: Vec::new() };
        Self { path, root, way, state: Mutex::new(state) }
    }

    pub(super) fn root(&self) -> &Dir {
        &self.root
    }

    /// Lends a connection, opening one where none is idle.
    pub(super) fn lend(&self) -> Result<Lent<'_>> {
        let mut state = self.state();
        self.notice_fork(&mut state)?;
        let connection = match state.idle.pop() {
            Some(connection) => connection,
            None => connect(&self.path, self.way)?,
        };
        state.lent = state.lent.saturating_add(1);
        Ok(Lent { pool: self, connection: Some(connection), broken: false, pid: state.pid })
    }

    /// Remembers which files the database has, once all of them are there.
    pub(super) fn remember_files(&self) -> Result<()> {
        let files = self.identities()?;
        self.state().files = files;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In a forked child, SQLite's own memory says that this process holds locks which are the parent's alone. They are taken here
    /// for real, on descriptors that stay open as long as the process (closing one would drop the locks of all), and the parent's
    /// connections are left as they are: to close one is as forbidden as to use it.
    fn notice_fork(&self, state: &mut State) -> Result<()> {
        let pid = std::process::id();
        if state.pid == pid {
            return Ok(());
        }
        let refused = |reason| {
            Error::new(ErrorKind::Unsupported, "use the store after a fork").at(&self.path).because(reason).with_hint(
                "fork while no other thread is inside the store, or execute a program in the child and open the store there",
            )
        };
        if state.lent > 0 {
            return Err(refused("another thread was inside the store when the process forked"));
        }
        for connection in state.idle.drain(..) {
            std::mem::forget(connection);
        }
        if !state.files.is_empty() {
            for (name, bytes) in [(super::DATABASE, LockBytes::SQLITE_SHARED), (super::LOG_INDEX, LockBytes::SQLITE_OPEN)] {
                let file = match self.way {
                    Way::Write => self.root.open_file_rw(name.as_bytes())?,
                    Way::Read => self.root.open_file(name.as_bytes())?,
                    Way::ReadLog | Way::ReadImmutable => break,
                };
                posix_lock::share(&file, bytes)?;
                std::mem::forget(file);
            }
            let now = self.identities()?;
            let same =
                |(before, now): (&Identity, &Identity)| before.dev == now.dev && before.ino == now.ino && before.size <= now.size;
            // The log may shrink at a checkpoint; the index of the log is mapped and must not.
            let unchanged = [0, 2].iter().all(|&file| {
                let pair = state.files.get(file).zip(now.get(file));
                pair.is_some_and(|pair| if file == 0 { pair.0.ino == pair.1.ino && pair.0.dev == pair.1.dev } else { same(pair) })
            });
            if !unchanged {
                return Err(refused("the database was closed by its last user and opened anew since the process forked"));
            }
        }
        state.pid = pid;
        Ok(())
    }

    fn identities(&self) -> Result<Vec<Identity>> {
        [super::DATABASE, super::LOG, super::LOG_INDEX]
            .iter()
            .map(|name| {
                let stat = self.root.stat(name.as_bytes())?;
                Ok(stat.map_or(Identity { dev: (0, 0), ino: 0, size: 0 }, |stat| Identity {
                    dev: stat.dev,
                    ino: stat.ino,
                    size: stat.size,
                }))
            })
            .collect()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.pid != std::process::id() {
            for connection in state.idle.drain(..) {
                std::mem::forget(connection);
            }
        }
    }
}

impl Lent<'_> {
    #[allow(clippy::unreachable, reason = "the connection is taken in `drop` alone")]
    pub(super) fn connection(&self) -> &Connection {
        match &self.connection {
            Some(connection) => connection,
            None => unreachable!("a lent connection is there until it is given back"),
        }
    }

    /// Has the connection closed instead of lent again.
    pub(super) fn poison(&mut self) {
        self.broken = true;
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.pid != std::process::id() {
            std::mem::forget(connection);
            return;
        }
        let mut state = self.pool.state();
        state.lent = state.lent.saturating_sub(1);
        if !self.broken && state.idle.len() < IDLE_MAX {
            state.idle.push(connection);
        }
    }
}

fn connect(path: &Path, way: Way) -> Result<Connection> {
    let op = "open metadata";
    // The file is there already, with a mode that no umask touched. SQLITE_OPEN_NO_MUTEX: a connection has one user at a time.
    let access = if way == Way::Write { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = match way {
        Way::Write | Way::Read => Connection::open_with_flags(path, flags),
        Way::ReadLog => Connection::open_with_flags_and_vfs(path, flags, "unix-none"),
        Way::ReadImmutable => Connection::open_with_flags(immutable(path), flags | OpenFlags::SQLITE_OPEN_URI),
    };
    let connection = opened.map_err(|error| failed(op, error))?;
    if way == Way::ReadLog {
        // Else SQLite wants the index in a file.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(|error| failed(op, error))?;
    }
    connection.busy_timeout(RECOVERY_TIMEOUT).map_err(|error| failed(op, error))?;
    // Without the second SQLite may plan by the values of parameters, and plans each statement anew for each value: of every one that
    // might take a partial index.
    for option in [DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG] {
        connection.set_db_config(option, true).map_err(|error| failed(op, error))?;
    }
    connection
        .execute_batch(
            // Where temporary files were to go, SQLite would ask the environment.
            "PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; \
             PRAGMA temp_store = MEMORY;",
        )
        .map_err(|error| failed(op, error))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The URI of a file that nobody changes (sqlite.org, "URI Filenames").
fn immutable(path: &Path) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(byte);
    let encode = |byte: &u8| if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") };
    let path: String = path.as_os_str().as_bytes().iter().map(encode).collect();
    format!("file:{path}?immutable=1")
}
