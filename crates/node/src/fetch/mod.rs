//! Fetching code by URL, once, when a function is registered.
//!
//! The URL comes from a caller and the request from the node, so the node could be made to reach
//! what its callers can't. Every hop of the redirects is resolved here, checked (`address`) and
//! connected to by the very address that was checked: what a name means later is of no
//! consequence. There are no retries, no proxies, no cookies, no credentials and no kept
//! connections. What came is an archive like any other, and `code` looks at what is in it.

mod address;
mod error;
#[cfg(test)]
mod tests;
mod url;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONNECTION, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tokio_util::task::AbortOnDropHandle;

pub use self::address::Network;
pub(crate) use self::error::Blame;
pub use self::error::FetchError;
pub use self::url::CodeUrl;

/// What fetching may take.
#[derive(Debug, Clone, PartialEq)]
pub struct FetchLimits {
    /// Networks that are allowed besides public addresses: `code.url.networks`.
    pub networks: Vec<Network>,
    /// Bytes that are received: `code.url.size_max`.
    pub bytes_max: u64,
    /// From the request's arrival to the last byte: `code.url.timeout`.
    pub time_max: Duration,
    /// Redirects that are followed: `code.url.redirects_max`.
    pub redirects_max: usize,
    /// Fetches at once, each of which holds what it received: `code.url.concurrency`.
    pub concurrency: usize,
}

/// How long one address may take to answer, so that a dead one leaves time for the next.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 4;

/// Fetches code, within limits.
#[derive(Debug)]
pub struct Fetcher {
    limits: FetchLimits,
    permits: Semaphore,
    authorities: fn() -> RootCertStore,
}

/// What a hop led to.
enum Answer {
    Code(Bytes),
    Redirect(String),
}

impl Fetcher {
    /// A fetcher that trusts whom the machine trusts.
    pub fn new(limits: FetchLimits) -> Self {
        Self::trusting(limits, machine_authorities)
    }

    fn trusting(limits: FetchLimits, authorities: fn() -> RootCertStore) -> Self {
        Self {
            permits: Semaphore::new(limits.concurrency),
            limits,
            authorities,
        }
    }

    /// The bytes at `url`. Dropping the future ends the fetch.
    pub async fn fetch(&self, url: &CodeUrl) -> Result<Bytes, FetchError> {
        let limits = &self.limits;
        let deadline = Instant::now() + limits.time_max;
        let Ok(_permit) = timeout_at(deadline, self.permits.acquire()).await else {
            return Err(FetchError::Busy(limits.concurrency));
        };
        timeout_at(deadline, self.follow(url))
            .await
            .map_err(|_| FetchError::Timeout(limits.time_max))?
    }

    async fn follow(&self, url: &CodeUrl) -> Result<Bytes, FetchError> {
        let redirects_max = self.limits.redirects_max;
        let mut location = match self.hop(url).await? {
            Answer::Code(code) => return Ok(code),
            Answer::Redirect(location) => location,
        };
        let mut from = url.clone();
        for _ in 0..redirects_max {
            let refused = |problem| FetchError::Redirect {
                url: from.to_string(),
                problem: Box::new(problem),
            };
            let to = from.join(&location).map_err(refused)?;
            if from.secure && !to.secure {
                return Err(refused(FetchError::Downgrade));
            }
            location = match self.hop(&to).await {
                Ok(Answer::Code(code)) => return Ok(code),
                Ok(Answer::Redirect(location)) => location,
                Err(problem @ FetchError::Address { .. }) => return Err(refused(problem)),
                Err(error) => return Err(error),
            };
            from = to;
        }
        Err(FetchError::TooManyRedirects { redirects_max })
    }

    /// One request, to one of the addresses that were checked for it.
    async fn hop(&self, url: &CodeUrl) -> Result<Answer, FetchError> {
        let addresses = self.resolve(url).await?;
        let failed = |source| FetchError::Connect {
            url: url.to_string(),
            source,
        };
        let stream = connect(&addresses).await.map_err(failed)?;
        if !url.secure {
            return self.exchange(url, stream).await;
        }
        let tls = self.tls(url).await?;
        let name = ServerName::try_from(url.host.clone())
            .map_err(|error| failed(io::Error::other(error)))?;
        let stream = tls.connect(name, stream).await.map_err(failed)?;
        self.exchange(url, stream).await
    }

    /// The addresses of the host that may be connected to.
    async fn resolve(&self, url: &CodeUrl) -> Result<Vec<SocketAddr>, FetchError> {
        let host = &url.host;
        let all: Vec<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, url.port)],
            Err(_) => tokio::net::lookup_host((host.as_str(), url.port))
                .await
                .map_err(|source| FetchError::Resolve {
                    host: host.clone(),
                    source,
                })?
                .collect(),
        };
        let mut allowed = Vec::new();
        let mut refused = None;
        for address in all {
            match address::check(address.ip(), &self.limits.networks) {
                Ok(()) => allowed.push(address),
                Err(kind) => refused = Some((address.ip(), kind)),
            }
        }
        match refused {
            Some((address, kind)) if allowed.is_empty() => Err(FetchError::Address {
                host: host.clone(),
                address,
                kind,
            }),
            _ => Ok(allowed),
        }
    }

    /// Read anew for each fetch: they are rarely needed, and the machine's may change.
    async fn tls(&self, url: &CodeUrl) -> Result<TlsConnector, FetchError> {
        let none = || FetchError::NoAuthorities {
            host: url.host.clone(),
        };
        let authorities = tokio::task::spawn_blocking(self.authorities)
            .await
            .map_err(|_| none())?;
        if authorities.is_empty() {
            return Err(none());
        }
        let config =
            ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|_| none())?
                .with_root_certificates(authorities)
                .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }

    async fn exchange(
        &self,
        url: &CodeUrl,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Answer, FetchError> {
        let broken = |source| FetchError::Broken {
            url: url.to_string(),
            source,
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = request(url)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        match (response.status(), response.headers().get(LOCATION)) {
            (StatusCode::OK, _) => self.body(url, response).await.map(Answer::Code),
            (
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT,
                Some(location),
            ) => {
                let location = String::from_utf8_lossy(location.as_bytes());
                Ok(Answer::Redirect(location.into_owned()))
            }
            (status, _) => Err(FetchError::Status {
                url: url.to_string(),
                status: status.as_u16(),
            }),
        }
    }

    async fn body(&self, url: &CodeUrl, response: Response<Incoming>) -> Result<Bytes, FetchError> {
        let bytes_max = self.limits.bytes_max;
        let too_large = || FetchError::TooLarge {
            url: url.to_string(),
            bytes_max,
        };
        let mut body = response.into_body();
        if body.size_hint().lower() > bytes_max {
            return Err(too_large());
        }
        let mut received = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|source| FetchError::Broken {
                url: url.to_string(),
                source,
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if (received.len() + data.len()) as u64 > bytes_max {
                return Err(too_large());
            }
            received.extend_from_slice(&data);
        }
        Ok(received.into())
    }
}

/// The first address that answers.
async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses.iter().take(ADDRESSES_MAX) {
        match timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// A body that is compressed on the way would be kept as it came, and its digest would be another.
fn request(url: &CodeUrl) -> Result<Request<Empty<Bytes>>, FetchError> {
    const AGENT: &str = concat!("serverledge/", env!("CARGO_PKG_VERSION"));
    Request::get(url.target())
        .header(HOST, &url.authority)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*")
        .header(ACCEPT_ENCODING, "identity")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| FetchError::Url {
            problem: format!("is malformed: {error}"),
        })
}

/// Whom the machine trusts: its usual store, or what SSL_CERT_FILE and SSL_CERT_DIR name.
fn machine_authorities() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a certificate of an authority could not be read");
    }
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    store
}
