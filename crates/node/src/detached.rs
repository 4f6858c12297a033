//! A future that goes on by itself when nobody waits for it any more.
//!
//! `tokio::spawn` from the start would do the same, at the price of a task and two wake-ups for
//! every call; here only the rare call whose client went away pays it.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs in the task that awaits it, and if dropped unfinished, in a task of its own.
pub(crate) struct Detached<T: Send + 'static> {
    /// `None` once it is done. A future that panicked counts as done.
    work: Option<Work<T>>,
}

impl<T: Send> Detached<T> {
    pub(crate) fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self {
            work: Some(Box::pin(work)),
        }
    }
}

impl<T: Send> Future for Detached<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // Taken out while it runs, so that one that panics is not run again.
        let Some(mut work) = self.work.take() else {
            return Poll::Pending;
        };
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<T: Send> Drop for Detached<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take()
            // Not while the runtime shuts down: then everything is dropped.
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_is_finished() {
        let (go, gone) = oneshot::channel::<u8>();
        let (done, finished) = oneshot::channel();
        let mut work = Detached::new(async move { done.send(gone.await) });
        tokio::select! {
            biased;
            _ = &mut work => panic!("nothing was sent yet"),
            () = std::future::ready(()) => {}
        }
        drop(work);
        go.send(7).unwrap();
        assert_eq!(finished.await.unwrap().unwrap(), 7);
    }

    #[tokio::test]
    async fn what_is_waited_for_is_returned_once() {
        assert_eq!(Detached::new(async { 7 }).await, 7);
    }
}
