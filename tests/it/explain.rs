//! `explain`: which layer made a path, and what it hides, is the same on every backend as far as trees can tell.

use plywood::compression::Compression;
use plywood::snapshot::{Key, Name};
use plywood::store::{BackendChoice, Effect, Explanation, ImageSource, ImportLayerOptions, LayerSource, Store};
use plywood::testing::{Image, Layer, TemporaryStore};
use plywood::{Context, ErrorKind};

use crate::support::{Sandbox, is_root};

fn sandbox() -> Sandbox {
    if is_root() { Sandbox::root() } else { Sandbox::user_namespace() }
}

fn layers() -> [Layer; 4] {
    [
        Layer::new()
            .dir("", 0o755)
            .dir("etc", 0o755)
            .file("etc/motd", "hello")
            .file("etc/old", "old")
            .file("etc/mode", "mode")
            .file("etc/same", "same")
            .dir("d", 0o755)
            .file("d/x", "x")
            .file("d/y", "y")
            .dir("gone", 0o755)
            .file("gone/f", "f")
            .dir("usr/lib", 0o755)
            .file("usr/lib/a", "a")
            .symlink("lib", "usr/lib")
            .symlink("loop", "loop"),
        Layer::new()
            .file("etc/motd", "hallo")
            .whiteout("etc/old")
            .file("etc/mode", "mode")
            .mode(0o600)
            .file("etc/same", "same")
            .opaque("d")
            .file("d/x", "xx")
            .whiteout("gone"),
        // Changes nothing.
        Layer::new(),
        Layer::new().dir("", 0o700).file("lib/a", "A").file("d", "no directory"),
    ]
}

/// A store with the layers, and their chain ids.
fn stacked(backend: BackendChoice) -> (TemporaryStore, Vec<String>) {
    let store = Store::temporary_with(|options| options.backend(backend)).unwrap();
    let mut names: Vec<String> = Vec::new();
    for layer in layers() {
        let options = names.last().into_iter().fold(ImportLayerOptions::default(), ImportLayerOptions::parent);
        let layer = store.import_layer(LayerSource::reader(&layer.tar()[..]), &options, &Context::default()).unwrap();
        names.push(layer.chain_id.to_string());
    }
    (store, names)
}

/// An explanation in a line: `4 deleted d, 2 modified (by 4), 1 added (by 2)`, with the numbers of the layers.
fn line(explained: &Explanation, names: &[String]) -> String {
    let number = |name: &str| names.iter().position(|of| of == name).map_or_else(|| name.to_owned(), |at| (at + 1).to_string());
    let layers = explained.layers.iter().map(|layer| {
        let effect = match &layer.effect {
            Effect::Added => "added".to_owned(),
            Effect::Modified => "modified".to_owned(),
            Effect::Attributes => "attributes".to_owned(),
            Effect::Replaced => "replaced".to_owned(),
            Effect::Deleted { at, .. } => format!("deleted {at}"),
            other => panic!("{other:?}"),
        };
        let hidden = layer.hidden_by.as_deref().map_or_else(String::new, |name| format!(" (by {})", number(name)));
        format!("{} {effect}{hidden}", number(&layer.snapshot))
    });
    layers.collect::<Vec<_>>().join(", ")
}

#[test]
fn each_path_is_explained_alike_on_every_backend() {
    sandbox().run(|| {
        for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
            let (store, names) = stacked(backend);
            let top = names.last().unwrap();
            let explain = |path: &str| store.explain(top, path, &Context::default());
            for (path, resolved, exists, expected) in [
                ("/etc/motd", "etc/motd", true, "2 modified, 1 added (by 2)"),
                ("etc//./old", "etc/old", false, "2 deleted etc/old, 1 added (by 2)"),
                ("/etc/mode", "etc/mode", true, "2 attributes, 1 added (by 2)"),
                ("/etc/same", "etc/same", true, "1 added"),
                ("/d/x", "d/x", false, "4 deleted d, 2 modified (by 4), 1 added (by 2)"),
                ("/d/y", "d/y", false, "2 deleted d/y, 1 added (by 2)"),
                ("/gone/f", "gone/f", false, "2 deleted gone, 1 added (by 2)"),
                ("/lib/a", "usr/lib/a", true, "4 modified, 1 added (by 4)"),
                ("/etc/../../lib/../lib/a", "usr/lib/a", true, "4 modified, 1 added (by 4)"),
                ("/lib", "lib", true, "1 added"),
                ("/etc", "etc", true, "1 added"),
                ("/", ".", true, "4 attributes, 1 added"),
            ] {
                let explained = explain(path).unwrap();
                assert_eq!(line(&explained, &names), expected, "{} {path}", store.backend().name());
                assert_eq!((explained.path.to_string().as_str(), explained.exists), (resolved, exists), "{path}");
                let seen = store.open_root(top).unwrap().symlink_metadata(resolved);
                let first = explained.layers[0].info.clone();
                assert_eq!(first, seen.ok().map(|seen| if path == "/" { first.clone().unwrap() } else { seen }), "{path}");
            }
            assert_eq!(explain("/nowhere").unwrap_err().kind(), ErrorKind::NotFound);
            assert_eq!(explain("/loop/x").unwrap_err().kind(), ErrorKind::InvalidArgument);
            assert_eq!(explain("/a\0b").unwrap_err().kind(), ErrorKind::InvalidArgument);
            assert_eq!(store.explain("nobody", "/", &Context::default()).unwrap_err().kind(), ErrorKind::NotFound);
            // What the copy backend cannot tell: that a directory is another one.
            let replaced = line(&store.explain(&names[1], "/d", &Context::default()).unwrap(), &names);
            assert_eq!(replaced, if store.backend().shares_trees() { "2 replaced, 1 added (by 2)" } else { "1 added" });
        }
    });
}

#[test]
fn the_layers_of_an_image_are_explained_too() {
    sandbox().run(|| {
        for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
            let store = Store::temporary_with(|options| options.backend(backend)).unwrap();
            let image = layers().into_iter().fold(Image::new(), |image, layer| image.layer(layer, Compression::Gzip));
            let archive = image.docker_archive(&["image"]);
            let imported = store.import(ImageSource::reader(&archive[..]), &Default::default(), &Context::default()).unwrap();
            let names: Vec<_> = imported.image.layers.iter().map(|layer| layer.chain_id.to_string()).collect();
            for (path, expected) in [("/etc/motd", "2 modified, 1 added (by 2)"), ("/lib/a", "4 modified, 1 added (by 4)")] {
                let explained = store.explain(&names[3], path, &Context::default()).unwrap();
                assert_eq!(line(&explained, &names), expected, "{} {path}", store.backend().name());
            }
        }
    });
}

#[test]
fn a_container_and_a_view_are_explained_as_what_they_stand_on_and_what_was_written() {
    sandbox().run(|| {
        for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
            let (store, names) = stacked(backend);
            let top = Name::from(&names[3].parse::<plywood::digest::ChainId>().unwrap());
            store.view(&Key::new("look").unwrap(), Some(&top), &Default::default()).unwrap();
            let mount = store.prepare(&Key::new("box").unwrap(), Some(&top), &Default::default()).unwrap();
            let target = plywood::testing::temporary_directory().unwrap();
            let mounted = mount.attach(target.path()).unwrap();
            std::fs::remove_file(target.path().join("etc/motd")).unwrap();
            std::fs::write(target.path().join("etc/new"), "new").unwrap();
            let explain = |key: &str, path: &str| line(&store.explain(key, path, &Context::default()).unwrap(), &names);
            // Also while it is mounted.
            assert_eq!(explain("box", "/etc/motd"), "box deleted etc/motd, 2 modified (by box), 1 added (by 2)");
            assert_eq!(explain("box", "/etc/new"), "box added");
            assert_eq!(explain("box", "/etc/mode"), explain("look", "/etc/mode"));
            assert_eq!(explain("look", "/etc/motd"), "2 modified, 1 added (by 2)");
            mounted.close().unwrap();
        }
    });
}
