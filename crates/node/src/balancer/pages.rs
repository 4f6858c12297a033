//! What the balancer says of itself: `/metrics`, and its targets at `/v1/balancer/targets`.

use hyper::Response;
use serde::Serialize;
use serverledge_core::balancer::{Architecture, Seen};

use super::Shared;
use super::body::AnswerBody;
use super::proxy::{Admitted, page};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json; charset=UTF-8";

/// For Prometheus.
pub(super) fn metrics(shared: &Shared) -> Response<AnswerBody> {
    let metrics = &shared.router.metrics;
    let inflight = Admitted::count(&shared.inflight);
    metrics
        .inflight
        .set(i64::try_from(inflight).unwrap_or(i64::MAX));
    // Writing to a text doesn't fail.
    let text = metrics.text(&shared.router.seen()).unwrap_or_default();
    page(OPEN_METRICS, text)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown<'a> {
    key: &'a str,
    architecture: Option<&'static str>,
    health: &'static str,
    /// The part of its requests that it gets.
    share: f64,
    in_flight: usize,
    free_memory: Option<f64>,
    free_cpu: Option<f64>,
}

impl<'a> Shown<'a> {
    fn of(seen: &'a Seen) -> Self {
        Self {
            key: &seen.target.key,
            architecture: seen.target.architecture.map(|it| match it {
                Architecture::Amd64 => "amd64",
                Architecture::Arm64 => "arm64",
                Architecture::Other => "other",
            }),
            health: seen.health,
            share: seen.share,
            in_flight: seen.inflight,
            free_memory: seen.stock.memory_free,
            free_cpu: seen.stock.cpu_free,
        }
    }
}

/// For people and scripts.
pub(super) fn targets(shared: &Shared) -> Response<AnswerBody> {
    let seen = shared.router.seen();
    let shown: Vec<Shown<'_>> = seen.iter().map(Shown::of).collect();
    let mut text = serde_json::to_string(&shown).unwrap_or_default();
    text.push('\n');
    page(JSON, text)
}
