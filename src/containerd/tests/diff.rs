//! The differ over the wire: layers out of containerd's content store, and into it.

use std::collections::HashMap;

use tonic::Request;

use super::content::FakeContent;
use super::*;
use crate::Context;
use crate::compression::Compression;
use crate::containerd::api::diff::{self as diff_pb, diff_client::DiffClient};
use crate::digest::Algorithm;
use crate::store::{DiffOptions, ImportLayerOptions, LayerSource};
use crate::testing::Layer;

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// A server, and a containerd with a content store.
struct Differing {
    served: Served,
    content: FakeContent,
    client: DiffClient<Channel>,
}

impl std::ops::Deref for Differing {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.served
    }
}

impl Differing {
    fn new() -> Self {
        let (served, content) = (Served::new(), FakeContent::default());
        let endpoint = Endpoint::from_shared(format!("unix:{}", served.address.display())).unwrap();
        let client = served.runtime.block_on(async {
            content.serve(&served.address.with_file_name("containerd")).await;
            DiffClient::new(endpoint.connect().await.unwrap())
        });
        Self { served, content, client }
    }

    fn apply_as(&self, media_type: &str, digest: &str, size: i64, mounts: &[types::Mount]) -> Result<types::Descriptor, Status> {
        let diff = types::Descriptor { media_type: media_type.into(), digest: digest.into(), size, ..Default::default() };
        let mut request = Request::new(diff_pb::ApplyRequest { diff: Some(diff), mounts: mounts.to_vec(), ..Default::default() });
        request.metadata_mut().insert("containerd-namespace", "mine".parse().unwrap());
        request.metadata_mut().insert("containerd-lease", "held".parse().unwrap());
        let mut client = self.client.clone();
        self.runtime.block_on(async move { client.apply(request).await }).map(|response| response.into_inner().applied.unwrap())
    }

    /// Applies bytes that containerd has.
    fn apply(&self, bytes: &[u8], mounts: &[types::Mount]) -> Result<types::Descriptor, Status> {
        let digest = self.content.add(bytes);
        self.apply_as(GZIP, &digest, bytes.len() as i64, mounts)
    }

    /// A layer in a snapshot of this name, as containerd unpacks.
    fn unpack(&self, name: &str, parent: &str, layer: &Layer) {
        let key = format!("extract {name}");
        let mounts = self.prepare(&key, parent).unwrap();
        self.apply(&layer.packed(Compression::Gzip), &mounts).unwrap();
        self.commit(name, &key).unwrap();
    }

    fn diff_as(&self, request: diff_pb::DiffRequest) -> Result<types::Descriptor, Status> {
        let mut request = Request::new(request);
        request.metadata_mut().insert("containerd-namespace", "mine".parse().unwrap());
        let mut client = self.client.clone();
        self.runtime.block_on(async move { client.diff(request).await }).map(|response| response.into_inner().diff.unwrap())
    }

    fn diff(&self, left: &[types::Mount], right: &[types::Mount], media_type: &str) -> Result<types::Descriptor, Status> {
        let (left, right) = (left.to_vec(), right.to_vec());
        self.diff_as(diff_pb::DiffRequest { left, right, media_type: media_type.into(), ..Default::default() })
    }

    /// What a snapshot changes, as plywood says it.
    fn layer_of(&self, name: &str) -> Vec<u8> {
        let mut layer = Vec::new();
        self.store.diff(&format!("containerd:{name}"), &mut layer, &DiffOptions::default(), &Context::default()).unwrap();
        layer
    }
}

/// What has to be looked up below: a link to a file of the lower layer, a whiteout, an opaque directory, a parent that is implied.
fn layers() -> [Layer; 2] {
    let below = Layer::new()
        .dir("", 0o755)
        .dir("d", 0o750)
        .file("d/gone", "gone")
        .file("d/kept", "kept")
        .dir("o", 0o755)
        .file("o/hidden", "hidden")
        .symlink("s", "d");
    let above = Layer::new()
        .whiteout("d/gone")
        .opaque("o")
        .file("o/new", "new")
        .hardlink("d/linked", "d/kept")
        .file("s/through", "through");
    [below, above]
}

#[test]
fn layers_of_containerds_make_the_same_snapshots_as_imports() {
    let differing = Differing::new();
    let [below, above] = layers();
    differing.unpack("below", "", &below);
    differing.unpack("above", "below", &above);
    let mut parent = None;
    for (name, layer) in [("below", below), ("above", above)] {
        let options = ImportLayerOptions { parent: parent.clone(), ..Default::default() };
        let tar = layer.tar();
        let imported = differing.store.import_layer(LayerSource::reader(tar.as_slice()), &options, &Context::default()).unwrap();
        parent = Some(imported.chain_id.to_string());
        let mut expected = Vec::new();
        differing.store.diff(&imported.chain_id.to_string(), &mut expected, &DiffOptions::default(), &Context::default()).unwrap();
        assert_eq!(differing.layer_of(name), expected, "{name}");
    }
    let asked = differing.content.held().asked.clone();
    assert_eq!(asked, vec![("mine".to_owned(), "held".to_owned()); 2]);
}

#[test]
fn layers_that_are_applied_before_one_is_committed_make_the_same_snapshots() {
    let differing = Differing::new();
    if !differing.store.backend().shares_trees() {
        return crate::sys::test_support::skip(module_path!(), "needs overlayfs");
    }
    let [below, _] = layers();
    let above = Layer::new().whiteout("d/gone").opaque("o").file("o/new", "new").file("d/also", "also");
    differing.unpack("one", "", &below);
    differing.unpack("two", "one", &above);
    let first = differing.prepare("extract first", "").unwrap();
    let second = differing.prepare_with("extract second", "", &[("containerd.io/snapshot/parent-chain-id", "first")]).unwrap();
    for (layer, mounts) in [(above, second), (below, first)] {
        differing.apply(&layer.packed(Compression::Gzip), &mounts).unwrap();
    }
    differing.commit("first", "extract first").unwrap();
    differing.commit_on("second", "extract second", "first", &[]).unwrap();
    assert_eq!(differing.layer_of("first"), differing.layer_of("one"));
    assert_eq!(differing.layer_of("second"), differing.layer_of("two"));
    // What is not known before refuses its commit, and not without a word.
    let mounts = differing.prepare_with("extract third", "", &[("containerd.io/snapshot/parent-chain-id", "second")]).unwrap();
    differing.apply(&Layer::new().whiteout("d/never").packed(Compression::Gzip), &mounts).unwrap();
    assert_eq!(code(differing.commit_on("third", "extract third", "second", &[])), Code::FailedPrecondition);
    differing.remove("extract third").unwrap();
}

#[test]
fn what_was_applied_is_told_by_its_uncompressed_bytes() {
    let differing = Differing::new();
    let [below, _] = layers();
    let tar = below.tar();
    for (number, compression) in [Compression::None, Compression::Gzip, Compression::Zstd].into_iter().enumerate() {
        let mounts = differing.prepare(&format!("key-{number}"), "").unwrap();
        let applied = differing.apply(&below.packed(compression), &mounts).unwrap();
        assert_eq!(applied.media_type, PLAIN);
        assert_eq!((applied.digest, applied.size), (Algorithm::Sha256.digest(&tar).to_string(), tar.len() as i64));
        // The same mounts as before.
        assert_eq!(differing.mounts(&format!("key-{number}")).unwrap(), mounts);
    }
}

#[test]
fn a_large_layer_comes_in_pieces() {
    let differing = Differing::new();
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mounts = differing.prepare("key", "").unwrap();
    differing.apply(&Layer::new().file("large", content.clone()).tar(), &mounts).unwrap();
    let mut found = Vec::new();
    std::io::Read::read_to_end(&mut differing.store.open_file("containerd:key", "large").unwrap(), &mut found).unwrap();
    assert!(found == content);
}

#[test]
fn mounts_that_are_not_plywoods_are_left_to_the_next_differ() {
    let differing = Differing::new();
    let [below, _] = layers();
    let other = crate::testing::temporary_directory().unwrap();
    let foreign = other.path().join("trees/1/fs");
    std::fs::create_dir_all(&foreign).unwrap();
    let foreign = foreign.to_str().unwrap().to_owned();
    let mine = differing.prepare("key", "").unwrap();
    differing.base("base", "");
    let view = differing.view("view", "base").unwrap();
    let mount = |kind: &str, source: &str, options: &[&str]| types::Mount {
        r#type: kind.into(),
        source: source.into(),
        target: String::new(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    };
    let upper = format!("upperdir={foreign}");
    let lower = format!("lowerdir={foreign}");
    let read_only = {
        let mut mount = mine[0].clone();
        mount.options.retain(|option| option != "rw");
        mount.options.push("ro".into());
        mount
    };
    let work = mine[0].options.iter().find_map(|option| option.strip_prefix("workdir=")).unwrap_or("/nowhere/1/work");
    let cases = [
        ("nothing", vec![]),
        ("two", vec![mine[0].clone(), mine[0].clone()]),
        ("another directory", vec![mount("bind", &foreign, &["rbind", "rw"])]),
        ("another overlay", vec![mount("overlay", "overlay", &[&lower, &upper])]),
        ("no such directory", vec![mount("bind", "/nowhere/trees/1/fs", &["rbind", "rw"])]),
        ("another type", vec![mount("ext4", "/dev/null", &[])]),
        ("the store itself", vec![mount("bind", differing.store.root().to_str().unwrap(), &["rbind", "rw"])]),
        ("a work directory", vec![mount("bind", work, &["rbind", "rw"])]),
        ("read-only", vec![read_only]),
        ("a view", view),
    ];
    for (what, mounts) in cases {
        assert_eq!(code(differing.apply(&below.tar(), &mounts)), Code::Unimplemented, "{what}");
    }
    assert!(differing.content.held().asked.is_empty(), "no layer was asked for");
    let digest = differing.content.add(&below.tar());
    for media_type in ["", "text/plain", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"] {
        assert_eq!(code(differing.apply_as(media_type, &digest, 1, &mine)), Code::Unimplemented, "{media_type}");
    }
    // A path to it that is spelled otherwise is as good.
    let link = other.path().join("link");
    std::os::unix::fs::symlink(differing.store.root(), &link).unwrap();
    let elsewhere = |text: &str| text.replace(differing.store.root().to_str().unwrap(), link.to_str().unwrap());
    let mut spelled = mine.clone();
    spelled[0].source = elsewhere(&spelled[0].source);
    spelled[0].options.iter_mut().for_each(|option| *option = elsewhere(option));
    differing.apply(&below.tar(), &spelled).unwrap();
}

#[test]
fn a_snapshot_that_is_not_containerds_is_not_applied_to() {
    let differing = Differing::new();
    let mount = differing.store.prepare(&crate::snapshot::Key::new("own").unwrap(), None, &Default::default()).unwrap();
    let mounts = [types::Mount {
        r#type: mount.fstype().into(),
        source: mount.source().to_str().unwrap().into(),
        target: String::new(),
        options: mount.options().unwrap(),
    }];
    assert_eq!(code(differing.apply(&Layer::new().file("a", "a").tar(), &mounts)), Code::Unimplemented);
}

#[test]
fn what_is_refused_leaves_the_snapshot_as_it_was() {
    let differing = Differing::new();
    let mounts = differing.prepare("key", "").unwrap();
    let [below, _] = layers();
    let (tar, missing) = (below.tar(), Algorithm::Sha256.digest(b"missing").to_string());
    let digest = differing.content.add(&tar);
    let size = tar.len() as i64;
    assert_eq!(code(differing.apply_as(PLAIN, &missing, 7, &mounts)), Code::NotFound);
    assert_eq!(code(differing.apply_as(PLAIN, "sha256:x", 7, &mounts)), Code::InvalidArgument);
    assert_eq!(code(differing.apply_as(PLAIN, &digest, -1, &mounts)), Code::InvalidArgument);
    assert_eq!(code(differing.apply_as(PLAIN, &digest, size - 1, &mounts)), Code::InvalidArgument, "more than was said");
    assert_eq!(code(differing.apply_as(PLAIN, &digest, size + 1, &mounts)), Code::InvalidArgument, "less than was said");
    assert_eq!(code(differing.apply(&tar[..700], &mounts)), Code::InvalidArgument, "it is cut off");
    assert_eq!(code(differing.apply(b"no layer at all", &mounts)), Code::InvalidArgument);
    // containerd's store holds other bytes under that digest.
    let other = Layer::new().file("other", "other").tar();
    differing.content.held().blobs.get_mut(&digest).unwrap().bytes = other.clone();
    assert_eq!(code(differing.apply_as(PLAIN, &digest, other.len() as i64, &mounts)), Code::InvalidArgument);
    differing.content.add(&tar);
    // containerd fails on the way, or goes.
    differing.content.held().breaks = Some((1000, Status::unavailable("no disk")));
    assert_eq!(code(differing.apply_as(PLAIN, &digest, size, &mounts)), Code::Unavailable);
    differing.content.held().breaks = None;
    differing.content.held().ends = Some(1024);
    assert_eq!(code(differing.apply_as(PLAIN, &digest, size, &mounts)), Code::InvalidArgument);
    differing.content.held().ends = None;
    assert_eq!(differing.usage("key").unwrap().inodes, 1);
    differing.apply_as(PLAIN, &digest, size, &mounts).unwrap();
    assert!(differing.usage("key").unwrap().inodes > 4);
    differing.remove("key").unwrap();
    assert_eq!(code(differing.apply_as(PLAIN, &digest, size, &mounts)), Code::Unimplemented, "nobody has that directory now");
}

#[test]
fn a_client_that_goes_away_ends_its_apply() {
    let differing = Differing::new();
    let mounts = differing.prepare("key", "").unwrap();
    let layer = Layer::new().file("large", vec![b'x'; 64 << 20]).tar();
    let digest = differing.content.add(&layer);
    let diff =
        types::Descriptor { media_type: PLAIN.into(), digest: digest.clone(), size: layer.len() as i64, ..Default::default() };
    let request = diff_pb::ApplyRequest { diff: Some(diff), mounts: mounts.clone(), ..Default::default() };
    let mut client = differing.client.clone();
    differing.runtime.block_on(async {
        let calling = tokio::spawn(async move { client.apply(request).await });
        while differing.content.held().read == 0 {
            tokio::task::yield_now().await;
        }
        calling.abort();
        let _ = calling.await;
    });
    // It waits for the first one's end, which put nothing in place, or all.
    let again = differing.apply_as(PLAIN, &digest, layer.len() as i64, &mounts);
    assert!(again.is_ok() || code(again) == Code::Unimplemented);
    differing.commit("name", "key").unwrap();
    assert!(differing.usage("name").unwrap().size >= 64 << 20);
}

#[test]
fn an_unwritten_snapshot_and_an_applied_one_are_diffed_into_containerds_content() {
    let differing = Differing::new();
    let [below, above] = layers();
    differing.unpack("below", "", &below);
    let (left, right) = (differing.view("left", "below").unwrap(), differing.prepare("key", "below").unwrap());
    differing.apply(&above.tar(), &right).unwrap();
    let expected = differing.layer_of("key");
    let before = differing.content.held().asked.len();
    for (media_type, compression) in [
        (PLAIN, Compression::None),
        (GZIP, Compression::Gzip),
        ("application/vnd.oci.image.layer.v1.tar+zstd", Compression::Zstd),
        ("", Compression::Gzip),
    ] {
        let told = differing.diff(&left, &right, media_type).unwrap();
        let stored = differing.content.held().blobs[&told.digest].clone();
        assert_eq!(told.size, stored.bytes.len() as i64);
        assert_eq!(told.media_type, if media_type.is_empty() { GZIP } else { media_type });
        assert_eq!(Compression::sniff(&stored.bytes), compression);
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut crate::compression::Decoder::new(stored.bytes.as_slice()).unwrap(), &mut plain).unwrap();
        assert!(plain == expected);
        let label = (compression != Compression::None).then(|| Algorithm::Sha256.digest(&plain).to_string());
        assert_eq!(stored.labels.get(UNCOMPRESSED), label.as_ref());
    }
    assert!(differing.content.held().ingests.is_empty());
    assert!(differing.content.held().asked[before..].iter().all(|(namespace, _)| namespace == "mine"));

    // The same of a committed one, by views of both; and what is on nothing.
    differing.commit("above", "key").unwrap();
    let right = differing.view("right", "above").unwrap();
    let told = differing.diff(&left, &right, PLAIN).unwrap();
    assert!(differing.content.held().blobs[&told.digest].bytes == expected);
    let nothing = differing.view("nothing", "").unwrap();
    let told = differing.diff(&nothing, &left, PLAIN).unwrap();
    assert!(differing.content.held().blobs[&told.digest].bytes == differing.layer_of("below"));
    assert_eq!(differing.diff(&[], &left, PLAIN).unwrap().digest, told.digest);
}

#[test]
fn a_diff_has_the_labels_the_reference_and_the_times_that_were_asked_for() {
    let differing = Differing::new();
    let mounts = differing.prepare("key", "").unwrap();
    differing.apply(&Layer::new().file("a", "a").mtime(2_000_000_000, 0).tar(), &mounts).unwrap();
    // Of an earlier try something is left.
    differing.content.held().ingests.insert("mine-1".into(), vec![1; 100]);
    let request = diff_pb::DiffRequest {
        right: mounts.clone(),
        media_type: GZIP.into(),
        r#ref: "mine-1".into(),
        labels: HashMap::from([("own".to_owned(), "label".to_owned())]),
        source_date_epoch: Some(prost_types::Timestamp { seconds: 1_000_000_000, nanos: 0 }),
        ..Default::default()
    };
    let told = differing.diff_as(request.clone()).unwrap();
    let stored = differing.content.held().blobs[&told.digest].clone();
    assert_eq!(stored.labels["own"], "label");
    assert!(differing.content.held().ingests.is_empty());
    let mut clamped = Vec::new();
    let options = DiffOptions::default().compression(Compression::Gzip).clamp_mtime(1_000_000_000);
    differing.store.diff("containerd:key", &mut clamped, &options, &Context::default()).unwrap();
    assert!(stored.bytes == clamped);

    // Once more: it is there already, and may have lost its label.
    differing.content.held().blobs.get_mut(&told.digest).unwrap().labels.clear();
    assert_eq!(differing.diff_as(request).unwrap(), told);
    let labels = differing.content.held().blobs[&told.digest].labels.clone();
    assert_eq!(labels.keys().collect::<Vec<_>>(), [UNCOMPRESSED]);
}

#[test]
fn what_cannot_be_diffed_is_left_to_the_next_differ_and_leaves_nothing() {
    let differing = Differing::new();
    let [below, above] = layers();
    differing.unpack("below", "", &below);
    differing.unpack("above", "below", &above);
    let (nothing, top) = (differing.view("nothing", "").unwrap(), differing.view("top", "above").unwrap());
    let base = differing.view("base", "below").unwrap();
    let foreign = [types::Mount {
        r#type: "bind".into(),
        source: "/".into(),
        target: String::new(),
        options: vec!["rbind".into(), "ro".into()],
    }];
    for (what, left, right) in [
        ("not its parent", &nothing[..], &top[..]),
        ("the other way round", &top, &base),
        ("left is another's", &foreign, &top),
        ("right is another's", &base, &foreign),
        ("no mount", &base, &[]),
    ] {
        assert_eq!(code(differing.diff(left, right, PLAIN)), Code::Unimplemented, "{what}");
    }
    assert_eq!(code(differing.diff(&base, &top, "text/plain")), Code::Unimplemented);
    let blobs = differing.content.held().blobs.len();
    differing.content.held().is_full = true;
    assert_eq!(code(differing.diff(&base, &top, PLAIN)), Code::ResourceExhausted);
    let held = differing.content.held();
    assert_eq!((held.blobs.len(), held.ingests.len()), (blobs, 0), "what was written is taken back");
}

#[test]
fn without_containerd_the_differ_says_so_and_snapshots_go_on() {
    let served = Served::new();
    let mounts = served.prepare("key", "").unwrap();
    let endpoint = Endpoint::from_shared(format!("unix:{}", served.address.display())).unwrap();
    let diff =
        types::Descriptor { media_type: PLAIN.into(), digest: Algorithm::Sha256.digest(b"").to_string(), ..Default::default() };
    let request = diff_pb::ApplyRequest { diff: Some(diff), mounts, ..Default::default() };
    let refused = served.runtime.block_on(async {
        let mut client = DiffClient::new(endpoint.connect().await.unwrap());
        client.apply(request).await.map(drop)
    });
    assert_eq!(code(refused), Code::Unavailable);
    served.remove("key").unwrap();
}

#[test]
fn a_chain_of_applied_layers_shows_the_tree() {
    let differing = Differing::new();
    let [below, above] = layers();
    differing.unpack("below", "", &below);
    differing.unpack("above", "below", &above);
    let root = differing.store.open_root("containerd:above");
    let root = root.unwrap();
    let names = |path: &str| -> Vec<String> {
        let entries = root.read_dir(path).unwrap();
        entries.into_iter().map(|(name, _)| name.into_string().unwrap()).collect()
    };
    assert_eq!((names("d"), names("o")), (["kept", "linked", "through"].map(String::from).to_vec(), vec!["new".to_owned()]));
}
