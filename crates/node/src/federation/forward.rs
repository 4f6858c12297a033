//! Requests that are for another node: sent on as they came, once, and answered with what that node
//! says.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};

use super::offload::HOPS;
use super::{Federation, signature, unix_micros};

/// How long an answer may take: the longest wait for an execution's end, and the longest that an
/// execution takes to answer.
const TIME_MAX: Duration = Duration::from_secs(150);

/// Largest answer, bytes.
const ANSWER_MAX: usize = 256 << 20;

/// A request for another node.
pub(crate) struct Forwarded<'a> {
    pub(crate) method: &'a Method,
    /// Path, and query if there is one.
    pub(crate) path: &'a str,
    pub(crate) body: &'a [u8],
}

/// What a node has said.
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) kind: Option<HeaderValue>,
    pub(crate) body: Bytes,
}

impl Federation {
    /// Sends a request on to the node `key`; an error says why it has no answer.
    pub(crate) async fn forward(
        &self,
        key: &str,
        request: &Forwarded<'_>,
    ) -> Result<Answered, String> {
        let all = self.members.all();
        let member = all.values().find(|it| it.key == key && !it.is_balancer);
        let member = member.ok_or("it is not among the members of the fleet")?;
        let body = Bytes::copy_from_slice(request.body);
        let mut sent = Request::builder()
            .method(request.method)
            .uri(format!("http://{}{}", member.authority(), request.path))
            .header(HOPS, HeaderValue::from_static("1"))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        if let Some(secret) = &self.secret {
            signature::sign(secret, &mut sent, request.body, unix_micros());
        }
        let exchange = async {
            let response = self.offloader.request(sent).await;
            let response = response.map_err(|error| crate::chain(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_MAX).collect().await;
            Ok(Answered {
                status: head.status,
                kind: head.headers.get(CONTENT_TYPE).cloned(),
                body: body.map_err(|error| error.to_string())?.to_bytes(),
            })
        };
        let answered = tokio::time::timeout(TIME_MAX, exchange).await;
        answered.unwrap_or_else(|_| Err(format!("it took more than {TIME_MAX:?}")))
    }
}
