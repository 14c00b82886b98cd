//! `docker save`: the old form, that of podman and skopeo, that of Docker 25.

use super::*;
use serde_json::{Value, json};

/// A tar with symlinks in it.
fn tar_with_links(files: &[(&str, &[u8])], links: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = ::tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    for (name, target) in links {
        let mut header = ::tar::Header::new_ustar();
        header.set_entry_type(::tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        builder.append_link(&mut header, name, target).unwrap();
    }
    builder.into_inner().unwrap()
}

fn import(home: &Home, tar: &[u8], options: &ImportOptions) -> Result<Imported> {
    home.store.import(ImageSource::reader(tar), options, &Context::default())
}

fn list(config: &str, tags: Value, layers: &[&str]) -> Vec<u8> {
    json!([{ "Config": config, "RepoTags": tags, "Layers": layers }]).to_string().into_bytes()
}

/// As Docker wrote it before version 25: a directory for each layer, the last layer a symlink to the first.
fn old_form(image: &TestImage, tags: Value) -> Vec<u8> {
    let config = image.config.to_string().into_bytes();
    let list = list("abc.json", tags, &["1/layer.tar", "2/layer.tar", "3/layer.tar"]);
    tar_with_links(
        &[
            ("1/VERSION", b"1.0"),
            ("1/json", b"{}"),
            ("1/layer.tar", &image.layers[0].tar),
            ("2/VERSION", b"1.0"),
            ("2/json", b"{}"),
            ("2/layer.tar", &image.layers[1].tar),
            ("abc.json", &config),
            ("manifest.json", &list),
            ("repositories", b"{}"),
        ],
        &[("3/layer.tar", "../1/layer.tar")],
    )
}

fn image() -> TestImage {
    TestImage::new(&["base", "top", "base"])
}

#[test]
fn the_old_form_gets_a_manifest_that_is_always_the_same() {
    let home = Home::new();
    let tar = old_form(&image(), json!(["docker.io/x/y:1", "docker.io/x/y:latest"]));
    let imported = import(&home, &tar, &ImportOptions::default()).unwrap();
    assert_eq!(imported.references, ["docker.io/x/y:1", "docker.io/x/y:latest"]);
    let image = imported.image;
    assert_eq!(image.layers.len(), 3);
    assert_eq!(image.layers[0].descriptor, image.layers[2].descriptor);
    assert_eq!(image.layers[0].descriptor.media_type.as_str(), "application/vnd.oci.image.layer.v1.tar");
    assert_eq!(image.config.user(), "nobody");
    // Config, manifest, two layers.
    assert_eq!(home.store.content().blobs().unwrap().len(), 4);
    let again = import(&Home::new(), &tar, &ImportOptions::default()).unwrap().image;
    assert_eq!(again.manifest, image.manifest);
}

#[test]
fn an_unpacked_archive_is_read_too() {
    let (home, image) = (Home::new(), TestImage::new(&["base"]));
    let mut layout = Layout::new();
    layout.files.clear();
    layout.files.insert("c.json".to_owned(), image.config.to_string().into_bytes());
    layout.files.insert("1/layer.tar".to_owned(), image.layers[0].tar.clone());
    layout.files.insert("manifest.json".to_owned(), list("c.json", json!(["x:1"]), &["1/layer.tar"]));
    assert_eq!(home.import(&layout).unwrap().references, ["x:1"]);
}

#[test]
fn the_form_of_docker_25_is_a_layout_with_a_list_beside_it() {
    let (home, image) = (Home::new(), TestImage::new(&["base"]));
    let mut layout = Layout::new();
    let mut entry = image.add_to(&mut layout);
    entry["annotations"] = json!({ "io.containerd.image.name": "docker.io/library/x:1", "org.opencontainers.image.ref.name": "1" });
    let manifest = entry["digest"].clone();
    layout.set_index(vec![entry]);
    layout.files.insert("manifest.json".to_owned(), list("blobs/sha256/x", json!(["x:1"]), &[]));
    layout.files.insert("repositories".to_owned(), b"{}".to_vec());
    let tar = layout.tar(Order::Forward);
    let imported = import(&home, &tar, &ImportOptions::default()).unwrap();
    assert_eq!(imported.references, ["docker.io/library/x:1"]);
    assert_eq!(json!(imported.image.manifest.digest), manifest);
}

#[test]
fn compressed_layers_say_so_in_the_manifest() {
    let (home, image) = (Home::new(), TestImage::new(&["base"]));
    let config = image.config.to_string().into_bytes();
    let list = list("sha256:abc", Value::Null, &["base.tar.gz"]);
    let tar = tar_of([("sha256:abc", config.as_slice()), ("base.tar.gz", &image.layers[0].blob), ("manifest.json", &list)]);
    let imported = import(&home, &tar, &ImportOptions::default()).unwrap();
    assert_eq!(imported.image.layers[0].descriptor.media_type.as_str(), "application/vnd.oci.image.layer.v1.tar+gzip");
    assert_eq!(imported.references, [imported.image.manifest.digest.to_string()]);
}

/// A file that ends in a hole, of which the archive holds the beginning alone.
fn tar_with_a_hole(name: &str, bytes: &[u8], rest: &[u8]) -> Vec<u8> {
    let stored = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let mut header = ::tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_mode(0o644);
    header.set_entry_type(::tar::EntryType::GNUSparse);
    header.set_size(stored as u64);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.realsize[..11].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
    gnu.sparse[0].offset[..11].copy_from_slice(b"00000000000");
    gnu.sparse[0].numbytes[..11].copy_from_slice(format!("{stored:011o}").as_bytes());
    header.set_cksum();
    let mut tar = [header.as_bytes(), &bytes[..stored]].concat();
    tar.resize(tar.len().next_multiple_of(512), 0);
    [tar.as_slice(), rest].concat()
}

/// Imports an archive that is read in place.
fn import_file(home: &Home, tar: &[u8]) -> Result<Imported> {
    let path = home.directory.path().join("archive.tar");
    std::fs::write(&path, tar).unwrap();
    home.store.import(ImageSource::path(&path), &ImportOptions::default(), &Context::default())
}

#[test]
fn an_archive_read_in_place_is_the_same_image() {
    let (image, tags) = (image(), json!(["x:1"]));
    let config = image.config.to_string().into_bytes();
    let compressed = list("c", tags.clone(), &["0.gz", "1", "0.gz"]);
    let rest = tar_of([("c", config.as_slice()), ("0.gz", &image.layers[0].blob), ("manifest.json", &compressed)]);
    let (long, short) = (image.layout("1.0").tar(Order::Backward), image.layout("1.0").tar(Order::Forward));
    for (what, tar) in [
        ("the old form", old_form(&image, tags)),
        ("a compressed layer, and one with a hole", tar_with_a_hole("1", &image.layers[1].tar, &rest)),
        ("a layout", long),
        ("a layout, its index first", short),
    ] {
        let (passed, placed) = (Home::new(), Home::new());
        let one = import(&passed, &tar, &ImportOptions::default()).unwrap();
        let other = import_file(&placed, &tar).unwrap();
        assert_eq!(one.references, other.references, "{what}");
        assert_eq!((one.image.manifest, one.image.layers), (other.image.manifest, other.image.layers), "{what}");
        let blobs = |home: &Home| home.store.content().blobs().unwrap();
        assert_eq!(blobs(&passed), blobs(&placed), "{what}");
    }
}

#[test]
fn an_archive_that_is_cut_or_lies_leaves_nothing() {
    let image = image();
    let whole = old_form(&image, json!([]));
    let end = whole.iter().rposition(|&byte| byte != 0).unwrap();
    for at in [1, 512, 700, whole.len() / 2, end] {
        let home = Home::new();
        let error = import_file(&home, &whole[..at]).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidLayer | ErrorKind::NotFound), "{at}: {error:?}");
        home.assert_empty();
    }
    let mut other = image.clone();
    other.layers[1].tar = layer_tar("other");
    let home = Home::new();
    assert_eq!(import_file(&home, &old_form(&other, json!([]))).unwrap_err().kind(), ErrorKind::DigestMismatch);
    home.assert_empty();
}

#[test]
fn of_several_images_one_must_be_meant() {
    let image = TestImage::new(&["base"]);
    let config = image.config.to_string().into_bytes();
    let list = json!([
        { "Config": "c", "RepoTags": ["a:1"], "Layers": ["l"] },
        { "Config": "c", "RepoTags": ["b:1", "b:2"], "Layers": ["l"] },
    ])
    .to_string()
    .into_bytes();
    let tar = tar_of([("c", config.as_slice()), ("l", &image.layers[0].tar), ("manifest.json", &list)]);
    let home = Home::new();
    let error = import(&home, &tar, &ImportOptions::default()).unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidArgument && error.reason().unwrap().contains("a:1, b:1, b:2"), "{error}");
    home.assert_empty();
    let source = ImageSource::reader(tar.as_slice()).with_reference("b:2");
    assert_eq!(home.store.import(source, &ImportOptions::default(), &Context::default()).unwrap().references, ["b:1", "b:2"]);
}

#[test]
fn bad_archives_leave_nothing() {
    let image = TestImage::new(&["base"]);
    let config = image.config.to_string().into_bytes();
    let layer = image.layers[0].tar.as_slice();
    for (what, list, links, kind) in [
        ("a layer outside", list("c", json!([]), &["../../etc/shadow"]), &[][..], ErrorKind::InvalidLayer),
        ("a layer that is missing", list("c", json!([]), &["m"]), &[], ErrorKind::NotFound),
        ("a symlink outside", list("c", json!([]), &["s"]), &[("s", "../etc/shadow")], ErrorKind::InvalidLayer),
        ("an absolute symlink", list("c", json!([]), &["s"]), &[("s", "/etc/shadow")], ErrorKind::InvalidLayer),
        ("symlinks in a ring", list("c", json!([]), &["s"]), &[("s", "t"), ("t", "s")], ErrorKind::InvalidLayer),
        ("too many layers", list("c", json!([]), &["l", "l"]), &[], ErrorKind::InvalidLayer),
        ("a config that is a layer", list("l", json!([]), &["l"]), &[], ErrorKind::InvalidLayer),
        ("a layer that is a config", list("c", json!([]), &["c"]), &[], ErrorKind::InvalidLayer),
        ("no list", b"{}".to_vec(), &[], ErrorKind::InvalidLayer),
        ("an empty list", b"[]".to_vec(), &[], ErrorKind::NotFound),
    ] {
        let home = Home::new();
        let tar = tar_with_links(&[("c", &config), ("l", layer), ("manifest.json", &list)], links);
        let error = import(&home, &tar, &ImportOptions::default()).unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        home.assert_empty();
    }
}
