//! Connections to targets, each driven by whoever has a request on it: no task of its own, and none
//! to wake for a request. Idle ones lie in a pool that belongs to their target.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::{RecvFlags, sockopt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::body::RequestBody;

/// Idle connections that are kept of a target.
const IDLE_MAX: usize = 256;

/// How long one may be idle: less than nodes leave a connection open (30 s), so that no request is
/// sent into one that is just being closed.
const IDLE_TIME_MAX: Duration = Duration::from_secs(15);

/// When a silent connection is asked whether it lives, and how often before it counts as dead.
const PROBE_AFTER: Duration = Duration::from_secs(5);
const PROBES_MAX: u32 = 3;

/// Largest head of an answer, and what is read of a body at once, bytes.
const BUFFER_MAX: usize = 64 << 10;

/// A connection.
pub(super) struct Link {
    sender: SendRequest<RequestBody>,
    /// `None` once the connection has ended.
    driver: Option<Connection<TokioIo<TcpStream>, RequestBody>>,
    /// The socket, to look at what has come.
    socket: OwnedFd,
    idle_since: Instant,
}

/// How sending a request failed.
pub(super) enum SendError {
    /// Nothing of it was sent.
    Unsent(Box<Request<RequestBody>>),
    /// It may have begun.
    Failed(hyper::Error),
}

impl Link {
    /// Connects to `host:port`.
    pub(super) async fn connect(host: &Host, time_max: Duration) -> io::Result<Self> {
        let connect = async {
            match host {
                Host::Address(ip, port) => TcpStream::connect((*ip, *port)).await,
                Host::Name(name, port) => TcpStream::connect((name.as_str(), *port)).await,
            }
        };
        let stream = timeout(time_max, connect)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        prepare(&stream)?;
        let socket = rustix::io::dup(&stream)?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BUFFER_MAX);
        let (sender, driver) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        Ok(Self {
            sender,
            driver: Some(driver),
            socket,
            idle_since: Instant::now(),
        })
    }

    /// Does what there is to do on the connection.
    pub(super) fn drive(&mut self, context: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && Pin::new(driver).poll(context).is_ready()
        {
            self.driver = None;
        }
    }

    /// Whether it can take a request.
    pub(super) fn is_ready(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Whether the target has neither closed the connection nor said anything unasked. Asks the
    /// kernel: the runtime hears of that only when it has time to listen, and a request that is sent
    /// into a closed connection is lost.
    fn is_quiet(&self) -> bool {
        let look = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let looked = rustix::net::recv(&self.socket, &mut [0_u8; 1], look);
        matches!(looked, Err(Errno::AGAIN))
    }

    /// The whole body of an answer, of so many bytes at most.
    pub(super) async fn collect(&mut self, mut body: Incoming, max: usize) -> io::Result<Bytes> {
        let mut whole = BytesMut::new();
        while !body.is_end_stream() {
            let frame = poll_fn(|context| {
                driven(self, context, |context| {
                    Pin::new(&mut body).poll_frame(context)
                })
            });
            let Some(frame) = frame.await else {
                break;
            };
            if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
                if whole.len() + data.len() > max {
                    return Err(io::Error::other("the answer is too large"));
                }
                whole.extend_from_slice(&data);
            }
        }
        // Lets the connection see that the answer is over.
        self.drive(&mut Context::from_waker(Waker::noop()));
        Ok(whole.freeze())
    }

    /// Sends a request and gives the answer's head; the rest of the connection's work falls to who
    /// reads the body.
    pub(super) async fn exchange(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        let answer = self.sender.try_send_request(request);
        let mut answer = pin!(answer);
        let driver = &mut self.driver;
        let answered = poll_fn(|context| {
            if let Some(connection) = driver
                && Pin::new(connection).poll(context).is_ready()
            {
                // What it had to say has been said to whoever waits for it.
                *driver = None;
            }
            answer.as_mut().poll(context)
        });
        answered
            .await
            .map_err(|mut error| match error.take_message() {
                Some(request) => SendError::Unsent(Box::new(request)),
                None => SendError::Failed(error.into_error()),
            })
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_AFTER / PROBES_MAX)?;
    sockopt::set_tcp_keepcnt(stream, PROBES_MAX)?;
    // What is sent must be acknowledged as soon as a silent connection must answer.
    let patience = u32::try_from((PROBE_AFTER * 2).as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, patience)?;
    Ok(())
}

/// Where a target listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Address(IpAddr, u16),
    /// Looked up for each connection.
    Name(String, u16),
}

impl Host {
    pub(super) fn new(host: &str, port: u16) -> Self {
        let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        match bare.unwrap_or(host).parse() {
            Ok(ip) => Self::Address(ip, port),
            Err(_) => Self::Name(host.to_owned(), port),
        }
    }
}

/// Idle connections, the last used first.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<Link>>);

impl Pool {
    /// One that is alive, as far as can be told.
    pub(super) fn take(&self) -> Option<Link> {
        loop {
            let mut link = self.lock().pop()?;
            link.drive(&mut Context::from_waker(Waker::noop()));
            let is_young = link.idle_since.elapsed() < IDLE_TIME_MAX;
            if is_young && link.is_ready() && link.is_quiet() {
                return Some(link);
            }
        }
    }

    /// Keeps a connection, if it can take another request.
    pub(super) fn give(&self, mut link: Link) {
        if !link.is_ready() {
            return;
        }
        link.idle_since = Instant::now();
        let mut idle = self.lock();
        if idle.len() < IDLE_MAX {
            idle.push(link);
        }
    }

    /// Closes what has been idle for long.
    pub(super) fn sweep(&self) {
        let mut idle = self.lock();
        // The last used is the last: those at the front have been idle for longest.
        let is_old = |link: &&Link| link.idle_since.elapsed() >= IDLE_TIME_MAX;
        let count = idle.iter().take_while(is_old).count();
        let old: Vec<Link> = idle.drain(..count).collect();
        // Closing takes longer than looking.
        drop(idle);
        drop(old);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Link>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ready with the same as `poll` twice: once the connection has been driven, what it brought is there.
pub(super) fn driven<T>(
    link: &mut Link,
    context: &mut Context<'_>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    match poll(context) {
        Poll::Pending => {
            link.drive(context);
            poll(context)
        }
        ready => ready,
    }
}
