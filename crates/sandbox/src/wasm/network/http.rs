//! A function's requests over HTTP.
//!
//! Each has a connection of its own, to an address that was judged, and not to a name that may stand
//! for another a moment later. Redirects are the function's business: it asks again, and is judged
//! again. Bodies pass through; what is held of one is bounded by its buffers.

use std::future::poll_fn;
use std::net::SocketAddrV4;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::http::uri::Scheme;
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::rustls::pki_types::ServerName;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::{Connection, Exchange, Reach};
use crate::network::names::{self, NameError};
use crate::tls;

/// How long a server may take to accept a connection, encryption included.
const CONNECT_MAX: Duration = Duration::from_secs(60);
/// How long a server may be silent before its response and within it.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// The head of a response, bytes; a buffer of its body is as large.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Sends a request and receives the head of its response. Dropping what this gives ends it.
pub(super) async fn send(
    connection: Connection,
    mut request: Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Result<Exchange, Error> {
    // A tunnel is no request.
    if request.method() == Method::CONNECT {
        return Err(Error::HttpRequestMethodInvalid);
    }
    let options = options.unwrap_or_default();
    let limit = |wanted: Option<Duration>, max: Duration| wanted.map_or(max, |it| it.min(max));
    let opening = open(&connection.0, request.uri());
    let connect_max = limit(options.connect_timeout, CONNECT_MAX);
    let stream = match timeout(connect_max, opening).await {
        Ok(stream) => stream?,
        Err(_) => return Err(Error::ConnectionTimeout),
    };
    // Whom it is for is in the header `host`, which the function doesn't write.
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
    let (mut sender, receiver) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    let first_max = limit(options.first_byte_timeout, SILENCE_MAX);
    let between_max = limit(options.between_bytes_timeout, SILENCE_MAX);
    let mut receiver = Box::pin(receiver);
    let mut received = pin!(timeout(first_max, sender.send_request(request)));
    let mut done = false;
    let response = poll_fn(|context| {
        if !done {
            // It says what is wrong to who waits for the response, too.
            done = receiver.as_mut().poll(context).is_ready();
        }
        received.as_mut().poll(context)
    });
    let response = match response.await {
        Ok(response) => response?,
        Err(_) => return Err(Error::HttpResponseTimeout),
    };
    let rest = async move {
        let _connection = connection;
        if !done {
            // The body tells of what goes wrong.
            let _ = receiver.await;
        }
        Ok(())
    };
    let body = |incoming| Response {
        incoming,
        patience: between_max,
        silence: Box::pin(sleep(between_max)),
    };
    Ok((response.map(|it| body(it).boxed_unsync()), Box::new(rest)))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn open(reach: &Reach, uri: &Uri) -> Result<Box<dyn Stream>, Error> {
    let encrypted = uri.scheme() != Some(&Scheme::HTTP);
    let host = uri.host().ok_or(Error::HttpRequestUriInvalid)?;
    let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    let addresses = names::resolve(&reach.access, host).await;
    let addresses = addresses.map_err(|error| match error {
        NameError::Denied => Error::HttpRequestDenied,
        // Such as an IPv6 address.
        NameError::Invalid => Error::DestinationNotFound,
        NameError::Unknown => Error::DnsError {
            rcode: Some("NXDOMAIN".to_owned()),
            info_code: None,
        },
        NameError::Unanswered => Error::DnsTimeout,
    })?;
    let addresses = addresses.into_iter().map(|it| SocketAddrV4::new(it, port));
    let addresses = addresses.filter(|address| reach.access.allows(*address));
    let mut failure = Error::DestinationIpProhibited;
    for address in addresses.take(ADDRESSES_MAX) {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Nothing is lost if that can't be had.
                let _ = stream.set_nodelay(true);
                return match encrypted {
                    true => encrypt(reach, host, stream).await,
                    false => Ok(Box::new(stream)),
                };
            }
            Err(error) => failure = unreachable(&error),
        }
    }
    Err(failure)
}

fn unreachable(error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        std::io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        _ => Error::DestinationUnavailable,
    }
}

async fn encrypt(reach: &Reach, host: &str, stream: TcpStream) -> Result<Box<dyn Stream>, Error> {
    let read = || async {
        match spawn_blocking(tls::connector).await {
            Ok(Ok(connector)) => Ok(connector),
            Ok(Err(error)) => Err(Error::InternalError(Some(error.to_string()))),
            Err(_) => Err(Error::ConfigurationError),
        }
    };
    let connector = reach.trust.get_or_try_init(read).await?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Error::DestinationNotFound)?;
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        // Of rustls, if it isn't the connection's own.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Err(Error::TlsCertificateError)
        }
        Err(_) => Err(Error::TlsProtocolError),
    }
}

/// The body of a response, whose server may not be silent for ever.
struct Response {
    incoming: Incoming,
    patience: Duration,
    silence: Pin<Box<Sleep>>,
}

impl Body for Response {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Ready(frame) => {
                let deadline = Instant::now() + self.patience;
                self.silence.as_mut().reset(deadline);
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
            }
            Poll::Pending => match self.silence.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(Some(Err(Error::ConnectionReadTimeout))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// What a function hears of what hyper says.
pub(super) fn code(error: &hyper::Error) -> ErrorCode {
    if error.is_timeout() {
        ErrorCode::HttpResponseTimeout
    } else if error.is_parse_too_large() {
        ErrorCode::HttpResponseHeaderSectionSize(None)
    } else if error.is_incomplete_message() {
        ErrorCode::HttpResponseIncomplete
    } else if error.is_closed() || error.is_canceled() {
        ErrorCode::ConnectionTerminated
    } else {
        ErrorCode::HttpProtocolError
    }
}
