//! A container by youki's libcontainer, with its root file system from plywood:
//!
//! `cargo run --manifest-path examples/libcontainer/Cargo.toml`, as root.
//!
//! An image is built on the spot and imported; a snapshot on it is prepared and mounted in a bundle; libcontainer runs what is in there; the
//! change is shown and committed. The image holds no program: what runs in the container is [`Work`], which libcontainer takes instead of
//! an executable, as engines for WebAssembly do.

use std::error::Error;
use std::fs;
use std::path::Path;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::sys::wait::{WaitStatus, waitpid};
use plywood::Context;
use plywood::compression::Compression;
use plywood::snapshot::{Key, Name};
use plywood::store::{ImageSource, ImportOptions, Store};
use plywood::testing::{Image, Layer, temporary_directory};

/// What the container's first process does.
#[derive(Clone)]
struct Work;

impl Executor for Work {
    fn exec(&self, _spec: &Spec) -> Result<(), ExecutorError> {
        let failed = |error: std::io::Error| ExecutorError::Other(error.to_string());
        let greeting = fs::read_to_string("/etc/motd").map_err(failed)?;
        print!("in the container, as process {}: {greeting}", std::process::id());
        fs::write("/etc/motd", "changed\n").map_err(failed)?;
        fs::write("/etc/made", "new\n").map_err(failed)?;
        fs::remove_file("/etc/old").map_err(failed)?;
        std::process::exit(0)
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (cx, place) = (Context::default(), temporary_directory()?);
    let store = Store::open(place.path().join("store"))?;
    let layout = place.path().join("image");
    image().write_layout(&layout, "example")?;
    let image = store.import(ImageSource::path(&layout), &ImportOptions::default(), &cx)?.image;

    // The bundle: a root file system and what the image says of its container.
    let id = format!("plywood-{}", std::process::id());
    let (key, parent) = (Key::new(id.as_str())?, image.chain_id.as_ref().map(Name::from));
    let bundle = place.path().join("bundle");
    fs::create_dir_all(bundle.join("rootfs"))?;
    let mounted = store.prepare(&key, parent.as_ref(), &Default::default())?.attach(bundle.join("rootfs"))?;
    let config = image.config.runtime_config(&store.user(key.as_str(), image.config.user())?, &Default::default());
    fs::write(bundle.join("config.json"), config.to_string())?;

    let status = run(&id, &bundle, &place.path().join("state"))?;
    println!("the container is gone: {status:?}");
    mounted.close()?;

    store.changes(key.as_str(), &cx, |changed| {
        println!("{:?} /{}", changed.status, changed.path);
        Ok(())
    })?;
    let committed = Name::new("result")?;
    store.commit(&committed, &key, &Default::default())?;
    println!("committed as {committed}");
    Ok(())
}

fn image() -> Image {
    let files = Layer::new().dir("etc", 0o755).file("etc/motd", "hello\n").file("etc/old", "old\n");
    Image::new().layer(files, Compression::Gzip).cmd(["work"])
}

/// The container from its beginning to its end.
fn run(id: &str, bundle: &Path, state: &Path) -> Result<WaitStatus, Box<dyn Error>> {
    fs::create_dir(state)?;
    let builder =
        ContainerBuilder::new(id.to_owned(), SyscallType::default()).with_executor(Work).with_root_path(state)?.validate_id()?;
    let mut container = builder.as_init(bundle).with_systemd(false).with_detach(false).build()?;
    // The first process is a child of this one, and waits for the start.
    let ended = container.start().map_err(Box::from).and_then(|()| match container.pid() {
        Some(pid) => Ok(waitpid(pid, None)?),
        None => Err("the container has no process".into()),
    });
    container.delete(true)?;
    ended
}
