mod writers;

use super::*;
use crate::descriptor::{Descriptor, MediaType};
use crate::digest::{Algorithm, ChainId, DiffId};
use crate::entry::Attributes;
use crate::path::EntryPath;
use crate::snapshot::{Kind, Labels, Usage};
use crate::tree::{Answer, Applied, Detail, Fact, Ids, Question, TreeId};
use std::sync::atomic::{AtomicU32, Ordering};

struct Scratch {
    metadata: Metadata,
    directory: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("locks")).unwrap();
        let metadata = open(directory.path()).unwrap();
        assert!(!metadata.is_made().unwrap());
        let [backend, style, created_by, boot] = ["overlay", "trusted", "a test", ""].map(str::to_owned);
        metadata.make(&StoreRow { backend, style, created_by, boot }).unwrap();
        Self { metadata, directory }
    }

    fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let transaction = self.metadata.write()?;
        let result = work(&transaction)?;
        transaction.commit()?;
        Ok(result)
    }

    fn tree(&self, diff_id: &DiffId, applied: &Applied) -> TreeId {
        self.write(|transaction| {
            let lease = transaction.insert_lease()?;
            let tree = transaction.allocate_tree(lease, "overlay")?;
            transaction.finish_tree(tree, lease, &Unpacked { diff_id, ids: Ids::Exact, applied })?;
            Ok(tree)
        })
        .unwrap()
    }

    fn layer(&self, diff_id: &DiffId, parent: Option<&SnapshotRow>) -> SnapshotRow {
        let tree = self.tree(diff_id, &applied());
        self.write(|transaction| transaction.insert_layer(&NewLayer { parent, diff_id, tree, root: None, labels: &Labels::new() }))
            .unwrap()
    }
}

fn open(root: &Path) -> Result<Metadata> {
    Metadata::open(Dir::open(root)?, root, Dir::open(root.join("locks"))?)
}

fn applied() -> Applied {
    Applied::new(Usage::new(3, 4096))
}

fn diff_id(content: &str) -> DiffId {
    DiffId(Algorithm::Sha256.digest(content.as_bytes()))
}

fn kind_of<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn a_store_is_what_it_was_made_as() {
    let scratch = Scratch::new();
    let again = open(scratch.directory.path()).unwrap();
    assert!(again.is_made().unwrap());
    let row = again.read().unwrap().store().unwrap();
    assert_eq!((row.backend.as_str(), row.style.as_str(), row.boot.as_str()), ("overlay", "trusted", ""));
    scratch.write(|transaction| transaction.set_boot("this boot")).unwrap();
    assert_eq!(again.read().unwrap().store().unwrap().boot, "this boot");
}

#[test]
fn every_connection_is_set_up_as_the_invariants_say() {
    let scratch = Scratch::new();
    let relaxed = scratch.metadata.write_to_survive(Survives::Process).unwrap();
    relaxed.commit().unwrap();
    let (one, two) = (scratch.metadata.read().unwrap(), scratch.metadata.read().unwrap());
    for reader in [&one, &two] {
        let pragma = |name: &str| {
            reader.connection().query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0))
        };
        let number = |name: &str| match pragma(name).unwrap() {
            rusqlite::types::Value::Integer(number) => number,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(pragma("journal_mode").unwrap(), rusqlite::types::Value::Text("wal".to_owned()));
        assert_eq!([number("wal_autocheckpoint"), number("synchronous"), number("foreign_keys")], [0, 2, 1]);
        let no_checkpoint = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        assert!(reader.connection().db_config(no_checkpoint).unwrap());
    }
}

#[test]
fn closing_the_last_connection_leaves_the_log() {
    let scratch = Scratch::new();
    scratch.write(|transaction| transaction.insert_lease()).unwrap();
    let Scratch { metadata, directory } = scratch;
    drop(metadata);
    assert!(std::fs::metadata(directory.path().join(LOG)).unwrap().len() > 0);
    assert_eq!(open(directory.path()).unwrap().read().unwrap().leases().unwrap().len(), 1);
}

#[test]
fn a_reader_sees_one_state_and_never_waits_for_a_writer() {
    let scratch = Scratch::new();
    let reader = scratch.metadata.read().unwrap();
    assert_eq!(reader.leases().unwrap().len(), 0);
    let transaction = scratch.metadata.write().unwrap();
    transaction.insert_lease().unwrap();
    assert_eq!(scratch.metadata.read().unwrap().leases().unwrap().len(), 0);
    transaction.commit().unwrap();
    assert_eq!(reader.leases().unwrap().len(), 0);
    drop(reader);
    assert_eq!(scratch.metadata.read().unwrap().leases().unwrap().len(), 1);
}

#[test]
fn writers_take_turns_through_any_number_of_handles() {
    let scratch = Scratch::new();
    let inside = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let metadata = open(scratch.directory.path()).unwrap();
                assert!(metadata.is_made().unwrap());
                for round in 0..20 {
                    let survives = if round % 2 == 0 { Survives::Process } else { Survives::PowerCut };
                    let transaction = metadata.write_to_survive(survives).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    transaction.insert_lease().unwrap();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    transaction.commit().unwrap();
                }
            });
        }
    });
    assert_eq!(scratch.metadata.read().unwrap().leases().unwrap().len(), 120);
}

#[test]
fn a_foreign_writer_is_an_error_not_a_wait_for_ever() {
    let scratch = Scratch::new();
    let foreign = rusqlite::Connection::open(scratch.directory.path().join(DATABASE)).unwrap();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The busy wait is for recovery alone; here it would make the test long.
    let reader = scratch.metadata.read().unwrap();
    reader.connection().busy_timeout(std::time::Duration::ZERO).unwrap();
    drop(reader);
    assert_eq!(kind_of(scratch.metadata.write().map(drop)), ErrorKind::Locked);
    foreign.execute_batch("ROLLBACK").unwrap();
    scratch.metadata.write().unwrap().commit().unwrap();
}

#[test]
fn the_log_is_copied_back_though_a_reader_keeps_it_from_being_emptied() {
    let scratch = Scratch::new();
    let id = scratch.layer(&diff_id("a"), None).id;
    let reader = scratch.metadata.read().unwrap();
    reader.labels(id).unwrap();
    let large = |number: u32| Labels::from([("x".to_owned(), format!("{number}{}", "y".repeat(1 << 20)))]);
    for number in 0..8 {
        scratch.write(|transaction| transaction.replace_labels(id, &large(number))).unwrap();
    }
    let length = || std::fs::metadata(scratch.directory.path().join(LOG)).unwrap().len();
    assert!(length() > 4 << 20);
    assert_eq!(reader.labels(id).unwrap(), Labels::new());
    drop(reader);
    scratch.write(|transaction| transaction.replace_labels(id, &large(9))).unwrap();
    assert!(length() < 4 << 20, "{}", length());
    assert_eq!(scratch.metadata.read().unwrap().labels(id).unwrap(), large(9));
}

#[test]
fn a_tree_comes_back_with_what_it_rests_on() {
    let scratch = Scratch::new();
    let question = Question { path: EntryPath::parse("usr/lib").unwrap(), detail: Detail::Kind };
    let applied = Applied {
        facts: vec![Fact { question, answer: Answer::Symlink(b"lib64".to_vec()) }],
        root: Some(Attributes { mode: 0o700, ..Attributes::implied() }),
        cut: true,
        empty: false,
        usage: Usage::new(12, 34),
        markers: Vec::new(),
        is_written_back: false,
    };
    let tree = scratch.tree(&diff_id("a"), &applied);
    let reader = scratch.metadata.read().unwrap();
    let row = reader.tree(tree).unwrap().unwrap();
    assert_eq!((row.state, row.diff_id.as_ref()), (TreeState::Frozen, Some(&diff_id("a"))));
    assert_eq!((&row.facts, &row.root, row.cut, row.usage), (&applied.facts, &applied.root, true, applied.usage));
    assert_eq!(reader.shareable_trees(&diff_id("a"), Ids::Exact).unwrap(), [row]);
    assert_eq!(
        reader.shareable_trees(&diff_id("a"), Ids::Squash).unwrap(),
        [],
        "how owners were treated is part of what a tree is"
    );
    assert_eq!(reader.shareable_trees(&diff_id("b"), Ids::Exact).unwrap(), []);
}

#[test]
fn a_tree_is_finished_by_who_builds_it() {
    let scratch = Scratch::new();
    let (lease, other) = scratch.write(|transaction| Ok((transaction.insert_lease()?, transaction.insert_lease()?))).unwrap();
    let tree = scratch.write(|transaction| transaction.allocate_tree(lease, "overlay")).unwrap();
    let unpacked = Unpacked { diff_id: &diff_id("a"), ids: Ids::Exact, applied: &applied() };
    assert_eq!(kind_of(scratch.write(|transaction| transaction.finish_tree(tree, other, &unpacked))), ErrorKind::NotFound);
    scratch.write(|transaction| transaction.remove_lease(lease)).unwrap();
    assert_eq!(kind_of(scratch.write(|transaction| transaction.finish_tree(tree, lease, &unpacked))), ErrorKind::NotFound);
    assert_eq!(scratch.metadata.read().unwrap().trash(10).unwrap(), [Trash::Tree(tree)]);
}

#[test]
fn a_layer_gets_the_chain_id_of_the_specification() {
    let scratch = Scratch::new();
    let (a, b) = (diff_id("a"), diff_id("b"));
    let bottom = scratch.layer(&a, None);
    let top = scratch.layer(&b, Some(&bottom));
    assert_eq!(bottom.chain_id, Some(ChainId::of(None, &a)));
    assert_eq!(top.chain_id, Some(ChainId::of(bottom.chain_id.as_ref(), &b)));
    assert_eq!((top.name, top.parent_name), (top.chain_id.unwrap().to_string(), Some(bottom.name.clone())));
    assert_eq!(top.usage, Some(Usage::new(3, 4096)));
    let tree = scratch.tree(&a, &applied());
    let new = NewLayer { parent: None, diff_id: &a, tree, root: None, labels: &Labels::new() };
    assert_eq!(kind_of(scratch.write(|transaction| transaction.insert_layer(&new))), ErrorKind::AlreadyExists);
    let new = NewLayer { parent: None, diff_id: &b, tree: TreeId(999), root: None, labels: &Labels::new() };
    assert_eq!(kind_of(scratch.write(|transaction| transaction.insert_layer(&new))), ErrorKind::NotFound);
}

#[test]
fn rows_that_others_stand_on_cannot_go() {
    let scratch = Scratch::new();
    let bottom = scratch.layer(&diff_id("a"), None);
    let top = scratch.layer(&diff_id("b"), Some(&bottom));
    assert_eq!(kind_of(scratch.write(|transaction| transaction.remove_snapshot(&bottom))), ErrorKind::Corrupt);
    assert_eq!(kind_of(scratch.write(|transaction| transaction.trash_tree(top.tree))), ErrorKind::Corrupt);
    assert!(scratch.metadata.read().unwrap().snapshot(&bottom.name).unwrap().is_some());
}

#[test]
fn an_image_comes_back_as_it_was_put_and_keeps_what_it_needs() {
    let scratch = Scratch::new();
    let layer = scratch.layer(&diff_id("a"), None);
    let digest = Algorithm::Sha512.digest(b"config");
    let descriptor = Descriptor::new(MediaType::CONFIG, digest.clone(), 6);
    let blob = BlobRow { digest: digest.clone(), size: 6, media_type: descriptor.media_type.clone(), diff_id: None };
    let mut image = ImageRow {
        reference: "example.org/app:1".to_owned(),
        target: descriptor.clone(),
        manifest: descriptor.clone(),
        config: descriptor.clone(),
        platform: "linux/arm64/v8".to_owned(),
        annotations: [("a".to_owned(), "b".to_owned())].into(),
        layers: vec![ImageLayer { descriptor, diff_id: diff_id("a"), chain_id: layer.chain_id.clone().unwrap() }],
        blobs: vec![digest.clone()],
        created: Timestamp::default(),
        updated: Timestamp::default(),
    };
    assert_eq!(kind_of(scratch.write(|transaction| transaction.put_image(&image))), ErrorKind::NotFound, "its blob is not there");
    scratch.write(|transaction| transaction.put_blob(&blob)).unwrap();
    scratch.write(|transaction| transaction.put_image(&image)).unwrap();
    let found = scratch.metadata.read().unwrap().image(&image.reference).unwrap().unwrap();
    assert_eq!(found.created, found.updated);
    (image.created, image.updated) = (found.created, found.updated);
    assert_eq!(found, image);

    assert_eq!(kind_of(scratch.write(|transaction| transaction.trash_blob(&digest))), ErrorKind::Corrupt);
    assert_eq!(kind_of(scratch.write(|transaction| transaction.remove_snapshot(&layer))), ErrorKind::Corrupt);
    scratch.write(|transaction| transaction.tag_image("example.org/app:1", "app")).unwrap();
    assert!(scratch.write(|transaction| transaction.remove_image("example.org/app:1")).unwrap());
    assert!(!scratch.write(|transaction| transaction.remove_image("example.org/app:1")).unwrap());
    let images = scratch.metadata.read().unwrap().images().unwrap();
    assert_eq!(images.iter().map(|image| image.reference.as_str()).collect::<Vec<_>>(), ["app"]);
    assert_eq!(images[0].layers, image.layers);
}

#[test]
fn a_blob_learns_its_diff_id_and_keeps_it() {
    let scratch = Scratch::new();
    let digest = Algorithm::Sha256.digest(b"x");
    let row = |diff_id| BlobRow { digest: digest.clone(), size: 1, media_type: MediaType::new(MediaType::LAYER), diff_id };
    for put in [None, Some(diff_id("a")), None] {
        scratch.write(|transaction| transaction.put_blob(&row(put))).unwrap();
    }
    let reader = scratch.metadata.read().unwrap();
    assert_eq!(reader.blob(&digest).unwrap(), Some(row(Some(diff_id("a")))));
    assert_eq!(reader.blobs_of(&diff_id("a")).unwrap(), [row(Some(diff_id("a")))]);
}

#[test]
fn values_of_a_damaged_database_are_corrupt_not_a_panic() {
    for damage in [
        "UPDATE snapshots SET root = '{'",
        "UPDATE snapshots SET root = '{}'",
        "UPDATE snapshots SET diff_id = 'sha256:short'",
        "UPDATE snapshots SET inodes = -1",
        "PRAGMA foreign_keys = OFF; UPDATE snapshots SET tree = 7777",
    ] {
        let scratch = Scratch::new();
        let row = scratch.layer(&diff_id("a"), None);
        let foreign = rusqlite::Connection::open(scratch.directory.path().join(DATABASE)).unwrap();
        foreign.execute_batch(damage).unwrap();
        let reader = scratch.metadata.read().unwrap();
        let found = reader.snapshot(&row.name);
        assert!(found.as_ref().map_or_else(|error| error.kind() == ErrorKind::Corrupt, Option::is_none), "{damage}: {found:?}");
    }
}

#[test]
fn times_of_every_sign_are_told_rightly() {
    assert_eq!(timestamp(1_500_000_000), Timestamp { seconds: 1, nanoseconds: 500_000_000 });
    assert_eq!(timestamp(-1), Timestamp { seconds: -1, nanoseconds: 999_999_999 });
    assert_eq!(timestamp(0), Timestamp::default());
    let at = now();
    assert!(timestamp(at).seconds > 1_600_000_000);
    let kinds = [Kind::Committed, Kind::Active, Kind::View].map(Kind::as_str);
    assert_eq!(kinds, ["committed", "active", "view"], "as the schema has them");
}

#[test]
fn a_store_of_the_first_format_is_brought_up_to_date_with_all_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("locks")).unwrap();
    let connection = rusqlite::Connection::open(directory.path().join(DATABASE)).unwrap();
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; {} PRAGMA application_id = 1886157175; PRAGMA user_version = 1; \
             INSERT INTO store (id, backend, style, created_by, created) VALUES (1, 'copy', '', 'plywood 0.1.0', 7); \
             INSERT INTO trees (id, state, backend, inodes, bytes) VALUES (3, 'frozen', 'copy', 1, 4096); \
             INSERT INTO snapshots (name, kind, tree, root, inodes, bytes, created, updated) VALUES ('base', 'committed', 3, \
             '{{\"mode\":493,\"uid\":0,\"gid\":0,\"mtime\":{{\"seconds\":0,\"nanoseconds\":0}},\"xattrs\":[]}}', 1, 4096, 7, 7);",
            include_str!("schema.sql")
        ))
        .unwrap();
    drop(connection);
    for _ in 0..2 {
        let metadata = open(directory.path()).unwrap();
        assert!(metadata.is_made().unwrap());
        let reader = metadata.read().unwrap();
        assert_eq!(reader.store().unwrap().backend, "copy");
        assert_eq!(reader.all_snapshots().unwrap(), [("base".to_owned(), TreeId(3))]);
        assert_eq!(reader.damaged_trees().unwrap().len(), 0);
    }
    let connection = rusqlite::Connection::open(directory.path().join(DATABASE)).unwrap();
    assert_eq!(connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).unwrap(), 3);
}

#[test]
fn damage_is_refused_until_a_new_tree_takes_the_place_of_the_old_one_which_stays_for_the_keys_above() {
    let scratch = Scratch::new();
    let base = scratch.layer(&diff_id("base"), None);
    let labels = Labels::new();
    let key = scratch.write(|transaction| {
        let lease = transaction.insert_lease()?;
        let tree = transaction.allocate_tree(lease, "overlay")?;
        let new = NewSnapshot { name: "key", kind: Kind::Active, parent: Some(base.id), tree, root: &base.root, labels: &labels };
        transaction.insert_snapshot(&new)
    });
    let key = key.unwrap();
    scratch.write(|transaction| transaction.mark_tree_damaged(base.tree, "a test")).unwrap();
    let end_leases = || {
        let leases = scratch.metadata.read().unwrap().leases().unwrap();
        scratch.write(|transaction| leases.iter().try_for_each(|lease| transaction.remove_lease(lease.id))).unwrap();
    };
    end_leases();
    let reader = scratch.metadata.read().unwrap();
    assert_eq!(kind_of(reader.refuse_damaged("view", "x", &[TreeId(77), base.tree])), ErrorKind::Corrupt);
    assert!(reader.shareable_trees(&diff_id("base"), Ids::Exact).unwrap().is_empty());
    assert_eq!(reader.hit_by_tree(base.tree, 9).unwrap().snapshots, [base.name.clone(), "key".to_owned()]);
    drop(reader);

    let new = scratch.tree(&diff_id("base"), &applied());
    end_leases();
    assert!(!scratch.write(|transaction| transaction.replace_tree(base.tree, new)).unwrap(), "the key may have it mounted");
    let reader = scratch.metadata.read().unwrap();
    assert_eq!(reader.chain(base.id).unwrap(), [new]);
    assert!(reader.unused_trees().unwrap().is_empty());
    reader.refuse_damaged("view", "x", &[new]).unwrap();
    drop(reader);
    scratch.write(|transaction| transaction.remove_snapshot(&key)).unwrap();
    let reader = scratch.metadata.read().unwrap();
    assert_eq!(reader.unused_trees().unwrap(), [base.tree]);
    assert!(reader.tree_is_unused(base.tree).unwrap());
    assert_eq!(reader.integrity(true).unwrap(), [""; 0]);
}
