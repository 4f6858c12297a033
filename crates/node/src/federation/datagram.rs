//! The status as a datagram: whoever sends one, of whatever content, gets one back.
//!
//! That is how the original's nodes ask each other. They read 1024 bytes at most and wait without a
//! limit of time. An answer is some hundred times as long as the shortest question, so where others
//! can reach the port it answers so many a second and no more.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serverledge_api::StatusReply;
use tokio::net::UdpSocket;
use tracing::{debug, warn};

use crate::node::Node;

/// What the original's nodes read of an answer.
const BYTES_MAX: usize = 1024;

/// Answers within one [`PERIOD`].
const ANSWERS_MAX: u32 = 2000;
const PERIOD: Duration = Duration::from_secs(1);

/// After an error of the socket, such as one that an earlier answer met.
const PAUSE: Duration = Duration::from_millis(10);

/// The socket where the status is told, at the API's address. Without it the node is of use all the
/// same, but not to neighbours who go by its status.
pub(super) async fn bind(ip: IpAddr, port: u16) -> Option<UdpSocket> {
    match UdpSocket::bind(SocketAddr::new(ip, port)).await {
        Ok(socket) => Some(socket),
        Err(error) => {
            warn!(%ip, port, %error, "no status for neighbours (registry.udp.port)");
            None
        }
    }
}

/// Answers for as long as the node runs.
pub(super) async fn serve(node: Arc<Node>, socket: UdpSocket) {
    let mut question = [0; 1];
    let (mut since, mut answers) = (Instant::now(), 0);
    loop {
        let from = match socket.recv_from(&mut question).await {
            Ok((_, from)) => from,
            Err(error) => {
                debug!(%error, "no datagram received");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if since.elapsed() >= PERIOD {
            (since, answers) = (Instant::now(), 0);
        }
        answers += 1;
        if answers > ANSWERS_MAX {
            continue;
        }
        let answer = encode(crate::status::now(&node));
        if let Err(error) = socket.send_to(&answer, from).await {
            debug!(%from, %error, "status not sent");
        }
    }
}

/// As the original sends it. What doesn't fit is left out: functions with the fewest idle sandboxes
/// first, since those matter least to who looks for a warm one.
fn encode(mut status: StatusReply) -> Vec<u8> {
    status.load_avg = None;
    status.last_update_time = 0;
    loop {
        let bytes = serverledge_api::encode(&status);
        let warm = &mut status.available_warm_containers;
        if bytes.len() <= BYTES_MAX || warm.is_empty() {
            return bytes;
        }
        // Half of them at a time, so that many functions don't cost as many rounds.
        let mut by_count: Vec<(i64, String)> = warm
            .iter()
            .map(|(name, idle)| (*idle, name.clone()))
            .collect();
        by_count.sort_unstable();
        let removed = (by_count.len() / 2).max(1);
        for (_, name) in by_count.drain(..removed) {
            warm.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// A datagram of the original.
    const RECORDED: &str = include_str!("../../tests/it/data/udp-status.json");

    #[test]
    fn it_reads_as_the_originals() {
        let recorded: StatusReply = serde_json::from_str(RECORDED).unwrap();
        let ours: Value = serde_json::from_slice(&encode(recorded)).unwrap();
        let theirs: Value = serde_json::from_str(RECORDED).unwrap();
        let keys = |value: &Value| {
            value
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(&ours), keys(&theirs));
        for key in [
            "AvailableWarmContainers",
            "LoadAvg",
            "LastUpdateTime",
            "FreeMemory",
        ] {
            assert_eq!(ours[key], theirs[key], "{key}");
        }
        let coordinates = |value: &Value| {
            let numbers = ["Error", "Height"].map(|key| value["Coordinates"][key].as_f64());
            (numbers, keys(&value["Coordinates"]))
        };
        assert_eq!(coordinates(&ours), coordinates(&theirs));
    }

    #[test]
    fn it_fits_whatever_there_is_and_keeps_what_is_warm() {
        let mut status = StatusReply::default();
        for number in 0..500 {
            let idle = i64::from(number == 250);
            let name = format!("function-{number}");
            status.available_warm_containers.insert(name, idle);
        }
        let bytes = encode(status);
        assert!(bytes.len() <= BYTES_MAX, "{} bytes", bytes.len());
        let status: StatusReply = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(status.available_warm_containers["function-250"], 1);
    }
}
