//! plywood in one go: an image of two layers made on the spot, two containers that share them, a change, and the change as a new layer.
//!
//! `cargo run --release --example quickstart`, as root or as an ordinary user, who enters a user namespace first. Where nobody can mount,
//! the copy backend's plain directories are shown instead. Everything happens in a temporary directory, which is gone afterwards.

#![allow(clippy::disallowed_methods)] // a program, not the library: it works with paths

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use plywood::digest::{Algorithm, DiffId};
use plywood::entry::{Attributes, Change, Entry, EntrySink, Node, Status, Timestamp};
use plywood::mount::{Mount, Mounted};
use plywood::path::EntryPath;
use plywood::snapshot::{Key, Name};
use plywood::store::{BackendChoice, ExportOptions, ImageSource, Store, StoreOptions};
use plywood::{Context, Error, ErrorKind, Result, namespace, tar};

fn main() -> ExitCode {
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        println!("plywood, as root:\n");
    } else {
        // Before anything else: a namespace can be entered only while there is one thread.
        match namespace::enter_user_namespace() {
            Ok(entered) => println!("plywood, as an ordinary user in a user namespace with {}:\n", entered.ids),
            Err(error) => println!("plywood, as an ordinary user; no user namespace can be entered ({error}):\n"),
        }
    }
    let place = std::env::temp_dir().join(format!("plywood-quickstart-{}", std::process::id()));
    let outcome = fs::create_dir(&place).map_err(|error| Error::io("mkdir", error).at(&place)).and_then(|()| run(&place));
    let removed = fs::remove_dir_all(&place);
    match outcome {
        Ok(()) => match removed {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&Error::io("remove", error).at(&place)),
        },
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> ExitCode {
    eprintln!("quickstart: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        eprintln!("  cause: {error}");
        cause = error.source();
    }
    if let Some(hint) = error.hint() {
        eprintln!("  hint: {hint}");
    }
    ExitCode::FAILURE
}

fn run(place: &Path) -> Result<()> {
    let mut steps = Steps::new();
    let cx = Context::default();

    let layout = place.join("image");
    make_image(&layout)?;
    steps.done("made an image of two layers, the second with a whiteout and an opaque directory", "");

    let (store, mounts) = open(place)?;
    steps.done("opened a store", store.backend_reason());

    let imported = store.import(ImageSource::path(&layout), &Default::default(), &cx)?;
    let chain_id = imported.image.chain_id.ok_or_else(|| wrong("the image has no layers"))?;
    let image = Name::from(&chain_id);
    steps.done("imported it: verified, unpacked, durable", format!("chain id {chain_id}"));

    let keys = [Key::new("ada")?, Key::new("bob")?];
    let [ada, bob] =
        [store.prepare(&keys[0], Some(&image), &Default::default())?, store.prepare(&keys[1], Some(&image), &Default::default())?];
    steps.done("prepared two containers on the same layers", "ada, bob");

    let (ada, bob) = (Root::of(ada, &place.join("ada"), mounts)?, Root::of(bob, &place.join("bob"), mounts)?);
    let how = if mounts { "the same read-only layers below, a writable one each" } else { "plain directories, nothing is mounted" };
    steps.done("gave each a root file system", how);

    expect(!ada.path.join("var/cache/stale").exists(), "the second layer's whiteout hides a file of the first")?;
    expect(names(&ada.path.join("opt/app"))? == ["version-2"], "its opaque directory hides what the first had in it")?;
    write(&ada.path.join("etc/motd"), "ada was here\n")?;
    write(&ada.path.join("srv/new"), "a new file\n")?;
    remove(&ada.path.join("etc/hosts"))?;
    steps.done("ada: edited etc/motd, made srv/new, removed etc/hosts", "");

    expect(read(&bob.path.join("etc/motd"))? == "welcome, from the second layer\n", "bob's etc/motd is the layer's")?;
    expect(bob.path.join("etc/hosts").exists() && !bob.path.join("srv/new").exists(), "bob has what the layers have, and no more")?;
    let fresh = store.prepare(&Key::new("eve")?, Some(&image), &Default::default())?;
    let eve = Root::of(fresh, &place.join("eve"), mounts)?;
    expect(read(&eve.path.join("etc/motd"))? == "welcome, from the second layer\n", "the layers did not change")?;
    steps.done("looked: bob and the layers did not change", "");

    [ada, bob, eve].into_iter().try_for_each(Root::close)?;
    let changed = Name::new("changed")?;
    store.commit(&changed, &keys[0], &Default::default())?;
    steps.done("committed ada's root under a name", "changed");

    let mut list = String::new();
    store.changes("changed", &cx, |change| {
        let letter = match change.status {
            Status::Added => 'A',
            Status::Modified => 'C',
            Status::Deleted => 'D',
        };
        list.push_str(&format!(" {letter} /{}", change.path));
        Ok(())
    })?;
    let mut layer = Vec::new();
    let diff = store.diff("changed", &mut layer, &Default::default(), &cx)?;
    steps.done("wrote the change as a layer", format!("{} bytes, {}", layer.len(), diff.descriptor.digest));
    steps.note(list.trim());

    let out = place.join("exported");
    let exported = store.export("changed", &out, &ExportOptions::default(), &cx)?;
    steps.done(
        "exported image and change as an OCI layout",
        format!("{} layers, {}", exported.layers.len(), exported.manifest.digest),
    );

    for key in ["bob", "eve", "changed"] {
        store.remove(key)?;
    }
    let gone = store.gc(&Default::default(), &cx)?;
    steps.done("removed the containers and collected what nothing reaches", format!("{} trees", gone.trees));
    println!("\nall of it took {}", steps.total());
    Ok(())
}

/// A store whose snapshots can be mounted here, or, with the reason, one whose snapshots are plain directories.
fn open(place: &Path) -> Result<(Store, bool)> {
    let store = Store::open(place.join("store"))?;
    let key = Key::new("probe")?;
    let mount = store.prepare(&key, None, &Default::default())?;
    let probe = mount.detached().map(drop);
    store.remove(key.as_str())?;
    match probe {
        Ok(()) => Ok((store, true)),
        Err(error) => {
            println!("nothing can be mounted here, so plain directories are used: {error}");
            error.hint().into_iter().for_each(|hint| println!("  hint: {hint}"));
            let options = StoreOptions::new(place.join("directories")).backend(BackendChoice::Copy);
            Ok((Store::open_with(&options)?, false))
        }
    }
}

/// A container's root file system.
struct Root {
    path: PathBuf,
    mounted: Option<Mounted>,
}

impl Root {
    fn of(mount: Mount, target: &Path, mounts: bool) -> Result<Self> {
        if !mounts {
            // A bind mount's source is the root itself.
            return Ok(Self { path: mount.source(), mounted: None });
        }
        fs::create_dir(target).map_err(|error| Error::io("mkdir", error).at(target))?;
        Ok(Self { path: target.to_owned(), mounted: Some(mount.attach(target)?) })
    }

    fn close(self) -> Result<()> {
        self.mounted.map_or(Ok(()), Mounted::close)
    }
}

/// An OCI image layout with two layers: what `umoci` or `buildah` would leave in a directory.
fn make_image(layout: &Path) -> Result<()> {
    let base = layer(&[
        dir(""),
        dir("etc"),
        file("etc/motd", "welcome, from the first layer\n"),
        file("etc/hosts", "127.0.0.1 localhost\n"),
        dir("opt"),
        dir("opt/app"),
        file("opt/app/version-1", "1\n"),
        dir("srv"),
        dir("var"),
        dir("var/cache"),
        file("var/cache/stale", "to be hidden\n"),
    ])?;
    let update = layer(&[
        dir("etc"),
        file("etc/motd", "welcome, from the second layer\n"),
        dir("opt"),
        dir("opt/app"),
        ("opt/app", Change::Opaque, ""),
        file("opt/app/version-2", "2\n"),
        ("var/cache/stale", Change::Whiteout, ""),
    ])?;
    let diff_ids = [&base, &update].map(|tar| DiffId(Algorithm::Sha256.digest(tar)));
    let config = serde_json::json!({
        "os": "linux",
        "architecture": "unknown",
        "config": { "Cmd": ["/bin/sh"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let blob = |media_type: &str, bytes: &[u8]| -> Result<serde_json::Value> {
        let digest = Algorithm::Sha256.digest(bytes);
        write(&layout.join("blobs/sha256").join(digest.to_hex()), bytes)?;
        Ok(serde_json::json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
    };
    let tar_type = "application/vnd.oci.image.layer.v1.tar";
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?,
        "layers": [blob(tar_type, &base)?, blob(tar_type, &update)?],
    });
    let mut manifest = blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes())?;
    manifest["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "quickstart" });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
    write(&layout.join("index.json"), index.to_string())?;
    write(&layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
}

type Line = (&'static str, Change, &'static str);

fn dir(path: &'static str) -> Line {
    (path, Change::Upsert { node: Node::Directory, attributes: attributes(0o755) }, "")
}

fn file(path: &'static str, text: &'static str) -> Line {
    (path, Change::Upsert { node: Node::File { size: text.len() as u64 }, attributes: attributes(0o644) }, text)
}

fn attributes(mode: u32) -> Attributes {
    Attributes { mode, mtime: Timestamp::from_seconds(1_700_000_000), ..Attributes::implied() }
}

/// A layer's tar.
fn layer(lines: &[Line]) -> Result<Vec<u8>> {
    let mut writer = tar::Writer::new(Vec::new());
    for (path, change, text) in lines {
        let path = EntryPath::parse(path).map_err(|error| wrong("a path").with_source(error))?;
        writer.entry(&Entry { path, change: change.clone() }, Status::Added)?;
        if !text.is_empty() {
            writer.data(text.as_bytes())?;
        }
    }
    writer.finish()
}

fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).and_then(|()| fs::write(path, text)).map_err(|error| Error::io("write", error).at(path))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Error::io("read", error).at(path))
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(|error| Error::io("unlink", error).at(path))
}

fn names(path: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(path).map_err(|error| Error::io("read directory", error).at(path))?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect())
}

fn expect(holds: bool, what: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(wrong(what)) }
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "quickstart").because(format!("not as it should be: {what}"))
}

/// Prints what happened and how long each step took.
struct Steps {
    began: Instant,
    last: Instant,
}

impl Steps {
    fn new() -> Self {
        let now = Instant::now();
        Self { began: now, last: now }
    }

    fn done(&mut self, what: &str, detail: impl AsRef<str>) {
        let taken = milliseconds(self.last);
        println!("{taken:>10}  {what}");
        if !detail.as_ref().is_empty() {
            self.note(detail.as_ref());
        }
        self.last = Instant::now();
    }

    fn note(&self, detail: &str) {
        println!("{:>10}    {detail}", "");
    }

    fn total(&self) -> String {
        milliseconds(self.began)
    }
}

fn milliseconds(since: Instant) -> String {
    format!("{:.1} ms", since.elapsed().as_secs_f64() * 1000.0)
}
