//! Images that go out again.

use super::*;
use crate::entry::Timestamp;
use crate::snapshot::{Key, Name};
use crate::store::{ExportOptions, Exported};
use serde_json::Value;
use std::path::Path;

fn commit_on(home: &Home, parent: Option<&str>, name: &str) {
    let parent = parent.map(|parent| parent.parse::<ChainId>().map_or_else(|_| Name::new(parent).unwrap(), |id| Name::from(&id)));
    let key = Key::new(format!("key of {name}")).unwrap();
    home.store.prepare(&key, parent.as_ref(), &Default::default()).unwrap();
    home.store.commit(&Name::new(name).unwrap(), &key, &Default::default()).unwrap();
}

fn export(home: &Home, what: &str, to: &Path, options: &ExportOptions) -> Result<Exported> {
    home.store.export(what, to, options, &Context::default())
}

fn json_blob(layout: &Path, digest: &Digest) -> Value {
    let path = layout.join("blobs").join(digest.algorithm().as_str()).join(digest.to_hex());
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn an_unchanged_image_keeps_its_manifest_and_blobs() {
    let (home, image) = (Home::new(), TestImage::new(&["base", "top"]));
    let source = image.layout("1.0");
    let imported = home.import(&source).unwrap().image;
    let to = tempfile::tempdir().unwrap();
    let chain_id = imported.chain_id.unwrap().to_string();
    // By reference, by the name of its topmost layer, by the beginning of that.
    for what in ["1.0", chain_id.as_str(), &chain_id[..20]] {
        let path = to.path().join(what);
        let exported = export(&home, what, &path, &ExportOptions::default()).unwrap();
        assert_eq!(exported.manifest.digest, imported.manifest.digest);
        assert_eq!(exported.reference, (what == "1.0" || what.len() == 20).then(|| what.to_owned()));
        for digest in source.digests() {
            let bytes = std::fs::read(path.join("blobs/sha256").join(digest.to_hex())).unwrap();
            assert_eq!(bytes, *source.blob(&digest));
        }
        let again = Home::new().store.import(ImageSource::path(&path), &ImportOptions::default(), &Context::default()).unwrap();
        assert_eq!(
            (again.image.manifest.digest, again.image.platform),
            (imported.manifest.digest.clone(), imported.platform.clone())
        );
    }
}

#[test]
fn a_commit_becomes_an_image_with_a_config_derived_from_the_one_below() {
    let home = Home::new();
    let base = home.import(&TestImage::new(&["base"]).layout("1.0")).unwrap().image;
    commit_on(&home, base.chain_id.map(|id| id.to_string()).as_deref(), "middle");
    commit_on(&home, Some("middle"), "app:2");
    let to = tempfile::tempdir().unwrap();
    let options = ExportOptions { created: Some(Timestamp::from_seconds(0)), created_by: "me".to_owned(), ..Default::default() };
    let exported = export(&home, "app:2", to.path(), &options).unwrap();
    assert_eq!((exported.reference.as_deref(), exported.layers.len()), (Some("app:2"), 3));
    assert_eq!(exported.layers[0], base.layers[0].descriptor);

    let config = json_blob(to.path(), &exported.config.digest);
    assert_eq!(config["config"], serde_json::from_slice::<Value>(base.config.as_bytes()).unwrap()["config"]);
    assert_eq!(config["created"], "1970-01-01T00:00:00Z");
    assert_eq!(config["history"].as_array().unwrap().len(), 3);
    assert_eq!(config["history"][2]["created_by"], "me");

    // What was written is an image, and the same each time.
    let fresh = Home::new();
    let again = fresh.store.import(ImageSource::path(to.path()), &ImportOptions::default(), &Context::default()).unwrap();
    assert_eq!((again.unpacked, again.image.config.cmd()), (3, base.config.cmd()));
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(export(&home, "app:2", elsewhere.path(), &options).unwrap().manifest, exported.manifest);
    let index = |path: &Path| std::fs::read(path.join("index.json")).unwrap();
    assert_eq!(index(to.path()), index(elsewhere.path()));
}

#[test]
fn docker_types_stay_in_an_unchanged_image_and_are_ocis_in_a_derived_one() {
    use crate::descriptor::MediaType;
    use serde_json::json;
    let (home, mut image, mut layout) = (Home::new(), TestImage::new(&["base"]), Layout::new());
    image.manifest["mediaType"] = json!(MediaType::DOCKER_MANIFEST);
    let config = image.config.to_string();
    image.manifest["config"] = descriptor(MediaType::DOCKER_CONFIG, config.as_bytes());
    image.layers[0].descriptor["mediaType"] = json!(MediaType::DOCKER_LAYER_GZIP);
    let mut entry = image.add_to(&mut layout);
    entry["mediaType"] = json!(MediaType::DOCKER_MANIFEST);
    let list = json!({ "schemaVersion": 2, "mediaType": MediaType::DOCKER_INDEX, "manifests": [entry] }).to_string();
    layout.add(list.as_bytes());
    let mut entry = descriptor(MediaType::DOCKER_INDEX, list.as_bytes());
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "1.0" });
    layout.set_index(vec![entry]);

    let imported = home.import(&layout).unwrap().image;
    let to = tempfile::tempdir().unwrap();
    let unchanged = export(&home, "1.0", to.path(), &ExportOptions::default()).unwrap();
    assert_eq!((&unchanged.manifest, unchanged.manifest.media_type.as_str()), (&imported.manifest, MediaType::DOCKER_MANIFEST));
    commit_on(&home, imported.chain_id.map(|id| id.to_string()).as_deref(), "app");
    let derived = export(&home, "app", to.path(), &ExportOptions::default()).unwrap();
    let types: Vec<&str> = derived.layers.iter().map(|layer| layer.media_type.as_str()).collect();
    assert_eq!(types, [MediaType::LAYER_GZIP; 2]);
    assert_eq!(derived.layers[0].digest, imported.layers[0].descriptor.digest);
    assert_eq!(
        (derived.config.media_type.as_str(), derived.manifest.media_type.as_str()),
        (MediaType::CONFIG, MediaType::MANIFEST)
    );
}

#[test]
fn a_commit_on_nothing_becomes_an_image_of_this_host() {
    let home = Home::new();
    commit_on(&home, None, "scratch");
    let to = tempfile::tempdir().unwrap();
    let exported =
        export(&home, "scratch", to.path(), &ExportOptions { compression: Compression::Zstd, ..Default::default() }).unwrap();
    let again = Home::new().store.import(ImageSource::path(to.path()), &ImportOptions::default(), &Context::default()).unwrap();
    assert_eq!(again.image.platform.os, "linux");
    assert!(exported.layers[0].media_type.as_str().ends_with("+zstd"));
    assert_eq!(again.image.config.created(), None);
}

#[test]
fn a_layout_in_use_grows_and_a_name_is_replaced() {
    let home = Home::new();
    home.import(&TestImage::new(&["one"]).layout("1")).unwrap();
    home.import(&TestImage::new(&["two"]).layout("2")).unwrap();
    let to = tempfile::tempdir().unwrap();
    export(&home, "1", to.path(), &ExportOptions::default()).unwrap();
    export(&home, "2", to.path(), &ExportOptions::default()).unwrap();
    let replacing = ExportOptions { reference: Some("1".to_owned()), ..Default::default() };
    export(&home, "2", to.path(), &replacing).unwrap();
    let index: Value = serde_json::from_slice(&std::fs::read(to.path().join("index.json")).unwrap()).unwrap();
    let digests: Vec<&Value> = index["manifests"].as_array().unwrap().iter().map(|entry| &entry["digest"]).collect();
    assert_eq!(digests.len(), 2);
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn what_cannot_be_exported_says_why() {
    let home = Home::new();
    let to = tempfile::tempdir().unwrap();
    let path = to.path().join("layout");
    home.store.prepare(&Key::new("active").unwrap(), None, &Default::default()).unwrap();
    let bad_name = ExportOptions { reference: Some("a b".to_owned()), ..Default::default() };
    let no_base = ExportOptions { base: Some("x".to_owned()), ..Default::default() };
    commit_on(&home, None, "done");
    for (what, options, kind) in [
        ("missing", ExportOptions::default(), ErrorKind::NotFound),
        ("active", ExportOptions::default(), ErrorKind::InvalidArgument),
        ("done", bad_name, ErrorKind::InvalidArgument),
        ("done", no_base, ErrorKind::InvalidArgument),
    ] {
        assert_eq!(export(&home, what, &path, &options).unwrap_err().kind(), kind, "{what}");
        assert!(!path.join("index.json").exists());
    }
}
