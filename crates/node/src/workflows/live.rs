//! Executions that have not ended: which are in memory, and when those that are not are to be woken.
//!
//! One lock over plain tables. An execution that waits for a time or for a callback costs an entry
//! here and nothing else.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot};

use super::run::{Finished, Message};
use crate::store::executions::Id;

/// When an execution is woken that waits for no time.
pub(crate) const NEVER: i64 = i64::MAX;

/// Where messages for an execution in memory arrive.
pub(crate) type Inbox = mpsc::UnboundedReceiver<Message>;

/// The executions that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Live {
    state: Mutex<State>,
    /// The next time to wake one may be sooner than it was.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<Id, Slot>,
    /// Times to wake those that are asleep.
    timers: BTreeSet<(i64, Id)>,
    /// Who waits for their ends.
    waiters: HashMap<Id, Vec<oneshot::Sender<Arc<Finished>>>>,
}

#[derive(Debug)]
enum Slot {
    /// On disk only.
    Asleep(i64),
    /// In memory.
    Awake(mpsc::UnboundedSender<Message>),
}

/// What became of a message.
pub(crate) enum Sent {
    /// The execution has it.
    Delivered,
    /// It has been put in this inbox: the execution must be taken up.
    Wakes(Inbox),
    /// No such execution is under way.
    Unknown,
}

impl Live {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().slots.len()
    }

    /// An execution is in memory now.
    pub(crate) fn insert(&self, id: Id) -> Inbox {
        let (sender, inbox) = mpsc::unbounded_channel();
        self.lock().slots.insert(id, Slot::Awake(sender));
        inbox
    }

    /// As [`Live::insert`], for one that has ended; `None` if it is under way already.
    pub(crate) fn revive(&self, id: Id) -> Option<Inbox> {
        let mut state = self.lock();
        if state.slots.contains_key(&id) {
            return None;
        }
        let (sender, inbox) = mpsc::unbounded_channel();
        state.slots.insert(id, Slot::Awake(sender));
        Some(inbox)
    }

    /// An execution is on disk only, to be woken at a time.
    pub(crate) fn put_to_sleep(&self, id: Id, wake: i64) {
        self.lock().sleep(id, wake);
        self.changed.notify_one();
    }

    /// Has an execution that is on disk only taken up now.
    pub(crate) fn rouse(&self, id: Id) {
        let mut state = self.lock();
        if let Some(Slot::Asleep(_)) = state.slots.get(&id) {
            state.sleep(id, 0);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// As [`Live::put_to_sleep`], unless there is something in its inbox.
    pub(crate) fn may_sleep(&self, id: Id, wake: i64, inbox: &Inbox) -> bool {
        let mut state = self.lock();
        // Senders hold the lock, so none comes between.
        if !inbox.is_empty() {
            return false;
        }
        state.sleep(id, wake);
        drop(state);
        self.changed.notify_one();
        true
    }

    /// Sends an execution a message, wherever it is.
    pub(crate) fn send(&self, id: Id, message: Message) -> Sent {
        let mut state = self.lock();
        let message = match state.slots.get(&id) {
            None => return Sent::Unknown,
            Some(Slot::Awake(sender)) => match sender.send(message) {
                Ok(()) => return Sent::Delivered,
                // Its task has died.
                Err(mpsc::error::SendError(message)) => message,
            },
            Some(Slot::Asleep(_)) => message,
        };
        let (sender, inbox) = mpsc::unbounded_channel();
        let _ = sender.send(message);
        state.wake(id, sender);
        Sent::Wakes(inbox)
    }

    /// One that is to be woken by now, with its inbox.
    pub(crate) fn due(&self, now: i64) -> Option<(Id, Inbox)> {
        let mut state = self.lock();
        let (_, id) = state.timers.first().filter(|(when, _)| *when <= now)?;
        let id = *id;
        let (sender, inbox) = mpsc::unbounded_channel();
        state.wake(id, sender);
        Some((id, inbox))
    }

    /// When the next is to be woken.
    pub(crate) fn next_due(&self) -> Option<i64> {
        self.lock().timers.first().map(|(when, _)| *when)
    }

    /// Completes when [`Live::next_due`] may have become sooner.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// There is no such execution: nothing of it is left here.
    pub(crate) fn drop_unknown(&self, id: Id) {
        let mut state = self.lock();
        state.forget(id);
        state.waiters.remove(&id);
    }

    /// An execution has ended; nothing of it is left here.
    pub(crate) fn finish(&self, id: Id, finished: &Arc<Finished>) {
        let waiters = {
            let mut state = self.lock();
            state.forget(id);
            state.waiters.remove(&id).unwrap_or_default()
        };
        for waiter in waiters {
            let _ = waiter.send(Arc::clone(finished));
        }
    }

    /// Told when an execution ends; `None` if it is not under way.
    pub(crate) fn wait(&self, id: Id) -> Option<oneshot::Receiver<Arc<Finished>>> {
        let mut state = self.lock();
        if !state.slots.contains_key(&id) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let waiters = state.waiters.entry(id).or_default();
        // Those who have gone leave room to those who come.
        waiters.retain(|waiter| !waiter.is_closed());
        waiters.push(sender);
        Some(receiver)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, id: Id) {
        if let Some(Slot::Asleep(wake)) = self.slots.remove(&id) {
            self.timers.remove(&(wake, id));
        }
    }

    fn sleep(&mut self, id: Id, wake: i64) {
        self.forget(id);
        self.slots.insert(id, Slot::Asleep(wake));
        if wake != NEVER {
            self.timers.insert((wake, id));
        }
    }

    fn wake(&mut self, id: Id, sender: mpsc::UnboundedSender<Message>) {
        self.forget(id);
        self.slots.insert(id, Slot::Awake(sender));
    }
}
