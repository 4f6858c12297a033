//! Results of asynchronous calls, where every node of the fleet finds them: `async/<request id>`.
//!
//! A result is in this node's own store first. What etcd didn't take waits here, by its id, and is
//! sent when etcd is back. After a restart of the node, what waited is found at this node only.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{debug, warn};

use super::etcd::{Etcd, EtcdError, VALUE_MAX};
use crate::store::Store;

/// Ids that wait; of those beyond, the results are found at this node only.
const WAITING_MAX: usize = 100_000;

/// Results within this time share a lease, which lives as much longer.
const LEASE_SHARED: Duration = Duration::from_secs(60);

/// Until another try when etcd is away.
const PAUSE: Duration = Duration::from_secs(1);

/// Where the result of the call `id` is.
fn key(id: &str) -> String {
    format!("async/{id}")
}

/// Results on their way to etcd.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<VecDeque<String>>,
    news: Notify,
}

impl Outbox {
    /// Sends the result of the call `id`, which is in the store.
    pub(super) fn add(&self, id: &str) {
        let mut waiting = self.lock();
        if waiting.len() >= WAITING_MAX {
            warn!(
                call = id,
                "etcd is away for too long; other nodes won't find this result"
            );
            return;
        }
        waiting.push_back(id.to_owned());
        drop(waiting);
        self.news.notify_one();
    }

    /// Whether all has been sent.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Sends what is there and what comes; never returns. Each result is found for `retention`.
    pub(super) async fn send(&self, etcd: &Etcd, store: &Store, retention: Duration) {
        let mut lease: Option<(u64, Instant)> = None;
        loop {
            let next = self.lock().front().cloned();
            let Some(id) = next else {
                self.news.notified().await;
                continue;
            };
            match send_one(etcd, store, &id, retention, &mut lease).await {
                Ok(()) => drop(self.lock().pop_front()),
                Err(error) if error.is_final() => {
                    warn!(
                        call = id,
                        error = crate::chain(&error),
                        "only this node has the result"
                    );
                    self.lock().pop_front();
                }
                Err(error) => {
                    debug!(
                        call = id,
                        error = crate::chain(&error),
                        "result not sent yet"
                    );
                    lease = None;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send_one(
    etcd: &Etcd,
    store: &Store,
    id: &str,
    retention: Duration,
    lease: &mut Option<(u64, Instant)>,
) -> Result<(), EtcdError> {
    let result = match store.result(id) {
        Ok(Some(result)) => result,
        // Swept in the meantime.
        Ok(None) => return Ok(()),
        Err(error) => {
            warn!(
                call = id,
                error = crate::chain(&error),
                "result could not be read to be sent"
            );
            return Ok(());
        }
    };
    if result.len() > VALUE_MAX {
        let bytes = result.len();
        warn!(
            call = id,
            bytes, "result is larger than etcd takes; only this node has it"
        );
        return Ok(());
    }
    let shared = match *lease {
        Some((shared, since)) if since.elapsed() < LEASE_SHARED => shared,
        _ => {
            let granted = etcd.grant(retention + LEASE_SHARED).await?;
            *lease = Some((granted, Instant::now()));
            granted
        }
    };
    etcd.put(&key(id), &result, Some(shared)).await?;
    Ok(())
}

/// The result of the call `id`, if some node has put it there.
pub(super) async fn find(etcd: &Etcd, id: &str) -> Result<Option<Vec<u8>>, EtcdError> {
    Ok(etcd.get(&key(id)).await?.map(|entry| entry.value))
}
