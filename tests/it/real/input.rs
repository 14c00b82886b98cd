//! Real input: files of Debian packages, and images that buildah, umoci and skopeo make of them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::support::{Tool, require};

/// What the tests of this topic need.
pub(super) const PROGRAMS: [&str; 9] = ["dpkg", "tar", "bash", "setfacl", "setfattr", "setcap", "umoci", "buildah", "skopeo"];

/// Whether everything is there; says SKIP otherwise.
#[track_caller]
pub(super) fn installed(test: &str) -> bool {
    require(test, &PROGRAMS)
}

/// Essential packages, so that they are installed on every Debian: set-uid programs, hardlinks, symlinks, files without read permission.
const PACKAGES: [&str; 11] =
    ["base-files", "base-passwd", "passwd", "login", "perl-base", "dash", "debianutils", "sed", "dpkg", "libpam-modules", "tzdata"];

/// Copies the packages' files to `target`, merged into /usr, and adds what packages do not have.
pub(super) fn debian_tree(target: &Path) {
    fs::create_dir_all(target).unwrap();
    let listed = Tool::new("dpkg").arg("-L").args(PACKAGES).run().stdout;
    let mut names: Vec<String> = Vec::new();
    for path in listed.lines().filter(|line| line.starts_with('/') && *line != "/.") {
        let merged = ["/bin", "/sbin", "/lib"].iter().any(|top| path == *top || path.starts_with(&format!("{top}/")));
        let name = if merged { format!("usr{path}") } else { path.trim_start_matches('/').to_owned() };
        if fs::symlink_metadata(Path::new("/").join(&name)).is_ok() {
            names.push(name);
        }
    }
    names.sort();
    names.dedup();
    assert!(names.len() > 500, "the packages have files: {}", names.len());
    let copy = "tar -C / --no-recursion --null -T - -cf - | tar -C \"$1\" -xpf -";
    Tool::new("bash").args(["-o", "pipefail", "-c", copy, "copy"]).arg(target).input(names.join("\0")).ok();
    for top in ["bin", "sbin", "lib"] {
        symlink(format!("usr/{top}"), target.join(top)).unwrap();
    }
    shell(target, ADDITIONS);
}

/// What packages do not have, but images do.
const ADDITIONS: &str = r#"
mkdir -p srv/app/node_modules/.bin srv/app/empty "srv/app/with space" opt/old/deep opt/kept home/me dev var/tmp
chmod 1777 var/tmp
printf 'body' > srv/app/main; chmod 4755 srv/app/main; setcap cap_net_raw+ep srv/app/main
printf 'x' > srv/app/shared; ln srv/app/shared srv/app/shared2; ln srv/app/shared opt/kept/shared3
setfattr -n user.note -v 'a value' srv/app/shared
setfacl -m u:1000:rwx,g:7:r-x -d -m u:1000:rwx srv/app/empty
ln -s ../main srv/app/node_modules/.bin/run; ln -s /does/not/exist home/me/dangling; ln -s . srv/app/loop
mkfifo -m 0620 srv/app/pipe; mknod -m 0666 dev/null c 1 3; mknod -m 0660 dev/disk b 8 1
long=$(printf 'l%.0s' $(seq 200)); mkdir -p "srv/$long/$long"; printf 'deep' > "srv/$long/$long/$long"; ln -s "$long/$long/$long" srv/to-long
printf 'old' > opt/old/a; printf 'old' > opt/old/deep/b; printf 'file' > opt/becomes-dir; mkdir opt/becomes-file; : > opt/becomes-file/x
truncate -s 3M opt/sparse; printf 'end' >> opt/sparse
printf 'secret' > home/me/secret; chmod 0600 home/me/secret; chmod 0700 home/me; chown -R 1000:1001 home/me; chown -h 1000:1001 home/me/dangling
printf 'ü' > "home/me/grüße"; : > home/me/empty
find . -mindepth 1 ! -type l -newermt 2025-01-01 -exec touch -h -d '2024-05-06 07:08:09.123456789 UTC' {} +
"#;

/// What the second layer changes.
pub(super) const SECOND: &str = r#"
rm -r opt/old && mkdir opt/old && printf 'new' > opt/old/c
rm opt/becomes-dir && mkdir opt/becomes-dir && printf 'in' > opt/becomes-dir/in
rm -r opt/becomes-file && printf 'now a file' > opt/becomes-file
rm srv/app/shared2 etc/issue; rm -r usr/share/zoneinfo/Africa
chmod 0700 srv/app/node_modules; chown 33:33 srv/app/main; setcap cap_chown+ep srv/app/main
printf 'more' >> srv/app/shared; setfattr -x user.note srv/app/shared
ln etc/debian_version etc/also_version
rm srv/to-long && ln -s /srv srv/to-long
"#;

/// Runs a script in a directory, which must succeed in each line.
#[track_caller]
pub(super) fn shell(directory: &Path, script: &str) {
    Tool::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(directory)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .ok();
}

/// Where an image came from, for messages, and its layout, which holds it alone.
pub(super) struct Image {
    pub(super) name: &'static str,
    pub(super) layout: PathBuf,
}

/// Makes an image of two layers on nothing, compressed with gzip: a tree, and what a script changes in it.
pub(super) type Make = fn(&Path, &Path, &str) -> Image;

/// Made by buildah.
pub(super) fn by_buildah(work: &Path, tree: &Path, second_layer: &str) -> Image {
    let layout = work.join("buildah");
    let policy = work.join("policy.json");
    fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let buildah = |arguments: &[&str]| {
        let storage = [work.join("storage"), work.join("run")];
        let global = ["--root", storage[0].to_str().unwrap(), "--runroot", storage[1].to_str().unwrap(), "--storage-driver", "vfs"];
        Tool::new("buildah")
            .args(global)
            .args(arguments)
            .env("BUILDAH_ISOLATION", "chroot")
            .env("TMPDIR", work)
            .env("HOME", work)
            .env("XDG_RUNTIME_DIR", work)
            .ok()
            .stdout
            .trim()
            .to_owned()
    };
    let commit = |container: &str, tag: &str| {
        let target = format!("oci:{}:{tag}", work.join("buildah-all").display());
        buildah(&["commit", "--signature-policy", policy.to_str().unwrap(), "--disable-compression=false", container, &target]);
        target
    };
    let first = buildah(&["from", "scratch"]);
    let root = PathBuf::from(buildah(&["mount", &first]));
    Tool::new("cp").args(["-a", "--reflink=auto"]).arg(tree.join(".")).arg(&root).ok();
    buildah(&["config", "--env", "A=b", "--cmd", "/bin/sh", "--label", "maker=buildah", &first]);
    let base = commit(&first, "base");
    let second = buildah(&["from", "--signature-policy", policy.to_str().unwrap(), &base]);
    shell(&PathBuf::from(buildah(&["mount", &second])), second_layer);
    let both = commit(&second, "both");
    skopeo(&both, &format!("oci:{}:both", layout.display()), "gzip");
    Image { name: "buildah, gzip", layout }
}

/// Made by umoci.
pub(super) fn by_umoci(work: &Path, tree: &Path, second_layer: &str) -> Image {
    let all = work.join("umoci-all");
    let image = |tag: &str| format!("{}:{tag}", all.display());
    let bundle = work.join("umoci-bundle");
    let umoci = |arguments: &[&str]| Tool::new("umoci").args(arguments).ok();
    umoci(&["init", "--layout", all.to_str().unwrap()]);
    umoci(&["new", "--image", &image("base")]);
    umoci(&["unpack", "--image", &image("base"), bundle.to_str().unwrap()]);
    Tool::new("cp").args(["-a", "--reflink=auto"]).arg(tree.join(".")).arg(bundle.join("rootfs")).ok();
    umoci(&["repack", "--refresh-bundle", "--image", &image("base"), bundle.to_str().unwrap()]);
    shell(&bundle.join("rootfs"), second_layer);
    umoci(&["repack", "--image", &image("both"), bundle.to_str().unwrap()]);
    fs::remove_dir_all(&bundle).unwrap();
    let layout = work.join("umoci");
    skopeo(&format!("oci:{}", image("both")), &format!("oci:{}:both", layout.display()), "gzip");
    Image { name: "umoci, gzip", layout }
}

/// The same image, its layers compressed with zstd by skopeo.
pub(super) fn in_zstd(work: &Path, image: &Image) -> Image {
    let (name, folder) =
        if image.name.starts_with("buildah") { ("buildah, zstd", "buildah-zstd") } else { ("umoci, zstd", "umoci-zstd") };
    let layout = work.join(folder);
    skopeo(&format!("oci:{}:both", image.layout.display()), &format!("oci:{}:both", layout.display()), "zstd");
    Image { name, layout }
}

fn skopeo(from: &str, to: &str, compression: &str) {
    let options = ["--insecure-policy", "copy", "-q", "--dest-compress", "--dest-compress-format", compression];
    Tool::new("skopeo").args(options).args([from, to]).ok();
}

/// What umoci makes of an image: the root file system.
pub(super) fn umoci_unpack(layout: &Path, tag: &str, bundle: &Path) -> PathBuf {
    Tool::new("umoci").args(["unpack", "--image", &format!("{}:{tag}", layout.display())]).arg(bundle).ok();
    bundle.join("rootfs")
}

/// The layers of the one image in a layout, as skopeo names their blobs.
pub(super) fn layers(layout: &Path) -> Vec<PathBuf> {
    let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let read = |path: PathBuf| -> serde_json::Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = read(layout.join("index.json"));
    let manifest = read(blob(index["manifests"][0]["digest"].as_str().unwrap()));
    manifest["layers"].as_array().unwrap().iter().map(|layer| blob(layer["digest"].as_str().unwrap())).collect()
}
