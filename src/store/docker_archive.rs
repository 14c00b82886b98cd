//! `docker save`: a `manifest.json` that lists configs and layers by the names of files.
//!
//! Docker writes no OCI manifest into the old form, so one is made: the same archive gives the same manifest, byte for byte. The config
//! is kept as it is, the layers as they lie in the archive.

use serde::Deserialize;

use crate::compression::{Compression, Decoder};
use crate::content::Expected;
use crate::descriptor::{Descriptor, MediaType};
use crate::digest::{Algorithm, DiffId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::image::document::{DOCUMENT_MAX, Reference, layer_type, new_manifest, parse_json};
use crate::store::image::{ImageConfig, Platform};
use crate::store::intake::Intake;
use crate::store::select::{Chosen, Wanted, check_layers};
use crate::store::source::Files;

const OP: &str = "import docker archive";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// Chooses an image of a docker archive whose `manifest.json` this is.
pub(crate) fn choose(files: &Files, list: &[u8], wanted: Wanted<'_>, intake: &mut Intake<'_>) -> Result<Chosen> {
    let saved: Vec<Saved> = parse_json(OP, list).map_err(|error| error.at(files.locate("manifest.json")))?;
    let saved = by_name(saved, wanted)?;
    let missing = |name: &str| Error::new(ErrorKind::NotFound, OP).at(name).because("the archive does not hold this file");

    let config_blob = files.file(intake, &saved.config, MediaType::CONFIG)?.ok_or_else(|| missing(&saved.config))?;
    let config = ImageConfig::parse(config_blob.read_to_vec(DOCUMENT_MAX)?).map_err(|error| error.at(&saved.config))?;
    let names = saved.layers.unwrap_or_default();
    check_layers(names.len(), &config)?;
    let platform = config.platform().cloned().unwrap_or_else(Platform::unknown);
    if let Some(wanted) = wanted.platform
        && wanted.rank(&platform).is_none()
    {
        let reason = format!("there is no image for {wanted}; there is one for {platform}");
        return Err(Error::new(ErrorKind::NotFound, OP).because(reason));
    }

    let mut layers = Vec::new();
    for (name, diff_id) in names.iter().zip(config.diff_ids()) {
        if let Some(layer) = in_place(files, name, diff_id)? {
            layers.push(layer);
            continue;
        }
        let blob = files.file(intake, name, MediaType::LAYER)?.ok_or_else(|| missing(name))?;
        let media_type = layer_type(Decoder::new(blob.reader())?.compression());
        let descriptor = Descriptor::new(media_type, blob.digest().clone(), blob.size());
        layers.push(Reference { descriptor, platform: None, urls: Vec::new(), data: None, file: None });
    }
    let config_descriptor = Descriptor::new(MediaType::CONFIG, config_blob.digest().clone(), config_blob.size());
    let descriptors: Vec<Descriptor> = layers.iter().map(|layer| layer.descriptor.clone()).collect();
    let bytes = new_manifest(&config_descriptor, &descriptors)?;
    let digest = Algorithm::default().digest(&bytes);
    let manifest = Descriptor::new(MediaType::MANIFEST, digest, bytes.len() as u64);
    intake.add(&Expected::from(&manifest), MediaType::MANIFEST, &mut bytes.as_slice())?;
    Ok(Chosen {
        target: manifest.clone(),
        manifest,
        config,
        config_descriptor,
        layers,
        annotations: std::collections::BTreeMap::new(),
        platform,
        references: saved.repo_tags.unwrap_or_default(),
        indexes: Vec::new(),
    })
}

/// A layer that is not compressed and is read in place: its bytes have the digest that the config says, or are refused when they come.
fn in_place(files: &Files, name: &str, diff_id: &DiffId) -> Result<Option<Reference>> {
    let Some(source) = files.open(name)? else { return Ok(None) };
    // Where the layer passes by, its digest is of this algorithm: the manifest must be the same.
    if diff_id.0.algorithm() != Algorithm::default() || source.compression()? != Compression::None {
        return Ok(None);
    }
    let descriptor = Descriptor::new(layer_type(Compression::None), diff_id.0.clone(), source.size());
    Ok(Some(Reference { descriptor, platform: None, urls: Vec::new(), data: None, file: Some(name.to_owned()) }))
}

fn by_name(mut saved: Vec<Saved>, wanted: Wanted<'_>) -> Result<Saved> {
    let names = |one: &Saved| one.repo_tags.clone().unwrap_or_default();
    let listed = |saved: &[Saved]| {
        let names: Vec<String> = saved.iter().flat_map(names).map(|name| name.escape_debug().to_string()).collect();
        if names.is_empty() { "none of them has a name".to_owned() } else { format!("it holds {}", names.join(", ")) }
    };
    if let Some(reference) = wanted.reference {
        if let Some(at) = saved.iter().position(|one| names(one).iter().any(|name| name == reference)) {
            return Ok(saved.swap_remove(at));
        }
        if wanted.must_match {
            let reason = format!("the archive holds no image of this name; {}", listed(&saved));
            return Err(Error::new(ErrorKind::NotFound, OP).at(reference).because(reason));
        }
    }
    if saved.len() > 1 {
        return Err(Error::new(ErrorKind::InvalidArgument, OP)
            .because(format!("the archive holds several images: {}", listed(&saved)))
            .with_hint("name the one that is meant: docker-archive:PATH:NAME, or --ref NAME"));
    }
    saved.pop().ok_or_else(|| Error::new(ErrorKind::NotFound, OP).because("the archive holds no image"))
}
