//! Bundles in the hands of real runtimes: what runs in them writes, deletes and renames, and what came of it is committed and run again.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::support::{Output, plywood, require};

/// What the first container does; the layers' files are its material.
const WORK: &str = "set -e; test $(cat /srv/changed) = lower; echo upper > /srv/changed; rm /srv/deleted; mv /srv/folder/inside /srv/moved; \
                    mkdir /srv/folder/new; echo deep > /srv/folder/new/file; ln /srv/kept /srv/linked; ln -s kept /srv/symlink; \
                    rm -r /usr/bin/touch; mv /usr/bin/id /usr/bin/whoami; test -w /dev/null; test -r /proc/1/status; exit 42";

/// What a second one, on the committed result, finds.
const LOOK: &str = "cat /srv/changed /srv/moved /srv/folder/new/file /srv/symlink; ls /srv /srv/folder; test ! -e /usr/bin/touch; whoami -u; \
                    echo again > /srv/again; exit 0";
const SEEN: &str = "upper\ninside\ndeep\nkept\n/srv:\nchanged\nfolder\nkept\nlinked\nmoved\nsymlink\n\n/srv/folder:\nnew\n0\n";

struct Scene {
    directory: tempfile::TempDir,
    runtime: &'static str,
    backend: &'static str,
}

impl Scene {
    fn new(runtime: &'static str, backend: &'static str) -> Self {
        Self::with(runtime, backend, &[])
    }

    /// In a store that shifts owners, on the copy backend.
    fn shifted(runtime: &'static str, map: &str) -> Self {
        Self::with(runtime, "auto", &["--id-shift", map])
    }

    fn with(runtime: &'static str, backend: &'static str, more: &[&str]) -> Self {
        let scene = Self { directory: tempfile::tempdir().unwrap(), runtime, backend };
        image().write_layout(scene.path("image"), "latest").unwrap();
        scene.plywood(&["import", "image", "--ref", "app", "--ids", "squash"]).args(more).ok();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn plywood(&self, arguments: &[&str]) -> Tool {
        let tool = plywood().arg("--root").arg(self.path("store")).args(["--backend", self.backend]).args(arguments);
        tool.current_dir(self.directory.path())
    }

    /// Makes a bundle of `source`, runs it, and takes the mount away.
    fn run(&self, source: &str, key: &str, script: &str) -> Output {
        self.plywood(&["bundle", source, key, "--key", key, "--", "sh", "-c", script]).ok();
        let output = self.run_bundle(key);
        self.plywood(&["umount", &format!("{key}/rootfs")]).ok();
        output
    }

    fn run_bundle(&self, key: &str) -> Output {
        let state = self.path("state");
        let id = format!("plywood-{}-{key}", std::process::id());
        let tool = Tool::new(self.runtime).arg("--root").arg(&state).args(["run", "--bundle"]).arg(self.path(key)).arg(&id);
        let output = tool.env("XDG_RUNTIME_DIR", self.directory.path()).run();
        assert_eq!(names(&state), Vec::<String>::new(), "the runtime has put all away: {output:?}");
        output
    }
}

/// crun before 1.9 wants no machine on which the controllers are cgroup v1's and v2 stands beside them: it need not see that.
fn hide_the_second_cgroup_hierarchy() {
    let place = "/sys/fs/cgroup/unified";
    if Path::new(place).is_dir() {
        Tool::new("mount").args(["-t", "tmpfs", "tmpfs", place]).ok();
    }
}

fn a_bundle_runs_and_its_change_is_an_image(runtime: &'static str) {
    hide_the_second_cgroup_hierarchy();
    for backend in ["overlay", "copy"] {
        let before = mounts();
        let scene = Scene::new(runtime, backend);
        let first = scene.run("app", "box", WORK);
        assert_eq!(first.status, 42, "{runtime} on {backend}: {first:?}");
        let changes = scene.plywood(&["changes", "box"]).ok().stdout;
        for change in
            ["C /srv/changed", "D /srv/deleted", "D /srv/folder/inside", "A /srv/moved", "A /srv/folder/new/file", "A /srv/linked"]
        {
            assert!(changes.lines().any(|line| line == change), "{change} on {backend}: {changes}");
        }
        scene.plywood(&["commit", "work", "box"]).ok();
        let second = scene.run("work", "box-2", LOOK).ok();
        assert_eq!(second.stdout, SEEN, "{runtime} on {backend}: {second:?}");
        // What the image says runs, where nothing else is said; also from a committed snapshot on it, and read-only.
        for (source, key) in [("app", "plain"), ("work", "on-work")] {
            scene.plywood(&["bundle", source, key, "--key", key, "-o", "ro,nosuid"]).ok();
            assert_eq!(scene.run_bundle(key).ok().stdout, "hello\n");
            scene.plywood(&["umount", &format!("{key}/rootfs")]).ok();
            // Of a key that is there.
            let again = format!("{key}-again");
            scene.plywood(&["bundle", key, &again]).ok();
            assert_eq!(scene.run_bundle(&again).ok().stdout, "hello\n");
            scene.plywood(&["umount", &format!("{again}/rootfs")]).ok();
        }
        scene.plywood(&["remove", "box-2", "plain", "on-work", "work"]).ok();
        assert_eq!(mounts(), before, "{runtime} on {backend}");
    }
}

/// One copy of each layer serves containers with ids of their own, and what those write is committed with the ids that they see.
fn a_container_with_its_own_ids_runs(runtime: &'static str) {
    hide_the_second_cgroup_hierarchy();
    for backend in ["overlay", "copy"] {
        let scene = Scene::new(runtime, backend);
        // Root of the container is an ordinary user on the way there.
        fs::set_permissions(scene.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let script = "set -e; read inside outside count < /proc/self/uid_map; echo $outside; stat -c %u /srv/kept; echo x > /srv/made; \
                      mv /srv/changed /srv/folder/; rm /srv/deleted; stat -c %u:%g /srv/made /srv/folder/changed";
        for (key, first) in [("box", 100_000), ("box-2", 300_000)] {
            let map = format!("0:{first}:65536");
            scene.plywood(&["bundle", "app", key, "--key", key, "--id-map", &map, "--", "sh", "-c", script]).ok();
            let output = scene.run_bundle(key).ok();
            assert_eq!(output.stdout, format!("{first}\n0\n0:0\n0:0\n"), "{runtime} on {backend}");
            let rootfs = scene.path(key).join("rootfs");
            assert_eq!(fs::metadata(rootfs.join("srv/made")).unwrap().uid(), first, "as the host sees it");
            scene.plywood(&["umount", &format!("{key}/rootfs")]).ok();
        }
        scene.plywood(&["commit", "work", "box"]).ok();
        let output = scene.run("work", "plain", "stat -c %u:%g /srv/made /srv/folder/changed /srv").ok();
        assert_eq!(output.stdout, "0:0\n0:0\n0:0\n", "{runtime} on {backend}");
    }
}

/// The same where the trees themselves have the container's ids: nobody says the map again.
fn a_container_runs_on_shifted_trees(runtime: &'static str) {
    hide_the_second_cgroup_hierarchy();
    let scene = Scene::shifted(runtime, "0:100000:65536");
    fs::set_permissions(scene.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let script = "set -e; read inside outside count < /proc/self/uid_map; echo $outside; stat -c %u /srv/kept; echo x > /srv/made; \
                  mv /srv/changed /srv/folder/; rm /srv/deleted; stat -c %u:%g /srv/made /srv/folder/changed";
    let output = scene.run("app", "box", script).ok();
    assert_eq!(output.stdout, "100000\n0\n0:0\n0:0\n", "{runtime}");
    scene.plywood(&["commit", "work", "box"]).ok();
    let output = scene.run("work", "again", "stat -c %u:%g /srv/made /srv/folder/changed /srv").ok();
    assert_eq!(output.stdout, "0:0\n0:0\n0:0\n", "{runtime}");
    let other = scene.plywood(&["bundle", "app", "other", "--id-map", "0:300000:65536"]).run();
    assert!(other.status == 1 && other.stderr.contains("0:100000:65536") && other.stderr.contains("0:300000:65536"), "{other:?}");
    // Elsewhere the layer has the container's ids.
    scene.plywood(&["diff", "work", "-o", "work.tar"]).ok();
    let listed = Tool::new("tar").args(["--numeric-owner", "-tvf"]).arg(scene.path("work.tar")).ok().stdout;
    assert!(listed.contains("srv/made") && listed.lines().all(|line| line.contains(" 0/0 ")), "{listed}");
}

#[test]
fn runc_on_shifted_trees() {
    if require("runtime::bundles::runc_on_shifted_trees", &["runc"]) {
        Sandbox::root().run(|| a_container_runs_on_shifted_trees("runc"));
    }
}

#[test]
fn crun_on_shifted_trees() {
    if require("runtime::bundles::crun_on_shifted_trees", &["crun"]) {
        Sandbox::root().run(|| a_container_runs_on_shifted_trees("crun"));
    }
}

#[test]
fn runc_with_a_containers_own_ids() {
    if require("runtime::bundles::runc_with_a_containers_own_ids", &["runc"]) {
        Sandbox::root().run(|| a_container_with_its_own_ids_runs("runc"));
    }
}

#[test]
fn crun_with_a_containers_own_ids() {
    if require("runtime::bundles::crun_with_a_containers_own_ids", &["crun"]) {
        Sandbox::root().run(|| a_container_with_its_own_ids_runs("crun"));
    }
}

#[test]
fn runc_as_root() {
    if require("runtime::bundles::runc_as_root", &["runc"]) {
        Sandbox::root().run(|| a_bundle_runs_and_its_change_is_an_image("runc"));
    }
}

#[test]
fn crun_as_root() {
    if require("runtime::bundles::crun_as_root", &["crun"]) {
        Sandbox::root().run(|| a_bundle_runs_and_its_change_is_an_image("crun"));
    }
}

#[test]
fn runc_as_an_ordinary_user() {
    if require("runtime::bundles::runc_as_an_ordinary_user", &["runc"]) {
        Sandbox::user_namespace().run(|| a_bundle_runs_and_its_change_is_an_image("runc"));
    }
}

#[test]
fn crun_as_an_ordinary_user() {
    if require("runtime::bundles::crun_as_an_ordinary_user", &["crun"]) {
        Sandbox::user_namespace().run(|| a_bundle_runs_and_its_change_is_an_image("crun"));
    }
}
