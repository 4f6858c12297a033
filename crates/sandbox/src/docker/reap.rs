//! Removes what a killed node left with the engine.

use std::fs;
use std::path::Path;

use super::container::LABEL;
use super::engine::{Engine, EngineError};
use crate::cgroup::hash;
use crate::oci::Reaped;

/// The label of a node's containers.
pub(super) fn label(node: &str) -> String {
    format!("{LABEL}={node}")
}

/// A node's name with the engine: its state directory's.
pub(super) fn node_name(state_dir: &Path) -> String {
    format!("{:016x}", hash(state_dir))
}

/// Removes what an earlier node with this state directory left behind when it was killed:
/// containers, directories. Call it once at start, before
/// [`super::DockerBackend::start`], and only when no other node uses the directory.
pub async fn reap(engine: &Engine, state_dir: &Path) -> Result<Reaped, EngineError> {
    let label = label(&node_name(state_dir));
    let mut reaped = Reaped::default();
    let containers = engine.containers(&label).await?;
    let removals = containers.iter().map(|id| engine.remove(id));
    for (id, removed) in containers
        .iter()
        .zip(futures_util::future::join_all(removals).await)
    {
        match removed {
            Ok(()) => reaped.processes += 1,
            Err(error) => reaped.problems.push(format!("container {id}: {error}")),
        }
    }
    reaped.sandboxes = containers.len();
    // Without a container, a directory is of no use. None at all is as good.
    for entry in fs::read_dir(state_dir.join("sandboxes"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            let path = entry.path();
            reaped.problems.push(format!("{}: {error}", path.display()));
        }
    }
    Ok(reaped)
}
