//! Import, tag and export over a backend that unpacks nothing: what is kept, chosen, refused, and left behind. Real backends and
//! other people's images are in `tests/it/images.rs`.

mod bad;
mod choice;
mod docker;
mod export;
mod kit;
mod layers;

use std::io::Read as _;

use kit::*;

use super::*;
use crate::compression::Compression;
use crate::snapshot::Kind;
use crate::store::Filter;

#[test]
fn a_layout_is_kept_byte_for_byte_and_its_layers_are_committed() {
    let (home, image) = (Home::new(), TestImage::new(&["base", "top"]));
    let layout = image.layout("1.0");
    let imported = home.import(&layout).unwrap();
    assert_eq!((imported.references.as_slice(), imported.unpacked), (&["1.0".to_owned()][..], 2));

    let image = imported.image;
    assert_eq!(image, home.store.image("1.0").unwrap());
    assert_eq!(home.store.images().unwrap(), std::slice::from_ref(&image));
    assert_eq!((image.config.cmd(), image.config.env()), (&["/bin/sh".to_owned()][..], &["A=b".to_owned()][..]));
    assert_eq!(image.annotations["note"], "kept");
    for digest in layout.digests() {
        let mut bytes = Vec::new();
        home.store.content().blob(&digest).unwrap().unwrap().reader().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, *layout.blob(&digest), "{digest}");
    }

    let below = ChainId::of(None, &image.layers[0].diff_id);
    let top = ChainId::of(Some(&below), &image.layers[1].diff_id);
    assert_eq!((&image.layers[0].chain_id, image.chain_id.as_ref()), (&below, Some(&top)));
    let info = home.store.stat(&top.to_string()).unwrap();
    assert_eq!(
        (info.kind, info.parent, info.diff_id),
        (Kind::Committed, Some(below.to_string()), Some(image.layers[1].diff_id.clone()))
    );
}

#[test]
fn what_is_there_already_is_success_and_is_not_unpacked_again() {
    let (home, image) = (Home::new(), TestImage::new(&["base", "top"]));
    home.import(&image.layout("1.0")).unwrap();
    let again = home.import(&image.layout("again")).unwrap();
    assert_eq!((again.unpacked, home.backend.applied()), (0, 2));
    assert_eq!(home.store.images().unwrap().len(), 2);
    // The same layer over other layers is another stack, and another tree for a backend that shares none.
    let other = home.import(&TestImage::new(&["other", "top"]).layout("other")).unwrap();
    assert_eq!(other.unpacked, 2);
}

#[test]
fn a_tar_is_read_whatever_its_order_and_compression() {
    let layout = TestImage::new(&["base", "top"]).layout("1.0");
    for packing in [Compression::None, Compression::Gzip, Compression::Zstd] {
        for order in [Order::Forward, Order::Backward] {
            let home = Home::new();
            let tar = pack(&layout.tar(order), packing);
            let imported =
                home.store.import(ImageSource::reader(tar.as_slice()), &ImportOptions::default(), &Context::default()).unwrap();
            assert_eq!(imported.references, ["1.0"], "{packing} {order:?}");
            assert_eq!(home.store.content().blobs().unwrap().len(), 4);
        }
    }
}

#[test]
fn a_tar_on_the_disk_is_as_good_as_one_on_standard_input() {
    let (home, layout) = (Home::new(), TestImage::new(&["base"]).layout("1.0"));
    let path = home.directory.path().join("image.tar");
    std::fs::write(&path, layout.tar(Order::Forward)).unwrap();
    home.store.import(ImageSource::path(&path), &ImportOptions::default(), &Context::default()).unwrap();
    std::fs::write(&path, "no tar at all").unwrap();
    let error = home.store.import(ImageSource::path(&path), &ImportOptions::default(), &Context::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{error}");
}

#[test]
fn blobs_that_the_image_does_not_need_go_again() {
    let (home, image) = (Home::new(), TestImage::new(&["base"]));
    let mut layout = image.layout("1.0");
    layout.add(b"of another platform");
    let tar = layout.tar(Order::Forward);
    home.store.import(ImageSource::reader(tar.as_slice()), &ImportOptions::default(), &Context::default()).unwrap();
    assert_eq!(home.store.content().blobs().unwrap().len(), 3);
}

#[test]
fn an_image_without_layers_or_name_is_known_by_its_digest() {
    let home = Home::new();
    let imported = home.import(&TestImage::new(&[]).layout("")).unwrap();
    assert_eq!((imported.image.chain_id, imported.references), (None, vec![imported.image.manifest.digest.to_string()]));
}

#[test]
fn a_reference_is_moved_copied_and_taken_away() {
    let home = Home::new();
    home.import(&TestImage::new(&["one"]).layout("a")).unwrap();
    let two = home.import(&TestImage::new(&["two"]).layout("a")).unwrap().image;
    assert_eq!(home.store.image("a").unwrap().manifest, two.manifest);
    home.store.tag("a", "b").unwrap();
    home.store.untag("a").unwrap();
    assert_eq!(home.store.image("b").unwrap().manifest, two.manifest);
    assert_eq!(home.store.image("a").unwrap_err().kind(), ErrorKind::NotFound);
    for new in ["", "a\n", two.manifest.digest.to_string().as_str()] {
        assert_eq!(home.store.tag("b", new).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    home.store.untag("b").unwrap();
    home.store.gc(&Default::default(), &Context::default()).unwrap();
    home.assert_empty();
}

#[test]
fn a_media_type_that_names_another_compression_is_reported() {
    let (home, mut image) = (Home::new(), TestImage::new(&["base"]));
    image.layers[0].blob = pack(&image.layers[0].tar, Compression::Zstd);
    let layout = image.layout("1.0");
    let imported = home.import(&layout).unwrap();
    assert_eq!(imported.report.total, 1);
    let fresh = Home::new();
    let source = ImageSource::path(layout.write());
    let error = fresh.store.import(source, &ImportOptions::default(), &Context::default().strict()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    fresh.assert_empty();
}

#[test]
fn snapshots_of_an_image_keep_it_from_being_collected() {
    let home = Home::new();
    home.import(&TestImage::new(&["base"]).layout("1.0")).unwrap();
    home.store.gc(&Default::default(), &Context::default()).unwrap();
    let mut names = Vec::new();
    home.store
        .walk(&Filter::all(), |info| {
            names.push(info.name);
            Ok(())
        })
        .unwrap();
    assert_eq!((names.len(), home.store.content().blobs().unwrap().len()), (1, 3));
}

#[test]
fn blobs_that_no_row_names_are_collected_and_held_ones_stay_readable() {
    use crate::content::{Expected, Started};
    let home = Home::new();
    let Started::Ingest(mut ingest) = home.store.content().start(&Expected::unknown(Default::default())).unwrap() else { panic!() };
    ingest.write(b"hello").unwrap();
    let blob = ingest.finish().unwrap();
    // On its way: somebody may go on with it.
    let Started::Ingest(mut later) = home.store.content().start(&Expected::digest(digest(b"later"))).unwrap() else { panic!() };
    later.write(b"lat").unwrap();
    drop(later);
    home.store.gc(&Default::default(), &Context::default()).unwrap();
    assert!(home.store.content().blobs().unwrap().is_empty());
    assert_eq!(blob.read_to_vec(5).unwrap(), b"hello");
    let Started::Ingest(later) = home.store.content().start(&Expected::digest(digest(b"later"))).unwrap() else { panic!() };
    assert_eq!(later.offset(), 3);
    later.abort().unwrap();
    home.assert_empty();
}
