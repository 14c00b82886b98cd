//! Images of other people's tools come in, and ours go out to them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use plywood::compression::Compression;
use plywood::digest::Algorithm;
use plywood::entry::Timestamp;
use plywood::store::{BackendChoice, ExportOptions, ImageSource, ImportLayerOptions, ImportOptions, Imported, LayerSource, Store};
use plywood::testing::image::Layout;
use plywood::testing::{Image, Layer, TemporaryStore};
use plywood::{Context, ErrorKind, Parallelism};
use serde_json::Value;

use crate::support::{Sandbox, Tool, is_root, require, skip};

/// A store on each backend that works here.
fn stores(test: &str) -> Vec<TemporaryStore> {
    let mut stores = Vec::new();
    for backend in [BackendChoice::Copy, BackendChoice::Overlay] {
        match Store::temporary_with(|options| options.backend(backend.clone())) {
            Ok(store) => stores.push(store),
            Err(error) => skip(test, &format!("{backend:?}: {error}")),
        }
    }
    stores
}

/// Runs a test's body where owners can be set: as root, or in a user namespace.
fn with_owners<F: FnOnce()>(body: F) {
    if is_root() { body() } else { Sandbox::user_namespace().run(body) }
}

fn import(store: &Store, source: &Path) -> Imported {
    let imported = store.import(ImageSource::path(source), &ImportOptions::default(), &Context::default());
    imported.unwrap_or_else(|error| panic!("{}: {error}: {:?}", source.display(), std::error::Error::source(&error)))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn blob(layout: &Path, digest: &Value) -> PathBuf {
    layout.join("blobs/sha256").join(digest.as_str().unwrap().strip_prefix("sha256:").unwrap())
}

/// umoci's way to work without root's rights, where there are none.
fn rootless() -> &'static [&'static str] {
    if is_root() { &[] } else { &["--rootless"] }
}

/// An image of two layers made by umoci, as a layout with the name `1`.
///
/// Not by `umoci insert`: the tars that version 0.4.7 writes there end without the last member's padding, which Go's reader takes and
/// GNU tar, libarchive and Python refuse.
fn made_by_umoci(directory: &Path) -> PathBuf {
    let layout = directory.join("umoci");
    let image = format!("{}:1", layout.display());
    let bundle = directory.join("umoci-bundle");
    let files = bundle.join("rootfs/opt/bin");
    let umoci = |arguments: &[&str]| Tool::new("umoci").args(arguments).ok();
    umoci(&["init", "--layout", layout.to_str().unwrap()]);
    umoci(&["new", "--image", &image]);
    umoci(&[&["unpack"], rootless(), &["--image", &image, bundle.to_str().unwrap()]].concat());
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("tool"), "#!/bin/sh\n").unwrap();
    std::os::unix::fs::symlink("tool", files.join("alias")).unwrap();
    umoci(&["repack", "--refresh-bundle", "--image", &image, bundle.to_str().unwrap()]);
    std::fs::write(files.join("tool"), "#!/bin/sh\nexit 1\n").unwrap();
    umoci(&["repack", "--refresh-bundle", "--image", &image, bundle.to_str().unwrap()]);
    umoci(&["config", "--image", &image, "--config.cmd", "/opt/bin/tool", "--config.env", "A=b", "--config.label", "x=y"]);
    layout
}

/// An image made by buildah, as a layout; none where buildah cannot run.
fn made_by_buildah(test: &str, directory: &Path) -> Option<PathBuf> {
    if !is_root() {
        skip(test, "buildah needs root or sub-ids");
        return None;
    }
    let storage = |name: &str| directory.join(name).display().to_string();
    let buildah = |arguments: &[&str]| {
        let options = ["--root", &storage("root"), "--runroot", &storage("runroot"), "--storage-driver", "vfs"];
        Tool::new("buildah").args(options).args(arguments).ok()
    };
    let context = directory.join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("file"), "content").unwrap();
    let recipe =
        "FROM scratch\nENV A=b\nLABEL x=y\nCOPY --chown=5:6 file /etc/file\nCOPY file /opt/file\nUSER 5\nCMD [\"/opt/file\"]\n";
    std::fs::write(context.join("Containerfile"), recipe).unwrap();
    buildah(&["bud", "--layers", "--isolation", "chroot", "--tag", "made:1", context.to_str().unwrap()]);
    let layout = directory.join("buildah");
    buildah(&["push", "made:1", &format!("oci:{}:1", layout.display())]);
    Some(layout)
}

fn skopeo(from: &str, to: &str, options: &[&str]) {
    let policy = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(policy.path(), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let policy = policy.path().display().to_string();
    Tool::new("skopeo").args(["--policy", &policy, "copy", "--quiet"]).args(options).args([from, to]).ok();
}

/// The same image in every form that skopeo and tar can give it.
fn forms(layout: &Path, directory: &Path) -> Vec<PathBuf> {
    let from = format!("oci:{}:1", layout.display());
    let at = |name: &str| directory.join(name);
    skopeo(&from, &format!("oci:{}:1", at("zstd").display()), &["--dest-compress-format", "zstd"]);
    skopeo(&from, &format!("oci-archive:{}:1", at("oci.tar").display()), &[]);
    skopeo(&from, &format!("docker-archive:{}:made:1", at("docker.tar").display()), &[]);
    let tar = Tool::new("tar").arg("-C").arg(layout).args(["-cf", "-", "--exclude=./blobs", "."]).ok();
    assert_eq!(tar.status, 0);
    // The index first, then blobs; and packed.
    let (plain, packed) = (at("layout.tar"), at("layout.tar.gz"));
    Tool::new("tar").arg("-C").arg(layout).arg("-cf").arg(&plain).args(["./index.json", "./oci-layout", "./blobs"]).ok();
    Tool::new("tar").arg("-C").arg(layout).arg("-czf").arg(&packed).args(["blobs", "oci-layout", "index.json"]).ok();
    vec![layout.to_owned(), at("zstd"), at("oci.tar"), at("docker.tar"), plain, packed]
}

#[test]
fn images_of_buildah_umoci_and_skopeo_are_imported_in_every_form() {
    with_owners(|| {
        let test = "images_of_buildah_umoci_and_skopeo_are_imported_in_every_form";
        if !require(test, &["umoci", "skopeo", "buildah", "tar", "gzip", "zstd"]) {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let mut layouts = vec![made_by_umoci(directory.path())];
        layouts.extend(made_by_buildah(test, directory.path()));
        for layout in layouts {
            let temporary = tempfile::tempdir().unwrap();
            let forms = forms(&layout, temporary.path());
            let index = json(&layout.join("index.json"));
            let manifest = json(&blob(&layout, &index["manifests"][0]["digest"]));
            let config = json(&blob(&layout, &manifest["config"]["digest"]));
            for store in stores(test) {
                let mut chains = Vec::new();
                for (number, form) in forms.iter().enumerate() {
                    let imported = import(&store, form);
                    // What was unpacked from the first form is found again by its diff ids, whatever the compression.
                    assert_eq!(imported.unpacked, if number == 0 { 2 } else { 0 }, "{}", form.display());
                    assert!(imported.report.is_empty(), "{:?}", imported.report);
                    let image = imported.image;
                    let env = config["config"]["Env"].as_array().unwrap().iter().map(|value| value.as_str().unwrap());
                    assert!(image.config.env().iter().map(String::as_str).eq(env), "{}", form.display());
                    assert_eq!(image.config.labels().find(|(name, _)| *name == "x"), Some(("x", "y")));
                    assert_eq!(serde_json::to_value(image.config.diff_ids()).unwrap(), config["rootfs"]["diff_ids"]);
                    chains.push(image.chain_id.unwrap());
                }
                chains.dedup();
                assert_eq!(chains.len(), 1);
                let kept = store.image("1").unwrap();
                for descriptor in kept.layers.iter().map(|layer| &layer.descriptor).chain([&kept.manifest, &kept.config_descriptor])
                {
                    let blob = store.content().blob(&descriptor.digest).unwrap().unwrap();
                    let mut bytes = Vec::new();
                    std::io::Read::read_to_end(&mut blob.reader(), &mut bytes).unwrap();
                    assert_eq!(Algorithm::Sha256.digest(&bytes), descriptor.digest);
                }
            }
        }
    });
}

#[test]
fn the_pipe_that_the_message_shows_works() {
    with_owners(|| {
        let test = "the_pipe_that_the_message_shows_works";
        if !require(test, &["umoci", "skopeo"]) {
            return;
        }
        let error = ImageSource::parse("docker://docker.io/library/made:1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let pipe = "skopeo copy --quiet docker://docker.io/library/made:1 docker-archive:/dev/stdout:docker.io/library/made:1 | plywood import -";
        assert!(error.hint().unwrap().contains(pipe), "{:?}", error.hint());

        let directory = tempfile::tempdir().unwrap();
        let from = format!("oci:{}:1", made_by_umoci(directory.path()).display());
        for store in stores(test) {
            // The same pipe, from a layout instead of a registry.
            let mut skopeo = Command::new("skopeo")
                .args(["--insecure-policy", "copy", "--quiet", &from, "docker-archive:/dev/stdout:docker.io/library/made:1"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let output = skopeo.stdout.take().unwrap();
            let imported = store.import(ImageSource::reader(output), &ImportOptions::default(), &Context::default());
            assert!(skopeo.wait().unwrap().success());
            assert_eq!(imported.unwrap().references, ["docker.io/library/made:1"]);
        }
    });
}

#[test]
fn an_unchanged_image_goes_out_as_it_came() {
    with_owners(|| {
        let test = "an_unchanged_image_goes_out_as_it_came";
        if !require(test, &["umoci", "skopeo"]) {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let layout = made_by_umoci(directory.path());
        for store in stores(test) {
            let image = import(&store, &layout).image;
            let target = tempfile::tempdir().unwrap();
            let exported = store.export("1", target.path(), &ExportOptions::default(), &Context::default()).unwrap();
            assert_eq!(exported.manifest.digest, image.manifest.digest);
            assert_read_by_peers(target.path(), "1", &image.manifest.digest.to_string());
            // All blobs of the first layout that the image needs, byte for byte.
            for entry in std::fs::read_dir(target.path().join("blobs/sha256")).unwrap() {
                let name = entry.unwrap().file_name();
                let read = |layout: &Path| std::fs::read(layout.join("blobs/sha256").join(&name)).unwrap();
                assert_eq!(read(target.path()), read(&layout));
            }
        }
    });
}

#[test]
fn a_stack_on_an_image_goes_out_as_an_image_that_peers_read() {
    with_owners(|| {
        let test = "a_stack_on_an_image_goes_out_as_an_image_that_peers_read";
        if !require(test, &["umoci", "skopeo"]) {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let layout = made_by_umoci(directory.path());
        let mut manifests = Vec::new();
        for store in stores(test) {
            let base = import(&store, &layout).image;
            let options = ImportLayerOptions::default().parent(base.chain_id.unwrap().to_string());
            let tar = Layer::new().whiteout("opt/bin/alias").dir("opt/new", 0o750).file("opt/new/file", "added").tar();
            let top = store.import_layer(LayerSource::reader(tar.as_slice()), &options, &Context::default()).unwrap();

            let target = tempfile::tempdir().unwrap();
            let created = Timestamp::from_seconds(1_700_000_000);
            let options = ExportOptions::default().reference("2").compression(Compression::Gzip).created(created);
            // Into a layout that is in use.
            store.export("1", target.path(), &ExportOptions::default(), &Context::default()).unwrap();
            let exported = store.export(&top.chain_id.to_string(), target.path(), &options, &Context::default()).unwrap();
            assert_eq!(exported.layers.len(), 3);
            assert_read_by_peers(target.path(), "1", &base.manifest.digest.to_string());
            let root = assert_read_by_peers(target.path(), "2", &exported.manifest.digest.to_string());
            assert_eq!(std::fs::read_to_string(root.path().join("bundle/rootfs/opt/new/file")).unwrap(), "added");
            assert!(!root.path().join("bundle/rootfs/opt/bin/alias").is_symlink());
            assert!(root.path().join("bundle/rootfs/opt/bin/tool").is_file());

            let config = json(&blob(target.path(), &serde_json::to_value(&exported.config.digest).unwrap()));
            assert_eq!(config["config"]["Cmd"], serde_json::json!(["/opt/bin/tool"]));
            assert_eq!(config["created"], "2023-11-14T22:13:20Z");
            assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 3);
            manifests.push(exported.manifest);
        }
        manifests.dedup();
        assert!(manifests.len() <= 1, "the same image on every backend: {manifests:?}");
    });
}

/// skopeo and umoci (and buildah, as root) take the image; gives the directory where umoci unpacked it.
#[track_caller]
fn assert_read_by_peers(layout: &Path, name: &str, manifest: &str) -> tempfile::TempDir {
    let image = format!("oci:{}:{name}", layout.display());
    let inspected = Tool::new("skopeo").args(["inspect", &image]).ok();
    let inspected: Value = serde_json::from_str(&inspected.stdout).unwrap();
    assert_eq!(inspected["Digest"], manifest);
    let scratch = tempfile::tempdir().unwrap();
    let copy = scratch.path().join("copy");
    skopeo(&image, &format!("oci:{}:copy", copy.display()), &["--preserve-digests"]);
    assert_eq!(json(&copy.join("index.json"))["manifests"][0]["digest"], manifest);
    let bundle = scratch.path().join("bundle");
    let source = format!("{}:{name}", layout.display());
    let arguments = [&["unpack"], rootless(), &["--image", &source, bundle.to_str().unwrap()]].concat();
    Tool::new("umoci").args(arguments).ok();
    if is_root() && require("assert_read_by_peers", &["buildah"]) {
        let storage = |name: &str| scratch.path().join(name).display().to_string();
        let options = ["--root", &storage("root"), "--runroot", &storage("runroot"), "--storage-driver", "vfs"];
        // buildah calls the image after the path as it is written, and takes small letters only.
        Tool::new("cp").arg("-r").arg(layout).arg(scratch.path().join("layout")).ok();
        let image = format!("oci:layout:{name}");
        Tool::new("buildah").current_dir(scratch.path()).args(options).args(["pull", "--quiet", &image]).ok();
    }
    scratch
}

#[test]
fn two_who_import_the_same_image_at_once_share_the_work() {
    with_owners(|| {
        let test = "two_who_import_the_same_image_at_once_share_the_work";
        if !require(test, &["umoci"]) {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let layout = made_by_umoci(directory.path());
        for store in stores(test) {
            let unpacked: usize = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| import(&store, &layout).unpacked)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(unpacked, 2);
            assert_eq!(store.images().unwrap().len(), 1);
        }
    });
}

/// The trees in a store, with the times at which their directories were last changed.
fn trees(store: &Store) -> BTreeMap<String, std::time::SystemTime> {
    let entries = std::fs::read_dir(store.root().join("trees")).unwrap().map(Result::unwrap);
    let of = |entry: std::fs::DirEntry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().modified().unwrap());
    entries.filter(|entry| entry.file_name() != "0").map(of).collect()
}

#[test]
fn images_of_other_bases_share_the_layers_above_them() {
    with_owners(|| {
        let test = "images_of_other_bases_share_the_layers_above_them";
        let layer = Layer::new;
        let base = |name: &str| layer().dir("etc", 0o755).file("etc/name", name).dir("usr", 0o755).dir("usr/lib", 0o711);
        // One names its parents, as Docker and BuildKit do, one implies them, one hides something; all ask the same of both bases.
        let upper = [
            layer().dir("usr", 0o755).dir("usr/lib", 0o755).file("usr/lib/one", "1".repeat(100_000)),
            layer().file("usr/lib/two", "2".repeat(100_000)),
            layer().whiteout("etc/name").file("etc/new", "3".repeat(100_000)),
        ];
        let image = |base: Layer, packing| {
            upper.iter().fold(Image::new().layer(base, packing), |image, layer| image.layer(layer.clone(), packing))
        };
        for way in ["a layout", "an archive out of a pipe", "docker save's, out of a pipe"] {
            let open = Store::temporary_with(|options| options.backend(BackendChoice::Overlay).parallelism(Parallelism::new(4)));
            let Ok(store) = open else { return skip(test, "there is no overlayfs") };
            let directory = tempfile::tempdir().unwrap();
            let bases = [base("one"), base("two"), base("three").dir("etc", 0o700)];
            let mut before = BTreeMap::new();
            for (number, (own, new_trees)) in bases.into_iter().zip([4, 1, 2]).enumerate() {
                let name = format!("image-{number}");
                let by_pipe = |archive: Vec<u8>| {
                    store.import(ImageSource::reader(archive.as_slice()), &ImportOptions::default(), &Context::default()).unwrap()
                };
                let imported = match way {
                    "a layout" => {
                        let layout = directory.path().join(&name);
                        image(own, Compression::Gzip).write_layout(&layout, &name).unwrap();
                        import(&store, &layout)
                    }
                    "an archive out of a pipe" => {
                        by_pipe(Layout::new().image(&name, &image(own, Compression::Gzip)).archive(Compression::None))
                    }
                    _ => by_pipe(image(own, Compression::None).docker_archive(&[&name])),
                };
                assert_eq!(imported.unpacked, 4, "each has a chain of its own");
                let after = trees(&store);
                assert_eq!(
                    after.len() - before.len(),
                    new_trees,
                    "{way}: the third one's etc has another mode, which a layer implies"
                );
                assert!(before.iter().all(|(tree, time)| after.get(tree) == Some(time)), "{way}: what is there is not touched");
                before = after;
            }
        }
    });
}

/// What comes out of a pipe is unpacked before it is known whose it is: nothing is left of what nobody wants, or of what fails.
#[test]
fn of_what_passes_by_only_the_image_stays() {
    with_owners(|| {
        let test = "of_what_passes_by_only_the_image_stays";
        let open = || Store::temporary_with(|options| options.backend(BackendChoice::Overlay).parallelism(Parallelism::new(3)));
        let Ok(store) = open() else { return skip(test, "there is no overlayfs") };
        let layer = |name: &str| Layer::new().file(name, name.repeat(50_000));
        let image = |names: &[&str]| names.iter().fold(Image::new(), |image, name| image.layer(layer(name), Compression::Gzip));
        let (ours, other) = (image(&["a", "b"]), image(&["c", "d"]).platform("plan9", "mips", ""));
        let archive = Layout::new().platforms("1", &[other, ours]).archive(Compression::Gzip);
        let imported =
            store.import(ImageSource::reader(archive.as_slice()), &ImportOptions::default(), &Context::default()).unwrap();
        assert_eq!((imported.unpacked, trees(&store).len()), (2, 2));
        let blobs = store.content().clone();
        assert!(imported.image.layers.iter().all(|layer| blobs.blob(&layer.descriptor.digest).unwrap().is_some()));

        let store = open().unwrap();
        for (what, cut) in [("cut", archive.len() / 2), ("cut at its end", archive.len() - 9)] {
            let error = store.import(ImageSource::reader(&archive[..cut]), &ImportOptions::default(), &Context::default());
            assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidLayer, "{what}");
            assert!(trees(&store).is_empty(), "{what}");
        }
        // A layer that is none is none of the image's, until the image says so.
        let broken =
            Image::new().layer(layer("a"), Compression::None).layer(layer("b").hardlink("z", "nowhere"), Compression::None);
        let archive = broken.docker_archive(&["x"]);
        let error = store.import(ImageSource::reader(archive.as_slice()), &ImportOptions::default(), &Context::default());
        assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidLayer);
        assert!(trees(&store).is_empty());
    });
}

/// A reader that ends in an error.
struct Fails<'a>(&'a [u8]);

impl std::io::Read for Fails<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(std::io::Error::from_raw_os_error(libc::EPIPE)),
            count => Ok(count),
        }
    }
}

#[test]
fn a_layer_is_unpacked_while_it_comes_in_whichever_it_is() {
    with_owners(|| {
        let test = "a_layer_is_unpacked_while_it_comes_in_whichever_it_is";
        for threads in [1, 2, 4] {
            let open =
                Store::temporary_with(|options| options.backend(BackendChoice::Overlay).parallelism(Parallelism::new(threads)));
            let Ok(store) = open else { return skip(test, "there is no overlayfs") };
            let import = |bytes: &[u8], options: &ImportLayerOptions, cx: &Context<'_>| {
                store.import_layer(LayerSource::reader(bytes), options, cx)
            };
            let layer = Layer::new().file("a", "a".repeat(3 << 20)).xattr("trusted.no", "x");
            let (undeclared, cx) = (ImportLayerOptions::default(), Context::default());
            let declared = ImportLayerOptions::default().diff_id(layer.diff_id());
            let first = import(&layer.packed(Compression::Gzip), &undeclared, &cx).unwrap();
            assert_eq!((first.existed, &first.diff_id, first.report.total), (false, &layer.diff_id(), 1));
            let there = trees(&store);
            assert_eq!(there.len(), 1);
            // What is there is found by its digest: nothing else is asked of it, and nothing of it reported.
            let mut limits = plywood::tar::Limits::default();
            limits.entries = 0;
            for options in [&undeclared, &declared, &undeclared.clone().limits(limits)] {
                for cx in [Context::default(), Context::default().strict()] {
                    let again = import(&layer.packed(Compression::Zstd), options, &cx).unwrap();
                    assert_eq!((again.existed, again.chain_id == first.chain_id, again.report.total), (true, true, 0));
                    assert_eq!(trees(&store), there);
                }
            }
            let other = Layer::new().file("b", "b".repeat(3 << 20)).tar();
            for options in [&undeclared, &declared] {
                let error = store.import_layer(LayerSource::reader(Fails(&other)), options, &cx).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EPIPE), "{threads} threads: {error}");
                assert_eq!(trees(&store), there);
            }
            assert_eq!(import(&other, &declared, &cx).unwrap_err().kind(), ErrorKind::DigestMismatch);
            assert_eq!(trees(&store), there);
        }
    });
}
