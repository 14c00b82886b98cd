//! A snapshot's files without a mount: `cat`, `ls`, `cp`.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

/// With all that could lead a reader astray.
fn tricky() -> Layer {
    let layer = Layer::new().dir("", 0o711).dir("d", 0o750).file("d/set", "set-id").mode(0o4755).file("d/deep/er/file", "deep\n");
    let layer = layer.symlink("d/out", "/../../etc/motd").symlink("d/loop", "loop").symlink("escape", "/proc/self/root/etc/passwd");
    layer.file("etc/motd", "inside\n").mtime(1_000_000_000, 5).fifo("d/pipe").file("d/new\nline", "").symlink("up", "../../../d")
}

/// How many users there are to give files to.
fn ids(store: &Store) -> u64 {
    let map = in_namespace(store, "cat /proc/self/uid_map").ok().stdout;
    map.lines().map(|line| line.split_whitespace().last().unwrap().parse::<u64>().unwrap()).sum()
}

/// Who owns what stands at a path.
fn owner(store: &Store, name: &str, path: &str) -> (u64, u64) {
    let info = &store.json(&["ls", name, path])[0];
    (info["uid"].as_u64().unwrap(), info["gid"].as_u64().unwrap())
}

as_everybody! {
    owners_are_exact_where_there_are_ids_for_them_and_squashed_on_demand {
        for backend in ["auto", "copy"] {
            let store = Store::new(backend);
            let layer = Layer::new().dir("", 0o755).dir("d", 0o755).owner(5, 6).file("d/f", "f").owner(998, 999).mode(0o4755);
            fs::write(store.path("layer.tar"), layer.tar()).unwrap();
            let import = ["layer", "import", "layer.tar"];
            let is_one = ids(&store) == 1;
            let squashed: &[&str] = if is_one {
                let error = store.error(&import);
                assert_eq!((&error["kind"], &error["path"]), (&"IdNotMapped".into(), &"d".into()));
                assert!(error["hint"].as_str().unwrap().contains("--ids squash"), "{error}");
                &["--ids", "squash"]
            } else {
                &[]
            };
            let imported = store.tool(&import).args(squashed).ok();
            assert_eq!(imported.stderr.contains("the owner 998:999 is not in the id map"), is_one, "{imported:?}");
            let chain = imported.last_word();
            let ((uid, gid), made) = if is_one { ((0, 0), (0, 0)) } else { ((998, 999), (7, 8)) };
            store.ok(&["prepare", "box", chain]);
            let target = store.path("target");
            fs::create_dir(&target).unwrap();
            let chown = format!("chown {}:{} new", made.0, made.1);
            let script = format!(
                "plywood mount box '{0}'; (cd '{0}'; stat -c %u:%g:%a d/f; echo x >new; {chown}; echo y >>d/f); plywood umount '{0}'",
                target.display()
            );
            let seen = in_namespace(&store, &script).ok();
            assert_eq!(seen.stdout.lines().next(), Some(format!("{uid}:{gid}:4755").as_str()), "as the container sees it: {seen:?}");
            store.ok(&["commit", "result", "box"]);
            assert_eq!((owner(&store, "result", "new"), owner(&store, "result", "d/f")), (made, (uid, gid)));
            store.ok(&["diff", "result", "-o", "result.tar"]);
            let again = store.ok(&["layer", "import", "result.tar", "--parent", chain]).last_word().to_owned();
            assert_eq!(owner(&store, &again, "new"), made);
        }
    }
    files_are_read_where_they_stand {
        for backend in ["auto", "copy"] {
            let store = Store::new(backend);
            let chain = store.layer(&tricky(), None);
            let upper = store.layer(&Layer::new().whiteout("d/set").file("d/upper", "upper\n"), Some(&chain));
            store.ok(&["prepare", "box", &upper]);
            store.ok(&["view", "look", &upper]);
            for key in [&chain, &upper, "box", "look"] {
                assert_eq!(store.ok(&["cat", key, "/etc/motd", "d/out", "up/deep/er/file"]).stdout, "inside\ninside\ndeep\n", "{key}");
                for (path, kind) in [
                    ("escape", "NotFound"), ("d/loop", "Io"), ("d/pipe", "InvalidArgument"), ("d", "InvalidArgument"), ("none", "NotFound"),
                ] {
                    assert_eq!(store.error(&["cat", key, path])["kind"], kind, "{key} {path}");
                }
                let listed = store.json(&["ls", key, "up"]);
                let names: Vec<_> = listed.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
                let set = if *key == *chain { &["set"][..] } else { &["upper"] };
                assert_eq!(names, [&["deep", "loop", "new\nline", "out", "pipe"], set].concat(), "{key}");
                assert_eq!(listed[3]["target"], "/../../etc/motd");
                let root = store.json(&["ls", key]);
                assert_eq!(root[0]["name"], "d");
                assert_eq!((&root[0]["kind"], &root[0]["mode"]), (&"directory".into(), &"0750".into()));
                assert!(store.ok(&["ls", key, "d/loop"]).stdout.contains("d/loop -> loop"));
                assert!(store.ok(&["ls", key, "d"]).stdout.contains("new\\nline"));
            }
            assert_eq!(store.error(&["cat", "nobody", "x"])["kind"], "NotFound");
        }
    }
    owners_are_shifted_on_the_disk_and_told_as_the_containers {
        let store = Store::new("auto");
        let layer = Layer::new().dir("", 0o755).dir("d", 0o750).owner(5, 6).file("d/f", "f").owner(998, 999).file("i/f", "");
        fs::write(store.path("layer.tar"), layer.tar()).unwrap();
        let import = ["layer", "import", "layer.tar", "--id-shift", "0:1:1000"];
        if ids(&store) == 1 {
            let error = store.error(&import);
            assert_eq!((error["kind"].as_str(), error["hint"].as_str().unwrap().contains("sub-ids")), (Some("IdNotMapped"), true));
            return;
        }
        let chain = store.ok(&import).last_word().to_owned();
        let owner = |name: &str, path: &str| owner(&store, name, path);
        assert_eq!((owner(&chain, "d/f"), owner(&chain, "i/f")), ((998, 999), (0, 0)));
        let listed = store.ok(&["ls", &chain, "d"]).stdout;
        assert!(listed.contains("998:999"), "{listed}");
        let disk = format!("cd '{}'; stat -c %u:%g */fs */fs/d */fs/d/f */fs/i", store.path("store/trees").display());
        assert_eq!(in_namespace(&store, &disk).ok().stdout, "1:1\n6:7\n999:1000\n1:1\n");
        let explained = store.json(&["explain", &chain, "d/f"]);
        assert_eq!(explained["layers"][0]["info"]["uid"], 998);

        store.ok(&["prepare", "box", &chain]);
        let target = store.path("target");
        fs::create_dir(&target).unwrap();
        let write = format!("plywood mount box '{0}'; echo x >'{0}/new'; chown 8:9 '{0}/new'; plywood umount '{0}'", target.display());
        in_namespace(&store, &write).ok();
        assert_eq!(owner("box", "new"), (7, 8));
        store.ok(&["commit", "result", "box"]);
        store.ok(&["diff", "result", "-o", "result.tar"]);
        // Elsewhere it is a layer like any other.
        let plain = Store::new("copy");
        let again = plain.ok(&["layer", "import", store.path("result.tar").to_str().unwrap()]).last_word().to_owned();
        let info = &plain.json(&["ls", &again, "new"])[0];
        assert_eq!((&info["uid"], &info["gid"]), (&7.into(), &8.into()));
        // What the host put there without an id is nobody's, and no layer's.
        store.ok(&["prepare", "bad", "result"]);
        in_namespace(&store, &format!("plywood mount bad '{0}'; echo x >'{0}/host'; plywood umount '{0}'", target.display())).ok();
        assert_eq!(owner("bad", "host"), (65_534, 65_534));
        let error = store.error(&["diff", "bad", "-o", "bad.tar"]);
        assert_eq!((&error["kind"], &error["path"]), (&"IdNotMapped".into(), &"host".into()));
        assert!(!error["hint"].as_str().unwrap().contains("squash"), "{error}");

        for (arguments, kind) in [
            (&["--id-shift", "0:2:1000"][..], "InvalidArgument"),
            (&["--backend", "overlay"], "InvalidArgument"),
            (&["--backend", "overlay", "--root", "other", "--id-shift", "0:1:1000"], "Unsupported"),
        ] {
            let tool = plywood().args(["snapshots", "--json"]).args(if arguments.contains(&"--root") { None } else { Some("--root") });
            let root = (!arguments.contains(&"--root")).then(|| store.path("store"));
            let output = tool.args(root).args(arguments).current_dir(store.directory.path()).run();
            let error: Value = serde_json::from_str(&output.stderr).unwrap();
            assert_eq!((output.status, error["kind"].as_str().unwrap()), (1, kind), "{arguments:?}");
        }
        store.ok(&["ls", &chain, "--id-shift", "0:1:1000"]);
    }
    a_path_is_explained {
        for backend in ["auto", "copy"] {
            let store = Store::new(backend);
            let chain = store.layer(&base(), None);
            let upper = store.layer(&Layer::new().whiteout("etc/old").file("etc/motd", "more\n"), Some(&chain));
            let text = store.ok(&["explain", &upper, "etc/../etc/motd"]).stdout;
            let cells = |line: &str| line.split("  ").map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect::<Vec<_>>();
            let lines: Vec<_> = text.lines().map(cells).collect();
            assert_eq!(lines[0], ["SNAPSHOT", "EFFECT", "WHAT", "HIDDEN BY"]);
            assert_eq!((&lines[1][0], lines[1][1].as_str(), lines[1][3].as_str()), (&upper, "modified", "-"), "{text}");
            assert_eq!((&lines[2][0], lines[2][1].as_str(), &lines[2][3]), (&chain, "added", &upper), "{text}");
            let old = store.json(&["explain", &upper, "/etc/old"]);
            assert_eq!((&old["exists"], &old["path"]), (&false.into(), &"etc/old".into()));
            assert_eq!((&old["layers"][0]["effect"], &old["layers"][0]["at"]), (&"deleted".into(), &"etc/old".into()));
            assert_eq!((&old["layers"][1]["info"]["size"], &old["layers"][1]["hidden_by"]), (&4.into(), &upper.as_str().into()));
            assert_eq!(store.error(&["explain", &upper, "/none"])["kind"], "NotFound");
        }
    }
    files_are_copied_out {
        let store = Store::new("auto");
        let chain = store.layer(&tricky(), None);
        let copied = store.json(&["cp", &chain, "up", "out"]);
        assert_eq!(copied["skipped"], serde_json::json!(["up/pipe"]));
        let out = store.path("out");
        assert_eq!(fs::read_to_string(out.join("deep/er/file")).unwrap(), "deep\n");
        assert_eq!(fs::read_link(out.join("out")).unwrap(), Path::new("/../../etc/motd"));
        assert_eq!(fs::metadata(out.join("set")).unwrap().permissions().mode() & 0o7777, 0o755, "no set-user-id");
        assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o7777, 0o750);
        // Into a directory that is there, as cp(1) has it; nothing is written over.
        store.ok(&["cp", &chain, "etc/motd", "out"]);
        let motd = fs::metadata(out.join("motd")).unwrap();
        assert_eq!((motd.mtime(), motd.mtime_nsec()), (1_000_000_000, 5));
        assert_eq!(store.error(&["cp", &chain, "etc/motd", "out"])["kind"], "AlreadyExists");
        assert_eq!(store.error(&["cp", &chain, "d/pipe/x", "out"])["kind"], "Io");
    }
    an_image_without_a_file_has_an_empty_root {
        for backend in ["auto", "copy"] {
            let store = Store::new(backend);
            let chain = store.layer(&Layer::new(), None);
            store.ok(&["prepare", "box", &chain]);
            store.ok(&["prepare", "bare"]);
            for key in [&chain, "box", "bare"] {
                assert_eq!(store.json(&["ls", key]), serde_json::json!([]), "{key}");
            }
        }
    }
}

#[test]
fn a_mounted_container_is_looked_at_while_it_writes() {
    Sandbox::root().run(|| {
        for backend in ["overlay", "copy"] {
            let store = Store::new(backend);
            let chain = store.layer(&base(), None);
            fs::create_dir(store.path("m")).unwrap();
            store.ok(&["prepare", "box", &chain, "--mount", "m"]);
            fs::write(store.path("m/etc/motd"), "changed\n").unwrap();
            fs::remove_file(store.path("m/etc/old")).unwrap();
            assert_eq!(store.ok(&["cat", "box", "link"]).stdout, "changed\n", "{backend}");
            assert_eq!(store.json(&["ls", "box", "etc"]).as_array().unwrap().len(), 1, "{backend}");
            assert_eq!(store.ok(&["cat", &chain, "link"]).stdout, "hello\n");
            store.ok(&["umount", "m"]);
            store.ok(&["remove", "box"]);
        }
    });
}
