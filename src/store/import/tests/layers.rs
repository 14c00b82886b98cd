//! Single layers.

use super::*;
use crate::digest::DiffId;
use crate::snapshot::{Key, Name};
use crate::store::{ImportLayerOptions, LayerSource};

fn import(home: &Home, bytes: &[u8], options: &ImportLayerOptions) -> Result<crate::store::ImportedLayer> {
    home.store.import_layer(LayerSource::reader(bytes), options, &Context::default())
}

#[test]
fn a_layer_is_committed_under_its_chain_id_and_its_bytes_are_not_kept() {
    let home = Home::new();
    let tar = layer_tar("base");
    let diff_id = DiffId(digest(&tar));
    for (packing, existed) in [(Compression::Gzip, false), (Compression::None, true), (Compression::Zstd, true)] {
        let layer = import(&home, &pack(&tar, packing), &ImportLayerOptions::default()).unwrap();
        assert_eq!((&layer.diff_id, layer.existed), (&diff_id, existed), "{packing}");
        assert_eq!(layer.chain_id, ChainId::of(None, &diff_id));
    }
    assert_eq!(home.backend.applied(), 1);
    let options = ImportLayerOptions { parent: Some(ChainId::of(None, &diff_id).to_string()), ..Default::default() };
    let top = import(&home, &layer_tar("top"), &options).unwrap();
    assert_eq!(home.store.stat(&top.chain_id.to_string()).unwrap().parent, options.parent);
    assert!(home.store.content().blobs().unwrap().is_empty());
}

#[test]
fn a_layer_that_is_not_what_was_expected_leaves_nothing() {
    let home = Home::new();
    let tar = layer_tar("base");
    let expecting = |bytes: &[u8]| ImportLayerOptions { diff_id: Some(DiffId(digest(bytes))), ..Default::default() };
    for (bytes, options, kind) in [
        (tar.clone(), expecting(b"other"), ErrorKind::DigestMismatch),
        (pack(&tar, Compression::Gzip), expecting(b"other"), ErrorKind::DigestMismatch),
        (tar[..700].to_vec(), ImportLayerOptions::default(), ErrorKind::InvalidLayer),
        (b"no tar".to_vec(), ImportLayerOptions::default(), ErrorKind::InvalidLayer),
        (pack(&tar, Compression::Gzip)[..40].to_vec(), ImportLayerOptions::default(), ErrorKind::InvalidLayer),
    ] {
        let error = import(&home, &bytes, &options).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        // Whoever found it, the archive or its compression: the member is told.
        let placed = error.reason().is_some_and(|reason| reason.starts_with("member 1 at offset 0: "));
        assert_eq!(placed, kind == ErrorKind::InvalidLayer, "{error}");
        home.assert_empty();
    }
}

#[test]
fn a_parent_is_committed_by_whichever_way() {
    let home = Home::new();
    let on = |parent: &str| ImportLayerOptions { parent: Some(parent.to_owned()), ..Default::default() };
    let key = Key::new("active").unwrap();
    home.store.prepare(&key, None, &Default::default()).unwrap();
    home.store.prepare(&Key::new("other").unwrap(), None, &Default::default()).unwrap();
    home.store.commit(&Name::new("committed").unwrap(), &Key::new("other").unwrap(), &Default::default()).unwrap();
    for (parent, kind) in [("missing", ErrorKind::NotFound), ("active", ErrorKind::InvalidArgument)] {
        assert_eq!(import(&home, &layer_tar("top"), &on(parent)).unwrap_err().kind(), kind, "{parent}");
    }
    import(&home, &layer_tar("top"), &on("committed")).unwrap();
}

#[test]
fn a_digest_of_the_other_algorithm_is_a_diff_id_too() {
    let home = Home::new();
    let tar = layer_tar("base");
    let diff_id = DiffId(crate::digest::Algorithm::Sha512.digest(&tar));
    let options = ImportLayerOptions { diff_id: Some(diff_id.clone()), ..Default::default() };
    assert_eq!(import(&home, &tar, &options).unwrap().chain_id.0, diff_id.0);
}

#[test]
fn empty_layers_have_no_tree_and_do_not_count() {
    let home = Home::new();
    let mut parent = None;
    for name in ["a", "b", "c", "d"] {
        let options = ImportLayerOptions { parent: parent.clone(), ..Default::default() };
        parent = Some(import(&home, &layer_tar(name), &options).unwrap().chain_id.to_string());
        let options = ImportLayerOptions { parent: parent.clone(), ..Default::default() };
        parent = Some(import(&home, &[], &options).unwrap().chain_id.to_string());
    }
    let options = ImportLayerOptions { parent: parent.clone(), ..Default::default() };
    let error = import(&home, &layer_tar("e"), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert!(error.reason().unwrap().contains("5 layers"), "{error}");
    import(&home, &[], &options).unwrap();
}

#[test]
fn layers_that_many_import_at_once_are_unpacked_once() {
    let home = Home::new();
    let tar = layer_tar("base");
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| import(&home, &tar, &ImportLayerOptions::default()).unwrap());
        }
    });
    assert_eq!(home.backend.applied(), 1);
}

#[test]
fn a_collection_does_not_take_the_parent_of_a_layer_that_is_coming_in() {
    struct Collects<'a>(&'a Home, std::io::Cursor<Vec<u8>>);

    impl std::io::Read for Collects<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.store.gc(&Default::default(), &Context::default())?;
            self.1.read(buffer)
        }
    }

    let home = Home::new();
    let base = import(&home, &layer_tar("base"), &ImportLayerOptions::default()).unwrap();
    let options = ImportLayerOptions { parent: Some(base.chain_id.to_string()), ..Default::default() };
    let reader = Collects(&home, std::io::Cursor::new(layer_tar("top")));
    home.store.import_layer(LayerSource::reader(reader), &options, &Context::default()).unwrap();
}
