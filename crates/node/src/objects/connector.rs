//! HTTP to the store: the node's own client and TLS, with limits for what an answer may take that
//! `object_store` reads as a whole.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Limited};
use hyper::Method;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use tokio::time::timeout;

use crate::config::ObjectStore;
use crate::federation::TlsError;
use crate::federation::tls;

/// How long connecting may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// How long the store may take to begin an answer, once it has all that it is sent.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Bytes a second that sending is waited for at least.
const SEND_RATE_MIN: u64 = 64 << 10;

/// Largest answer that isn't an object: a page of a list has a thousand keys of a thousand bytes.
const ANSWER_MAX: usize = 8 << 20;

/// Connections that are kept while nothing is asked, and for how long.
const IDLE_MAX: usize = 4;
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

/// Sends the requests of `object_store`. Cheap to clone: clones share connections.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    client: Client<HttpsConnector<HttpConnector>, HttpRequestBody>,
}

/// No answer in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
struct Silence(Duration);

impl Connector {
    pub(super) fn new(config: &ObjectStore) -> Result<Self, TlsError> {
        let uses_tls = config
            .endpoint
            .as_ref()
            .is_none_or(|endpoint| endpoint.starts_with("https://"));
        let ca = config
            .ca
            .as_deref()
            .map(|path: &Path| ("object_store.tls.ca", path));
        let tls = tls::trusting(ca, uses_tls)?.with_no_client_auth();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT_TIME_MAX));
        connector.set_nodelay(true);
        connector.set_tcp_user_timeout(Some(ANSWER_TIME_MAX));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME_MAX)
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector);
        Ok(Self { client })
    }
}

impl object_store::client::HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let sent = request.body().content_length() as u64;
        let time_max = ANSWER_TIME_MAX + Duration::from_secs(sent / SEND_RATE_MIN);
        let is_object = request.method() == Method::GET && !is_list(&request);
        let response = timeout(time_max, self.client.request(request)).await;
        // Not asked again: what hangs once will again, and somebody waits.
        let silent = |_| HttpError::new(HttpErrorKind::Unknown, Silence(time_max));
        let response = response.map_err(silent)?.map_err(failed)?;
        let bytes_max = match is_object && response.status().is_success() {
            // Who reads it has a limit of its own.
            true => usize::MAX,
            false => ANSWER_MAX,
        };
        let broken = |error| HttpError::new_boxed(HttpErrorKind::Interrupted, error);
        let limited = |body| HttpResponseBody::new(Limited::new(body, bytes_max).map_err(broken));
        Ok(response.map(limited))
    }
}

fn is_list(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|part| part == "list-type=2")
}

fn failed(error: ClientError) -> HttpError {
    let kind = match error.is_connect() {
        true => HttpErrorKind::Connect,
        false => HttpErrorKind::Interrupted,
    };
    HttpError::new(kind, error)
}
