//! Owners that are shifted on the disk: what containers with the map see and leave there, and what is told of it, is what it is without.

use super::id_maps::{CAPABILITY, PING, acl, base, inside, live, map, seen};
use super::*;
use crate::backend::Fault;
use crate::compression::Compression;
use crate::mount::{IdMap, IdRange, MountOptions};
use crate::store::check::CheckOptions;
use crate::sys::inode::may_give_away;
use crate::sys::mount::{attach, mapped::clone_mapped};
use crate::sys::namespace::child::user_namespace;
use crate::sys::test_support::{is_root, mounting_as_root, skip};
use crate::testing::conformance::{Means, conformance, import_image, import_layers};
use crate::testing::{Image, Layer};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

const ONE: &str = "u:0:100000:1,u:1:200000:70000,g:0:300000:65536";

/// A store whose trees have the ids of this map, in a directory of its own.
struct Shifted {
    store: Store,
    directory: tempfile::TempDir,
}

impl Shifted {
    fn new(map: &IdMap, ids: Ids) -> Self {
        Self::beside(&in_memory(), Some(map), ids)
    }

    fn beside(place: &Path, map: Option<&IdMap>, ids: Ids) -> Self {
        let directory = tempfile::tempdir_in(place).unwrap();
        let mut options = StoreOptions::new(directory.path().join("store")).backend(BackendChoice::Copy).ids(ids);
        options.id_shift = map.cloned();
        Self { store: Store::open_with(&options).unwrap(), directory }
    }

    fn import(&self, layer: &Layer) -> Result<Imported> {
        let bytes = layer.tar();
        self.store
            .import_layer(LayerSource::reader(&bytes[..]), &ImportLayerOptions::default(), &crate::Context::default())
            .map(|imported| Imported { name: Name::from(&imported.chain_id), report: imported.report })
    }

    fn prepare(&self, key: &str, parent: &Name) -> crate::mount::Mount {
        self.store.prepare(&Key::new(key).unwrap(), Some(parent), &Default::default()).unwrap()
    }

    /// Without the times at which the container wrote.
    fn diff(&self, name: &str) -> Result<(Vec<u8>, crate::Report)> {
        let mut layer = Vec::new();
        let options = DiffOptions::default().compression(Compression::None).clamp_mtime(0);
        let outcome = self.store.diff(name, &mut layer, &options, &crate::Context::default())?;
        Ok((layer, outcome.report))
    }

    fn layer(&self, name: &str) -> Vec<u8> {
        self.diff(name).unwrap().0
    }

    /// The only tree of a committed snapshot.
    fn disk(&self, path: &str) -> PathBuf {
        let trees = fs::read_dir(self.directory.path().join("store/trees")).unwrap();
        let mut found =
            trees.map(|entry| entry.unwrap().path().join("fs").join(path)).filter(|path| path.symlink_metadata().is_ok());
        let first = found.next().unwrap();
        assert!(found.next().is_none(), "there is more than one tree");
        first
    }

    fn findings(&self, options: &CheckOptions) -> Vec<String> {
        let outcome = self.store.check(options, &crate::Context::default()).unwrap();
        outcome.findings.iter().map(|finding| format!("{finding:?}")).collect()
    }
}

struct Imported {
    name: Name,
    report: crate::Report,
}

/// Where nothing has to reach a disk; Linux 6.6 is the first whose tmpfs has all that a tree has.
fn in_memory() -> PathBuf {
    let place = tempfile::tempdir_in("/dev/shm").ok();
    let works = place.is_some_and(|place| xattr::set(place.path(), "user.try", b"").is_ok());
    if works { PathBuf::from("/dev/shm") } else { std::env::temp_dir() }
}

/// Puts an overlay there as the file system of stores: it cannot show other owners than it has.
fn without_id_maps(place: &Path) -> PathBuf {
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(place.join(name)).unwrap();
    }
    let at = |name: &str| place.join(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
    let merged = place.join("merged");
    nix::mount::mount(Some("overlay"), &merged, Some("overlay"), nix::mount::MsFlags::empty(), Some(options.as_str())).unwrap();
    merged
}

#[test]
fn a_container_sees_and_leaves_on_shifted_trees_what_it_would_on_others() {
    mounting_as_root(|_| {
        let place = tempfile::tempdir_in("/var/tmp").unwrap();
        let bare = without_id_maps(place.path());
        for (file_system, map) in [("/var/tmp", map("0:100000:65536")), (bare.to_str().unwrap(), map(ONE))] {
            let file_system = Path::new(file_system);
            let (shifted, plain) =
                (Shifted::beside(file_system, Some(&map), Ids::Exact), Shifted::beside(file_system, None, Ids::Exact));
            let (parent, plain_parent) = (shifted.import(&base()).unwrap().name, plain.import(&base()).unwrap().name);
            assert_eq!(shifted.store.id_shift(), Some(&map));
            let root = map.to_host(0, 0).unwrap();
            let owner = |path: &str| fs::symlink_metadata(shifted.disk(path)).map(|found| (found.uid(), found.gid())).unwrap();
            assert_eq!(
                (owner(""), owner("home/file"), owner("etc/shadow")),
                (root, map.to_host(1000, 1000).unwrap(), map.to_host(0, 42).unwrap())
            );

            if file_system == bare {
                // Why somebody would want it.
                let mapped = PrepareOptions::default().id_map(map.clone());
                let mount = plain.store.prepare(&Key::new("mapped").unwrap(), Some(&plain_parent), &mapped).unwrap();
                assert_eq!(mount.detached().unwrap_err().kind(), ErrorKind::Unsupported);
                plain.store.remove("mapped").unwrap();
            }
            let (box_, plain_box) =
                (shifted.prepare("box", &parent).detached().unwrap(), plain.prepare("box", &plain_parent).detached().unwrap());
            let before = inside(None, &plain_box, seen);
            assert_eq!(inside(Some(&map), &box_, seen), before, "{map}");
            inside(None, &plain_box, live);
            inside(Some(&map), &box_, live);
            inside(Some(&map), &box_, || {
                assert_eq!(
                    xattr::get("bin/ping", CAPABILITY).unwrap().unwrap(),
                    PING,
                    "the container's root is that of its capabilities"
                );
                assert_eq!(xattr::get("etc/shadow", "system.posix_acl_access").unwrap().unwrap(), acl());
                String::new()
            });
            assert!(shifted.layer("box") == plain.layer("box"), "while it runs: the ids are the container's");
            drop((box_, plain_box));
            let name = Name::new("result").unwrap();
            for store in [&shifted.store, &plain.store] {
                store.commit(&name, &Key::new("box").unwrap(), &CommitOptions::default()).unwrap();
            }
            assert!(shifted.layer("result") == plain.layer("result"), "{map}");
            assert_eq!(shifted.findings(&CheckOptions::default().full()), Vec::<String>::new());

            // The layer makes the same tree again, in either store.
            let layer = shifted.layer("result");
            for store in [&shifted, &plain] {
                let options = ImportLayerOptions { parent: Some(parent.as_str().to_owned()), ..Default::default() };
                let again =
                    store.store.import_layer(LayerSource::reader(&layer[..]), &options, &crate::Context::default()).unwrap();
                assert!(store.layer(Name::from(&again.chain_id).as_str()) == layer);
            }
            let (view, plain_view) = (Key::new("view").unwrap(), Some(&name));
            let view = |shifted: &Shifted| shifted.store.view(&view, plain_view, &Default::default()).unwrap().detached().unwrap();
            assert!(inside(Some(&map), &view(&shifted), seen).contains("65535"), "the last group of the map");
            drop(view(&plain));
        }
    });
}

/// The kernel honours them in no mount that is attached nowhere.
#[test]
fn set_uid_programs_and_file_capabilities_of_shifted_trees_work_in_the_container() {
    mounting_as_root(|_| {
        let cat = fs::read("/bin/cat").unwrap();
        let layer = Layer::new()
            .dir("", 0o755)
            .file("plain", cat.clone())
            .mode(0o755)
            .file("set", cat.clone())
            .mode(0o6755)
            .owner(7, 8)
            .file("capable", cat)
            .mode(0o755)
            .xattr(CAPABILITY, PING);
        let shifted = Shifted::new(&map(ONE), Ids::Exact);
        let name = shifted.import(&layer).unwrap().name;
        let place = tempfile::tempdir().unwrap();
        let mounted = shifted.prepare("box", &name).attach(place.path()).unwrap();
        inside(Some(&map(ONE)), &fs::File::open(place.path()).unwrap(), || {
            // In the mount namespace that the child is in by now.
            std::env::set_current_dir(place.path()).unwrap();
            let status = |program: &str| {
                let mut command = std::process::Command::new(format!("./{program}"));
                let output = command.arg("/proc/self/status").uid(1000).gid(1000).output().unwrap();
                String::from_utf8(output.stdout).unwrap()
            };
            let has = |program: &str, lines: &[&str]| {
                let status = status(program);
                lines.iter().for_each(|line| assert!(status.contains(line), "{program}: {line:?} in {status}"));
            };
            let nobody = "CapEff:\t0000000000000000\n";
            has("plain", &["Uid:\t1000\t1000\t1000\t1000\n", "Gid:\t1000\t1000\t1000\t1000\n", nobody]);
            has("set", &["Uid:\t1000\t7\t7\t7\n", "Gid:\t1000\t8\t8\t8\n", nobody]);
            has("capable", &["Uid:\t1000\t1000\t1000\t1000\n", "CapEff:\t0000000000002000\n"]);
            String::new()
        });
        mounted.close().unwrap();
    });
}

#[test]
fn what_is_told_of_shifted_trees_has_the_containers_ids() {
    mounting_as_root(|_| {
        let (shifted, plain) = (Shifted::new(&map(ONE), Ids::Exact), Shifted::beside(&in_memory(), None, Ids::Exact));
        let layers = [
            base(),
            Layer::new().dir("", 0o751).owner(3, 4).file("var/new", "new").owner(5, 6).whiteout("gone").dir("home", 0o711),
        ];
        let mut names = Vec::new();
        for Shifted { store, .. } in [&shifted, &plain] {
            names.push(import_image(store, &layers).unwrap().unwrap());
        }
        let name = names[0].as_str();
        assert_eq!(names[0], names[1]);
        let told = |Shifted { store, .. }: &Shifted| {
            let root = store.open_root(name).unwrap();
            let infos =
                ["/", "home/file", "etc/shadow", "var", "var/new", "bin/su"].map(|path| root.symlink_metadata(path).unwrap());
            let listed = ["/", "/home", "/var"].map(|path| store.read_dir(name, path).unwrap());
            let explained = ["/", "home", "home/file", "etc/shadow", "gone", "var"]
                .map(|path| store.explain(name, path, &crate::Context::default()).unwrap());
            format!("{infos:#?}{listed:#?}{explained:#?}")
        };
        assert_eq!(told(&shifted), told(&plain));
        assert_eq!(shifted.store.open_root(name).unwrap().metadata("var/new").unwrap().uid, 5);
        assert_eq!(shifted.store.open_root(name).unwrap().metadata("/").unwrap().gid, 4);

        // What is wrong with a tree is said, and mended, by the container's ids.
        let tree = shifted.directory.path().join("store/trees");
        let damaged =
            fs::read_dir(tree).unwrap().map(|entry| entry.unwrap().path().join("fs/var/new")).find(|path| path.exists()).unwrap();
        chown(&damaged, Some(200_006), Some(300_006)).unwrap();
        let outcome = shifted.store.check(&CheckOptions::default().full(), &crate::Context::default()).unwrap();
        let fault = format!("{:?}", Fault::Owner { expected: (5, 6), found: (7, 6) });
        assert!(format!("{outcome:?}").contains(&fault), "{outcome:?}");
        shifted.store.check(&CheckOptions::default().full().repair(), &crate::Context::default()).unwrap();
        assert_eq!(shifted.findings(&CheckOptions::default().full()), Vec::<String>::new());
        assert!(shifted.layer(name) == plain.layer(name));
        assert_eq!(shifted.store.open_root(name).unwrap().metadata("var/new").unwrap().uid, 5);
    });
}

/// All cases of the contract, seen through the map turned round: as the container sees them, but by the host's root, which may see all.
#[test]
fn shifted_trees_keep_the_contract() {
    mounting_as_root(|_| {
        // Every id there is, turned round by 100,000.
        let one = map("0:100000:4294867295,4294867295:0:100000");
        let directory = tempfile::tempdir_in(in_memory()).unwrap();
        let turned = crate::sys::ids::IdMap::new(
            one.uids().iter().map(|range| IdRange { inside: range.outside, outside: range.inside, ..*range }).collect(),
        );
        let turned = user_namespace(&IdMaps { uids: turned.clone(), gids: turned }).unwrap();
        // Each case goes one way, layer by layer or as an image, to a container or a view; all ways in the long form.
        let rounds = if std::env::var_os("PLYWOOD_TEST_LONG").is_some() { 4 } else { 1 };
        for round in 0..rounds {
            let shifted = Shifted::beside(directory.path(), Some(&one), Ids::Exact);
            let mut count = 0;
            let outcome = conformance(Means::ROOT, |layers, at| {
                count += 1;
                let way = (count + round) % 4;
                let import = if way < 2 { import_image } else { import_layers };
                let (parent, key) = (import(&shifted.store, layers)?, Key::new(format!("shown-{count}"))?);
                let mount = match way % 2 {
                    0 => shifted.store.view(&key, parent.as_ref(), &Default::default())?,
                    _ => shifted.store.prepare(&key, parent.as_ref(), &Default::default())?,
                };
                let shown = clone_mapped(mount.detached()?, &turned)?;
                attach(&shown, crate::sys::Dir::open(at)?)?;
                Ok(Unmounted(at.to_owned()))
            });
            println!("{outcome}");
            outcome.assert_passed();
            assert_eq!(shifted.findings(&CheckOptions::default().full()), Vec::<String>::new());
        }
    });
}

struct Unmounted(PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn an_id_outside_the_map_is_an_error_that_names_it_or_is_squashed_and_reported() {
    mounting_as_root(|_| {
        let acl = [acl(), [[8_u16, 5].map(u16::to_le_bytes).concat(), 70_000_u32.to_le_bytes().to_vec()].concat()].concat();
        // A capability for the root of another namespace.
        let far = [&[1, 0, 0, 3][..], &PING[4..], &80_000_u32.to_le_bytes()].concat();
        let layers = [
            ("srv/far", Layer::new().file("srv/far", "").owner(70_000, 5), "70000:5"),
            ("srv/far", Layer::new().file("srv/far", "").xattr("system.posix_acl_access", acl.clone()), "group 70000"),
            ("srv/far", Layer::new().file("srv/far", "").xattr(CAPABILITY, far.clone()), "root id 80000"),
            (".", Layer::new().dir("", 0o755).owner(5, 70_000).file("x", ""), "5:70000"),
        ];
        for (path, layer, named) in layers {
            let shifted = Shifted::new(&map("0:100000:65536"), Ids::Exact);
            let error = shifted.import(&layer).map(|imported| imported.name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::IdNotMapped, "{error}");
            assert_eq!(error.path().unwrap(), Path::new(path));
            let reason = error.reason().unwrap();
            assert!(reason.contains(named) && reason.contains("0:100000:65536"), "{error}");
            assert!(error.hint().unwrap().contains("squash"));

            let squashed = Shifted::new(&map("0:100000:65536"), Ids::Squash);
            let imported = squashed.import(&layer).unwrap();
            assert_eq!(imported.report.skipped.len(), 1, "{:?}", imported.report);
            assert_eq!(imported.report.skipped[0].path, path);
            let (layer, report) = squashed.diff(imported.name.as_str()).unwrap();
            assert_eq!(report.skipped, []);
            let again = Shifted::beside(&in_memory(), None, Ids::Exact);
            let again = again.store.import_layer(LayerSource::reader(&layer[..]), &Default::default(), &crate::Context::default());
            assert_eq!(again.unwrap().report.skipped, []);
        }
        let squashed = Shifted::new(&map("0:100000:65536"), Ids::Squash);
        let layer =
            Layer::new().file("a", "").owner(70_000, 5).xattr("system.posix_acl_access", acl).file("b", "").xattr(CAPABILITY, far);
        let name = squashed.import(&layer).unwrap().name;
        let owner = fs::metadata(squashed.disk("a")).unwrap();
        assert_eq!((owner.uid(), owner.gid()), (100_000, 100_005));
        let mount = squashed.prepare("box", &name).detached().unwrap();
        inside(Some(&map("0:100000:65536")), &mount, || {
            assert_eq!(xattr::get("a", "system.posix_acl_access").unwrap().unwrap(), super::id_maps::acl(), "without the entry");
            assert_eq!(xattr::get("b", CAPABILITY).unwrap(), None, "it is nobody's");
            String::new()
        });
    });
}

#[test]
fn what_the_host_put_into_a_shifted_tree_without_an_id_is_an_error_of_the_diff_or_squashed() {
    mounting_as_root(|_| {
        for ids in [Ids::Exact, Ids::Squash] {
            let shifted = Shifted::new(&map("0:100000:65536"), ids);
            let name = shifted.import(&base()).unwrap().name;
            let mount = shifted.prepare("box", &name).detached().unwrap();
            inside(None, &mount, || {
                fs::create_dir("host").unwrap();
                fs::write("host/x", "x").unwrap();
                xattr::set("host/x", CAPABILITY, &PING).unwrap();
                String::new()
            });
            drop(mount);
            match shifted.diff("box") {
                Err(error) => {
                    assert_eq!((ids, error.kind()), (Ids::Exact, ErrorKind::IdNotMapped));
                    assert_eq!(error.path().unwrap(), Path::new("host"));
                    assert!(error.reason().unwrap().contains("0:0") && error.hint().is_some(), "{error}");
                }
                Ok((layer, report)) => {
                    assert_eq!(ids, Ids::Squash);
                    let told: Vec<_> = report.skipped.iter().map(ToString::to_string).collect();
                    assert_eq!(told.len(), 3, "{told:?}");
                    assert!(told[2].contains("host/x") && told[2].contains("root id 0"), "{told:?}");
                    let text = String::from_utf8_lossy(&layer);
                    assert!(text.contains("host/x") && !text.contains(CAPABILITY));
                }
            }
        }
    });
}

#[test]
fn a_shifted_store_has_one_map_for_good_and_the_copy_backend() {
    if !is_root() {
        return skip("a_shifted_store_has_one_map_for_good_and_the_copy_backend", "needs root");
    }
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (map("0:100000:65536"), map("0:200000:65536"));
    let options = |name: &str| StoreOptions::new(directory.path().join(name));
    let error = Store::open_with(&options("overlay").backend(BackendChoice::Overlay).id_shift(one.clone())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.hint().unwrap().contains("mount its snapshots with the id map"), "{error}");
    assert!(!directory.path().join("overlay").exists(), "nothing is left");

    let store = Store::open_with(&options("shifted").id_shift(one.clone())).unwrap();
    assert_eq!(store.backend().name(), "copy");
    assert!(store.backend_reason().contains("0:100000:65536"), "{}", store.backend_reason());
    drop(store);
    for same in [options("shifted"), options("shifted").id_shift(one.clone()), options("shifted").backend(BackendChoice::Copy)] {
        assert_eq!(Store::open_with(&same).unwrap().id_shift(), Some(&one));
    }
    let error = Store::open_with(&options("shifted").id_shift(two.clone())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let reason = error.reason().unwrap();
    assert!(reason.contains("0:100000:65536") && reason.contains("0:200000:65536"), "{error}");
    // Nor does a backend that knows of no map open it.
    let plain = Store::open_with(&options("plain").backend(BackendChoice::Copy)).unwrap();
    let error = Store::open_with(&options("shifted").backend(BackendChoice::Custom(plain.inner.backend.clone()))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(error.reason(), Some("the store shifts owners, and the backend does not"));
    drop(plain);
    let error = Store::open_with(&options("plain").id_shift(two)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.reason().unwrap().contains("0:200000:65536"), "{error}");
}

#[test]
fn a_mount_of_shifted_trees_needs_no_map_and_takes_no_other() {
    if !is_root() {
        return skip("a_mount_of_shifted_trees_needs_no_map_and_takes_no_other", "needs root");
    }
    let (one, two) = (map("0:100000:65536"), map("0:200000:65536"));
    for ids in [Ids::Exact, Ids::Squash] {
        let shifted = Shifted::new(&one, ids);
        let name = shifted.import(&base()).unwrap().name;
        let prepare = |key: &str, map: &IdMap| {
            shifted.store.prepare(&Key::new(key).unwrap(), Some(&name), &PrepareOptions::default().id_map(map.clone()))
        };
        let mount = prepare("box", &one).unwrap();
        assert_eq!(mount.id_map(), None);
        assert!(mount.options().is_ok(), "it is a mount like any other");
        let error = mount.clone().with_options(&MountOptions::new().id_map(two.clone())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(
            error.reason().unwrap().contains("0:100000:65536") && error.reason().unwrap().contains("0:200000:65536"),
            "{error}"
        );
        assert_eq!(mount.with_options(&MountOptions::new().id_map(one.clone())).unwrap().id_map(), None);
        assert_eq!(prepare("other", &two).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(shifted.store.stat("other").unwrap_err().kind(), ErrorKind::NotFound, "nothing was made");
    }
}

/// An ordinary user has himself to give files to, and the root of a namespace with one id has nobody else either.
#[test]
fn who_cannot_give_files_to_the_ids_of_a_map_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let open = |text: &str| Store::open_with(&StoreOptions::new(directory.path().join("store")).id_shift(map(text)));
    if may_give_away() && is_root() {
        return drop(open("0:100000:65536").unwrap());
    }
    let error = open("0:100000:65536").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IdNotMapped);
    assert!(error.hint().unwrap().contains("sub-ids") && error.reason().unwrap().contains("0:100000:65536"), "{error}");
    assert!(!directory.path().join("store").exists());
}

#[test]
fn an_image_goes_through_a_shifted_store_and_comes_out_the_same() {
    mounting_as_root(|_| {
        let image =
            Image::new().layer(base(), Compression::Gzip).layer(Layer::new().file("srv/new", "new").owner(7, 8), Compression::Gzip);
        let directory = tempfile::tempdir().unwrap();
        image.write_layout(directory.path(), "image").unwrap();
        let mut manifests = Vec::new();
        for (shift, policy) in [
            (None, BlobPolicy::Keep),
            (Some(map(ONE)), BlobPolicy::Keep),
            (None, BlobPolicy::Drop),
            (Some(map(ONE)), BlobPolicy::Drop),
        ] {
            let shifted = tempfile::tempdir().unwrap();
            let mut options = StoreOptions::new(shifted.path().join("store")).backend(BackendChoice::Copy).blobs(policy);
            options.id_shift = shift;
            let store = Store::open_with(&options).unwrap();
            let cx = crate::Context::default();
            store.import(ImageSource::path(directory.path()), &ImportOptions::default().reference("image"), &cx).unwrap();
            let full = store.check(&CheckOptions::default().full(), &cx).unwrap();
            assert!(full.findings.is_empty(), "{full:?}");
            let out = shifted.path().join("out");
            store.export("image", &out, &ExportOptions::default(), &cx).unwrap();
            manifests.push(fs::read_to_string(out.join("index.json")).unwrap());
        }
        assert_eq!((&manifests[0], &manifests[2]), (&manifests[1], &manifests[3]));
    });
}
