//! All that a store can do, once, most of it with success: for tests of what holds whatever is done.

use std::fs;
use std::path::Path;

use plywood::compression::Compression;
use plywood::digest::Digest;
use plywood::snapshot::{Key, Labels, Name};
use plywood::store::{
    CheckOptions, DiffOptions, ExportOptions, GcOptions, ImageIndex, ImageManifest, ImageSource, ImportLayerOptions, ImportOptions,
    LabelUpdate, LayerSource, PullOptions, Store,
};
use plywood::testing::{Image, Layer};
use plywood::{Context, ErrorKind};

/// An image of two layers.
pub(crate) fn image() -> Image {
    let lower = Layer::new().dir("etc", 0o755).file("etc/motd", "hello\n").file("etc/old", "old\n");
    let upper = Layer::new().file("etc/motd", "more\n").whiteout("etc/old");
    Image::new().layer(lower, Compression::Gzip).layer(upper, Compression::Zstd)
}

/// Pulls the image of a layout, of which the store may hold some or all.
fn pull(store: &Store, layout: &Path, reference: &str, cx: &Context<'_>) {
    let fetch = |digest: &Digest| fs::read(layout.join("blobs/sha256").join(digest.to_hex())).unwrap();
    let index = ImageIndex::new(fs::read(layout.join("index.json")).unwrap(), None).unwrap();
    let descriptor = index.choose(None).unwrap();
    let manifest = ImageManifest::of(&descriptor, fetch(&descriptor.digest)).unwrap();
    let pull = store.pull(&manifest, &fetch(&manifest.config().digest), &PullOptions::default(), cx).unwrap();
    for layer in pull.missing() {
        // Who else does the same in the same store may have brought it.
        let Some(mut ingest) = pull.ingest(&layer.descriptor, cx).unwrap() else { continue };
        let bytes = fetch(&layer.descriptor.digest);
        ingest.copy_from(&bytes[ingest.offset() as usize..], cx).unwrap();
        ingest.finish(cx).unwrap();
    }
    assert_eq!(pull.finish(reference, cx).unwrap().image.reference, reference);
}

/// Calls every verb, under names of its own: several threads and processes may do it in one store at once.
pub(crate) fn every_verb(store: &Store, who: &str, cx: &Context<'_>) {
    let directory = plywood::testing::temporary_directory().unwrap();
    let path = |name: &str| directory.path().join(name);
    let named = |name: &str| format!("{name}-{who}");
    image().write_layout(path("image"), "image").unwrap();
    let options = ImportOptions::default().reference(named("image"));
    let imported = store.import(ImageSource::path(path("image")), &options, cx).unwrap();
    let archive = image().docker_archive(&[&named("piped")]);
    store.import(ImageSource::reader(&archive[..]), &ImportOptions::default(), cx).unwrap();
    pull(store, &path("image"), &named("pulled"), cx);
    let top = Name::from(imported.image.chain_id.as_ref().unwrap());
    store.tag(&named("image"), &named("tag")).unwrap();
    store.untag(&named("tag")).unwrap();
    let layer = ImportLayerOptions::default().parent(top.as_str());
    store.import_layer(LayerSource::reader(&Layer::new().file("a", who).tar()[..]), &layer, cx).unwrap();
    let (key, look) = (Key::new(named("box")).unwrap(), Key::new(named("look")).unwrap());
    fs::create_dir(path("target")).unwrap();
    let mount = store.prepare(&key, Some(&top), &Default::default()).unwrap();
    mount.attach(path("target")).unwrap().close().unwrap();
    let again = store.mounts(key.as_str()).unwrap();
    let mounted = again.attach_at(fs::File::open(directory.path()).unwrap(), "target").unwrap();
    fs::write(path("target/etc/own"), vec![b'o'; 300_000]).unwrap();
    drop(mounted);
    let view = store.view(&look, Some(&top), &Default::default()).unwrap();
    drop(view.detached().unwrap().attach(path("target")).unwrap());
    assert_eq!(plywood::mount::unmount(path("target")).unwrap_err().kind(), ErrorKind::InvalidArgument);
    store.open_root(imported.image.layers[0].chain_id.to_string().as_str()).unwrap();
    store.update(key.as_str(), &LabelUpdate::replace_all(Labels::new())).unwrap();
    store.usage(key.as_str()).unwrap();
    store.changes(key.as_str(), cx, |_| Ok(())).unwrap();
    for compression in [Compression::Gzip, Compression::Zstd] {
        store.diff(key.as_str(), std::io::sink(), &DiffOptions::default().compression(compression), cx).unwrap();
    }
    let applied = Key::new(named("applied")).unwrap();
    drop(store.prepare(&applied, Some(&top), &Default::default()).unwrap());
    store.apply(&applied, LayerSource::reader(&Layer::new().file("b", who).tar()[..]), &Default::default(), cx).unwrap();
    store.remove(applied.as_str()).unwrap();
    let name = Name::new(named("kept")).unwrap();
    store.commit(&name, &key, &Default::default()).unwrap();
    // Not every kernel mounts one layer alone.
    drop(store.mount_committed(name.as_str()));
    store.export(name.as_str(), &path("out"), &ExportOptions::default(), cx).unwrap();
    store.add_lease(&named("lease"), &Default::default()).unwrap();
    store.remove_lease(&named("lease")).unwrap();
    store.open_file(look.as_str(), "etc/motd").unwrap();
    store.explain(name.as_str(), "/etc/motd", cx).unwrap();
    store.stats().unwrap();
    store.measure_stats(cx).unwrap();
    store.disk_usage().unwrap();
    store.remove(look.as_str()).unwrap();
    store.empty_trash(cx).unwrap();
    store.check(&CheckOptions::default().full().repair(), cx).unwrap();
    store.gc(&GcOptions::default(), cx).unwrap();
}
