//! An ordinary user's way to a store: the user namespace in which his id is root and his sub-ids are everybody else.
//!
//! Commands that open a store enter it by themselves. What they would mount there would be gone with them, so mounting is left to
//! `plywood unshare`, whose command and all its children see the mounts.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process;

use super::args::{Command, Global};
use super::output::{Failure, Output};
use crate::error::{Error, ErrorKind, Result};
use crate::namespace::{self, HeldIds};

/// Whether this process may mount: it is root, of the host or of a user namespace.
pub(super) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether this process is the host's root.
fn is_host_root() -> bool {
    is_root() && namespace::is_initial()
}

/// The store of this user: `--root`, or the default of the command.
pub(super) fn store_root(global: &Global) -> Result<PathBuf> {
    if let Some(root) = &global.root {
        return std::path::absolute(root).map_err(|error| Error::io("read arguments", error).at(root));
    }
    if is_host_root() {
        return Ok(PathBuf::from("/var/lib/plywood"));
    }
    // The XDG specification: a relative path there is to be ignored.
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    let data = data.ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, "find store")
            .because("neither XDG_DATA_HOME nor HOME names an absolute directory")
            .with_hint("say where the store is: --root DIR")
    })?;
    Ok(data.join("plywood"))
}

/// Enters the user namespace for a command that opens a store, where this user has to. As the first thing: one thread is there yet.
pub(super) fn enter_for(global: &Global, command: &Command) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    let target = match command {
        Command::Mount { key, target, .. } => Some((target, format!("mount {} {}", quoted(key), quoted(target)))),
        Command::Prepare(arguments) | Command::View(arguments) => arguments.mount.as_ref().map(|target| {
            let verb = if matches!(command, Command::View(_)) { "view" } else { "prepare" };
            let words = [Some(&arguments.key), arguments.parent.as_ref()].into_iter().flatten().map(quoted).collect::<Vec<_>>();
            (target, format!("{verb} {} --mount {}", words.join(" "), quoted(target)))
        }),
        Command::Bundle(arguments) => {
            let words = [quoted(&arguments.source), quoted(&arguments.dir)].join(" ");
            Some((&arguments.dir, format!("bundle {words}")))
        }
        _ => None,
    };
    if let Some((target, again)) = target {
        return Err(Error::new(ErrorKind::PermissionDenied, "mount")
            .at(target)
            .because("an ordinary user can mount in a user namespace alone")
            .with_hint(format!(
                "`plywood unshare` gives a shell in which this works: {}; with a command, the mount lives as long as that: plywood \
                 unshare sh -c '… && …'",
                std::iter::once("plywood".to_owned())
                    .chain(global.root.iter().map(|root| format!("--root {}", quoted(root))))
                    .chain([again])
                    .collect::<Vec<_>>()
                    .join(" ")
            )));
    }
    let needed = !matches!(
        command,
        Command::Images
            | Command::Image { .. }
            | Command::Rmi { .. }
            | Command::Snapshots
            | Command::Stat { .. }
            | Command::Label { .. }
            | Command::Du
            | Command::Stats(super::stats::Stats { measure: false, .. })
    );
    match namespace::enter_user_namespace() {
        // Refused by the kernel, so that nothing has changed. What only reads rows can do without.
        Err(error) if !needed && error.op() == "unshare" => Ok(()),
        entered => entered.map(|_| ()),
    }
}

/// `unshare [CMD…]`: becomes the command, in the namespace.
pub(super) fn unshare(global: &Global, command: &[OsString], output: &Output) -> Result<(), Failure> {
    // Said before anything changes: the store's place must be the same inside.
    let root = store_root(global)?;
    if !is_root() {
        let entered = namespace::enter_user_namespace()?;
        if let HeldIds::One { reason } = &entered.ids {
            output.remark(format!("plywood: only one user and group are mapped here ({reason})"));
        }
    }
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| OsString::from("/bin/sh"));
    let (program, arguments) = command.split_first().unwrap_or((&shell, &[]));
    tracing::debug!(?program, store = %root.display(), "run in the namespace");
    let error = process::Command::new(program).args(arguments).exec();
    Err(Error::io("exec", error).at(program).into())
}

/// A word as a shell reads it.
pub(super) fn quoted(word: impl AsRef<OsStr>) -> String {
    let word = Path::new(word.as_ref()).display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:,@=%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!([quoted("a/b-1"), quoted("a b"), quoted("it's"), quoted("")], ["a/b-1", "'a b'", r"'it'\''s'", "''"]);
    }
}
