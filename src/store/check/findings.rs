//! What a check tells: each finding names a path, what is wrong there, whom it hits, and what becomes of it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Check;
use crate::backend::Fault;
use crate::digest::Digest;
use crate::entry::Attributes;
use crate::error::Error;
use crate::metadata::{DATABASE, Hit, SnapshotId};
use crate::store::Store;
use crate::tree::TreeId;

/// How many of those who are hit are named.
const NAMED: u32 = 16;

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
#[non_exhaustive]
pub enum Damage {
    /// The database itself, as SQLite sees it.
    Database {
        /// What SQLite says.
        detail: String,
    },
    /// A row says what cannot be.
    Row {
        /// Which, and what.
        detail: String,
    },
    /// A tree's directory is gone, or cannot be read at all.
    NoTree,
    /// A tree is to be made when somebody asks for it, and no blob gives its layer.
    NoLayer,
    /// A tree has another number of inodes than when it was frozen.
    Inodes {
        /// When it was frozen.
        expected: u64,
        /// Now.
        found: u64,
    },
    /// A tree takes much less space than when it was frozen. Only a full check tells what that means.
    Shrunk {
        /// When it was frozen, in bytes.
        expected: u64,
        /// Now.
        found: u64,
    },
    /// A path of a tree is not what its layer says.
    Tree(Fault),
    /// A tree has more such paths than are told one by one.
    Many {
        /// How many more.
        more: u64,
    },
    /// What a tree's row says of it is not what its layer comes to on the layers below.
    Facts {
        /// What differs.
        detail: String,
    },
    /// A committed container does not give the layer any more that it once gave.
    Changed {
        /// The layer that it gave.
        expected: String,
        /// What it gives now.
        found: String,
    },
    /// A blob's file is gone.
    NoBlob,
    /// A blob's file has another size.
    BlobSize {
        /// By its row, in bytes.
        expected: u64,
        /// On the disk.
        found: u64,
    },
    /// A blob's bytes are not those of its digest.
    BlobContent {
        /// What they hash to.
        found: Digest,
    },
    /// A blob cannot be read.
    BlobUnreadable {
        /// What the system says.
        error: String,
    },
    /// A writable tree that no snapshot names, put aside: perhaps a container's data.
    Lost,
    /// A directory among the trees that no row names.
    StrayTree,
    /// A file among the blobs that no row names; the next collection deletes it.
    StrayBlob,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database { detail } => write!(f, "the database is damaged: {detail}"),
            Self::Row { detail } => f.write_str(detail),
            Self::NoTree => f.write_str("the tree is missing"),
            Self::NoLayer => f.write_str("the tree is not made yet, and no blob gives its layer"),
            Self::Inodes { expected, found } => write!(f, "the tree has {found} inodes, and was frozen with {expected}"),
            Self::Shrunk { expected, found } => write!(f, "the tree takes {found} bytes, and took {expected} when it was frozen"),
            Self::Tree(fault) => fault.fmt(f),
            Self::Many { more } => write!(f, "{more} more paths differ"),
            Self::Facts { detail } => write!(f, "the tree's row does not fit its layer: {detail}"),
            Self::Changed { expected, found } => write!(f, "the tree gives the layer {found}, and once gave {expected}"),
            Self::NoBlob => f.write_str("the blob is missing"),
            Self::BlobSize { expected, found } => write!(f, "the blob has {found} bytes, and should have {expected}"),
            Self::BlobContent { found } => write!(f, "the blob's bytes hash to {found}"),
            Self::BlobUnreadable { error } => write!(f, "the blob cannot be read: {error}"),
            Self::Lost => f.write_str("a tree that no snapshot names was put aside"),
            Self::StrayTree => f.write_str("no row names it; it is put aside when the store is opened after the next boot"),
            Self::StrayBlob => f.write_str("no row names it; the next gc deletes it"),
        }
    }
}

impl Damage {
    /// Whether it is only something left behind.
    fn is_harmless(&self) -> bool {
        matches!(self, Self::Lost | Self::StrayTree | Self::StrayBlob)
    }
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "remedy")]
#[non_exhaustive]
pub enum Remedy {
    /// Nothing is damaged.
    Harmless,
    /// It was mended.
    Mended,
    /// It stays.
    Stays {
        /// The way out.
        hint: String,
    },
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The path, absolute.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// What is wrong there.
    pub damage: Damage,
    /// Names and keys of the first snapshots that it hits.
    pub snapshots: Vec<String>,
    /// References of the first images that it hits.
    pub images: Vec<String>,
    /// What becomes of it.
    #[serde(flatten)]
    pub remedy: Remedy,
    /// Of which tree it is.
    #[serde(skip)]
    pub(super) tree: Option<TreeId>,
    /// Of which blob.
    #[serde(skip)]
    pub(super) blob: Option<Digest>,
    /// What the row should say.
    #[serde(skip)]
    pub(super) amendment: Option<Amendment>,
}

/// What a row should say, where that follows from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Amendment {
    /// The root directory of a snapshot.
    Root(SnapshotId, Box<Attributes>),
    /// The size of a blob.
    Size(Digest, u64),
}

fn lossy<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

impl Finding {
    /// Whether something is damaged, and stays so.
    pub fn stays(&self) -> bool {
        matches!(self.remedy, Remedy::Stays { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.to_string_lossy().escape_debug(), self.damage)?;
        let names: Vec<String> =
            self.images.iter().map(|image| format!("image {}", image.escape_debug())).chain(self.keys()).collect();
        if !names.is_empty() {
            write!(f, " (hits {})", names.join(", "))?;
        }
        match &self.remedy {
            Remedy::Harmless => Ok(()),
            Remedy::Mended => f.write_str("; mended"),
            Remedy::Stays { hint } if hint.is_empty() => Ok(()),
            Remedy::Stays { hint } => write!(f, "; {hint}"),
        }
    }
}

impl Finding {
    /// Those of the snapshots that a person named.
    fn keys(&self) -> impl Iterator<Item = String> {
        self.snapshots.iter().filter(|name| name.parse::<Digest>().is_err()).map(|name| name.escape_debug().to_string())
    }
}

/// What a check came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckOutcome {
    /// What was found: damage, and what is only left behind. By path.
    pub findings: Vec<Finding>,
    /// How many findings more there were than are kept.
    pub omitted: u64,
    /// Trees that were looked at.
    pub trees: u64,
    /// Those of them that were compared in full.
    pub compared: u64,
    /// Trees that nothing is there to compare with: no blob, and nothing that was remembered of them.
    pub unproven: u64,
    /// Blobs that were looked at.
    pub blobs: u64,
    /// Those of them that were hashed.
    pub hashed: u64,
}

/// How many findings are kept.
const KEPT: usize = 10_000;

impl CheckOutcome {
    /// Whether nothing is damaged, or all that was has been mended.
    pub fn is_sound(&self) -> bool {
        self.omitted == 0 && !self.findings.iter().any(Finding::stays)
    }

    pub(super) fn sort(&mut self) {
        self.findings.sort_by(|one, other| one.path.cmp(&other.path));
    }

    fn push(&mut self, finding: Finding) {
        if self.findings.len() < KEPT {
            self.findings.push(finding);
        } else {
            self.omitted = self.omitted.saturating_add(1);
        }
    }

    pub(super) fn with_database(mut self, store: &Store, error: &Error) -> Self {
        let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
        let damage = Damage::Database { detail: format!("{error}{cause}") };
        self.push(Finding::new(store.root().join(DATABASE), damage, Hit::default()));
        self
    }
}

impl Finding {
    fn new(path: PathBuf, damage: Damage, hit: Hit) -> Self {
        let remedy = if damage.is_harmless() { Remedy::Harmless } else { Remedy::Stays { hint: String::new() } };
        Self { path, damage, snapshots: hit.snapshots, images: hit.images, remedy, tree: None, blob: None, amendment: None }
    }
}

impl Check<'_> {
    pub(super) fn outcome(&self) -> std::sync::MutexGuard<'_, super::CheckOutcome> {
        self.outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Of the store as a whole, below its directory.
    pub(super) fn tell(&self, path: impl AsRef<Path>, damage: Damage) {
        let finding = Finding::new(self.store.root().join(path), damage, Hit::default());
        self.outcome().push(finding);
    }

    pub(super) fn tell_of_row(&self, detail: impl Into<String>, amendment: Option<Amendment>) {
        let damage = Damage::Row { detail: detail.into() };
        let finding = Finding { amendment, ..Finding::new(self.store.root().join(DATABASE), damage, Hit::default()) };
        self.outcome().push(finding);
    }

    /// Of a tree, or of what is below it.
    pub(super) fn tell_of_tree(&self, tree: TreeId, below: impl AsRef<Path>, damage: Damage) -> crate::error::Result<()> {
        let reader = self.store.metadata().read()?;
        if matches!(reader.tree(tree), Ok(None)) {
            // It was removed while it was looked at.
            return Ok(());
        }
        let hit = reader.hit_by_tree(tree, NAMED)?;
        let place = self.store.root().join(crate::store::directories::TREES).join(tree.to_string());
        let path = if below.as_ref().as_os_str().is_empty() { place } else { place.join(below) };
        self.outcome().push(Finding { tree: Some(tree), ..Finding::new(path, damage, hit) });
        Ok(())
    }

    pub(super) fn tell_of_blob(&self, digest: &Digest, damage: Damage) -> crate::error::Result<()> {
        let reader = self.store.metadata().read()?;
        if matches!(reader.blob(digest), Ok(None)) {
            return Ok(());
        }
        let hit = reader.hit_by_blob(digest, NAMED)?;
        let path = self.store.root().join("blobs").join(digest.algorithm().as_str()).join(digest.to_hex());
        self.outcome().push(Finding { blob: Some(digest.clone()), ..Finding::new(path, damage, hit) });
        Ok(())
    }
}
