//! The built-in backend: namespaces, cgroups and seccomp, on the host's own interpreters.
//!
//! A sandbox is made by three processes: the node decides and keeps the connections, the helper
//! (`helper`) forks into new namespaces and sets them up (`child`), the executor is pid 1
//! inside and starts the interpreter. See `docs/decisions` for why this isn't libcontainer.

mod backend;
mod child;
mod helper;
mod images;
mod joined;
pub(crate) mod link;
pub(crate) mod message;
mod overlay;
mod reap;
pub(crate) mod root;
pub(crate) mod sys;
mod tunnels;
mod zygote;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::NetworkConfig;

pub use backend::OciBackend;
pub use helper::helper_main;
pub use reap::{Reaped, reap};
pub use zygote::Zygote;

use crate::image::ImageStore;

/// On the status pipe: what follows is the text of the step that failed before the executor was
/// started. The executor itself writes 1 to 3.
const STATUS_SETUP_FAILED: u8 = 4;

/// How sandboxes are made.
#[derive(Clone, Debug)]
pub struct OciConfig {
    /// Directory of this node for sockets and mount points; made if it isn't there.
    pub state_dir: PathBuf,
    /// Processes and threads a sandbox may have, besides one for each of its slots. Default 64.
    pub process_max: u32,
    /// Size limit of a sandbox's `/tmp` and of each file, in MiB. What is in `/tmp` counts against
    /// the memory limit too. Default 64.
    pub tmp_mb: u64,
    /// First user id of the range from which each sandbox gets its own, as some limits of the
    /// kernel are per user. Default 1,879,048,192, which nobody else is known to use.
    pub uid_base: u32,
    /// Where images are, if there are to be any.
    pub images: Option<Arc<ImageStore>>,
    /// Command that runs [`crate::helper_main`]. Default: this program with `sandbox-helper`.
    pub helper: Vec<OsString>,
    /// What sandboxes reach.
    pub network: NetworkConfig,
    /// Whether Python's interpreters may be forked from zygotes. Default false.
    pub zygote: bool,
}

impl OciConfig {
    /// The defaults.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        OciConfig {
            state_dir: state_dir.into(),
            process_max: 64,
            tmp_mb: 64,
            uid_base: 0x7000_0000,
            images: None,
            helper: helper_command(),
            network: NetworkConfig::default(),
            zygote: false,
        }
    }
}

/// This program, as the helper.
pub(crate) fn helper_command() -> Vec<OsString> {
    vec!["/proc/self/exe".into(), "sandbox-helper".into()]
}

/// A step of the isolation that failed.
#[derive(Debug)]
pub(crate) struct Step {
    doing: String,
    source: io::Error,
}

impl Step {
    /// For `map_err`.
    fn at<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Step {
        let doing = doing.into();
        move |source| Step {
            doing,
            source: source.into(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.source)
    }
}
