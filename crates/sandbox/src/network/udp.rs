//! Datagrams: each flow has a socket of the node, connected, so that only its answers come back.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use smoltcp::wire::Icmpv4DstUnreachable;
use tokio::io::Interest;
use tokio::net::UdpSocket;
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

const EVENTS: Interest = Interest::READABLE.add(Interest::ERROR);

/// All flows of a sandbox.
pub(super) struct Flows {
    flows: HashMap<Flow, Answers>,
    limit: usize,
    buffer: Vec<u8>,
}

struct Answers {
    socket: Arc<UdpSocket>,
    /// Resolves when there is an answer, or an error.
    readiness: BoxFuture<'static, ()>,
    used: Instant,
    /// The beginning of what the sandbox has sent last, for errors about it.
    last: Vec<u8>,
}

impl Flows {
    pub(super) fn new(limit: usize) -> Self {
        Flows {
            flows: HashMap::new(),
            limit,
            buffer: Vec::new(),
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
                readiness: readiness(&socket),
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
        // Past the runtime, which wouldn't know yet that a new socket has room.
        match rustix::net::send(&answers.socket, payload, SendFlags::DONTWAIT) {
            // Full: datagrams get lost.
            Ok(_) | Err(Errno::WOULDBLOCK) => Ok(()),
            Err(error) => Err(reason(&error.into())),
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
        self.buffer.resize(DATAGRAM_MAX, 0);
        let before = out.len();
        for (flow, answers) in &mut self.flows {
            for _ in 0..ANSWERS_MAX {
                if answers.readiness.as_mut().poll(context).is_pending() {
                    break;
                }
                match answers.receive(&mut self.buffer) {
                    Ok(size) => {
                        answers.used = Instant::now();
                        out.push(packet::datagram(flow, &self.buffer[..size]));
                    }
                    // Asked again, it says when.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => {
                        out.extend(packet::unreachable(&answers.last, reason(&error)));
                    }
                }
                answers.readiness = readiness(&answers.socket);
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

impl Answers {
    /// Takes an answer or an error, of which the runtime knows no other way to tell.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let socket = &self.socket;
        socket.try_io(EVENTS, || {
            let (size, _) = rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT)?;
            Ok(size)
        })
    }
}

fn readiness(socket: &Arc<UdpSocket>) -> BoxFuture<'static, ()> {
    let socket = Arc::clone(socket);
    Box::pin(async move {
        // An error means that the runtime is shutting down.
        let _ = socket.ready(EVENTS).await;
    })
}

fn connect(target: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket).map(Arc::new)
}
