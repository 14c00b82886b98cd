use super::*;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

fn locks(directory: &tempfile::TempDir) -> Locks {
    Locks::new(Dir::open(directory.path()).unwrap())
}

#[test]
fn a_lock_keeps_others_out_and_its_file_goes_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let locks = locks(&directory);
    let held = locks.wait(Subject::Collection).unwrap();
    assert!(locks.attempt(Subject::Collection).unwrap().is_none());
    assert!(locks.attempt(Subject::Lease(1)).unwrap().is_some(), "another subject is another lock");
    drop(held);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    assert!(locks.attempt(Subject::Collection).unwrap().is_some());
}

#[test]
fn one_of_many_is_inside_at_any_time() {
    let directory = tempfile::tempdir().unwrap();
    let inside = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let locks = locks(&directory);
                for _ in 0..200 {
                    let held = locks.wait(Subject::Tree(TreeId(7))).unwrap();
                    assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    drop(held);
                }
            });
        }
    });
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// What a process that is killed while it holds the lock has started before.
const STARTED: &str = "PLYWOOD_TEST_STARTED";

/// Run by the tests below in a process of its own, which is killed while it holds the lock.
#[test]
#[ignore = "the other half of killing_the_holder_frees_the_lock"]
fn hold_until_killed() {
    let Some(directory) = std::env::var_os("PLYWOOD_TEST_LOCKS") else { return };
    let _held = Locks::new(Dir::open(directory).unwrap()).wait(Subject::Lease(1)).unwrap();
    let mut _program = None;
    match std::env::var(STARTED).as_deref() {
        Ok("a program") => _program = Some(Command::new("cat").spawn().unwrap()),
        Ok("a fork") => {
            let child = crate::sys::test_support::Child { user: None, sub_ids: None };
            let _ = child.run(|| {
                nix::sys::prctl::set_pdeathsig(None).map_err(|errno| errno.to_string())?;
                println!("held");
                // Until the test closes it.
                std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).map_err(|error| error.to_string())?;
                Ok(String::new())
            });
        }
        _ => {}
    }
    println!("held");
    std::thread::park();
}

/// Kills a process that has taken the lock and started something. What it started reads the first, and writes what it read to the other.
fn kill_the_holder(directory: &tempfile::TempDir, started: &str) -> (ChildStdin, Lines<BufReader<ChildStdout>>) {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lock::tests::hold_until_killed", "--ignored", "--nocapture"])
        .env("PLYWOOD_TEST_LOCKS", directory.path())
        .env(STARTED, started)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("held")), "the holder has the lock");
    assert!(locks(directory).attempt(Subject::Lease(1)).unwrap().is_none());
    holder.kill().unwrap();
    let stdin = holder.stdin.take().unwrap();
    holder.wait().unwrap();
    (stdin, lines)
}

fn assert_lives((stdin, lines): &mut (ChildStdin, Lines<BufReader<ChildStdout>>)) {
    stdin.write_all(b"alive\n").unwrap();
    assert!(lines.any(|line| line.unwrap() == "alive"));
}

#[test]
fn killing_the_holder_frees_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    drop(kill_the_holder(&directory, "nothing"));
    let held = locks(&directory).attempt(Subject::Lease(1)).unwrap().expect("a dead process holds nothing");
    assert!(held.is_ours());
}

#[test]
fn a_program_that_a_killed_holder_executed_keeps_no_lock() {
    let directory = tempfile::tempdir().unwrap();
    let mut program = kill_the_holder(&directory, "a program");
    // Who started it may go on before its descriptors are closed; once it runs, they are.
    assert_lives(&mut program);
    let held = locks(&directory).attempt(Subject::Lease(1)).unwrap();
    assert!(held.is_some(), "a program has no descriptor of ours");
}

/// As the kernel has it: the lock is the open file's, and the child has that too.
#[test]
fn a_forked_child_that_executes_nothing_keeps_the_lock_of_a_killed_holder_until_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = kill_the_holder(&directory, "a fork");
    assert_lives(&mut child);
    assert!(locks(&directory).attempt(Subject::Lease(1)).unwrap().is_none());
    drop(child);
    drop(locks(&directory).wait(Subject::Lease(1)).unwrap());
}

#[test]
fn no_descriptor_is_inherited_by_a_program() {
    let directory = tempfile::tempdir().unwrap();
    let locks = locks(&directory);
    let _held = locks.wait(Subject::Lease(1)).unwrap();
    let open = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let open = String::from_utf8_lossy(&open.stdout).into_owned();
    assert!(!open.contains(directory.path().to_str().unwrap()), "{open}");
}

/// The next holder opens the file by its name.
#[test]
fn locks_work_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt as _;
    let temp = tempfile::tempdir().unwrap();
    std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let child = crate::sys::test_support::Child { user: Some(65_534), sub_ids: None };
    let done = child.run(|| {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o777));
        let text = |error: crate::Error| error.to_string();
        let locks = Locks::new(Dir::open(temp.path()).map_err(text)?);
        let held = locks.wait(Subject::Collection).map_err(text)?;
        let other = locks.attempt(Subject::Collection).map_err(text)?;
        drop(held);
        Ok(other.is_none().to_string())
    });
    assert_eq!(done, Ok("true".to_owned()));
}
