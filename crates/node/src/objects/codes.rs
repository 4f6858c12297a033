//! Code in the store: `PREFIX/code/DIGEST`, as it was sent. Only what doesn't go through etcd is
//! there (`federation::functions`).
//!
//! Code is put there before its function is told to the fleet. A store that fails or hangs stops
//! no registration: putting goes on in the background until the store has it or this node no longer
//! has, and every start looks for what is missing. What is there is believed by its digest alone, and
//! removed by nobody: other functions, other versions and other fleets may have the same.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tracing::{debug, info, warn};

use super::{ObjectError, Objects};
use crate::code::Digest;
use crate::config::Location;
use crate::node::Node;

/// Codes that are put at once: each is in memory.
const PUTS_MAX: usize = 1;

/// Codes that wait to be put; further ones are put at the next start.
const PENDING_MAX: usize = 10_000;

/// Pauses between attempts to put one: the first, and the longest; each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// How long a store that failed is asked last.
const DOUBT: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct Codes {
    location: Location,
    puts: Semaphore,
    pending: Mutex<BTreeSet<Digest>>,
    /// When it last failed.
    failed: Mutex<Option<Instant>>,
}

impl Codes {
    pub(super) fn new(location: Location) -> Self {
        Self {
            location,
            puts: Semaphore::new(PUTS_MAX),
            pending: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    fn key(&self, digest: &Digest) -> String {
        match self.location.prefix.as_str() {
            "" => format!("code/{digest}"),
            prefix => format!("{prefix}/code/{digest}"),
        }
    }

    /// Whether it has failed a moment ago, so that others are better asked first.
    pub(crate) fn is_doubtful(&self) -> bool {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.is_some_and(|when| when.elapsed() < DOUBT)
    }

    fn note<T>(&self, result: &Result<T, ObjectError>) {
        let works = matches!(result, Ok(_) | Err(ObjectError::Missing(_)));
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed = (!works).then(Instant::now);
    }

    fn pending(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store, and where code is in it.
fn of(node: &Node) -> Option<(&Objects, &Codes)> {
    let objects = node.objects.as_ref()?;
    Some((objects, objects.codes.as_ref()?))
}

/// Code from the store; `None` without a store. Whether it is the right one is for the caller to see.
pub(crate) async fn get(node: &Node, digest: &Digest) -> Option<Result<Bytes, ObjectError>> {
    let (objects, codes) = of(node)?;
    let bytes_max = node.config.api.create_body_max;
    let place = (codes.location.bucket.as_str(), codes.key(digest));
    let got = objects.get((place.0, &place.1), None, bytes_max).await;
    codes.note(&got);
    Some(got)
}

/// Has the store have this code, soon. Waits until it has or has failed, not longer than
/// `object_store.upload_wait`, and not at all if it has just failed.
pub(crate) async fn keep(node: &Arc<Node>, digest: &Digest) {
    let is_doubtful = of(node).is_some_and(|(_, codes)| codes.is_doubtful());
    let Some(first) = begin(node, digest).filter(|_| !is_doubtful) else {
        return;
    };
    let time_max = node.config.object_store.upload_wait;
    if tokio::time::timeout(time_max, first).await.is_err() {
        warn!(%digest, ?time_max, "the code is not in the object store yet (object_store.upload_wait)");
    }
}

/// Has the store have all code of this node that is too large for etcd, in the background.
pub(crate) fn keep_all(node: &Arc<Node>, bytes_min: u64) {
    if of(node).is_none() {
        return;
    }
    let functions = node.catalog.names().into_iter();
    let functions = functions.filter_map(|name| node.catalog.function(&name));
    let digests =
        functions.filter_map(|function| Digest::parse(function.record.code.as_deref()?).ok());
    for digest in digests.collect::<BTreeSet<_>>() {
        if node
            .code
            .kept_bytes(&digest)
            .is_some_and(|bytes| bytes > bytes_min)
        {
            drop(begin(node, &digest));
        }
    }
}

/// Begins to put code; what tells of the first attempt's end, unless it is being put already.
fn begin(node: &Arc<Node>, digest: &Digest) -> Option<oneshot::Receiver<()>> {
    let (_, codes) = of(node)?;
    let mut pending = codes.pending();
    if pending.len() >= PENDING_MAX || !pending.insert(digest.clone()) {
        return None;
    }
    drop(pending);
    let (told, first) = oneshot::channel();
    let (node, digest) = (Arc::clone(node), digest.clone());
    tokio::spawn(async move {
        let stopping = node.stopping().clone();
        let put = put_until_there(&node, &digest, told);
        stopping.run_until_cancelled(put).await;
        if let Some((_, codes)) = of(&node) {
            codes.pending().remove(&digest);
        }
    });
    Some(first)
}

async fn put_until_there(node: &Arc<Node>, digest: &Digest, told: oneshot::Sender<()>) {
    let mut told = Some(told);
    let mut pause = PAUSE_MIN;
    loop {
        let put = put(node, digest).await;
        let is_first = told.take().map(|told| told.send(())).is_some();
        match put {
            Ok(true) => return info!(%digest, "code was put into the object store"),
            Ok(false) => return,
            Err(error) if is_first => {
                let error = crate::chain(&error);
                warn!(%digest, error, "code could not be put into the object store; tried again");
            }
            Err(error) => {
                debug!(%digest, error = crate::chain(&error), "still not in the object store")
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Puts code; `false` if there is nothing to do: the store has it, or this node no longer has.
async fn put(node: &Arc<Node>, digest: &Digest) -> Result<bool, ObjectError> {
    let Some((objects, codes)) = of(node) else {
        return Ok(false);
    };
    let Ok(_permit) = codes.puts.acquire().await else {
        return Ok(false);
    };
    let (bucket, key) = (&codes.location.bucket, codes.key(digest));
    let is_there = objects.has(bucket, &key).await;
    codes.note(&is_there);
    if is_there? {
        return Ok(false);
    }
    let (this, wanted) = (Arc::clone(node), digest.clone());
    let read = move || this.code.as_sent(&wanted, this.config.api.create_body_max);
    let read = tokio::task::spawn_blocking(read).await;
    let Ok(Ok(Some(code))) = read else {
        debug!(%digest, "the code to be put into the object store is gone");
        return Ok(false);
    };
    let put = objects.put(bucket, &key, code.into()).await;
    codes.note(&put);
    put.map(|()| true)
}
