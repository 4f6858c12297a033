//! Following the keys below a prefix: read once, watched from there on, and read anew whenever the
//! watch breaks, has been overtaken by etcd's compaction, or has gone on for long enough.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use super::etcd::{Entry, Etcd, EtcdError, Event, Values};

/// What has become known.
#[derive(Debug)]
pub(crate) enum Change {
    /// Everything there is, at a revision of the cluster: what isn't listed is gone.
    Listed(Vec<Entry>, u64),
    Event(Event),
    /// Nothing can be known for now.
    Away,
}

/// Pauses between tries while etcd is away.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Follows `prefix` until nobody receives the changes any more. Everything is read again after
/// `refresh`, in case a watch has gone dead unnoticed.
pub(super) async fn follow(
    etcd: Arc<Etcd>,
    prefix: &'static str,
    values: Values,
    refresh: Duration,
    changes: mpsc::Sender<Change>,
) {
    let mut pause = PAUSE_FIRST;
    while !changes.is_closed() {
        let followed = follow_once(&etcd, prefix, values, refresh, &changes).await;
        match followed {
            Ok(()) => pause = PAUSE_FIRST,
            Err(error) => {
                debug!(prefix, error = crate::chain(&error), "following stopped");
                let _ = changes.send(Change::Away).await;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

async fn follow_once(
    etcd: &Etcd,
    prefix: &str,
    values: Values,
    refresh: Duration,
    changes: &mpsc::Sender<Change>,
) -> Result<(), EtcdError> {
    let (entries, revision) = etcd.list(prefix, values).await?;
    let mut watch = etcd.watch(prefix, revision + 1).await?;
    if changes
        .send(Change::Listed(entries, revision))
        .await
        .is_err()
    {
        return Ok(());
    }
    let watched = async {
        loop {
            for event in watch.next().await? {
                if changes.send(Change::Event(event)).await.is_err() {
                    return Ok(());
                }
            }
        }
    };
    // Out of time is as it should be.
    timeout(refresh, watched).await.unwrap_or(Ok(()))
}
