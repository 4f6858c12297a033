//! What there is around a node to plan with: who can run what, how much memory neighbors have, how
//! long the ways are.

use std::time::{Duration, Instant};

use serverledge_core::qos::{Estimators, Known, Surroundings};
use tokio::net::TcpStream;

use crate::catalog::Function;
use crate::federation::Place;
use crate::node::Node;

/// How long a member of the cloud may take to accept a connection. The original waits as long.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);

/// Members of the cloud that are tried, until one accepts.
const CONNECT_TRIES: usize = 3;

/// Bits a second, of the megabits that the configuration has.
const MEGABIT: f64 = 1e6;

/// See the module.
pub(super) struct Around {
    neighbors: Vec<Place>,
    cloud: Vec<Place>,
    /// The way to the cloud and back, seconds.
    cloud_way: f64,
}

/// Looks around. Takes time: where members of the cloud tell nothing (load balancers, the
/// original's nodes behind a wall), it connects to one to see how far away it is.
pub(super) async fn look(node: &Node) -> Around {
    let Some(federation) = &node.federation else {
        return Around {
            neighbors: Vec::new(),
            cloud: Vec::new(),
            cloud_way: 0.0,
        };
    };
    let (neighbors, mut cloud) = federation.places(node);
    let told = cloud.iter().filter_map(|place| place.distance);
    let told = told.min_by(f64::total_cmp);
    let cloud_way = match told {
        Some(told) => told,
        None => match connect(&cloud).await {
            Some(way) => way,
            None => {
                // Nobody is there, for now.
                cloud.clear();
                0.0
            }
        },
    };
    Around {
        neighbors,
        cloud,
        cloud_way,
    }
}

/// How long one of `places` takes to accept a connection: there and back, once.
async fn connect(places: &[Place]) -> Option<f64> {
    for place in places.iter().take(CONNECT_TRIES) {
        let began = Instant::now();
        let address = (place.host.as_str(), place.api_port);
        let connecting = tokio::time::timeout(CONNECT_TIME_MAX, TcpStream::connect(address));
        if let Ok(Ok(_)) = connecting.await {
            return Some(began.elapsed().as_secs_f64());
        }
    }
    None
}

impl Around {
    /// The same in numbers.
    pub(super) fn surroundings(&self, node: &Node, estimators: &Estimators) -> Surroundings {
        let config = &node.config;
        let bandwidth = |megabits: f64| match megabits {
            megabits if megabits > 0.0 => megabits * MEGABIT,
            _ => f64::INFINITY,
        };
        let free = |place: &Place| {
            let available = place.memory_available.unwrap_or(0) as f64;
            (available, estimators.exposed(&place.key))
        };
        let free = self.neighbors.iter().map(free);
        let exposed: f64 = free.map(|(available, exposed)| available * exposed).sum();
        // What calls of this node take there is theirs already.
        let held = node.qos.held_mb.load(std::sync::atomic::Ordering::Relaxed) as f64;
        Surroundings {
            local_memory_mb: config.container.pool_memory_mb as f64,
            edge_memory_mb: exposed + held,
            cloud_way: self.cloud_way,
            edge_way: self.edge_way(),
            cloud_bandwidth: bandwidth(config.qos.cloud_bandwidth_mbit),
            edge_bandwidth: bandwidth(config.qos.edge_bandwidth_mbit),
            cloud_cost: config.qos.cloud_cost,
            budget: node.qos.budget,
        }
    }

    /// The mean way, neighbors with more memory weighing more: they are chosen more often.
    fn edge_way(&self) -> f64 {
        let told = self.neighbors.iter().filter_map(|place| {
            let weight = place.memory_available? as f64 + 1.0;
            Some((weight, place.distance?))
        });
        let (weights, sum) = told.fold((0.0, 0.0), |(weights, sum), (weight, way)| {
            (weights + weight, sum + weight * way)
        });
        if weights > 0.0 { sum / weights } else { 0.0 }
    }

    /// What is known of a function by name; `None` if it is gone.
    pub(super) fn known(&self, node: &Node, name: &str) -> Option<Known> {
        let function = node.catalog.function(name)?;
        let own = node.identity.architecture;
        let limits = &function.limits;
        let shared = f64::from(limits.max_concurrency.max(1));
        let has_room = |place: &Place| place.memory_total.is_some_and(|it| it >= limits.memory_mb);
        let neighbors = self.neighbors.iter();
        Some(Known {
            // A sandbox that serves several calls at once is shared by them.
            memory_mb: limits.memory_mb as f64 / shared,
            here: fits(&function, own) && limits.memory_mb <= node.config.container.pool_memory_mb,
            in_cloud: self.cloud.iter().any(|place| runs(place, &function)),
            on_edge: neighbors
                .filter(|place| has_room(place))
                .any(|place| runs(place, &function)),
        })
    }
}

fn runs(place: &Place, function: &Function) -> bool {
    place.is_balancer || fits(function, &place.architecture)
}

fn fits(function: &Function, architecture: &str) -> bool {
    let architectures = &function.record.architectures;
    architectures.is_empty() || architectures.iter().any(|it| it == architecture)
}
