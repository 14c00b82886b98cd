//! Mounting through the command, and what an ordinary user is told.

use super::*;

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
