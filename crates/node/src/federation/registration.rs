//! This node's own entry in the registry: under a lease that is kept alive, made again when the
//! lease is lost, and removed when the node stops.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::etcd::{Etcd, EtcdError};
use super::member::Member;

/// How long the entry outlives its node. The original's lease is 120 s long, for which time a dead
/// node gets calls.
const LEASE: Duration = Duration::from_secs(10);

/// How often the lease is kept alive: three times before it would end.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Until another try when etcd is away.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps `member` in the registry until `leaving` is cancelled, and removes it then.
pub(super) async fn keep(etcd: Arc<Etcd>, member: Member, leaving: CancellationToken) {
    let mut lease = None;
    let kept = async {
        loop {
            match keep_once(&etcd, &member, &mut lease).await {
                Ok(()) => warn!("the lease of this node's entry was lost; registering again"),
                Err(error) => {
                    debug!(error = crate::chain(&error), "registration stopped");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    let _: Option<()> = leaving.run_until_cancelled(kept).await;
    if let Some(lease) = lease
        && let Err(error) = etcd.revoke(lease).await
    {
        // It ends by itself.
        debug!(
            error = crate::chain(&error),
            "the lease could not be revoked"
        );
    }
}

/// Registers and keeps the lease alive; returns when it has ended.
async fn keep_once(etcd: &Etcd, member: &Member, lease: &mut Option<u64>) -> Result<(), EtcdError> {
    let held = match *lease {
        // From before etcd was away: it may live still.
        Some(held) if etcd.keep_alive(held).await? => held,
        _ => {
            let granted = etcd.grant(LEASE).await?;
            *lease = Some(granted);
            granted
        }
    };
    let (path, value) = (member.path(), member.value());
    etcd.put(&path, value.as_bytes(), Some(held)).await?;
    info!(key = path, value, "registered");
    loop {
        tokio::time::sleep(KEEP_ALIVE).await;
        if !etcd.keep_alive(held).await? {
            *lease = None;
            return Ok(());
        }
    }
}
