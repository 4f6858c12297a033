//! Who the targets are: those that are configured, and the nodes of the balancer's area in the
//! registry. Each has a task that probes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serverledge_core::balancer::Architecture;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::probe::{self, Pace};
use super::router::{Router, Wanted};
use crate::config::Config;
use crate::federation::Member;
use crate::federation::seat::Seen;

/// How long a start waits for etcd to tell who is there.
const FIRST_READ_MAX: Duration = Duration::from_secs(3);

struct Targets {
    router: Arc<Router>,
    /// By key.
    probes: BTreeMap<String, AbortOnDropHandle<()>>,
    pace: Pace,
    fixed: Vec<Wanted>,
    area: String,
}

/// Keeps the router's targets up to date, until what is returned is dropped. Those that are known
/// now are in when this returns.
pub(super) async fn follow(
    config: &Config,
    router: &Arc<Router>,
    members: Option<watch::Receiver<Seen>>,
) -> AbortOnDropHandle<()> {
    let mut targets = Targets {
        router: Arc::clone(router),
        probes: BTreeMap::new(),
        pace: Pace {
            interval: config.balancer.health_interval,
            time_max: config.balancer.health_timeout,
            connect_time_max: config.balancer.connect_timeout,
        },
        fixed: config
            .balancer
            .targets
            .iter()
            .filter_map(|it| fixed(it))
            .collect(),
        area: config.registry.area.clone(),
    };
    let Some(mut members) = members else {
        targets.install(&None);
        return AbortOnDropHandle::new(tokio::spawn(async move {
            let _probes = targets;
            std::future::pending::<()>().await;
        }));
    };
    let read = tokio::time::timeout(FIRST_READ_MAX, members.wait_for(Option::is_some));
    if read.await.is_err() {
        warn!("etcd doesn't tell who is there; starting with the targets configured");
    }
    let first = members.borrow_and_update().clone();
    targets.install(&first);
    AbortOnDropHandle::new(tokio::spawn(async move {
        while members.changed().await.is_ok() {
            let seen = members.borrow_and_update().clone();
            targets.install(&seen);
        }
    }))
}

impl Targets {
    fn install(&mut self, seen: &Seen) {
        let members = seen.iter().flat_map(|members| members.values());
        let members = members.filter(|it| !it.is_balancer && it.area == self.area);
        let wanted: Vec<Wanted> = self
            .fixed
            .iter()
            .cloned()
            .chain(members.map(|member| wanted(member)))
            .collect();
        self.probes
            .retain(|key, _| wanted.iter().any(|wanted| wanted.key == *key));
        for target in self.router.install(wanted) {
            let key = target.key.clone();
            let probe = probe::run(Arc::clone(&self.router), target, self.pace);
            // Of one that has moved, the former probe ends here.
            self.probes
                .insert(key, AbortOnDropHandle::new(tokio::spawn(probe)));
        }
    }
}

/// Of `host:port`. What it is built for shows in its answers.
fn fixed(endpoint: &str) -> Option<Wanted> {
    let (host, port) = endpoint.rsplit_once(':')?;
    Some(Wanted {
        key: endpoint.to_owned(),
        host: host.to_owned(),
        port: port.parse().ok()?,
        architecture: None,
    })
}

fn wanted(member: &Member) -> Wanted {
    Wanted {
        key: member.key.clone(),
        host: member.host.clone(),
        port: member.api_port,
        architecture: Some(Architecture::parse(&member.architecture)),
    }
}
