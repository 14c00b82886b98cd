//! Images that are refused: each with its kind, and with nothing left in the store.

use super::*;
use crate::descriptor::MediaType;
use crate::digest::DiffId;
use crate::store::{ImportLayerOptions, LayerSource};
use serde_json::json;

#[track_caller]
fn refused(layout: &Layout, kind: ErrorKind) {
    let home = Home::new();
    let error = home.import(layout).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
    home.assert_empty();
    // As a tar everything has gone through an ingest before the documents are read.
    let tar = layout.tar(Order::Forward);
    let error = home.store.import(ImageSource::reader(tar.as_slice()), &ImportOptions::default(), &Context::default()).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    home.assert_empty();
}

/// The one blob of the layout that is this layer.
fn spoil(layout: &mut Layout, image: &TestImage, layer: usize, bytes: Vec<u8>) {
    let name = format!("blobs/sha256/{}", digest(&image.layers[layer].blob).to_hex());
    layout.files.insert(name, bytes);
}

#[test]
fn damaged_blobs() {
    let image = TestImage::new(&["base", "top"]);
    let blob = image.layers[1].blob.clone();
    let mut other = blob.clone();
    *other.last_mut().unwrap() ^= 1;
    for bytes in [blob[..blob.len() - 1].to_vec(), [blob.clone(), vec![0]].concat(), other, Vec::new()] {
        let mut layout = image.layout("1.0");
        spoil(&mut layout, &image, 1, bytes);
        refused(&layout, ErrorKind::DigestMismatch);
    }
}

#[test]
fn sizes_that_the_manifest_has_wrong() {
    for size in [0_u64, 1, 1 << 40] {
        let mut image = TestImage::new(&["base", "top"]);
        image.layers[1].descriptor["size"] = json!(size);
        refused(&image.layout("1.0"), ErrorKind::DigestMismatch);
    }
}

#[test]
fn layers_that_are_not_their_diff_ids() {
    let mut image = TestImage::new(&["base", "top"]);
    image.config["rootfs"]["diff_ids"][1] = json!(digest(b"something else"));
    refused(&image.layout("1.0"), ErrorKind::DigestMismatch);
}

#[test]
fn blobs_that_claim_the_diff_id_of_a_layer_that_is_there() {
    let (home, good) = (Home::new(), TestImage::new(&["base"]));
    home.import(&good.layout("good")).unwrap();
    let before = home.store.content().blobs().unwrap();
    let mut liar = TestImage::new(&["other"]);
    liar.config["rootfs"]["diff_ids"] = good.config["rootfs"]["diff_ids"].clone();
    for packing in [Compression::Gzip, Compression::None] {
        liar.layers[0].blob = pack(&liar.layers[0].tar, packing);
        assert_eq!(home.import(&liar.layout("liar")).unwrap_err().kind(), ErrorKind::DigestMismatch);
        assert_eq!(home.store.content().blobs().unwrap(), before);
        let options = ImportLayerOptions::default().diff_id(DiffId(digest(&good.layers[0].tar)));
        let source = LayerSource::reader(liar.layers[0].blob.as_slice());
        assert_eq!(home.store.import_layer(source, &options, &Context::default()).unwrap_err().kind(), ErrorKind::DigestMismatch);
    }
}

#[test]
fn layers_that_are_no_tars() {
    for bytes in [&b"this is no tar at all, however long one makes it"[..], &[0xff; 1024], &[0x1f, 0x8b, 8, 0]] {
        let mut image = TestImage::new(&["base", "top"]);
        image.layers[1].blob = bytes.to_vec();
        image.config["rootfs"]["diff_ids"][1] = json!(digest(bytes));
        refused(&image.layout("1.0"), ErrorKind::InvalidLayer);
    }
    // A tar that ends inside a member.
    let mut image = TestImage::new(&["base", "top"]);
    let cut = image.layers[1].tar[..513].to_vec();
    image.config["rootfs"]["diff_ids"][1] = json!(digest(&cut));
    image.layers[1].blob = cut;
    refused(&image.layout("1.0"), ErrorKind::InvalidLayer);
}

#[test]
fn layers_and_diff_ids_of_different_number() {
    let mut image = TestImage::new(&["base", "top"]);
    image.config["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
    refused(&image.layout("1.0"), ErrorKind::InvalidLayer);
}

#[test]
fn layers_of_types_that_are_not_known() {
    for media_type in
        ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "application/vnd.oci.image.layer.v1.tar+bzip2", "text/plain"]
    {
        let mut image = TestImage::new(&["base"]);
        image.layers[0].descriptor["mediaType"] = json!(media_type);
        let layout = image.layout("1.0");
        refused(&layout, ErrorKind::Unsupported);
        let error = Home::new().import(&layout).unwrap_err();
        assert!(error.reason().unwrap().contains(media_type), "{error}");
    }
}

#[test]
fn layers_that_are_elsewhere() {
    let mut image = TestImage::new(&["base"]);
    image.layers[0].descriptor = json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "urls": ["https://example.org/layer"],
    });
    let mut layout = image.layout("1.0");
    layout.files.remove(&format!("blobs/sha256/{}", digest(&image.layers[0].blob).to_hex()));
    refused(&layout, ErrorKind::Unsupported);
    // Where the source holds it nevertheless, it is a layer like any other.
    Home::new().import(&image.layout("1.0")).unwrap();
}

#[test]
fn manifests_that_can_be_read_as_indexes() {
    let mut image = TestImage::new(&["base"]);
    image.manifest["manifests"] = json!([]);
    refused(&image.layout("1.0"), ErrorKind::InvalidLayer);

    let mut image = TestImage::new(&["base"]);
    image.manifest["mediaType"] = json!(MediaType::INDEX);
    refused(&image.layout("1.0"), ErrorKind::InvalidLayer);

    // A manifest that its descriptor calls an index.
    let mut layout = Layout::new();
    let mut entry = TestImage::new(&["base"]).add_to(&mut layout);
    entry["mediaType"] = json!(MediaType::INDEX);
    layout.set_index(vec![entry]);
    refused(&layout, ErrorKind::InvalidLayer);
}

#[test]
fn sources_without_what_an_image_needs() {
    let image = TestImage::new(&["base"]);
    let mut without_index = image.layout("1.0");
    without_index.files.remove("index.json");
    refused(&without_index, ErrorKind::NotFound);

    let mut without_layer = image.layout("1.0");
    without_layer.files.remove(&format!("blobs/sha256/{}", digest(&image.layers[0].blob).to_hex()));
    refused(&without_layer, ErrorKind::NotFound);

    let mut nothing = Layout::new();
    nothing.set_index(Vec::new());
    refused(&nothing, ErrorKind::NotFound);
}

#[test]
fn documents_that_are_too_large_or_of_the_future() {
    let mut image = TestImage::new(&["base"]);
    image.config["history"] = json!(["x".repeat(5 << 20)]);
    refused(&image.layout("1.0"), ErrorKind::LimitExceeded);

    let mut large = TestImage::new(&["base"]).layout("1.0");
    large.files.insert("index.json".to_owned(), vec![b' '; 5 << 20]);
    refused(&large, ErrorKind::LimitExceeded);

    let mut future = TestImage::new(&["base"]).layout("1.0");
    future.files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec());
    refused(&future, ErrorKind::Unsupported);
}

#[test]
fn stacks_that_could_never_be_mounted() {
    refused(&TestImage::new(&["a", "b", "c", "d", "e"]).layout("1.0"), ErrorKind::LimitExceeded);
}

#[test]
fn references_that_nobody_could_type() {
    refused(&TestImage::new(&["base"]).layout("\u{1b}[2J"), ErrorKind::InvalidLayer);
}

#[test]
fn a_symlink_in_a_layout_reads_nothing_outside() {
    let (home, image) = (Home::new(), TestImage::new(&["base"]));
    let layout = image.layout("1.0");
    let root = layout.write();
    let secret = tempfile::tempdir().unwrap();
    std::fs::write(secret.path().join("config"), image.config.to_string()).unwrap();
    let config = root.join("blobs/sha256").join(digest(image.config.to_string().as_bytes()).to_hex());
    std::fs::remove_file(&config).unwrap();
    std::os::unix::fs::symlink(secret.path().join("config"), &config).unwrap();
    let error = home.store.import(ImageSource::path(&root), &ImportOptions::default(), &Context::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    home.assert_empty();

    // Inside the layout a symlink is followed.
    std::fs::remove_file(&config).unwrap();
    std::fs::write(root.join("config"), image.config.to_string()).unwrap();
    std::os::unix::fs::symlink("/config", &config).unwrap();
    home.store.import(ImageSource::path(&root), &ImportOptions::default(), &Context::default()).unwrap();
}

#[test]
fn names_in_a_tar_that_lead_outside() {
    let home = Home::new();
    let layout = TestImage::new(&["base"]).layout("1.0");
    let mut tar = layout.tar(Order::Forward);
    // A header whose name `set_path` would not write.
    let mut header = ::tar::Header::new_ustar();
    header.as_mut_bytes()[..11].copy_from_slice(b"../../x.tar");
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    tar.splice(0..0, header.as_bytes().iter().copied());
    let error = home.store.import(ImageSource::reader(tar.as_slice()), &ImportOptions::default(), &Context::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{error}");
    home.assert_empty();
}

#[test]
fn a_document_that_a_tar_holds_twice() {
    let home = Home::new();
    let layout = TestImage::new(&["base"]).layout("1.0");
    let index = layout.files["index.json"].as_slice();
    let files = layout.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
    let tar = tar_of(files.chain([("./index.json", index)]));
    let error = home.store.import(ImageSource::reader(tar.as_slice()), &ImportOptions::default(), &Context::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{error}");
    home.assert_empty();
}

#[test]
fn a_failure_takes_back_only_what_nobody_else_needs() {
    let (home, good) = (Home::new(), TestImage::new(&["base"]));
    home.import(&good.layout("good")).unwrap();
    let before = home.store.content().blobs().unwrap();
    let mut bad = TestImage::new(&["base", "middle", "top"]);
    bad.config["rootfs"]["diff_ids"][2] = json!(digest(b"something else"));
    assert_eq!(home.import(&bad.layout("bad")).unwrap_err().kind(), ErrorKind::DigestMismatch);
    assert_eq!(home.store.content().blobs().unwrap(), before);
    let mut names = 0;
    home.store
        .walk(&Filter::all(), |_| {
            names += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!((names, home.store.images().unwrap().len()), (1, 1));
}
