//! What placing the tasks of workflows goes by: `workflow.offloading.*`.

use std::path::PathBuf;
use std::time::Duration;

use serverledge_core::placement::{Costs, Policy, Threshold, Weights};

/// See the module. The defaults are the original's.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// Who decides; nobody.
    pub policy: Policy,
    /// When memory is short.
    pub threshold: Threshold,
    /// Host of an optimiser outside; none: the one built in.
    pub optimizer_host: Option<String>,
    /// Its port; 8080.
    pub optimizer_port: u16,
    /// Tasks that a placement by `ilp` serves; 2.
    pub placement_uses: u32,
    /// Of the objective's parts.
    pub weights: Weights,
    /// Of areas.
    pub costs: Costs,
    /// Of nodes to the data store, MB/s; 40.
    pub node_bandwidth: f64,
    /// Of the cloud to the data store, MB/s; 1000.
    pub cloud_bandwidth: f64,
    /// File with what functions take, instead of what is measured; none.
    pub means_file: Option<PathBuf>,
    /// File that what is measured is written to; none.
    pub dump_file: Option<PathBuf>,
    /// How often; 60 s.
    pub dump_interval: Duration,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            policy: Policy::Disable,
            threshold: Threshold::default(),
            optimizer_host: None,
            optimizer_port: 8080,
            placement_uses: 2,
            weights: Weights::default(),
            costs: Costs::default(),
            node_bandwidth: 40.0,
            cloud_bandwidth: 1000.0,
            means_file: None,
            dump_file: None,
            dump_interval: Duration::from_secs(60),
        }
    }
}
