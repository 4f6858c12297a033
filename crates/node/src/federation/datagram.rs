//! The status as a datagram: whoever sends one, of whatever content but an answer's, gets one back;
//! with a secret, only who has it.
//!
//! That is how the original's nodes ask each other. They read 1024 bytes at most and wait without a
//! limit of time. An answer is some hundred times as long as the shortest question, so where others
//! can reach the port it answers so many a second and no more. A node that many ask answers
//! shortly, without its functions.
//!
//! Two nodes that take each other's answers for questions would never end, and one datagram with a
//! false sender is enough to begin: what looks like an answer is none. Where nodes gossip, their
//! messages come to the same port, and a question is the original's and nothing else.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serverledge_api::StatusReply;
use serverledge_core::fleet::{Answers, Coordinates, Status};
use tokio::net::UdpSocket;
use tracing::{debug, warn};

use super::gossip::{self, Inbox};
use super::question::{self, Asked, Id};
use crate::node::Node;

/// What is looked at of a question.
const QUESTION_MAX: usize = 256;

/// How answers begin, those of the original included.
const ANSWER: &[u8] = b"{";

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

/// Answers for as long as the node runs; `own` is its identity. What is gossip goes to `inbox`, if
/// there is one.
pub(super) async fn serve(node: Arc<Node>, own: Id, socket: Arc<UdpSocket>, inbox: Option<Inbox>) {
    let Some(federation) = &node.federation else {
        return;
    };
    let protocol = &federation.protocol;
    let mut asked = Asked::default();
    // A byte more than gossip has: what is cut off is too long.
    let mut received = [0; gossip::DATAGRAM_MAX + 1];
    let (mut since, mut count) = (Instant::now(), 0);
    let mut answers = Answers::default();
    loop {
        let (length, from) = match socket.recv_from(&mut received).await {
            Ok(came) => came,
            Err(error) => {
                debug!(%error, "no datagram received");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if let Some(inbox) = &inbox {
            let datagram = &received[..length];
            if datagram.starts_with(gossip::MAGIC) {
                inbox.offer(datagram);
                continue;
            }
            if federation.secret.is_none() && datagram != question::PLAIN {
                continue;
            }
        }
        if federation.secret.is_none() && received[..length].starts_with(ANSWER) {
            continue;
        }
        if since.elapsed() >= PERIOD {
            (since, count) = (Instant::now(), 0);
        }
        count += 1;
        if count > ANSWERS_MAX {
            continue;
        }
        let question = &received[..length.min(QUESTION_MAX)];
        let now = super::unix_micros();
        let Some(question) = protocol.read_question(question, &own, now, &mut asked) else {
            continue;
        };
        let mut status = crate::status::now(&node);
        if !answers.allow_long(federation.peers.now()) {
            status.available_warm_containers.clear();
        }
        let json = encode(status, protocol.json_max());
        let answer = protocol.answer(&question, &own, json);
        answers.count(length + answer.len());
        if let Err(error) = socket.send_to(&answer, from).await {
            debug!(%from, %error, "status not sent");
        }
    }
}

/// As the original sends it. What doesn't fit is left out: functions with the fewest idle sandboxes
/// first, since those matter least to who looks for a warm one.
fn encode(mut status: StatusReply, bytes_max: usize) -> Vec<u8> {
    status.load_avg = None;
    status.last_update_time = 0;
    loop {
        let bytes = serverledge_api::encode(&status);
        let warm = &mut status.available_warm_containers;
        if bytes.len() <= bytes_max || warm.is_empty() {
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

/// What an answer says; `None` if it is none.
pub(super) fn decode(answer: &[u8]) -> Option<Status> {
    let told: StatusReply = serde_json::from_slice(answer).ok()?;
    let coordinates = Coordinates {
        position: told.coordinates.vec,
        error: told.coordinates.error,
        adjustment: told.coordinates.adjustment,
        height: told.coordinates.height,
    };
    let is_sound =
        coordinates.is_sound() && told.total_cpu.is_finite() && told.used_cpu.is_finite();
    let amount = |number: i64| u64::try_from(number).unwrap_or(0);
    let warm = told.available_warm_containers.into_iter();
    let warm = warm.filter(|(_, idle)| *idle > 0);
    is_sound.then(|| Status {
        warm: warm.map(|(name, idle)| (name, amount(idle))).collect(),
        memory_total: amount(told.total_memory),
        memory_available: amount(told.available_memory),
        memory_free: amount(told.free_memory),
        cpu_total: told.total_cpu,
        cpu_used: told.used_cpu,
        coordinates,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::question::ANSWER_MAX;
    use super::*;

    /// A datagram of the original.
    const RECORDED: &str = include_str!("../../tests/it/data/udp-status.json");

    #[test]
    fn it_reads_as_the_originals() {
        let recorded: StatusReply = serde_json::from_str(RECORDED).unwrap();
        let ours: Value = serde_json::from_slice(&encode(recorded, ANSWER_MAX)).unwrap();
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
        let bytes = encode(status, ANSWER_MAX);
        assert!(bytes.len() <= ANSWER_MAX, "{} bytes", bytes.len());
        let status: StatusReply = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(status.available_warm_containers["function-250"], 1);
    }
    #[test]
    fn the_originals_answer_is_read() {
        let status = decode(RECORDED.as_bytes()).unwrap();
        assert_eq!(
            (
                status.memory_total,
                status.memory_available,
                status.memory_free
            ),
            (2048, 2048, 896)
        );
        assert_eq!((status.cpu_total, status.cpu_used), (2.0, 0.0));
        assert_eq!(status.coordinates, Coordinates::default());
        // Zeros are left out, as they say nothing.
        assert_eq!(status.warm.len(), 9);
        assert_eq!(status.warm["ret-int"], 1);
        // A node without functions.
        let warm = RECORDED.find('{').unwrap() + 1;
        let rest = &RECORDED[RECORDED.find(",\"TotalMemory").unwrap()..];
        assert_eq!(warm, 1);
        let empty = format!("{{\"AvailableWarmContainers\":null{rest}");
        assert_eq!(decode(empty.as_bytes()).unwrap().memory_total, 2048);
    }

    #[test]
    fn what_is_no_status_is_left_out() {
        let told = |from: &str, to: &str| {
            assert!(RECORDED.contains(from), "{from}");
            decode(RECORDED.replace(from, to).as_bytes())
        };
        assert!(told("[0,0,0]", "[0,0,1e9]").is_none());
        assert!(told("[0,0,0]", "[0,0]").is_none());
        assert!(told("\"Error\":1.5", "\"Error\":-1").is_none());
        assert!(told("\"TotalCPU\":2", "\"TotalCPU\":1e999").is_none());
        assert_eq!(
            told("\"TotalMemory\":2048", "\"TotalMemory\":-1")
                .unwrap()
                .memory_total,
            0
        );
        for rubbish in ["", "A", "{}", "[]", "null"] {
            assert!(decode(rubbish.as_bytes()).is_none(), "{rubbish}");
        }
        assert!(decode(&RECORDED.as_bytes()[..1000.min(RECORDED.len() - 1)]).is_none());
    }

    #[test]
    fn ours_are_read_as_they_were_meant() {
        let mut told: StatusReply = serde_json::from_str(RECORDED).unwrap();
        told.coordinates.vec = [0.01, -0.02, 0.003];
        told.coordinates.adjustment = -0.001;
        let status = decode(&encode(told, ANSWER_MAX)).unwrap();
        assert_eq!(status.coordinates.position, [0.01, -0.02, 0.003]);
        assert_eq!(status.coordinates.adjustment, -0.001);
    }
}
