//! A closed-loop load generator: one thread a connection, the next request after the reply.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use serde::Serialize;

use super::client::{Client, request};

/// What every benchmark sends.
pub(super) const BODY: &str = r#"{"Params":{"n":"1"},"CanDoOffloading":false}"#;

/// Requests that are not measured, on each connection.
const WARM_UP: usize = 100;

/// What clients met: latencies in microseconds, and requests a second.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Summary {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) rate: f64,
}

/// Loads a server for `duration`.
pub(super) fn run(
    port: u16,
    path: &str,
    connections: usize,
    duration: Duration,
) -> anyhow::Result<Summary> {
    run_request(port, &request("POST", path, BODY), connections, duration)
}

/// The same, with any request.
pub(super) fn run_request(
    port: u16,
    request: &[u8],
    connections: usize,
    duration: Duration,
) -> anyhow::Result<Summary> {
    let results: Vec<anyhow::Result<(Vec<f64>, f64)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|_| scope.spawn(|| client(port, request, duration)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a client panicked")))
            .collect()
    });
    let (mut latencies, mut rate) = (Vec::new(), 0.0);
    for result in results {
        let (times, seconds) = result?;
        rate += times.len() as f64 / seconds;
        latencies.extend(times);
    }
    latencies.sort_by(f64::total_cmp);
    ensure!(!latencies.is_empty(), "no request was answered");
    Ok(Summary {
        p50: percentile(&latencies, 50),
        p99: percentile(&latencies, 99),
        rate,
    })
}

/// Of sorted values, at least one.
pub(super) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// Latencies of one connection, and how long it was at it.
fn client(port: u16, request: &[u8], duration: Duration) -> anyhow::Result<(Vec<f64>, f64)> {
    let mut client = Client::connect(port)?;
    for _ in 0..WARM_UP {
        client.exchange(request)?;
    }
    let mut latencies = Vec::with_capacity(100_000);
    let began = Instant::now();
    while began.elapsed() < duration {
        let sent = Instant::now();
        client.exchange(request)?;
        latencies.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    Ok((latencies, began.elapsed().as_secs_f64()))
}
