//! What shows that this node is there for its executions: a key under a lease that is kept alive. It is
//! apart from the node's entry among the members, which is gone while the node still ends its work, and
//! it isn't removed when the node stops: a node that is back before the lease ends goes on with what it
//! had.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serverledge_core::Timestamp;
use tracing::{debug, info, warn};

use super::{Takeover, keys};
use crate::federation::etcd::{Etcd, EtcdError};

/// Until another try when etcd is away.
const PAUSE: Duration = Duration::from_millis(500);

/// A node that can own executions, as its key says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Candidate {
    pub(super) area: String,
}

/// Time that never goes back and doesn't stand still while the machine sleeps, which the kernel's
/// monotonic clock does: leases go on meanwhile.
pub(super) struct Clock {
    began: (Instant, SystemTime),
    /// By how much the other clock has been ahead, nanoseconds.
    ahead: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            began: (Instant::now(), SystemTime::now()),
            ahead: AtomicU64::new(0),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        let steady = self.began.0.elapsed();
        // If that was set back, nothing is to be learnt of it.
        let other = self.began.1.elapsed().unwrap_or_default();
        let ahead = u64::try_from(other.saturating_sub(steady).as_nanos()).unwrap_or(u64::MAX);
        let ahead = self.ahead.fetch_max(ahead, Ordering::Relaxed).max(ahead);
        Timestamp(steady + Duration::from_nanos(ahead))
    }
}

/// Keeps the node's key; never returns.
pub(super) async fn keep(takeover: Arc<Takeover>) {
    let mut lease = None;
    loop {
        match keep_once(&takeover, &mut lease).await {
            Ok(()) => {
                takeover.change_tenure(|tenure, _| tenure.lost());
                warn!("the lease for this node's executions has ended; asking for another");
            }
            Err(error) => {
                debug!(error = crate::chain(&error), "keeping executions stopped");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Keeps the lease alive; returns when it has ended.
async fn keep_once(takeover: &Takeover, lease: &mut Option<u64>) -> Result<(), EtcdError> {
    let (etcd, life) = (&takeover.etcd, takeover.lease);
    let sent = takeover.clock.now();
    let held = match *lease {
        // From before etcd was away: it may live still.
        Some(held) if etcd.keep_alive(held).await? => held,
        _ => {
            let granted = etcd.grant(life).await?;
            *lease = Some(granted);
            granted
        }
    };
    put(takeover, etcd, held).await?;
    kept(takeover, sent);
    info!(
        node = takeover.node,
        "executions of this node are kept in etcd"
    );
    loop {
        tokio::time::sleep(life / 4).await;
        let sent = takeover.clock.now();
        if !etcd.keep_alive(held).await? {
            *lease = None;
            return Ok(());
        }
        kept(takeover, sent);
    }
}

async fn put(takeover: &Takeover, etcd: &Etcd, lease: u64) -> Result<(), EtcdError> {
    let candidate = Candidate {
        area: takeover.area.clone(),
    };
    let value = serverledge_api::encode(&candidate);
    etcd.put(&keys::node(&takeover.node), &value, Some(lease))
        .await?;
    Ok(())
}

fn kept(takeover: &Takeover, sent: Timestamp) {
    takeover.change_tenure(|tenure, now| tenure.kept(sent, takeover.lease, now));
}
