//! Bodies on their way through: a piece at a time, within limits of size and of pauses. Nothing is
//! kept but the piece at hand.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::reply::ReplyBody;

/// Why a client's body did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the request body is larger than the limit of {0} bytes")]
    TooLarge(u64),
    #[error("nothing of the request body came for {0:?}")]
    Stalled(Duration),
    #[error("the request body broke off: {0}")]
    Broken(String),
}

/// The body of a request that is passed on.
pub(super) enum RequestBody {
    /// None, or one that is here already.
    Whole(Full<Bytes>),
    /// A client's.
    Streamed(Streamed),
}

/// A client's body.
pub(super) struct Streamed {
    incoming: Incoming,
    /// Bytes that may still come, of so many.
    left: u64,
    max: u64,
    stall: Stall,
}

impl RequestBody {
    /// None.
    pub(super) fn empty() -> Self {
        Self::Whole(Full::default())
    }

    /// A client's, of so many bytes at most.
    pub(super) fn of(incoming: Incoming, max: u64, stall: Duration) -> Result<Self, BodyError> {
        if incoming.size_hint().lower() > max {
            return Err(BodyError::TooLarge(max));
        }
        if incoming.is_end_stream() {
            return Ok(Self::empty());
        }
        Ok(Self::Streamed(Streamed {
            incoming,
            left: max,
            max,
            stall: Stall::new(stall),
        }))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|never| match never {}),
            Self::Streamed(body) => body.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Streamed(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Streamed(body) => body.incoming.size_hint(),
        }
    }
}

impl Streamed {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(context) else {
            ready!(self.stall.poll(context));
            return Poll::Ready(Some(Err(BodyError::Stalled(self.stall.length))));
        };
        self.stall.end();
        let frame = match frame {
            None => return Poll::Ready(None),
            Some(Err(error)) => {
                let text = crate::chain(&error);
                return Poll::Ready(Some(Err(BodyError::Broken(text))));
            }
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            let Some(left) = self.left.checked_sub(data.len() as u64) else {
                return Poll::Ready(Some(Err(BodyError::TooLarge(self.max))));
            };
            self.left = left;
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

/// Notices pauses. Has a timer during one only.
pub(super) struct Stall {
    pub(super) length: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    pub(super) fn new(length: Duration) -> Self {
        Self {
            length,
            timer: None,
        }
    }

    /// Ready when nothing has come for long. To be called when nothing has come.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let end = || Box::pin(tokio::time::sleep_until(Instant::now() + self.length));
        self.timer.get_or_insert_with(end).as_mut().poll(context)
    }

    /// Something has come.
    pub(super) fn end(&mut self) {
        self.timer = None;
    }
}

/// The body of an answer.
pub(super) enum AnswerBody {
    /// The balancer's own.
    Whole(Full<Bytes>),
    /// A node's.
    Streamed(Box<ReplyBody>),
}

impl AnswerBody {
    pub(super) fn of(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Full::new(bytes.into()))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|never| match never {}),
            Self::Streamed(body) => body.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Streamed(body) => body.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Streamed(body) => body.size_hint(),
        }
    }
}
