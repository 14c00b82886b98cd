//! Which of the images that a source offers is meant: by name, then by platform.
//!
//! Indexes may hold indexes; attestations and what is no image are passed over. An index is only ever read as an index, and what it
//! names only as what it calls it.

use std::collections::BTreeMap;

use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::store::image::document::{Index, Manifest, Reference, parse_json};
use crate::store::image::{ImageConfig, Platform};
use crate::store::intake::Intake;
use crate::store::source::Files;

const OP: &str = "import";

/// How deep indexes may lie in indexes, and how many there may be in all.
const DEPTH_MAX: usize = 8;
const INDEXES_MAX: usize = 256;

/// The one image that is meant.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// What the source named: an index or the manifest itself.
    pub(crate) target: Descriptor,
    pub(crate) manifest: Descriptor,
    pub(crate) config: ImageConfig,
    pub(crate) config_descriptor: Descriptor,
    /// Lowest first; as many as the config has diff ids.
    pub(crate) layers: Vec<Reference>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) platform: Platform,
    /// The references that the source gives it.
    pub(crate) references: Vec<String>,
    /// The indexes on the way to the manifest.
    pub(crate) indexes: Vec<Digest>,
}

/// What the caller wants to have.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// One image of several by its name.
    pub(crate) reference: Option<&'a str>,
    /// Whether the reference must be there, or only picks one where there are several.
    pub(crate) must_match: bool,
    /// Another platform than the host's.
    pub(crate) platform: Option<&'a Platform>,
}

/// A manifest that a source offers.
#[derive(Clone, Debug)]
struct Candidate {
    manifest: Reference,
    top: Reference,
    indexes: Vec<Digest>,
}

/// Chooses an image of an OCI layout whose `index.json` this is.
pub(crate) fn choose(files: &Files, index: &[u8], wanted: Wanted<'_>, intake: &mut Intake<'_>) -> Result<Chosen> {
    check_version(files)?;
    let index = Index::parse(index, None).map_err(|error| error.at(files.locate("index.json")))?;
    let named = by_name(index.manifests, wanted)?;
    let mut candidates = Vec::new();
    let mut seen = 0;
    for top in named {
        let mut indexes = Vec::new();
        collect(files, &top, &top, &mut indexes, &mut candidates, &mut seen, intake)?;
    }
    let candidate = by_platform(candidates, wanted.platform)?;
    load(files, candidate, wanted, intake)
}

fn check_version(files: &Files) -> Result<()> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    // Some writers leave the file out; nothing depends on it.
    let Some(bytes) = files.document("oci-layout")? else { return Ok(()) };
    let marker: Marker = parse_json("read oci-layout", &bytes)?;
    if marker.image_layout_version.split('.').next() == Some("1") {
        return Ok(());
    }
    let reason = format!("the layout has the version {}, only 1 is known", marker.image_layout_version.escape_debug());
    Err(Error::new(ErrorKind::Unsupported, "read oci-layout").because(reason))
}

/// The entries of the image that is meant: one, or one for each platform.
fn by_name(entries: Vec<Reference>, wanted: Wanted<'_>) -> Result<Vec<Reference>> {
    let mut entries: Vec<Reference> = entries.into_iter().filter(|entry| !entry.is_attestation()).collect();
    let mut names: Vec<String> = entries.iter().filter_map(|entry| entry.names().first().map(|name| (*name).to_owned())).collect();
    names.sort();
    names.dedup();
    let listed = || match names.as_slice() {
        [] => "none of them has a name".to_owned(),
        names => format!("it holds {}", names.iter().map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ")),
    };
    if let Some(reference) = wanted.reference {
        if entries.iter().any(|entry| entry.names().contains(&reference)) {
            entries.retain(|entry| entry.names().contains(&reference));
            return Ok(entries);
        }
        if wanted.must_match {
            let reason = format!("the source holds no image of this name; {}", listed());
            return Err(Error::new(ErrorKind::NotFound, OP).at(reference).because(reason));
        }
    }
    if names.len() > 1 {
        return Err(Error::new(ErrorKind::InvalidArgument, OP)
            .because(format!("the source holds several images: {}", listed()))
            .with_hint("name the one that is meant: oci:PATH:NAME, or --ref NAME"));
    }
    Ok(entries)
}

fn collect(
    files: &Files,
    entry: &Reference,
    top: &Reference,
    indexes: &mut Vec<Digest>,
    candidates: &mut Vec<Candidate>,
    seen: &mut usize,
    intake: &mut Intake<'_>,
) -> Result<()> {
    let media_type = &entry.descriptor.media_type;
    if entry.is_attestation() {
        return Ok(());
    }
    if media_type.is_manifest() {
        candidates.push(Candidate { manifest: entry.clone(), top: top.clone(), indexes: indexes.clone() });
        return Ok(());
    }
    if !media_type.is_index() {
        // The specification has unknown types ignored. A candidate of that type says it, if it was the only one.
        tracing::debug!(%media_type, "passed over");
        return Ok(());
    }
    *seen = seen.saturating_add(1);
    if indexes.len() >= DEPTH_MAX || *seen > INDEXES_MAX {
        return Err(Error::new(ErrorKind::LimitExceeded, OP)
            .at(entry.descriptor.digest.to_string())
            .because(format!("indexes lie more than {DEPTH_MAX} deep, or there are more than {INDEXES_MAX}")));
    }
    let bytes = files.small_blob(intake, entry)?;
    let digest = &entry.descriptor.digest;
    let index = Index::parse(&bytes, Some(media_type)).map_err(|error| error.at(digest.to_string()))?;
    indexes.push(digest.clone());
    for entry in &index.manifests {
        collect(files, entry, top, indexes, candidates, seen, intake)?;
    }
    indexes.pop();
    Ok(())
}

/// The manifest for a platform in an index: the host's by default.
pub(crate) fn in_index(index: &Index, wanted: Option<&Platform>) -> Result<Reference> {
    let manifests = index.manifests.iter().filter(|entry| entry.descriptor.media_type.is_manifest() && !entry.is_attestation());
    let candidates = manifests.map(|entry| Candidate { manifest: entry.clone(), top: entry.clone(), indexes: Vec::new() });
    by_platform(candidates.collect(), wanted).map(|candidate| candidate.manifest)
}

fn by_platform(candidates: Vec<Candidate>, wanted: Option<&Platform>) -> Result<Candidate> {
    let host = Platform::host();
    let target = wanted.unwrap_or(&host);
    let mut offered: Vec<String> =
        candidates.iter().filter_map(|candidate| candidate.manifest.platform.as_ref()).map(Platform::to_string).collect();
    offered.sort();
    offered.dedup();
    let count = candidates.len();
    // One manifest without a platform is the image, whatever its config says; `load` looks if a platform was named.
    let best = candidates
        .into_iter()
        .filter_map(|candidate| {
            let rank = match &candidate.manifest.platform {
                Some(platform) => target.rank(platform)?,
                None => u32::MAX,
            };
            Some((rank, candidate))
        })
        .min_by_key(|(rank, _)| *rank);
    match best {
        Some((_, candidate)) => Ok(candidate),
        None if count == 0 => Err(Error::new(ErrorKind::NotFound, OP).because("the source holds no image")),
        None => Err(no_platform(target, &offered.join(", "))),
    }
}

fn no_platform(wanted: &Platform, offered: &str) -> Error {
    Error::new(ErrorKind::NotFound, OP)
        .because(format!("there is no image for {wanted}; there are: {offered}"))
        .with_hint("name one of them with --platform")
}

/// Reads the manifest and the config, and compares what they say of the layers.
fn load(files: &Files, candidate: Candidate, wanted: Wanted<'_>, intake: &mut Intake<'_>) -> Result<Chosen> {
    let Candidate { manifest: reference, top, indexes } = candidate;
    let bytes = files.small_blob(intake, &reference)?;
    let descriptor = reference.descriptor;
    let manifest = Manifest::parse(&bytes, &descriptor.media_type).map_err(|error| error.at(descriptor.digest.to_string()))?;
    let config = ImageConfig::parse(files.small_blob(intake, &manifest.config)?)
        .map_err(|error| error.at(manifest.config.descriptor.digest.to_string()))?;
    check_layers(manifest.layers.len(), &config)?;
    let platform = config.platform().cloned().or(reference.platform).unwrap_or_else(Platform::unknown);
    if let Some(wanted) = wanted.platform
        && wanted.rank(&platform).is_none()
    {
        return Err(no_platform(wanted, &platform.to_string()));
    }
    Ok(Chosen {
        // The tag alone says less of the same.
        references: top.names().into_iter().take(1).map(str::to_owned).collect(),
        target: top.descriptor,
        manifest: descriptor,
        config,
        config_descriptor: manifest.config.descriptor,
        layers: manifest.layers,
        annotations: manifest.annotations,
        platform,
        indexes,
    })
}

/// A layer without a diff id could not be checked, and a diff id without a layer not be kept.
pub(crate) fn check_layers(layers: usize, config: &ImageConfig) -> Result<()> {
    let diff_ids = config.diff_ids().len();
    if layers == diff_ids {
        return Ok(());
    }
    let reason = format!("the manifest has {layers} layers, and the config {diff_ids} diff ids");
    Err(Error::new(ErrorKind::InvalidLayer, OP).because(reason))
}
