//! The `plywood` command: arguments in, one verb of [`Store`](crate::store::Store) called, its result out as text or as JSON.
//!
//! Thin: what plywood can do, the library can do. The command alone reads the environment (`XDG_DATA_HOME`, `HOME`,
//! `SOURCE_DATE_EPOCH`), takes signals, prints, and enters a user namespace for an ordinary user. Exit status: 0, 1 (the operation
//! failed), 2 (usage), 3 (`check` found damage that stays). What a script wants is the last word on standard output; all the rest goes to
//! standard error.

mod args;
mod bundle;
mod check;
mod collect;
#[cfg(feature = "containerd")]
mod containerd;
mod diff;
mod doctor;
mod explain;
mod images;
mod leases;
mod limits;
mod log;
mod mounts;
mod output;
mod progress;
mod read;
mod replacement;
mod session;
mod snapshots;
mod stats;
mod unshare;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Cli, Command, IdsName, ImageCommand, LayerCommand};
use output::{Failure, Output};
use session::Session;

/// Runs the command with the arguments, environment and standard streams of this process.
pub fn main() -> ExitCode {
    run(std::env::args_os().collect())
}

fn run(arguments: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        // clap's own text: help and version go to standard output with status 0, the rest to standard error with status 2.
        Err(error) => return output::usage(&error, arguments.iter().any(|argument| argument == "--json")),
    };
    let output = Output::new(&cli.global);
    log::install(cli.global.verbose);
    match dispatch(cli, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.failure(&failure),
    }
}

fn dispatch(cli: Cli, output: &Output) -> Result<(), Failure> {
    let global = &cli.global;
    match cli.command {
        Command::Completion { shell } => {
            // Into memory first: what writes it panics where nobody reads.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "plywood", &mut script);
            output.sink().write_all(&script).map_err(Failure::of_output)
        }
        Command::Doctor => doctor::doctor(global, output),
        Command::Unshare { command } => unshare::unshare(global, &command, output),
        Command::Umount { target } => mounts::umount(&target, output),
        command => {
            unshare::enter_for(global, &command)?;
            let ids = match &command {
                Command::Import(arguments) => arguments.ids,
                Command::Layer { command: LayerCommand::Import(arguments) } => arguments.ids,
                _ => IdsName::Exact,
            };
            let writes_elsewhere = matches!(command, Command::Diff(_) | Command::Export(_));
            let done = Session::open(global, ids, output).map_err(Failure::from).and_then(|session| on_store(command, &session));
            done.map_err(|failure| if writes_elsewhere { failure } else { failure.on_full_disk(global) })
        }
    }
}

fn on_store(command: Command, session: &Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Import(arguments) => images::import(session, arguments),
        Command::Layer { command: LayerCommand::Import(arguments) } => images::import_layer(session, arguments),
        Command::Images => images::list(session),
        Command::Image { command: ImageCommand::Inspect { reference } } => images::inspect(session, &reference),
        Command::Image { command: ImageCommand::Tag { source, reference } } => images::tag(session, &source, &reference),
        Command::Image { command: ImageCommand::Rm { references } } | Command::Rmi { references } => {
            images::remove(session, &references)
        }
        Command::Export(arguments) => images::export(session, arguments),
        Command::Snapshots => snapshots::tree(session),
        Command::Stat { key } => snapshots::stat(session, &key),
        Command::Usage { key } => snapshots::usage(session, &key),
        Command::Stats(arguments) => stats::stats(session, &arguments),
        Command::Du => stats::du(session),
        Command::Label { key, labels } => snapshots::label(session, &key, &labels),
        Command::Prepare(arguments) => snapshots::prepare(session, &arguments),
        Command::View(arguments) => snapshots::view(session, &arguments),
        Command::Commit { name, key } => snapshots::commit(session, &name, &key),
        Command::Remove { now, keys } => snapshots::remove(session, &keys, now),
        Command::Gc(arguments) => collect::gc(session, &arguments),
        Command::Lease { command } => leases::lease(session, command),
        Command::Check { full, repair } => check::check(session, full, repair),
        Command::Mounts { options, key } => mounts::mounts(session, &key, &options),
        Command::Mount { options, key, target } => mounts::mount(session, &key, &target, &options),
        Command::Bundle(arguments) => bundle::bundle(session, &arguments),
        #[cfg(feature = "containerd")]
        Command::Containerd { address, containerd_address } => {
            containerd::containerd(session, address.as_deref(), containerd_address.as_deref())
        }
        Command::Cat { key, paths } => read::cat(session, &key, &paths),
        Command::Ls { key, path } => read::ls(session, &key, &path),
        Command::Cp { key, path, target } => read::cp(session, &key, &path, &target),
        Command::Explain { key, path } => explain::explain(session, &key, &path),
        Command::Changes { key } => diff::changes(session, &key),
        Command::Diff(arguments) => diff::diff(session, arguments),
        // `dispatch` has seen to these.
        Command::Completion { .. } | Command::Doctor | Command::Unshare { .. } | Command::Umount { .. } => Ok(()),
    }
}
