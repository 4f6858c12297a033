//! A node's answer on its way to the client: streamed, its connection driven by who reads it, and
//! what the balancer wants to know of it picked up in passing.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use serde::Deserialize;
use serverledge_core::balancer::{Outcome, Run};

use super::body::Stall;
use super::link::{Link, driven};
use super::proxy::Admitted;
use super::router::Pick;

/// How an answer to an asynchronous call begins.
const ACCEPTED: &[u8] = b"{\"ReqId\":\"";

/// Longest answer that is taken for one, bytes.
const ACCEPTED_MAX: usize = 1024;

/// Longest report that a bandit learns from, bytes.
const REPORT_MAX: usize = 256 << 10;

/// What is looked for in an answer.
pub(super) enum Wish {
    Nothing,
    /// Who has accepted which call.
    Acceptance,
    /// The report of a call, for a bandit.
    Report(Vec<Bytes>),
}

/// A node's answer.
pub(super) struct ReplyBody {
    body: Incoming,
    /// `None` once the answer has ended.
    link: Option<Link>,
    pick: Pick,
    status: u16,
    wish: Wish,
    stall: Stall,
    _admitted: Admitted,
}

/// The node paused for too long.
#[derive(Debug, thiserror::Error)]
#[error("nothing of the answer came for {0:?} (lb.stall_timeout)")]
struct Paused(Duration);

type Piece = Option<Result<Frame<Bytes>, Box<dyn std::error::Error + Send + Sync>>>;

impl ReplyBody {
    /// Of an answer whose head has come on `link`.
    pub(super) fn new(
        body: Incoming,
        link: Link,
        pick: Pick,
        (status, wish): (u16, Wish),
        stall: Duration,
        admitted: Admitted,
    ) -> Self {
        let mut reply = Self {
            body,
            link: Some(link),
            pick,
            status,
            wish,
            stall: Stall::new(stall),
            _admitted: admitted,
        };
        if reply.body.is_end_stream() {
            // Nobody reads what is not there.
            reply.finish(&mut Context::from_waker(std::task::Waker::noop()));
        }
        reply
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Piece> {
        let body = &mut self.body;
        let mut next = |context: &mut Context<'_>| Pin::new(&mut *body).poll_frame(context);
        let polled = match &mut self.link {
            Some(link) => driven(link, context, next),
            None => next(context),
        };
        match polled {
            Poll::Pending => {
                if self.stall.poll(context).is_pending() {
                    return Poll::Pending;
                }
                self.fail();
                Poll::Ready(Some(Err(Paused(self.stall.length).into())))
            }
            Poll::Ready(None) => {
                self.finish(context);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.fail();
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.stall.end();
                if let Some(data) = frame.data_ref() {
                    self.look_at(data);
                }
                if self.body.is_end_stream() {
                    // Whoever knows the length doesn't ask again.
                    self.finish(context);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    pub(super) fn is_end(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn look_at(&mut self, data: &Bytes) {
        match &mut self.wish {
            Wish::Nothing => {}
            Wish::Acceptance => {
                // It comes in one piece.
                self.wish = Wish::Nothing;
                if data.len() <= ACCEPTED_MAX
                    && data.starts_with(ACCEPTED)
                    && let Ok(accepted) =
                        serde_json::from_slice::<serverledge_api::AsyncReply>(data)
                {
                    self.pick.remember(accepted.req_id);
                }
            }
            Wish::Report(pieces) => {
                let length: usize = pieces.iter().map(Bytes::len).sum();
                match length + data.len() <= REPORT_MAX {
                    true => pieces.push(data.clone()),
                    false => self.wish = Wish::Nothing,
                }
            }
        }
    }

    fn finish(&mut self, context: &mut Context<'_>) {
        let run = match std::mem::replace(&mut self.wish, Wish::Nothing) {
            Wish::Report(pieces) => report(&pieces, &self.pick),
            _ => None,
        };
        let status = self.status;
        self.pick.end(Outcome::Answered { status, run });
        if let Some(mut link) = self.link.take() {
            // Lets the connection see that the answer is over.
            link.drive(context);
            self.pick.target.pool.give(link);
        }
    }

    fn fail(&mut self) {
        self.pick.end(Outcome::Broken);
        self.link = None;
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    duration: f64,
    is_warm_start: bool,
}

/// What a bandit learns from a report; an asynchronous call has none. Of one that is also an
/// acceptance, its home is remembered.
fn report(pieces: &[Bytes], pick: &Pick) -> Option<Run> {
    let whole = match pieces {
        [one] => one.clone(),
        several => Bytes::from(several.concat()),
    };
    if whole.starts_with(ACCEPTED) {
        if let Ok(accepted) = serde_json::from_slice::<serverledge_api::AsyncReply>(&whole) {
            pick.remember(accepted.req_id);
        }
        return None;
    }
    let report: Report = serde_json::from_slice(&whole).ok()?;
    let duration = Duration::try_from_secs_f64(report.duration).ok()?;
    let is_warm = report.is_warm_start;
    (duration > Duration::ZERO).then_some(Run { duration, is_warm })
}
