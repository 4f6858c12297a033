//! Getting images from registries: the few requests of the distribution protocol that it takes.
//!
//! Every document and layer is checked against its digest. Without TLS only registries are talked
//! to that the configuration names, and credentials go to nobody but the registry and its token
//! service. There are no retries: a layer that was unpacked is kept, so another pull goes on.

use std::fs::File;
use std::io::{Seek, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, LOCATION, USER_AGENT, WWW_AUTHENTICATE};
use hyper::http::uri::{Authority, Scheme};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustix::fs::FlockOperation;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;

use super::manifest::{Descriptor, Manifest, Plan, check_module};
use super::reference::sha256_of;
use super::store::{Image, ImageStore};
use super::{ImageError, METADATA_MAX, Reference};
use crate::tls;

/// How long a server may take to accept a connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Redirects of one request.
const REDIRECTS_MAX: usize = 5;
/// Indexes within indexes.
const NESTING_MAX: usize = 3;

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

impl ImageStore {
    /// Gets an image from its registry, layers that are here excepted.
    pub async fn pull(self: &Arc<Self>, name: &Reference) -> Result<Image, ImageError> {
        let limit = self.config.limits.pull_timeout;
        let registry = Registry::new(self, name);
        match timeout(limit, registry.pull()).await {
            Ok(pulled) => pulled,
            Err(_) => {
                let slow = format!("didn't give {name} within {} s", limit.as_secs());
                Err(registry.failed(&slow, true))
            }
        }
    }
}

/// A registry, and what is wanted of it.
struct Registry<'a> {
    store: &'a Arc<ImageStore>,
    name: &'a Reference,
}

/// What is sent along to prove who asks.
type Token = Option<String>;

/// The answer of a token service.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tokens {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a> Registry<'a> {
    fn new(store: &'a Arc<ImageStore>, name: &'a Reference) -> Self {
        Self { store, name }
    }

    fn failed(&self, problem: &str, transient: bool) -> ImageError {
        ImageError::Registry {
            registry: self.name.registry.clone(),
            problem: problem.to_owned(),
            transient,
        }
    }

    async fn pull(&self) -> Result<Image, ImageError> {
        // Waited for off the async threads: somebody may be removing.
        let store = Arc::clone(self.store);
        let locking = spawn_blocking(move || store.lock(FlockOperation::LockShared)).await;
        let _shared = locking.map_err(|error| ImageError::io("locking the images")(error))??;

        tracing::info!(image = %self.name, "pulling an image");
        let mut token = None;
        let manifest = self.manifest(&mut token).await?;
        let config = manifest.config.clone().unwrap_or_default();
        let configuration = self.document("blobs", &config.digest, &mut token).await?;
        if let Some(layer) = manifest.module()? {
            let digest = check_module(&config, &configuration, layer)?;
            return self.pull_module(layer, digest, &mut token).await;
        }
        let plan = Plan::parse(&configuration, manifest.layers.len())?;
        let store = Arc::clone(self.store);
        let mut budget = spawn_blocking(move || store.budget())
            .await
            .map_err(panicked)??;
        for (number, (layer, blob)) in plan.layers.iter().zip(&manifest.layers).enumerate() {
            if self.store.size(layer).is_some() {
                continue;
            }
            let mut file = self.download(blob, &mut token).await?;
            let (store, name) = (Arc::clone(self.store), layer.clone());
            let unpack = move || {
                let added = store.add_layer(&mut file, &name, &mut budget);
                added.map(|()| budget)
            };
            budget = spawn_blocking(unpack).await.map_err(panicked)??;
            let (layers, bytes) = (plan.layers.len(), blob.size);
            tracing::info!(image = %self.name, layer = number + 1, layers, bytes, "got a layer");
        }
        let (store, name) = (Arc::clone(self.store), vec![self.name.to_string()]);
        let record = move || store.record_image(&name, &configuration, plan);
        let mut images = spawn_blocking(record).await.map_err(panicked)??;
        tracing::info!(image = %self.name, "an image was pulled");
        images
            .pop()
            .ok_or_else(|| ImageError::Missing(self.name.to_string()))
    }

    async fn pull_module(
        &self,
        layer: &Descriptor,
        digest: &str,
        token: &mut Token,
    ) -> Result<Image, ImageError> {
        let blob = match self.store.size(digest) {
            Some(_) => None,
            None => Some(self.download(layer, token).await?),
        };
        let (store, digest) = (Arc::clone(self.store), digest.to_owned());
        let names = vec![self.name.to_string()];
        let keep = move || {
            if let Some(mut blob) = blob {
                store.add_module(&mut blob, &digest, &mut store.budget()?)?;
            }
            store.record_module(&names, &digest)
        };
        let mut images = spawn_blocking(keep).await.map_err(panicked)??;
        tracing::info!(image = %self.name, "a module was pulled");
        images
            .pop()
            .ok_or_else(|| ImageError::Missing(self.name.to_string()))
    }

    /// The manifest for this machine.
    async fn manifest(&self, token: &mut Token) -> Result<Manifest, ImageError> {
        let mut version = self.name.version().to_owned();
        for _ in 0..=NESTING_MAX {
            let bytes = self.document("manifests", &version, token).await?;
            let manifest = Manifest::parse(&bytes)?;
            if manifest.manifests.is_empty() {
                return Ok(manifest);
            }
            version = manifest.choose()?.digest.clone();
        }
        Err(ImageError::invalid("its index leads to no manifest"))
    }

    /// A manifest or configuration; one that is asked for by its digest has that digest.
    async fn document(
        &self,
        kind: &str,
        version: &str,
        token: &mut Token,
    ) -> Result<Bytes, ImageError> {
        let digest = match (sha256_of(version), kind) {
            (None, "manifests") if self.name.digest().is_none() => None,
            (Some(hex), _) => Some(hex),
            _ => {
                return Err(ImageError::invalid(format!(
                    "{version:?} is no sha256 digest"
                )));
            }
        };
        let response = self.get(kind, version, token).await?;
        let body = http_body_util::Limited::new(response.into_body(), METADATA_MAX as usize);
        let collected = body.collect().await;
        let bytes = collected
            .map_err(|error| self.failed(&format!("broke off: {error}"), true))?
            .to_bytes();
        if digest.is_some_and(|digest| hex::encode(Sha256::digest(&bytes)) != digest) {
            return Err(ImageError::invalid(format!(
                "{version} differs from its digest"
            )));
        }
        Ok(bytes)
    }

    /// A layer, checked, in a file that has no name any more.
    async fn download(&self, blob: &Descriptor, token: &mut Token) -> Result<File, ImageError> {
        let receiving = || ImageError::io("receiving a layer");
        let limit = self.store.config.limits.layer_max;
        let large = || ImageError::invalid("a layer is larger than image.layer_max allows");
        let Some(digest) = sha256_of(&blob.digest) else {
            let what = format!("{:?} is no sha256 digest", blob.digest);
            return Err(ImageError::invalid(what));
        };
        if blob.size > limit {
            return Err(large());
        }
        let temporary = self.store.temporary()?;
        let options = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&temporary.0);
        let mut file = options.map_err(receiving())?;
        drop(temporary);
        let mut body = self.get("blobs", &blob.digest, token).await?.into_body();
        let (mut hash, mut received) = (Sha256::new(), 0_u64);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.failed(&format!("broke off: {error}"), true))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            received += data.len() as u64;
            if received > limit {
                return Err(large());
            }
            hash.update(&data);
            // To the page cache, a few KiB at a time.
            file.write_all(&data).map_err(receiving())?;
        }
        if hex::encode(hash.finalize()) != digest {
            return Err(ImageError::invalid("a layer differs from its digest"));
        }
        file.rewind().map_err(receiving())?;
        Ok(file)
    }

    /// Asks for something in the image's repository; once more with a token if one is wanted.
    async fn get(
        &self,
        kind: &str,
        version: &str,
        token: &mut Token,
    ) -> Result<Response<Incoming>, ImageError> {
        let host = self.name.host();
        let scheme = match self.is_insecure(host) {
            true => "http",
            false => "https",
        };
        let repository = &self.name.repository;
        let url = format!("{scheme}://{host}/v2/{repository}/{kind}/{version}");
        let url: Uri = url
            .parse()
            .map_err(|_| self.failed("has a name that is no host", false))?;
        let mut response = self.follow(&url, token.as_deref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            *token = Some(self.authorize(&response).await?);
            response = self.follow(&url, token.as_deref()).await?;
        }
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => {
                Err(self.failed(&format!("has no {} ({kind} {version})", self.name), false))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let denied = format!(
                    "doesn't give {}: it may not exist, or credentials are needed \
                     (image.auth_file)",
                    self.name
                );
                Err(self.failed(&denied, false))
            }
            status => {
                let transient = status.is_server_error() || status.as_u16() == 429;
                Err(self.failed(&format!("answered {status} for {}", self.name), transient))
            }
        }
    }

    /// The response after redirects. Credentials stay with the host that they are for.
    async fn follow(
        &self,
        url: &Uri,
        token: Option<&str>,
    ) -> Result<Response<Incoming>, ImageError> {
        let mut url = url.clone();
        let mut token = token;
        for _ in 0..=REDIRECTS_MAX {
            let response = self.request(&url, token).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let to = response
                .headers()
                .get(LOCATION)
                .and_then(|to| to.to_str().ok());
            let to: Option<Uri> = to.and_then(|to| to.parse().ok());
            let mut to = to.ok_or_else(|| self.failed("redirects to nowhere", false))?;
            if to.authority().is_none() {
                let mut parts = url.clone().into_parts();
                parts.path_and_query = to.into_parts().path_and_query;
                to = Uri::from_parts(parts)
                    .map_err(|_| self.failed("redirects to nowhere", false))?;
            }
            if to.authority() != url.authority() || to.scheme() != url.scheme() {
                token = None;
            }
            url = to;
        }
        Err(self.failed("redirects without end", false))
    }

    /// What to send as authorization, as the registry's refusal says.
    async fn authorize(&self, refusal: &Response<Incoming>) -> Result<String, ImageError> {
        let challenge = refusal.headers().get(WWW_AUTHENTICATE);
        let challenge = challenge
            .and_then(|it| it.to_str().ok())
            .unwrap_or_default();
        let basic = self
            .credentials()
            .await?
            .map(|basic| format!("Basic {basic}"));
        let Some(challenge) = strip_scheme(challenge, "bearer") else {
            let needed = "wants credentials: put them into the file image.auth_file";
            return basic.ok_or_else(|| self.failed(needed, false));
        };
        let unclear = || self.failed("asks for a token in an unknown way", false);
        let realm = parameter(challenge, "realm").ok_or_else(unclear)?;
        let scope = format!("repository:{}:pull", self.name.repository);
        let mut url = format!("{realm}?scope={scope}");
        if let Some(service) = parameter(challenge, "service") {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/".contains(c);
            if !service.chars().all(is_plain) {
                return Err(unclear());
            }
            url.push_str(&format!("&service={service}"));
        }
        let url: Uri = url.parse().map_err(|_| unclear())?;
        let response = self.follow(&url, basic.as_deref()).await?;
        if response.status() != StatusCode::OK {
            let refused = format!("gives no token for {}: {}", self.name, response.status());
            return Err(self.failed(&refused, response.status().is_server_error()));
        }
        let body = http_body_util::Limited::new(response.into_body(), METADATA_MAX as usize);
        let bytes = body.collect().await.map_err(|_| unclear())?.to_bytes();
        let tokens: Tokens = serde_json::from_slice(&bytes).map_err(|_| unclear())?;
        let token = tokens.token.or(tokens.access_token).ok_or_else(unclear)?;
        Ok(format!("Bearer {token}"))
    }

    /// Name and password, as they are sent, from a file like Docker's.
    async fn credentials(&self) -> Result<Option<String>, ImageError> {
        let Some(path) = &self.store.config.auth_file else {
            return Ok(None);
        };
        let reading = format!("reading {} (image.auth_file)", path.display());
        let text = tokio::fs::read(path)
            .await
            .map_err(ImageError::io(reading.clone()))?;
        let file: serde_json::Value =
            serde_json::from_slice(&text).map_err(ImageError::io(reading))?;
        let account = &file["auths"][self.name.account()];
        if let Some(basic) = account["auth"].as_str() {
            return Ok(Some(basic.to_owned()));
        }
        let (name, password) = (account["username"].as_str(), account["password"].as_str());
        Ok(name
            .zip(password)
            .map(|(name, password)| STANDARD.encode(format!("{name}:{password}"))))
    }

    fn is_insecure(&self, host: &str) -> bool {
        self.store
            .config
            .insecure_registries
            .iter()
            .any(|it| it == host)
    }

    /// One request on a connection of its own.
    async fn request(
        &self,
        url: &Uri,
        token: Option<&str>,
    ) -> Result<Response<Incoming>, ImageError> {
        let authority = url
            .authority()
            .ok_or_else(|| self.failed("has no host", false))?;
        let unreachable = |error: &dyn std::fmt::Display| {
            self.failed(&format!("can't be reached: {authority}: {error}"), true)
        };
        let secure = url.scheme() != Some(&Scheme::HTTP);
        if !secure && !self.is_insecure(authority.as_str()) {
            let plain = format!(
                "leads to {authority} without encryption, which image.insecure_registries \
                 doesn't allow"
            );
            return Err(self.failed(&plain, false));
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let port = authority
            .port_u16()
            .unwrap_or(if secure { 443 } else { 80 });
        let connecting = timeout(CONNECT_TIME_MAX, TcpStream::connect((host, port))).await;
        let stream = match connecting {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(&error)),
            Err(_) => return Err(unreachable(&"no answer")),
        };
        let request = request(url, authority, token)
            .map_err(|_| self.failed("has an address that is none", false))?;
        if !secure {
            return exchange(stream, request)
                .await
                .map_err(|error| unreachable(&error));
        }
        let name = match host.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(host.to_owned()).map_err(|error| unreachable(&error))?,
        };
        // Read anew for each request: they are few.
        let connector = spawn_blocking(tls::connector).await.map_err(panicked)?;
        let connector = connector.map_err(|error| unreachable(&error))?;
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| unreachable(&error))?;
        exchange(stream, request)
            .await
            .map_err(|error| unreachable(&error))
    }
}

fn request(
    url: &Uri,
    authority: &Authority,
    token: Option<&str>,
) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    const AGENT: &str = concat!("serverledge/", env!("CARGO_PKG_VERSION"));
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::get(path)
        .header(HOST, authority.as_str())
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, MANIFESTS)
        .header(ACCEPT, "*/*");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, token);
    }
    request.body(Empty::new())
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> hyper::Result<Response<Incoming>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the response's body, or when that is dropped.
    tokio::spawn(connection);
    sender.send_request(request).await
}

fn panicked(error: tokio::task::JoinError) -> ImageError {
    ImageError::io("working on an image")(error)
}

/// What follows the name of a scheme of authentication.
fn strip_scheme<'a>(challenge: &'a str, scheme: &str) -> Option<&'a str> {
    let (found, rest) = challenge.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// A parameter of a challenge.
fn parameter<'a>(challenge: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = challenge;
    while let Some((key, after)) = rest.split_once("=\"") {
        let (value, after) = after.split_once('"')?;
        if key.trim_matches([',', ' ']).eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let text =
            "Bearer realm=\"https://auth.example/token\",service=\"r.io\", scope=\"x:y,z:pull\"";
        let bearer = strip_scheme(text, "bearer").unwrap();
        assert_eq!(
            parameter(bearer, "realm"),
            Some("https://auth.example/token")
        );
        assert_eq!(parameter(bearer, "service"), Some("r.io"));
        assert_eq!(parameter(bearer, "scope"), Some("x:y,z:pull"));
        assert_eq!(parameter(bearer, "error"), None);
        assert_eq!(strip_scheme("Basic realm=\"x\"", "bearer"), None);
    }
}
