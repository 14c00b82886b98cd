//! What containerd wants of a snapshotter, as a plain trait, and a store as one.

use super::filter::Filters;
use super::names;
use crate::error::{Error, ErrorKind, Result};
use crate::mount::Mount;
use crate::progress::Context;
use crate::snapshot::{Info, Labels, Usage};
use crate::store::{CommitOptions, Filter, LabelUpdate, PrepareOptions, Store};

/// All labels of a snapshot, in bytes as they are sent: it is listed in one message, of which containerd takes 16 MiB. containerd itself
/// bounds each label (4 KiB) and not their number.
const LABELS_MAX: usize = 4 << 20;
/// What a label takes in a message beside its bytes, at most.
const LABEL_FRAME: usize = 16;
/// What containerd (2.3 and later) says of a layer that stands on another, also where it prepares it on nothing.
const PARENT_LABEL: &str = "containerd.io/snapshot/parent-chain-id";
/// What helps where a layer cannot be unpacked before its parent.
const NO_REBASE: &str = "leave `rebase` out of this proxy plugin's capabilities in containerd's configuration";

/// containerd's contract (`snapshots.Snapshotter`, `snapshots.Cleaner`). Keys, names and parents are containerd's own strings.
pub(super) trait Snapshotter: Send + Sync + 'static {
    /// Makes a writable snapshot, on a committed parent or on nothing.
    fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Mount>;

    /// Makes a read-only one.
    fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Mount>;

    /// What is to be mounted for one that is there.
    fn mounts(&self, key: &str) -> Result<Mount>;

    /// Freezes a writable one under a name. With a parent, one that was prepared on nothing is put on that.
    fn commit(&self, name: &str, key: &str, parent: Option<&str>, labels: Labels) -> Result<()>;

    /// Removes one that nothing stands on.
    fn remove(&self, key: &str) -> Result<()>;

    /// What is known of one.
    fn stat(&self, key: &str) -> Result<Info>;

    /// Changes labels by field paths; all of them without one.
    fn update(&self, key: &str, labels: &Labels, paths: &[String]) -> Result<Info>;

    /// All that one of the filters takes; all without filters. By name.
    fn list(&self, filters: &[String]) -> Result<Vec<Info>>;

    /// What one takes, without its parents.
    fn usage(&self, key: &str) -> Result<Usage>;

    /// Frees the space of what was removed.
    fn cleanup(&self) -> Result<()>;
}

impl Snapshotter for Store {
    fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Mount> {
        check_labels("prepare", key, &labels)?;
        if is_to_get_a_parent(parent, &labels) && !self.backend().shares_trees() {
            // Its commit would be refused, after all was fetched.
            let reason = format!("the {} backend unpacks a layer only onto its parent", self.backend().name());
            return Err(Error::new(ErrorKind::Unsupported, "prepare").at(key).because(reason).with_hint(NO_REBASE));
        }
        let parent = parent.map(names::name).transpose()?;
        self.prepare(&names::key(key)?, parent.as_ref(), &PrepareOptions::default().labels(labels))
    }

    fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Mount> {
        check_labels("view", key, &labels)?;
        let parent = parent.map(names::name).transpose()?;
        self.view(&names::key(key)?, parent.as_ref(), &PrepareOptions::default().labels(labels))
    }

    fn mounts(&self, key: &str) -> Result<Mount> {
        self.mounts(&names::stored(key)?)
    }

    fn commit(&self, name: &str, key: &str, parent: Option<&str>, labels: Labels) -> Result<()> {
        check_labels("commit", name, &labels)?;
        let mut options = CommitOptions::default().labels(labels);
        if let Some(parent) = parent {
            options = options.parent(names::name(parent)?);
        }
        self.commit(&names::name(name)?, &names::key(key)?, &options).map(drop).map_err(|error| match error.kind() {
            ErrorKind::Unsupported if !self.backend().shares_trees() => error.with_hint(NO_REBASE),
            _ => error,
        })
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.remove(&names::stored(key)?)
    }

    fn stat(&self, key: &str) -> Result<Info> {
        self.stat(&names::stored(key)?).map(shown)
    }

    fn update(&self, key: &str, labels: &Labels, paths: &[String]) -> Result<Info> {
        let update = LabelUpdate::from_field_paths(labels, paths.iter().map(String::as_str))?;
        let stored = names::stored(key)?;
        // Who adds at the same time gets past this by as much as he adds, and stays far below a message.
        let mut after = self.stat(&stored)?.labels;
        update.apply(&mut after);
        check_labels("update", key, &after)?;
        self.update(&stored, &update).map(shown)
    }

    fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        let filters = Filters::parse(filters)?;
        let mut taken = Vec::new();
        self.walk(&Filter::all().name_prefix(names::PREFIX), |info| {
            let info = shown(info);
            if filters.take(&info) {
                taken.push(info);
            }
            Ok(())
        })?;
        Ok(taken)
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        self.usage(&names::stored(key)?)
    }

    fn cleanup(&self) -> Result<()> {
        self.empty_trash(&Context::default()).map(drop)
    }
}

/// Whether a snapshot on nothing is a layer that is put onto another by its commit.
pub(super) fn is_to_get_a_parent(parent: Option<&str>, labels: &Labels) -> bool {
    parent.is_none() && labels.contains_key(PARENT_LABEL)
}

/// Refuses labels with which a snapshot could not be listed.
fn check_labels(op: &'static str, key: &str, labels: &Labels) -> Result<()> {
    let bytes = labels.iter().fold(0_usize, |bytes, (name, value)| {
        bytes.saturating_add(name.len()).saturating_add(value.len()).saturating_add(LABEL_FRAME)
    });
    if bytes > LABELS_MAX {
        let reason = format!("its labels take {bytes} bytes in a message, at most {LABELS_MAX} are taken");
        return Err(Error::new(ErrorKind::LimitExceeded, op).at(key).because(reason));
    }
    Ok(())
}

/// With the names that containerd knows. A parent of somebody else's, where he has prepared what is called as if it were containerd's,
/// keeps his.
fn shown(info: Info) -> Info {
    let ours = |name: String| names::shown(&name).map(str::to_owned).unwrap_or(name);
    Info { name: ours(info.name), parent: info.parent.map(ours), ..info }
}
