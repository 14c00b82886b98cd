//! Nothing is left out or clamped in silence: each kind of it, in the report of who is lenient and as the error of who is strict.

use super::*;
use crate::descriptor::MediaType;
use crate::progress::{Context, Progress, Reason, Report, Silent, Skipped};
use crate::store::{DiffOptions, ImportLayerOptions, LayerSource};
use crate::sys::test_support::{Place, mounting, skip};
use crate::testing::Layer;
use crate::tree::Ids;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

/// Whether the caller wants errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Lenient,
    Strict,
}

impl Caller {
    fn context<'a>(self, progress: &'a dyn Progress) -> Context<'a> {
        let cx = Context::new(progress);
        if self == Self::Strict { cx.strict() } else { cx }
    }
}

/// How one kind of skip is brought about.
struct Case {
    /// Where the report says that it was.
    path: &'static str,
    cause: fn(&Real, Caller) -> Result<Report>,
    /// Only in a user namespace with one id.
    in_namespace: bool,
}

fn case(path: &'static str, cause: fn(&Real, Caller) -> Result<Report>) -> Case {
    Case { path, cause, in_namespace: false }
}

/// Names every kind, once: one that is not here does not compile.
macro_rules! kinds {
    ($($kind:ident => $case:expr,)*) => {
        fn kind(reason: &Reason) -> &'static str {
            match reason {
                $(Reason::$kind { .. } => stringify!($kind),)*
            }
        }

        fn cases() -> Vec<(&'static str, Case)> {
            vec![$((stringify!($kind), $case)),*]
        }
    };
}

kinds! {
    GlobalHeader => case(".", |real, caller| real.import(&Layer::new().member("g", b'g').content("13 comment=c\n"), caller)),
    AufsMetadata => case(".wh..wh.aufs", |real, caller| real.import(&Layer::new().file(".wh..wh.aufs", ""), caller)),
    TrailingData => case(".", |real, caller| real.import(&Layer::new().without_end().raw([0; 1024]).raw("x"), caller)),
    MediaType => case(".", |real, caller| {
        let options = ImportLayerOptions::default().media_type(MediaType::new(MediaType::LAYER_GZIP));
        real.import_with(&Layer::new().file("f", ""), &options, caller)
    }),
    XattrForbidden => case("f", |real, caller| real.import(&Layer::new().file("f", "").xattr("security.selinux", "label"), caller)),
    XattrRefused => case("f", |real, caller| real.import(&Layer::new().file("f", "").xattr("user.large", [0; 65_537]), caller)),
    TimeClamped => case("f", |real, caller| real.import(&Layer::new().file("f", "").mtime(1 << 40, 0), caller)),
    DeviceRefused => Case { in_namespace: true, ..case("f", |real, caller| real.import(&Layer::new().block_device("f", 8, 0), caller)) },
    Socket => case("f", |real, caller| {
        real.diff(&Silent, caller, |root| drop(std::os::unix::net::UnixListener::bind(root.join("f")).unwrap()))
    }),
    IdSquashed => Case { in_namespace: true, ..case("f", |real, caller| real.import(&Layer::new().file("f", "").owner(5, 6), caller)) },
    ChangedWhileRead => case("f", |real, caller| {
        real.diff(&Grow(real.mnt("f")), caller, |root| fs::write(root.join("f"), vec![1; 1_000_000]).unwrap())
    }),
}

/// A container that writes while it is read: a file that one reading does not take whole.
struct Grow(PathBuf);

impl Progress for Grow {
    fn bytes(&self, _count: u64) {
        File::options().append(true).open(&self.0).unwrap().write_all(b"more").unwrap();
    }
}

/// A store of a real backend, and a place to mount at.
struct Real {
    store: crate::testing::TemporaryStore,
    directory: tempfile::TempDir,
}

impl Real {
    fn new(backend: BackendChoice) -> Self {
        let store = Store::temporary_with(|options| options.backend(backend).ids(Ids::Squash)).unwrap();
        Self { store, directory: tempfile::tempdir().unwrap() }
    }

    fn mnt(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn import(&self, layer: &Layer, caller: Caller) -> Result<Report> {
        self.import_with(layer, &ImportLayerOptions::default(), caller)
    }

    fn import_with(&self, layer: &Layer, options: &ImportLayerOptions, caller: Caller) -> Result<Report> {
        let imported = self.store.import_layer(LayerSource::reader(&*layer.tar()), options, &caller.context(&Silent));
        if imported.is_err() {
            let mut names = Vec::new();
            self.store.walk(&Default::default(), |info| {
                names.push(info.name);
                Ok(())
            })?;
            assert!(names.is_empty(), "an error leaves nothing: {names:?}");
        }
        imported.map(|imported| imported.report)
    }

    /// The diff of what `work` does in a root.
    fn diff(&self, progress: &dyn Progress, caller: Caller, work: impl FnOnce(&std::path::Path)) -> Result<Report> {
        let key = Key::new("key").unwrap();
        let mounted = self.store.prepare(&key, None, &Default::default())?.attach(self.directory.path())?;
        work(self.directory.path());
        let diff = self.store.diff("key", std::io::sink(), &DiffOptions::default(), &caller.context(progress));
        mounted.close()?;
        diff.map(|diff| diff.report)
    }
}

/// An error and its causes.
fn chain(error: &Error) -> String {
    let links = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    links.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Whether the file system keeps any time.
fn keeps_every_time() -> bool {
    let file = tempfile::tempfile().unwrap();
    let time = crate::entry::Timestamp::from_seconds(1 << 40);
    crate::sys::inode::set_times(&file, time, time).unwrap();
    crate::sys::inode::stat(&file).unwrap().mtime == time
}

#[test]
fn every_kind_of_skip_is_reported_with_its_path_and_an_error_for_the_strict() {
    mounting(|place| {
        for (name, case) in cases() {
            if case.in_namespace && place == Place::Root {
                continue;
            }
            if name == "TimeClamped" && keeps_every_time() {
                skip("every_kind_of_skip_is_reported", "this file system keeps every time");
                continue;
            }
            for backend in [|| BackendChoice::Overlay, || BackendChoice::Copy] {
                let report = (case.cause)(&Real::new(backend()), Caller::Lenient).unwrap_or_else(|error| panic!("{name}: {error}"));
                let [Skipped { path, reason }] = report.skipped.as_slice() else { panic!("{name}: {report:?}") };
                assert_eq!((path.as_str(), kind(reason), report.total), (case.path, name, 1));

                let error = (case.cause)(&Real::new(backend()), Caller::Strict).expect_err(name);
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}: {error}");
                let text = chain(&error);
                assert!(text.contains(&reason.to_string()), "{name}: {text}");
                if case.path != "." {
                    assert!(text.contains(&format!(" {}:", case.path)), "{name}: {text}");
                }
            }
        }
    });
}
