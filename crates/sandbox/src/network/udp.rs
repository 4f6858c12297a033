//! Datagrams: each flow has a socket of the node, connected, so that only its answers come back.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use smoltcp::wire::Icmpv4DstUnreachable;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::packet::{self, Flow, QUOTE};
use super::reason;
use crate::BoxFuture;

/// How long a flow may be silent.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Largest datagram there is.
const DATAGRAM_MAX: usize = 65_507;
/// Answers taken from a flow before it is another's turn.
const ANSWERS_MAX: usize = 32;

/// An error about an earlier datagram comes without anything to read.
const EVENTS: Interest = Interest::READABLE.add(Interest::ERROR);

/// All flows of a sandbox.
pub(super) struct Flows {
    flows: HashMap<Flow, Answers>,
    limit: usize,
}

struct Answers {
    socket: Arc<AsyncFd<UdpSocket>>,
    next: BoxFuture<'static, io::Result<Vec<u8>>>,
    used: Instant,
    /// The beginning of what the sandbox has sent last, for errors about it.
    last: Vec<u8>,
}

impl Flows {
    pub(super) fn new(limit: usize) -> Self {
        Flows {
            flows: HashMap::new(),
            limit,
        }
    }

    /// Takes a datagram of the sandbox. `target` is asked about a new flow.
    pub(super) fn take(
        &mut self,
        flow: Flow,
        payload: &[u8],
        bytes: &[u8],
        target: impl FnOnce() -> Option<SocketAddr>,
    ) -> Result<(), Icmpv4DstUnreachable> {
        if !self.flows.contains_key(&flow) {
            let target = target().ok_or(Icmpv4DstUnreachable::CommProhibited)?;
            let socket = connect(target).map_err(|error| reason(&error))?;
            self.make_room();
            let answers = Answers {
                next: Box::pin(next(Arc::clone(&socket))),
                socket,
                used: Instant::now(),
                last: Vec::new(),
            };
            self.flows.insert(flow, answers);
        }
        let Some(answers) = self.flows.get_mut(&flow) else {
            return Ok(());
        };
        answers.used = Instant::now();
        answers.last = bytes[..bytes.len().min(QUOTE)].to_vec();
        match answers.socket.get_ref().send(payload) {
            Ok(_) => Ok(()),
            // Full: datagrams get lost.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(reason(&error)),
        }
    }

    /// The flow that was silent longest goes.
    fn make_room(&mut self) {
        while self.flows.len() >= self.limit.max(1) {
            let oldest = self.flows.iter().min_by_key(|(_, answers)| answers.used);
            let Some(oldest) = oldest.map(|(flow, _)| *flow) else {
                return;
            };
            self.flows.remove(&oldest);
        }
    }

    /// Passes answers on; whether there were any.
    pub(super) fn advance(&mut self, context: &mut Context<'_>, out: &mut Vec<Vec<u8>>) -> bool {
        if self.flows.is_empty() {
            return false;
        }
        let before = out.len();
        for (flow, answers) in &mut self.flows {
            for _ in 0..ANSWERS_MAX {
                let Poll::Ready(received) = answers.next.as_mut().poll(context) else {
                    break;
                };
                match received {
                    Ok(payload) => {
                        answers.used = Instant::now();
                        out.push(packet::datagram(flow, &payload));
                    }
                    Err(error) => {
                        out.extend(packet::unreachable(&answers.last, reason(&error)));
                    }
                }
                answers.next = Box::pin(next(Arc::clone(&answers.socket)));
            }
        }
        out.len() > before
    }

    /// Closes the flows that were silent for long.
    pub(super) fn forget_idle(&mut self) {
        self.flows
            .retain(|_, answers| answers.used.elapsed() < IDLE_MAX);
    }
}

/// The next answer, or an error about a datagram that was sent.
async fn next(socket: Arc<AsyncFd<UdpSocket>>) -> io::Result<Vec<u8>> {
    loop {
        let mut ready = socket.ready(EVENTS).await?;
        let mut buffer = [0; DATAGRAM_MAX];
        match socket.get_ref().recv(&mut buffer) {
            Ok(size) => return Ok(buffer[..size].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) => return Err(error),
        }
    }
}

fn connect(target: SocketAddr) -> io::Result<Arc<AsyncFd<UdpSocket>>> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    socket.set_nonblocking(true)?;
    // SAFETY: a `UdpSocket` owns its descriptor, always tells the same one, and is only lent out
    // shared while it is registered. JUSTIFICATION: the runtime's own socket doesn't wait for errors
    // that come without anything to read.
    let socket = unsafe { AsyncFd::register_with_interest(socket, EVENTS) }?;
    Ok(Arc::new(socket))
}
