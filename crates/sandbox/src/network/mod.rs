//! A sandbox's way out: the far end of its one network device.
//!
//! What the sandbox sends arrives here as packets. Connections end here and are made again from
//! the node's own sockets, datagrams likewise, each after asking `access`. So there is no path for
//! a packet from a sandbox to anything: not to the machine, nor to another sandbox, unless this
//! code makes one; and nothing of it is left when the node is killed. See
//! `docs/decisions/0010-network-in-user-space.md`.
//!
//! Left out: IPv6, ICMP of the sandbox's own, and connections from outside.

mod access;
mod device;
pub(crate) mod names;
mod packet;
mod tcp;
mod udp;
mod wire;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serverledge_core::{Ipv4Network, NetworkPolicy};
use smoltcp::wire::Icmpv4DstUnreachable;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Sleep, sleep};

pub(crate) use self::access::Access;
pub(crate) use self::device::Device;
use self::packet::Content;
use crate::CreateError;
use crate::body::{EndReceiver, end_of};

/// The sandbox's address. All have the same, from a network that is for measurements only, so that
/// none which somebody wants to reach is hidden by it.
pub(crate) const GUEST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Where errors come from.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 254);
/// Where the sandbox finds the node's resolvers.
pub(crate) const RESOLVERS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(198, 18, 0, 2), Ipv4Addr::new(198, 18, 0, 3)];
/// Largest packet. Far more than Ethernet's, as a packet costs the same whatever its size.
pub(crate) const MTU: usize = 16 << 10;

/// Packets and turns after which others get theirs.
const TURNS_MAX: usize = 32;
/// How often datagrams' idle flows are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// What holds for the network of all sandboxes.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Networks that no function reaches. Default none.
    pub denied: Arc<[Ipv4Network]>,
    /// Connections of a sandbox at once; as many flows of datagrams besides. Default 128.
    pub connections_max: usize,
    /// File that names the node's resolvers. Default `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        NetworkConfig {
            denied: Arc::new([]),
            connections_max: 128,
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }
}

/// The end of a sandbox's network device from which its packets are read; nobody does before its
/// policy is known. Or why there is none.
pub(crate) type Way = Result<Device, String>;

/// Applies the function's policy, before any code of it runs.
pub(crate) async fn open_way(
    way: Way,
    policy: &NetworkPolicy,
    config: NetworkConfig,
    end: EndReceiver,
) -> Result<(), CreateError> {
    // The routes go with it.
    if *policy == NetworkPolicy::None {
        let Ok(device) = way else { return Ok(()) };
        let removing = |source| CreateError::io("removing the sandbox's network", source);
        return device.remove().await.map_err(removing);
    }
    let device = way.map_err(|reason| {
        CreateError::Isolation(format!("the sandbox has no network: {reason}"))
    })?;
    serve(device, policy.clone(), config, end)
        .map_err(|source| CreateError::io("serving the sandbox's network", source))
}

/// Serves a sandbox's network device until the sandbox ends.
fn serve(
    device: Device,
    policy: NetworkPolicy,
    config: NetworkConfig,
    end: EndReceiver,
) -> io::Result<()> {
    let mut router = Router::new(device, Access { policy, config })?;
    tokio::spawn(async move {
        let ended = std::future::poll_fn(|context| router.poll(context));
        tokio::select! {
            Err(error) = ended => {
                tracing::warn!(%error, "a sandbox's network device has failed");
            }
            // The open device keeps the dead sandbox's network namespace: it closes here.
            _ = end_of(end) => {}
        }
    });
    Ok(())
}

struct Router {
    device: AsyncFd<Device>,
    access: Access,
    tcp: tcp::Connections,
    udp: udp::Flows,
    /// Packets on their way to the sandbox.
    out: Vec<Vec<u8>>,
    timer: Pin<Box<Sleep>>,
}

impl Router {
    fn new(device: Device, access: Access) -> io::Result<Self> {
        let limit = access.config.connections_max;
        Ok(Router {
            device: device.watch()?,
            access,
            tcp: tcp::Connections::new(limit),
            udp: udp::Flows::new(limit),
            out: Vec::new(),
            timer: Box::pin(sleep(Duration::ZERO)),
        })
    }

    /// Moves all that can be moved. Ready only when the device has failed.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..TURNS_MAX {
            let received = self.receive(context)?;
            let moved = self.tcp.advance(context, &mut self.out);
            let answered = self.udp.advance(context, &mut self.out);
            self.send();
            if received || moved || answered {
                continue;
            }
            let wait = self.tcp.wait().unwrap_or(SWEEP).min(SWEEP);
            self.timer.as_mut().reset(Instant::now() + wait);
            ready!(self.timer.as_mut().poll(context));
            self.udp.forget_idle();
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes packets from the sandbox; whether there were any.
    fn receive(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        let mut packet = [0; MTU];
        for count in 0..TURNS_MAX {
            let Poll::Ready(mut ready) = self.device.poll_read_ready(context)? else {
                return Ok(count > 0);
            };
            let read = ready.try_io(|device| Ok(rustix::io::read(device, &mut packet)?));
            drop(ready);
            match read {
                Ok(size) => {
                    let size = size?;
                    self.dispatch(&packet[..size]);
                }
                // Not ready after all; being asked again registers for when it is.
                Err(_) => continue,
            }
        }
        Ok(true)
    }

    fn dispatch(&mut self, bytes: &[u8]) {
        let Some((flow, content)) = packet::parse(bytes) else {
            return;
        };
        let taken = match content {
            Content::Tcp { opens } => {
                let target = || self.access.target(flow.to);
                self.tcp.take(flow, opens, bytes, target)
            }
            Content::Udp(payload) => {
                let target = || self.access.target(flow.to);
                self.udp.take(flow, payload, bytes, target)
            }
        };
        if let Err(reason) = taken {
            self.out.extend(packet::unreachable(bytes, reason));
        }
    }

    fn send(&mut self) {
        for packet in self.out.drain(..) {
            // One that is lost is sent again, if it is of a kind that is worth it.
            let _ = rustix::io::write(self.device.get_ref(), &packet);
        }
    }
}

/// What the sandbox hears of an attempt that failed.
fn reason(error: &io::Error) -> Icmpv4DstUnreachable {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Icmpv4DstUnreachable::PortUnreachable,
        io::ErrorKind::NetworkUnreachable => Icmpv4DstUnreachable::NetUnreachable,
        _ => Icmpv4DstUnreachable::HostUnreachable,
    }
}

/// What nobody outside can guess: for sequence numbers and questions.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}
