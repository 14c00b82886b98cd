//! The command as people and scripts run it: as root, and as an ordinary user who enters his user namespace.

mod check;
mod errors;
mod figures;
mod images;
mod mounts;
mod reading;
mod snapshots;

use std::fs;
use std::path::{Path, PathBuf};

use plywood::testing::{Layer, Tree};
use serde_json::Value;

use crate::support::{Output, Sandbox, Tool, plywood, require};

/// A store in a temporary directory.
struct Store {
    directory: tempfile::TempDir,
    backend: &'static str,
}

impl Store {
    fn new(backend: &'static str) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), backend }
    }

    /// A file or folder beside the store.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn tool(&self, arguments: &[&str]) -> Tool {
        let tool = plywood().arg("--root").arg(self.path("store")).args(["--backend", self.backend]).args(arguments);
        tool.current_dir(self.directory.path())
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> Output {
        self.tool(arguments).ok()
    }

    /// The JSON document of a command that succeeds.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.tool(arguments).arg("--json").ok();
        assert_eq!(output.stderr, "", "with --json all is in the document");
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", output.stdout))
    }

    /// The JSON object of a command that fails.
    #[track_caller]
    fn error(&self, arguments: &[&str]) -> Value {
        let output = self.tool(arguments).arg("--json").run();
        assert_eq!((output.status, output.stdout.as_str()), (1, ""), "{output:?}");
        let error: Value = serde_json::from_str(&output.stderr).unwrap_or_else(|error| panic!("{error}: {}", output.stderr));
        let keys: Vec<&String> = error.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["causes", "hint", "kind", "message", "op", "path"]);
        error
    }

    /// Imports a layer; its chain id.
    #[track_caller]
    fn layer(&self, layer: &Layer, parent: Option<&str>) -> String {
        let parent = parent.map(|parent| ["--parent", parent]);
        let tool = self.tool(&["layer", "import", "-"]).args(parent.into_iter().flatten());
        tool.input(layer.tar()).ok().last_word().to_owned()
    }

    /// Names of what is left in a folder of the store.
    fn left_in(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path("store").join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// A small root: a folder, a file, a symlink.
fn base() -> Layer {
    Layer::new().dir("", 0o755).dir("etc", 0o755).file("etc/motd", "hello\n").file("etc/old", "old\n").symlink("link", "etc/motd")
}

/// Runs the same in each way that users run the command. Root's sub-ids are not his to lend everywhere, so the user has none.
macro_rules! as_everybody {
    ($($name:ident $body:block)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn root() {
                Sandbox::root().run(|| $body);
            }

            #[test]
            fn ordinary_user() {
                Sandbox::user().run(|| $body);
            }

            #[test]
            fn ordinary_user_with_sub_ids() {
                if require(concat!("cli::", stringify!($name), "::ordinary_user_with_sub_ids"), &["newuidmap"]) {
                    Sandbox::user().sub_ids().run(|| $body);
                }
            }
        }
    )*};
}
use as_everybody;

/// Reads what stands at `path` in a mounted snapshot, by way of `plywood unshare`, in which root is root and everybody may mount.
#[track_caller]
fn in_namespace(store: &Store, script: &str) -> Output {
    let command = format!("set -eu; plywood() {{ \"$PLYWOOD\" --root '{}' \"$@\"; }}; {script}", store.path("store").display());
    store.tool(&["unshare", "sh", "-c", &command]).env("PLYWOOD", plywood().program()).run()
}

/// The tree of a directory that this process can read.
#[track_caller]
fn read(path: &Path) -> Tree {
    Tree::read(path).unwrap()
}
