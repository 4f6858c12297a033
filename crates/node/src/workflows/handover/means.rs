//! What functions take, as files: read at the start instead of being measured, or written while it
//! is. The original fills such files from Prometheus; here they hold what the node has measured.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use serverledge_core::placement::{Means, Statistics};
use tracing::warn;

use crate::node::Node;

/// Largest file that is read.
const BYTES_MAX: u64 = 64 << 20;

/// What a file says.
pub(super) fn load(path: &Path) -> anyhow::Result<Statistics> {
    let named = || format!("reading {} (metrics.load.json.file)", path.display());
    let file = File::open(path).with_context(named)?;
    let mut text = Vec::new();
    let mut file = file.take(BYTES_MAX + 1);
    file.read_to_end(&mut text).with_context(named)?;
    ensure!(
        text.len() as u64 <= BYTES_MAX,
        "{}: it has more than {BYTES_MAX} bytes",
        named()
    );
    let means = serverledge_api::decode_means(&text).with_context(named)?;
    Ok(Statistics::of(&means))
}

/// Writes what is known to `metrics.dump.json.file` every now and then, and when the node stops;
/// nothing if that isn't set.
pub(crate) async fn run(node: Arc<Node>) {
    let config = &node.config.placement;
    let Some(path) = &config.dump_file else {
        return;
    };
    loop {
        let pause = tokio::time::sleep(config.dump_interval);
        let goes_on = node.stopping().run_until_cancelled(pause).await.is_some();
        let (means, place) = (node.workflows.places.means(), path.clone());
        let written = tokio::task::spawn_blocking(move || write(&place, &means)).await;
        if let Ok(Err(error)) = written {
            warn!(file = %path.display(), %error, "metrics.dump.json.file can't be written");
        }
        if !goes_on {
            return;
        }
    }
}

/// All of it or nothing.
fn write(path: &Path, means: &Means) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, serverledge_api::encode_means(means))?;
    std::fs::rename(&beside, path)
}
