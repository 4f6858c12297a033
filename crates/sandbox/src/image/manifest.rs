//! The documents of an image: index, manifest and configuration, in Docker's and in OCI's form; and
//! those of an artifact that is a WebAssembly module or component.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::reference::sha256_of;
use super::{ENVIRONMENT_MAX, ImageError, LAYERS_MAX, architecture};

/// A pointer to another document or to a layer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    pub(super) platform: Option<Platform>,
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Platform {
    architecture: String,
    os: String,
}

/// A manifest, which has a configuration and layers, or an index, which has manifests.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Manifest {
    pub(super) config: Option<Descriptor>,
    pub(super) layers: Vec<Descriptor>,
    pub(super) manifests: Vec<Descriptor>,
}

impl Manifest {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        serde_json::from_slice(bytes)
            .map_err(|error| ImageError::invalid(format!("its manifest is malformed: {error}")))
    }

    /// Of an index, the manifest for this machine.
    pub(super) fn choose(&self) -> Result<&Descriptor, ImageError> {
        let fits = |descriptor: &&Descriptor| match &descriptor.platform {
            Some(platform) => platform.os == "linux" && platform.architecture == architecture(),
            // Then the image's configuration tells.
            None => true,
        };
        let is_wasm = |descriptor: &&Descriptor| {
            let platform = descriptor.platform.as_ref();
            platform.is_some_and(|it| is_module(&it.architecture, &it.os))
        };
        let mut manifests = self.manifests.iter();
        let found = manifests
            .clone()
            .find(fits)
            .or_else(|| manifests.find(is_wasm));
        found.ok_or_else(|| {
            let there = self.manifests.iter().filter_map(|it| it.platform.as_ref());
            let there: Vec<String> = there
                .filter(|platform| platform.os != "unknown")
                .map(|platform| format!("{}/{}", platform.os, platform.architecture))
                .collect();
            other_machine(&there.join(", "))
        })
    }
}

/// Whether these are of WebAssembly as it is run here.
fn is_module(architecture: &str, os: &str) -> bool {
    architecture == "wasm" && ["wasip1", "wasip2"].contains(&os)
}

/// What a layer is that is WebAssembly: as it has been agreed on, and as it was before.
const MODULE_LAYERS: [&str; 3] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];
/// The configuration that belongs to the first of them; former ones say nothing.
const MODULE_CONFIGURATION: &str = "application/vnd.wasm.config.v0+json";

/// What that says that matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ModuleConfiguration {
    architecture: String,
    os: String,
    layer_digests: Vec<String>,
}

impl Manifest {
    /// The one layer of an artifact that is WebAssembly; `None` if this is an image.
    pub(super) fn module(&self) -> Result<Option<&Descriptor>, ImageError> {
        let is_wasm = |layer: &Descriptor| MODULE_LAYERS.contains(&&*layer.media_type);
        let config = self.config.as_ref();
        let claims = config.is_some_and(|config| config.media_type == MODULE_CONFIGURATION);
        match &self.layers[..] {
            [layer] if is_wasm(layer) => Ok(Some(layer)),
            layers if claims || layers.iter().any(is_wasm) => Err(ImageError::invalid(format!(
                "it is WebAssembly with {} layers: one module or component makes a function",
                layers.len()
            ))),
            _ => Ok(None),
        }
    }
}

/// The digest of a module, in hexadecimal, if its configuration has nothing against it.
pub(super) fn check_module<'a>(
    config: &Descriptor,
    configuration: &[u8],
    layer: &'a Descriptor,
) -> Result<&'a str, ImageError> {
    let digest = sha256_of(&layer.digest);
    let digest = digest.ok_or_else(|| ImageError::invalid("its layer's digest is no sha256"))?;
    if config.media_type != MODULE_CONFIGURATION {
        return Ok(digest);
    }
    let read: ModuleConfiguration = serde_json::from_slice(configuration)
        .map_err(|error| ImageError::invalid(format!("its configuration is malformed: {error}")))?;
    if !is_module(&read.architecture, &read.os) {
        return Err(ImageError::invalid(format!(
            "it is for {}/{}, and WebAssembly is run here that is for wasip1/wasm or wasip2/wasm",
            read.os, read.architecture
        )));
    }
    if !read.layer_digests.is_empty() && read.layer_digests != [layer.digest.as_str()] {
        return Err(ImageError::invalid("its configuration names another layer"));
    }
    Ok(digest)
}

fn other_machine(there: &str) -> ImageError {
    let here = architecture();
    ImageError::invalid(format!(
        "it is for {there}, and this machine is linux/{here}"
    ))
}

/// What a configuration says that matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Configuration {
    architecture: String,
    os: String,
    config: Option<Process>,
    rootfs: Files,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Process {
    pub(super) env: Option<Vec<String>>,
    pub(super) entrypoint: Option<Vec<String>>,
    pub(super) cmd: Option<Vec<String>>,
    pub(super) working_dir: Option<String>,
    pub(super) user: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Files {
    diff_ids: Vec<String>,
}

/// A configuration that was checked.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) process: Process,
    /// In hexadecimal; the lowest first.
    pub(super) layers: Vec<String>,
}

impl Plan {
    /// Of an image with `blobs` layers.
    pub(super) fn parse(bytes: &[u8], blobs: usize) -> Result<Self, ImageError> {
        let read: Configuration = serde_json::from_slice(bytes).map_err(|error| {
            ImageError::invalid(format!("its configuration is malformed: {error}"))
        })?;
        if read.os != "linux" || read.architecture != architecture() {
            let there = format!("{}/{}", read.os, read.architecture);
            return Err(other_machine(&there));
        }
        let ids = read.rootfs.diff_ids;
        if ids.len() != blobs || ids.is_empty() {
            let differ = format!("it has {blobs} layers and {} digests of them", ids.len());
            return Err(ImageError::invalid(differ));
        }
        if ids.len() > LAYERS_MAX {
            let many = format!("it has {} layers, more than {LAYERS_MAX}", ids.len());
            return Err(ImageError::invalid(many));
        }
        let hex = |id: &String| sha256_of(id).map(str::to_owned);
        let layers: Option<Vec<String>> = ids.iter().map(hex).collect();
        let layers = layers.ok_or_else(|| ImageError::invalid("a layer's digest is no sha256"))?;
        let process = read.config.unwrap_or_default();
        let environment = process.env.iter().flatten().map(String::len);
        if environment.sum::<usize>() > ENVIRONMENT_MAX {
            let large = format!("its environment is larger than {ENVIRONMENT_MAX} bytes");
            return Err(ImageError::invalid(large));
        }
        Ok(Plan { process, layers })
    }
}
