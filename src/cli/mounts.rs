//! What a runtime would mount, and mounting it here.

use std::path::Path;

use serde_json::json;

use super::args::How;
use super::output::{Failure, Output};
use super::session::Session;
use super::unshare::quoted;
use crate::error::Result;
use crate::mount::{self, Mount};
use crate::snapshot::Kind;

/// `mounts KEY`: the command line of mount(8), or the mount as data for a runtime.
pub(super) fn mounts(session: &Session<'_>, key: &str, how: &How) -> Result<(), Failure> {
    let mount = with(session.store.mounts(session.store.resolve(key)?.as_str())?, how)?;
    let options = mount.options()?;
    let source = mount.source();
    let joined = options.join(",");
    let fits = joined.len() < rustix::param::page_size();
    if !fits {
        // The kernel cuts longer options off without a word: whoever mounts so must know.
        session.output.remark(format!("plywood: mount(2) would cut these {} bytes off; `plywood mount` does not", joined.len()));
    }
    let document = json!([{
        "type": mount.fstype(),
        "source": source.to_string_lossy(),
        "options": options,
        "options_fit_one_page": fits,
        "directory": mount.directory().to_string_lossy(),
        "relative_options": mount.relative_options()?,
        "relative_options_fit_one_page": mount.check_page().is_ok(),
    }]);
    // Paths in the options are escaped for overlayfs already; the shell's turn comes on top.
    let line = if mount.fstype() == "overlay"
        && mount.directory().as_os_str().as_encoded_bytes().iter().any(|byte| b",\"\\".contains(byte))
    {
        // mount(8) takes the options apart before the kernel does, and knows no escape. Relative names need none.
        let relative = mount.relative_options()?.join(",");
        format!("cd {} && mount -t overlay -o {} overlay TARGET\n", quoted(mount.directory()), quoted(relative))
    } else {
        format!("mount -t {} -o {} {} TARGET\n", mount.fstype(), quoted(joined), quoted(source))
    };
    session.output.result(&document, line)
}

/// `mount KEY TARGET`
pub(super) fn mount(session: &Session<'_>, key: &str, target: &Path, how: &How) -> Result<(), Failure> {
    let name = session.store.resolve(key)?;
    // No view can be made there.
    let is_bare = session.store.read_only_reason().is_some() && session.store.stat(name.as_str())?.kind == Kind::Committed;
    let mount = if is_bare { session.store.mount_committed(name.as_str())? } else { session.store.mounts(name.as_str())? };
    attach(mount, target, how)?;
    session.output.result(&json!({ "key": name, "mounted": target.to_string_lossy() }), "")
}

/// Attaches it to a directory, where it stays.
pub(super) fn attach(mount: Mount, target: &Path, how: &How) -> Result<()> {
    with(mount, how)?.attach(target)?.leave();
    Ok(())
}

/// The mount as the user wants it.
pub(super) fn with(mount: Mount, how: &How) -> Result<Mount> {
    let mut options = how.options.clone().unwrap_or_default();
    options.id_map.clone_from(&how.id_map);
    mount.with_options(&options)
}

/// `umount TARGET`
pub(super) fn umount(target: &Path, output: &Output) -> Result<(), Failure> {
    mount::unmount(target)?;
    output.result(&json!({ "unmounted": target.to_string_lossy() }), "")
}
