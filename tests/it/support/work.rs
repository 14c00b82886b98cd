//! Random work in a store, as many processes do it at once, and what must hold of the store whenever they are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use plywood::compression::Compression;
use plywood::digest::{Algorithm, Digest};
use plywood::snapshot::{Key, Kind, Name};
use plywood::store::{CheckOptions, DiffOptions, Filter, ImageSource, ImportOptions, Store};
use plywood::testing::{Image, Layer, Tree, model};
use plywood::{Context, Error, ErrorKind, Result};

/// How many images there are to import; all stand on the same first layer.
const IMAGES: u64 = 4;

/// xorshift64*: enough to choose what to do next, and the same everywhere.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// The seed of a test's dice: another one each time, or the one of `PLYWOOD_TEST_SEED`. Printed, so that a failure can be had again.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("PLYWOOD_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    let seed = given.unwrap_or_else(now);
    println!("PLYWOOD_TEST_SEED={seed}");
    seed
}

fn image(number: u64) -> Image {
    let base =
        (0..20).fold(Layer::new().dir("etc", 0o755), |layer, file| layer.file(format!("etc/{file}"), format!("base {file}")));
    let top = Layer::new()
        .dir("opt", 0o750)
        .file("opt/large", vec![number as u8; 60_000 + number as usize])
        .hardlink("opt/same", "opt/large")
        .whiteout(format!("etc/{number}"));
    Image::new().layer(base, Compression::Gzip).layer(top, Compression::None)
}

/// Writes the images as layouts below `directory`.
pub(crate) fn write_images(directory: &Path) {
    for number in 0..IMAGES {
        image(number).write_layout(directory.join(number.to_string()), "latest").unwrap();
    }
}

/// The writable directory of an Active snapshot, on the host.
pub(crate) fn writable(store: &Store, key: &str) -> Result<PathBuf> {
    let mount = store.mounts(key)?;
    let upper = mount.options()?.iter().find_map(|option| option.strip_prefix("upperdir=").map(PathBuf::from));
    Ok(upper.unwrap_or_else(|| mount.source()))
}

fn content(id: &str) -> Vec<u8> {
    let length = 1 + id.bytes().map(usize::from).sum::<usize>() * 31 % 20_000;
    id.bytes().cycle().take(length).collect()
}

/// What the name of a committed snapshot has after its key.
pub(crate) const COMMITTED: &str = " committed";

/// Writes into an Active snapshot what [`check_committed`] looks for.
pub(crate) fn write_data(store: &Store, key: &str) -> Result<()> {
    let directory = writable(store, key)?.join("data");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(format!("one {key}")), content(key)).unwrap();
    std::fs::hard_link(directory.join(format!("one {key}")), directory.join(format!("two {key}"))).unwrap();
    Ok(())
}

/// What one process does in a store, and what of it must be there.
pub(crate) struct Worker {
    store: Store,
    images: PathBuf,
    dice: Dice,
    me: String,
    round: u64,
    /// Names of this worker's own snapshots; nobody else touches them.
    active: Vec<String>,
    committed: Vec<String>,
}

impl Worker {
    pub(crate) fn new(store: Store, images: &Path, me: impl Into<String>, seed: u64) -> Self {
        let (active, committed) = (Vec::new(), Vec::new());
        Self { store, images: images.to_owned(), dice: Dice::new(seed), me: me.into(), round: 0, active, committed }
    }

    /// Does one thing. What others may rightly be in the way of is no failure; everything else is.
    pub(crate) fn step(&mut self) {
        self.round += 1;
        let what = self.dice.below(17);
        let done = match what {
            0..=2 => self.import(),
            3..=6 => self.prepare(),
            7..=9 => self.commit(),
            10..=11 => self.remove(),
            12 => self.untag(),
            13 => self.store.gc(&Default::default(), &Context::default()).map(drop),
            14 => self.view(),
            15 => self.look(),
            _ => self.diff(),
        };
        done.unwrap_or_else(|error| panic!("{} {what}: {}", self.me, chain(&error)));
    }

    /// Makes sure that what this worker was told is there.
    pub(crate) fn check(&self) {
        for (names, kind) in [(&self.active, Kind::Active), (&self.committed, Kind::Committed)] {
            for name in names {
                let info = self.store.stat(name).unwrap_or_else(|error| panic!("{}: {}", self.me, chain(&error)));
                assert_eq!(info.kind, kind, "{name}");
            }
        }
    }

    fn untag(&mut self) -> Result<()> {
        match self.store.untag(&format!("image {}", self.dice.below(IMAGES))) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn import(&mut self) -> Result<()> {
        let number = self.dice.below(IMAGES);
        let options = ImportOptions::default().reference(format!("image {number}"));
        self.store.import(ImageSource::path(self.images.join(number.to_string())), &options, &Context::default()).map(drop)
    }

    /// On nothing, on an image if it is there, or on a snapshot of one's own.
    fn prepare(&mut self) -> Result<()> {
        if self.active.len() > 6 {
            return self.commit();
        }
        let (key, pick) = (format!("{} {}", self.me, self.round), self.dice.below(3));
        let parent = match pick {
            0 => None,
            1 => {
                let chain_id = image(self.dice.below(IMAGES)).chain_id().unwrap();
                Some(Name::from(&chain_id))
            }
            _ => self.pick_committed().map(|name| Name::new(name).unwrap()),
        };
        match self.store.prepare(&Key::new(&*key)?, parent.as_ref(), &Default::default()) {
            Err(error) if pick == 1 && error.kind() == ErrorKind::NotFound => return Ok(()),
            done => drop(done?),
        }
        self.active.push(key.clone());
        write_data(&self.store, &key)
    }

    fn pick_committed(&mut self) -> Option<String> {
        let limit = self.committed.len() as u64;
        (limit > 0).then(|| self.committed[self.dice.below(limit) as usize].clone())
    }

    fn commit(&mut self) -> Result<()> {
        let Some(key) = self.active.pop() else { return Ok(()) };
        let name = format!("{key}{COMMITTED}");
        self.store.commit(&Name::new(&*name)?, &Key::new(&*key)?, &Default::default())?;
        self.committed.push(name);
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        if self.dice.below(2) == 0
            && let Some(key) = self.active.pop()
        {
            return self.store.remove(&key);
        }
        if let Some(name) = self.pick_committed() {
            match self.store.remove(&name) {
                // Its children stand on it.
                Err(error) if error.kind() == ErrorKind::InUse => {}
                done => {
                    done?;
                    self.committed.retain(|other| *other != name);
                }
            }
        }
        Ok(())
    }

    fn view(&mut self) -> Result<()> {
        let Some(parent) = self.pick_committed() else { return Ok(()) };
        let key = format!("{} view {}", self.me, self.round);
        self.store.view(&Key::new(&*key)?, Some(&Name::new(parent)?), &Default::default())?;
        self.store.mounts(&key)?;
        self.store.remove(&key)
    }

    /// Whatever the others do meanwhile, nothing is damaged.
    fn look(&mut self) -> Result<()> {
        let options = CheckOptions::default();
        let options = if self.dice.below(2) == 0 { options.full() } else { options };
        let outcome = self.store.check(&options, &Context::default())?;
        let damage: Vec<String> = outcome.findings.iter().filter(|finding| finding.stays()).map(ToString::to_string).collect();
        assert_eq!(damage, [""; 0], "{}", self.me);
        Ok(())
    }

    fn diff(&mut self) -> Result<()> {
        match self.pick_committed() {
            Some(name) => check_committed(&self.store, &name),
            None => Ok(()),
        }
    }
}

pub(crate) fn chain(error: &Error) -> String {
    let mut text = format!("{:?}: {error}", error.kind());
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// What a worker committed is whole: its layer has the files that its name says.
pub(crate) fn check_committed(store: &Store, name: &str) -> Result<()> {
    let key = name.strip_suffix(COMMITTED).unwrap();
    let mut layer = Vec::new();
    store.diff(name, &mut layer, &DiffOptions::default(), &Context::default())?;
    let mut files = BTreeMap::new();
    for member in tar::Archive::new(layer.as_slice()).entries().unwrap() {
        let mut member = member.unwrap();
        let path = member.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).unwrap();
        if path.starts_with("data/") && path != "data/" {
            files.insert(path, (member.header().entry_type().is_hard_link(), bytes));
        }
    }
    let expected = [(format!("data/one {key}"), (false, content(key))), (format!("data/two {key}"), (true, Vec::new()))];
    assert_eq!(files, BTreeMap::from(expected), "{name}");
    Ok(())
}

/// The names in a directory; none where there is no such.
pub(crate) fn names(directory: &Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return BTreeSet::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Everything that a store says it has is there and what it should be. Nobody else may be at work in it.
pub(crate) fn check_store(store: &Store) {
    let mut all = Vec::new();
    store
        .walk(&Filter::all(), |info| {
            all.push(info);
            Ok(())
        })
        .unwrap();
    for info in &all {
        let fail = |error: Error| -> ! { panic!("{}: {}", info.name, chain(&error)) };
        match info.kind {
            Kind::Committed if info.diff_id.is_none() || !info.name.starts_with("sha256:") => {
                check_committed(store, &info.name).unwrap_or_else(|error| fail(error));
            }
            Kind::Committed => {}
            // Whatever was going on when it was left: it can be mounted, and once at a time.
            Kind::Active | Kind::View => {
                let mount = store.mounts(&info.name).unwrap_or_else(|error| fail(error));
                drop(mount.detached().unwrap_or_else(|error| fail(error)));
            }
        }
    }
    for number in 0..IMAGES {
        let image = image(number);
        let name = Name::from(&image.chain_id().unwrap());
        if store.stat(name.as_str()).is_ok() {
            let key = Key::new("to be looked at").unwrap();
            let mount = store.view(&key, Some(&name), &Default::default()).unwrap().detached().unwrap();
            let found = Tree::read(format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd())).unwrap();
            plywood::testing::tree::assert_same_tree(&model::fold(&image.layers()).unwrap(), &found);
            drop(mount);
            store.remove(key.as_str()).unwrap();
        }
    }
    for image in store.images().unwrap() {
        for digest in image.layers.iter().map(|layer| &layer.descriptor.digest).chain([&image.manifest.digest]) {
            assert!(store.content().blob(digest).unwrap().is_some(), "{digest} of {}", image.reference);
        }
    }
    for hex in names(&store.root().join("blobs/sha256")) {
        let digest: Digest = format!("sha256:{hex}").parse().unwrap();
        let bytes = std::fs::read(store.root().join("blobs/sha256").join(&hex)).unwrap();
        assert_eq!(Algorithm::Sha256.digest(&bytes), digest);
    }
}

/// Takes everything away, and makes sure that nothing is left of it.
pub(crate) fn empty_store(store: &Store) {
    for image in store.images().unwrap() {
        store.untag(&image.reference).unwrap();
    }
    loop {
        let mut all = Vec::new();
        store
            .walk(&Filter::all(), |info| {
                all.push(info.name);
                Ok(())
            })
            .unwrap();
        let mut left = false;
        for name in all.iter().rev().filter(|name| !name.starts_with("sha256:")) {
            match store.remove(name) {
                Err(error) if error.kind() == ErrorKind::InUse => left = true,
                done => done.unwrap_or_else(|error| panic!("{name}: {}", chain(&error))),
            }
        }
        if !left {
            break;
        }
    }
    store.gc(&Default::default(), &Context::default()).unwrap();
    let mut all = Vec::new();
    store
        .walk(&Filter::all(), |info| {
            all.push(info.name);
            Ok(())
        })
        .unwrap();
    assert_eq!(all, [""; 0], "snapshots");
    assert_nothing_left(store);
}

/// No bytes of layers, containers, blobs or locks.
pub(crate) fn assert_nothing_left(store: &Store) {
    let mut left = BTreeSet::new();
    for place in ["trees", "blobs/sha256", "blobs/sha512", "ingest", "locks", "lost+found"] {
        left.extend(names(&store.root().join(place)).into_iter().map(|name| format!("{place}/{name}")));
    }
    // The empty lower directory of overlays, and the queue of writers.
    left.remove("trees/0");
    left.remove("locks/writers");
    assert_eq!(left, BTreeSet::new());
}
