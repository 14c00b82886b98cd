//! plywood's snapshotter in the hands of a real containerd, its client and runc.

mod daemon;
mod differ;
mod engine;

use plywood::compression::Compression;
use plywood::testing::{Image, Layer};

use self::engine::{Engine, is_here, reference, wait};
use crate::support::{Sandbox, programs};

/// An image in which a shell runs; its upper layers change what is below, as layers do.
fn image() -> Image {
    let files = Layer::new()
        .dir("srv", 0o755)
        .file("srv/kept", "kept\n")
        .file("srv/changed", "lower\n")
        .file("srv/deleted", "gone\n")
        .dir("srv/folder", 0o750)
        .file("srv/folder/inside", "inside\n")
        .hardlink("srv/linked", "srv/kept");
    let changes = Layer::new()
        .dir("", 0o755)
        .dir("srv", 0o755)
        .whiteout("srv/deleted")
        .file("srv/changed", "upper\n")
        .dir("srv/folder", 0o700)
        .opaque("srv/folder")
        .file("srv/folder/new", "new\n");
    Image::new()
        .layer(programs(), Compression::None)
        .layer(files, Compression::Gzip)
        .layer(changes, Compression::Zstd)
        .env("PATH=/bin")
        .cmd(["sh", "-c", "cat /srv/changed"])
}

#[test]
fn an_image_is_unpacked_run_changed_committed_and_removed() {
    if !is_here("containerd::an_image_is_unpacked_run_changed_committed_and_removed") {
        return;
    }
    Sandbox::root().run(|| {
        let engine = Engine::start();
        // Somebody else's, in the same store: containerd does not know it, and must not remove it.
        engine.command(&["prepare", "mine"]).ok();
        engine.import("app", &image(), "plywood").ok();
        engine.import("app", &image(), "overlayfs").ok();
        let mut difference = engine.shows("app", "overlayfs").difference(&engine.shows("app", "plywood"));
        // The libraries' folder, which no layer describes, is as old as its unpacking.
        difference.retain(|line| !(line.starts_with("usr/lib/") && line.contains(": mtime ")));
        assert_eq!(difference, Vec::<String>::new());

        let script = "cat /srv/changed /srv/kept; ls /srv/folder; echo mine > /srv/mine; rm /srv/linked; rm -r /srv/folder";
        assert_eq!(engine.run("app", "box", script).ok().stdout, "upper\nkept\nnew\n");
        assert!(engine.snapshots("plywood", &["usage", "box"]).ok().stdout.contains("box"));
        let diff = engine.snapshots("plywood", &["diff", "--media-type", "application/vnd.oci.image.layer.v1.tar", "box"]).ok();
        assert!(diff.stdout.contains("mine"), "a layer comes out");
        engine.snapshots("plywood", &["commit", "box-1", "box"]).ok();
        let info = engine.snapshots("plywood", &["info", "box-1"]).ok().stdout;
        assert!(info.contains("\"Kind\": \"Committed\""), "{info}");
        engine.snapshots("plywood", &["prepare", "again", "box-1"]).ok();
        let mounts = engine.snapshots("plywood", &["mounts", "/nowhere", "again"]).ok().stdout;
        assert!(mounts.starts_with("mount -t overlay overlay /nowhere -o "), "{mounts}");
        assert_ne!(engine.snapshots("plywood", &["rm", "box-1"]).status, 0, "something stands on it");

        engine.snapshots("plywood", &["rm", "again"]).ok();
        engine.snapshots("plywood", &["rm", "box-1"]).ok();
        engine.ctr(&["containers", "rm", "box"]);
        engine.ctr(&["images", "rm", "--sync", &reference("app")]).ok();
        assert_eq!(engine.snapshots("plywood", &["ls"]).ok().stdout.lines().count(), 1);
        assert_eq!(engine.trees(), 1, "what is not containerd's");
        assert!(engine.command(&["snapshots"]).ok().stdout.contains("mine"));
        engine.command(&["check", "--full"]).ok();
        assert_eq!(engine.mounts(), Vec::<String>::new());
    });
}

#[test]
fn the_transfer_service_unpacks_too() {
    if !is_here("containerd::the_transfer_service_unpacks_too") {
        return;
    }
    Sandbox::root().run(|| {
        let engine = Engine::start();
        engine.import("base", &image(), "plywood").ok();
        let before = engine.trees();
        engine.ctr(&["images", "rm", "--sync", &reference("base")]).ok();
        assert_eq!(before, 3);
        engine.ctr(&["images", "import", "--snapshotter", "plywood", engine.path("image.tar").to_str().unwrap()]).ok();
        assert_eq!(engine.run("base", "box", "cat /srv/changed").ok().stdout, "upper\n");
    });
}

#[test]
fn namespaces_do_not_see_each_other_and_go_each_for_itself() {
    if !is_here("containerd::namespaces_do_not_see_each_other_and_go_each_for_itself") {
        return;
    }
    Sandbox::root().run(|| {
        let engine = Engine::start();
        engine.import("app", &image(), "plywood").ok();
        let archive = engine.path("image.tar");
        engine.ctr_in("other", &["images", "import", "--local", "--snapshotter", "plywood", archive.to_str().unwrap()]).ok();
        let listed = |namespace: &str| {
            let said = engine.ctr_in(namespace, &["snapshots", "--snapshotter", "plywood", "ls"]).ok().stdout;
            said.lines().count() - 1
        };
        assert_eq!((listed("plywood-test"), listed("other"), listed("third")), (3, 3, 0));
        engine.ctr_in("other", &["images", "rm", "--sync", &reference("app")]).ok();
        assert_eq!((listed("plywood-test"), listed("other")), (3, 0));
        assert_eq!(engine.run("app", "box", "cat /srv/changed").ok().stdout, "upper\n");
    });
}

#[test]
fn both_daemons_may_end_and_start_while_containers_run() {
    if !is_here("containerd::both_daemons_may_end_and_start_while_containers_run") {
        return;
    }
    Sandbox::root().run(|| {
        let mut engine = Engine::start();
        engine.import("app", &image(), "plywood").ok();
        engine.run_on("app", "box").ok();
        let exec = |engine: &Engine, id: &str, script: &str| {
            engine.ctr(&["tasks", "exec", "--exec-id", id, "box", "sh", "-c", script]).ok()
        };
        exec(&engine, "one", "echo before > /srv/said");
        assert_eq!(engine.stop_plywood(), 0);
        exec(&engine, "two", "cat /srv/said");
        assert_ne!(engine.snapshots("plywood", &["ls"]).status, 0, "nobody is there");
        engine.start_plywood();
        engine.wait_for_plywood();
        engine.run_on("app", "second").ok();
        // And as a crash has it.
        engine.kill_plywood();
        engine.start_plywood();
        engine.stop_containerd();
        engine.start_containerd();
        engine.wait_for_plywood();
        assert_eq!(
            exec(&engine, "three", "cat /srv/said; echo after >> /srv/said; cat /srv/said").stdout,
            "before\nbefore\nafter\n"
        );
        for id in ["box", "second"] {
            engine.ctr(&["tasks", "kill", "--signal", "KILL", id]).ok();
            wait("the end of the container", || (engine.ctr(&["tasks", "rm", id]).status == 0).then_some(()));
            engine.ctr(&["containers", "rm", id]).ok();
        }
        engine.collect("app");
        assert_eq!(engine.trees(), 3);
        assert_eq!(engine.mounts(), Vec::<String>::new());
    });
}

#[test]
fn an_import_that_a_crash_of_plywood_breaks_off_is_done_again() {
    if !is_here("containerd::an_import_that_a_crash_of_plywood_breaks_off_is_done_again") {
        return;
    }
    Sandbox::root().run(|| {
        let mut engine = Engine::start();
        engine.import("app", &image(), "overlayfs").ok();
        // When the first layer, the second, the third is about to be unpacked, or is unpacked already.
        for layers in 1..=3 {
            std::thread::scope(|scope| {
                let import = scope.spawn(|| engine.import_archive("plywood"));
                wait("a layer", || (engine.trees() >= layers || import.is_finished()).then_some(()));
                engine.crash_plywood();
            });
            engine.kill_plywood();
            engine.start_plywood();
            engine.wait_for_plywood();
            engine.import_archive("plywood").ok();
            let mut difference = engine.shows("app", "overlayfs").difference(&engine.shows("app", "plywood"));
            difference.retain(|line| !(line.starts_with("usr/lib/") && line.contains(": mtime ")));
            assert_eq!(difference, Vec::<String>::new());
            engine.collect("app");
            assert_eq!((engine.snapshots("plywood", &["ls"]).ok().stdout.lines().count(), engine.trees()), (4, 3));
            engine.command(&["check", "--full"]).ok();
            engine.ctr(&["images", "rm", "--sync", &reference("app")]).ok();
            engine.command(&["gc"]).ok();
            assert_eq!(engine.trees(), 0, "of what was broken off nothing stays");
            engine.import_archive("overlayfs").ok();
        }
    });
}

#[test]
fn an_image_of_128_layers_runs() {
    if !is_here("containerd::an_image_of_128_layers_runs") {
        return;
    }
    Sandbox::root().run(|| {
        let engine = Engine::start();
        let layer = |number: usize| {
            Layer::new().dir("srv", 0o755).file(format!("srv/{number}"), "x\n").file("srv/last", format!("{number}\n"))
        };
        let image = (1..128)
            .fold(Image::new().layer(programs(), Compression::None), |image, number| image.layer(layer(number), Compression::None));
        engine.import("high", &image.env("PATH=/bin"), "plywood").ok();
        let output = engine.run("high", "box", "ls /srv; cat /srv/last /srv/1").ok();
        assert_eq!(output.stdout.lines().count(), 127 + 1 + 2, "{output:?}");
        assert!(output.stdout.ends_with("127\nx\n"), "{output:?}");
    });
}

/// The containers that run at once: a few, or with `PLYWOOD_TEST_LONG` a hundred.
fn containers() -> Vec<String> {
    let count = if std::env::var_os("PLYWOOD_TEST_LONG").is_some() { 100 } else { 16 };
    (0..count).map(|number| format!("box-{number}")).collect()
}

/// Does something with all, eight at a time.
fn at_once(ids: &[String], work: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| {
        for part in ids.chunks(ids.len().div_ceil(8)) {
            let work = &work;
            scope.spawn(move || part.iter().for_each(|id| work(id)));
        }
    });
}

#[test]
fn many_containers_run_at_once_and_through_a_restart_of_both_daemons() {
    if !is_here("containerd::many_containers_run_at_once_and_through_a_restart_of_both_daemons") {
        return;
    }
    Sandbox::root().run(|| {
        let mut engine = Engine::start();
        engine.import("app", &image(), "plywood").ok();
        let ids = containers();
        at_once(&ids, |id| drop(engine.run_on("app", id).ok()));
        let running = |engine: &Engine| engine.ctr(&["tasks", "ls"]).ok().stdout.matches("RUNNING").count();
        assert_eq!(running(&engine), ids.len());
        let mounted = engine.mounts();
        assert_eq!(mounted.iter().filter(|point| point.ends_with("/rootfs")).count(), ids.len());
        at_once(&ids, |id| {
            engine.ctr(&["tasks", "exec", "--exec-id", "one", id, "sh", "-c", &format!("echo {id} > /srv/said")]).ok();
        });

        engine.kill_plywood();
        engine.stop_containerd();
        engine.start_plywood();
        engine.start_containerd();
        engine.wait_for_plywood();
        assert_eq!(running(&engine), ids.len());
        let snapshots = engine.command(&["snapshots"]).ok().stdout;
        let key = snapshots.split_whitespace().find(|word| word.ends_with("/box-3")).expect("an active snapshot");
        assert_ne!(engine.command(&["remove", key]).status, 0, "it is mounted");

        at_once(&ids, |id| {
            let said = engine.ctr(&["tasks", "exec", "--exec-id", "two", id, "cat", "/srv/said"]).ok().stdout;
            assert_eq!(said, format!("{id}\n"), "each has its own");
            engine.ctr(&["tasks", "kill", "--signal", "KILL", id]).ok();
            wait("the end of a container", || (engine.ctr(&["tasks", "rm", id]).status == 0).then_some(()));
            engine.ctr(&["containers", "rm", id]).ok();
        });
        engine.collect("app");
        assert_eq!((engine.snapshots("plywood", &["ls"]).ok().stdout.lines().count(), engine.trees()), (4, 3));
        assert_eq!(engine.mounts(), Vec::<String>::new());
    });
}

#[test]
fn what_a_container_changes_is_what_it_changes_on_containerds_own_snapshotter() {
    if !is_here("containerd::what_a_container_changes_is_what_it_changes_on_containerds_own_snapshotter") {
        return;
    }
    Sandbox::root().run(|| {
        let engine = Engine::start();
        let script = "echo mine > /srv/mine; echo more >> /srv/changed; rm /srv/kept; rm -r /srv/folder; mkdir -m 711 /srv/folder; \
                      echo again > /srv/folder/inside; ln -s ../etc /srv/etc; ln /srv/mine /srv/same; mv /etc /srv/moved; mkdir /etc; \
                      mkdir /srv/deleted; rm /srv/linked; touch -h /srv/etc";
        let [plywood, overlayfs] = ["plywood", "overlayfs"].map(|snapshotter| {
            engine.import("app", &image(), snapshotter).ok();
            let id = format!("box-{snapshotter}");
            engine.run_with(snapshotter, "app", &id, script).ok();
            engine.snapshots(snapshotter, &["commit", "done", &id]).ok();
            engine.snapshots(snapshotter, &["view", "look", "done"]).ok();
            engine.shows_key(snapshotter, "look")
        });
        let mut difference = overlayfs.difference(&plywood);
        // They were changed one after the other.
        difference.retain(|line| !line.contains(": mtime "));
        assert_eq!(difference, Vec::<String>::new());
        assert!(plywood.get("srv/folder/new").is_none() && plywood.get("srv/folder/inside").is_some());
    });
}
