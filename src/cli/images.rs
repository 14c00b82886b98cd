//! Images and layers: in, out, and by which references.

use std::fs::File;
use std::path::Path;

use serde_json::json;

use super::args::{Export, Import, LayerImport};
use super::limits;
use super::output::{self, Failure};
use super::session::{Session, source_date_epoch};
use crate::entry::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::store::{BlobPolicy, ExportOptions, Image, ImageSource, ImportLayerOptions, ImportOptions, LayerSource};

/// `import SOURCE [--ref NAME] [--platform os/arch[/variant]] [--drop-blobs] [--limit NAME=VALUE]…`
pub(super) fn import(session: &Session<'_>, arguments: Import) -> Result<(), Failure> {
    let source = match arguments.source.as_str() {
        "-" => ImageSource::reader(std::io::stdin()),
        text => ImageSource::parse(text)?,
    };
    let blobs = arguments.drop_blobs.then_some(BlobPolicy::Drop);
    let options = ImportOptions {
        reference: arguments.reference,
        platform: arguments.platform,
        limits: limits::together(&arguments.limits),
        blobs,
    };
    let (imported, _) = session.run("importing", None, |cx| session.store.import(source, &options, cx))?;
    session.output.report(&imported.report);
    let image = &imported.image;
    let chain_id = image.chain_id.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    session.output.remark(format!(
        "plywood: {} for {}, {}, {} of them unpacked now",
        imported.references.join(", "),
        image.platform,
        output::count(image.layers.len(), "layer"),
        imported.unpacked
    ));
    for digest in &imported.lacking {
        session.output.remark(format!("plywood: the blob {digest} is not there; its layer is, and an export makes it anew"));
    }
    let document = json!({
        "references": imported.references,
        "chain_id": image.chain_id,
        "platform": image.platform,
        "manifest": image.manifest,
        "layers": image.layers,
        "unpacked": imported.unpacked,
        "lacking": imported.lacking,
        "report": imported.report,
    });
    session.output.result(&document, format!("{chain_id}\n"))
}

/// `layer import TAR [--parent NAME] [--diff-id DIGEST] [--lease NAME] [--strict] [--limit NAME=VALUE]…`
pub(super) fn import_layer(session: &Session<'_>, arguments: LayerImport) -> Result<(), Failure> {
    let store = &session.store;
    let parent = arguments.parent.map(|parent| store.resolve(&parent)).transpose()?;
    let options = ImportLayerOptions {
        parent: parent.map(|name| name.as_str().to_owned()),
        diff_id: arguments.diff_id,
        limits: limits::together(&arguments.limits),
        lease: arguments.lease,
        ..Default::default()
    };
    let (source, size) = if arguments.tar == Path::new("-") {
        (LayerSource::reader(std::io::stdin()), None)
    } else {
        let fail = |error| Error::io("open", error).at(&arguments.tar);
        let file = File::open(&arguments.tar).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if metadata.is_dir() {
            let error =
                Error::new(ErrorKind::InvalidArgument, "import layer").at(&arguments.tar).because("it is a directory, not a tar");
            return Err(error.with_hint("an image layout is imported with `plywood import`").into());
        }
        (LayerSource::reader(file), Some(metadata.len()))
    };
    let (layer, _) = session.watched("importing", size, arguments.strict, |cx| store.import_layer(source, &options, cx))?;
    session.output.report(&layer.report);
    let document = json!({
        "chain_id": layer.chain_id,
        "diff_id": layer.diff_id,
        "parent": options.parent,
        "existed": layer.existed,
        "report": layer.report,
    });
    session.output.result(&document, format!("{}\n", layer.chain_id))
}

/// `images`
pub(super) fn list(session: &Session<'_>) -> Result<(), Failure> {
    let images = session.store.images()?;
    let rows: Vec<Vec<String>> = images
        .iter()
        .map(|image| {
            let stored: u64 = image.layers.iter().map(|layer| layer.descriptor.size).sum();
            vec![
                image.reference.clone(),
                image.platform.to_string(),
                image.layers.len().to_string(),
                output::size(stored),
                image.chain_id.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            ]
        })
        .collect();
    session.output.result(&images, output::table(&["REFERENCE", "PLATFORM", "LAYERS", "SIZE", "CHAIN ID"], &rows))
}

/// `image inspect REF`
pub(super) fn inspect(session: &Session<'_>, reference: &str) -> Result<(), Failure> {
    let image = session.store.image(reference)?;
    session.output.result(&image, card(&image))
}

fn card(image: &Image) -> String {
    let config = &image.config;
    let list = |words: &[String]| if words.is_empty() { "-".to_owned() } else { format!("{words:?}") };
    let word = |text: &str| if text.is_empty() { "-".to_owned() } else { text.escape_debug().to_string() };
    let mut rows = vec![
        vec!["reference".to_owned(), image.reference.clone()],
        vec!["platform".to_owned(), image.platform.to_string()],
        vec!["manifest".to_owned(), image.manifest.digest.to_string()],
        vec!["chain id".to_owned(), image.chain_id.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)],
        vec!["created".to_owned(), word(config.created().unwrap_or_default())],
        vec!["entrypoint".to_owned(), list(config.entrypoint())],
        vec!["cmd".to_owned(), list(config.cmd())],
        vec!["user".to_owned(), word(config.user())],
        vec!["workdir".to_owned(), word(config.working_dir())],
    ];
    rows.extend(config.env().iter().map(|variable| vec!["env".to_owned(), word(variable)]));
    rows.extend(config.labels().map(|(name, value)| vec!["label".to_owned(), word(&format!("{name}={value}"))]));
    rows.extend(
        image
            .layers
            .iter()
            .map(|layer| vec!["layer".to_owned(), format!("{}  {}", layer.descriptor.digest, output::size(layer.descriptor.size))]),
    );
    output::rows(&rows)
}

/// `image tag REF NEW`
pub(super) fn tag(session: &Session<'_>, source: &str, reference: &str) -> Result<(), Failure> {
    session.store.tag(source, reference)?;
    let image = session.store.image(reference)?;
    session.output.result(&image, format!("{}\n", image.reference))
}

/// `image rm REF…`, `rmi REF…`
pub(super) fn remove(session: &Session<'_>, references: &[String]) -> Result<(), Failure> {
    // All are there, or none goes.
    references.iter().try_for_each(|reference| session.store.image(reference).map(drop))?;
    references.iter().try_for_each(|reference| session.store.untag(reference))?;
    session.output.result(&json!({ "removed": references }), "")
}

/// `export NAME|REF DIR [--ref NAME]`
pub(super) fn export(session: &Session<'_>, arguments: Export) -> Result<(), Failure> {
    let mut options = ExportOptions { reference: arguments.reference, ..Default::default() };
    if let Some(seconds) = source_date_epoch()? {
        options.created = Some(Timestamp::from_seconds(seconds));
        options.clamp_mtime = Some(seconds);
    }
    let store = &session.store;
    let (exported, _) = session.run("exporting", None, |cx| store.export(&arguments.source, &arguments.dir, &options, cx))?;
    session.output.report(&exported.report);
    if exported.base.is_none() {
        session
            .output
            .remark("plywood: no image stands below it, or none has a reference any more: no environment, command or user is set");
    }
    if !exported.remade.is_empty() {
        session.output.remark(format!(
            "plywood: {} made anew, because {} dropped after the import: this is not the manifest that was imported",
            match exported.remade.len() {
                1 => "1 layer was".to_owned(),
                many => format!("{many} layers were"),
            },
            if exported.remade.len() == 1 { "its blob was" } else { "their blobs were" },
        ));
    }
    let document = json!({
        "reference": exported.reference,
        "manifest": exported.manifest,
        "config": exported.config,
        "base": exported.base,
        "layers": exported.layers,
        "remade": exported.remade,
        "report": exported.report,
    });
    session.output.result(&document, format!("{}\n", exported.manifest.digest))
}
