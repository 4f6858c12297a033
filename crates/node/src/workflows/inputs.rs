//! Inputs of tasks, written down for who wants to see what functions are called with
//! (`workflow.profiling.saveinput`): `DIRECTORY/<function>/<task>-<execution>.json`.
//!
//! Writing one fails for its own reasons only: the task runs all the same.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tracing::warn;

/// Inputs that are written from the node's start on; others are not, so that a profile that is
/// forgotten doesn't fill the disk.
const INPUTS_MAX: u64 = 100_000;

/// Characters of a name that stand for themselves in that of a file.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// See the module.
#[derive(Debug)]
pub(crate) struct Inputs {
    directory: PathBuf,
    written: AtomicU64,
}

impl Inputs {
    /// `None` if they are not to be written.
    pub(crate) fn new(directory: Option<&Path>) -> anyhow::Result<Option<Self>> {
        let Some(directory) = directory else {
            return Ok(None);
        };
        let named = || format!("saving inputs of tasks in {}", directory.display());
        // The node may change its directory; this one is that of its start.
        let directory = std::path::absolute(directory).with_context(named)?;
        make(&directory).with_context(named)?;
        let written = AtomicU64::new(0);
        Ok(Some(Self { directory, written }))
    }

    /// Writes what a function is called with, as what task of what execution.
    pub(crate) async fn save(
        &self,
        (function, task, execution): (&str, &str, &str),
        input: &Value,
    ) {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        if number >= INPUTS_MAX {
            if number == INPUTS_MAX {
                warn!("{INPUTS_MAX} inputs of tasks were saved: no more until the next start");
            }
            return;
        }
        let plain = |name| utf8_percent_encode(name, PLAIN).to_string();
        let directory = self.directory.join(plain(function));
        let file = directory.join(format!("{}-{}.json", plain(task), plain(execution)));
        let text = input.to_string();
        let written = tokio::task::spawn_blocking(move || {
            make(&directory)?;
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(true).mode(0o600);
            options.open(file)?.write_all(text.as_bytes())
        });
        if let Ok(Err(error)) = written.await {
            warn!(function, task, execution, %error, "a task's input was not saved");
        }
    }
}

fn make(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}
