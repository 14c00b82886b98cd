//! Every tree against its layer's own stream, several at once.
//!
//! An overlay tree rests on facts, so each is compared by itself. A copy tree is the fold of its chain's streams: the outline of a
//! parent is kept until those of its children are made over it. Of a copy tree that is not made yet there is nothing but the outline: that
//! its blob gives it is what makes it sound.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::parallel::in_parallel;
use super::structure::{is_damage, is_proven, reason};
use super::{Check, Damage, OP, Seen};
use crate::backend::{Contents, Difference, Fault, Reference};
use crate::content::Blob;
use crate::digest::DiffId;
use crate::entry::EntryStream;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{SnapshotRow, Survives, TreeRow, TreeState};
use crate::parallel::{Crew, Parallelism};
use crate::progress::Context;
use crate::store::layer::diff_id_of;
use crate::store::layer_reader::LayerReader;
use crate::store::make::without_limits;
use crate::store::supply::Supply;
use crate::store::tree_manifest::ManifestReader;
use crate::store::{DiffOptions, Store};
use crate::tree::{Answer, Applied, Fact, Question, TreeId};

/// How many paths of one tree are told one by one.
const TOLD: usize = 1000;

/// What a container sees of a tree.
const FS: &str = "fs";

/// A tree that is to be compared.
struct Job {
    row: TreeRow,
    diff_id: DiffId,
    /// The trees below it, topmost first.
    chain: Vec<TreeId>,
    below: Option<Arc<Outlined>>,
}

/// An outline that is there for the comparison alone.
pub(super) struct Outlined {
    store: Store,
    tree: TreeId,
    contents: Arc<Contents>,
}

impl Drop for Outlined {
    fn drop(&mut self) {
        self.store.abandon_tree(self.tree);
    }
}

/// What comparing came to.
enum Verdict {
    /// No blob gave the layer.
    Unproven,
    Compared {
        applied: Applied,
        differences: Vec<Difference>,
        /// How many more there were.
        more: u64,
        outline: Option<Outlined>,
    },
    /// The row's facts cannot be true.
    BadFacts(String),
    /// There is no tree.
    Gone,
}

#[derive(Default)]
struct Compared {
    damaged: BTreeMap<TreeId, String>,
    whole: Vec<TreeId>,
    unproven: u64,
}

impl Compared {
    fn not_proven(&mut self) {
        self.unproven = self.unproven.saturating_add(1);
    }
}

impl Check<'_> {
    /// Compares every tree for which there is something to compare it with.
    pub(super) fn compare_trees(&self, seen: &mut Seen) -> Result<()> {
        let shares = self.store.backend().shares_trees();
        let (mut jobs, mut unproven) = self.jobs()?;
        // There is nothing to make it of.
        jobs.retain(|job| job.row.state != TreeState::Unmade || !seen.damaged_trees.contains_key(&job.row.id));
        if self.store.read_only_reason().is_some() {
            // There is no place for outlines.
            unproven = unproven.saturating_add(jobs.len() as u64);
            jobs.clear();
        }
        let mut children: BTreeMap<TreeId, Vec<Job>> = BTreeMap::new();
        let mut first = Vec::new();
        let known: BTreeSet<TreeId> = jobs.iter().map(|job| job.row.id).collect();
        let mut cut_off = 0u64;
        for job in jobs {
            match job.chain.first().copied().filter(|_| !shares) {
                Some(below) if known.contains(&below) => children.entry(below).or_default().push(job),
                // What it is a copy of has nothing to be compared with.
                Some(_) => cut_off = cut_off.saturating_add(1),
                None => first.push(job),
            }
        }
        let children = Mutex::new(children);
        let compared = Mutex::new(Compared { unproven: cut_off.saturating_add(unproven), ..Compared::default() });
        in_parallel(self.options.workers(), first, |job, more| {
            let outline = self.compare(&job, &compared)?.map(Arc::new);
            let next = children.lock().unwrap_or_else(PoisonError::into_inner).remove(&job.row.id).unwrap_or_default();
            for child in next {
                match &outline {
                    Some(outline) => more(Job { below: Some(Arc::clone(outline)), ..child }),
                    None => compared.lock().unwrap_or_else(PoisonError::into_inner).not_proven(),
                }
            }
            Ok(())
        })?;
        let left: usize = children.into_inner().unwrap_or_else(PoisonError::into_inner).values().map(Vec::len).sum();
        let compared = compared.into_inner().unwrap_or_else(PoisonError::into_inner);
        {
            let mut outcome = self.outcome();
            outcome.compared = compared.whole.len().saturating_add(compared.damaged.len()) as u64;
            outcome.unproven = compared.unproven.saturating_add(left as u64);
        }
        seen.damaged_trees.extend(compared.damaged);
        seen.whole_trees.extend(compared.whole.into_iter().filter(|tree| !seen.damaged_trees.contains_key(tree)));
        self.facts_hold(seen)?;
        self.containers(seen)
    }

    /// Committed containers, which no layer was unpacked to: one that was diffed gives the same layer again.
    fn containers(&self, seen: &mut Seen) -> Result<()> {
        let rows: Vec<(SnapshotRow, Vec<TreeId>)> = {
            let reader = self.store.metadata().read()?;
            let names: Vec<String> = reader.all_snapshots()?.into_iter().map(|(name, _)| name).collect();
            let rows = names.iter().filter_map(|name| reader.snapshot(name).ok().flatten());
            let diffed = rows.filter(|row| row.diff_id.is_some() && row.tree_state == TreeState::Frozen);
            let is_containers = |row: &SnapshotRow| matches!(reader.tree(row.tree), Ok(Some(tree)) if tree.diff_id.is_none());
            // Under a name and under a chain id it is the same tree.
            let by_tree: BTreeMap<TreeId, SnapshotRow> = diffed.filter(is_containers).map(|row| (row.tree, row)).collect();
            by_tree
                .into_values()
                .map(|row| Ok((reader.chain(row.id)?, row)).map(|(chain, row)| (row, chain)))
                .collect::<Result<_>>()?
        };
        let rows = rows.into_iter().filter(|(_, chain)| !chain.iter().any(|tree| seen.damaged_trees.contains_key(tree))).collect();
        let found = Mutex::new(Vec::new());
        in_parallel(self.options.workers(), rows, |(row, _): (SnapshotRow, _), _| {
            self.cx.check(OP)?;
            let quiet = Context::new(self.cx.progress());
            let wrong = match self.store.diff_as_it_is(&row.name, std::io::sink(), &DiffOptions::default(), &quiet) {
                Ok(outcome) if Some(&outcome.diff_id) == row.diff_id.as_ref() => None,
                Ok(outcome) => Some(Damage::Changed {
                    expected: row.diff_id.as_ref().map(ToString::to_string).unwrap_or_default(),
                    found: outcome.diff_id.to_string(),
                }),
                // It was removed meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) if is_damage(&error) => Some(Damage::Tree(Fault::Unreadable { error: error.to_string() })),
                Err(error) => return Err(error),
            };
            found.lock().unwrap_or_else(PoisonError::into_inner).push((row.tree, wrong));
            Ok(())
        })?;
        for (tree, wrong) in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
            {
                let mut outcome = self.outcome();
                outcome.compared = outcome.compared.saturating_add(1);
                outcome.unproven = outcome.unproven.saturating_sub(1);
            }
            match wrong {
                None => seen.whole_trees.push(tree),
                Some(damage) => {
                    seen.damaged_trees.insert(tree, damage.to_string());
                    self.tell_of_tree(tree, "", damage)?;
                }
            }
        }
        Ok(())
    }

    /// Every tree that was unpacked from a layer, and how many finished trees were not.
    fn jobs(&self) -> Result<(Vec<Job>, u64)> {
        let reader = self.store.metadata().read()?;
        let mut jobs = Vec::new();
        let mut unproven = 0;
        for (tree, row) in reader.all_trees()? {
            // A row that cannot be read was told of.
            let Ok(row) = row else { continue };
            if !matches!(row.state, TreeState::Frozen | TreeState::Unmade) {
                continue;
            }
            let standing: Vec<SnapshotRow> = match reader.snapshots_on(tree) {
                Ok(rows) => rows,
                Err(error) if error.kind() == ErrorKind::Corrupt => continue,
                Err(error) => return Err(error),
            };
            if row.diff_id.is_none() {
                // A container's, also where it got a chain id: the kernel made it, on what lay below and not on facts.
                unproven = u64::saturating_add(unproven, 1);
                continue;
            }
            let layer = standing.into_iter().find(is_proven).and_then(|row| Some((row.parent, row.diff_id?)));
            let Some((parent, diff_id)) = layer else { continue };
            let chain = parent.map_or(Ok(Vec::new()), |parent| reader.chain(parent))?;
            jobs.push(Job { row, diff_id, chain, below: None });
        }
        Ok((jobs, unproven))
    }

    /// Compares one tree, and gives its outline, where others stand on that.
    fn compare(&self, job: &Job, compared: &Mutex<Compared>) -> Result<Option<Outlined>> {
        self.cx.check(OP)?;
        let tree = job.row.id;
        let lock = || compared.lock().unwrap_or_else(PoisonError::into_inner);
        let damaged = |damage: Damage| {
            let told = damage.to_string();
            self.tell_of_tree(tree, "", damage)?;
            lock().damaged.insert(tree, told);
            Ok(None)
        };
        match self.verdict(job)? {
            Verdict::Unproven if job.row.state == TreeState::Unmade => damaged(Damage::NoLayer),
            Verdict::Unproven => {
                lock().not_proven();
                Ok(None)
            }
            Verdict::Gone => {
                lock().damaged.insert(tree, "it is missing".to_owned());
                Ok(None)
            }
            Verdict::BadFacts(detail) => damaged(Damage::Facts { detail }),
            Verdict::Compared { mut applied, differences, more, outline } => {
                // A whole tree is right if it is its parent's, too: a marker that hides nothing is a change in one form and none in the other.
                applied.empty &= self.store.backend().shares_trees();
                let wrong = wrong_row(&job.row, &applied);
                let first = differences.first().map(|first| format!("{}: {}", first.path, first.fault));
                for Difference { path, fault } in differences {
                    let below = if path.is_root() { PathBuf::from(FS) } else { PathBuf::from(FS).join(path.as_path()) };
                    self.tell_of_tree(tree, below, Damage::Tree(fault))?;
                }
                if more > 0 {
                    self.tell_of_tree(tree, FS, Damage::Many { more })?;
                }
                if let Some(detail) = &wrong {
                    self.tell_of_tree(tree, "", Damage::Facts { detail: detail.clone() })?;
                }
                match first.or(wrong) {
                    Some(reason) => drop(lock().damaged.insert(tree, reason)),
                    None => lock().whole.push(tree),
                }
                Ok(outline)
            }
        }
    }

    fn verdict(&self, job: &Job) -> Result<Verdict> {
        let kept = self.store.metadata().read()?.blobs_of(&job.diff_id)?;
        for row in kept {
            let blob = match self.store.content().blob(&row.digest) {
                Ok(Some(blob)) => blob,
                Ok(None) => continue,
                Err(error) if is_damage(&error) => continue,
                Err(error) => return Err(error),
            };
            match self.compare_with(job, &blob)? {
                Verdict::Unproven => {}
                verdict => return Ok(verdict),
            }
        }
        match job.row.state {
            // A list of what it holds makes no tree.
            TreeState::Unmade => Ok(Verdict::Unproven),
            _ => self.compare_with_manifest(job),
        }
    }

    /// Of a layer whose blob was dropped there is a list.
    fn compare_with_manifest(&self, job: &Job) -> Result<Verdict> {
        let Some(row) = self.store.metadata().read()?.tree_manifest_of(&job.diff_id)? else { return Ok(Verdict::Unproven) };
        let Some(blob) = self.store.content().blob(&row.digest)? else { return Ok(Verdict::Unproven) };
        let mut manifest = match ManifestReader::open(&blob) {
            Ok(manifest) if *manifest.diff_id() == job.diff_id => manifest,
            Ok(_) => return Ok(Verdict::Unproven),
            // Told of as a damaged blob.
            Err(error) if is_of_stream(&error) => return Ok(Verdict::Unproven),
            Err(error) => return Err(error),
        };
        match self.compare_stream(job, &mut manifest)? {
            Ok(verdict) => Ok(verdict),
            // The manifest could be read just now.
            Err(error) if is_of_disk(&error) => Err(error),
            // It is the layer's, so the facts are not those that it can be applied with.
            Err(error) => Ok(Verdict::BadFacts(reason(&error))),
        }
    }

    fn compare_with(&self, job: &Job, blob: &Blob) -> Result<Verdict> {
        let quiet = Context::new(self.cx.progress());
        // The check has threads of its own.
        let (supply, crew) = (Supply::stored(blob.clone()), Crew::new(Parallelism::ONE));
        let mut layer = match LayerReader::open(&supply, None, job.diff_id.0.algorithm(), without_limits(), &crew, &quiet) {
            Ok(layer) => layer,
            Err(error) if is_of_stream(&error) => return Ok(Verdict::Unproven),
            Err(error) => return Err(error),
        };
        let verdict = match self.compare_stream(job, &mut layer)? {
            Ok(verdict) => verdict,
            // Either the bytes are not the layer, or they are, and the facts are not those that it can be applied with.
            Err(error) => {
                let is_layer = gives(blob, &job.diff_id, &quiet);
                if is_layer && is_of_disk(&error) {
                    // Nothing is wrong with what was to be checked: the outline could not be made.
                    return Err(error);
                }
                return Ok(if is_layer { Verdict::BadFacts(reason(&error)) } else { Verdict::Unproven });
            }
        };
        // What was compared with something else than the layer says nothing.
        let is_compared = matches!(verdict, Verdict::Compared { .. });
        Ok(if is_compared && layer.diff_id()? != job.diff_id { Verdict::Unproven } else { verdict })
    }

    /// Compares a tree with a stream; the inner error is one of the stream.
    fn compare_stream(&self, job: &Job, layer: &mut dyn EntryStream) -> Result<Result<Verdict>> {
        let backend = self.store.backend();
        let quiet = Context::new(self.cx.progress());
        let mut contents = job.below.as_ref().map_or_else(Contents::default, |below| Contents::over(Arc::clone(&below.contents)));
        let tree = self.store.allocate_tree(Survives::PowerCut)?;
        let mut outline = Outlined { store: self.store.clone(), tree, contents: Arc::default() };
        let (mut differences, mut more) = (Vec::new(), 0u64);
        let reference = Reference {
            outline: outline.tree,
            below: job.below.as_ref().map(|below| below.tree),
            facts: &job.row.facts,
            layer,
            ids: job.row.ids.unwrap_or_default(),
            contents: &mut contents,
        };
        let mut found = |difference| {
            if differences.len() < TOLD {
                differences.push(difference);
            } else {
                more = more.saturating_add(1);
            }
        };
        let made = match job.row.state {
            TreeState::Unmade => backend.outline(reference, &quiet),
            _ => backend.verify(job.row.id, reference, &mut found, &quiet),
        };
        let applied = match made {
            Ok(applied) => applied,
            Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(Ok(Verdict::Unproven)),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Ok(Verdict::Gone)),
            Err(error) if error.kind() == ErrorKind::Corrupt && error.op() == "check tree" => {
                return Ok(Ok(Verdict::BadFacts(reason(&error))));
            }
            Err(error) if is_of_stream(&error) => return Ok(Err(error)),
            Err(error) => return Err(error),
        };
        outline.contents = Arc::new(contents);
        let outline = (!backend.shares_trees()).then_some(outline);
        Ok(Ok(Verdict::Compared { applied, differences, more, outline }))
    }

    /// Whether the layers below still say what trees rest on. Only of those below which all is whole: what is damaged there speaks
    /// for itself.
    fn facts_hold(&self, seen: &mut Seen) -> Result<()> {
        let (jobs, _) = self.jobs()?;
        let jobs = jobs
            .into_iter()
            .filter(|job| !job.row.facts.is_empty() && !seen.damaged_trees.contains_key(&job.row.id))
            .filter(|job| !job.chain.iter().any(|tree| seen.damaged_trees.contains_key(tree)))
            .collect();
        let wrong = Mutex::new(Vec::new());
        in_parallel(self.options.workers(), jobs, |job: Job, _| {
            self.cx.check(OP)?;
            let questions: Vec<Question> = job.row.facts.iter().map(|fact| fact.question.clone()).collect();
            let answers = self.store.backend().answer(&job.chain, &questions)?;
            if let Some((fact, _)) = job.row.facts.iter().zip(&answers).find(|(fact, answer)| fact.answer != **answer) {
                let detail = format!("the layers below say something else of {}", fact.question.path);
                self.tell_of_tree(job.row.id, "", Damage::Facts { detail: detail.clone() })?;
                wrong.lock().unwrap_or_else(PoisonError::into_inner).push((job.row.id, detail));
            }
            Ok(())
        })?;
        for (tree, detail) in wrong.into_inner().unwrap_or_else(PoisonError::into_inner) {
            seen.whole_trees.retain(|whole| *whole != tree);
            seen.damaged_trees.insert(tree, detail);
        }
        Ok(())
    }
}

/// What of a tree's row is not what its layer comes to.
fn wrong_row(row: &TreeRow, applied: &Applied) -> Option<String> {
    let same = |one: &Fact, other: &Fact| {
        one.question == other.question
            && (one.answer == other.answer
                || matches!((&one.answer, &other.answer), (Answer::Other(Some(_)), Answer::Other(Some(_)))))
    };
    if row.facts.len() != applied.facts.len() || !row.facts.iter().zip(&applied.facts).all(|(one, other)| same(one, other)) {
        return Some("it rests on other facts".to_owned());
    }
    if row.cut != applied.cut {
        return Some(format!("it {} what is below", if applied.cut { "hides" } else { "does not hide" }));
    }
    if row.root != applied.root {
        return Some("the root directory is another".to_owned());
    }
    (row.state == TreeState::Empty).ne(&applied.empty).then(|| "whether the layer changes anything".to_owned())
}

/// Whether an error is one of bytes that are not the layer's.
pub(super) fn is_of_stream(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidLayer | ErrorKind::DigestMismatch | ErrorKind::LimitExceeded | ErrorKind::Corrupt)
        || is_of_disk(error)
}

fn is_of_disk(error: &Error) -> bool {
    error.raw_os_error() == Some(libc::EIO)
}

/// Whether a blob decompresses to a layer.
pub(super) fn gives(blob: &Blob, diff_id: &DiffId, cx: &Context<'_>) -> bool {
    let (supply, crew) = (Supply::stored(blob.clone()), Crew::new(Parallelism::ONE));
    diff_id_of(&supply, diff_id.0.algorithm(), &without_limits(), &crew, cx).is_ok_and(|found| found == *diff_id)
}
