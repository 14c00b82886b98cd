//! Which image is meant: by platform, by name.

use super::*;
use crate::descriptor::MediaType;
use crate::store::Platform;
use serde_json::{Value, json};

fn of_platform(layout: &mut Layout, platform: &str, name: &str) -> Value {
    let mut image = TestImage::new(&[name]);
    let parsed: Platform = platform.parse().unwrap();
    (image.config["os"], image.config["architecture"]) = (json!(parsed.os), json!(parsed.architecture));
    image.config["variant"] = json!(parsed.variant);
    let mut entry = image.add_to(layout);
    entry["platform"] = json!(parsed);
    entry
}

/// A nested index of several platforms, an attestation and something unknown, under one name.
fn several(platforms: &[&str]) -> Layout {
    let mut layout = Layout::new();
    let mut entries: Vec<Value> = platforms.iter().map(|platform| of_platform(&mut layout, platform, platform)).collect();
    let mut attestation = TestImage::new(&[]).add_to(&mut layout);
    attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let unknown = json!({ "mediaType": "text/plain", "digest": digest(b"x"), "size": 1 });
    entries.splice(0..0, [attestation, unknown]);
    let index = json!({ "schemaVersion": 2, "mediaType": MediaType::INDEX, "manifests": entries }).to_string();
    layout.add(index.as_bytes());
    let mut entry = descriptor(MediaType::INDEX, index.as_bytes());
    entry["annotations"] = json!({ "io.containerd.image.name": "docker.io/x/y:1", "org.opencontainers.image.ref.name": "1" });
    layout.set_index(vec![entry]);
    layout
}

fn platform(text: &str) -> ImportOptions {
    ImportOptions { platform: Some(text.parse().unwrap()), ..ImportOptions::default() }
}

#[test]
fn the_platform_that_fits_best_is_chosen() {
    let layout = several(&["linux/arm/v6", "linux/arm64", "linux/arm/v7", "windows/amd64", "linux/amd64", "linux/amd64/v2"]);
    for (wanted, chosen) in [
        ("linux/arm/v7", "linux/arm/v7"),
        ("linux/arm/v8", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/amd64", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v2"),
        ("windows/x86_64", "windows/amd64"),
    ] {
        let home = Home::new();
        let image = home.import_with(&layout, &platform(wanted)).unwrap().image;
        assert_eq!(image.platform.to_string(), chosen, "{wanted}");
        assert_eq!(image.reference, "docker.io/x/y:1");
        assert_eq!(image.target.media_type.as_str(), MediaType::INDEX);
        // Index, manifest, config, layer; of the other platforms nothing.
        assert_eq!(home.store.content().blobs().unwrap().len(), 4);
    }
}

#[test]
fn the_hosts_platform_is_the_default() {
    let host = Platform::host();
    let ordinary = Platform::new(&host.os, &host.architecture, None).to_string();
    let layout = several(&["linux/s390x", &ordinary, "linux/mips64le"]);
    assert_eq!(Home::new().import(&layout).unwrap().image.platform.to_string(), ordinary);
}

#[test]
fn no_match_lists_those_on_offer() {
    let layout = several(&["linux/arm/v6", "linux/arm64"]);
    let home = Home::new();
    let error = home.import_with(&layout, &platform("linux/riscv64")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let reason = error.reason().unwrap();
    assert!(reason.contains("linux/riscv64") && reason.contains("linux/arm/v6, linux/arm64"), "{reason}");
    home.assert_empty();
    // One manifest that does not say is looked at before it is refused.
    let single = TestImage::new(&["base"]).layout("1.0");
    let error = home.import_with(&single, &platform("linux/riscv64")).unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.reason().unwrap().contains("linux/amd64"), "{error}");
    home.assert_empty();
}

#[test]
fn of_several_names_one_must_be_meant() {
    let mut layout = Layout::new();
    let entries = ["one", "two"].map(|name| {
        let mut entry = TestImage::new(&[name]).add_to(&mut layout);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        entry
    });
    layout.set_index(entries.to_vec());
    let home = Home::new();
    let error = home.import(&layout).unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidArgument && error.reason().unwrap().contains("one, two"), "{error}");

    let source = |name: &str| ImageSource::parse(&format!("oci:{}:{name}", layout.write().display())).unwrap();
    let error = home.store.import(source("three"), &ImportOptions::default(), &Context::default()).unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.reason().unwrap().contains("one, two"), "{error}");
    home.assert_empty();

    let options = ImportOptions { reference: Some("mine".to_owned()), ..ImportOptions::default() };
    let two = home.store.import(source("two"), &options, &Context::default()).unwrap();
    assert_eq!(two.references, ["mine"]);
    let options = ImportOptions { reference: Some("two".to_owned()), ..ImportOptions::default() };
    assert_eq!(home.import_with(&layout, &options).unwrap().image.manifest, two.image.manifest);
}

#[test]
fn a_given_reference_wins_over_the_images_own() {
    let options = ImportOptions { reference: Some("mine".to_owned()), ..ImportOptions::default() };
    let imported = Home::new().import_with(&TestImage::new(&["base"]).layout("1.0"), &options).unwrap();
    assert_eq!(imported.references, ["mine"]);
    let options = ImportOptions { reference: Some(digest(b"").to_string()), ..ImportOptions::default() };
    let error = Home::new().import_with(&TestImage::new(&["base"]).layout("1.0"), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn indexes_that_lie_too_deep_are_refused() {
    let mut layout = Layout::new();
    let mut entry = TestImage::new(&["base"]).add_to(&mut layout);
    for _ in 0..9 {
        let index = json!({ "schemaVersion": 2, "mediaType": MediaType::INDEX, "manifests": [entry] }).to_string();
        layout.add(index.as_bytes());
        entry = descriptor(MediaType::INDEX, index.as_bytes());
    }
    layout.set_index(vec![entry]);
    let home = Home::new();
    assert_eq!(home.import(&layout).unwrap_err().kind(), ErrorKind::LimitExceeded);
    home.assert_empty();
}

#[test]
fn embedded_data_stands_in_for_a_blob() {
    let mut layout = Layout::new();
    let mut image = TestImage::new(&[]);
    // `{"rootfs":{"type":"layers"}}`
    let config = br#"{"rootfs":{"type":"layers"}}"#;
    image.manifest["config"] = descriptor(MediaType::CONFIG, config);
    image.manifest["config"]["data"] = json!("eyJyb290ZnMiOnsidHlwZSI6ImxheWVycyJ9fQ==");
    let entry = image.add_to(&mut layout);
    layout.set_index(vec![entry]);
    let home = Home::new();
    let image = home.import(&layout).unwrap().image;
    assert_eq!((image.config.as_bytes(), image.platform.to_string().as_str()), (&config[..], "unknown/unknown"));
}
