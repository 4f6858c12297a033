//! Handing an execution to another node: `POST /workflow/resume/<workflow>`, the original's request.
//!
//! What matters is what is known when it goes wrong. A node that couldn't be connected to, or that
//! doesn't know the workflow, has begun nothing. A node of ours takes an execution over in etcd
//! before it begins (`progress`), so that its other failures can be told apart too; one of the
//! original doesn't.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use serverledge_api::{Problem, ResumeWorkflow, WorkflowReply, escape};

use super::HandoverError;
use crate::federation::Member;
use crate::federation::offload::{HOPS, client};
use crate::http::NODE_NAME;

/// Largest answer: an output and reports of functions, each of which may have printed.
const ANSWER_MAX: usize = 64 << 20;

/// How it ended.
#[derive(Debug)]
pub(crate) enum Sent {
    /// The plan was carried out.
    Done(Box<WorkflowReply>),
    /// Nothing was begun.
    NotBegun(String),
    /// A node of ours failed: whether it has begun is in the progress.
    Told(HandoverError),
    /// Something may have begun.
    Failed(HandoverError),
}

/// Hands executions over. Cheap calls: it keeps connections.
#[derive(Debug)]
pub(crate) struct Remote {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Remote {
    pub(crate) fn new() -> Self {
        Self { client: client() }
    }

    /// Has `member` go on with an execution of `workflow`, within `limit`.
    pub(crate) async fn resume(
        &self,
        member: &Member,
        workflow: &str,
        (request, trace): (&ResumeWorkflow, &HeaderMap),
        limit: Duration,
    ) -> Sent {
        let request = match built(member, workflow, request) {
            Ok(mut request) => {
                request.headers_mut().extend(trace.clone());
                request
            }
            Err(error) => return Sent::NotBegun(error.to_string()),
        };
        let exchange = async {
            let response = self.client.request(request).await;
            let response = response.map_err(|source| match source.is_connect() {
                true => Sent::NotBegun("it can't be reached".to_owned()),
                false => lost(member, source.into()),
            })?;
            let status = response.status();
            let is_ours = response.headers().contains_key(NODE_NAME);
            let body = Limited::new(response.into_body(), ANSWER_MAX)
                .collect()
                .await;
            let body = body.map_err(|source| lost(member, source))?.to_bytes();
            Ok((status, is_ours, body))
        };
        match tokio::time::timeout(limit, exchange).await {
            Err(_) => Sent::Failed(HandoverError::Silent {
                node: member.key.clone(),
                limit,
            }),
            Ok(Err(sent)) => sent,
            Ok(Ok((status, is_ours, body))) => judge(member, status, is_ours, &body),
        }
    }
}

fn lost(member: &Member, source: Box<dyn std::error::Error + Send + Sync>) -> Sent {
    Sent::Failed(HandoverError::Lost {
        node: member.key.clone(),
        source,
    })
}

fn built(
    member: &Member,
    workflow: &str,
    request: &ResumeWorkflow,
) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let body = serverledge_api::encode(request);
    Request::builder()
        .method(Method::POST)
        .uri(format!(
            "http://{}/workflow/resume/{}",
            member.authority(),
            escape(workflow)
        ))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(HOPS, HeaderValue::from_static("1"))
        .body(Full::new(Bytes::from(body)))
}

fn judge(member: &Member, status: StatusCode, is_ours: bool, body: &[u8]) -> Sent {
    let node = member.key.clone();
    if status == StatusCode::OK {
        return match serde_json::from_slice::<WorkflowReply>(body) {
            Ok(reply) => Sent::Done(Box::new(reply)),
            Err(source) => lost(member, source.into()),
        };
    }
    if status == StatusCode::NOT_FOUND {
        return Sent::NotBegun("it doesn't know the workflow".to_owned());
    }
    // The original's nodes answer with a JSON string, or with nothing.
    let problem = serde_json::from_slice(body).unwrap_or_else(|_| {
        let text = serde_json::from_slice::<String>(body);
        let text = text.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned());
        Problem::new(status.as_u16(), "failed elsewhere", text)
    });
    let problem = Box::new(problem);
    let error = match status {
        StatusCode::TOO_MANY_REQUESTS => HandoverError::Full { node },
        _ => HandoverError::Elsewhere { node, problem },
    };
    match is_ours {
        true => Sent::Told(error),
        false => Sent::Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use serverledge_api::{Plan, WorkflowQos};

    use super::*;

    /// What the Go original was recorded to send and to be answered.
    const RECORDED: &str = include_str!("../../../tests/it/data/node-to-node.jsonl");

    fn recorded() -> Value {
        let lines = RECORDED.lines();
        let mut entries = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        let note = "workflow, threshold placement, offloaded";
        entries.find(|entry| entry["note"] == note).unwrap()
    }

    fn member() -> Member {
        Member {
            key: "peer".into(),
            area: "CLOUD".into(),
            is_balancer: false,
            host: "127.0.0.1".into(),
            api_port: 1996,
            udp_port: 9996,
            architecture: "amd64".into(),
        }
    }

    #[tokio::test]
    async fn the_request_is_the_originals() {
        let recorded = recorded();
        let expected = &recorded["peer_received"][0];
        let request = ResumeWorkflow {
            req_id: "wf-ode-a326115773".into(),
            params: serde_json::from_str(r#"{"n":1}"#).unwrap(),
            qos: WorkflowQos {
                class: 1,
                max_response_time: 4.997548717,
            },
            plan: Some(Plan {
                to_execute: Some(vec!["A".into(), "B".into()]),
                epoch: None,
            }),
            ..ResumeWorkflow::default()
        };
        let request = built(&member(), "wf", &request).unwrap();
        let head = expected["head"].as_str().unwrap();
        assert!(head.starts_with(&format!("POST {} ", request.uri().path())));
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, expected["body"].as_str().unwrap());
    }

    #[test]
    fn answers_are_told_apart_by_what_they_say_of_the_beginning() {
        let judge = |status, is_ours, body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            judge(&member(), status, is_ours, body.as_bytes())
        };
        let recorded = recorded();
        let Sent::Done(reply) = judge(200, false, recorded["peer_answered"].as_str().unwrap())
        else {
            panic!("it is done");
        };
        assert_eq!(reply.result, Some(serde_json::json!({"n": 3})));
        assert!(matches!(judge(404, false, "\"x\""), Sent::NotBegun(_)));
        assert!(matches!(judge(200, true, "boom"), Sent::Failed(_)));
        // A task of the plan may have run before another found no room.
        assert!(matches!(
            judge(429, false, ""),
            Sent::Failed(HandoverError::Full { .. })
        ));
        assert!(matches!(
            judge(429, true, ""),
            Sent::Told(HandoverError::Full { .. })
        ));
        let Sent::Failed(HandoverError::Elsewhere { problem, .. }) = judge(500, false, "\"why\"")
        else {
            panic!("it failed");
        };
        assert_eq!((problem.status, problem.detail.as_str()), (500, "why"));
    }
}
