//! One opened store, and how its long operations are watched.

use std::path::PathBuf;

use super::args::{BackendName, DurabilityName, Global, IdsName};
use super::output::{Failure, Output};
use super::progress::Watch;
use super::unshare;
use crate::durability::Durability;
use crate::error::{Error, ErrorKind, Result};
use crate::parallel::Parallelism;
use crate::progress::{Context, Report};
use crate::store::{BackendChoice, FileSystems, Store, StoreOptions};
use crate::tree::Ids;

/// The store that a command works on.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) store: Store,
    pub(super) output: &'a Output,
}

impl<'a> Session<'a> {
    /// Opens the store that the global options name; makes it where it is missing.
    pub(super) fn open(global: &Global, ids: IdsName, output: &'a Output) -> Result<Self> {
        let root = unshare::store_root(global)?;
        let backend = match global.backend {
            BackendName::Auto => BackendChoice::Auto,
            BackendName::Overlay => BackendChoice::Overlay,
            BackendName::Copy => BackendChoice::Copy,
        };
        let ids = match ids {
            IdsName::Exact => Ids::Exact,
            IdsName::Squash => Ids::Squash,
        };
        let file_systems = if global.any_file_system { FileSystems::Any } else { FileSystems::Safe };
        let durability = match global.durability {
            DurabilityName::Full => Durability::Full,
            DurabilityName::Relaxed => Durability::Relaxed,
        };
        let parallelism = global.threads.map_or_else(Parallelism::default, |threads| Parallelism::new(threads.get()));
        let mut options = StoreOptions::new(root)
            .backend(backend)
            .ids(ids)
            .durability(durability)
            .parallelism(parallelism)
            .file_systems(file_systems);
        options.id_shift.clone_from(&global.id_shift);
        let store = Store::open_with(&options)?;
        tracing::debug!(store = %store.root().display(), backend = store.backend().name(), reason = store.backend_reason(), "opened");
        Ok(Self { store, output })
    }

    /// Runs a long operation, with a bar where somebody looks at one. What it skipped goes to standard error, and back for the JSON.
    pub(super) fn run<T>(
        &self,
        what: &str,
        total: Option<u64>,
        operation: impl FnOnce(&Context<'_>) -> Result<T>,
    ) -> Result<(T, Report), Failure> {
        self.watched(what, total, false, operation)
    }

    /// The same, where `strict` makes each skip an error.
    pub(super) fn watched<T>(
        &self,
        what: &str,
        total: Option<u64>,
        strict: bool,
        operation: impl FnOnce(&Context<'_>) -> Result<T>,
    ) -> Result<(T, Report), Failure> {
        let watch = Watch::new(what, total, self.output.shows_progress());
        let context = Context::new(&watch);
        let context = if strict { context.strict() } else { context };
        let outcome = operation(&context);
        let report = context.take_report();
        drop(context);
        watch.finish();
        let value = outcome.map_err(name_the_option)?;
        self.output.report(&report);
        Ok((value, report))
    }
}

/// What the library calls squashing is an option here.
fn name_the_option(error: Error) -> Error {
    match error.kind() {
        // What is read from a tree is not for an import to squash.
        ErrorKind::IdNotMapped if error.hint().is_some_and(|hint| hint.contains("squash")) => error.with_hint(
            "let all such owners become root with --ids squash; or give the user sub-ids, which `plywood doctor` shows how to do; or run it as root",
        ),
        _ => error,
    }
}

/// `SOURCE_DATE_EPOCH` (reproducible-builds.org): seconds since 1970 that no time in an output may exceed.
pub(super) fn source_date_epoch() -> Result<Option<i64>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let seconds = text.to_str().and_then(|text| text.parse().ok()).filter(|seconds| *seconds >= 0);
    seconds.map(Some).ok_or_else(|| {
        let shown: PathBuf = text.into();
        Error::new(ErrorKind::InvalidArgument, "read SOURCE_DATE_EPOCH")
            .at(shown)
            .because("it must be a number of seconds since 1970")
    })
}
