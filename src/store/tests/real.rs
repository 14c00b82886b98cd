//! The verbs on the backends that people use, through real mounts.

use super::*;
use crate::compression::Compression;
use crate::mount::{Mount, Mounted};
use crate::sys::test_support::mounting;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

const BOTH: [fn() -> BackendChoice; 2] = [|| BackendChoice::Overlay, || BackendChoice::Copy];

/// A store of a real backend, and a place to mount at.
struct Real {
    store: Store,
    directory: tempfile::TempDir,
}

impl Real {
    fn new(choice: BackendChoice) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("mnt")).unwrap();
        let store = Store::open_with(&StoreOptions::new(directory.path().join("store")).backend(choice)).unwrap();
        Self { store, directory }
    }

    fn mnt(&self, path: &str) -> PathBuf {
        self.directory.path().join("mnt").join(path)
    }

    fn attach(&self, mount: &Mount) -> Mounted {
        mount.attach(self.mnt("")).unwrap()
    }

    fn prepare(&self, key: &str, parent: Option<&str>) -> Mount {
        let parent = parent.map(|parent| self.store.resolve(parent).unwrap());
        self.store.prepare(&Key::new(key).unwrap(), parent.as_ref(), &PrepareOptions::default()).unwrap()
    }

    fn view(&self, key: &str, parent: Option<&str>) -> Mount {
        let parent = parent.map(|parent| self.store.resolve(parent).unwrap());
        self.store.view(&Key::new(key).unwrap(), parent.as_ref(), &PrepareOptions::default()).unwrap()
    }

    fn commit(&self, name: &str, key: &str) -> Result<crate::snapshot::Info> {
        self.store.commit(&Name::new(name).unwrap(), &Key::new(key).unwrap(), &CommitOptions::default())
    }

    /// A Committed snapshot of what `work` does in its mounted root.
    fn build(&self, name: &str, parent: Option<&str>, work: impl FnOnce(&dyn Fn(&str) -> PathBuf)) {
        let mounted = self.attach(&self.prepare("build", parent));
        work(&|path| self.mnt(path));
        mounted.close().unwrap();
        self.commit(name, "build").unwrap();
    }

    fn changes(&self, name: &str) -> BTreeMap<String, crate::entry::Status> {
        let mut changes = BTreeMap::new();
        let cx = crate::Context::default();
        self.store.changes(name, &cx, |changed| Ok(changes.extend([(changed.path.to_string(), changed.status)]))).unwrap();
        changes
    }

    fn diff(&self, name: &str) -> (Vec<u8>, DiffOutcome) {
        let mut layer = Vec::new();
        let outcome = self.store.diff(name, &mut layer, &DiffOptions::default(), &crate::Context::default()).unwrap();
        (layer, outcome)
    }
}

/// Every test of the set writes this, in an order of its own.
fn base(at: &dyn Fn(&str) -> PathBuf) {
    fs::create_dir(at("etc")).unwrap();
    fs::write(at("etc/motd"), "hello\n").unwrap();
    fs::write(at("etc/shadow"), "secret\n").unwrap();
    fs::set_permissions(at("etc/shadow"), fs::Permissions::from_mode(0o600)).unwrap();
    // Times are part of a diff.
    let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789));
    for path in ["etc/motd", "etc/shadow", "etc", ""] {
        fs::File::open(at(path)).unwrap().set_times(time).unwrap();
    }
}

#[test]
fn containers_of_one_base_see_their_own_writes_alone() {
    mounting(|_| {
        for choice in BOTH {
            let real = Real::new(choice());
            real.build("base", None, base);
            let (a, b) = (real.prepare("a", Some("base")), real.prepare("b", Some("base")));
            let mounted = real.attach(&a);
            fs::write(real.mnt("etc/motd"), "changed\n").unwrap();
            fs::remove_file(real.mnt("etc/shadow")).unwrap();
            fs::write(real.mnt("new"), "").unwrap();
            mounted.close().unwrap();
            let mounted = real.attach(&b);
            assert_eq!(fs::read_to_string(real.mnt("etc/motd")).unwrap(), "hello\n");
            assert_eq!(fs::metadata(real.mnt("etc/shadow")).unwrap().mode() & 0o7777, 0o600);
            assert!(!real.mnt("new").exists());
            mounted.close().unwrap();
            // And again, as another process would mount it.
            let mounted = real.attach(&real.store.mounts("a").unwrap());
            assert_eq!(fs::read_to_string(real.mnt("etc/motd")).unwrap(), "changed\n");
            mounted.close().unwrap();
        }
    });
}

#[test]
fn a_view_refuses_writes_and_shows_its_parent() {
    mounting(|_| {
        for choice in BOTH {
            let real = Real::new(choice());
            real.build("base", None, |at| {
                base(at);
                fs::set_permissions(at(""), fs::Permissions::from_mode(0o750)).unwrap();
            });
            for (key, parent) in [("view", Some("base")), ("of nothing", None)] {
                let mounted = real.attach(&real.view(key, parent));
                let error = fs::write(real.mnt("new"), "").unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{key}");
                assert_eq!(real.mnt("etc/motd").exists(), parent.is_some());
                let mode = fs::metadata(real.mnt("")).unwrap().mode() & 0o7777;
                assert_eq!(mode, if parent.is_some() { 0o750 } else { 0o755 }, "{key}");
                mounted.close().unwrap();
                assert!(real.changes(key).is_empty(), "{key}");
            }
        }
    });
}

#[test]
fn what_is_mounted_is_neither_committed_nor_removed() {
    mounting(|_| {
        for choice in BOTH {
            let real = Real::new(choice());
            let mounted = real.attach(&real.prepare("key", None));
            if real.store.backend().name() == "overlay" {
                assert_eq!(kind_of(real.commit("name", "key")), ErrorKind::InUse);
                assert_eq!(kind_of(real.store.remove("key")), ErrorKind::InUse);
                assert_eq!(real.store.stat("key").unwrap().kind, Kind::Active);
            }
            mounted.close().unwrap();
            real.commit("name", "key").unwrap();
            real.store.remove("name").unwrap();
            let outcome = real.store.gc(&GcOptions::default(), &crate::Context::default()).unwrap();
            assert_eq!(outcome.trees, 1);
        }
    });
}

#[test]
fn both_backends_write_the_same_layers() {
    mounting(|_| {
        let [overlay, copy] = BOTH.map(|choice| {
            let real = Real::new(choice());
            real.build("base", None, base);
            real.build("top", Some("base"), |at| {
                fs::remove_dir_all(at("etc")).unwrap();
                fs::write(at("etc"), "a file now\n").unwrap();
                fs::create_dir_all(at("var/lib")).unwrap();
                let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
                for path in ["etc", "var/lib", "var", ""] {
                    fs::File::open(at(path)).unwrap().set_times(time).unwrap();
                }
            });
            use crate::entry::Status::{Added, Modified};
            let changes = real.changes("top");
            assert_eq!(changes.get("etc"), Some(&Modified), "{changes:?}");
            assert_eq!(changes.get("var/lib"), Some(&Added), "{changes:?}");
            assert!(!changes.contains_key("etc/motd"), "{changes:?}");
            let (bottom, top) = (real.diff("base"), real.diff("top"));
            assert_eq!(real.store.stat("top").unwrap().diff_id, Some(top.1.diff_id.clone()));
            let mut compressed = Vec::new();
            let options = DiffOptions::default().compression(Compression::Zstd);
            let outcome = real.store.diff("top", &mut compressed, &options, &crate::Context::default()).unwrap();
            assert_eq!(outcome.diff_id, top.1.diff_id);
            (bottom, top)
        });
        assert_eq!(overlay, copy);
    });
}

#[test]
fn an_active_root_that_was_changed_is_the_committed_ones() {
    mounting(|_| {
        for choice in BOTH {
            let real = Real::new(choice());
            real.build("base", None, |at| fs::set_permissions(at(""), fs::Permissions::from_mode(0o711)).unwrap());
            assert_eq!(real.changes("base").keys().collect::<Vec<_>>(), ["."]);
            let mounted = real.attach(&real.prepare("child", Some("base")));
            assert_eq!(fs::metadata(real.mnt("")).unwrap().mode() & 0o7777, 0o711);
            mounted.close().unwrap();
            assert!(real.changes("child").is_empty());
        }
    });
}

#[test]
fn usage_counts_what_a_container_wrote() {
    mounting(|_| {
        for choice in BOTH {
            let real = Real::new(choice());
            real.build("base", None, |at| fs::write(at("large"), vec![1; 1 << 20]).unwrap());
            let before = real.store.usage("base").unwrap();
            assert!(before.bytes >= 1 << 20 && before.inodes >= 2, "{before:?}");
            let mounted = real.attach(&real.prepare("child", Some("base")));
            let empty = real.store.usage("child").unwrap();
            fs::write(real.mnt("new"), vec![1; 64 << 10]).unwrap();
            mounted.close().unwrap();
            let now = real.store.usage("child").unwrap();
            assert_eq!(now.inodes, empty.inodes + 1);
            assert!(now.bytes >= empty.bytes + (64 << 10), "{empty:?} {now:?}");
            if real.store.backend().name() == "overlay" {
                assert!(empty.bytes < 1 << 20, "the parent's bytes do not count: {empty:?}");
            }
        }
    });
}

#[test]
fn a_long_chain_mounts_and_one_that_is_too_long_is_refused_at_prepare() {
    mounting(|_| {
        let real = Real::new(BackendChoice::Overlay);
        let mut parent: Option<String> = None;
        let transaction = |work: &dyn Fn(&crate::metadata::Transaction<'_>)| {
            let transaction = real.store.metadata().write_to_survive(Survives::Process).unwrap();
            work(&transaction);
            transaction.commit().unwrap();
        };
        // Made as an import makes them, without 500 mounts.
        let lease = real.store.lease().unwrap();
        for number in 0..500 {
            let diff_id = diff_id(&number.to_string());
            let tree = std::cell::Cell::new(crate::tree::TreeId::EMPTY);
            transaction(&|transaction| tree.set(transaction.allocate_tree(lease.id(), "overlay").unwrap()));
            let fs = real.store.root().join(format!("trees/{}/fs", tree.get()));
            fs::create_dir_all(&fs).unwrap();
            fs::write(fs.join(number.to_string()), "").unwrap();
            let applied = Applied::new(Usage::new(1, 0));
            let name = std::cell::RefCell::new(String::new());
            transaction(&|transaction| {
                let unpacked = Unpacked { diff_id: &diff_id, ids: Ids::Exact, applied: &applied };
                transaction.finish_tree(tree.get(), lease.id(), &unpacked).unwrap();
                let below = parent.as_deref().map(|parent| transaction.snapshot(parent).unwrap().unwrap());
                let new =
                    NewLayer { parent: below.as_ref(), diff_id: &diff_id, tree: tree.get(), root: None, labels: &Labels::new() };
                name.replace(transaction.insert_layer(&new).unwrap().name);
            });
            parent = Some(name.into_inner());
            if number == 127 || number == 498 {
                for (key, mount) in [("rw", real.prepare("rw", parent.as_deref())), ("ro", real.view("ro", parent.as_deref()))] {
                    let mounted = real.attach(&mount);
                    assert_eq!(fs::read_dir(real.mnt("")).unwrap().count(), number + 1);
                    assert_eq!(fs::write(real.mnt("new"), "").is_ok(), key == "rw");
                    mounted.close().unwrap();
                    real.store.remove(key).unwrap();
                }
            }
        }
        let top = real.store.resolve(&parent.unwrap()).unwrap();
        let error = real.store.prepare(&Key::new("rw").unwrap(), Some(&top), &PrepareOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert_eq!(error.reason(), Some("500 layers would be stacked, and the overlay backend mounts 499 at most"));
        lease.release().unwrap();
    });
}

#[test]
fn a_layer_comes_in_over_what_was_committed_here() {
    mounting(|_| {
        for choice in BOTH {
            let real = Real::new(choice());
            let cx = crate::Context::default();
            real.build("base", None, base);
            real.build("top", Some("base"), |at| {
                fs::remove_file(at("etc/shadow")).unwrap();
                fs::write(at("etc/motd"), "changed\n").unwrap();
                fs::set_permissions(at(""), fs::Permissions::from_mode(0o750)).unwrap();
            });
            let usage = real.store.usage("top").unwrap();
            let tar = crate::testing::Layer::new().file("etc/new", "new").tar();
            let import = || {
                let options = ImportLayerOptions::default().parent("top");
                real.store.import_layer(LayerSource::reader(&tar[..]), &options, &cx).unwrap()
            };
            let layer = import();
            // The parent is what its own layer would have made, under that layer's chain id, and takes nothing of its own.
            let [base_id, top_id] = ["base", "top"].map(|name| real.diff(name).1.diff_id);
            let base_chain = ChainId::of(None, &base_id);
            let top_chain = ChainId::of(Some(&base_chain), &top_id);
            assert_eq!(layer.chain_id, ChainId::of(Some(&top_chain), &layer.diff_id));
            let named = real.store.stat(&top_chain.to_string()).unwrap();
            assert_eq!((named.parent, named.diff_id), (Some(base_chain.to_string()), Some(top_id)));
            assert_eq!(real.store.usage(&top_chain.to_string()).unwrap(), usage);
            assert_eq!(real.diff(&top_chain.to_string()).0, real.diff("top").0);
            assert!(import().existed);

            // The names may go, the stack stays.
            for name in ["top", "base"] {
                real.store.remove(name).unwrap();
            }
            let key = Key::new("web").unwrap();
            let mount = real.store.prepare(&key, Some(&Name::from(&layer.chain_id)), &PrepareOptions::default()).unwrap();
            real.store.gc(&Default::default(), &cx).unwrap();
            let mounted = real.attach(&mount);
            assert_eq!(fs::read_to_string(real.mnt("etc/motd")).unwrap(), "changed\n");
            assert_eq!(fs::read_to_string(real.mnt("etc/new")).unwrap(), "new");
            assert!(!real.mnt("etc/shadow").exists());
            assert_eq!(fs::metadata(real.mnt("")).unwrap().mode() & 0o7777, 0o750);
            mounted.close().unwrap();
            real.store.remove("web").unwrap();
            real.store.gc(&Default::default(), &cx).unwrap();
            assert!(real.store.walk(&Filter::default(), |_| Err(Error::new(ErrorKind::InUse, "walk"))).is_ok());
        }
    });
}

#[test]
fn what_no_layer_can_say_of_a_parent_is_not_in_the_stack_above_it() {
    mounting(|_| {
        for choice in BOTH {
            let real = Real::new(choice());
            real.build("base", None, |at| {
                base(at);
                drop(std::os::unix::net::UnixListener::bind(at("etc/socket")).unwrap());
            });
            let options = ImportLayerOptions::default().parent("base");
            let tar = crate::testing::Layer::new().file("new", "").tar();
            let layer = real.store.import_layer(LayerSource::reader(&tar[..]), &options, &crate::Context::default()).unwrap();
            assert_eq!(layer.report.skipped.iter().map(|skipped| &*skipped.path).collect::<Vec<_>>(), ["etc/socket"]);
            let mounted = real.attach(&real.prepare("web", Some(&layer.chain_id.to_string())));
            assert_eq!(fs::read_to_string(real.mnt("etc/motd")).unwrap(), "hello\n");
            assert!(!real.mnt("etc/socket").exists());
            mounted.close().unwrap();
        }
    });
}

#[test]
fn a_layer_that_fails_takes_the_chain_ids_back_that_its_parent_got() {
    mounting(|_| {
        for choice in BOTH {
            let real = Real::new(choice());
            real.build("base", None, base);
            let options = ImportLayerOptions::default().parent("base");
            let failed = real.store.import_layer(LayerSource::reader(&b"no tar"[..]), &options, &crate::Context::default());
            assert_eq!(failed.unwrap_err().kind(), ErrorKind::InvalidLayer);
            let mut names = Vec::new();
            real.store.walk(&Filter::default(), |info| Ok(names.push(info.name))).unwrap();
            assert_eq!(names, ["base"]);
            let mounted = real.attach(&real.prepare("web", Some("base")));
            assert_eq!(fs::read_to_string(real.mnt("etc/motd")).unwrap(), "hello\n");
            mounted.close().unwrap();
        }
    });
}

#[test]
fn where_the_file_system_has_no_xattrs_overlay_is_unsupported_and_nothing_is_left() {
    crate::sys::test_support::mounting_as_root(|_| {
        let directory = tempfile::tempdir().unwrap();
        let none: Option<&str> = None;
        nix::mount::mount(Some("ramfs"), directory.path(), Some("ramfs"), nix::mount::MsFlags::empty(), none).unwrap();
        let root = directory.path().join("a/store");
        let error = Store::open_with(&StoreOptions::new(&root).backend(BackendChoice::Overlay)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("ramfs"), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let store = Store::open(&root).unwrap();
        assert_eq!(store.backend().name(), "copy");
        assert!(store.backend_reason().contains("ramfs"), "{}", store.backend_reason());
    });
}
