//! Other people's programs, and plywood's own command, as tests run them.

#![allow(dead_code)] // which of them are used depends on the features

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a program said.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// Its exit status; -1 where a signal ended it.
    pub(crate) status: i32,
    /// Standard output, lossily.
    pub(crate) stdout: String,
    /// Standard error, lossily.
    pub(crate) stderr: String,
}

impl Output {
    /// The same, after a check that the program succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The last word on standard output.
    #[track_caller]
    pub(crate) fn last_word(&self) -> &str {
        self.stdout.split_whitespace().next_back().expect("a word on standard output")
    }
}

/// A program to run, with arguments and input.
pub(crate) struct Tool {
    command: Command,
    input: Vec<u8>,
}

impl Tool {
    /// The program `name`, looked for in `PATH` and where root's programs are.
    pub(crate) fn new(name: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(name);
        command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
        Self { command, input: Vec::new() }
    }

    /// The program's file.
    pub(crate) fn program(&self) -> std::path::PathBuf {
        self.command.get_program().into()
    }

    /// One more argument.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// More arguments.
    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// A variable of its environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Its working directory.
    pub(crate) fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// What it reads from standard input; nothing otherwise.
    pub(crate) fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Runs it to its end.
    #[track_caller]
    pub(crate) fn run(mut self) -> Output {
        let mut child = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = self.input;
        // A program may end without reading all of it.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Output {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs it, and fails the test where it fails.
    #[track_caller]
    pub(crate) fn ok(self) -> Output {
        self.run().ok()
    }
}

/// Whether all `programs` are installed; says SKIP where one is missing.
#[track_caller]
pub(crate) fn require(test: &str, programs: &[&str]) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let missing = programs.iter().find(|program| !std::env::split_paths(&path).any(|folder| folder.join(program).exists()));
    if let Some(program) = missing {
        super::skip(test, &format!("{program} is not installed"));
    }
    missing.is_none()
}

/// The `plywood` command of this build.
#[cfg(feature = "cli")]
pub(crate) fn plywood() -> Tool {
    let staged = std::env::var_os(super::sandbox::COMMAND);
    Tool::new(staged.unwrap_or_else(|| env!("CARGO_BIN_EXE_plywood").into()))
}

/// An example of this build; says SKIP where it was not built.
#[cfg(feature = "cli")]
#[track_caller]
pub(crate) fn example(test: &str, name: &str) -> Option<std::path::PathBuf> {
    let example = plywood().program().with_file_name("examples").join(name);
    if !example.exists() {
        super::skip(test, &format!("the example {name} is not built: cargo build --all-features --example {name}"));
        return None;
    }
    Some(example)
}
