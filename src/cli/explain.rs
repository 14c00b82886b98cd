//! `explain`: which layer made a path.

use std::path::Path;

use serde_json::{Value, json};

use super::output::{self, Failure};
use super::read::{kind_and_mode, row};
use super::session::Session;
use super::snapshots::shown;
use crate::backend::Marker;
use crate::store::{Effect, LayerEffect};

/// `explain KEY PATH`
pub(super) fn explain(session: &Session<'_>, key: &str, path: &Path) -> Result<(), Failure> {
    let name = session.store.resolve(key)?;
    let (explained, _) = session.run("reading", None, |cx| session.store.explain(name.as_str(), path, cx))?;
    let layers: Vec<Value> = explained.layers.iter().map(document).collect();
    let document = json!({ "path": explained.path.to_string(), "exists": explained.exists, "layers": layers });
    let rows: Vec<_> = explained.layers.iter().map(line).collect();
    let text = output::table(&["SNAPSHOT", "EFFECT", "WHAT", "HIDDEN BY"], &rows);
    session.output.result(&document, text)
}

fn document(layer: &LayerEffect) -> Value {
    let (at, marker) = match &layer.effect {
        Effect::Deleted { at, marker } => (Some(at.to_string()), *marker),
        _ => (None, None),
    };
    json!({
        "snapshot": layer.snapshot,
        "diff_id": layer.diff_id,
        "effect": word(&layer.effect),
        "at": at,
        "marker": marker,
        "info": layer.info.as_ref().map(|info| row(None, info)),
        "hidden_by": layer.hidden_by,
    })
}

fn word(effect: &Effect) -> &'static str {
    match effect {
        Effect::Added => "added",
        Effect::Modified => "modified",
        Effect::Attributes => "attributes",
        Effect::Replaced => "replaced",
        Effect::Deleted { .. } => "deleted",
    }
}

fn line(layer: &LayerEffect) -> Vec<String> {
    let what = match (&layer.effect, &layer.info) {
        (Effect::Deleted { at, marker: Some(Marker::Whiteout) }, _) => format!("whiteout of {at}"),
        (Effect::Deleted { at, marker: Some(Marker::Opaque) }, _) => format!("opaque above {at}"),
        (Effect::Deleted { at, marker: None }, _) => format!("no {at}"),
        (_, Some(info)) => format!("{} {}:{} {} B", kind_and_mode(info), info.uid, info.gid, info.size),
        (_, None) => String::new(),
    };
    let hidden = layer.hidden_by.as_deref().map_or_else(|| "-".to_owned(), shown);
    vec![shown(&layer.snapshot), word(&layer.effect).to_owned(), what, hidden]
}
