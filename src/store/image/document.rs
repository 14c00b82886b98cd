//! Index and manifest: JSON in, checked values out (OCI image-spec image-index.md and manifest.md, Docker's schema 2).
//!
//! A document is read as what its descriptor says, or not at all: a manifest that could be read as an index too, by an exact or by a
//! laxer reader, is refused (CVE-2021-41190). Pure; that the bytes are those of the digest was checked before.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::compression::Compression;
use crate::descriptor::{Descriptor, MediaType};
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::store::image::base64;
use crate::store::image::platform::Platform;

/// The longest index, manifest, config or `manifest.json` in bytes, as registries have it.
pub(crate) const DOCUMENT_MAX: u64 = 4 << 20;

/// The tag or name that a layout's index gives an image.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The full name that containerd and Docker write beside it.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// One entry of an index, or one blob of a manifest, with what stands beside its descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) descriptor: Descriptor,
    pub(crate) platform: Option<Platform>,
    /// Where the bytes can be fetched from: only for layers that may not be distributed.
    pub(crate) urls: Vec<String>,
    /// The bytes themselves, checked against digest and size.
    pub(crate) data: Option<Vec<u8>>,
    /// The file of the source that holds the bytes, where that is not the one which is named by the digest.
    pub(crate) file: Option<String>,
}

impl Reference {
    /// The names that the annotations give, the fullest first.
    pub(crate) fn names(&self) -> Vec<&str> {
        let annotations = &self.descriptor.annotations;
        let mut names: Vec<&str> = [CONTAINERD_NAME, REF_NAME]
            .iter()
            .filter_map(|key| annotations.get(*key))
            .map(String::as_str)
            .filter(|name| !name.is_empty())
            .collect();
        names.dedup();
        names
    }

    /// Whether it is there for tools that verify images, and no image: BuildKit's attestations, signatures.
    pub(crate) fn is_attestation(&self) -> bool {
        self.platform.as_ref().is_some_and(Platform::is_unknown)
            || self.descriptor.annotations.get("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest")
    }
}

/// A list of manifests, for several platforms or under several names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<Reference>,
}

/// One image for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Reference,
    pub(crate) layers: Vec<Reference>,
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawReference {
    media_type: Option<String>,
    digest: String,
    size: i64,
    urls: Option<Vec<String>>,
    annotations: Option<BTreeMap<String, String>>,
    platform: Option<RawPlatform>,
    data: Option<String>,
}

#[derive(Deserialize)]
struct RawPlatform {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawIndex {
    schema_version: Option<i64>,
    media_type: Option<String>,
    manifests: Option<Vec<RawReference>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    schema_version: Option<i64>,
    media_type: Option<String>,
    config: RawReference,
    layers: Option<Vec<RawReference>>,
    annotations: Option<BTreeMap<String, String>>,
}

fn invalid(op: &'static str, reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidLayer, op).because(reason)
}

/// Parses JSON of a known type.
pub(crate) fn parse_json<T: DeserializeOwned>(op: &'static str, bytes: &[u8]) -> Result<T> {
    // serde_json takes each key of a struct once and refuses the second, and bounds the depth.
    serde_json::from_slice(bytes).map_err(|error| invalid(op, "it is not the JSON it should be").with_source(error))
}

impl Index {
    /// Reads an index that a descriptor calls `declared`; `None` for a layout's `index.json`, which no descriptor names.
    pub(crate) fn parse(bytes: &[u8], declared: Option<&MediaType>) -> Result<Self> {
        const OP: &str = "read index";
        check_keys(OP, bytes, &["config", "layers"])?;
        let raw: RawIndex = parse_json(OP, bytes)?;
        check_version(OP, raw.schema_version)?;
        match (declared, raw.media_type.as_deref()) {
            (Some(declared), Some(own)) if own != declared.as_str() => return Err(contradiction(OP, declared, own)),
            (None, Some(own)) if !MediaType::new(own).is_index() => {
                return Err(invalid(OP, format!("its media type is {}", own.escape_debug())));
            }
            _ => {}
        }
        let manifests = raw.manifests.unwrap_or_default();
        Ok(Self { manifests: manifests.into_iter().map(|raw| reference(OP, raw)).collect::<Result<_>>()? })
    }
}

impl Manifest {
    /// Reads a manifest that a descriptor calls `declared`.
    pub(crate) fn parse(bytes: &[u8], declared: &MediaType) -> Result<Self> {
        let manifest = Self::parse_with_any_layers(bytes, declared)?;
        manifest.layers.iter().try_for_each(|layer| check_layer_type(&layer.descriptor.media_type))?;
        Ok(manifest)
    }

    /// The same, where it may have layers of types that are not known.
    pub(crate) fn parse_with_any_layers(bytes: &[u8], declared: &MediaType) -> Result<Self> {
        const OP: &str = "read manifest";
        check_keys(OP, bytes, &["manifests"])?;
        let raw: RawManifest = parse_json(OP, bytes)?;
        check_version(OP, raw.schema_version)?;
        if let Some(own) = raw.media_type.as_deref().filter(|own| *own != declared.as_str()) {
            return Err(contradiction(OP, declared, own));
        }
        let config = reference(OP, raw.config)?;
        if !matches!(config.descriptor.media_type.as_str(), MediaType::CONFIG | MediaType::DOCKER_CONFIG) {
            return Err(Error::new(ErrorKind::Unsupported, OP).because(format!(
                "this is no container image: its config is {}",
                config.descriptor.media_type.as_str().escape_debug()
            )));
        }
        let layers = raw.layers.unwrap_or_default().into_iter().map(|raw| reference(OP, raw)).collect::<Result<Vec<_>>>()?;
        Ok(Self { config, layers, annotations: raw.annotations.unwrap_or_default() })
    }
}

fn contradiction(op: &'static str, declared: &MediaType, own: &str) -> Error {
    let reason =
        format!("its descriptor calls it {}, and it calls itself {}", declared.as_str().escape_debug(), own.escape_debug());
    invalid(op, reason)
}

fn check_version(op: &'static str, version: Option<i64>) -> Result<()> {
    match version {
        Some(2) => Ok(()),
        Some(1) => Err(Error::new(ErrorKind::Unsupported, op)
            .because("Docker's schema 1 is not supported")
            .with_hint("skopeo copies such an image into an OCI layout, with `--format oci`")),
        Some(other) => Err(invalid(op, format!("schemaVersion is {other}, not 2"))),
        None => Err(invalid(op, "schemaVersion is missing")),
    }
}

/// Refuses a document that another reader could take for another kind: by a member of the other kind, or by members whose names are
/// ours in another case (Go's JSON reader takes those for the same).
fn check_keys(op: &'static str, bytes: &[u8], foreign: &[&str]) -> Result<()> {
    const KNOWN: [&str; 5] = ["schemaVersion", "mediaType", "config", "layers", "manifests"];
    let Keys(keys) = parse_json(op, bytes)?;
    for key in keys {
        if foreign.contains(&key.as_str()) {
            return Err(invalid(op, format!("it has \"{key}\" too, and could be read as another kind of document")));
        }
        // Upper case folds the long s and the Kelvin sign as Go does.
        if let Some(known) = KNOWN.iter().find(|known| key != **known && key.to_uppercase() == known.to_uppercase()) {
            return Err(invalid(op, format!("\"{}\" could be read as \"{known}\"", key.escape_debug())));
        }
    }
    Ok(())
}

struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(KeyVisitor)
    }
}

/// A digest as it stands in a document: malformed is the document's fault, an unknown algorithm is ours.
pub(crate) fn parse_digest(op: &'static str, text: &str) -> Result<Digest> {
    text.parse().map_err(|error: Error| {
        let algorithm = text.split_once(':').map(|(algorithm, _)| algorithm);
        let known = [Algorithm::Sha256, Algorithm::Sha512].iter().any(|known| algorithm == Some(known.as_str()));
        let plain = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+._-".contains(&b))
        };
        let kind = if !known && algorithm.is_some_and(plain) { ErrorKind::Unsupported } else { ErrorKind::InvalidLayer };
        Error::new(kind, op).because(format!("the digest {} cannot be used", text.escape_debug())).with_source(error)
    })
}

fn reference(op: &'static str, raw: RawReference) -> Result<Reference> {
    let digest = parse_digest(op, &raw.digest)?;
    let size = u64::try_from(raw.size).map_err(|_| invalid(op, format!("{digest} has the size {}", raw.size)))?;
    let media_type =
        raw.media_type.filter(|text| !text.is_empty()).ok_or_else(|| invalid(op, format!("{digest} has no media type")))?;
    let data = match raw.data.as_deref() {
        None | Some("") => None,
        Some(text) => {
            let data = base64::decode(text).ok_or_else(|| invalid(op, format!("the embedded data of {digest} is not base64")))?;
            if data.len() as u64 != size || digest.algorithm().digest(&data) != digest {
                return Err(
                    Error::new(ErrorKind::DigestMismatch, op).because(format!("the embedded data of {digest} is something else"))
                );
            }
            Some(data)
        }
    };
    let platform = raw.platform.map(|raw| {
        Platform::of_document(raw.os.as_deref(), raw.architecture.as_deref(), raw.variant.as_deref())
            .unwrap_or_else(Platform::unknown)
    });
    let annotations = raw.annotations.unwrap_or_default();
    let descriptor = Descriptor { annotations, ..Descriptor::new(media_type, digest, size) };
    Ok(Reference { descriptor, platform, urls: raw.urls.unwrap_or_default(), data, file: None })
}

/// Refuses what is no tar layer, by name.
pub(crate) fn check_layer_type(media_type: &MediaType) -> Result<()> {
    const OP: &str = "read manifest";
    let text = media_type.as_str();
    if layer_compression(media_type).is_some() {
        return Ok(());
    }
    let unsupported =
        Error::new(ErrorKind::Unsupported, OP).because(format!("the layer type {} is not supported", text.escape_debug()));
    Err(if text.ends_with("+encrypted") {
        unsupported.with_hint("decrypt the image first: skopeo copy --decryption-key KEY SOURCE oci:DIR")
    } else {
        unsupported
    })
}

/// The compression that a layer's media type names; `None` for what is no tar layer.
pub(crate) fn layer_compression(media_type: &MediaType) -> Option<Compression> {
    let text = media_type.as_str();
    let rest = text
        .strip_prefix("application/vnd.oci.image.layer.v1.tar")
        .or_else(|| text.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar"));
    match (rest, text) {
        (Some(""), _) => Some(Compression::None),
        (Some("+gzip"), _) => Some(Compression::Gzip),
        (Some("+zstd"), _) => Some(Compression::Zstd),
        (_, "application/vnd.docker.image.rootfs.diff.tar") => Some(Compression::None),
        (_, MediaType::DOCKER_LAYER_GZIP | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip") => Some(Compression::Gzip),
        (_, "application/vnd.docker.image.rootfs.diff.tar.zstd") => Some(Compression::Zstd),
        _ => None,
    }
}

/// The OCI media type of a tar layer of this compression.
pub(crate) fn layer_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => MediaType::LAYER,
        Compression::Gzip => MediaType::LAYER_GZIP,
        Compression::Zstd => MediaType::LAYER_ZSTD,
    }
}

/// A manifest as it is written, members in this order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewManifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: &'a Descriptor,
    layers: &'a [Descriptor],
}

/// The bytes of an OCI manifest for these blobs: the same for the same blobs.
pub(crate) fn new_manifest(config: &Descriptor, layers: &[Descriptor]) -> Result<Vec<u8>> {
    let manifest = NewManifest { schema_version: 2, media_type: MediaType::MANIFEST, config, layers };
    serde_json::to_vec(&manifest).map_err(|error| Error::new(ErrorKind::Corrupt, "write manifest").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest() -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": MediaType::MANIFEST,
            "config": { "mediaType": MediaType::CONFIG, "digest": DIGEST, "size": 0 },
            "layers": [{ "mediaType": MediaType::LAYER_GZIP, "digest": DIGEST, "size": 0 }],
        })
    }

    fn parse(value: &Value) -> Result<Manifest> {
        Manifest::parse(value.to_string().as_bytes(), &MediaType::new(MediaType::MANIFEST))
    }

    fn with(pointer: &str, value: Value) -> Value {
        let mut manifest = manifest();
        match manifest.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                manifest.pointer_mut(parent).unwrap()[key] = value;
            }
        }
        manifest
    }

    #[test]
    fn a_manifest_is_read() {
        let manifest = parse(&manifest()).unwrap();
        assert_eq!(manifest.layers.len(), 1);
        assert_eq!(manifest.config.descriptor.media_type.as_str(), MediaType::CONFIG);
        assert!(parse(&with("/layers", Value::Null)).unwrap().layers.is_empty());
        assert!(parse(&with("/annotations", Value::Null)).is_ok());
    }

    #[test]
    fn what_could_be_read_as_another_kind_is_refused() {
        for (pointer, value) in [
            ("/manifests", json!([])),
            ("/Manifests", json!([])),
            ("/manifest\u{17f}", json!([])),
            ("/LAYERS", json!([])),
            ("/mediaType", json!(MediaType::INDEX)),
            ("/mediaType", json!(MediaType::DOCKER_MANIFEST)),
        ] {
            assert_eq!(parse(&with(pointer, value)).unwrap_err().kind(), ErrorKind::InvalidLayer, "{pointer}");
        }
        let twice = manifest().to_string().replacen('{', "{\"layers\":[],", 1);
        let error = Manifest::parse(twice.as_bytes(), &MediaType::new(MediaType::MANIFEST)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidLayer);
        let index = Index::parse(manifest().to_string().as_bytes(), Some(&MediaType::new(MediaType::INDEX)));
        assert_eq!(index.unwrap_err().kind(), ErrorKind::InvalidLayer);
        for own in [MediaType::MANIFEST, "x"] {
            let index = json!({ "schemaVersion": 2, "mediaType": own, "manifests": [] }).to_string();
            assert_eq!(Index::parse(index.as_bytes(), None).unwrap_err().kind(), ErrorKind::InvalidLayer);
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for (pointer, value, kind) in [
            ("/schemaVersion", json!(1), ErrorKind::Unsupported),
            ("/schemaVersion", json!(3), ErrorKind::InvalidLayer),
            ("/schemaVersion", Value::Null, ErrorKind::InvalidLayer),
            ("/config", Value::Null, ErrorKind::InvalidLayer),
            ("/config/size", json!(-1), ErrorKind::InvalidLayer),
            ("/config/size", json!(1e3), ErrorKind::InvalidLayer),
            ("/config/digest", json!("../../etc/passwd"), ErrorKind::InvalidLayer),
            ("/config/digest", json!("sha256:../../etc/passwd"), ErrorKind::InvalidLayer),
            ("/config/digest", json!("sha384:00"), ErrorKind::Unsupported),
            ("/config/mediaType", json!("application/vnd.cncf.helm.config.v1+json"), ErrorKind::Unsupported),
            ("/layers/0/mediaType", json!("application/octet-stream"), ErrorKind::Unsupported),
            ("/layers/0/mediaType", json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), ErrorKind::Unsupported),
            ("/layers/0/mediaType", json!(""), ErrorKind::InvalidLayer),
            ("/config/data", json!("!"), ErrorKind::InvalidLayer),
            ("/config/data", json!("Zg=="), ErrorKind::DigestMismatch),
        ] {
            assert_eq!(parse(&with(pointer, value)).unwrap_err().kind(), kind, "{pointer}");
        }
        for text in ["", "[]", "null", "{", "{}{}", &"[".repeat(100_000)] {
            let error = Manifest::parse(text.as_bytes(), &MediaType::new(MediaType::MANIFEST)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{text:.10}");
        }
    }

    #[test]
    fn attestations_are_told_from_images() {
        let entry = |extra: Value| {
            let mut entry = json!({ "mediaType": MediaType::MANIFEST, "digest": DIGEST, "size": 7 });
            entry.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
            Index::parse(index.as_bytes(), None).unwrap().manifests.remove(0)
        };
        assert!(entry(json!({ "platform": { "os": "unknown", "architecture": "unknown" } })).is_attestation());
        assert!(entry(json!({ "annotations": { "vnd.docker.reference.type": "attestation-manifest" } })).is_attestation());
        let image = entry(json!({ "platform": { "os": "linux", "architecture": "arm", "variant": "v7", "os.version": "1" },
            "annotations": { REF_NAME: "1.0", CONTAINERD_NAME: "docker.io/x/y:1.0" } }));
        assert!(!image.is_attestation());
        assert_eq!(image.platform.as_ref().unwrap().to_string(), "linux/arm/v7");
        assert_eq!(image.names(), ["docker.io/x/y:1.0", "1.0"]);
    }

    #[test]
    fn layer_types_name_their_compression() {
        for (text, compression) in [
            (MediaType::LAYER, Some(Compression::None)),
            (MediaType::LAYER_GZIP, Some(Compression::Gzip)),
            (MediaType::LAYER_ZSTD, Some(Compression::Zstd)),
            (MediaType::DOCKER_LAYER_GZIP, Some(Compression::Gzip)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Compression::Gzip)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Compression::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None),
            ("application/vnd.oci.image.layer.v1.tarx", None),
            (MediaType::CONFIG, None),
        ] {
            assert_eq!(layer_compression(&MediaType::new(text)), compression, "{text}");
        }
    }
}
