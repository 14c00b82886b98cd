//! `plywood containerd` in the hands of a service manager: the socket that it hands over, what it is told, and signals.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::engine::{ended, wait};
use crate::support::{Sandbox, plywood};

fn start(directory: &Path, script: &str, stdin: Stdio) -> Child {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "sh", "-c", script]).current_dir(directory);
    command.env("NOTIFY_SOCKET", directory.join("notify")).env("PLYWOOD", plywood().program());
    command.stdin(stdin).stderr(Stdio::piped()).spawn().unwrap()
}

fn told(notify: &UnixDatagram) -> String {
    let mut text = [0; 64];
    let length = notify.recv(&mut text).unwrap();
    String::from_utf8(text[..length].to_vec()).unwrap()
}

fn end(child: Child, signal: Signal) -> i32 {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    ended(child)
}

#[test]
fn the_service_manager_is_told_when_it_is_ready_and_when_it_stops() {
    Sandbox::root().run(|| {
        let directory = tempfile::tempdir().unwrap();
        let notify = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let script = "exec \"$PLYWOOD\" --root store containerd --address run/socket";
            let child = start(directory.path(), script, Stdio::null());
            assert_eq!(told(&notify), "READY=1");
            UnixStream::connect(directory.path().join("run/socket")).unwrap();
            assert_eq!(end(child, signal), 0);
            assert_eq!(told(&notify), "STOPPING=1");
            assert!(!directory.path().join("run/socket").exists());
        }
    });
}

#[test]
fn a_socket_that_is_handed_over_is_served_and_stays() {
    Sandbox::root().run(|| {
        let directory = tempfile::tempdir().unwrap();
        let notify = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let socket = directory.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let handed = || Stdio::from(OwnedFd::from(listener.try_clone().unwrap()));
        let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$PLYWOOD\" --root store containerd";
        // Who comes early waits.
        let mut early = UnixStream::connect(&socket).unwrap();
        let child = start(directory.path(), script, handed());
        assert_eq!(told(&notify), "READY=1");
        // HTTP/2 begins with a frame of the server's.
        let mut frame = [0; 9];
        early.read_exact(&mut frame).unwrap();
        assert_eq!(end(child, Signal::SIGTERM), 0);
        UnixStream::connect(&socket).expect("it is the service manager's");

        // For another process, or two: what was handed over is not what is expected.
        let child = start(
            directory.path(),
            "exec 3<&0 </dev/null; LISTEN_FDS=2 LISTEN_PID=$$ exec \"$PLYWOOD\" --root store containerd",
            handed(),
        );
        assert_eq!(ended(child), 1);
        let child = start(
            directory.path(),
            "exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$PLYWOOD\" --root store containerd",
            Stdio::null(),
        );
        assert_eq!(ended(child), 1, "it is no socket");
        let mut child = start(
            directory.path(),
            "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$PLYWOOD\" --root store containerd --address other",
            handed(),
        );
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(ended(child), 1);
        assert!(said.contains("leave --address out") && !directory.path().join("other").exists(), "{said}");
        // For another process, as a shell's child inherits it: it is none of this one's.
        let child = start(
            directory.path(),
            "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=1 exec \"$PLYWOOD\" --root store containerd --address other",
            handed(),
        );
        assert_eq!(told(&notify), "STOPPING=1", "of the first one");
        assert_eq!(told(&notify), "READY=1");
        UnixStream::connect(directory.path().join("other")).unwrap();
        assert_eq!(end(child, Signal::SIGTERM), 0);
    });
}

#[test]
fn an_address_is_served_once_and_a_dead_servers_is_taken_over() {
    Sandbox::root().run(|| {
        let directory = tempfile::tempdir().unwrap();
        let notify = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let script = "exec \"$PLYWOOD\" --root store containerd --address socket";
        let mut child = start(directory.path(), script, Stdio::null());
        told(&notify);
        let mut second = start(directory.path(), script, Stdio::null());
        let status = wait("the second one's end", || second.try_wait().unwrap());
        let mut said = String::new();
        second.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(status.code(), Some(1));
        assert!(said.contains("a server listens there"), "{said}");
        child.kill().unwrap();
        child.wait().unwrap();
        let child = start(directory.path(), script, Stdio::null());
        assert_eq!(told(&notify), "READY=1");
        assert_eq!(end(child, Signal::SIGTERM), 0);
    });
}
