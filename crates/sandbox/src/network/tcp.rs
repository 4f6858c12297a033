//! Connections: each ends here, in a TCP stack, and is made again from a socket of the node.
//!
//! The sandbox's request to connect is held back until the node's own has succeeded, so that a
//! function sees a closed port as closed, and a slow network as slow.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, Icmpv4DstUnreachable, IpCidr, IpListenEndpoint};
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

use super::packet::{self, Flow};
use super::wire::Wire;
use super::{GATEWAY, random, reason};
use crate::BoxFuture;

/// Bytes under way in each direction of a connection.
const BUFFER: usize = 64 << 10;
/// How long the world may take to answer. A kernel alone would try for two minutes.
const CONNECT_MAX: Duration = Duration::from_secs(60);
/// Once one side has said its last word, how long the other may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// All connections of a sandbox.
pub(super) struct Connections {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: HashMap<Flow, Connection>,
    limit: usize,
    epoch: std::time::Instant,
}

enum Connection {
    /// The node connects.
    Opening {
        connecting: BoxFuture<'static, io::Result<TcpStream>>,
        /// The sandbox's request.
        request: Vec<u8>,
    },
    Open(Pipe),
}

/// The two ends of a connection.
struct Pipe {
    handle: SocketHandle,
    stream: TcpStream,
    /// The world has said its last word.
    world_done: bool,
    /// So has the sandbox, and the world knows.
    sandbox_done: bool,
    /// When something was last moved.
    moved: Instant,
}

impl Connections {
    pub(super) fn new(limit: usize) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = random();
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // There is room for at least one.
            let _ = addresses.push(IpCidr::new(GATEWAY.into(), 24));
        });
        // With a route to itself, it takes every address for its own.
        interface.set_any_ip(true);
        let _ = interface.routes_mut().add_default_ipv4_route(GATEWAY);
        Connections {
            wire,
            interface,
            sockets: SocketSet::new(Vec::new()),
            connections: HashMap::new(),
            limit,
            epoch: std::time::Instant::now(),
        }
    }

    /// Takes a packet of the sandbox. `target` is asked about a new connection.
    pub(super) fn take(
        &mut self,
        flow: Flow,
        opens: bool,
        bytes: &[u8],
        target: impl FnOnce() -> Option<SocketAddr>,
    ) -> Result<(), Icmpv4DstUnreachable> {
        match self.connections.get(&flow) {
            // It asks again, or has lost its patience.
            Some(Connection::Opening { .. }) => return Ok(()),
            None if opens => {
                let full = self.connections.len() >= self.limit;
                let Some(target) = target().filter(|_| !full) else {
                    return Err(Icmpv4DstUnreachable::CommProhibited);
                };
                let opening = Connection::Opening {
                    connecting: Box::pin(connect(target)),
                    request: bytes.to_vec(),
                };
                self.connections.insert(flow, opening);
            }
            // What belongs to no connection, the stack refuses.
            Some(Connection::Open(_)) | None => self.wire.to_stack.push_back(bytes.to_vec()),
        }
        Ok(())
    }

    /// Moves what can be moved; whether that was anything.
    pub(super) fn advance(&mut self, context: &mut Context<'_>, out: &mut Vec<Vec<u8>>) -> bool {
        let mut moved = self.open(context, out);
        let now = self.now();
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        for connection in self.connections.values_mut() {
            if let Connection::Open(pipe) = connection {
                let socket = self.sockets.get_mut::<Socket<'_>>(pipe.handle);
                if pipe.advance(socket, context) {
                    pipe.moved = now;
                    moved = true;
                }
            }
        }
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        moved |= self.forget_ended(now);
        moved |= !self.wire.to_sandbox.is_empty();
        out.append(&mut self.wire.to_sandbox);
        moved
    }

    /// When to be asked again at the latest.
    pub(super) fn wait(&mut self) -> Option<Duration> {
        let now = self.now();
        self.interface
            .poll_delay(now, &self.sockets)
            .map(|delay| Duration::from_micros(delay.total_micros()))
    }

    /// Lets the sandbox's requests through to the stack once the node is connected.
    fn open(&mut self, context: &mut Context<'_>, out: &mut Vec<Vec<u8>>) -> bool {
        let now = self.now();
        let mut done = Vec::new();
        for (flow, connection) in &mut self.connections {
            if let Connection::Opening { connecting, .. } = connection
                && let Poll::Ready(connected) = connecting.as_mut().poll(context)
            {
                done.push((*flow, connected));
            }
        }
        let any = !done.is_empty();
        for (flow, connected) in done {
            let Some(Connection::Opening { request, .. }) = self.connections.remove(&flow) else {
                continue;
            };
            let listening = connected.and_then(|stream| Ok((stream, listener(&flow)?)));
            match listening {
                Ok((stream, socket)) => {
                    let pipe = Pipe {
                        handle: self.sockets.add(socket),
                        stream,
                        world_done: false,
                        sandbox_done: false,
                        moved: now,
                    };
                    self.connections.insert(flow, Connection::Open(pipe));
                    self.wire.to_stack.push_back(request);
                }
                Err(error) => out.extend(packet::unreachable(&request, reason(&error))),
            }
        }
        any
    }

    fn forget_ended(&mut self, now: Instant) -> bool {
        let sockets = &mut self.sockets;
        let before = self.connections.len();
        self.connections.retain(|_, connection| {
            let Connection::Open(pipe) = connection else {
                return true;
            };
            let socket = sockets.get_mut::<Socket<'_>>(pipe.handle);
            let half_open = pipe.world_done || pipe.sandbox_done;
            if half_open && now - pipe.moved > SILENCE_MAX.into() {
                socket.abort();
            }
            let ended = match socket.state() {
                // Its request was none, or was taken back.
                State::Listen | State::TimeWait => true,
                // Nothing is left to be told.
                State::Closed => socket.remote_endpoint().is_none(),
                _ => false,
            };
            if ended {
                sockets.remove(pipe.handle);
            }
            !ended
        });
        before != self.connections.len()
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.epoch.elapsed().as_micros() as i64)
    }
}

impl Pipe {
    /// Whether anything was moved.
    fn advance(&mut self, socket: &mut Socket<'_>, context: &mut Context<'_>) -> bool {
        let outwards = self.outwards(socket, context);
        let inwards = self.inwards(socket, context);
        outwards
            .and_then(|out| Ok(inwards? || out))
            .unwrap_or_else(|_| {
                let aborts = socket.is_open();
                socket.abort();
                aborts
            })
    }

    /// From the sandbox to the world.
    fn outwards(&mut self, socket: &mut Socket<'_>, context: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        while socket.can_recv() && self.stream.poll_write_ready(context)?.is_ready() {
            let stream = &self.stream;
            let written = socket.recv(|bytes| match stream.try_write(bytes) {
                Ok(size) => (size, Ok(())),
                Err(error) => (0, Err(error)),
            });
            match written.map_err(io::Error::other)? {
                Ok(()) => moved = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let last = matches!(
            socket.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        if last && !socket.can_recv() && !self.sandbox_done {
            // Of a plain socket this never waits.
            let _ = Pin::new(&mut self.stream).poll_shutdown(context)?;
            self.sandbox_done = true;
            moved = true;
        }
        Ok(moved)
    }

    /// From the world to the sandbox.
    fn inwards(&mut self, socket: &mut Socket<'_>, context: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        while !self.world_done
            && socket.can_send()
            && self.stream.poll_read_ready(context)?.is_ready()
        {
            let stream = &self.stream;
            let read = socket.send(|room| match stream.try_read(room) {
                Ok(size) => (size, Ok(size)),
                Err(error) => (0, Err(error)),
            });
            match read.map_err(io::Error::other)? {
                Ok(0) => {
                    self.world_done = true;
                    socket.close();
                    moved = true;
                }
                Ok(_) => moved = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(moved)
    }
}

async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(target)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Takes the request of this flow, which comes next.
fn listener(flow: &Flow) -> io::Result<Socket<'static>> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    // Neither has anything to gain by waiting: the other end is a function call away.
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    let endpoint = IpListenEndpoint {
        addr: Some((*flow.to.ip()).into()),
        port: flow.to.port(),
    };
    socket.listen(endpoint).map_err(io::Error::other)?;
    Ok(socket)
}
