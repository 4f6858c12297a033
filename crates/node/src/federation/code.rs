//! Code that is too large for etcd: there, a function has the digest of it, and nodes get it from an
//! object store, if there is one, or from each other (`GET /v1/code/DIGEST`). Every node that has the
//! function has its code.
//!
//! Asked are, one after the other, the store, the node that put the function into etcd, the nearest,
//! and some more; a store that has just failed is asked last. What comes is believed by its digest
//! alone. With a secret, only nodes get code from nodes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::{Method, Request, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::{Federation, Member, signature, unix_micros};
use crate::code::Digest;
use crate::node::Node;
use crate::objects::codes;

/// Where nodes have code, before its digest.
pub(crate) const PATH: &str = "/v1/code/";

/// Nodes that are asked for the same code, at most.
const HOLDERS_MAX: usize = 8;

/// How long one of them may take, and all together with waiting for a turn.
const HOLDER_TIME_MAX: Duration = Duration::from_secs(60);
const PULL_TIME_MAX: Duration = Duration::from_secs(180);

/// Codes that are pulled at once, and that are handed out at once: each is in memory.
const PULLS_MAX: usize = 2;
const HANDED_MAX: usize = 4;

/// Room for code on its way.
#[derive(Debug)]
pub(crate) struct Transfers {
    pulled: Semaphore,
    /// For [`Transfers::hand_out`].
    handed: Semaphore,
    /// Functions whose code is being pulled because etcd has told of them.
    claimed: Mutex<BTreeSet<(String, u64)>>,
}

/// Keeps others from doing the same for a function.
pub(super) struct Claim<'a> {
    transfers: &'a Transfers,
    revision: (String, u64),
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.transfers.claimed().remove(&self.revision);
    }
}

impl Transfers {
    pub(super) fn new() -> Self {
        Self {
            pulled: Semaphore::new(PULLS_MAX),
            handed: Semaphore::new(HANDED_MAX),
            claimed: Mutex::default(),
        }
    }

    /// `None` if the code of this revision of a function is being pulled already: what can't be had
    /// would otherwise be asked for by more and more.
    pub(super) fn claim(&self, name: &str, revision: u64) -> Option<Claim<'_>> {
        let revision = (name.to_owned(), revision);
        let is_first = self.claimed().insert(revision.clone());
        is_first.then(|| Claim {
            transfers: self,
            revision,
        })
    }

    fn claimed(&self) -> MutexGuard<'_, BTreeSet<(String, u64)>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn to hand code out.
    pub(crate) async fn hand_out(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.handed.acquire().await.ok()
    }
}

/// Why code could not be had from any node, nor from the object store.
#[derive(Debug, thiserror::Error)]
#[error("nobody who may have the code {digest} gave it (nodes asked: {asked}): {last}")]
pub struct PullError {
    digest: Digest,
    asked: usize,
    last: String,
}

impl Federation {
    /// Code that `holder` should have, if this node hasn't by now. Checked against its digest.
    pub(crate) async fn pull(
        &self,
        node: &Node,
        digest: &Digest,
        holder: &str,
    ) -> Result<Option<Bytes>, PullError> {
        let pulled = timeout(PULL_TIME_MAX, self.pull_from_any(node, digest, holder)).await;
        pulled.unwrap_or_else(|_| {
            Err(PullError {
                digest: digest.clone(),
                asked: 0,
                last: format!("it took more than {PULL_TIME_MAX:?}"),
            })
        })
    }

    async fn pull_from_any(
        &self,
        node: &Node,
        digest: &Digest,
        holder: &str,
    ) -> Result<Option<Bytes>, PullError> {
        let mut failure = PullError {
            digest: digest.clone(),
            asked: 0,
            last: "there is no other node".to_owned(),
        };
        let Ok(_permit) = self.transfers.pulled.acquire().await else {
            return Err(failure);
        };
        // Somebody else may have needed it, too.
        if node.code.has(digest) {
            return Ok(None);
        }
        let store = node.objects.as_ref().and_then(|it| it.codes.as_ref());
        let is_last = store.is_some_and(|store| store.is_doubtful());
        let mut stored = match is_last {
            true => None,
            false => get_stored(node, digest).await,
        };
        if let Some(Ok(code)) = stored {
            return Ok(Some(code));
        }
        for member in self.holders(node, holder) {
            failure.asked += 1;
            let got = timeout(HOLDER_TIME_MAX, self.get(node, &member, digest)).await;
            match got.unwrap_or_else(|_| Err(format!("took more than {HOLDER_TIME_MAX:?}"))) {
                Ok(code) => {
                    info!(%digest, node = member.key, bytes = code.len(), "code was pulled");
                    return Ok(Some(code));
                }
                Err(error) => {
                    debug!(%digest, node = member.key, error, "no code");
                    failure.last = format!("{}: {error}", member.key);
                }
            }
        }
        if is_last {
            stored = get_stored(node, digest).await;
        }
        match stored {
            Some(Ok(code)) => return Ok(Some(code)),
            Some(Err(error)) => failure.last = format!("{}; {error}", failure.last),
            None => {}
        }
        Err(failure)
    }

    /// Who may have it, the most likely first.
    fn holders(&self, node: &Node, holder: &str) -> Vec<Arc<Member>> {
        let all = self.members.all();
        let near = self.peers.near();
        let first = all.values().filter(|member| member.key == holder);
        let nearest = near.iter().map(|near| &near.member);
        let mut seen = BTreeSet::new();
        first
            .chain(nearest)
            .chain(all.values())
            .filter(|member| !member.is_balancer && member.key != node.identity.key)
            .filter(|member| seen.insert(member.path()))
            .take(HOLDERS_MAX)
            .cloned()
            .collect()
    }

    async fn get(&self, node: &Node, member: &Member, digest: &Digest) -> Result<Bytes, String> {
        let request = Request::get(format!("http://{}{PATH}{digest}", member.authority()));
        let mut request = request.body(Empty::<Bytes>::new()).map_err(said)?;
        if let Some(secret) = &self.secret {
            signature::sign(secret, &mut request, b"", unix_micros());
        }
        let request = request.map(|_| Full::default());
        let response = self.offloader.request(request).await;
        let response = response.map_err(said)?;
        if response.status() != StatusCode::OK {
            return Err(format!("answered {}", response.status()));
        }
        let bytes_max = node.config.api.create_body_max;
        let body = Limited::new(response.into_body(), bytes_max).collect();
        let code = body.await.map_err(|error| error.to_string())?.to_bytes();
        verified(code, digest).await
    }

    /// Whether a request for code comes from a node, as far as that can be told.
    pub(crate) fn may_have_code(&self, path: &str, headers: &hyper::HeaderMap) -> bool {
        self.is_trusted((&Method::GET, path), headers, b"")
    }
}

/// Code from the object store, if there is one.
async fn get_stored(node: &Node, digest: &Digest) -> Option<Result<Bytes, String>> {
    let got = match codes::get(node, digest).await? {
        Ok(code) => verified(code, digest).await,
        Err(error) => Err(said(error)),
    };
    match &got {
        Ok(code) => info!(%digest, bytes = code.len(), "code was pulled from the object store"),
        Err(error) => warn!(%digest, error, "the object store has not given code"),
    }
    Some(got)
}

async fn verified(code: Bytes, digest: &Digest) -> Result<Bytes, String> {
    let (hashed, expected) = (code.clone(), digest.clone());
    let is_it = tokio::task::spawn_blocking(move || Digest::of(&hashed) == expected).await;
    match is_it {
        Ok(true) => Ok(code),
        _ => Err("gave something else".to_owned()),
    }
}

fn said(error: impl std::error::Error) -> String {
    crate::chain(&error)
}
