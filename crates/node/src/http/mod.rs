//! The HTTP API: connections, routes, bodies. What a request means is in the handlers; which
//! status an error gets is decided in `error.rs`, last.

mod body;
mod elsewhere;
pub(crate) mod error;
mod executions;
mod fleet;
pub(crate) mod functions;
mod invocations;
mod path;
mod workflows;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

pub(crate) use self::body::Room;
use self::body::{Body, READ_TIMEOUT};
use self::error::ApiError;
pub(crate) use self::invocations::NODE_NAME;
use crate::node::Node;

/// A reply, complete in memory.
pub(crate) type Reply = Response<Full<Bytes>>;

/// Pause after a failed accept: the usual reason is a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Accepts connections until `shutdown`. The requests that still run then can be waited for.
pub async fn serve(
    node: Arc<Node>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> GracefulShutdown {
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(node.config.api.connections_max));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        // Above the limit, clients wait in the listener's backlog.
        let accepted = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (stream, permit) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            (accepted, permit) = accepted => match (accepted, permit) {
                (Ok((stream, _)), Ok(permit)) => (stream, permit),
                (Err(error), _) => {
                    warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
                (_, Err(_)) => break,
            },
        };
        let connection = graceful.watch(connection(Arc::clone(&node), stream));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "connection ended");
            }
            drop(permit);
        });
    }
    graceful
}

fn connection(
    node: Arc<Node>,
    stream: TcpStream,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> {
    // Replies are single writes; waiting to fill a segment only adds latency.
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |request| {
        let node = Arc::clone(&node);
        async move { Ok::<_, std::convert::Infallible>(handle(node, request).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
}

async fn handle(node: Arc<Node>, request: Request<Incoming>) -> Reply {
    match route(node, request).await {
        Ok(reply) => reply,
        Err(error) => error.into_reply(),
    }
}

/// Every route of the node, in one place.
async fn route(node: Arc<Node>, request: Request<Incoming>) -> Result<Reply, ApiError> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let api = &node.config.api;
    let body = Body {
        incoming: body,
        max: api.body_max,
        room: node.room.clone(),
    };
    let large = |body| Body {
        max: api.create_body_max,
        ..body
    };
    if let Some(name) = path
        .strip_prefix("/invoke/")
        .filter(|name| !name.is_empty())
    {
        allow(&head.method, Method::POST)?;
        return invocations::invoke(&node, name, &head.headers, body).await;
    }
    if let Some(id) = path.strip_prefix("/poll/").filter(|id| !id.is_empty()) {
        allow(&head.method, Method::GET)?;
        return invocations::poll(&node, id).await;
    }
    if let Some(routed) = fleet::route(&node, &head.method, path, &head.headers).await {
        return routed;
    }
    match path {
        "/create" | "/update" => {
            allow(&head.method, Method::POST)?;
            functions::register(&node, large(body), path == "/update").await
        }
        "/delete" => {
            allow(&head.method, Method::POST)?;
            // The original's client sends the whole function object.
            functions::delete(&node, large(body)).await
        }
        "/function" => {
            allow(&head.method, Method::GET)?;
            Ok(functions::list(&node))
        }
        "/prewarm" => {
            allow(&head.method, Method::POST)?;
            invocations::prewarm(&node, body).await
        }
        "/v1/policy" => {
            allow(&head.method, Method::GET)?;
            Ok(json(&crate::qos::shown(&node)))
        }
        "/status" => {
            allow(&head.method, Method::GET)?;
            Ok(invocations::status(&node))
        }
        path if path.starts_with("/workflow/") => {
            let routed = workflows::route(&node, (&head.method, &head.headers), path, body).await;
            routed.unwrap_or(Err(ApiError::NotFound))
        }
        _ => elsewhere::route(&node, &head, body).await,
    }
}

fn allow(method: &Method, allowed: Method) -> Result<(), ApiError> {
    if *method == allowed {
        Ok(())
    } else {
        Err(ApiError::MethodNotAllowed)
    }
}

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=UTF-8");
pub(crate) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");

/// A reply of `content_type`.
pub(crate) fn reply(
    status: StatusCode,
    content_type: HeaderValue,
    body: impl Into<Bytes>,
) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

/// 200 with a line of JSON.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> Reply {
    reply(StatusCode::OK, JSON, serverledge_api::encode_line(value))
}
