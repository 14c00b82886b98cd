//! `examples/run.rs`, as its reader would try it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use super::*;
use crate::support::example;

/// The files of the image's layers as a container sees them, with their inodes.
const LIST: &str = "find /usr /srv -type f -exec stat -c '%i %n' {} +; echo end";

struct Scene {
    directory: tempfile::TempDir,
    run: PathBuf,
    rootless: &'static [&'static str],
}

impl Scene {
    /// `None`, with a word about it, where the example was not built.
    fn new(test: &str, rootless: bool) -> Option<Self> {
        let scene = Self {
            directory: tempfile::tempdir().unwrap(),
            run: example(test, "run")?,
            rootless: if rootless { &["--rootless"] } else { &[] },
        };
        image().write_layout(scene.path("image"), "latest").unwrap();
        fs::write(scene.path("image.tar"), image().docker_archive(&["image:latest"])).unwrap();
        fs::create_dir(scene.path("tmp")).unwrap();
        Some(scene)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn arguments(&self, image: &str, options: &[&str], script: &str) -> Vec<String> {
        let mut arguments: Vec<_> = [&[image], options, self.rootless].concat().into_iter().map(str::to_owned).collect();
        if !script.is_empty() {
            arguments.extend(["--", "sh", "-c", script].map(str::to_owned));
        }
        arguments
    }

    fn run(&self, image: &str, options: &[&str], script: &str) -> crate::support::Output {
        let tool = Tool::new(&self.run).args(self.arguments(image, options, script));
        tool.current_dir(self.directory.path()).env("TMPDIR", self.path("tmp")).run()
    }
}

fn a_container_runs(test: &str, rootless: bool) {
    let Some(scene) = Scene::new(test, rootless) else { return };
    let before = mounts();
    for image in ["image", "image.tar"] {
        let output = scene.run(image, &[], "").ok();
        assert_eq!(output.stdout, "hello\n", "the image says what to run: {output:?}");
        let script = "echo $$; hostname; id -u; cat srv/changed; echo upper > srv/changed; rm srv/deleted; mv srv/folder/inside srv/moved; \
                      mkdir srv/new; ls srv; echo x > /dev/null; test -r /proc/1/status; test -e /dev/pts/ptmx; ls /dev/fd/0; exit 7";
        let output = scene.run(image, &[], script);
        assert_eq!(output.status, 7, "{output:?}");
        assert_eq!(output.stdout, "1\nplywood\n0\nlower\nchanged\nfolder\nkept\nmoved\nnew\n/dev/fd/0\n", "{output:?}");
    }
    assert_eq!(scene.run("image", &[], "kill -9 $$; sh -c 'kill -9 $$'; exit $?").status, 128 + 9);
    assert_eq!(scene.run("image", &[], "exec /nothing").status, 127);
    let broken = scene.run("nowhere", &[], "true");
    assert!(broken.status == 125 && broken.stderr.contains("nowhere"), "{broken:?}");
    // A limit is set, or is said not to be.
    let limited = scene.run("image", &["--memory", "256M", "--pids", "50", "--cpus", "0.5"], "echo in; cat /proc/self/cgroup").ok();
    assert!(limited.stdout.starts_with("in\n"), "{limited:?}");
    for controller in ["memory", "pids", "cpu"] {
        let group = limited.stdout.lines().any(|line| line == "0::/");
        assert!(group || limited.stderr.contains(&format!("no limit on {controller}")), "{limited:?}");
    }
    assert_eq!(names(scene.path("tmp")), Vec::<String>::new(), "all is gone");
    assert_eq!(mounts(), before);
}

fn two_containers_share_the_layers(test: &str, rootless: bool) {
    let Some(scene) = Scene::new(test, rootless) else { return };
    scene.run("image", &["--store", "store"], "true").ok();
    let (image, trees) = ("latest", names(scene.path("store/trees")));
    let script = format!("echo one > /mine; {LIST}; read line; ls /; cat /srv/changed");
    let mut one = Command::new(&scene.run)
        .args(scene.arguments(image, &["--store", "store"], &script))
        .current_dir(scene.directory.path())
        .env("TMPDIR", scene.path("tmp"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(one.stdout.take().unwrap());
    let mut seen = String::new();
    while !seen.ends_with("end\n") {
        assert_ne!(said.read_line(&mut seen).unwrap(), 0, "{seen}");
    }
    // While it runs, a second one.
    let script = format!(
        "ls /; {LIST}; echo two > /mine; echo upper > /srv/changed; rm /usr/bin/touch; touch 2>/dev/null && exit 3; exit 4"
    );
    let two = scene.run(image, &["--store", "store"], &script);
    assert_eq!(two.status, 4, "{two:?}");
    assert!(!two.stdout.lines().any(|line| line == "mine"), "{two:?}");
    let inodes = |text: &str| -> BTreeMap<String, u64> {
        let pairs = text.lines().filter_map(|line| line.split_once(" /"));
        pairs.map(|(inode, path)| (path.to_owned(), inode.parse().unwrap())).collect()
    };
    let (first, second) = (inodes(&seen), inodes(&two.stdout));
    assert!(first.len() > 15 && first.contains_key("srv/kept"), "{first:?}");
    assert_eq!(first, second, "both see the same inodes");
    // And those are the ones that the layers were unpacked to, once.
    let mut layers = BTreeMap::new();
    for tree in names(scene.path("store/trees")) {
        let fs = scene.path("store/trees").join(tree).join("fs");
        for path in first.keys() {
            if let Ok(meta) = fs::symlink_metadata(fs.join(path)) {
                layers.entry(path.clone()).or_insert_with(Vec::new).push(meta.ino());
            }
        }
    }
    for (path, inode) in &first {
        assert_eq!(layers.get(path), Some(&vec![*inode]), "{path}");
    }
    one.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(one.wait().unwrap().success());
    assert!(rest.contains("mine\n") && rest.ends_with("lower\n"), "it does not see what the other wrote: {rest}");
    assert_eq!(names(scene.path("tmp")), Vec::<String>::new());
    let left = scene.run(image, &["--store", "store"], "ls / /srv").ok();
    assert!(!left.stdout.contains("mine") && left.stdout.contains("deleted"), "{left:?}");
    assert_eq!(names(scene.path("store/trees")), trees, "only the layers' trees are left");
}

#[test]
fn root_runs_containers() {
    Sandbox::root().run(|| a_container_runs("runtime::example::root_runs_containers", false));
}

#[test]
fn an_ordinary_user_runs_containers() {
    Sandbox::user().run(|| a_container_runs("runtime::example::an_ordinary_user_runs_containers", true));
}

#[test]
fn two_containers_of_root_share_every_inode_of_the_layers() {
    Sandbox::root().run(|| {
        two_containers_share_the_layers("runtime::example::two_containers_of_root_share_every_inode_of_the_layers", false);
    });
}

#[test]
fn two_containers_of_an_ordinary_user_share_every_inode_of_the_layers() {
    Sandbox::user().run(|| {
        two_containers_share_the_layers(
            "runtime::example::two_containers_of_an_ordinary_user_share_every_inode_of_the_layers",
            true,
        );
    });
}
