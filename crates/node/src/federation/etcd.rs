//! A small client of etcd's JSON gateway (etcd 3.4 and later): keys, leases, watches.
//!
//! JSON over HTTP, where etcd's own protocol would need generated code. Every call has a time limit;
//! a watch, which has none, notices a dead connection by TCP's keep-alive. What is asked here is
//! asked once: whether to try again is the caller's to decide, except that an endpoint that could
//! not be connected to gives way to the next one. A login that has expired is renewed, and what was
//! refused for that is asked once more. Not here: what keys mean.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::{info, warn};

use super::tls::{self, TlsError};
use crate::config;

pub(crate) mod transaction;

/// How long a call may take.
const CALL_TIME_MAX: Duration = Duration::from_secs(3);

/// How long connecting to an endpoint may take: less, so that there is time for the next one.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// When a silent connection is asked whether it lives, and how often before it counts as dead.
const PROBE_AFTER: Duration = Duration::from_secs(5);
const PROBES_MAX: u32 = 3;

/// Largest answer, and largest message of a watch, bytes.
const ANSWER_MAX: usize = 64 << 20;

/// Largest value that is sent: etcd's limit of 1.5 MiB for a request, less what else is in one.
pub(crate) const VALUE_MAX: usize = (3 << 19) - (16 << 10);

/// Longest reason that is told of a refusal without a form, characters.
const REASON_MAX: usize = 200;

/// Why etcd was of no help.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// Nothing was sent.
    #[error(
        "no endpoint of etcd (etcd.address) can be connected to; the last tried was {endpoint}"
    )]
    Connect {
        /// Host and port.
        endpoint: String,
        /// What happened.
        source: hyper_util::client::legacy::Error,
    },
    /// Whether it did what it was asked isn't known.
    #[error("etcd at {endpoint} broke off")]
    Broken {
        /// Host and port.
        endpoint: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Whether it did what it was asked isn't known.
    #[error("etcd did not answer within {0:?}")]
    Timeout(Duration),
    /// It says no, or that it can't at the moment.
    #[error("etcd at {endpoint} refused ({status}): {message}")]
    Refused {
        /// Host and port.
        endpoint: String,
        /// Of HTTP.
        status: u16,
        /// In its own words.
        message: String,
    },
    /// It doesn't let this node in.
    #[error("etcd does not accept etcd.username with etcd.password")]
    Login(#[source] Box<EtcdError>),
    /// It is no etcd, or one of another time.
    #[error("etcd at {endpoint} gave an answer that is not understood")]
    Answer {
        /// Host and port.
        endpoint: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The events from here on are forgotten: read everything anew.
    #[error("etcd has forgotten the events since revision {0}")]
    Compacted(u64),
}

impl EtcdError {
    /// Whether etcd will never do what it was asked. (404 is a lease that has ended; who may do what
    /// can be mended; 408 and 499 are its own end; and it says so when it is behind.)
    pub(crate) fn is_final(&self) -> bool {
        let passing = [401, 403, 404, 408, 499];
        matches!(self, Self::Refused { status, message, .. }
            if (400..500).contains(status) && !passing.contains(status)
                && !message.contains("too many requests"))
    }

    /// Whether a new login may help. etcd says it in words: the status differs between versions.
    fn is_login_needed(&self) -> bool {
        const SAID: [&str; 3] = [
            "invalid auth token",
            "revision of auth store is old",
            "user name is empty",
        ];
        matches!(self, Self::Refused { message, .. } if SAID.iter().any(|it| message.contains(it)))
    }
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Entry {
    #[serde(deserialize_with = "text")]
    pub(crate) key: String,
    /// Empty if only keys were asked for.
    #[serde(default, deserialize_with = "bytes")]
    pub(crate) value: Vec<u8>,
    /// Of the cluster, when the key was last changed.
    #[serde(rename = "mod_revision", deserialize_with = "number")]
    pub(crate) revision: u64,
}

/// A change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Put(Entry),
    /// The key, and the cluster's revision since.
    Deleted(String, u64),
}

/// A client. Cheap calls: it keeps connections.
pub(crate) struct Etcd {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// With their schemes.
    endpoints: Vec<String>,
    login: Option<Login>,
    /// Which endpoint to ask.
    current: AtomicUsize,
    reachable: AtomicBool,
}

/// A user, and what shows that this node is that user for now.
struct Login {
    username: String,
    password: config::Hidden,
    token: Mutex<Option<HeaderValue>>,
}

impl Etcd {
    /// Of the cluster that is configured; connects when it is asked something.
    pub(crate) fn new(config: &config::Etcd) -> Result<Self, TlsError> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT_TIME_MAX));
        connector.set_nodelay(true);
        connector.set_keepalive(Some(PROBE_AFTER));
        connector.set_keepalive_interval(Some(PROBE_AFTER / PROBES_MAX));
        connector.set_keepalive_retries(Some(PROBES_MAX));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .build(
                HttpsConnectorBuilder::new()
                    .with_tls_config(tls::client(config)?)
                    .https_or_http()
                    .enable_http1()
                    .wrap_connector(connector),
            );
        let scheme = if config.uses_tls() { "https" } else { "http" };
        let with_scheme = |endpoint: &String| match endpoint.contains("://") {
            true => endpoint.clone(),
            false => format!("{scheme}://{endpoint}"),
        };
        let login = config.username.clone().zip(config.password.clone());
        Ok(Self {
            client,
            endpoints: config.endpoints.iter().map(with_scheme).collect(),
            login: login.map(|(username, password)| Login {
                username,
                password,
                token: Mutex::default(),
            }),
            current: AtomicUsize::new(0),
            reachable: AtomicBool::new(true),
        })
    }

    /// The key, if it exists.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Entry>, EtcdError> {
        let found: Found = self
            .call("kv/range", &json!({ "key": encode(key) }))
            .await?;
        Ok(found.kvs.into_iter().next())
    }

    /// All keys that begin with `prefix`, with their values if wanted, and the cluster's revision.
    pub(crate) async fn list(
        &self,
        prefix: &str,
        values: Values,
    ) -> Result<(Vec<Entry>, u64), EtcdError> {
        let request = json!({
            "key": encode(prefix),
            "range_end": encode_bytes(&after(prefix)),
            "keys_only": values == Values::Left,
        });
        let found: Found = self.call("kv/range", &request).await?;
        Ok((found.kvs, found.header.revision))
    }

    /// Sets the key, until `lease` ends if there is one. The cluster's revision since.
    pub(crate) async fn put(
        &self,
        key: &str,
        value: &[u8],
        lease: Option<u64>,
    ) -> Result<u64, EtcdError> {
        let mut request = put_request(key, value);
        if let Some(lease) = lease {
            request["lease"] = json!(lease.to_string());
        }
        let done: Done = self.call("kv/put", &request).await?;
        Ok(done.header.revision)
    }

    /// Sets the key if it doesn't exist; the cluster's revision since, `None` if it does exist.
    pub(crate) async fn create(&self, key: &str, value: &[u8]) -> Result<Option<u64>, EtcdError> {
        let request = json!({
            "compare": [{
                "key": encode(key), "target": "CREATE", "create_revision": "0", "result": "EQUAL",
            }],
            "success": [{ "request_put": put_request(key, value) }],
        });
        let done: Done = self.call("kv/txn", &request).await?;
        Ok(done.succeeded.then_some(done.header.revision))
    }

    /// Sets the key if it was last changed at `revision` (0: if it doesn't exist), until `lease` ends if
    /// there is one; the cluster's revision since, `None` if it was changed otherwise.
    pub(crate) async fn replace(
        &self,
        key: &str,
        value: &[u8],
        lease: Option<u64>,
        revision: u64,
    ) -> Result<Option<u64>, EtcdError> {
        let mut put = put_request(key, value);
        if let Some(lease) = lease {
            put["lease"] = json!(lease.to_string());
        }
        let request = json!({
            "compare": [unchanged_since(key, revision)],
            "success": [{ "request_put": put }],
        });
        let done: Done = self.call("kv/txn", &request).await?;
        Ok(done.succeeded.then_some(done.header.revision))
    }

    /// Removes the key if it was last changed at `revision`; whether it was.
    pub(crate) async fn delete_at(&self, key: &str, revision: u64) -> Result<bool, EtcdError> {
        let request = json!({
            "compare": [unchanged_since(key, revision)],
            "success": [{ "request_delete_range": { "key": encode(key) } }],
        });
        let done: Done = self.call("kv/txn", &request).await?;
        Ok(done.succeeded)
    }

    /// Removes the key. The cluster's revision since.
    pub(crate) async fn delete(&self, key: &str) -> Result<u64, EtcdError> {
        let request = json!({ "key": encode(key) });
        let done: Done = self.call("kv/deleterange", &request).await?;
        Ok(done.header.revision)
    }

    /// A new lease that ends after `life` (whole seconds) unless it is kept alive.
    pub(crate) async fn grant(&self, life: Duration) -> Result<u64, EtcdError> {
        let request = json!({ "TTL": life.as_secs().to_string() });
        let lease: Lease = self.call("lease/grant", &request).await?;
        Ok(lease.id)
    }

    /// Begins the lease's life anew; `false` if it has ended.
    pub(crate) async fn keep_alive(&self, lease: u64) -> Result<bool, EtcdError> {
        let request = json!({ "ID": lease.to_string() });
        let kept: Streamed<Lease> = self.call("lease/keepalive", &request).await?;
        Ok(kept.result.life > 0)
    }

    /// Ends the lease; its keys are removed.
    pub(crate) async fn revoke(&self, lease: u64) -> Result<(), EtcdError> {
        let request = json!({ "ID": lease.to_string() });
        let _: Done = self.call("lease/revoke", &request).await?;
        Ok(())
    }

    /// Changes of keys that begin with `prefix`, from the cluster's revision `from` on.
    pub(crate) async fn watch(&self, prefix: &str, from: u64) -> Result<Watch, EtcdError> {
        let request = json!({ "create_request": {
            "key": encode(prefix),
            "range_end": encode_bytes(&after(prefix)),
            "start_revision": from.to_string(),
        }});
        let begun = async {
            let token = self.token(None).await?;
            let (endpoint, response) = self.send("watch", &request, token).await?;
            let status = response.status();
            if status.is_success() {
                return Ok((endpoint, response));
            }
            let body = collect(&endpoint, response).await?;
            Err(refusal(endpoint, status, &body))
        };
        let begun = timeout(CALL_TIME_MAX, begun).await;
        let (endpoint, response) =
            self.judge(begun.unwrap_or(Err(EtcdError::Timeout(CALL_TIME_MAX))))?;
        Ok(Watch {
            endpoint,
            body: response.into_body(),
            received: BytesMut::new(),
            searched: 0,
            from,
        })
    }

    async fn call<T: DeserializeOwned>(&self, what: &str, request: &Value) -> Result<T, EtcdError> {
        let answer = async {
            let token = self.token(None).await?;
            match self.exchange(what, request, token.clone()).await {
                Err(error) if self.login.is_some() && error.is_login_needed() => {
                    let token = self.token(token).await?;
                    self.exchange(what, request, token).await
                }
                answer => answer,
            }
        };
        let answer = timeout(CALL_TIME_MAX, answer).await;
        self.judge(answer.unwrap_or(Err(EtcdError::Timeout(CALL_TIME_MAX))))
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        what: &str,
        request: &Value,
        token: Option<HeaderValue>,
    ) -> Result<T, EtcdError> {
        let (endpoint, response) = self.send(what, request, token).await?;
        let status = response.status();
        let body = collect(&endpoint, response).await?;
        read(&endpoint, status, &body)
    }

    /// What shows who this node is, made if there is none but `expired`; `None` without a password.
    /// One login for all who need it: etcd takes long for each, on purpose.
    async fn token(&self, expired: Option<HeaderValue>) -> Result<Option<HeaderValue>, EtcdError> {
        let Some(login) = &self.login else {
            return Ok(None);
        };
        let mut token = login.token.lock().await;
        if token.is_some() && *token != expired {
            return Ok(token.clone());
        }
        let Login {
            username, password, ..
        } = login;
        let request = json!({ "name": username, "password": password.0 });
        let granted: Result<Token, _> = self.exchange("auth/authenticate", &request, None).await;
        *token = match granted {
            Ok(granted) => HeaderValue::try_from(granted.token).ok(),
            // Without users, etcd asks nobody who they are.
            Err(EtcdError::Refused { message, .. }) if message.contains("not enabled") => {
                return Ok(None);
            }
            Err(error @ EtcdError::Refused { .. }) => return Err(EtcdError::Login(error.into())),
            Err(error) => return Err(error),
        };
        Ok(token.clone())
    }

    /// Sends the request to the first endpoint that can be connected to.
    async fn send(
        &self,
        what: &str,
        request: &Value,
        token: Option<HeaderValue>,
    ) -> Result<(String, Response<Incoming>), EtcdError> {
        let body = Bytes::from(request.to_string());
        let mut tried = 1;
        loop {
            let current = self.current.load(Ordering::Relaxed);
            let endpoint = &self.endpoints[current % self.endpoints.len()];
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = Method::POST;
            let uri = format!("{endpoint}/v3/{what}").parse();
            *request.uri_mut() = uri.map_err(|source| EtcdError::Broken {
                endpoint: endpoint.clone(),
                source: Box::<hyper::http::uri::InvalidUri>::new(source),
            })?;
            const JSON: HeaderValue = HeaderValue::from_static("application/json");
            request.headers_mut().insert(CONTENT_TYPE, JSON);
            if let Some(token) = &token {
                request.headers_mut().insert(AUTHORIZATION, token.clone());
            }
            match self.client.request(request).await {
                Ok(response) => return Ok((endpoint.clone(), response)),
                Err(error) if error.is_connect() && tried < self.endpoints.len() => {
                    self.leave(current);
                    tried += 1;
                }
                Err(source) if source.is_connect() => {
                    let endpoint = endpoint.clone();
                    return Err(EtcdError::Connect { endpoint, source });
                }
                Err(source) => {
                    return Err(EtcdError::Broken {
                        endpoint: endpoint.clone(),
                        source: source.into(),
                    });
                }
            }
        }
    }

    /// Says when etcd goes and comes, and turns to another endpoint when one is of no use.
    fn judge<T>(&self, answer: Result<T, EtcdError>) -> Result<T, EtcdError> {
        let served = match &answer {
            Ok(_) | Err(EtcdError::Compacted(_)) => true,
            // Above that, it is the request that is wrong.
            Err(EtcdError::Refused { status, .. }) => *status < 500,
            Err(_) => false,
        };
        match &answer {
            Err(error) if !served => {
                self.leave(self.current.load(Ordering::Relaxed));
                if self.reachable.swap(false, Ordering::Relaxed) {
                    let error = crate::chain(error);
                    warn!(error, "etcd is away; the node goes on with what it knows");
                }
            }
            _ => {
                if !self.reachable.swap(true, Ordering::Relaxed) {
                    info!("etcd answers again");
                }
            }
        }
        answer
    }

    /// Turns to the next endpoint, unless somebody else has done so.
    fn leave(&self, current: usize) {
        let next = current.wrapping_add(1);
        let (order, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        let _ = self.current.compare_exchange(current, next, order, failure);
    }
}

/// Whether a list has values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    Included,
    Left,
}

/// A stream of changes.
pub(crate) struct Watch {
    endpoint: String,
    body: Incoming,
    received: BytesMut,
    /// How much of `received` has no end of a line in it.
    searched: usize,
    from: u64,
}

impl Watch {
    /// The next changes, oldest first. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Vec<Event>, EtcdError> {
        loop {
            if let Some(line) = self.line() {
                let events = self.events(&line)?;
                if !events.is_empty() {
                    return Ok(events);
                }
                continue;
            }
            let broken = |source| EtcdError::Broken {
                endpoint: self.endpoint.clone(),
                source,
            };
            if self.received.len() > ANSWER_MAX {
                return Err(broken("a message is too long".into()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.received.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(broken(error.into())),
                None => return Err(broken("the stream of changes has ended".into())),
            }
        }
    }

    fn line(&mut self) -> Option<BytesMut> {
        let unsearched = &self.received[self.searched..];
        match unsearched.iter().position(|&byte| byte == b'\n') {
            Some(at) => {
                let line = self.received.split_to(self.searched + at + 1);
                self.searched = 0;
                Some(line)
            }
            None => {
                self.searched = self.received.len();
                None
            }
        }
    }

    fn events(&self, line: &[u8]) -> Result<Vec<Event>, EtcdError> {
        let message: Streamed<Message> = read(&self.endpoint, StatusCode::OK, line)?;
        let message = message.result;
        if message.canceled || message.compact_revision > 0 {
            return Err(EtcdError::Compacted(self.from));
        }
        let event = |event: RawEvent| match event.kind.as_str() {
            "DELETE" => Event::Deleted(event.kv.key, event.kv.revision),
            _ => Event::Put(event.kv),
        };
        Ok(message.events.into_iter().map(event).collect())
    }
}

async fn collect(endpoint: &str, response: Response<Incoming>) -> Result<Bytes, EtcdError> {
    let body = Limited::new(response.into_body(), ANSWER_MAX);
    let body = body.collect().await.map_err(|source| EtcdError::Broken {
        endpoint: endpoint.to_owned(),
        source,
    })?;
    Ok(body.to_bytes())
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

#[derive(Deserialize)]
struct Header {
    #[serde(default, deserialize_with = "number")]
    revision: u64,
}

#[derive(Deserialize)]
struct Found {
    header: Header,
    #[serde(default)]
    kvs: Vec<Entry>,
}

#[derive(Deserialize)]
struct Done {
    header: Header,
    /// Of a transaction; left out where it would be false.
    #[serde(default)]
    succeeded: bool,
}

#[derive(Deserialize)]
struct Lease {
    #[serde(rename = "ID", default, deserialize_with = "number")]
    id: u64,
    /// Seconds; left out where it would be zero.
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    life: u64,
}

/// Answers of calls that the gateway makes streams of.
#[derive(Deserialize)]
struct Streamed<T> {
    result: T,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    canceled: bool,
    #[serde(default, deserialize_with = "number")]
    compact_revision: u64,
    #[serde(default)]
    events: Vec<RawEvent>,
}

#[derive(Deserialize)]
struct RawEvent {
    /// Left out for `PUT`.
    #[serde(rename = "type", default)]
    kind: String,
    kv: Entry,
}

fn read<T: DeserializeOwned>(
    endpoint: &str,
    status: StatusCode,
    body: &[u8],
) -> Result<T, EtcdError> {
    let endpoint = endpoint.to_owned();
    if !status.is_success() {
        return Err(refusal(endpoint, status, body));
    }
    serde_json::from_slice(body).map_err(|source| EtcdError::Answer { endpoint, source })
}

fn refusal(endpoint: String, status: StatusCode, body: &[u8]) -> EtcdError {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    // What isn't the gateway's own has another form: text, of which the beginning says enough.
    let text = String::from_utf8_lossy(body);
    let text: String = text.trim().chars().take(REASON_MAX).collect();
    let message = said["error"].as_str().map_or(text, str::to_owned);
    EtcdError::Refused {
        endpoint,
        status: status.as_u16(),
        message,
    }
}

fn unchanged_since(key: &str, revision: u64) -> Value {
    json!({
        "key": encode(key), "target": "MOD", "mod_revision": revision.to_string(), "result": "EQUAL",
    })
}

fn put_request(key: &str, value: &[u8]) -> Value {
    json!({ "key": encode(key), "value": encode_bytes(value) })
}

fn encode(text: &str) -> String {
    encode_bytes(text.as_bytes())
}

fn encode_bytes(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The first key after all that begin with `prefix`, whose last byte is not the highest: it is text.
fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// The gateway writes numbers of 64 bits as text.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    STANDARD.decode(&*text).map_err(serde::de::Error::custom)
}

/// Keys that are no text are none of ours, and can be shown all the same.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let bytes = bytes(deserializer)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
