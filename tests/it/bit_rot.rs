//! Bit rot: files, blobs and rows that change behind the store's back. `check` names each, `repair` mends what a blob covers, and the
//! tree equals the layer again.
//!
//! `PLYWOOD_TEST_LONG=N` damages N times instead of the few of an ordinary run; `PLYWOOD_TEST_SEED=N` repeats a run's choices.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use plywood::compression::Compression;
use plywood::snapshot::{Key, Name};
use plywood::store::{
    BackendChoice, CheckOptions, CheckOutcome, Damage, ExportOptions, ImageSource, ImportLayerOptions, ImportOptions, LayerSource,
    Remedy, Store, StoreOptions,
};
use plywood::testing::{Image, Layer, Tree, model};
use plywood::{Context, ErrorKind};

use crate::support::work::{Dice, chain, seed};
use crate::support::{Disk, Sandbox, is_root};

/// Three images: two share their upper layers on different bases, so that on overlay a tree stands on both.
fn images() -> [Image; 3] {
    let base = |name: &str| {
        let layer =
            Layer::new().dir("", 0o755).dir("etc", 0o755).dir("usr", 0o711).dir("usr/lib", 0o2755).symlink("lib", "usr/lib");
        let layer = layer.file("etc/name", name).file("usr/lib/so", vec![7; 70_000]).mode(0o4755).xattr("user.kind", "library");
        let layer = layer.hardlink("usr/lib/so.1", "usr/lib/so").fifo("usr/fifo").symlink("etc/motd", "/usr/lib/so");
        (0..12).fold(layer.file("gone/one", "1").file("gone/two", "2"), |layer, n| layer.file(format!("etc/{n}"), format!("{n}")))
    };
    // Implicit parents, a symlinked parent, a link into the layer below, markers of both kinds.
    let middle = Layer::new()
        .file("lib/new", "through the symlink")
        .mtime(1_600_000_000, 123_456_789)
        .hardlink("linked", "etc/3")
        .whiteout("etc/4")
        .opaque("gone")
        .file("gone/three", [&[0; 100_000][..], b"end"].concat());
    let top =
        Layer::new().dir("opt", 0o750).file("opt/a", "a").hardlink("opt/b", "opt/a").file("etc/5", "changed").dir("srv", 0o700);
    let image = |name: &str| {
        Image::new().env(&format!("NAME={name}")).layer(base(name), Compression::Gzip).layer(middle.clone(), Compression::Zstd)
    };
    [image("one"), image("two").layer(top.clone(), Compression::None), Image::new().layer(top, Compression::Gzip)]
}

struct Rot {
    directory: tempfile::TempDir,
    backend: BackendChoice,
    images: [Image; 3],
}

impl Rot {
    fn new(backend: BackendChoice) -> Self {
        let rot = Self { directory: tempfile::tempdir().unwrap(), backend, images: images() };
        for (number, image) in rot.images.iter().enumerate() {
            image.write_layout(rot.layout(number), "latest").unwrap();
            rot.import(&rot.store(), number);
        }
        rot
    }

    fn layout(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("image {number}"))
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn store(&self) -> Store {
        Store::open_with(&StoreOptions::new(self.root()).backend(self.backend.clone())).unwrap()
    }

    fn import(&self, store: &Store, number: usize) {
        let options = ImportOptions::default().reference(format!("image {number}"));
        store.import(ImageSource::path(self.layout(number)), &options, &Context::default()).unwrap();
    }

    /// All is well, every tree was compared, and what a container sees is what the layers say.
    fn assert_whole(&self, what: &str) {
        let store = self.store();
        let outcome = check(&store, CheckOptions::default().full());
        assert_eq!(lines(&outcome), [""; 0], "{what}");
        assert_eq!((outcome.compared, outcome.unproven), (outcome.trees, 0), "{what}");
        assert_eq!(outcome.hashed, outcome.blobs, "{what}");
        for image in &self.images {
            let name = Name::from(&image.chain_id().unwrap());
            let key = Key::new("look").unwrap();
            let mount =
                store.view(&key, Some(&name), &Default::default()).unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
            let mount = mount.detached().unwrap();
            let found = Tree::read(format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd())).unwrap();
            plywood::testing::tree::assert_same_tree(&model::fold(&image.layers()).unwrap(), &found);
            drop(mount);
            store.remove(key.as_str()).unwrap();
        }
        store.gc(&Default::default(), &Context::default()).unwrap();
    }

    /// What could be damaged in trees: everything but the store's own directories.
    fn paths(&self) -> Vec<PathBuf> {
        let trees = self.root().join("trees");
        let mut paths = Vec::new();
        let mut todo: Vec<PathBuf> =
            entries(&trees).into_iter().filter(|tree| !tree.ends_with("0")).map(|tree| tree.join("fs")).collect();
        while let Some(directory) = todo.pop() {
            for path in entries(&directory) {
                if path.symlink_metadata().unwrap().is_dir() {
                    todo.push(path.clone());
                }
                paths.push(path);
            }
        }
        paths.sort();
        paths
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

fn check(store: &Store, options: CheckOptions) -> CheckOutcome {
    store.check(&options, &Context::default()).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn lines(outcome: &CheckOutcome) -> Vec<String> {
    outcome.findings.iter().map(ToString::to_string).collect()
}

/// Names of the same inode in the same tree: a finding may name any.
fn names_of(path: &Path, paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let inode = path.symlink_metadata().unwrap().ino();
    paths.iter().filter(|other| other.symlink_metadata().is_ok_and(|other| other.ino() == inode)).cloned().collect()
}

/// Gives a path its times back, so that nothing but the damage shows.
fn keep_times(path: &Path, damage: impl FnOnce()) {
    let stat = path.symlink_metadata().unwrap();
    damage();
    if path.symlink_metadata().is_ok() {
        set_time(path, stat.mtime(), stat.mtime_nsec());
    }
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    let time = nix::sys::time::TimeSpec::new(seconds, nanoseconds);
    utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
}

/// Damages one path, and says what was done and which names tell of it; `None` where this kind of damage is none here.
fn damage(path: &Path, paths: &[PathBuf], dice: &mut Dice) -> Option<(String, BTreeSet<PathBuf>)> {
    let stat = path.symlink_metadata().unwrap();
    let (kind, mut names) = (stat.file_type(), names_of(path, paths));
    let whiteout = kind.is_char_device() && stat.rdev() == 0;
    let parent = path.parent().unwrap().to_owned();
    let what = match dice.below(10) {
        0 if kind.is_file() && stat.size() > 0 => {
            keep_times(path, || {
                let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
                let at = dice.below(stat.size());
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ (1 << dice.below(8))], at).unwrap();
            });
            "flip a bit"
        }
        1 if kind.is_file() && stat.size() > 0 => {
            keep_times(path, || fs::OpenOptions::new().write(true).open(path).unwrap().set_len(dice.below(stat.size())).unwrap());
            "truncate"
        }
        2 => {
            keep_times(&parent, || if kind.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() });
            names = BTreeSet::from([path.to_owned()]);
            "delete"
        }
        3 if !kind.is_symlink() => {
            fs::set_permissions(path, fs::Permissions::from_mode((stat.mode() & 0o7777) ^ 0o010)).unwrap();
            "re-mode"
        }
        4 if is_root() => {
            keep_times(path, || std::os::unix::fs::lchown(path, Some(stat.uid() + 7), None).unwrap());
            "re-own"
        }
        5 if !whiteout => {
            set_time(path, stat.mtime() + 1, stat.mtime_nsec());
            "re-time"
        }
        6 if kind.is_file() => {
            keep_times(path, || nix_xattr(path));
            "give an attribute"
        }
        7 if kind.is_dir() => {
            keep_times(path, || fs::write(path.join("stray"), "x").unwrap());
            names = BTreeSet::from([path.join("stray")]);
            "add a file"
        }
        8 if !kind.is_dir() => {
            keep_times(&parent, || {
                fs::remove_file(path).unwrap();
                symlink("elsewhere", path).unwrap();
            });
            names = BTreeSet::from([path.to_owned()]);
            "replace by a symlink"
        }
        9 if kind.is_file() => {
            keep_times(&parent, || {
                let bytes = fs::read(path).unwrap();
                fs::remove_file(path).unwrap();
                fs::write(path, bytes).unwrap();
            });
            names = BTreeSet::from([path.to_owned()]);
            "copy"
        }
        _ => return None,
    };
    Some((what.to_owned(), names))
}

fn nix_xattr(path: &Path) {
    use xattr::FileExt as _;
    fs::File::open(path).unwrap().set_xattr("user.rot", b"x").unwrap();
}

/// How much of what damage was done.
fn rounds(short: u64) -> u64 {
    std::env::var("PLYWOOD_TEST_LONG").ok().and_then(|count| count.parse().ok()).unwrap_or(short)
}

fn trees_rot(backend: BackendChoice) {
    let (rot, mut dice) = (Rot::new(backend), Dice::new(seed()));
    rot.assert_whole("new");
    let mut done = std::collections::BTreeMap::<String, u64>::new();
    let mut round = 0;
    while round < rounds(16) {
        let paths = rot.paths();
        let path = &paths[dice.below(paths.len() as u64) as usize];
        let Some((what, names)) = damage(path, &paths, &mut dice) else { continue };
        round += 1;
        let told = format!("{what} {}", path.display());
        let store = rot.store();
        let outcome = check(&store, CheckOptions::default().full());
        let found: BTreeSet<PathBuf> =
            outcome.findings.iter().filter(|finding| finding.stays()).map(|finding| finding.path.clone()).collect();
        assert!(!outcome.is_sound() && found.intersection(&names).next().is_some(), "{told}: {:?}", lines(&outcome));
        let hit = outcome.findings.iter().find(|finding| names.contains(&finding.path)).unwrap().images.clone();
        assert!(!hit.is_empty(), "{told}");
        let name = Name::from(&rot.images[hit[0].strip_prefix("image ").unwrap().parse::<usize>().unwrap()].chain_id().unwrap());
        for refused in [
            store.prepare(&Key::new("hit").unwrap(), Some(&name), &Default::default()).unwrap_err(),
            store.view(&Key::new("hit").unwrap(), Some(&name), &Default::default()).unwrap_err(),
            store.changes_refused(&name),
        ] {
            assert_eq!(refused.kind(), ErrorKind::Corrupt, "{told}: {}", chain(&refused));
            assert!(refused.hint().unwrap().contains("--repair"), "{refused}");
        }
        if dice.below(4) == 0 {
            // The other way out: whoever imports again gets what is damaged anew.
            (0..rot.images.len()).for_each(|number| rot.import(&store, number));
        } else {
            let outcome = check(&store, CheckOptions::default().full().repair());
            assert!(outcome.is_sound(), "{told}: {:?}", lines(&outcome));
            assert!(outcome.findings.iter().any(|finding| finding.remedy == Remedy::Mended), "{told}");
        }
        drop(store);
        rot.assert_whole(&told);
        *done.entry(what).or_default() += 1;
    }
    println!("{}: {done:?}", rot.store().backend().name());
}

trait Refused {
    fn changes_refused(&self, name: &Name) -> plywood::Error;
}

impl Refused for Store {
    fn changes_refused(&self, name: &Name) -> plywood::Error {
        self.diff(name.as_str(), std::io::sink(), &Default::default(), &Context::default()).unwrap_err()
    }
}

fn blobs_rot(backend: BackendChoice) {
    let (rot, mut dice) = (Rot::new(backend), Dice::new(seed()));
    for round in 0..rounds(6) {
        let blobs = entries(&rot.root().join("blobs/sha256"));
        let path = &blobs[dice.below(blobs.len() as u64) as usize];
        let size = path.metadata().unwrap().len();
        let open = || fs::OpenOptions::new().write(true).open(path).unwrap();
        let flipped = round % 3 == 0;
        match round % 3 {
            0 => {
                let at = dice.below(size);
                let byte = fs::read(path).unwrap()[at as usize];
                fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
                open().write_all_at(&[byte ^ 0x10], at).unwrap();
            }
            1 => open().set_len(dice.below(size)).unwrap(),
            _ => fs::remove_file(path).unwrap(),
        }
        let store = rot.store();
        let quick = check(&store, CheckOptions::default());
        assert_eq!(quick.findings.iter().any(|finding| finding.path == *path && finding.stays()), !flipped, "{:?}", lines(&quick));
        let outcome = check(&store, CheckOptions::default().full().repair());
        // Where no tree was made of the layer yet, none can be.
        let (unmade, told): (Vec<_>, Vec<_>) = outcome.findings.iter().partition(|finding| finding.damage == Damage::NoLayer);
        assert!(unmade.is_empty() || store.backend().name() == "copy", "{:?}", lines(&outcome));
        let [finding] = told[..] else { panic!("{:?}", lines(&outcome)) };
        assert_eq!(finding.path, *path);
        let Remedy::Stays { hint } = &finding.remedy else { panic!("{finding}") };
        assert!(hint.contains(&format!("import {} again", finding.images[0])), "{finding}");
        let refused =
            store.export(&finding.images[0], &rot.directory.path().join("layout"), &Default::default(), &Context::default());
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Corrupt);
        (0..rot.images.len()).for_each(|number| rot.import(&store, number));
        drop(store);
        rot.assert_whole(&path.display().to_string());
    }
}

/// Changes of rows that SQLite's own checks let pass. Each names what it hits by a condition, and whether it can be mended.
const ROWS: [(&str, bool); 11] = [
    ("UPDATE trees SET inodes = inodes + 1 WHERE id = (SELECT MAX(id) FROM trees)", true),
    ("UPDATE trees SET facts = X'0101' WHERE id = (SELECT MIN(id) FROM trees)", true),
    ("UPDATE trees SET facts = X'01' WHERE id = (SELECT id FROM trees WHERE length(facts) > 1 LIMIT 1)", true),
    ("UPDATE trees SET cut = 1 - cut WHERE id = (SELECT MIN(id) FROM trees)", true),
    ("UPDATE trees SET root = '{' WHERE id = (SELECT MIN(id) FROM trees)", true),
    ("UPDATE trees SET ids = 'none' WHERE id = (SELECT MIN(id) FROM trees)", true),
    ("UPDATE trees SET diff_id = replace(diff_id, 'a', 'b') WHERE id = (SELECT MIN(id) FROM trees)", true),
    (
        "UPDATE snapshots SET root = replace(root, '493', '511') WHERE id = (SELECT MAX(id) FROM snapshots WHERE parent IS NOT NULL)",
        true,
    ),
    ("UPDATE blobs SET size = size + 1 WHERE digest = (SELECT MIN(digest) FROM blobs)", true),
    ("UPDATE snapshots SET diff_id = 'sha256:none' WHERE id = (SELECT MAX(id) FROM snapshots)", false),
    ("UPDATE images SET config = '{}' WHERE reference = 'image 0'", false),
];

fn rows_rot(backend: BackendChoice) {
    let rot = Rot::new(backend);
    for (statement, mends) in ROWS {
        let change = || {
            let database = rusqlite::Connection::open(rot.root().join("plywood.db")).unwrap();
            database.execute(statement, []).unwrap()
        };
        // The copy backend's trees rest on no facts.
        if change() == 0 {
            assert!(matches!(rot.backend, BackendChoice::Copy) && statement.contains("length(facts)"), "{statement}");
            continue;
        }
        let store = rot.store();
        let outcome = check(&store, CheckOptions::default().full());
        assert!(!outcome.is_sound(), "{statement}: {:?}", lines(&outcome));
        let named = |finding: &plywood::store::Finding| {
            matches!(finding.damage, Damage::Row { .. } | Damage::Facts { .. } | Damage::Inodes { .. } | Damage::BlobSize { .. })
        };
        assert!(outcome.findings.iter().any(named), "{statement}: {:?}", lines(&outcome));
        let outcome = check(&store, CheckOptions::default().full().repair());
        assert_eq!(outcome.is_sound(), mends, "{statement}: {:?}", lines(&outcome));
        drop(store);
        if mends {
            rot.assert_whole(statement);
        } else {
            return;
        }
    }
}

fn sandbox() -> Sandbox {
    if is_root() { Sandbox::root().disk(Disk::Ext4) } else { Sandbox::user_namespace() }
}

fn both(work: impl Fn(BackendChoice)) {
    work(BackendChoice::Overlay);
    work(BackendChoice::Copy);
}

#[test]
fn what_rots_in_a_tree_is_named_refused_and_mended() {
    sandbox().run(|| both(trees_rot));
}

#[test]
fn what_rots_in_a_blob_is_named_and_comes_anew_with_the_next_import() {
    sandbox().run(|| both(blobs_rot));
}

#[test]
fn what_rots_in_a_row_is_named_and_mended_where_it_follows_from_others() {
    sandbox().run(|| both(rows_rot));
}

#[test]
fn a_container_keeps_the_tree_that_it_has_mounted_until_its_key_goes() {
    sandbox().run(|| both(mounted_meanwhile));
}

fn mounted_meanwhile(backend: BackendChoice) {
    let rot = Rot::new(backend);
    let store = rot.store();
    let name = Name::from(&rot.images[0].chain_id().unwrap());
    let key = Key::new("running").unwrap();
    let mount = store.view(&key, Some(&name), &Default::default()).unwrap().detached().unwrap();
    let inside = PathBuf::from(format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd()));
    let before = fs::read(inside.join("etc/name")).unwrap();
    let damaged = rot.paths().into_iter().filter(|path| path.ends_with("etc/7")).collect::<Vec<_>>();
    damaged.iter().for_each(|path| fs::write(path, "rotten").unwrap());
    let outcome = check(&store, CheckOptions::default().full().repair());
    assert!(outcome.is_sound() && !outcome.findings.is_empty(), "{:?}", lines(&outcome));
    assert!(outcome.findings.iter().any(|finding| finding.snapshots.contains(&"running".to_owned())));
    store.gc(&Default::default(), &Context::default()).unwrap();
    assert_eq!(fs::read(inside.join("etc/name")).unwrap(), before, "what is mounted is still there");
    let mended = store.mounts("running").unwrap().detached().unwrap();
    let inside = PathBuf::from(format!("/proc/self/fd/{}", mended.as_fd().as_raw_fd()));
    assert_eq!(fs::read_to_string(inside.join("etc/7")).unwrap(), "7");
    drop((mount, mended));
    let trees = entries(&rot.root().join("trees")).len();
    store.remove("running").unwrap();
    store.gc(&Default::default(), &Context::default()).unwrap();
    assert!(entries(&rot.root().join("trees")).len() < trees - 1, "the old trees went with the key");
    drop(store);
    rot.assert_whole("mended");
}

#[test]
fn what_is_sound_in_a_mended_tree_is_shared_with_the_old_one_where_the_file_system_can() {
    Sandbox::root().disk(Disk::Xfs).run(|| both(shared));
}

fn shared(backend: BackendChoice) {
    const LARGE: usize = 8 << 20;
    let rot = Rot::new(backend);
    let store = rot.store();
    let noise: Vec<u8> = (0..LARGE as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let image = Image::new().layer(Layer::new().file("large", noise).file("small", "small"), Compression::None);
    image.write_layout(rot.layout(9), "latest").unwrap();
    rot.import(&store, 9);
    let name = Name::from(&image.chain_id().unwrap());
    // Its key keeps the old tree.
    store.view(&Key::new("running").unwrap(), Some(&name), &Default::default()).unwrap();
    let damaged: Vec<PathBuf> = rot.paths().into_iter().filter(|path| path.ends_with("fs/small")).collect();
    damaged.iter().for_each(|path| fs::write(path, "rotten").unwrap());
    let used = || {
        nix::unistd::sync();
        let disk = nix::sys::statvfs::statvfs(rot.directory.path()).unwrap();
        (disk.blocks() - disk.blocks_free()) * disk.fragment_size()
    };
    let before = used();
    let outcome = check(&store, CheckOptions::default().full().repair());
    assert!(outcome.is_sound() && !outcome.findings.is_empty(), "{:?}", lines(&outcome));
    assert_eq!(rot.paths().into_iter().filter(|path| path.ends_with("fs/large")).count(), 2, "the old tree is still there");
    let more = used().saturating_sub(before);
    assert!(more < LARGE as u64 / 2, "{more} bytes more");
}

#[test]
fn a_committed_container_is_judged_by_the_layer_that_it_once_gave() {
    sandbox().run(|| both(committed));
}

fn committed(backend: BackendChoice) {
    let rot = Rot::new(backend);
    let store = rot.store();
    let parent = Name::from(&rot.images[0].chain_id().unwrap());
    let mount = store.prepare(&Key::new("box").unwrap(), Some(&parent), &Default::default()).unwrap();
    let upper = mount.options().unwrap().iter().find_map(|option| option.strip_prefix("upperdir=").map(PathBuf::from));
    let file = upper.unwrap_or_else(|| mount.source()).join("data");
    fs::write(&file, "precious").unwrap();
    store.commit(&Name::new("kept").unwrap(), &Key::new("box").unwrap(), &Default::default()).unwrap();
    assert_eq!(check(&store, CheckOptions::default().full()).unproven, 1, "nothing is known of it yet");
    store.diff("kept", std::io::sink(), &Default::default(), &Context::default()).unwrap();
    let whole = check(&store, CheckOptions::default().full());
    assert!(whole.is_sound() && whole.unproven == 0, "{:?}", lines(&whole));
    keep_times(&file, || fs::write(&file, "Precious").unwrap());
    let outcome = check(&store, CheckOptions::default().full().repair());
    let [finding] = &outcome.findings[..] else { panic!("{:?}", lines(&outcome)) };
    assert!(matches!(finding.damage, Damage::Changed { .. }) && finding.snapshots == ["kept"], "{finding}");
    assert!(finding.to_string().ends_with("no layer was unpacked to it, so no blob covers it"), "{finding}");
    let refused = store.prepare(&Key::new("more").unwrap(), Some(&Name::new("kept").unwrap()), &Default::default());
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Corrupt);
    keep_times(&file, || fs::write(&file, "precious").unwrap());
    let again = check(&store, CheckOptions::default().full());
    assert!(again.is_sound(), "put back by hand: {:?}", lines(&again));
    store.prepare(&Key::new("more").unwrap(), Some(&Name::new("kept").unwrap()), &Default::default()).unwrap();
}

#[test]
fn a_container_whose_layer_came_back_is_judged_as_the_kernel_made_it() {
    sandbox().run(|| both(came_back));
}

/// Its tree stands under a chain id too, and the blob of that layer is there; a mounted overlay leaves more in it than the layer says.
fn came_back(backend: BackendChoice) {
    let rot = Rot::new(backend);
    let store = rot.store();
    let parent = Name::from(&rot.images[0].chain_id().unwrap());
    let (key, kept) = (Key::new("box").unwrap(), Name::new("kept").unwrap());
    let at = rot.root().with_file_name("mounted");
    fs::create_dir(&at).unwrap();
    let mounted = store.prepare(&key, Some(&parent), &Default::default()).unwrap().attach(&at).unwrap();
    for entry in entries(&at) {
        // A whiteout, a directory that is copied up, a file that is.
        match fs::symlink_metadata(&entry).unwrap() {
            found if found.is_dir() => fs::write(entry.join("written"), "new").unwrap(),
            found if found.is_file() && found.len() > 0 => fs::remove_file(&entry).unwrap(),
            _ => {}
        }
    }
    mounted.close().unwrap();
    store.commit(&kept, &key, &Default::default()).unwrap();
    let cx = Context::default();
    let mut layer = Vec::new();
    store.diff("kept", &mut layer, &Default::default(), &cx).unwrap();
    let onto = |parent: &str| ImportLayerOptions::default().parent(parent);
    let source = || LayerSource::reader(&layer[..]);
    let above = Layer::new().file("above", "x").tar();
    store.import_layer(LayerSource::reader(&above[..]), &onto("kept"), &cx).unwrap();
    assert!(store.import_layer(source(), &onto(parent.as_str()), &cx).unwrap().existed, "its tree stands under the chain id");
    let layout = rot.root().with_file_name("exported");
    store.export("kept", &layout, &ExportOptions::default().reference("kept:1"), &cx).unwrap();
    store.import(ImageSource::parse(layout.to_str().unwrap()).unwrap(), &Default::default(), &cx).unwrap();
    let outcome = check(&store, CheckOptions::default().full());
    assert!(outcome.is_sound(), "{:?}", lines(&outcome));
    // The layer above it came without an image: its bytes are gone.
    assert_eq!(outcome.unproven, 1);
    let trees = entries(&rot.root().join("trees")).into_iter().map(|tree| tree.join("fs"));
    let name = trees.filter(|tree| !tree.join("above").exists()).find_map(|tree| {
        let below = walkdir::WalkDir::new(tree).into_iter().filter_map(Result::ok).map(walkdir::DirEntry::into_path);
        below.filter(|path| path.ends_with("written") && path.is_file()).last()
    });
    let name = name.expect("the container wrote something");
    keep_times(&name, || fs::write(&name, "now").unwrap());
    let outcome = check(&store, CheckOptions::default().full());
    assert!(!outcome.is_sound());
    for finding in &outcome.findings {
        assert!(finding.snapshots.contains(&"kept".to_owned()), "{:?}", lines(&outcome));
    }
}

#[test]
fn what_is_left_behind_is_named_and_no_damage() {
    sandbox().run(|| both(left_behind));
}

fn left_behind(backend: BackendChoice) {
    let rot = Rot::new(backend);
    let lost = rot.root().join("lost+found/99");
    fs::create_dir_all(&lost).unwrap();
    fs::create_dir(rot.root().join("trees/4711")).unwrap();
    let stray = rot.root().join("blobs/sha256").join("0".repeat(64));
    fs::write(&stray, "x").unwrap();
    let outcome = check(&rot.store(), CheckOptions::default().full());
    assert!(outcome.is_sound(), "{:?}", lines(&outcome));
    let paths: Vec<_> = outcome.findings.iter().map(|finding| finding.path.clone()).collect();
    assert_eq!(paths, [stray, lost, rot.root().join("trees/4711")]);
}
