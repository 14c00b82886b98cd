//! plywood's differ in the hands of a real containerd: layers with corners that containerd's own gets wrong.

use plywood::Context;
use plywood::compression::Compression;
use plywood::snapshot::Name;
use plywood::store::{ImageSource, ImportOptions, Store};
use plywood::testing::conformance::show;
use plywood::testing::{Image, Layer, Tree};
use plywood::tree::Access;

use super::engine::{Engine, is_here, reference};
use crate::support::{Sandbox, programs};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// A shell, and layers that stand on each other in ways that have to be looked up.
fn image() -> Image {
    let below = Layer::new()
        .dir("srv", 0o755)
        .file("srv/kept", "kept\n")
        .file("srv/other", "other\n")
        .hardlink("srv/same", "srv/other")
        .dir("srv/real", 0o750)
        .owner(5, 5)
        .file("srv/real/gone", "gone\n")
        .file("srv/real/stays", "stays\n")
        .symlink("srv/link", "real")
        .dir("srv/folder", 0o700)
        .file("srv/folder/hidden", "hidden\n");
    // Through a symlink, into a folder that nobody describes here, of a file of the lower layer, and where a folder was.
    let above = Layer::new()
        .file("srv/link/new", "new\n")
        .whiteout("srv/link/gone")
        .hardlink("srv/linked", "srv/other")
        .opaque("srv/folder")
        .file("srv/folder/inside", "inside\n")
        .symlink("srv/sym", "kept")
        .hardlink("srv/hard", "srv/sym");
    Image::new()
        .layer(programs(), Compression::None)
        .layer(below, Compression::Gzip)
        .layer(above, Compression::Zstd)
        .env("PATH=/bin")
        .cmd(["sh", "-c", "cat /srv/kept"])
}

/// What the library makes of the image.
fn expected(engine: &Engine) -> Tree {
    let layout = engine.path("expected");
    image().write_layout(&layout, "image").unwrap();
    let store = Store::temporary().unwrap();
    let imported = store.import(ImageSource::path(&layout), &ImportOptions::default(), &Context::default()).unwrap();
    let name = Name::from(imported.image.chain_id.as_ref().unwrap());
    let at = tempfile::tempdir().unwrap();
    let shown = show(&store, Some(&name), at.path(), Access::ReadOnly).unwrap();
    let tree = Tree::read(at.path()).unwrap();
    drop(shown);
    tree
}

fn difference(engine: &Engine, tree: &Tree, name: &str) -> Vec<String> {
    let target = engine.path("seen");
    std::fs::create_dir_all(&target).unwrap();
    let target = target.to_str().unwrap();
    engine.ctr(&["images", "mount", "--snapshotter", "plywood", &reference(name), target]).ok();
    let seen = engine.seen_at(target);
    engine.ctr(&["images", "unmount", "--rm", "--snapshotter", "plywood", target]).ok();
    tree.difference(&seen)
}

#[test]
fn an_image_is_unpacked_by_the_contract_run_diffed_and_checkpointed() {
    if !is_here("containerd::differ::an_image_is_unpacked_by_the_contract_run_diffed_and_checkpointed") {
        return;
    }
    Sandbox::root().run(|| {
        let engine = Engine::with_differ("plywood-diff");
        let tree = expected(&engine);
        engine.import("app", &image(), "plywood").ok();
        assert_eq!(difference(&engine, &tree, "app"), Vec::<String>::new(), "nothing is left to mtimes either");

        let script = "cat /srv/real/new /srv/linked; echo mine > /srv/mine; rm /srv/kept; rm -r /srv/folder";
        assert_eq!(engine.run("app", "box", script).ok().stdout, "new\nother\n");
        let written = engine.snapshots("plywood", &["diff", "--media-type", TAR, "box"]).ok().stdout;
        let name = engine.command(&["snapshots", "--json"]).ok().stdout;
        let key = name.split('"').find(|text| text.starts_with("containerd:") && text.ends_with("/box")).unwrap().to_owned();
        assert_eq!(written, engine.command(&["diff", &key]).ok().stdout, "plywood's own, to the byte");
        engine.snapshots("plywood", &["diff", "box"]).ok();

        engine.snapshots("plywood", &["commit", "box-1", "box"]).ok();
        assert_eq!(engine.snapshots("plywood", &["diff", "--media-type", TAR, "box-1"]).ok().stdout, written);
        engine.snapshots("plywood", &["rm", "box-1"]).ok();
        engine.ctr(&["containers", "rm", "box"]);

        // A container's changes as a layer in an image.
        engine.run("app", "second", "echo second > /srv/second; rm /srv/kept").ok();
        engine.ctr(&["containers", "checkpoint", "--rw", "second", &reference("checkpoint")]).ok();
        engine.ctr(&["containers", "rm", "second"]).ok();
        engine.ctr(&["images", "export", engine.path("app.tar").to_str().unwrap(), &reference("app")]).ok();

        engine.ctr(&["images", "rm", "--sync", &reference("app"), &reference("checkpoint")]).ok();
        assert_eq!(engine.trees(), 0);
        engine.command(&["check", "--full"]).ok();
        assert_eq!(engine.mounts(), Vec::<String>::new());
    });
}

#[test]
fn the_transfer_service_has_plywood_unpack_too_and_other_snapshotters_go_on() {
    if !is_here("containerd::differ::the_transfer_service_has_plywood_unpack_too_and_other_snapshotters_go_on") {
        return;
    }
    Sandbox::root().run(|| {
        let engine = Engine::with_differ("plywood-diff");
        let tree = expected(&engine);
        // What is not plywood's is left to containerd's own differ, by the code that says so.
        engine.import("plain", &super::image(), "overlayfs").ok();
        assert_eq!(engine.trees(), 0);
        // Its own cannot follow these layers.
        assert_ne!(engine.import("app", &image(), "overlayfs").status, 0);
        engine.ctr(&["images", "rm", "--sync", &reference("app")]).ok();
        engine.ctr(&["images", "import", "--snapshotter", "plywood", engine.path("image.tar").to_str().unwrap()]).ok();
        assert_eq!(difference(&engine, &tree, "app"), Vec::<String>::new());
        assert_eq!(engine.run("app", "box", "cat /srv/real/new").ok().stdout, "new\n");
    });
}
