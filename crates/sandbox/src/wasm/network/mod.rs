//! Whom a function talks to: the same rules as in other sandboxes, for sockets of WASI and for its
//! requests over HTTP.
//!
//! A function has no device here and no kernel of its own. Each of its sockets is one of the node's,
//! and each address is judged by [`Access`] at the moment it is connected or sent to, whatever name
//! led there. Everything belongs to the instance: when its call ends, or its time is up, sockets are
//! closed with it.
//!
//! Left out: IPv6, listening, and connections from outside.

mod http;
mod names;
mod sockets;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper::{Request, Response};
use serverledge_core::NetworkPolicy;
use tokio_rustls::TlsConnector;
use wasmtime::component::Linker;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode as HttpErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::host::Host;
use crate::network::Access;
use crate::{NetworkConfig, lock};

/// What a response or a request has written and nobody has taken yet, bytes.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Puts our own ways of opening sockets and of looking names up into the place of WASI's.
pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    sockets::add_to_linker(linker)?;
    names::add_to_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Whom this machine trusts, read when it is first needed.
pub(super) type Trust = tokio::sync::OnceCell<TlsConnector>;

/// What all calls in one sandbox may reach.
pub(super) struct Reach {
    access: Access,
    connections: AtomicUsize,
    trust: Arc<Trust>,
}

impl Reach {
    pub(super) fn new(
        policy: NetworkPolicy,
        config: NetworkConfig,
        trust: Arc<Trust>,
    ) -> Arc<Self> {
        let access = Access { policy, config };
        Arc::new(Reach {
            access,
            connections: AtomicUsize::new(0),
            trust,
        })
    }

    /// A connection if one may be opened.
    fn connection(self: &Arc<Self>) -> Option<Connection> {
        let more = |open: usize| (open < self.access.config.connections_max).then_some(open + 1);
        let taken = self
            .connections
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| Connection(Arc::clone(self)))
    }
}

/// One of the connections that a sandbox may have, until this is dropped.
struct Connection(Arc<Reach>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one instance has of it.
pub(super) struct Network {
    reach: Arc<Reach>,
    /// One for each socket it has, and some that it has no more.
    sockets: Vec<Connection>,
}

impl Network {
    pub(super) fn new(reach: &Arc<Reach>) -> Self {
        Network {
            reach: Arc::clone(reach),
            sockets: Vec::new(),
        }
    }

    /// Tells WASI what it may do.
    pub(super) fn apply(&self, wasi: &mut WasiCtxBuilder) {
        let policy = &self.reach.access.policy;
        let some = *policy != NetworkPolicy::None;
        wasi.allow_tcp(some)
            .allow_udp(some)
            // `names` is asked instead; this holds should something lead past it.
            .allow_ip_name_lookup(false);
        if !some {
            return;
        }
        let reach = Arc::clone(&self.reach);
        let asked = Mutex::new(Asked::default());
        wasi.socket_addr_check(move |address, purpose| {
            let allowed = reach.allows(&asked, address, purpose);
            Box::pin(std::future::ready(allowed))
        });
    }
}

/// Whom datagrams were sent to, the latest last: answers come from them, and nothing from others.
#[derive(Default)]
struct Asked(VecDeque<SocketAddrV4>);

impl Asked {
    fn push(&mut self, address: SocketAddrV4, limit: usize) {
        if self.0.back() == Some(&address) {
            return;
        }
        self.0.retain(|other| *other != address);
        if self.0.len() >= limit {
            self.0.pop_front();
        }
        self.0.push_back(address);
    }
}

impl Reach {
    fn allows(&self, asked: &Mutex<Asked>, address: SocketAddr, purpose: SocketAddrUse) -> bool {
        // No IPv6, neither as such nor as another way of writing IPv4.
        let SocketAddr::V4(address) = address else {
            return false;
        };
        match purpose {
            // What every socket does that connects.
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => {
                address == SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)
            }
            SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => false,
            SocketAddrUse::TcpConnect => self.access.allows(address),
            SocketAddrUse::UdpSend => {
                let allowed = self.access.allows(address);
                if allowed {
                    lock(asked).push(address, self.access.config.connections_max);
                }
                allowed
            }
            SocketAddrUse::UdpReceive => lock(asked).0.contains(&address),
        }
    }
}

/// A response, and what receives the rest of it.
type Exchange = (
    Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

impl WasiHttpHooks for Network {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _fate: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Exchange, Error>> + Send> {
        if self.reach.access.policy == NetworkPolicy::None {
            return Box::new(std::future::ready(Err(Error::HttpRequestDenied)));
        }
        match self.reach.connection() {
            Some(connection) => Box::new(http::send(connection, request, options)),
            None => Box::new(std::future::ready(Err(Error::ConnectionLimitReached))),
        }
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_BYTES_MAX
    }

    // Those of the library write a line into the node's log for each.
    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> HttpErrorCode {
        http::code(error)
    }

    fn p2_error_from_connect(&mut self, _error: &std::io::Error) -> HttpErrorCode {
        HttpErrorCode::ConnectionRefused
    }

    fn p2_error_from_tls(&mut self, _error: &std::io::Error) -> HttpErrorCode {
        HttpErrorCode::TlsProtocolError
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(rules: &str, connections_max: usize) -> Arc<Reach> {
        let policy = NetworkPolicy::parse(rules.split(',')).unwrap();
        let config = NetworkConfig {
            connections_max,
            ..NetworkConfig::default()
        };
        Reach::new(policy, config, Arc::default())
    }

    #[test]
    fn sockets_go_out_and_nothing_comes_in() {
        let (reach, asked) = (reach("egress", 2), Mutex::default());
        let allows =
            |address: &str, purpose| reach.allows(&asked, address.parse().unwrap(), purpose);
        for (address, purpose, expected) in [
            ("203.0.113.7:80", SocketAddrUse::TcpConnect, true),
            ("127.0.0.1:80", SocketAddrUse::TcpConnect, false),
            ("169.254.169.254:80", SocketAddrUse::TcpConnect, false),
            // Where other sandboxes have their device.
            ("198.18.0.2:53", SocketAddrUse::TcpConnect, false),
            ("198.18.0.2:53", SocketAddrUse::UdpSend, false),
            ("[2001:db8::1]:80", SocketAddrUse::TcpConnect, false),
            ("[::ffff:203.0.113.7]:80", SocketAddrUse::TcpConnect, false),
            ("[::]:0", SocketAddrUse::TcpBind, false),
            ("0.0.0.0:0", SocketAddrUse::TcpBind, true),
            ("0.0.0.0:0", SocketAddrUse::UdpBind, true),
            ("0.0.0.0:53", SocketAddrUse::UdpBind, false),
            ("127.0.0.1:0", SocketAddrUse::TcpBind, false),
            ("0.0.0.0:0", SocketAddrUse::TcpListen, false),
            ("203.0.113.7:80", SocketAddrUse::TcpAccept, false),
            // Nobody was asked yet.
            ("203.0.113.7:53", SocketAddrUse::UdpReceive, false),
            ("203.0.113.7:53", SocketAddrUse::UdpSend, true),
            ("203.0.113.7:53", SocketAddrUse::UdpReceive, true),
            ("203.0.113.7:56", SocketAddrUse::UdpReceive, false),
            ("203.0.113.7:54", SocketAddrUse::UdpSend, true),
            ("203.0.113.7:55", SocketAddrUse::UdpSend, true),
            // Forgotten for the sake of the other two.
            ("203.0.113.7:53", SocketAddrUse::UdpReceive, false),
            ("203.0.113.7:55", SocketAddrUse::UdpReceive, true),
        ] {
            assert_eq!(allows(address, purpose), expected, "{address}, {purpose:?}");
        }
    }

    #[test]
    fn connections_are_counted() {
        let reach = reach("egress", 2);
        let (one, two) = (reach.connection(), reach.connection());
        assert!(one.is_some() && two.is_some());
        assert!(reach.connection().is_none());
        drop(one);
        assert!(reach.connection().is_some());
    }
}
