//! What is told to be mounted, mounted by mount(2) and in one page of options, as containerd and runc do.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use nix::mount::{MsFlags, mount};

use super::*;
use crate::Durability;
use crate::snapshot::{Key, Name};
use crate::store::StoreOptions;
use crate::sys::test_support::{mounting_as_root, skip};

/// Mounts an overlay. Options that do not fit in a page are shortened by working in the directory that all lower ones are in.
fn attach(mounts: &[types::Mount], target: &Path) -> PathBuf {
    let [told] = mounts else { panic!("{mounts:?}") };
    assert_eq!(told.r#type, "overlay");
    let (mut flags, mut data) = (MsFlags::empty(), Vec::new());
    for option in &told.options {
        match option.as_str() {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "rw" => {}
            other => data.push(other.to_owned()),
        }
    }
    if data.join(",").len() >= 4096 {
        let lowers = data.iter_mut().find(|option| option.starts_with("lowerdir=")).unwrap();
        let paths: Vec<_> = lowers.trim_start_matches("lowerdir=").split(':').map(PathBuf::from).collect();
        let common = paths[0].parent().and_then(Path::parent).unwrap();
        std::env::set_current_dir(common).unwrap();
        let short = paths.iter().map(|path| path.strip_prefix(common).unwrap().to_str().unwrap());
        *lowers = format!("lowerdir={}", short.collect::<Vec<_>>().join(":"));
    }
    let data = data.join(",");
    assert!(data.len() < 4096, "{} bytes", data.len());
    fs::create_dir_all(target).unwrap();
    mount(Some(told.source.as_str()), target, Some("overlay"), flags, Some(data.as_str())).unwrap();
    target.to_owned()
}

fn is_overlay(served: &Served, test: &str) -> bool {
    let is = served.store.backend().shares_trees();
    if !is {
        skip(test, "needs overlayfs");
    }
    is
}

#[test]
fn a_view_refuses_writes_and_a_fresh_root_is_0755_whatever_the_umask() {
    mounting_as_root(|_| {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let served = Served::new();
        if !is_overlay(&served, "a_view_refuses_writes_and_a_fresh_root_is_0755_whatever_the_umask") {
            return;
        }
        let place = |name: &str| served.address.with_file_name(name);
        let fresh = attach(&served.prepare("fresh", "").unwrap(), &place("fresh"));
        let metadata = fs::metadata(&fresh).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o755, 0, 0));
        fs::write(fresh.join("file"), "written").unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o750)).unwrap();
        nix::mount::umount(&fresh).unwrap();
        served.commit("base", "fresh").unwrap();
        let view = attach(&served.view("view", "base").unwrap(), &place("view"));
        assert_eq!(fs::read_to_string(view.join("file")).unwrap(), "written");
        assert_eq!(fs::metadata(&view).unwrap().mode() & 0o7777, 0o750);
        for refused in [fs::write(view.join("new"), ""), fs::write(view.join("file"), ""), fs::remove_file(view.join("file"))] {
            assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EROFS));
        }
        let empty = attach(&served.view("empty", "").unwrap(), &place("empty"));
        assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
        assert_eq!(fs::write(empty.join("new"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
    });
}

#[test]
fn what_is_written_is_the_usage_of_its_snapshot_alone() {
    let served = Served::new();
    let inside = |mounts: &[types::Mount]| {
        let upper = mounts[0].options.iter().find_map(|option| option.strip_prefix("upperdir=")).map(PathBuf::from);
        upper.unwrap_or_else(|| PathBuf::from(&mounts[0].source))
    };
    let mounts = served.prepare("key", "").unwrap();
    let before = served.usage("key").unwrap();
    fs::write(inside(&mounts).join("file"), vec![1; 1 << 20]).unwrap();
    let after = served.usage("key").unwrap();
    assert_eq!(after.inodes, before.inodes + 1);
    assert!(after.size - before.size >= 1 << 20, "{before:?} {after:?}");
    served.commit("base", "key").unwrap();
    let base = served.usage("base").unwrap();
    assert!(base.inodes == after.inodes && base.size >= 1 << 20, "{base:?}");
    if served.store.backend().shares_trees() {
        served.prepare("child", "base").unwrap();
        let child = served.usage("child").unwrap();
        assert!(child.size < 1 << 20 && child.inodes <= before.inodes, "{child:?}");
    }
}

#[test]
fn a_chain_of_128_layers_fits_a_page() {
    mounting_as_root(|_| {
        let (store, directory) = crate::testing::temporary_store().unwrap();
        let options = StoreOptions { ids: store.ids(), ..StoreOptions::new(store.root()) }.durability(Durability::Relaxed);
        let relaxed = Store::open_with(&options).unwrap();
        let served = Served { _directory: Some(directory), ..Served::at(store.clone(), store.root().with_file_name("socket")) };
        if !is_overlay(&served, "a_chain_of_128_layers_fits_a_page") {
            return;
        }
        let mut parent: Option<Name> = None;
        for number in 0..128 {
            let key = Key::new("containerd:key").unwrap();
            relaxed.prepare(&key, parent.as_ref(), &Default::default()).unwrap();
            let mounts = served.mounts("key").unwrap();
            let upper = mounts[0].options.iter().find_map(|option| option.strip_prefix("upperdir=")).unwrap();
            fs::write(Path::new(upper).join(format!("{number:03}")), "").unwrap();
            fs::write(Path::new(upper).join("last"), number.to_string()).unwrap();
            let name = Name::new(format!("containerd:layer {number}")).unwrap();
            relaxed.commit(&name, &key, &Default::default()).unwrap();
            parent = Some(name);
        }
        for (mounts, name) in
            [(served.prepare("web", "layer 127").unwrap(), "web"), (served.view("look", "layer 127").unwrap(), "look")]
        {
            let target = attach(&mounts, &served.address.with_file_name(name));
            assert_eq!(fs::read_dir(&target).unwrap().count(), 129);
            assert_eq!(fs::read_to_string(target.join("last")).unwrap(), "127");
        }
    });
}
