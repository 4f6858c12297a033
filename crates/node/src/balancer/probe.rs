//! Asks a target for its status, again and again: whether it is there, and what it has left.

use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::header::HOST;
use serverledge_api::StatusReply;
use serverledge_core::balancer::{Ejection, Stock};
use tokio::time::timeout;
use tracing::debug;

use super::body::RequestBody;
use super::link::{Link, SendError};
use super::router::{Router, Target};

/// Largest status, bytes: a line for each warm function.
const STATUS_MAX: usize = 1 << 20;

/// How probing goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// From one probe to the next.
    pub(super) interval: Duration,
    /// What one may take.
    pub(super) time_max: Duration,
    /// What connecting may take.
    pub(super) connect_time_max: Duration,
}

/// Probes the target until the task is aborted.
pub(super) async fn run(router: Arc<Router>, target: Arc<Target>, pace: Pace) {
    // A connection of its own: requests don't wait for it, and it doesn't wait for them.
    let mut link = None;
    let mut ticks = tokio::time::interval(pace.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        target.pool.sweep();
        match probe(&target, &mut link, pace).await {
            Ok(stock) => router.probed(&target, stock),
            Err(why) => {
                link = None;
                debug!(target = target.key, why = why.name(), "a probe failed");
                router.probe_failed(&target, why);
            }
        }
    }
}

async fn probe(target: &Target, kept: &mut Option<Link>, pace: Pace) -> Result<Stock, Ejection> {
    let asked = timeout(pace.time_max, async {
        if let Some(mut link) = kept.take()
            && let Some(told) = ask(&mut link, target).await
        {
            *kept = Some(link);
            return Ok(told);
        }
        // It may have been closed for being idle.
        let link = Link::connect(&target.host, pace.connect_time_max).await;
        let mut link = link.map_err(|_| Ejection::Unreachable)?;
        let told = ask(&mut link, target).await.ok_or(Ejection::Silent)?;
        *kept = Some(link);
        Ok(told)
    });
    asked.await.unwrap_or(Err(Ejection::Silent))
}

/// What the target says of itself; `None` if that is no status.
async fn ask(link: &mut Link, target: &Target) -> Option<Stock> {
    let mut request = Request::new(RequestBody::empty());
    *request.uri_mut() = hyper::Uri::from_static("/status");
    let authority = target.authority.clone();
    request.headers_mut().insert(HOST, authority);
    let answer = match link.exchange(request).await {
        Ok(answer) => answer,
        Err(SendError::Unsent(_)) => return None,
        Err(SendError::Failed(error)) => {
            debug!(
                target = target.key,
                error = crate::chain(&error),
                "no status"
            );
            return None;
        }
    };
    if !answer.status().is_success() {
        return None;
    }
    let body = link.collect(answer.into_body(), STATUS_MAX).await.ok()?;
    let status: StatusReply = serde_json::from_slice(&body).ok()?;
    Some(Stock {
        memory_free: Some(status.available_memory as f64),
        memory_total: Some(status.total_memory as f64),
        cpu_free: Some(status.total_cpu - status.used_cpu),
        cpu_total: Some(status.total_cpu),
    })
}
