//! An HTTP client for the node's API: one request a connection, with limits of time and size.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest reply that is read, bytes.
const REPLY_MAX: usize = 128 << 20;

/// A node's API, by address.
#[derive(Debug, Clone)]
pub struct Client {
    host: String,
    port: u16,
    timeout: Duration,
}

/// A reply, complete.
#[derive(Debug, Clone)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Text that goes with the status, such as `Not Found`.
    pub reason: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the address.
    #[error("connecting to {address}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The request or the reply was cut short.
    #[error("talking to {address}")]
    Http {
        /// Host and port.
        address: String,
        /// Why.
        source: hyper::Error,
    },
    /// The path is not one.
    #[error("building the request")]
    Request(#[source] hyper::http::Error),
    /// The reply's body was cut short or too large.
    #[error("reading the reply: {0}")]
    Body(String),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl Client {
    /// A client that waits ten minutes for an answer: functions may take long.
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            timeout: Duration::from_secs(600),
        }
    }

    /// The same client with another limit.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Where it connects to.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Sends a request and reads the whole reply.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response, ClientError> {
        let exchange = self.exchange(method, path, body);
        let answer = tokio::time::timeout(self.timeout, exchange).await;
        answer.map_err(|_| ClientError::Timeout(self.timeout))?
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response, ClientError> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let connected = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        let stream = connected.map_err(|source| ClientError::Connect {
            address: self.address(),
            source,
        })?;
        let http = |source| ClientError::Http {
            address: self.address(),
            source,
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(http)?;
        // Ends with the exchange: the reply's end or the sender's drop.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address())
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(ClientError::Request)?;
        let response = sender.send_request(request).await.map_err(http)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), REPLY_MAX)
            .collect()
            .await;
        let body = body.map_err(|error| ClientError::Body(error.to_string()))?;
        Ok(Response {
            status: status.as_u16(),
            reason: status.canonical_reason().unwrap_or_default(),
            body: body.to_bytes().to_vec(),
        })
    }
}
