//! The image configuration: read for its getters, kept byte for byte, and derived for a commit (OCI image-spec config.md).
//!
//! A derived configuration is the JSON of the one below with `rootfs.diff_ids`, `history` and `created` changed; members that plywood
//! does not know stay. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::digest::DiffId;
use crate::error::{Error, ErrorKind, Result};
use crate::store::image::document::{parse_digest, parse_json};
use crate::store::image::platform::Platform;

/// What an image says about how to run it, and of which layers it is made.
///
/// The bytes are those of the image; the getters read them once, when the value is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageConfig {
    raw: Vec<u8>,
    parsed: Parsed,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parsed {
    platform: Option<Platform>,
    created: Option<String>,
    run: RawRun,
    diff_ids: Vec<DiffId>,
}

#[derive(Deserialize)]
struct RawConfig {
    created: Option<String>,
    architecture: Option<String>,
    os: Option<String>,
    variant: Option<String>,
    config: Option<RawRun>,
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: Option<String>,
    diff_ids: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    exposed_ports: Option<BTreeMap<String, Value>>,
    volumes: Option<BTreeMap<String, Value>>,
    stop_signal: Option<String>,
}

impl Serialize for ImageConfig {
    /// As the JSON that it is.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value: Value = serde_json::from_slice(&self.raw).map_err(serde::ser::Error::custom)?;
        value.serialize(serializer)
    }
}

impl ImageConfig {
    const OP: &'static str = "read image config";

    /// Reads a configuration.
    ///
    /// # Errors
    /// `InvalidLayer` where it is not the JSON that config.md describes; `Unsupported` for a digest algorithm that is not known.
    ///
    /// ```
    /// let json = br#"{"os":"linux","architecture":"arm64","config":{"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    /// let config = plywood::store::ImageConfig::parse(json.to_vec())?;
    /// assert_eq!(config.cmd(), ["/bin/sh"]);
    /// # Ok::<(), plywood::Error>(())
    /// ```
    pub fn parse(raw: Vec<u8>) -> Result<Self> {
        let config: RawConfig = parse_json(Self::OP, &raw)?;
        let rootfs = config.rootfs.ok_or_else(|| Self::invalid("it has no rootfs"))?;
        if let Some(kind) = rootfs.kind.filter(|kind| kind != "layers") {
            return Err(Self::invalid(format!("its rootfs is of type {}", kind.escape_debug())));
        }
        let diff_ids = rootfs.diff_ids.unwrap_or_default();
        let diff_ids = diff_ids.iter().map(|text| parse_digest(Self::OP, text).map(DiffId)).collect::<Result<_>>()?;
        let platform = Platform::of_document(config.os.as_deref(), config.architecture.as_deref(), config.variant.as_deref());
        let parsed = Parsed { platform, created: config.created, run: config.config.unwrap_or_default(), diff_ids };
        Ok(Self { raw, parsed })
    }

    fn invalid(reason: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidLayer, Self::OP).because(reason)
    }

    /// The configuration's bytes, exactly as the image has them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.raw
    }

    /// The platform that the image is for, if it says so.
    pub fn platform(&self) -> Option<&Platform> {
        self.parsed.platform.as_ref()
    }

    /// When the image was made, as it is written (RFC 3339).
    pub fn created(&self) -> Option<&str> {
        self.parsed.created.as_deref()
    }

    /// `Env`: `NAME=VALUE` each.
    pub fn env(&self) -> &[String] {
        self.parsed.run.env.as_deref().unwrap_or_default()
    }

    /// `Entrypoint`.
    pub fn entrypoint(&self) -> &[String] {
        self.parsed.run.entrypoint.as_deref().unwrap_or_default()
    }

    /// `Cmd`.
    pub fn cmd(&self) -> &[String] {
        self.parsed.run.cmd.as_deref().unwrap_or_default()
    }

    /// `User`: names or numbers, with or without a group; empty where it is not said.
    pub fn user(&self) -> &str {
        self.parsed.run.user.as_deref().unwrap_or_default()
    }

    /// `WorkingDir`; empty where it is not said.
    pub fn working_dir(&self) -> &str {
        self.parsed.run.working_dir.as_deref().unwrap_or_default()
    }

    /// `Labels`.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parsed.run.labels.iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// `ExposedPorts`: `80/tcp` and the like.
    pub fn exposed_ports(&self) -> impl Iterator<Item = &str> {
        self.parsed.run.exposed_ports.iter().flatten().map(|(port, _)| port.as_str())
    }

    /// `Volumes`: directories whose content is no part of the container's layer.
    pub fn volumes(&self) -> impl Iterator<Item = &str> {
        self.parsed.run.volumes.iter().flatten().map(|(path, _)| path.as_str())
    }

    /// `StopSignal`.
    pub fn stop_signal(&self) -> Option<&str> {
        self.parsed.run.stop_signal.as_deref()
    }

    /// The diff ids of the layers, lowest first.
    pub fn diff_ids(&self) -> &[DiffId] {
        &self.parsed.diff_ids
    }

    /// The same for other layers of the same content: byte for byte where these are the same.
    pub(crate) fn with_diff_ids(&self, diff_ids: &[DiffId]) -> Result<Self> {
        if diff_ids == self.diff_ids() {
            return Self::parse(self.raw.clone());
        }
        let mut root: Map<String, Value> = parse_json(Self::OP, &self.raw)?;
        root.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": diff_ids }));
        Self::parse(to_bytes(&root)?)
    }

    /// The configuration of an image with more layers on top.
    pub(crate) fn derive(&self, layers: &[NewLayer<'_>], created: Option<&str>) -> Result<Self> {
        let mut root: Map<String, Value> = parse_json(Self::OP, &self.raw)?;
        append(&mut root, layers, created)?;
        Self::parse(to_bytes(&root)?)
    }

    /// The configuration of an image that has nothing below its layers.
    pub(crate) fn from_scratch(platform: &Platform, layers: &[NewLayer<'_>], created: Option<&str>) -> Result<Self> {
        let mut root = Map::new();
        root.insert("architecture".to_owned(), json!(platform.architecture));
        root.insert("os".to_owned(), json!(platform.os));
        if let Some(variant) = &platform.variant {
            root.insert("variant".to_owned(), json!(variant));
        }
        root.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": [] }));
        append(&mut root, layers, created)?;
        Self::parse(to_bytes(&root)?)
    }
}

/// A layer that is put on top of an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewLayer<'a> {
    pub(crate) diff_id: &'a DiffId,
    /// What made it, for `docker history`.
    pub(crate) created_by: &'a str,
}

fn append(root: &mut Map<String, Value>, layers: &[NewLayer<'_>], created: Option<&str>) -> Result<()> {
    let not = |what: &str| ImageConfig::invalid(format!("{what} is not what config.md says"));
    // `null` and absent mean the same to Go's readers and writers.
    let array = |place: &mut Value| {
        if place.is_null() {
            *place = json!([]);
        }
    };
    let rootfs = root.entry("rootfs").or_insert_with(|| json!({ "type": "layers" }));
    let diff_ids = rootfs.as_object_mut().ok_or_else(|| not("rootfs"))?.entry("diff_ids").or_insert(Value::Null);
    array(diff_ids);
    let diff_ids = diff_ids.as_array_mut().ok_or_else(|| not("rootfs.diff_ids"))?;
    let below = diff_ids.len();
    diff_ids.extend(layers.iter().map(|layer| json!(layer.diff_id)));

    let history = root.entry("history").or_insert(Value::Null);
    array(history);
    let history = history.as_array_mut().ok_or_else(|| not("history"))?;
    // A history that does not account for the layers below would make readers put ours to the wrong layer.
    let told = history.iter().filter(|entry| entry.get("empty_layer").and_then(Value::as_bool) != Some(true)).count();
    history.extend((told..below).map(|_| json!({})));
    history.extend(layers.iter().map(|layer| match created {
        Some(created) => json!({ "created": created, "created_by": layer.created_by }),
        None => json!({ "created_by": layer.created_by }),
    }));

    // The time of the image below is not that of this one; without a time given, the result depends on the input alone.
    match created {
        Some(created) => root.insert("created".to_owned(), json!(created)),
        None => root.remove("created"),
    };
    // Docker's own members that describe the container and image below, and would be lies here.
    for stale in ["id", "parent", "container", "container_config", "parent_id", "layer_id", "Size"] {
        root.remove(stale);
    }
    Ok(())
}

fn to_bytes(root: &Map<String, Value>) -> Result<Vec<u8>> {
    serde_json::to_vec(root).map_err(|error| Error::new(ErrorKind::Corrupt, "write image config").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    fn config(value: Value) -> Result<ImageConfig> {
        ImageConfig::parse(value.to_string().into_bytes())
    }

    fn diff_id(text: &str) -> DiffId {
        DiffId(Algorithm::Sha256.digest(text.as_bytes()))
    }

    #[test]
    fn getters_read_what_docker_and_buildah_write() {
        let config = config(json!({
            "created": "2026-01-02T03:04:05Z", "os": "linux", "architecture": "arm", "variant": "v6",
            "config": {
                "User": "1000:nogroup", "Env": ["A=b"], "Cmd": null, "Entrypoint": ["/e", "x"], "WorkingDir": "/w",
                "Labels": { "x": "y" }, "ExposedPorts": { "80/tcp": {} }, "Volumes": { "/v": {} }, "StopSignal": "SIGINT",
                "Healthcheck": { "Test": ["NONE"] }, "OnBuild": null,
            },
            "rootfs": { "type": "layers", "diff_ids": [diff_id("a")] },
        }))
        .unwrap();
        assert_eq!(config.platform().unwrap().to_string(), "linux/arm/v6");
        assert_eq!((config.user(), config.working_dir(), config.stop_signal()), ("1000:nogroup", "/w", Some("SIGINT")));
        assert_eq!(
            (config.env(), config.cmd(), config.entrypoint()),
            (&["A=b".to_owned()][..], &[][..], &["/e".to_owned(), "x".to_owned()][..])
        );
        assert_eq!(config.labels().collect::<Vec<_>>(), [("x", "y")]);
        assert_eq!(config.exposed_ports().chain(config.volumes()).collect::<Vec<_>>(), ["80/tcp", "/v"]);
        assert_eq!(config.diff_ids(), [diff_id("a")]);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for value in [
            json!({}),
            json!([]),
            json!({ "rootfs": { "type": "tarballs", "diff_ids": [] } }),
            json!({ "rootfs": { "type": "layers", "diff_ids": ["x"] } }),
            json!({ "rootfs": { "type": "layers" }, "config": { "Env": "A=b" } }),
        ] {
            assert_eq!(config(value.clone()).unwrap_err().kind(), ErrorKind::InvalidLayer, "{value}");
        }
        assert!(config(json!({ "rootfs": { "diff_ids": null } })).unwrap().diff_ids().is_empty());
    }

    #[test]
    fn a_derived_config_keeps_what_it_does_not_change() {
        let base = config(json!({
            "created": "2020-01-01T00:00:00Z", "os": "linux", "architecture": "amd64", "container": "abc", "future": { "x": [1] },
            "config": { "Env": ["A=b"], "Cmd": ["/sh"], "User": "u", "Labels": { "x": "y" }, "Healthcheck": { "Test": ["NONE"] } },
            "rootfs": { "type": "layers", "diff_ids": [diff_id("a")] },
            "history": [{ "created_by": "ENV", "empty_layer": true }],
        }))
        .unwrap();
        let top = diff_id("b");
        let layers = [NewLayer { diff_id: &top, created_by: "plywood" }];
        let derived = base.derive(&layers, Some("2026-01-01T00:00:00Z")).unwrap();
        let value: Value = serde_json::from_slice(derived.as_bytes()).unwrap();
        assert_eq!(derived.diff_ids(), [diff_id("a"), top.clone()]);
        assert_eq!((derived.env(), derived.user(), derived.created()), (base.env(), "u", Some("2026-01-01T00:00:00Z")));
        assert_eq!(value["config"]["Healthcheck"], json!({ "Test": ["NONE"] }));
        assert_eq!(value["future"], json!({ "x": [1] }));
        assert_eq!(value.get("container"), None);
        // One entry stands in for the layer that the history below did not tell of.
        assert_eq!(value["history"].as_array().unwrap().len(), 3);
        assert_eq!(value["history"][2], json!({ "created": "2026-01-01T00:00:00Z", "created_by": "plywood" }));
        assert_eq!(derived, base.derive(&layers, Some("2026-01-01T00:00:00Z")).unwrap());

        let untimed = base.derive(&layers, None).unwrap();
        assert_eq!(untimed.created(), None);
        let scratch = ImageConfig::from_scratch(&Platform::new("linux", "arm", Some("v6")), &layers, None).unwrap();
        assert_eq!((scratch.diff_ids(), scratch.platform().unwrap().to_string().as_str()), (&[top.clone()][..], "linux/arm/v6"));
    }
}
