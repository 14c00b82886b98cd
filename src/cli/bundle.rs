//! `bundle REF|KEY DIR`: what `runc run` takes at once.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::Bundle;
use super::mounts::with;
use super::output::Failure;
use super::session::Session;
use super::snapshots::shown;
use crate::error::{Error, ErrorKind, Result};
use crate::namespace;
use crate::snapshot::{Key, Kind, Name};
use crate::store::{ImageConfig, PrepareOptions, RuntimeOptions, Store};
use crate::tree::Access;

/// `bundle REF|KEY DIR [--key KEY] [-o OPTIONS] [-- CMD…]`
pub(super) fn bundle(session: &Session<'_>, arguments: &Bundle) -> Result<(), Failure> {
    let store = &session.store;
    let dir = std::path::absolute(&arguments.dir).map_err(|error| Error::io("make bundle", error).at(&arguments.dir))?;
    let (key, config, made) = snapshot(store, arguments, &dir)?;
    let written = write(store, &key, &config, arguments, &dir);
    if written.is_err() && made {
        // As if nothing had been asked for. What stood in the way is what the user wants to hear about.
        if let Err(left) = store.remove(&key) {
            tracing::debug!(%left, "the new snapshot stays");
        }
    }
    written?;
    let document = json!({ "key": key, "bundle": dir.to_string_lossy(), "rootfs": dir.join("rootfs").to_string_lossy() });
    session.output.result(&document, format!("{}\n", shown(&key)))
}

/// The snapshot that is to be the root, with what its image says; whether it was made here.
fn snapshot(store: &Store, arguments: &Bundle, dir: &Path) -> Result<(String, Option<ImageConfig>, bool)> {
    let resolved = store.resolve(&arguments.source);
    if let Ok(name) = &resolved
        && store.stat(name.as_str())?.kind != Kind::Committed
    {
        if arguments.key.is_some() {
            return Err(Error::new(ErrorKind::InvalidArgument, "make bundle")
                .at(name.as_str())
                .because("it is a key already: --key is for what is made of an image or a committed snapshot"));
        }
        return Ok((name.as_str().to_owned(), store.base_config(name.as_str())?, false));
    }
    let (parent, config) = match store.image(&arguments.source) {
        Ok(image) => (image.chain_id.as_ref().map(Name::from), Some(image.config)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let parent = resolved?;
            let config = store.base_config(parent.as_str())?;
            (Some(parent), config)
        }
        Err(error) => return Err(error),
    };
    let key = Key::new(arguments.key.clone().unwrap_or_else(|| dir.to_string_lossy().into_owned()))?;
    let mut options = PrepareOptions::default();
    options.id_map.clone_from(&arguments.options.id_map);
    store.prepare(&key, parent.as_ref(), &options)?;
    Ok((key.as_str().to_owned(), config, true))
}

fn write(store: &Store, key: &str, config: &Option<ImageConfig>, arguments: &Bundle, dir: &Path) -> Result<()> {
    let mount = with(store.mounts(key)?, &arguments.options)?;
    let nothing = || ImageConfig::parse(br#"{"os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec());
    let config = config.clone().map_or_else(nothing, Ok)?;
    let user = store.user(key, config.user())?;
    let options = RuntimeOptions {
        root: None,
        read_only: mount.access() == Access::ReadOnly,
        args: (!arguments.command.is_empty()).then(|| arguments.command.clone()),
        terminal: arguments.terminal,
        in_user_namespace: !namespace::is_initial(),
        id_map: arguments.options.id_map.as_ref().or(store.id_shift()).cloned(),
    };
    let document = config.runtime_config(&user, &options);

    let mut made = Made::default();
    made.directory(dir)?;
    let rootfs = dir.join("rootfs");
    made.directory(&rootfs)?;
    let file = dir.join("config.json");
    let failed = |error: std::io::Error| Error::io("write bundle", error).at(&file);
    let mut out = fs::OpenOptions::new().write(true).create_new(true).open(&file).map_err(failed)?;
    made.0.push(file.clone());
    serde_json::to_writer_pretty(&mut out, &document).map_err(|error| failed(error.into()))?;
    out.write_all(b"\n").map_err(failed)?;
    mount.attach(&rootfs)?.leave();
    made.0.clear();
    Ok(())
}

/// What goes again where the bundle does not come to be.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Made {
    fn directory(&mut self, path: &Path) -> Result<()> {
        match fs::create_dir(path) {
            Ok(()) => self.0.push(path.to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) => return Err(Error::io("mkdir", error).at(path)),
        }
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            let _ = fs::remove_dir(path).or_else(|_| fs::remove_file(path));
        }
    }
}
