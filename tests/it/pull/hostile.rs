//! Registries that lie: every lie has its error, and nothing of it gets a name.

use plywood::descriptor::MediaType;
use plywood::digest::{Algorithm, DiffId};
use serde_json::{Value, json};

use super::*;

impl Registry {
    /// The same image, whose manifest was changed, and perhaps its config.
    fn forged(&self, change: impl FnOnce(&mut Value, &mut Value)) -> Self {
        let mut config: Value = serde_json::from_slice(self.config()).unwrap();
        let mut manifest: Value = serde_json::from_slice(&self.blobs[&self.manifest.descriptor().digest]).unwrap();
        change(&mut manifest, &mut config);
        let mut blobs = self.blobs.clone();
        let bytes = serde_json::to_vec(&config).unwrap();
        let digest = Algorithm::Sha256.digest(&bytes);
        manifest["config"]["digest"] = json!(digest.to_string());
        manifest["config"]["size"] = json!(bytes.len());
        blobs.insert(digest, bytes);
        let manifest = ImageManifest::new(serde_json::to_vec(&manifest).unwrap(), None).unwrap();
        Self { index: self.index.clone(), index_bytes: self.index_bytes.clone(), manifest, blobs }
    }
}

/// Nothing has a name, and what is kept for another attempt goes with its lease.
fn assert_nothing_named(store: &Store) {
    assert!(store.images().unwrap().is_empty());
    for lease in store.leases().unwrap() {
        store.remove_lease(&lease.name).unwrap();
    }
    store.gc(&Default::default(), &Context::default()).unwrap();
    for folder in ["blobs/sha256", "trees"] {
        let left = std::fs::read_dir(store.root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        // The overlay backend's empty lowerdir stays.
        let left: Vec<_> = left.filter(|path| !path.ends_with("trees/0")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn documents_that_are_not_what_they_are_called_are_refused() {
    let registry = Registry::new(&image());
    let (descriptor, bytes) = (registry.manifest.descriptor(), &registry.blobs[&registry.manifest.descriptor().digest]);
    let other = [bytes, &b" "[..]].concat();
    assert_eq!(ImageManifest::of(descriptor, other).unwrap_err().kind(), ErrorKind::DigestMismatch);
    for (media_type, kind) in [
        (MediaType::INDEX, ErrorKind::Unsupported),
        (MediaType::DOCKER_MANIFEST, ErrorKind::InvalidLayer),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", ErrorKind::Unsupported),
        ("text/html; charset=utf-8", ErrorKind::Unsupported),
        ("", ErrorKind::Unsupported),
    ] {
        let error = ImageManifest::new(bytes.clone(), Some(media_type)).unwrap_err();
        assert_eq!(error.kind(), kind, "{media_type}: {error}");
    }
    ImageManifest::new(bytes.clone(), Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")).unwrap();
    assert_eq!(ImageIndex::new(bytes.clone(), None).unwrap_err().kind(), ErrorKind::Unsupported);
    let large = [b"{".to_vec(), vec![b' '; 5 << 20], b"}".to_vec()].concat();
    assert_eq!(ImageManifest::new(large, None).unwrap_err().kind(), ErrorKind::LimitExceeded);
    on_each_backend(|store| {
        let cx = Context::default();
        let error = store.pull(&registry.manifest, b"{}", &PullOptions::default(), &cx).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestMismatch);
        let elsewhere = ImageIndex::new(r#"{"schemaVersion":2,"manifests":[]}"#, None).unwrap();
        let error = registry.begin_with(store, &PullOptions::default().index(elsewhere)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_nothing_named(store);
    });
}

#[test]
fn a_config_that_disagrees_with_the_manifest_is_refused() {
    let registry = Registry::new(&image());
    let with = |change: fn(&mut Value, &mut Value)| registry.forged(change);
    let short = with(|_, config| drop(config["rootfs"]["diff_ids"].as_array_mut().unwrap().pop()));
    let twice = with(|manifest, _| manifest["layers"][1] = manifest["layers"][0].clone());
    let sizes = with(|manifest, config| {
        manifest["layers"][1] = manifest["layers"][0].clone();
        config["rootfs"]["diff_ids"][1] = config["rootfs"]["diff_ids"][0].clone();
        manifest["layers"][1]["size"] = json!(7);
    });
    on_each_backend(|store| {
        for registry in [&short, &twice, &sizes] {
            assert_eq!(registry.begin(store).unwrap_err().kind(), ErrorKind::InvalidLayer);
        }
        assert_nothing_named(store);
    });
}

#[test]
fn a_layer_of_another_diff_id_is_refused_in_whichever_order_it_comes() {
    let registry = Registry::new(&image()).forged(|_, config| {
        config["rootfs"]["diff_ids"][1] = json!(Algorithm::Sha256.digest(b"another").to_string());
    });
    let layers = registry.layers();
    for push in [Registry::push, Registry::stream] {
        on_each_backend(|store| {
            let pull = registry.begin(store).unwrap();
            push(&registry, &pull, &layers[0]).unwrap();
            let error = push(&registry, &pull, &layers[1]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DigestMismatch);
            assert!(error.path().unwrap().to_string_lossy().contains(&layers[1].digest.to_hex()), "{error}");
            push(&registry, &pull, &layers[2]).unwrap_err();
            assert_eq!(pull.finish("x:1", &Context::default()).unwrap_err().kind(), ErrorKind::DigestMismatch);

            let pull = registry.begin(store).unwrap();
            assert_eq!(pull.missing(), []);
            assert_eq!(pull.finish("x:1", &Context::default()).unwrap_err().kind(), ErrorKind::DigestMismatch);
            assert_nothing_named(store);
        });
    }
}

#[test]
fn bytes_that_are_not_the_blob_are_refused_and_deleted() {
    let (registry, cx) = (Registry::new(&image()), Context::default());
    let layer = &registry.layers()[0];
    let blob = registry.blob(layer);
    let mut wrong = blob.to_vec();
    wrong[50] ^= 1;
    on_each_backend(|store| {
        let pull = registry.begin(store).unwrap();
        for bytes in [&wrong[..], &[blob, b"more"].concat()] {
            let mut ingest = pull.ingest(layer, &cx).unwrap().unwrap();
            assert_eq!(ingest.offset(), 0);
            let streamed = ingest.copy_from(bytes, &cx).and_then(|()| ingest.finish(&cx));
            assert_eq!(streamed.unwrap_err().kind(), ErrorKind::DigestMismatch);
        }
        let mut ingest = pull.ingest(layer, &cx).unwrap().unwrap();
        assert_eq!(ingest.offset(), 0);
        ingest.write(&blob[..9]).unwrap();
        assert_eq!(ingest.finish(&cx).unwrap_err().kind(), ErrorKind::DigestMismatch);
        // Fewer bytes are gone on with.
        assert_eq!(pull.ingest(layer, &cx).unwrap().unwrap().offset(), 9);
        assert_eq!(pull.finish("x:1", &cx).unwrap_err().kind(), ErrorKind::NotFound);
        assert_nothing_named(store);
    });
}

#[test]
fn a_layer_that_is_no_archive_is_refused() {
    let registry = Registry::new(&image());
    let (digest, bytes) = (Algorithm::Sha256.digest(b"no tar"), b"no tar".to_vec());
    let mut registry = registry.forged(|manifest, config| {
        manifest["layers"][1] = json!({ "mediaType": MediaType::LAYER, "digest": digest.to_string(), "size": 6 });
        config["rootfs"]["diff_ids"][1] = json!(digest.to_string());
    });
    registry.blobs.insert(digest, bytes);
    on_each_backend(|store| {
        let pull = registry.begin(store).unwrap();
        registry.push(&pull, &registry.layers()[0]).unwrap();
        assert_eq!(registry.push(&pull, &registry.layers()[1]).unwrap_err().kind(), ErrorKind::InvalidLayer);
        drop(pull);
        assert_nothing_named(store);
    });
}

#[test]
fn the_same_layer_twice_comes_once() {
    let same = Layer::new().file("same", "same");
    let image = Image::new().layer(same.clone(), Compression::Gzip).layer(Layer::new().whiteout("same"), Compression::Gzip);
    let image = image.layer(same.clone(), Compression::Gzip).layer(same, Compression::Zstd);
    let (tree, _) = imported(&image);
    let registry = Registry::new(&image);
    on_each_backend(|store| {
        let pull = registry.begin(store).unwrap();
        let missing = pull.missing();
        assert_eq!(missing.len(), 3);
        missing.iter().rev().for_each(|layer| registry.stream(&pull, &layer.descriptor).unwrap());
        pull.finish("x:1", &Context::default()).unwrap();
        assert_eq!(tree_of(store, "x:1"), tree);
    });
}

#[test]
fn what_cannot_be_read_is_named_and_comes_in_plain() {
    for media_type in ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "application/vnd.example.layer"] {
        let registry = Registry::new(&image()).forged(|manifest, _| {
            manifest["layers"][0] = json!({
                "mediaType": media_type, "digest": Algorithm::Sha256.digest(b"secret").to_string(), "size": 6,
                "urls": ["ftp://elsewhere/layer"],
            });
        });
        let (layers, cx, plain) = (registry.layers(), Context::default(), image().layers()[0].packed(Compression::None));
        let (tree, _) = imported(&image());
        on_each_backend(|store| {
            let pull = registry.begin(store).unwrap();
            let missing = pull.missing();
            assert_eq!(missing.iter().map(|missing| missing.needs_plain).collect::<Vec<_>>(), [true, false, false]);
            assert_eq!(missing[0].urls, ["ftp://elsewhere/layer"]);
            let error = pull.ingest(&layers[0], &cx).unwrap_err();
            assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains(media_type), "{error}");
            let other = DiffId(Algorithm::Sha256.digest(b"other"));
            assert_eq!(pull.ingest_plain(&other, &cx).unwrap_err().kind(), ErrorKind::NotFound);
            registry.push(&pull, &layers[2]).unwrap();
            let error = pull.finish("x:1", &cx).unwrap_err();
            assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains(media_type), "{error}");

            let pull = registry.begin(store).unwrap();
            let mut ingest = pull.ingest_plain(&missing[0].diff_id, &cx).unwrap().unwrap();
            ingest.write(b"secret").unwrap();
            assert_eq!(ingest.finish(&cx).unwrap_err().kind(), ErrorKind::DigestMismatch);
            let mut ingest = pull.ingest_plain(&missing[0].diff_id, &cx).unwrap().unwrap();
            ingest.write(&plain[..10]).unwrap();
            drop(ingest);
            let mut ingest = pull.ingest_plain(&missing[0].diff_id, &cx).unwrap().unwrap();
            ingest.copy_from(&plain[ingest.offset() as usize..], &cx).unwrap();
            ingest.finish(&cx).unwrap();
            registry.stream(&pull, &layers[1]).unwrap();
            let pulled = pull.finish("x:1", &cx).unwrap();
            assert_eq!(pulled.lacking, [layers[0].digest.clone()]);
            assert_eq!(tree_of(store, "x:1"), tree);
            // Once it is there nothing is needed.
            store.untag("x:1").unwrap();
            assert_eq!(registry.begin(store).unwrap().missing(), []);
        });
    }
}

#[test]
fn a_layer_that_may_not_be_distributed_comes_like_any_other() {
    let registry = Registry::new(&image()).forged(|manifest, _| {
        manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip");
        manifest["layers"][0]["urls"] = json!(["https://elsewhere/layer"]);
    });
    on_each_backend(|store| {
        let pull = registry.begin(store).unwrap();
        let missing = pull.missing();
        assert_eq!((missing[0].urls.as_slice(), missing[0].needs_plain), (&["https://elsewhere/layer".to_owned()][..], false));
        missing.iter().for_each(|layer| registry.push(&pull, &layer.descriptor).unwrap());
        pull.finish("x:1", &Context::default()).unwrap();
    });
}
