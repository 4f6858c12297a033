//! Containers of a Docker engine, made from images.
//!
//! Two kinds of images serve. With an interpreter inside, our shim runs in it; otherwise our bridge
//! runs the image's own command, which serves the original's protocol over HTTP on port 8080 or is a
//! client of AWS Lambda's runtime interface. Either way the sandbox is like any other: frames on a
//! Unix socket. None has a network of the engine's; what a function may reach, it reaches through a
//! device whose other end the node has (`tunnels`), as in the built-in sandbox.
//!
//! The engine keeps the processes, so each container has a task here (`life`) that sees it from
//! its creation to its removal, whatever becomes of those who asked for it. All containers carry a
//! label with the node's state directory, by which `reap` finds strays.
//!
//! Left out: getting images. Who runs the engine decides what is on the machine.

mod backend;
mod container;
mod engine;
mod life;
mod reap;
mod tunnels;

use std::ffi::OsString;
use std::path::PathBuf;

pub use backend::DockerBackend;
pub use container::check_image;
pub use engine::{Engine, EngineError};
pub use reap::reap;

use crate::NetworkConfig;

/// Where engines listen unless told otherwise.
pub const SOCKET: &str = "/var/run/docker.sock";

/// How containers are made.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// Directory of this node for sockets; made if it isn't there. The engine must see it under
    /// the same path.
    pub state_dir: PathBuf,
    /// Processes and threads a sandbox may have, besides one for each of its slots. Default 64.
    pub process_max: u32,
    /// Size limit of a sandbox's `/tmp` and of each file, in MiB. What is in `/tmp` counts against
    /// the memory limit too. Default 64.
    pub tmp_mb: u64,
    /// First user id of the range from which each sandbox gets its own, where the image names no
    /// user. Default as in [`crate::oci::OciConfig`].
    pub uid_base: u32,
    /// Command that runs [`crate::helper_main`]. Default: this program with `sandbox-helper`.
    pub helper: Vec<OsString>,
    /// What sandboxes reach.
    pub network: NetworkConfig,
}

impl DockerConfig {
    /// The defaults.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        DockerConfig {
            state_dir: state_dir.into(),
            process_max: 64,
            tmp_mb: 64,
            uid_base: 0x7000_0000,
            helper: crate::oci::helper_command(),
            network: NetworkConfig::default(),
        }
    }
}
