//! Mounting through the command, and what an ordinary user is told.

use super::*;
use crate::support::Disk;

as_everybody! {
    in_the_namespace_everybody_mounts {
        let store = Store::new("auto");
        let chain = store.layer(&base(), None);
        let script = format!(
            "mkdir a b; plywood prepare one {chain} --mount a; plywood view two {chain} --mount b; cat a/etc/motd; echo x > a/new; \
             ! echo x 2>/dev/null > b/new; cat b/link; plywood mounts one --json; plywood umount a; plywood umount b; ls a b"
        );
        let output = in_namespace(&store, &script);
        assert_eq!(output.status, 0, "{output:?}");
        assert!(output.stdout.contains("hello\n") && output.stdout.ends_with("a:\n\nb:\n"), "{output:?}");
    }
    what_a_runtime_would_mount_is_data {
        let store = Store::new("auto");
        store.layer(&base(), None);
        store.ok(&["prepare", "box", base().diff_id().to_string().as_str()]);
        let mounts = store.json(&["mounts", "box"]);
        let mount = &mounts[0];
        assert!(["overlay", "bind"].contains(&mount["type"].as_str().unwrap()), "{mounts}");
        assert!(mount["options"].as_array().is_some_and(|options| !options.is_empty()), "{mounts}");
        assert!(store.ok(&["mounts", "box"]).stdout.starts_with("mount -t "));
        assert_eq!(store.error(&["mounts", &base().diff_id().to_string()])["kind"], "InvalidArgument");
        assert!(store.error(&["mounts", "nobody"])["message"].as_str().unwrap().contains("nobody"));
    }
}

#[test]
fn outside_the_namespace_an_ordinary_user_is_shown_the_way() {
    Sandbox::user().run(|| {
        let store = Store::new("auto");
        store.ok(&["prepare", "box"]);
        fs::create_dir(store.path("m")).unwrap();
        let root = format!("plywood --root {}", store.path("store").display());
        for (arguments, again) in
            [(&["mount", "box", "m"][..], "mount box m"), (&["prepare", "new", "--mount", "m"], "prepare new --mount m")]
        {
            let error = store.error(arguments);
            assert_eq!(error["kind"], "PermissionDenied");
            let hint = error["hint"].as_str().unwrap();
            assert!(hint.starts_with("`plywood unshare`") && hint.contains(&format!("{root} {again};")), "{error}");
        }
        assert_eq!(store.json(&["snapshots"]).as_array().unwrap().len(), 1);
    });
}

#[test]
fn root_mounts_on_each_backend() {
    Sandbox::root().run(|| {
        for backend in ["overlay", "copy"] {
            let store = Store::new(backend);
            let chain = store.layer(&base(), None);
            let target = store.path("m");
            fs::create_dir(&target).unwrap();
            store.ok(&["prepare", "box", &chain, "--mount", "m"]);
            fs::write(target.join("new"), "x").unwrap();
            assert_eq!(store.error(&["remove", "box"])["kind"], "InUse", "{backend}");
            assert_eq!(store.error(&["mount", "box", "m"])["kind"], "InUse", "{backend}");
            store.ok(&["umount", "m"]);
            assert!(read(&target).get("new").is_none());
            assert_eq!(store.ok(&["changes", "box"]).stdout, "C /\nA /new\n", "{backend}");
            store.ok(&["mount", "box", "m"]);
            assert_eq!(fs::read_to_string(target.join("new")).unwrap(), "x");
            store.ok(&["umount", "m"]);
            assert_ne!(store.tool(&["umount", "m"]).run().status, 0, "nothing is mounted there any more");
            store.ok(&["remove", "box"]);
        }
    });
}

#[test]
fn a_mount_that_fails_leaves_no_snapshot() {
    Sandbox::root().run(|| {
        let store = Store::new("auto");
        assert_eq!(store.error(&["prepare", "box", "--mount", "missing"])["kind"], "NotFound");
        assert_eq!(store.json(&["snapshots"]), Value::Array(Vec::new()));
    });
}

#[test]
fn the_default_root_is_the_users_own() {
    Sandbox::user().run(|| {
        let home = tempfile::tempdir().unwrap();
        plywood().args(["prepare", "box"]).env("HOME", home.path()).env("XDG_DATA_HOME", "").ok();
        assert!(home.path().join(".local/share/plywood/plywood.db").exists());
        let data = home.path().join("data");
        plywood().args(["prepare", "box"]).env("HOME", home.path()).env("XDG_DATA_HOME", &data).ok();
        assert!(data.join("plywood/plywood.db").exists());
        let inside = plywood().args(["unshare"]).arg(plywood().program()).args(["stat", "box", "--json"]);
        inside.env("HOME", home.path()).env("XDG_DATA_HOME", &data).ok();
    });
}

as_everybody! {
    the_doctor_says_what_works {
        let store = Store::new("auto");
        let report = store.json(&["doctor"]);
        assert!(report["backend"].is_string(), "{report}");
        assert!(!report["checks"].as_array().unwrap().is_empty(), "{report}");
        for check in report["checks"].as_array().unwrap() {
            for key in ["what", "works", "cost", "remedy"] {
                assert!(check.get(key).is_some(), "{check}");
            }
            assert!(check["works"] == true || check["cost"].as_str().is_some_and(|cost| !cost.is_empty()), "{check}");
        }
        assert!(store.ok(&["doctor"]).stdout.contains("overlay"));
        assert!(!store.path("store").exists(), "looking makes no store");
        let made = Store { backend: "copy", ..store };
        made.ok(&["images"]);
        assert_eq!(made.json(&["doctor"])["store"], "a store with the copy backend");
    }
}

#[test]
fn how_to_mount_is_said_as_mount_8_has_it() {
    Sandbox::root().run(|| {
        for backend in ["overlay", "copy"] {
            let store = Store::new(backend);
            let chain = store.layer(&base(), None);
            fs::create_dir(store.path("m")).unwrap();
            let shown = || {
                let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
                let target = store.path("m");
                let line = table.lines().find(|line| line.contains(&format!(" {} ", target.display()))).unwrap();
                line.split(' ').nth(5).unwrap().to_owned()
            };
            store.ok(&["prepare", "box", &chain, "--mount", "m", "-o", "ro,nosuid,nodev"]);
            assert!(shown().starts_with("ro,nosuid,nodev"), "{}", shown());
            assert!(fs::write(store.path("m/new"), "").is_err());
            store.ok(&["umount", "m"]);
            store.ok(&["mount", "box", "m", "-o", "noexec"]);
            assert!(shown().starts_with("rw,noexec"), "{}", shown());
            store.ok(&["umount", "m"]);
            let options = &store.json(&["mounts", "box", "-o", "nosuid,ro"])[0]["options"];
            assert!(options.as_array().unwrap().ends_with(&["ro".into(), "nosuid".into()]), "{options}");
            for wrong in ["metacopy=on", "lowerdir=/etc", "bogus", "userxattr", "redirect_dir=on"] {
                let output = store.tool(&["mount", "box", "m", "-o", wrong]).run();
                assert_eq!(output.status, 2, "{wrong}: {output:?}");
                assert!(output.stderr.contains(wrong.split('=').next().unwrap()), "{output:?}");
            }
        }
    });
}

#[test]
fn a_volatile_snapshot_is_whole_until_the_system_starts_anew() {
    Sandbox::root().run(|| {
        for backend in ["overlay", "copy"] {
            let store = Store::new(backend);
            let chain = store.layer(&base(), None);
            let target = store.path("m");
            fs::create_dir(&target).unwrap();
            for key in ["one", "two"] {
                store.ok(&["prepare", key, &chain, "--mount", "m", "-o", "volatile"]);
                fs::write(target.join("new"), key).unwrap();
                store.ok(&["umount", "m"]);
                store.ok(&["mount", key, "m"]);
                assert_eq!(fs::read_to_string(target.join("new")).unwrap(), key);
                store.ok(&["umount", "m"]);
                store.ok(&["mount", "-o", "volatile", key, "m"]);
                store.ok(&["umount", "m"]);
            }
            assert_eq!(store.ok(&["changes", "one"]).stdout, "C /\nA /new\n");
            store.ok(&["commit", "one-committed", "one"]);
            assert_eq!(store.ok(&["changes", "one-committed"]).stdout, "C /\nA /new\n");
            if backend == "copy" {
                continue;
            }
            let trees = fs::read_dir(store.path("store/trees")).unwrap().map(|entry| entry.unwrap().path().join("work/volatile"));
            let notes: Vec<PathBuf> = trees.filter(|note| note.exists()).collect();
            assert_eq!(notes.len(), 1, "that of the one that is not committed: {notes:?}");
            fs::write(&notes[0], "another boot").unwrap();
            for arguments in
                [&["mount", "two", "m"][..], &["changes", "two"], &["commit", "kept", "two"], &["mounts", "two", "-o", "volatile"]]
            {
                let error = store.error(arguments);
                assert_eq!(error["kind"], "Corrupt", "{arguments:?} {error}");
            }
            store.ok(&["remove", "two", "--now"]);
        }
    });
}

#[test]
fn mount_8_takes_what_it_is_shown_whatever_the_path() {
    Sandbox::root().run(|| {
        for name in ["plain", "a,b", "a:b", "a\\b", "a b\tc", "a\nb", "quo\"te'", "lowerdir=x,upperdir=y"] {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path().join(name);
            let plywood =
                |arguments: &[&str]| plywood().arg("--root").arg(&root).args(arguments).current_dir(directory.path()).ok();
            let target = directory.path().join("m");
            fs::create_dir(&target).unwrap();
            for (arguments, made) in [(&["prepare", "base"][..], "base"), (&["prepare", "box", "base-1"], "box")] {
                plywood(arguments);
                let line = plywood(&["mounts", made]).stdout.replace("TARGET", &target.display().to_string());
                Tool::new("sh").args(["-euc", &line]).ok();
                fs::write(target.join(made), made).unwrap();
                plywood(&["umount", "m"]);
                assert_eq!(plywood(&["changes", made]).stdout, format!("C /\nA /{made}\n"), "{name:?}");
                if made == "base" {
                    plywood(&["commit", "base-1", "base"]);
                }
            }
            // And plywood itself, at a place whose name is no better.
            let target = directory.path().join(format!("at {name}"));
            fs::create_dir(&target).unwrap();
            plywood(&["mount", "box", target.to_str().unwrap()]);
            assert_eq!(fs::read_to_string(target.join("box")).unwrap(), "box");
            plywood(&["umount", target.to_str().unwrap()]);
        }
    });
}

#[test]
fn a_store_that_cannot_be_written_is_read_and_mounted() {
    Sandbox::root().disk(Disk::Ext4).run(|| {
        let store = Store::new("auto");
        let chain = store.layer(&base(), None);
        store.ok(&["prepare", "box", &chain]);
        let target = tempfile::tempdir_in("/tmp").unwrap();
        let target = target.path().to_str().unwrap();
        let disk = std::env::temp_dir();
        let remount = |how: &str| Tool::new("mount").args(["-o", how]).arg(&disk).ok();
        remount("remount,ro");
        store.ok(&["mount", &chain, target]);
        assert_eq!(fs::read_to_string(format!("{target}/etc/motd")).unwrap(), store.ok(&["cat", &chain, "/etc/motd"]).stdout);
        store.ok(&["umount", target]);
        assert!(store.ok(&["snapshots"]).stdout.contains("box"));
        store.ok(&["check", "--full"]);
        store.ok(&["diff", &chain, "-o", "/dev/null"]);
        for arguments in [&["remove", "box"][..], &["mount", "box", target], &["prepare", "new", &chain], &["gc"]] {
            let error = store.error(arguments);
            assert_eq!(error["kind"], "PermissionDenied", "{arguments:?}");
            assert!(error["message"].as_str().unwrap().contains("read-only"), "{error}");
        }
        remount("remount,rw");
    });
}
