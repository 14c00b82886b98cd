//! Images made of layer literals: OCI image layouts in a directory or a tar, and `docker save` archives.
//!
//! The JSON is written here by hand, from the OCI image-spec and from what `docker save` writes: another pen than the exporter's.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::layer::{Layer, pack};
use crate::compression::Compression;
use crate::descriptor::MediaType;
use crate::digest::{Algorithm, ChainId, Digest};

/// The blobs of a layout by digest.
type Blobs = BTreeMap<Digest, Vec<u8>>;

/// An image as a literal.
///
/// ```
/// use plywood::compression::Compression;
/// use plywood::testing::{Image, Layer};
///
/// let image = Image::new()
///     .layer(Layer::new().dir("etc", 0o755), Compression::None)
///     .layer(Layer::new().file("etc/hostname", "box"), Compression::Gzip)
///     .env("PATH=/bin")
///     .cmd(["/bin/sh"]);
/// let scratch = tempfile::tempdir()?;
/// image.write_layout(scratch.path(), "latest")?;
/// assert!(scratch.path().join("index.json").exists());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Image {
    layers: Vec<(Layer, Compression)>,
    config: Value,
    annotations: BTreeMap<String, String>,
}

impl Default for Image {
    fn default() -> Self {
        Self::new()
    }
}

impl Image {
    /// An image without layers, for this machine's architecture.
    pub fn new() -> Self {
        let config = json!({ "os": "linux", "architecture": host_architecture(), "config": {} });
        Self { layers: Vec::new(), config, annotations: BTreeMap::new() }
    }

    /// One more layer, on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer, compression: Compression) -> Self {
        self.layers.push((layer, compression));
        self
    }

    /// Another platform: `linux`, `arm64`, and a variant or `""`.
    #[must_use]
    pub fn platform(self, os: &str, architecture: &str, variant: &str) -> Self {
        let image = self.field("os", json!(os)).field("architecture", json!(architecture));
        if variant.is_empty() { image } else { image.field("variant", json!(variant)) }
    }

    /// One more variable of the environment: `NAME=VALUE`.
    #[must_use]
    pub fn env(mut self, variable: &str) -> Self {
        match self.config["config"]["Env"].as_array_mut() {
            Some(env) => env.push(json!(variable)),
            None => self.config["config"]["Env"] = json!([variable]),
        }
        self
    }

    /// The command.
    #[must_use]
    pub fn cmd<'a>(mut self, command: impl IntoIterator<Item = &'a str>) -> Self {
        self.config["config"]["Cmd"] = command.into_iter().collect();
        self
    }

    /// Any field of the config document, beside `rootfs`.
    #[must_use]
    pub fn field(mut self, name: &str, value: Value) -> Self {
        self.config[name] = value;
        self
    }

    /// An annotation of the manifest.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The chain id of all its layers; none without layers.
    pub fn chain_id(&self) -> Option<ChainId> {
        self.layers.iter().fold(None, |parent, (layer, _)| Some(ChainId::of(parent.as_ref(), &layer.diff_id())))
    }

    /// The layers, bottom first.
    pub fn layers(&self) -> Vec<Layer> {
        self.layers.iter().map(|(layer, _)| layer.clone()).collect()
    }

    /// The config document.
    pub fn config_document(&self) -> Vec<u8> {
        let diff_ids: Vec<String> = self.layers.iter().map(|(layer, _)| layer.diff_id().to_string()).collect();
        let history: Vec<Value> = self.layers.iter().map(|_| json!({ "created_by": "a literal" })).collect();
        let mut config = self.config.clone();
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        config["history"] = json!(history);
        to_bytes(&config)
    }

    /// Adds manifest, config and layers, and gives the manifest's descriptor, with its platform.
    fn add_to(&self, blobs: &mut Blobs) -> Value {
        let mut layers = Vec::new();
        for (layer, compression) in &self.layers {
            let media_type = match compression {
                Compression::None => MediaType::LAYER,
                Compression::Gzip => MediaType::LAYER_GZIP,
                Compression::Zstd => MediaType::LAYER_ZSTD,
            };
            layers.push(add(blobs, media_type, layer.packed(*compression)));
        }
        let config = add(blobs, MediaType::CONFIG, self.config_document());
        let mut manifest = json!({ "schemaVersion": 2, "mediaType": MediaType::MANIFEST, "config": config, "layers": layers });
        if !self.annotations.is_empty() {
            manifest["annotations"] = json!(self.annotations);
        }
        let mut descriptor = add(blobs, MediaType::MANIFEST, to_bytes(&manifest));
        descriptor["platform"] = json!({ "os": self.config["os"], "architecture": self.config["architecture"] });
        if self.config["variant"].is_string() {
            descriptor["platform"]["variant"] = self.config["variant"].clone();
        }
        descriptor
    }

    /// Writes an OCI image layout of this image alone into a directory.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_layout(&self, directory: impl AsRef<Path>, reference: &str) -> io::Result<()> {
        Layout::new().image(reference, self).write(directory)
    }

    /// The archive that `docker save` makes, in its old form: `manifest.json`, a config, and a directory for each layer.
    pub fn docker_archive(&self, tags: &[&str]) -> Vec<u8> {
        let mut archive = Layer::new();
        let mut names = Vec::new();
        for (layer, compression) in &self.layers {
            let tar = layer.packed(*compression);
            let folder = Algorithm::Sha256.digest(&tar).to_hex();
            let name = format!("{folder}/layer.tar");
            if !names.contains(&name) {
                archive = archive.dir(&folder, 0o755).file(format!("{folder}/VERSION"), "1.0").file(&name, tar);
            }
            names.push(name);
        }
        let config = self.config_document();
        let config_name = format!("{}.json", Algorithm::Sha256.digest(&config).to_hex());
        let manifest = json!([{ "Config": config_name, "RepoTags": tags, "Layers": names }]);
        archive.file(config_name, config).file("manifest.json", to_bytes(&manifest)).tar()
    }
}

/// An OCI image layout with any number of images.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    blobs: Blobs,
    manifests: Vec<Value>,
}

impl Layout {
    /// A layout without images.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more image under a reference (`org.opencontainers.image.ref.name`); `""` for none.
    #[must_use]
    pub fn image(mut self, reference: &str, image: &Image) -> Self {
        let descriptor = image.add_to(&mut self.blobs);
        self.manifest(reference, descriptor)
    }

    /// Images for several platforms under one reference: an index in the index.
    #[must_use]
    pub fn platforms(mut self, reference: &str, images: &[Image]) -> Self {
        let manifests: Vec<Value> = images.iter().map(|image| image.add_to(&mut self.blobs)).collect();
        let index = json!({ "schemaVersion": 2, "mediaType": MediaType::INDEX, "manifests": manifests });
        let descriptor = add(&mut self.blobs, MediaType::INDEX, to_bytes(&index));
        self.manifest(reference, descriptor)
    }

    fn manifest(mut self, reference: &str, mut descriptor: Value) -> Self {
        if !reference.is_empty() {
            descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": reference });
        }
        self.manifests.push(descriptor);
        self
    }

    /// The layout's files by name.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let index = json!({ "schemaVersion": 2, "mediaType": MediaType::INDEX, "manifests": self.manifests });
        let mut files = vec![
            ("oci-layout".to_owned(), to_bytes(&json!({ "imageLayoutVersion": "1.0.0" }))),
            ("index.json".to_owned(), to_bytes(&index)),
        ];
        let name = |digest: &Digest| format!("blobs/{}/{}", digest.algorithm().as_str(), digest.to_hex());
        files.extend(self.blobs.iter().map(|(digest, bytes)| (name(digest), bytes.clone())));
        files
    }

    /// Writes the layout into a directory, which is made if it is missing.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, directory: impl AsRef<Path>) -> io::Result<()> {
        fs::create_dir_all(directory.as_ref().join("blobs/sha256"))?;
        self.files().into_iter().try_for_each(|(name, bytes)| fs::write(directory.as_ref().join(name), bytes))
    }

    /// The layout as a tar, compressed or not.
    pub fn archive(&self, compression: Compression) -> Vec<u8> {
        let archive = Layer::new().dir("blobs", 0o755).dir("blobs/sha256", 0o755);
        pack(&self.files().into_iter().fold(archive, |archive, (name, bytes)| archive.file(name, bytes)).tar(), compression)
    }
}

/// Keeps a blob, and gives its descriptor.
fn add(blobs: &mut Blobs, media_type: &str, bytes: Vec<u8>) -> Value {
    let digest = Algorithm::Sha256.digest(&bytes);
    let descriptor = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
    blobs.insert(digest, bytes);
    descriptor
}

fn to_bytes(document: &Value) -> Vec<u8> {
    serde_json::to_vec(document).expect("a JSON value has a text")
}

/// This machine's architecture by its name in images.
fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image::new().layer(Layer::new().file("a", "x"), Compression::Gzip).layer(Layer::new().whiteout("a"), Compression::Zstd)
    }

    #[test]
    fn a_layout_is_closed_and_its_digests_are_right() {
        let scratch = tempfile::tempdir().unwrap();
        let arm = image().platform("linux", "arm64", "v8");
        Layout::new().image("one", &image()).platforms("many", &[image(), arm]).write(scratch.path()).unwrap();
        let read = |name: &str| fs::read(scratch.path().join(name)).unwrap();
        let mut open: Vec<Value> = vec![serde_json::from_slice(&read("index.json")).unwrap()];
        let mut seen = 0;
        while let Some(document) = open.pop() {
            let children = ["manifests", "layers"].iter().filter_map(|key| document[key].as_array()).flatten();
            for child in children.chain(document.get("config").filter(|config| config["digest"].is_string())) {
                let digest: Digest = child["digest"].as_str().unwrap().parse().unwrap();
                let bytes = read(&format!("blobs/sha256/{}", digest.to_hex()));
                assert_eq!((Algorithm::Sha256.digest(&bytes), bytes.len() as u64), (digest, child["size"].as_u64().unwrap()));
                seen += 1;
                open.extend(serde_json::from_slice::<Value>(&bytes));
            }
        }
        assert_eq!(seen, 2 + 2 + 3 * 3, "an index, manifests, and for each a config and two layers");
    }

    #[test]
    fn a_docker_archive_lists_what_is_in_it() {
        let bytes = image().docker_archive(&["box:latest"]);
        let mut archive = ::tar::Archive::new(bytes.as_slice());
        let names: Vec<String> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names.len(), 8);
        assert_eq!(names.last().unwrap(), "manifest.json");
    }
}
