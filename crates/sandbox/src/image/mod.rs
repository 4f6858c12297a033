//! Images for the built-in sandbox, and WebAssembly as artifacts: got from registries or archives, kept
//! as unpacked layers.
//!
//! Everything is in files, so that the commands work whether or not a node runs on the same
//! directory: `layers/<diff id>` is what one layer adds, ready for overlayfs and shared by all
//! images that have it; `records/` says of which layers an image is made. Both are made under
//! `tmp/` and renamed, so what is there is whole. Who adds holds `lock` shared, who removes holds
//! it alone; who runs something from a layer holds a lock on its directory (`use_layers`).
//!
//! Nothing here trusts an image: digests are checked, sizes are limited, and `unpack` keeps what is
//! in a layer inside of its directory.
//!
//! Left out: images for other systems than Linux, pushing and building.

mod archive;
mod error;
mod manifest;
mod reference;
mod registry;
mod store;
#[cfg(test)]
mod tests;
mod transfer;
mod unpack;
mod user;
mod zstd;

use std::path::PathBuf;
use std::time::Duration;

pub use error::ImageError;
pub use reference::Reference;
pub use store::{Collected, Image, ImageStore, LayerUse};
pub(crate) use user::{User, user};

/// Layers of an image: their paths must fit into the options of a mount, which are one page.
pub const LAYERS_MAX: usize = 60;

/// Bytes of a manifest or of an image's configuration.
const METADATA_MAX: u64 = 4 << 20;

/// Bytes of an image's environment, which goes to the executor in one pipe.
const ENVIRONMENT_MAX: usize = 16 << 10;

/// Where images are and what they may take.
#[derive(Clone, Debug)]
pub struct ImageConfig {
    /// Directory of the store; made if it isn't there.
    pub dir: PathBuf,
    /// What images may take.
    pub limits: ImageLimits,
    /// Registries, as `host` or `host:port`, that are talked to without TLS.
    pub insecure_registries: Vec<String>,
    /// File with credentials, like Docker's `config.json`.
    pub auth_file: Option<PathBuf>,
}

impl ImageConfig {
    /// The defaults.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        ImageConfig {
            dir: dir.into(),
            limits: ImageLimits::default(),
            insecure_registries: Vec::new(),
            auth_file: None,
        }
    }
}

/// What images may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Bytes of a layer as it is received. Default 2 GiB.
    pub layer_max: u64,
    /// Bytes of an image, unpacked; each entry counts for at least a block of 4 KiB. Default 4 GiB.
    pub unpacked_max: u64,
    /// Files, directories and links of an image. Default 500,000.
    pub entries_max: u64,
    /// Bytes of all layers together, counted as in `unpacked_max`. Default 16 GiB.
    pub store_max: u64,
    /// How long getting an image from a registry may take. Default 600 s.
    pub pull_timeout: Duration,
}

impl Default for ImageLimits {
    fn default() -> Self {
        ImageLimits {
            layer_max: 2 << 30,
            unpacked_max: 4 << 30,
            entries_max: 500_000,
            store_max: 16 << 30,
            pull_timeout: Duration::from_secs(600),
        }
    }
}

/// This machine, in the words of images.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
