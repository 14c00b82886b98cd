//! No descriptor of ours is inherited by a program: while a verb stands at a state-changing call, its process forks and executes one,
//! which looks at what it has; and whatever any call of the verb opens is `O_CLOEXEC` from its first moment.
//!
//! The ordinary run executes at some of the calls; with `PLYWOOD_TEST_LONG=all` at each.

use std::collections::BTreeMap;
use std::io::{BufRead, Lines, Write as _};
use std::process::ChildStdin;

use nix::unistd::Pid;

use super::*;

/// Tells the traced process that it will be asked for what its programs inherit.
const ASKED: &str = "PLYWOOD_TEST_INHERITS";

/// The descriptors that a program executed by this process finds, by number; not the one through which it looks.
fn inherited() -> BTreeMap<i32, String> {
    let output = Command::new("ls").args(["-l", "/proc/self/fd"]).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let entries = text.lines().filter_map(|line| {
        let (name, target) = line.split_once(" -> ")?;
        Some((name.rsplit(' ').next()?.parse().unwrap(), target.to_owned()))
    });
    entries.filter(|(_, target)| !(target.starts_with("/proc/") && target.ends_with("/fd"))).collect()
}

/// The part of the traced process that is not traced.
pub(super) struct Answers(Option<BTreeMap<i32, String>>);

/// Looks at what is inherited before the store is there.
pub(super) fn answer_when_asked() -> Answers {
    Answers(std::env::var_os(ASKED).map(|_| inherited()))
}

impl Answers {
    /// From now on a thread executes a program for each line that comes in, and says what that found beside what there was before.
    pub(super) fn store_is_open(self) {
        let Some(before) = self.0 else { return };
        std::thread::spawn(move || {
            for _ in std::io::stdin().lines() {
                let mut found = inherited();
                found.retain(|number, _| !before.contains_key(number));
                println!("\nINHERITED {found:?}");
            }
        });
    }
}

struct Asks<R> {
    verb: String,
    to: ChildStdin,
    from: Lines<R>,
    /// At how many of the state-changing calls a program is executed: one of so many.
    every: u64,
    dice: Dice,
    /// What was open without the flag when the verb began: not the store's, as the programs tell.
    before: Option<BTreeSet<i32>>,
    executed: usize,
    opened: usize,
}

/// Whether a descriptor of a process is closed by exec; nothing where there is no such descriptor.
fn is_closed_by_exec(process: Pid, number: i64) -> Option<bool> {
    let text = fs::read_to_string(format!("/proc/{process}/fdinfo/{number}")).ok()?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    Some(i32::from_str_radix(flags.trim(), 8).unwrap() & libc::O_CLOEXEC != 0)
}

fn name_of_descriptor(process: Pid, number: i64) -> String {
    fs::read_link(format!("/proc/{process}/fd/{number}")).unwrap_or_default().display().to_string()
}

impl<R: BufRead> tracer::Watch for Asks<R> {
    fn entering(&mut self, process: Pid) {
        let numbers = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
        let numbers = numbers.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<i32>().unwrap());
        let open: BTreeSet<i32> = numbers.filter(|&number| is_closed_by_exec(process, number.into()) == Some(false)).collect();
        let before = self.before.get_or_insert_with(|| open.clone());
        if let Some(&number) = open.difference(before).next() {
            panic!("{}: {number} {} would be inherited", self.verb, name_of_descriptor(process, number.into()));
        }
        if self.dice.below(self.every) == 0 {
            self.to.write_all(b"\n").unwrap();
            let said = self.from.by_ref().map(Result::unwrap).find_map(|line| line.strip_prefix("INHERITED ").map(str::to_owned));
            assert_eq!(said.as_deref(), Some("{}"), "{}", self.verb);
            self.executed += 1;
        }
    }

    /// Most answers are no descriptors; that a number happens to be one does no harm.
    fn left(&mut self, process: Pid, answer: i64) {
        if !(3..1024).contains(&answer) || self.before.as_ref().is_some_and(|before| before.contains(&(answer as i32))) {
            return;
        }
        if let Some(is_closed) = is_closed_by_exec(process, answer) {
            assert!(is_closed, "{}: {answer} {} would be inherited", self.verb, name_of_descriptor(process, answer));
            self.opened += 1;
        }
    }
}

#[test]
fn no_descriptor_is_inherited_by_a_program_whatever_is_going_on() {
    sandbox().run(|| {
        if let Err(reason) = tracer::available() {
            return skip("system_calls", &reason);
        }
        let mut dice = Dice::new(seed());
        let every = if taken() == Taken::All { 1 } else { 16 };
        for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
            for verb in VERBS {
                let stage = Stage::new(verb, backend.clone(), None);
                let (_, mut child) = stage.start(&[(ASKED, "1")]);
                let mut asks = Asks {
                    verb: format!("{backend:?} {verb:?}"),
                    to: child.stdin.take().unwrap(),
                    from: BufReader::new(child.stdout.take().unwrap()).lines(),
                    every,
                    dice: Dice::new(dice.below(1 << 31)),
                    before: None,
                    executed: 0,
                    opened: 0,
                };
                let traced = tracer::follow(&child, At::Nothing, &mut asks);
                child.wait().unwrap_err();
                assert_eq!(traced.status, Some(0), "{backend:?} {verb:?}");
                assert!(asks.from.map(Result::unwrap).any(|line| line == "DONE"), "{backend:?} {verb:?}");
                println!("{}: {} calls, {} programs, {} descriptors", asks.verb, traced.calls.len(), asks.executed, asks.opened);
            }
        }
    });
}
