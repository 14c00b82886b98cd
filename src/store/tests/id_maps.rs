//! Containers with ids of their own: what they see, and what their writes are on the disk, in a diff and under another map.

use super::*;
use crate::compression::Compression;
use crate::mount::{Detached, IdMap, Mount, MountOptions};
use crate::sys::mount::Api;
use crate::sys::namespace::child::user_namespace;
use crate::sys::test_support::{Child, mounting_as_root};
use crate::testing::{Layer, Tree};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

pub(super) const CAPABILITY: &str = "security.capability";

/// `cap_net_raw+ep`, version 2.
pub(super) const PING: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Read for the user 1000 beside the owner.
pub(super) fn acl() -> Vec<u8> {
    let entry = |tag: u16, mode: u16, id: u32| [&tag.to_le_bytes()[..], &mode.to_le_bytes(), &id.to_le_bytes()].concat();
    let none = u32::MAX;
    [2_u32.to_le_bytes().to_vec(), entry(1, 6, none), entry(2, 4, 1000), entry(4, 4, none), entry(16, 4, none), entry(32, 4, none)]
        .concat()
}

pub(super) fn base() -> Layer {
    Layer::new()
        .dir("", 0o755)
        .dir("bin", 0o755)
        .file("bin/ping", "ping")
        .mode(0o755)
        .xattr(CAPABILITY, PING)
        .file("bin/su", "su")
        .mode(0o4755)
        .dir("dev", 0o755)
        .char_device("dev/null", 1, 3)
        .dir("etc", 0o755)
        .file("etc/motd", "hello")
        .file("etc/shadow", "secret")
        .mode(0o640)
        .owner(0, 42)
        .xattr("system.posix_acl_access", acl())
        .dir("gone", 0o755)
        .file("gone/a", "a")
        .dir("home", 0o700)
        .owner(1000, 1000)
        .file("home/file", "mine")
        .owner(1000, 1000)
        .hardlink("home/link", "home/file")
        .dir("hidden", 0o755)
        .file("hidden/x", "x")
}

pub(super) fn map(text: &str) -> IdMap {
    text.parse().unwrap()
}

/// A store of a real backend with the base layer.
struct Mapped {
    store: Store,
    _directory: tempfile::TempDir,
    parent: Name,
}

impl Mapped {
    fn new(choice: BackendChoice, layer: &Layer, ids: Ids) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(directory.path().join("store")).backend(choice).ids(ids);
        let store = Store::open_with(&options).unwrap();
        let bytes = layer.tar();
        let cx = crate::Context::default();
        let imported = store.import_layer(LayerSource::reader(&bytes[..]), &ImportLayerOptions::default(), &cx).unwrap();
        Self { store, _directory: directory, parent: Name::from(&imported.chain_id) }
    }

    fn prepare(&self, key: &str, parent: &Name, map: Option<&IdMap>) -> Result<Mount> {
        let options = PrepareOptions { id_map: map.cloned(), ..PrepareOptions::default() };
        self.store.prepare(&Key::new(key).unwrap(), Some(parent), &options)
    }

    fn commit(&self, name: &str, key: &str) -> Name {
        let name = Name::new(name).unwrap();
        self.store.commit(&name, &Key::new(key).unwrap(), &CommitOptions::default()).unwrap();
        name
    }

    /// Without the times at which the container wrote.
    fn diff(&self, name: &str) -> Vec<u8> {
        let mut layer = Vec::new();
        let options = DiffOptions::default().compression(Compression::None).clamp_mtime(0);
        self.store.diff(name, &mut layer, &options, &crate::Context::default()).unwrap();
        layer
    }
}

/// Runs `work` in a container's root directory, as root of a user namespace with this map; without one as root of the host.
pub(super) fn inside(map: Option<&IdMap>, mount: &impl AsFd, work: impl FnOnce() -> String) -> String {
    let namespace = map.map(|map| user_namespace(map.maps()).unwrap());
    let enter = || -> nix::Result<()> {
        nix::unistd::fchdir(mount.as_fd())?;
        let Some(namespace) = namespace else { return Ok(()) };
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWUSER)?;
        let root = 0;
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(root.into(), root.into(), root.into())?;
        nix::unistd::setresuid(root.into(), root.into(), root.into())
    };
    let child = Child { user: None, sub_ids: None };
    child.run(|| enter().map_err(|errno| format!("enter: {errno}")).map(|()| work())).unwrap()
}

/// Everything that a container can do to its files, without the ways in which it may not.
pub(super) fn live() -> String {
    fs::write("new", "new").unwrap();
    chown("new", Some(1000), Some(65_535)).unwrap();
    xattr::set("new", CAPABILITY, &PING).unwrap();
    fs::write("etc/motd", "hello, world").unwrap();
    fs::hard_link("etc/motd", "etc/motd2").unwrap();
    chown("home/file", Some(1001), Some(1002)).unwrap();
    fs::rename("home/file", "home/moved").unwrap();
    fs::remove_dir_all("gone").unwrap();
    fs::create_dir("gone").unwrap();
    fs::write("gone/c", "c").unwrap();
    fs::remove_file("hidden/x").unwrap();
    fs::set_permissions("bin/su", fs::Permissions::from_mode(0o6711)).unwrap();
    fs::set_permissions("dev/null", fs::Permissions::from_mode(0o666)).unwrap();
    xattr::set("bin/ping", "user.note", b"copied up").unwrap();
    chown("etc/shadow", Some(5), None).unwrap();
    xattr::set("gone/c", "system.posix_acl_access", &acl()).unwrap();
    symlink("/etc/motd", "link").unwrap();
    std::os::unix::fs::lchown("link", Some(7), Some(8)).unwrap();
    nix::unistd::mkfifo("fifo", nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    String::new()
}

/// What is there, with all that a container can see of it.
pub(super) fn seen() -> String {
    format!("{:#?}", Tree::read(".").unwrap())
}

#[test]
fn a_container_with_its_own_ids_sees_and_leaves_what_one_without_would() {
    mounting_as_root(|_| {
        let (one, two) = (map("0:100000:65536"), map("u:0:300000:1,u:1:400000:70000,g:0:200000:65536"));
        let ways = [
            (BackendChoice::Overlay, None),
            (BackendChoice::Overlay, Some(Api::Paths)),
            (BackendChoice::Overlay, Some(Api::Legacy)),
            (BackendChoice::Copy, None),
        ];
        for (choice, api) in ways {
            let mapped = Mapped::new(choice, &base(), Ids::Exact);
            let with_api = |mount: Mount| match api {
                Some(api) => mount.with_api(api),
                None => mount,
            };
            let plain = mapped.prepare("plain", &mapped.parent, None).unwrap().detached().unwrap();
            let before = inside(None, &plain, seen);
            inside(None, &plain, live);
            drop(plain);
            let mount = with_api(mapped.prepare("mapped", &mapped.parent, Some(&one)).unwrap());
            let detached = mount.detached().unwrap();
            assert_eq!(inside(Some(&one), &detached, seen), before, "{mount:?}");
            inside(Some(&one), &detached, live);
            inside(Some(&one), &detached, || {
                // What a user namespace forbids stays forbidden.
                let device = nix::sys::stat::mknod("sda", nix::sys::stat::SFlag::S_IFBLK, nix::sys::stat::Mode::S_IRUSR, 8 << 8);
                assert_eq!(device, Err(nix::errno::Errno::EPERM));
                let error = chown("new", Some(65_536), None).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "an id outside the map");
                String::new()
            });
            assert_eq!(mount.detached().unwrap_err().kind(), ErrorKind::InUse);
            drop(detached);
            assert!(mapped.diff("mapped") == mapped.diff("plain"), "the ids are the container's: {mount:?}");
            let (plain, result) = (mapped.commit("plain-1", "plain"), mapped.commit("mapped-1", "mapped"));
            assert!(mapped.diff("mapped-1") == mapped.diff("plain-1"), "{mount:?}");

            // The same tree for everybody; the two were written at different times.
            let view = mapped.store.view(&Key::new("view").unwrap(), Some(&result), &Default::default()).unwrap();
            let as_it_is = inside(None, &view.detached().unwrap(), seen);
            let again = with_api(mapped.prepare("again", &result, Some(&two)).unwrap());
            let detached = again.detached().unwrap();
            assert_eq!(inside(Some(&two), &detached, seen), as_it_is, "{again:?}");
            let owner = fs::metadata(format!("/proc/self/fd/{}/new", std::os::fd::AsRawFd::as_raw_fd(&detached.as_fd()))).unwrap();
            assert_eq!((owner.uid(), owner.gid()), (400_999, 265_535), "as the host sees it");
            // One more change on top of what was copied up under the other map.
            inside(Some(&two), &detached, || {
                assert_eq!(
                    xattr::get("new", CAPABILITY).unwrap().unwrap(),
                    PING,
                    "the container's root is the root of its capabilities"
                );
                fs::remove_file("new").unwrap();
                fs::write("bin/ping", "pong").unwrap();
                String::new()
            });
            drop(detached);
            let plain = mapped.prepare("plain", &plain, None).unwrap().detached().unwrap();
            inside(None, &plain, || {
                fs::remove_file("new").unwrap();
                fs::write("bin/ping", "pong").unwrap();
                String::new()
            });
            drop(plain);
            assert!(mapped.diff("again") == mapped.diff("plain"), "{again:?}");
        }
    });
}

#[test]
fn a_mapped_root_is_attached_and_read_only_where_that_is_asked_for() {
    mounting_as_root(|_| {
        for choice in [BackendChoice::Overlay, BackendChoice::Copy] {
            let mapped = Mapped::new(choice, &base(), Ids::Exact);
            let one = map("0:100000:65536");
            let options = PrepareOptions::default().id_map(one.clone());
            let place = tempfile::tempdir().unwrap();
            let view = mapped.store.view(&Key::new("view").unwrap(), Some(&mapped.parent), &options).unwrap();
            let mounted = view.attach(place.path()).unwrap();
            assert_eq!(fs::metadata(place.path().join("home")).unwrap().uid(), 101_000);
            assert_eq!(fs::metadata(place.path()).unwrap().uid(), 100_000);
            assert_eq!(fs::write(place.path().join("x"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
            mounted.close().unwrap();
            // Options said later keep the map, and a map can be said later.
            let again = mapped.prepare("box", &mapped.parent, None).unwrap();
            let again = again.with_options(&MountOptions::new().id_map(one.clone())).unwrap();
            let again = again.with_options(&MountOptions::new().nodev()).unwrap();
            assert_eq!(again.id_map(), Some(&one));
            let mounted = again.attach(place.path()).unwrap();
            assert_eq!(fs::metadata(place.path().join("etc/shadow")).unwrap().gid(), 100_042);
            // Root of the host is nobody in the container: what it makes could not be said on the disk.
            let error = fs::write(place.path().join("x"), "").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EOVERFLOW));
            mounted.close().unwrap();
        }
    });
}

#[test]
fn an_owner_outside_the_map_is_an_error_or_nobody() {
    mounting_as_root(|_| {
        for choice in [BackendChoice::Overlay, BackendChoice::Copy] {
            let layer = base().then(Layer::new().dir("srv", 0o755).dir("srv/far", 0o755).owner(70_000, 5));
            let mapped = Mapped::new(choice.clone(), &layer, Ids::Exact);
            for text in ["0:100000:65536", "0:100000:1"] {
                let error = mapped.prepare("box", &mapped.parent, Some(&map(text))).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::IdNotMapped);
                assert!(error.hint().is_some() && error.path().is_some(), "{error}");
                if text == "0:100000:65536" {
                    assert_eq!(error.path().unwrap(), std::path::Path::new("srv/far"));
                    assert!(error.reason().unwrap().contains("70000:5"), "{error}");
                }
            }
            mapped.prepare("box", &mapped.parent, Some(&map("0:100000:70001"))).unwrap();
            mapped.prepare("box-2", &mapped.parent, Some(&map("0:100000:70001"))).unwrap();

            let squashed = Mapped::new(choice, &layer, Ids::Squash);
            let one = map("0:100000:65536");
            let detached = squashed.prepare("box", &squashed.parent, Some(&one)).unwrap().detached().unwrap();
            inside(Some(&one), &detached, || {
                assert_eq!(fs::metadata("srv/far").unwrap().uid(), 65_534);
                assert_eq!(fs::metadata("home").unwrap().uid(), 1000);
                String::new()
            });
        }
    });
}

#[test]
fn clients_of_mount_2_are_told_that_they_cannot_map_owners() {
    mounting_as_root(|_| {
        for choice in [BackendChoice::Overlay, BackendChoice::Copy] {
            let is_copy = matches!(choice, BackendChoice::Copy);
            let mapped = Mapped::new(choice, &base(), Ids::Exact);
            let mount = mapped.prepare("box", &mapped.parent, Some(&map("u:0:5:70000,g:0:100000:65536"))).unwrap();
            for refused in [mount.options().map(drop), mount.relative_options().map(drop), mount.check_page()] {
                let error = refused.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.hint().unwrap().contains("detached"), "{error}");
            }
            match mount.to_oci("/") {
                Ok(document) => {
                    assert!(is_copy);
                    assert_eq!(document["uidMappings"], serde_json::json!([{ "containerID": 0, "hostID": 5, "size": 70_000 }]));
                    assert_eq!(document["gidMappings"][0]["hostID"], 100_000);
                }
                Err(error) => assert!(!is_copy && error.kind() == ErrorKind::Unsupported, "{error}"),
            }
        }
    });
}

#[test]
fn containers_with_one_map_share_one_namespace() {
    mounting_as_root(|_| {
        let mapped = Mapped::new(BackendChoice::Overlay, &base(), Ids::Exact);
        let one = map("0:100000:65536");
        let children = || fs::read_to_string("/proc/thread-self/children").unwrap();
        let namespaces = || {
            let links = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
            links.filter(|link| link.to_string_lossy().starts_with("user:")).count()
        };
        let all: Vec<Detached> =
            (0..5).map(|n| mapped.prepare(&format!("{n}"), &mapped.parent, Some(&one)).unwrap().detached().unwrap()).collect();
        assert_eq!((children().as_str(), namespaces()), ("", 1));
        drop((all, one));
        assert_eq!(namespaces(), 0);
    });
}
