//! The bodies of requests: read whole, within limits of size, of time, and of memory for all of them
//! together.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// How long a body may take to arrive, waiting for memory included.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A body up to this size is not counted: there can't be more of them than connections.
const SMALL: usize = 64 << 10;

/// The unit in which memory is counted.
const UNIT: usize = 1 << 10;

/// Memory for all bodies that are read or in use, in units.
#[derive(Debug, Clone)]
pub(crate) struct Room(Arc<Semaphore>);

impl Room {
    /// For this many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / UNIT)))
    }
}

/// A request's body, not read yet.
pub(crate) struct Body {
    pub(super) incoming: Incoming,
    /// How large it may be, bytes.
    pub(super) max: usize,
    pub(super) room: Room,
}

/// A body that was read. Holds its memory's place until it is dropped.
#[derive(Debug)]
pub(super) struct Whole {
    bytes: Bytes,
    _place: Option<OwnedSemaphorePermit>,
}

impl Deref for Whole {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body {
    /// All of it.
    pub(super) async fn read(self) -> Result<Whole, ApiError> {
        if self.incoming.size_hint().lower() > self.max as u64 {
            return Err(ApiError::BodyTooLarge(self.max));
        }
        match tokio::time::timeout(READ_TIMEOUT, self.collect()).await {
            Ok(whole) => whole,
            Err(_) => Err(ApiError::BodyTimeout(READ_TIMEOUT)),
        }
    }

    async fn collect(mut self) -> Result<Whole, ApiError> {
        let mut bytes = Bytes::new();
        let mut more = BytesMut::new();
        let mut place: Option<OwnedSemaphorePermit> = None;
        let mut counted = SMALL;
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|error| ApiError::BodyUnreadable(error.to_string()))?;
            let Ok(data) = frame.into_data() else {
                continue; // Trailers: nobody asks for them.
            };
            let size = bytes.len() + more.len() + data.len();
            if size > self.max {
                return Err(ApiError::BodyTooLarge(self.max));
            }
            if size > counted {
                let units = (size - counted).div_ceil(UNIT);
                let taken = self.take(units).await?;
                counted += units * UNIT;
                match &mut place {
                    Some(place) => place.merge(taken),
                    None => place = Some(taken),
                }
            }
            // Most bodies come in one piece, which needs no copy.
            if size == data.len() {
                bytes = data;
            } else {
                more.extend_from_slice(&std::mem::take(&mut bytes));
                more.extend_from_slice(&data);
            }
        }
        if !more.is_empty() {
            bytes = more.freeze();
        }
        Ok(Whole {
            bytes,
            _place: place,
        })
    }

    async fn take(&self, units: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let units = u32::try_from(units).map_err(|_| ApiError::BodyTooLarge(self.max))?;
        let taken = Arc::clone(&self.room.0).acquire_many_owned(units).await;
        // It is never closed.
        taken.map_err(|error| ApiError::BodyUnreadable(error.to_string()))
    }
}
