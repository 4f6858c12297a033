//! An S3-compatible store with its objects in files: the one of the `s3s` project, which checks
//! signatures. It can be made to misbehave, and remembers what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3ServiceBuilder, SharedS3Service};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto};

use super::node::Builder;

const ACCESS_KEY: &str = "the-nodes";
const SECRET_KEY: &str = "what the nodes sign with";

/// How the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// It takes requests and never answers.
    Hangs,
    /// It answers 500 to everything.
    Fails,
}

struct State {
    mood: Mood,
    asked: Vec<String>,
}

/// A running store; it ends with its owner.
pub(crate) struct S3 {
    address: SocketAddr,
    directory: TempDir,
    state: Arc<Mutex<State>>,
    is_secure: bool,
    _runtime: Runtime,
}

/// A store with this bucket.
pub(crate) fn s3(bucket: &str) -> S3 {
    S3::start(bucket, None)
}

/// The same, by TLS.
pub(crate) fn secure_s3(bucket: &str) -> S3 {
    let names = vec!["127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a configuration");
    let s3 = S3::start(bucket, Some(TlsAcceptor::from(Arc::new(config))));
    std::fs::write(s3.ca(), made.cert.pem()).expect("writing the certificate");
    s3
}

impl S3 {
    fn start(bucket: &str, tls: Option<TlsAcceptor>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path().join("objects");
        std::fs::create_dir_all(root.join(bucket)).expect("making the bucket");
        let mut builder = S3ServiceBuilder::new(FileSystem::new(&root).expect("a file system"));
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build().into_shared();
        let state = Arc::new(Mutex::new(State {
            mood: Mood::Well,
            asked: Vec::new(),
        }));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let is_secure = tls.is_some();
        runtime.spawn(accept(listener, tls, service, Arc::clone(&state)));
        Self {
            address,
            directory,
            state,
            is_secure,
            _runtime: runtime,
        }
    }

    /// File with the certificate to trust.
    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    pub(crate) fn endpoint(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Tells a node where the store is, and by which keys it is known there.
    pub(crate) fn known_to(&self, node: Builder) -> Builder {
        let node = node
            .set("object_store.endpoint", self.endpoint())
            .set("object_store.access_key", ACCESS_KEY)
            .set("object_store.secret_key", SECRET_KEY);
        match self.is_secure {
            true => node.set("object_store.tls.ca", self.ca().display()),
            false => node.set("object_store.allow_http", true),
        }
    }

    pub(crate) fn turn(&self, mood: Mood) {
        self.state.lock().expect("the state").mood = mood;
    }

    /// Requests so far that begin like this, such as `PUT /bucket/`.
    pub(crate) fn asked(&self, beginning: &str) -> usize {
        let state = self.state.lock().expect("the state");
        let asked = state.asked.iter();
        asked.filter(|line| line.starts_with(beginning)).count()
    }

    /// Where the object is.
    pub(crate) fn file(&self, bucket: &str, key: &str) -> PathBuf {
        self.directory.path().join("objects").join(bucket).join(key)
    }

    /// Puts an object there, past the protocol.
    pub(crate) fn put(&self, bucket: &str, key: &str, content: impl AsRef<[u8]>) {
        let path = self.file(bucket, key);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a directory");
        std::fs::write(path, content).expect("writing the object");
    }

    /// The object.
    #[track_caller]
    pub(crate) fn get(&self, bucket: &str, key: &str) -> Vec<u8> {
        let path = self.file(bucket, key);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: SharedS3Service,
    state: Arc<Mutex<State>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, service, state) = (tls.clone(), service.clone(), Arc::clone(&state));
        // Errors mean that the client has gone, or doesn't trust the store.
        tokio::spawn(async move {
            match tls {
                None => drop(converse(stream, service, state).await),
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        drop(converse(stream, service, state).await);
                    }
                }
            }
        });
    }
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static {}
impl Stream for TcpStream {}
impl Stream for tokio_rustls::server::TlsStream<TcpStream> {}

type Body = UnsyncBoxBody<Bytes, s3s::StdError>;

async fn converse(
    stream: impl Stream,
    service: SharedS3Service,
    state: Arc<Mutex<State>>,
) -> hyper::Result<()> {
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, state) = (service.clone(), Arc::clone(&state));
        async move { Ok::<_, Infallible>(answer(request, &service, &state).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

async fn answer(
    request: Request<Incoming>,
    service: &SharedS3Service,
    state: &Mutex<State>,
) -> Response<Body> {
    let mood = {
        let mut state = state.lock().expect("the state");
        state
            .asked
            .push(format!("{} {}", request.method(), request.uri()));
        state.mood
    };
    let failed = || {
        let body = Full::from("<Error><Code>Broken</Code></Error>").map_err(|error| match error {});
        let mut response = Response::new(body.boxed_unsync());
        *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
        response
    };
    match mood {
        Mood::Well => {
            let answered = hyper::service::Service::call(service, request).await;
            answered.map_or_else(|_| failed(), |response| response.map(BodyExt::boxed_unsync))
        }
        Mood::Hangs => std::future::pending().await,
        Mood::Fails => failed(),
    }
}
