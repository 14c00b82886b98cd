//! Where overlayfs cannot work, or a system call is not to be had: `auto` finds out by trying, says why, and everything that needs no
//! mount goes on with the same result; what does is refused with the reason and the way out.

use std::fs;
use std::os::raw::c_long;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;

use plywood::compression::Compression;
use plywood::mount::IdMap;
use plywood::snapshot::{Key, Name};
use plywood::store::{ImageSource, ImportLayerOptions, ImportOptions, LayerSource, PrepareOptions, Store, StoreOptions};
use plywood::testing::{Image, Layer};
use plywood::{Context, Error, ErrorKind, Parallelism, Result};
use serde_json::Value;

use crate::support::seccomp::forbid;
use crate::support::{Disk, Others, Sandbox, plywood};

/// Nothing of it leaves the root: entries through symlinks that lead out stay inside.
fn base(canary: &Path) -> Layer {
    let canary = canary.to_str().unwrap();
    Layer::new()
        .dir("", 0o755)
        .dir("etc", 0o755)
        .file("etc/motd", "hello")
        .file("etc/gone", "gone")
        .dir("old", 0o755)
        .file("old/a", "a")
        .symlink("out", canary)
        .symlink("up", "../../../../../../..")
        .file("out/through", "inside")
        .file(format!("up{canary}/climbed"), "inside")
        .hardlink("etc/link", "out/through")
}

/// What came of the main job.
struct Done {
    backend: String,
    reason: String,
    /// Why the snapshot could not be mounted, and so not be changed.
    refused: Option<Error>,
    /// The first and the last layer.
    diffs: [Vec<u8>; 2],
}

/// `change` is done by somebody who may all.
fn main_job(store: &Path, canary: &Path, target: &Path, change: impl Fn()) -> Result<Done> {
    let cx = Context::default();
    let store = Store::open_with(&StoreOptions::new(store))?;
    let tar = base(canary).tar();
    let imported = store.import_layer(LayerSource::reader(&tar[..]), &ImportLayerOptions::default(), &cx)?;
    let parent = Name::from(&imported.chain_id);
    let (box_1, work) = (Key::new("box-1")?, Name::new("work")?);
    let mount = store.prepare(&box_1, Some(&parent), &Default::default())?;
    let refused = match mount.attach(target) {
        Ok(mounted) => {
            change();
            mounted.close()?;
            None
        }
        Err(error) => Some(error),
    };
    let diff = |name: &str| {
        let mut layer = Vec::new();
        store.diff(name, &mut layer, &plywood::store::DiffOptions::default().clamp_mtime(0), &cx).map(|_| layer)
    };
    let diffs = [diff(parent.as_str())?, diff("box-1")?];
    store.commit(&work, &box_1, &Default::default())?;
    assert_eq!(diff("work")?, diffs[1]);
    let motd = std::io::read_to_string(store.open_file("work", "etc/motd")?).unwrap();
    assert_eq!(motd, if refused.is_some() { "hello" } else { "hello, world" });
    drop(store.view(&Key::new("look")?, Some(&work), &Default::default())?);
    for name in ["look", "work"] {
        store.remove(name)?;
    }
    store.gc(&Default::default(), &cx)?;
    Ok(Done { backend: store.backend().name().to_owned(), reason: store.backend_reason().to_owned(), refused, diffs })
}

/// A write, a whiteout, an opaque directory, one name less of a hardlink.
fn change(root: &Path) {
    fs::write(root.join("etc/motd"), "hello, world").unwrap();
    fs::remove_file(root.join("etc/gone")).unwrap();
    fs::remove_dir_all(root.join("old")).unwrap();
    fs::create_dir(root.join("old")).unwrap();
    fs::write(root.join("old/b"), "b").unwrap();
    // Not through the link: overlayfs parts the names of a file that it copies up.
    fs::remove_file(root.join("etc/link")).unwrap();
    fs::write(root.join("etc/link"), "linked").unwrap();
    let mut names: Vec<_> = fs::read_dir(root.join("etc")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["link", "motd"], "no ghosts");
}

/// Does the job in a directory, without these system calls.
fn job_without(place: &Path, calls: &[c_long], errno: i32) -> Result<Done> {
    // The layer names it, and is the same everywhere.
    let (store, canary, target) = (place.join("store"), std::env::temp_dir().join("canary"), place.join("target"));
    for directory in [&canary, &target] {
        fs::create_dir_all(directory).unwrap();
    }
    let done = std::thread::scope(|scope| {
        let ((ask, asked), (tell, told)) = (mpsc::channel(), mpsc::channel());
        let job = || {
            if !calls.is_empty() {
                forbid(calls, errno);
            }
            let (ask, told) = (ask, told);
            main_job(&store, &canary, &target, || {
                ask.send(()).unwrap();
                told.recv().unwrap();
            })
        };
        let job = scope.spawn(job);
        while let Ok(()) = asked.recv() {
            change(&target);
            tell.send(()).unwrap();
        }
        job.join().unwrap()
    });
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 0, "nothing left the root");
    assert_eq!(
        fs::read_dir(&target).unwrap().count(),
        0,
        "nothing stays mounted without {calls:?} ({errno}): {:?}",
        done.as_ref().err().map(whole)
    );
    done
}

/// What the doctor says of a directory to a process without these system calls.
fn doctor(place: &Path, calls: &[c_long], errno: i32) -> Value {
    let output = std::thread::scope(|scope| {
        let doctor = scope.spawn(|| {
            if !calls.is_empty() {
                forbid(calls, errno);
            }
            plywood().args(["--json", "--root"]).arg(place.join("new-store")).arg("doctor").ok()
        });
        doctor.join().unwrap()
    });
    serde_json::from_str(&output.stdout).unwrap()
}

/// It says what a store is made with there and why, and what of it costs something.
#[track_caller]
fn assert_doctor_shows(done: &Done, report: &Value) {
    // But for where it was tried.
    let reason = |text: &str| text.split(' ').filter(|word| !word.starts_with('/')).collect::<Vec<_>>().join(" ");
    assert_eq!(report["backend"], done.backend.as_str(), "{report}");
    assert_eq!(reason(report["reason"].as_str().unwrap()), reason(&done.reason), "{report}");
    let overlay = report["checks"].as_array().unwrap().iter().find(|check| check["works"] == false);
    assert!(overlay.is_some_and(|check| check["cost"].is_string()), "{report}");
}

/// An error with all its causes.
fn whole(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(link) = cause {
        text.push_str(&format!(": {link}"));
        cause = link.source();
    }
    text
}

#[test]
fn each_call_that_a_filter_takes_away_is_made_up_for_or_named() {
    // Which calls; the backend that a new store gets; what an error names where nothing can be mounted.
    const MOUNTING: [c_long; 7] = [
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_mount_setattr,
        libc::SYS_mount,
    ];
    let rows: &[(&[c_long], &str, Option<&str>)] = &[
        (&[libc::SYS_openat2], "overlay", None),
        (&[libc::SYS_statx], "overlay", None),
        (&[libc::SYS_fsopen], "overlay", None),
        (&[libc::SYS_fsconfig], "overlay", None),
        (&[libc::SYS_mount_setattr], "overlay", None),
        (&[libc::SYS_open_tree], "overlay", None),
        (&[libc::SYS_mount], "overlay", None),
        (&[libc::SYS_renameat2], "overlay", None),
        (&[libc::SYS_copy_file_range], "overlay", None),
        (&[libc::SYS_fchmodat2], "overlay", None),
        (&[libc::SYS_sync_file_range], "overlay", None),
        (&[libc::SYS_unshare], "overlay", None),
        (&[libc::SYS_setns], "overlay", None),
        (&[libc::SYS_openat2, libc::SYS_statx, libc::SYS_fsopen], "overlay", None),
        (&[libc::SYS_move_mount], "overlay", Some("move_mount")),
        (&[libc::SYS_fsmount], "copy", None),
        (&[libc::SYS_fsopen, libc::SYS_unshare], "copy", None),
        (&[libc::SYS_fsopen, libc::SYS_mount], "copy", Some("mount")),
        (&MOUNTING, "copy", Some("mount")),
    ];
    Sandbox::root().disk(Disk::Ext4).run(|| {
        let whole_job = |name: &str, calls, errno| {
            let place = std::env::temp_dir().join(name);
            fs::create_dir(&place).unwrap();
            let done = job_without(&place, calls, errno);
            fs::remove_dir_all(&place).unwrap();
            done
        };
        let plain = whole_job("job", &[], 0).unwrap();
        assert!(plain.backend == "overlay" && plain.refused.is_none());
        let mut wrong = Vec::new();
        for (calls, backend, named) in rows {
            for errno in [libc::ENOSYS, libc::EPERM] {
                let row = format!("{calls:?} answer {errno}");
                let done = match whole_job("job", calls, errno) {
                    Ok(done) => done,
                    Err(error) => {
                        wrong.push(format!("{row}: {}", whole(&error)));
                        continue;
                    }
                };
                if done.backend != *backend || done.refused.is_some() != named.is_some() || done.diffs[0] != plain.diffs[0] {
                    wrong.push(format!("{row}: {} ({}), {:?}", done.backend, done.reason, done.refused.as_ref().map(whole)));
                }
                if done.backend == "copy" {
                    if !done.reason.starts_with("copy: overlayfs cannot be used on ext4: ") {
                        wrong.push(format!("{row}: {}", done.reason));
                    }
                    assert_doctor_shows(&done, &doctor(&std::env::temp_dir(), calls, errno));
                }
                match &done.refused {
                    None if done.diffs != plain.diffs => wrong.push(format!("{row}: another diff")),
                    None => {}
                    Some(error) => {
                        let clear = matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied);
                        if !clear || error.hint().is_none() || !named.is_some_and(|named| whole(error).contains(named)) {
                            wrong.push(format!("{row}: {} ({:?}, {:?})", whole(error), error.kind(), error.hint()));
                        }
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    });
}

#[test]
fn without_mount_setattr_no_mount_maps_owners_and_a_store_that_shifts_them_needs_none() {
    Sandbox::root().disk(Disk::Ext4).run(|| {
        for errno in [libc::ENOSYS, libc::EPERM] {
            let place = std::env::temp_dir().join(format!("without-{errno}"));
            let target = place.join("target");
            fs::create_dir_all(&target).unwrap();
            let job = || {
                forbid(&[libc::SYS_mount_setattr], errno);
                let map: IdMap = "0:100000:65536".parse()?;
                let prepare = |options: StoreOptions| {
                    let store = Store::open_with(&options)?;
                    let tar = Layer::new().file("motd", "hello").owner(7, 8).tar();
                    let imported = store.import_layer(LayerSource::reader(&tar[..]), &Default::default(), &Context::default())?;
                    let options = PrepareOptions::default().id_map(map.clone());
                    store.prepare(&Key::new("box")?, Some(&Name::from(&imported.chain_id)), &options)
                };
                let error = prepare(StoreOptions::new(place.join("store")))?.detached().unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied), "{error}");
                assert!(whole(&error).contains("mount_setattr") && error.hint().is_some(), "{}, {:?}", whole(&error), error.hint());
                let shifted = StoreOptions::new(place.join("shifted")).id_shift(map.clone());
                let mounted = prepare(shifted)?.attach(&target)?;
                let found = fs::metadata(target.join("motd")).unwrap();
                assert_eq!((found.uid(), found.gid()), (100_007, 100_008));
                mounted.close()
            };
            std::thread::scope(|scope| scope.spawn(job).join().unwrap()).unwrap();
        }
    });
}

/// An image whose upper layer takes a file from the lower one, beside small and large ones.
fn image() -> Image {
    let small = |layer: Layer, number: usize| layer.file(format!("small/{number}"), number.to_string());
    let lower = (0..200).fold(Layer::new().file("kept", "kept"), small).file("large", vec![b'l'; 3 << 20]);
    let upper = Layer::new().hardlink("again", "kept").file("other", vec![b'o'; 200 << 10]);
    Image::new().layer(lower, Compression::Gzip).layer(upper, Compression::Zstd)
}

#[test]
fn an_import_waits_for_the_data_of_others_only_where_there_is_no_other_way() {
    let import = |name: &str, threads: usize, forbidden: &[(c_long, i32)]| {
        let place = std::env::temp_dir();
        let job = || {
            forbidden.iter().for_each(|&(call, errno)| forbid(&[call], errno));
            let options = StoreOptions::new(place.join(name)).parallelism(Parallelism::new(threads));
            Store::open_with(&options)?.import(
                ImageSource::path(place.join("layout")),
                &ImportOptions::default(),
                &Context::default(),
            )
        };
        std::thread::scope(|scope| scope.spawn(job).join().unwrap()).map(drop)
    };
    for (disk, keeps_order) in [(Disk::Ext4, true), (Disk::Xfs, true), (Disk::TwoDiskExt4, false), (Disk::Btrfs, false)] {
        Sandbox::root().disk(disk).run(|| {
            image().write_layout(std::env::temp_dir().join("layout"), "latest").unwrap();
            let others = Others::on(&std::env::temp_dir().join("others"));
            for threads in [1, 3] {
                others.write();
                let all = import(&format!("own-{threads}"), threads, &[(libc::SYS_syncfs, libc::EIO)]);
                assert_eq!(all.is_ok(), keeps_order, "{disk:?}, {threads} threads: {all:?}");
                // What cannot be waited for by itself is waited for with all the rest.
                others.write();
                let forbidden = [(libc::SYS_sync_file_range, libc::ENOSYS), (libc::SYS_syncfs, libc::EIO)];
                let error = import(&format!("all-{threads}"), threads, &forbidden).unwrap_err();
                assert!(error.kind() == ErrorKind::Io && whole(&error).contains("syncfs"), "{disk:?}: {}", whole(&error));
                // What failed is given up.
                others.write();
                let lost = import(&format!("lost-{threads}"), threads, &[(libc::SYS_sync_file_range, libc::EIO)]);
                assert_eq!(lost.is_err(), keeps_order, "{disk:?}, {threads} threads: {lost:?}");
                if let Err(error) = lost {
                    assert!(whole(&error).contains("sync_file_range"), "{}", whole(&error));
                    let place = || std::env::temp_dir().join(format!("lost-{threads}"));
                    let left = fs::read_dir(place().join("trees")).unwrap().count();
                    assert_eq!(left, 0, "nothing of it is left");
                }
            }
        });
    }
}

#[test]
fn a_file_system_that_does_not_tell_types_gets_copies() {
    Sandbox::root().disk(Disk::Ext2WithoutTypes).run(|| {
        let done = job_without(&std::env::temp_dir(), &[], 0).unwrap();
        assert_eq!(done.backend, "copy", "{}", done.reason);
        assert!(done.reason.contains("d_type"), "{}", done.reason);
        assert_doctor_shows(&done, &doctor(&std::env::temp_dir(), &[], 0));
        assert!(done.refused.is_none());
    });
}

#[test]
fn a_file_system_without_xattrs_gets_copies() {
    Sandbox::root().disk(Disk::Ramfs).run(|| {
        let done = job_without(&std::env::temp_dir(), &[], 0).unwrap();
        assert_eq!(done.backend, "copy", "{}", done.reason);
        assert!(done.reason.contains("ramfs"), "{}", done.reason);
        assert_doctor_shows(&done, &doctor(&std::env::temp_dir(), &[], 0));
        assert!(done.refused.is_none());
    });
}

#[test]
fn a_store_on_an_overlay_gets_copies() {
    Sandbox::root().disk(Disk::Ext4).run(|| {
        let place = |name: &str| std::env::temp_dir().join(name);
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(place(name)).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            place("lower").display(),
            place("upper").display(),
            place("work").display()
        );
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("overlay"), &place("merged"), Some("overlay"), flags, Some(options.as_str())).unwrap();
        let plain = job_without(&place(""), &[], 0).unwrap();
        let done = job_without(&place("merged"), &[], 0).unwrap();
        assert_eq!((plain.backend.as_str(), done.backend.as_str()), ("overlay", "copy"), "{}", done.reason);
        assert!(done.reason.starts_with("copy: overlayfs cannot be used on overlay: "), "{}", done.reason);
        assert_doctor_shows(&done, &doctor(&place("merged"), &[], 0));
        assert!(done.refused.is_none());
        assert_eq!(done.diffs[1], plain.diffs[1]);
        nix::mount::umount2(&place("merged"), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}
