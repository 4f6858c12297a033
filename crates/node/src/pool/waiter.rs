//! Calls that wait for a sandbox.
//!
//! Whoever waits may go: a workflow's task is cancelled, say. Then the call leaves the scheduler's
//! books, and a sandbox that it was given at that moment goes to the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serverledge_core::{CallId, DropReason, GiveUp, Outcome, SandboxId, Timestamp};
use tokio::sync::oneshot;

use super::{FAR_AWAY, Granted, Lease, Pool, Refusal, State};

/// For a timer that has nothing to do any more: the answer is on its way.
const NEVER: Timestamp = Timestamp(FAR_AWAY);

/// Between an arrival and the start it ordered lies less.
const ORDERED_AT_ONCE: Duration = Duration::from_millis(1);

/// A call that waits. Dropped without an answer, it is withdrawn.
struct Waiter<'a> {
    pool: &'a Arc<Pool>,
    call: CallId,
    granted: oneshot::Receiver<Result<Granted, Refusal>>,
    is_answered: bool,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let now = self.pool.now();
        let mut state = self.pool.lock();
        let State {
            scheduler, actions, ..
        } = &mut *state;
        scheduler.withdraw(self.call, now, actions);
        state.waiting.remove(&self.call);
        // It was given one, under the lock, and nobody has taken it.
        if let Ok(Ok(granted)) = self.granted.try_recv() {
            let State {
                scheduler, actions, ..
            } = &mut *state;
            let unused = Outcome::Unused;
            scheduler.complete(granted.id, unused, Duration::ZERO, now, actions);
        }
        self.pool.perform(&mut state);
    }
}

impl Pool {
    /// Waits for the scheduler's answer, and tells it when the call's timers fire.
    pub(super) async fn wait(
        self: &Arc<Self>,
        call: CallId,
        granted: oneshot::Receiver<Result<Granted, Refusal>>,
        (mut rejudge_at, mut give_up_at): (Timestamp, Timestamp),
    ) -> Result<Lease, Refusal> {
        let mut waiter = Waiter {
            pool: self,
            call,
            granted,
            is_answered: false,
        };
        loop {
            let wake_at = rejudge_at.min(give_up_at);
            tokio::select! {
                biased;
                answer = &mut waiter.granted => {
                    waiter.is_answered = true;
                    let granted = answer.unwrap_or(Err(Refusal::ShuttingDown))?;
                    return Ok(self.lease(granted));
                }
                () = tokio::time::sleep_until(self.instant(wake_at).into()) => {
                    if wake_at >= give_up_at {
                        give_up_at = self.give_up(call);
                    } else {
                        rejudge_at = self.rejudge(call);
                    }
                }
            }
        }
    }

    /// A waiting call is judged again. Returns when to do so next.
    fn rejudge(self: &Arc<Self>, call: CallId) -> Timestamp {
        let now = self.now();
        let mut state = self.lock();
        let State {
            scheduler, actions, ..
        } = &mut *state;
        let next = scheduler.rejudge(call, now, actions);
        self.perform(&mut state);
        next.unwrap_or(NEVER)
    }

    /// The deadline of a waiting call passed. Returns when to ask again.
    fn give_up(self: &Arc<Self>, call: CallId) -> Timestamp {
        let now = self.now();
        let mut state = self.lock();
        let State {
            scheduler, actions, ..
        } = &mut *state;
        let next = match scheduler.give_up(call, now, actions) {
            GiveUp::Postponed(until) => until,
            GiveUp::Answered => NEVER,
            GiveUp::Dropped => {
                if let Some(waiting) = state.waiting.remove(&call) {
                    let late = Refusal::Dropped(DropReason::QueueTimeout);
                    let _ = waiting.grant.send(Err(late));
                }
                NEVER
            }
        };
        self.perform(&mut state);
        next
    }
}

/// Hands a sandbox to a waiting call.
pub(super) fn dispatch(state: &mut State, call: CallId, id: SandboxId, cold: bool) {
    let Some(waiting) = state.waiting.remove(&call) else {
        return;
    };
    let Some(entry) = state.sandboxes.get(&id) else {
        return;
    };
    let Some(sandbox) = entry.sandbox.clone() else {
        return;
    };
    let waited_until = if cold { entry.ordered } else { Instant::now() };
    let queueing = waited_until.saturating_duration_since(waiting.since);
    // A start that was ordered when the call arrived was not waited for in a queue.
    let queueing = if cold && queueing < ORDERED_AT_ONCE {
        Duration::ZERO
    } else {
        queueing
    };
    // The waiter leaves under the pool's lock, which is held.
    let _ = waiting.grant.send(Ok(Granted {
        id,
        sandbox,
        cold,
        queueing,
    }));
}
