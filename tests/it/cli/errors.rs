//! How the command fails: exit status, one line what and where and why, causes and hint, or the same as JSON.

use std::io::Write as _;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::support::Disk;

#[test]
fn what_is_no_command_is_a_usage_error() {
    for arguments in
        [&["frobnicate"][..], &["prepare"], &["diff", "k", "--compression", "lzma"], &["--backend", "zfs", "images"], &[]]
    {
        let output = plywood().args(arguments).run();
        assert_eq!((output.status, output.stdout.as_str()), (2, ""), "{arguments:?}: {output:?}");
        assert!(output.stderr.contains("--help"), "{output:?}");
    }
    for (arguments, why) in [
        (&["label", "box", "stage"][..], "NAME=VALUE"),
        (&["label", "box", "=ci"], "NAME=VALUE"),
        (&["import", "layout", "--platform", "linux"], "OS/ARCH"),
        (&["layer", "import", "layer.tar", "--diff-id", "sha256:1234"], "digest"),
    ] {
        let output = plywood().args(arguments).run();
        assert_eq!((output.status, output.stdout.as_str()), (2, ""), "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(why), "{why}: {output:?}");
    }
    let output = plywood().args(["--json", "prepare"]).run();
    assert_eq!(output.status, 2);
    let error: Value = serde_json::from_str(&output.stderr).unwrap();
    assert_eq!(error["kind"], "InvalidArgument");
    assert!(error["message"].as_str().unwrap().contains("required"), "{error}");
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [&["--help"][..], &["help", "diff"], &["layer", "import", "--help"], &["--version"]] {
        let output = plywood().args(arguments).ok();
        assert!(output.stdout.len() > 10 && output.stderr.is_empty(), "{output:?}");
    }
    assert!(plywood().args(["import", "--help"]).ok().stdout.contains("skopeo copy"));
    let script = plywood().args(["completion", "bash"]).ok().stdout;
    assert!(script.contains("_plywood"), "{script}");
}

as_everybody! {
    an_error_is_one_line_then_causes_and_a_hint {
        let store = Store::new("auto");
        let output = store.tool(&["stat", "nobody"]).run();
        assert_eq!((output.status, output.stdout.as_str()), (1, ""), "{output:?}");
        let mut lines = output.stderr.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with("plywood: ") && line.contains("nobody")), "{output:?}");
        assert!(lines.all(|line| line.starts_with("  cause: ") || line.starts_with("  hint: ")), "{output:?}");
        let error = store.error(&["stat", "nobody"]);
        assert_eq!((&error["kind"], &error["path"]), (&"NotFound".into(), &"nobody".into()));
    }
    a_registry_is_not_read_and_the_pipe_that_does_it_is_shown {
        let store = Store::new("auto");
        let error = store.error(&["import", "docker://alpine"]);
        assert_eq!(error["kind"], "InvalidArgument");
        let hint = error["hint"].as_str().unwrap();
        assert!(hint.contains("skopeo copy") && hint.contains("docker://alpine") && hint.contains("| plywood import -"), "{hint}");
    }
    bad_layers_leave_nothing {
        let store = Store::new("auto");
        let good = base();
        let chain = store.layer(&good, None);
        fs::write(store.path("not-a-tar"), vec![7; 4096]).unwrap();
        fs::write(store.path("cut.tar"), &good.tar()[..1000]).unwrap();
        fs::write(store.path("good.tar"), good.tar()).unwrap();
        let other = Layer::new().diff_id().to_string();
        for (arguments, kind) in [
            (&["layer", "import", "not-a-tar"][..], "InvalidLayer"),
            (&["layer", "import", "cut.tar"], "InvalidLayer"),
            (&["layer", "import", "good.tar", "--diff-id", &other, "--parent", &chain], "DigestMismatch"),
            (&["layer", "import", "good.tar", "--parent", "nobody"], "NotFound"),
            (&["layer", "import", "missing.tar"], "NotFound"),
            (&["layer", "import", "."], "InvalidArgument"),
            (&["import", "missing"], "NotFound"),
            (&["import", "."], "NotFound"),
        ] {
            assert_eq!(store.error(arguments)["kind"], kind, "{arguments:?}");
        }
        assert_eq!(store.json(&["snapshots"]).as_array().unwrap().len(), 1, "the good layer alone");
        assert_eq!(store.left_in("ingest"), Vec::<String>::new());
    }
    nothing_is_written_to_a_terminal {
        let store = Store::new("auto");
        store.ok(&["prepare", "box"]);
        let command = format!("\"$PLYWOOD\" --root '{}' diff box", store.path("store").display());
        let output = Tool::new("script").args(["-qec", &command, "/dev/null"]).env("PLYWOOD", plywood().program()).run();
        assert_eq!(output.status, 1, "{output:?}");
        assert!(output.stdout.contains("terminal") && output.stdout.contains("-o"), "{output:?}");
    }
    whoever_reads_may_go_away {
        let store = Store::new("auto");
        for number in 0..40 {
            store.ok(&["prepare", &format!("box-{number}")]);
        }
        let script = "\"$PLYWOOD\" --root store snapshots | head -n 1; exit ${PIPESTATUS[0]}";
        let completion = "\"$PLYWOOD\" completion bash | head -n 1; exit ${PIPESTATUS[0]}";
        for script in [script, completion] {
            let output = Tool::new("bash").args(["-c", script]).current_dir(store.path("")).env("PLYWOOD", plywood().program()).ok();
            assert_eq!(output.stderr, "");
        }
    }
}

#[test]
fn an_owner_that_cannot_be_kept_is_an_error_that_names_the_option() {
    Sandbox::user().run(|| {
        let store = Store::new("auto");
        fs::write(store.path("layer.tar"), base().file("theirs", "x").owner(4_000_000_000, 5).tar()).unwrap();
        let error = store.error(&["layer", "import", "layer.tar"]);
        assert_eq!(error["kind"], "IdNotMapped");
        assert!(error["hint"].as_str().unwrap().contains("--ids squash"), "{error}");
        let squashed = store.json(&["layer", "import", "layer.tar", "--ids", "squash"]);
        assert_eq!(squashed["report"]["skipped"][0]["path"], "theirs", "{squashed}");
    });
}

#[test]
fn a_root_that_cannot_be_written_is_refused() {
    Sandbox::user().run(|| {
        let output = plywood().args(["--json", "--root", "/var/plywood-store", "images"]).run();
        assert_eq!(output.status, 1, "{output:?}");
        let error: Value = serde_json::from_str(&output.stderr).unwrap();
        assert_eq!(error["kind"], "PermissionDenied", "{error}");
        let doctor = plywood().args(["--json", "--root", "/var/plywood-store", "doctor"]).ok();
        let findings: Value = serde_json::from_str(&doctor.stdout).unwrap();
        let names_it = |check: &Value| check["works"] == false && check["found"].as_str().unwrap().starts_with("/var: ");
        assert!(findings["backend"].is_null() && findings["checks"].as_array().unwrap().iter().any(names_it), "{findings}");
    });
}

#[test]
fn a_file_system_without_xattrs_is_named() {
    Sandbox::root().run(|| {
        let target = Path::new("/mnt/ramfs");
        Disk::Ramfs.mount(target);
        let output = plywood().args(["--json", "--backend", "overlay", "--root", "/mnt/ramfs/store", "images"]).run();
        assert_eq!(output.status, 1, "{output:?}");
        let error: Value = serde_json::from_str(&output.stderr).unwrap();
        assert_eq!(error["kind"], "Unsupported", "{error}");
        assert!(error.to_string().contains("xattr") || error.to_string().contains("extended attribute"), "{error}");
        assert!(fs::read_dir(target).unwrap().next().is_none(), "nothing is left");
    });
}

#[test]
fn a_full_disk_is_named_and_nothing_is_left() {
    Sandbox::root().run(|| {
        let target = Path::new("/mnt/small");
        Disk::Tmpfs(4 << 20).mount(target);
        let store = |arguments: &[&str]| plywood().args(["--json", "--root", "/mnt/small/store"]).args(arguments);
        store(&["images"]).ok();
        let big = Layer::new().file("big", vec![1; 8 << 20]).tar();
        let output = store(&["layer", "import", "-"]).input(big).run();
        assert_eq!(output.status, 1, "{output:?}");
        let error: Value = serde_json::from_str(&output.stderr).unwrap();
        assert_eq!(error["kind"], "NoSpace", "{error}");
        assert_eq!(store(&["snapshots"]).ok().stdout.trim(), "[]");
        assert!(fs::read_dir("/mnt/small/store/ingest").unwrap().next().is_none(), "nothing is left");
    });
}

#[test]
fn a_full_disk_can_be_emptied() {
    Sandbox::root().run(|| {
        let target = Path::new("/mnt/small");
        Disk::Tmpfs(16 << 20).mount(target);
        let store = |arguments: &[&str]| plywood().args(["--root", "/mnt/small/store"]).args(arguments);
        for key in ["one", "two"] {
            store(&["prepare", key]).ok();
        }
        store(&["commit", "two-1", "two"]).ok();
        fs::create_dir("/mnt/box").unwrap();
        store(&["mount", "one", "/mnt/box"]).ok();
        // To the last block: the database cannot even write down what is to go.
        let mut file = fs::File::create("/mnt/box/file").unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        drop(file);
        store(&["umount", "/mnt/box"]).ok();
        let error = store(&["prepare", "three"]).run();
        assert!(error.status == 1 && error.stderr.contains("no space left") && error.stderr.contains("plywood gc"), "{error:?}");
        assert!(error.stderr.contains("/mnt/small/store"), "the file system is named: {error:?}");
        store(&["diff", "two-1", "-o", "/mnt/two.tar"]).ok();
        store(&["export", "two-1", "/mnt/layout"]).ok();
        store(&["remove", "one"]).ok();
        store(&["gc"]).ok();
        store(&["prepare", "three"]).ok();
        assert!(fs::metadata("/mnt/small/store/reserve").is_ok(), "room is kept for the next time");
    });
}

#[test]
fn ctrl_c_ends_an_import_and_leaves_nothing() {
    let store = Store::new("copy");
    store.ok(&["images"]);
    let mut import = Command::new(plywood().program())
        .args(["--json", "--root", "store", "layer", "import", "-"])
        .current_dir(store.path(""))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The beginning of a file of 8 GiB. A pipe holds 64 KiB: when 4 MiB are written, most of them were read.
    let header = Layer::new().member("endless", b'0').record("size", "8589934592").tar();
    let mut pipe = import.stdin.take().unwrap();
    pipe.write_all(&header[..header.len() - 1024]).unwrap();
    pipe.write_all(&vec![0; 4 << 20]).unwrap();
    kill(Pid::from_raw(import.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    while pipe.write_all(&[0; 4096]).is_ok() {}
    let output = import.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(error["kind"], "Cancelled", "{error}");
    assert_eq!(store.json(&["snapshots"]), Value::Array(Vec::new()));
    assert_eq!(store.left_in("ingest"), Vec::<String>::new());
}
