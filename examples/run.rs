//! A small container runtime: how a layered file system, copy on write, namespaces and cgroups make a container.
//!
//! `cargo run --release --features cli --example run -- IMAGE [--memory 64M] [--pids 32] [--cpus 0.5] [--rootless] -- CMD…`
//!
//! 1. **Layers.** plywood unpacks each layer of the image once, however many containers use it. [`Store::prepare`] lays an empty writable
//!    directory over them: what a container changes is copied up into it, and nobody else sees it.
//! 2. **A root file system.** [`Mount::detached`](plywood::mount::Mount::detached) makes the union mount without putting it anywhere. The
//!    container's first process moves it into a mount namespace of its own and makes it its root.
//! 3. **Namespaces.** Processes, host name, IPC, network and mounts are the container's own; with `--rootless` the users too, of whom root is
//!    whoever calls.
//! 4. **A cgroup** holds what it may take of the machine.
//!
//! To see it: run `stat -c '%i %n' /bin/sh` in two containers at once. It is one file on the disk, and once in memory.
//!
//! At the end the kernel takes the namespaces and the mount away with their last process; the snapshot and the cgroup are removed here.
//! Not here: seccomp, dropped capabilities, masked paths in /proc, a network. It is a tour, not a sandbox.

#![allow(clippy::disallowed_methods)] // a program, not the library: it works with paths

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{self, ForkResult};
use plywood::mount::Detached;
use plywood::namespace;
use plywood::snapshot::{Key, Name};
use plywood::store::{Image, ImageSource, Store, StoreOptions};
use plywood::tree::Ids;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Runs a command in a container.
#[derive(Parser)]
struct Arguments {
    /// An OCI image layout or a `docker save` archive; else an image of the store
    image: String,
    /// The store [default: a temporary one]
    #[arg(long)]
    store: Option<PathBuf>,
    /// How much memory it may use, as memory.max has it
    #[arg(long)]
    memory: Option<String>,
    /// How many processes it may have
    #[arg(long)]
    pids: Option<u32>,
    /// How many processors it may use
    #[arg(long)]
    cpus: Option<f64>,
    /// In a user namespace: root inside is whoever calls
    #[arg(long)]
    rootless: bool,
    /// What to run [default: what the image says]
    #[arg(last = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    match start(&Arguments::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("run: {error}");
            ExitCode::from(125)
        }
    }
}

/// Makes the temporary directory, and takes it away again.
fn start(arguments: &Arguments) -> Result<u8> {
    if arguments.rootless {
        // Before anything else: a namespace can be entered only while there is one thread.
        eprintln!("run: rootless, with {}", namespace::enter_user_namespace()?.ids);
    }
    let place = std::env::temp_dir().join(format!("plywood-run-{}", std::process::id()));
    fs::create_dir(&place)?;
    let status = in_store(arguments, &place);
    fs::remove_dir_all(&place)?;
    status
}

/// The image and a snapshot on it.
fn in_store(arguments: &Arguments, place: &Path) -> Result<u8> {
    let root = arguments.store.clone().unwrap_or_else(|| place.join("store"));
    let ids = if arguments.rootless { Ids::Squash } else { Ids::Exact };
    let (store, cx) = (Store::open_with(&StoreOptions::new(root).ids(ids))?, plywood::Context::default());
    let image = if Path::new(&arguments.image).exists() {
        store.import(ImageSource::path(&arguments.image), &Default::default(), &cx)?.image
    } else {
        store.image(&arguments.image)?
    };
    let key = Key::new(format!("run-{}", std::process::id()))?;
    let mount = store.prepare(&key, image.chain_id.as_ref().map(Name::from).as_ref(), &Default::default())?;
    let status = mount.detached().map_err(Into::into).and_then(|root| container(arguments, &image, root, place));
    store.remove(key.as_str())?;
    store.empty_trash(&cx)?;
    status
}

/// The container's life, seen from outside.
fn container(arguments: &Arguments, image: &Image, root: Detached, place: &Path) -> Result<u8> {
    fs::create_dir(place.join("root"))?;
    // Signals are waited for, not handled: whichever ends this program has to end the container first.
    let signals: SigSet = [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block()?;
    let cgroup = cgroup(arguments);
    let (ready, go) = unistd::pipe()?;
    // Children from here on are in a new pid namespace, of which the first is process 1: when that ends, all are killed.
    unshare(CloneFlags::CLONE_NEWPID)?;
    // SAFETY: the store leaves no thread behind, so this process has one, and its child may do what it likes.
    #[allow(unsafe_code)]
    let child = match unsafe { unistd::fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(go);
            let _ = unistd::read(&ready, &mut [0]);
            let error = signals.thread_unblock().map_err(Into::into).and_then(|()| inside(arguments, image, root, place));
            eprintln!("run: {}", error.err().map_or_else(String::new, |error| error.to_string()));
            std::process::exit(127);
        }
    };
    drop(ready);
    if let Some(cgroup) = &cgroup {
        fs::write(cgroup.join("cgroup.procs"), child.to_string())?;
    }
    drop(go);
    let status = loop {
        if signals.wait()? != Signal::SIGCHLD {
            kill(child, Signal::SIGKILL)?;
        }
        match waitpid(child, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, status) => break status as u8,
            WaitStatus::Signaled(_, signal, _) => break 128 + signal as u8,
            _ => {}
        }
    };
    if let Some(cgroup) = cgroup {
        fs::remove_dir(cgroup)?;
    }
    Ok(status)
}

/// A cgroup with the limits that were asked for; those that cannot be had are named.
fn cgroup(arguments: &Arguments) -> Option<PathBuf> {
    let limits = [
        arguments.memory.clone().map(|memory| ("memory", "memory.max", memory)),
        arguments.pids.map(|pids| ("pids", "pids.max", pids.to_string())),
        arguments.cpus.map(|cpus| ("cpu", "cpu.max", format!("{} 100000", (cpus * 100_000.0) as u64))),
    ];
    let limits: Vec<_> = limits.into_iter().flatten().collect();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let top = table.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let made = top.iter().flat_map(|top| [top.join(own), top.clone()]).find_map(|parent| {
        // A cgroup that has processes hands no controller down, but for the one at the top.
        for (controller, ..) in &limits {
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        let cgroup = parent.join(format!("plywood-run-{}", std::process::id()));
        let had = fs::create_dir(&cgroup).is_ok() && limits.iter().any(|(_, file, _)| cgroup.join(file).exists());
        if !had {
            let _ = fs::remove_dir(&cgroup);
        }
        had.then_some(cgroup)
    });
    for (controller, file, value) in &limits {
        let set = made.as_ref().is_some_and(|cgroup| fs::write(cgroup.join(file), value).is_ok());
        if !set {
            eprintln!("run: no limit on {controller}: cgroup v2 does not have it here, or not for you, or {value} is none");
        }
    }
    made
}

/// The container's life, seen from inside: process 1 puts the walls up and becomes the command. It returns only where that fails.
fn inside(arguments: &Arguments, image: &Image, root: Detached, place: &Path) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let new = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    unshare(new | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWCGROUP)?;
    unistd::sethostname("plywood")?;
    // Nothing that is mounted from here on is seen outside.
    mount_on(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    let target = place.join("root");
    root.attach(&target)?.leave();
    furnish(&target)?;
    // The old root ends up below the new one, and is taken away from there.
    std::env::set_current_dir(&target)?;
    unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;

    let config = &image.config;
    let directory = Some(config.working_dir()).filter(|directory| !directory.is_empty()).unwrap_or("/");
    fs::create_dir_all(directory)?;
    std::env::set_current_dir(directory)?;
    become_user(config.user())?;
    nix::sys::prctl::set_no_new_privs()?;
    let words = match arguments.command.as_slice() {
        [] => [config.entrypoint(), config.cmd()].concat(),
        command => command.to_vec(),
    };
    let default = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(), "HOME=/root".to_owned()];
    let path = config.env().iter().chain(&default).find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
    let program = words.first().ok_or("neither you nor the image says what to run")?;
    let found = path.split(':').map(|directory| Path::new(directory).join(program)).find(|path| path.exists());
    let found = found.filter(|_| !program.contains('/')).unwrap_or_else(|| PathBuf::from(program));
    let strings =
        |words: &[String]| words.iter().map(|word| CString::new(word.as_str())).collect::<std::result::Result<Vec<_>, _>>();
    // Of a variable that is there twice, programs take the first.
    let environment = strings(&[config.env(), &default].concat())?;
    unistd::execve(&CString::new(found.into_os_string().into_encoded_bytes())?, &strings(&words)?, &environment)
        .map_err(|errno| format!("{program}: {errno}"))?;
    Ok(())
}

/// What programs expect beside the image: /proc, /sys, /dev. Where the directories are missing, they are made in the container's own layer.
fn furnish(root: &Path) -> Result<()> {
    let (locked, quiet) = (MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC);
    for directory in ["proc", "sys", "dev"] {
        fs::create_dir_all(root.join(directory))?;
    }
    mount_on(Some("proc"), &root.join("proc"), Some("proc"), locked, None)?;
    if let Err(error) = mount_on(Some("sysfs"), &root.join("sys"), Some("sysfs"), locked | MsFlags::MS_RDONLY, None) {
        eprintln!("run: no /sys: {error}");
    }
    let dev = root.join("dev");
    mount_on(Some("tmpfs"), &dev, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755,size=64k"))?;
    for device in ["null", "zero", "full", "random", "urandom", "tty"] {
        fs::File::create(dev.join(device))?;
        mount_on(Some(&format!("/dev/{device}")), &dev.join(device), None, MsFlags::MS_BIND, None)?;
    }
    for (name, fstype, data) in
        [("pts", "devpts", "newinstance,ptmxmode=0666,mode=620"), ("shm", "tmpfs", "mode=1777,size=64m"), ("mqueue", "mqueue", "")]
    {
        fs::create_dir(dev.join(name))?;
        mount_on(Some(fstype), &dev.join(name), Some(fstype), quiet, Some(data))?;
    }
    for (name, target) in [("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        symlink(target, dev.join(name))?;
    }
    Ok(())
}

fn mount_on(source: Option<&str>, target: &Path, fstype: Option<&str>, flags: MsFlags, data: Option<&str>) -> Result<()> {
    mount(source, target, fstype, flags, data).map_err(|errno| format!("mount on {}: {errno}", target.display()).into())
}

/// `UID[:GID]` or a name of the container's /etc/passwd.
fn become_user(user: &str) -> Result<()> {
    if user.is_empty() {
        return Ok(());
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&user));
    let (uid, gid) = match named.as_deref() {
        Some([_, _, uid, gid, ..]) => (*uid, *gid),
        _ => user.split_once(':').unwrap_or((user, "0")),
    };
    unistd::setgroups(&[])?;
    unistd::setgid(gid.parse::<u32>()?.into())?;
    unistd::setuid(uid.parse::<u32>()?.into())?;
    Ok(())
}
