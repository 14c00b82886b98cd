//! Snapshots: make, freeze, remove, look at; and collecting what nothing reaches.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::args::{Label, Prepare};
use super::mounts;
use super::output::{self, Failure};
use super::session::Session;
use crate::snapshot::{Info, Key, Kind, Name, Usage};
use crate::store::{CommitOptions, Filter, LabelUpdate, PrepareOptions};

/// `snapshots`: parents above their children.
pub(super) fn tree(session: &Session<'_>) -> Result<(), Failure> {
    let mut all = Vec::new();
    session.store.walk(&Filter::all(), |info| {
        all.push(info);
        Ok(())
    })?;
    session.output.result(&all, forest(&all))
}

/// One line per snapshot, indented below its parent.
fn forest(all: &[Info]) -> String {
    let mut children: BTreeMap<Option<&str>, Vec<&Info>> = BTreeMap::new();
    for info in all {
        children.entry(info.parent.as_deref()).or_default().push(info);
    }
    let mut rows = Vec::new();
    // Not by recursion: a chain may have hundreds of layers. The last pushed is shown first.
    let roots = children.get(&None).into_iter().flatten().rev();
    let mut todo: Vec<(&Info, String, &str, &str)> = roots.map(|root| (*root, String::new(), "", "")).collect();
    while let Some((info, indent, branch, below)) = todo.pop() {
        let name = format!("{indent}{branch}{}", shown(&info.name));
        rows.push(vec![name, info.kind.to_string(), output::time(info.created)]);
        let deeper = format!("{indent}{below}");
        let kids = children.get(&Some(info.name.as_str())).map(Vec::as_slice).unwrap_or_default();
        for (position, kid) in kids.iter().enumerate().rev() {
            let (branch, below) = if position + 1 == kids.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            todo.push((kid, deeper.clone(), branch, below));
        }
    }
    output::table(&["NAME", "KIND", "CREATED"], &rows)
}

/// A key or name for a terminal.
pub(super) fn shown(name: &str) -> String {
    name.escape_debug().to_string()
}

/// `stat KEY`
pub(super) fn stat(session: &Session<'_>, key: &str) -> Result<(), Failure> {
    let info = session.store.stat(session.store.resolve(key)?.as_str())?;
    session.output.result(&info, card(&info))
}

fn card(info: &Info) -> String {
    let mut rows = vec![
        vec!["name".to_owned(), shown(&info.name)],
        vec!["kind".to_owned(), info.kind.to_string()],
        vec!["parent".to_owned(), info.parent.as_deref().map_or_else(|| "-".to_owned(), shown)],
        vec!["diff id".to_owned(), info.diff_id.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)],
        vec!["created".to_owned(), output::time(info.created)],
        vec!["updated".to_owned(), output::time(info.updated)],
    ];
    rows.extend(info.labels.iter().map(|(name, value)| vec!["label".to_owned(), shown(&format!("{name}={value}"))]));
    output::rows(&rows)
}

/// `usage KEY`
pub(super) fn usage(session: &Session<'_>, key: &str) -> Result<(), Failure> {
    let Usage { inodes, bytes } = session.store.usage(session.store.resolve(key)?.as_str())?;
    session
        .output
        .result(&json!({ "inodes": inodes, "bytes": bytes }), format!("{inodes} inodes, {bytes} bytes ({})\n", output::size(bytes)))
}

/// `label KEY NAME=VALUE…`
pub(super) fn label(session: &Session<'_>, key: &str, labels: &[Label]) -> Result<(), Failure> {
    let mut update = LabelUpdate::keep();
    for Label { name, value } in labels {
        update = if value.is_empty() { update.remove(name) } else { update.set(name, value) };
    }
    let info = session.store.update(session.store.resolve(key)?.as_str(), &update)?;
    session.output.result(&info, card(&info))
}

/// `prepare KEY [PARENT] [--mount TARGET]`
pub(super) fn prepare(session: &Session<'_>, arguments: &Prepare) -> Result<(), Failure> {
    make(session, arguments, Kind::Active)
}

/// `view KEY [PARENT] [--mount TARGET]`
pub(super) fn view(session: &Session<'_>, arguments: &Prepare) -> Result<(), Failure> {
    make(session, arguments, Kind::View)
}

fn make(session: &Session<'_>, Prepare { key, parent, mount, options: how }: &Prepare, kind: Kind) -> Result<(), Failure> {
    let store = &session.store;
    let key = Key::new(key)?;
    let parent = parent.as_deref().map(|parent| store.resolve(parent)).transpose()?;
    let mut options = PrepareOptions::default();
    options.id_map.clone_from(&how.id_map);
    let what = match kind {
        Kind::View => store.view(&key, parent.as_ref(), &options)?,
        _ => store.prepare(&key, parent.as_ref(), &options)?,
    };
    if let Some(target) = mount
        && let Err(error) = mounts::attach(what, target, how)
    {
        // As if nothing had been asked for. What stood in the way of the mount is what the user wants to hear about.
        if let Err(left) = store.remove(key.as_str()) {
            tracing::debug!(%left, "the new snapshot stays");
        }
        return Err(error.into());
    }
    let mounted = mount.as_deref().map(Path::to_string_lossy);
    session.output.result(&json!({ "key": key, "kind": kind, "parent": parent, "mounted": mounted }), format!("{key}\n"))
}

/// `commit NAME KEY`
pub(super) fn commit(session: &Session<'_>, name: &str, key: &str) -> Result<(), Failure> {
    let info = session.store.commit(&Name::new(name)?, &Key::new(key)?, &CommitOptions::default())?;
    session.output.result(&info, format!("{}\n", shown(&info.name)))
}

/// `remove [--now] KEY…`
pub(super) fn remove(session: &Session<'_>, keys: &[String], now: bool) -> Result<(), Failure> {
    // All are there, or none goes.
    let removed = keys.iter().map(|key| session.store.resolve(key)).collect::<Result<Vec<Name>, _>>()?;
    removed.iter().try_for_each(|name| session.store.remove(name.as_str()))?;
    if now {
        session.run("deleting", None, |cx| session.store.empty_trash(cx))?;
    }
    session.output.result(&json!({ "removed": removed }), "")
}
