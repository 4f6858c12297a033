//! Images, made here.

use std::io::Write as _;
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::docker::image;

/// An image's layers, as tars, and its configuration.
pub(crate) struct Built {
    layers: Vec<Vec<u8>>,
    process: Value,
    architecture: &'static str,
    is_zstd: bool,
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A path and its content.
pub(crate) fn file<'a>(path: &'a str, text: &'a str) -> (&'a str, &'a [u8]) {
    (path, text.as_bytes())
}

pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

/// A tar of this machine's Python.
pub(crate) fn python_root() -> Vec<u8> {
    static ROOT: OnceLock<Vec<u8>> = OnceLock::new();
    let made = || {
        let dir = tempfile::tempdir().unwrap();
        std::fs::read(image::python_root(dir.path())).unwrap()
    };
    ROOT.get_or_init(made).clone()
}

impl Built {
    pub(crate) fn new(layers: Vec<Vec<u8>>) -> Self {
        let architecture = match std::env::consts::ARCH {
            "aarch64" => "arm64",
            _ => "amd64",
        };
        Built {
            layers,
            process: json!({}),
            architecture,
            is_zstd: false,
        }
    }

    /// With layers that are compressed by zstd where they are compressed.
    pub(crate) fn zstd(mut self) -> Self {
        self.is_zstd = true;
        self
    }

    pub(crate) fn user(mut self, user: &str) -> Self {
        self.process["User"] = json!(user);
        self
    }

    pub(crate) fn environment(mut self, variables: &[&str]) -> Self {
        self.process["Env"] = json!(variables);
        self
    }

    pub(crate) fn architecture(mut self, architecture: &'static str) -> Self {
        self.architecture = architecture;
        self
    }

    pub(crate) fn configuration(&self) -> Vec<u8> {
        let ids: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        let configuration = json!({
            "architecture": self.architecture, "os": "linux", "config": self.process,
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        configuration.to_string().into_bytes()
    }

    pub(crate) fn blobs(&self) -> Vec<Vec<u8>> {
        let compressed = |layer: &Vec<u8>| match self.is_zstd {
            true => compress_to_vec(&**layer, CompressionLevel::Fastest),
            false => gzip(layer),
        };
        self.layers.iter().map(compressed).collect()
    }

    /// A manifest of compressed layers.
    pub(crate) fn manifest(&self) -> Vec<u8> {
        let configuration = self.configuration();
        let layer = |blob: Vec<u8>| {
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                   "digest": digest(&blob), "size": blob.len()})
        };
        let layers: Vec<Value> = self.blobs().into_iter().map(layer).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": digest(&configuration), "size": configuration.len()},
            "layers": layers,
        });
        manifest.to_string().into_bytes()
    }

    /// As `docker save` wrote it for years.
    pub(crate) fn docker_archive(&self, name: &str) -> Vec<u8> {
        let configuration = self.configuration();
        let hex = digest(&configuration)[7..].to_owned() + ".json";
        let paths: Vec<String> = (0..self.layers.len())
            .map(|n| format!("{n}/layer.tar"))
            .collect();
        let manifest = json!([{"Config": hex, "RepoTags": [name], "Layers": paths}]).to_string();
        let mut files = vec![
            (&*hex, &*configuration),
            ("manifest.json", manifest.as_bytes()),
        ];
        files.extend(
            paths
                .iter()
                .map(|path| &**path)
                .zip(self.layers.iter().map(|it| &**it)),
        );
        tar(&files)
    }

    /// An OCI layout, without a name.
    pub(crate) fn layout(&self) -> Vec<u8> {
        let (configuration, manifest) = (self.configuration(), self.manifest());
        let mut blobs = self.blobs();
        let index = json!({"schemaVersion": 2, "manifests": [
            {"digest": digest(&manifest), "size": manifest.len()}]});
        let index = index.to_string();
        blobs.extend([configuration, manifest]);
        let path = |blob: &Vec<u8>| format!("blobs/sha256/{}", &digest(blob)[7..]);
        let paths: Vec<String> = blobs.iter().map(path).collect();
        let mut files = vec![("index.json", index.as_bytes())];
        files.extend(
            paths
                .iter()
                .map(|path| &**path)
                .zip(blobs.iter().map(|it| &**it)),
        );
        tar(&files)
    }
}
