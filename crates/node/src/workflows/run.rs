//! One execution in memory: events in, a step, the journal, then the effects.
//!
//! Express and standard executions go the same way; an express one has no journal. Nothing that an
//! execution does is begun before the step that asked for it is on disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serverledge_api::InvokeReply;
use serverledge_asl::{Effect, Event, Execution, Machine, Outcome, TaskId};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tracing::{error, warn};

use super::definition::OnCrash;
use super::journal::{self, AppendError, Entry, Journal, Pending, Place};
use super::live::{Inbox, NEVER};
use super::summary::Summary;
use super::takeover::CopyError;
use super::task::{self, Done, TaskError};
use super::{Context, clock, nested};
use crate::node::Node;
use crate::store::executions::{Id, Standing};

/// An execution that waits for longer leaves memory, milliseconds.
const SLEEP_AFTER: i64 = 2_000;
/// Things that have happened which are written together at most.
const GROUP_MAX: usize = 256;
/// The longest sleep of a timer: the clock may be set meanwhile.
const NAP_MAX: Duration = Duration::from_secs(60);
/// States that an execution enters before others have their turn: about a millisecond.
const STATES_AT_ONCE: usize = 200;
/// Between two tries to write to the journal.
const WRITE_PAUSE: Duration = Duration::from_millis(500);

/// How an execution ended.
#[derive(Debug)]
pub struct Finished {
    /// Its outcome.
    pub outcome: Outcome,
    /// Replies of functions by the name of the state, in the order in which they came, if its start
    /// asked for them. What ran before a restart of the node is not among them.
    pub reports: Vec<(String, InvokeReply)>,
}

/// What others ask of an execution.
#[derive(Debug)]
pub(crate) enum Message {
    /// To stop.
    Stop {
        error: Option<String>,
        cause: Option<String>,
        answer: oneshot::Sender<()>,
    },
    /// To take what a task's token was used for.
    Callback {
        token: String,
        what: Callback,
        /// Told whether a task waits for it.
        answer: oneshot::Sender<bool>,
    },
}

/// What somebody with a task's token says.
#[derive(Debug)]
pub(crate) enum Callback {
    Succeeded(serde_json::Value),
    Failed {
        error: Option<String>,
        cause: Option<String>,
    },
    Alive,
}

/// What an execution is given.
pub(crate) enum Input {
    Event(Event),
    /// A task has done all but wait for its callback.
    Submitted(TaskId),
    /// It was cut short by the node's end, as if it had not been sent.
    Withdrawn(TaskId),
    /// A node has taken it up whose predecessor died while tasks were under way.
    Recovered,
}

/// Why an execution is no longer in memory.
pub(crate) enum End {
    Finished(Finished),
    /// It waits, and has told [`super::live::Live`] so.
    Asleep,
    /// The node stops; the next start goes on.
    Left,
    /// Another node goes on.
    Lost,
}

enum Next {
    Inputs(Vec<Input>),
    End(End),
}

/// An execution in memory.
pub(crate) struct Run {
    pub(crate) node: Arc<Node>,
    pub(crate) id: Id,
    pub(crate) machine: Arc<Machine>,
    pub(crate) execution: Execution,
    pub(crate) context: Arc<Context>,
    /// None for an express execution.
    pub(crate) journal: Option<Arc<Journal>>,
    pub(crate) summary: Summary,
    pub(crate) pending: BTreeMap<TaskId, Pending>,
    /// Time of the last step.
    pub(crate) last: i64,
    /// When it is to be woken, as the store has it.
    pub(crate) wake: Known,
    /// Tasks to be started when others have ended.
    pub(crate) queue: VecDeque<TaskId>,
    pub(crate) tasks: Tasks,
    /// Tasks that may have been sent by a node that died.
    pub(crate) recovered: BTreeSet<TaskId>,
    pub(crate) reports: Vec<(String, InvokeReply)>,
    /// Tasks whose end is no longer awaited, and which may go on elsewhere.
    orphans: Vec<Pending>,
    /// Who wants to know that what they asked for is done.
    pub(crate) answers: Vec<Box<dyn FnOnce() + Send>>,
}

/// What the store has of the time to wake an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing, or nobody knows.
    Unknown,
    /// This.
    As(Option<i64>),
}

/// Tasks under way.
#[derive(Default)]
pub(crate) struct Tasks {
    running: JoinSet<(TaskId, Done)>,
    handles: BTreeMap<TaskId, AbortHandle>,
}

impl Run {
    /// An execution that has not been stepped since it came into memory.
    pub(crate) fn new(
        node: Arc<Node>,
        id: Id,
        machine: Arc<Machine>,
        execution: Execution,
        (context, summary, journal): (Context, Summary, Option<Arc<Journal>>),
    ) -> Self {
        Self {
            node,
            id,
            machine,
            execution,
            context: Arc::new(context),
            journal,
            summary,
            pending: BTreeMap::new(),
            last: 0,
            wake: Known::Unknown,
            queue: VecDeque::new(),
            tasks: Tasks::default(),
            recovered: BTreeSet::new(),
            reports: Vec::new(),
            orphans: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// Runs until the execution ends or has to wait.
    pub(crate) async fn drive(mut self, mut inbox: Inbox, first: Vec<Input>) -> End {
        let mut inputs = first;
        loop {
            if !inputs.is_empty()
                && let Some(end) = self.take(inputs).await
            {
                return end;
            }
            inputs = match self.next(&mut inbox).await {
                Next::Inputs(inputs) => inputs,
                Next::End(end) => return end,
            };
        }
    }

    /// Steps, writes, and carries out.
    async fn take(&mut self, inputs: Vec<Input>) -> Option<End> {
        let (entries, effects) = self.step(inputs).await;
        if let Some(journal) = self.journal.clone()
            && !entries.is_empty()
        {
            let standing = self.standing();
            if let Err(end) = self.write(&journal, &entries, standing).await {
                return Some(end);
            }
        }
        for answer in self.answers.drain(..) {
            answer();
        }
        self.carry_out(effects)
    }

    /// Takes inputs in; gives what is to be written and what is to be done after that.
    pub(crate) async fn step(&mut self, inputs: Vec<Input>) -> (Vec<Entry>, Vec<Effect>) {
        let mut entries = Vec::new();
        let mut effects = Vec::new();
        for input in inputs {
            let event = match input {
                Input::Event(event) => event,
                Input::Submitted(task) => {
                    if let Some(pending) = self.pending.get_mut(&task) {
                        pending.submitted = true;
                        entries.push(Entry::Submitted(task));
                    }
                    continue;
                }
                Input::Withdrawn(task) => {
                    entries.push(Entry::Withdrawn(task));
                    continue;
                }
                Input::Recovered => {
                    entries.push(Entry::Recovered {
                        at: clock(),
                        node: self.summary.node.clone(),
                        epoch: self.summary.epoch,
                    });
                    continue;
                }
            };
            if !self.is_awaited(&event) {
                continue;
            }
            journal::forget(&mut self.pending, &event);
            let at = clock().max(self.last);
            self.last = at;
            if self.journal.is_some() {
                let event = event.clone();
                entries.push(Entry::Step { at, event });
            }
            for effect in self.compute(event, at).await {
                match &effect {
                    Effect::Invoke(invocation) => {
                        journal::await_task(&mut self.pending, invocation.clone());
                        effects.push(effect);
                    }
                    Effect::Cancel(task) => {
                        self.orphans.extend(self.pending.remove(task));
                        effects.push(effect);
                    }
                    Effect::Record(_) => {}
                    Effect::Finished(outcome) => {
                        let outcome = outcome.clone();
                        self.summary.ended(&outcome, at);
                        entries.push(Entry::Ended { at, outcome });
                        effects.push(effect);
                    }
                }
            }
        }
        (entries, effects)
    }

    /// Steps the interpreter, and lets others work in between if that takes long.
    async fn compute(&mut self, event: Event, at: i64) -> Vec<Effect> {
        let mut event = Some(event);
        let mut effects = Vec::new();
        loop {
            let (execution, machine) = (&mut self.execution, &self.machine);
            let (some, has_more) = execution.step_some(machine, event.take(), at, STATES_AT_ONCE);
            if !has_more && effects.is_empty() {
                return some;
            }
            let of_use = |effect: &Effect| !matches!(effect, Effect::Record(_));
            effects.extend(some.into_iter().filter(of_use));
            if !has_more {
                return effects;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Whether an event can change anything; late answers can't.
    fn is_awaited(&self, event: &Event) -> bool {
        match event {
            Event::TaskSucceeded { task, .. } | Event::TaskFailed { task, .. } => {
                self.pending.contains_key(task)
            }
            Event::Heartbeat { task } => {
                let pending = self.pending.get(task);
                pending.is_some_and(|it| it.invocation.heartbeat_ms.is_some())
            }
            Event::Redriven => true,
            Event::Started | Event::Woken | Event::Stopped { .. } => {
                self.execution.outcome().is_none()
            }
        }
    }

    /// How the execution stands, if the store has that otherwise.
    pub(crate) fn standing(&mut self) -> Option<Standing> {
        let wake = self.wake_now();
        if self.wake == Known::As(wake) {
            return None;
        }
        self.wake = Known::As(wake);
        Some(self.stands(wake))
    }

    pub(crate) fn stands(&self, wake: Option<i64>) -> Standing {
        let retention = self.node.config.workflow.retention.as_secs();
        let stopped = self.summary.stopped.filter(|_| wake.is_none());
        Standing {
            status: self.summary.status.number(),
            summary: self.summary.encode(),
            wake,
            expires_unix: stopped.map_or(0, |at| (at / 1_000).unsigned_abs() + retention),
        }
    }

    /// When it is to be woken; none if it has ended.
    pub(crate) fn wake_now(&self) -> Option<i64> {
        match self.execution.outcome() {
            Some(_) => None,
            None => Some(self.next_wake()),
        }
    }

    /// 0 while it has something to do itself.
    fn next_wake(&self) -> i64 {
        let is_busy = self.pending.values().any(|task| !task.submitted);
        match is_busy {
            true => 0,
            false => self.execution.wake_at().unwrap_or(NEVER),
        }
    }

    /// Writes to the journal, however long that takes. An error if the execution ends here instead.
    async fn write(
        &mut self,
        journal: &Journal,
        entries: &[Entry],
        standing: Option<Standing>,
    ) -> Result<(), End> {
        let mut place = Place::None;
        loop {
            let written = journal.append(&mut place, entries, standing.clone()).await;
            match written {
                Ok(()) => break,
                Err(AppendError::Copy(CopyError::Lost)) => return Err(End::Lost),
                Err(AppendError::Copy(CopyError::Stopping)) => return Err(End::Left),
                Err(error) => warn!(
                    execution = self.context.id,
                    error = %crate::chain(&error),
                    "the journal could not be written; the execution stands still"
                ),
            }
            let pause = tokio::time::sleep(WRITE_PAUSE);
            let stopping = self.node.stopping();
            if stopping.run_until_cancelled(pause).await.is_none() {
                return Err(End::Left);
            }
        }
        let is_alone = journal.copy().is_some_and(|copy| copy.epoch().is_none());
        if is_alone && self.summary.is_shared {
            // The store is told with the next step.
            self.summary.is_shared = false;
            self.wake = Known::Unknown;
        }
        Ok(())
    }

    pub(crate) fn carry_out(&mut self, effects: Vec<Effect>) -> Option<End> {
        for orphan in self.orphans.drain(..) {
            nested::stop(&self.node, &self.context, &orphan.invocation);
        }
        for effect in effects {
            match effect {
                Effect::Invoke(invocation) => self.queue.push_back(invocation.task),
                Effect::Cancel(task) => {
                    self.queue.retain(|queued| *queued != task);
                    if let Some(handle) = self.tasks.handles.remove(&task) {
                        handle.abort();
                    }
                }
                Effect::Record(_) => {}
                Effect::Finished(outcome) => {
                    let reports = std::mem::take(&mut self.reports);
                    return Some(End::Finished(Finished { outcome, reports }));
                }
            }
        }
        None
    }

    /// Starts tasks as far as that is allowed.
    fn dispatch(&mut self) {
        let tasks_max = self.node.config.workflow.tasks_max;
        while self.tasks.handles.len() < tasks_max
            && let Some(id) = self.queue.pop_front()
        {
            let Some(pending) = self.pending.get(&id) else {
                continue;
            };
            let invocation = pending.invocation.clone();
            let is_recovered = self.recovered.contains(&id);
            let marked = is_recovered || self.context.on_crash == OnCrash::Fail;
            let attempt = task::Attempt {
                node: Arc::clone(&self.node),
                context: Arc::clone(&self.context),
                journal: self.journal.clone(),
                is_marked: marked,
                // Its siblings make room for it.
                is_patient: self.journal.is_some() || !self.tasks.handles.is_empty(),
            };
            let running = &mut self.tasks.running;
            let handle = running.spawn(async move { (id, attempt.run(invocation).await) });
            self.tasks.handles.insert(id, handle);
        }
    }

    /// Waits until something happens, and gives all that has.
    async fn next(&mut self, inbox: &mut Inbox) -> Next {
        let node = Arc::clone(&self.node);
        // An express execution goes on for as long as its calls are served.
        let mut stopping = self.journal.is_some() && node.stopping().is_cancelled();
        let mut inputs = Vec::new();
        loop {
            if !stopping {
                self.dispatch();
            }
            if self.tasks.handles.is_empty() {
                if stopping {
                    return Next::End(End::Left);
                }
                let wake = self.next_wake();
                if self.journal.is_some()
                    && wake.saturating_sub(clock()) > SLEEP_AFTER
                    && self.node.workflows.live.may_sleep(self.id, wake, inbox)
                {
                    return Next::End(End::Asleep);
                }
            }
            let nap = nap(self.execution.wake_at());
            tokio::select! {
                biased;
                Some(joined) = self.tasks.running.join_next_with_id() => {
                    inputs.extend(self.joined(joined));
                }
                Some(message) = inbox.recv() => inputs.extend(self.read(message)),
                () = nap => {
                    if self.execution.wake_at().is_some_and(|wake| wake <= clock()) {
                        inputs.push(Input::Event(Event::Woken));
                    }
                }
                () = node.stopping().cancelled(), if self.journal.is_some() && !stopping => {
                    stopping = true;
                }
                () = lost(self.journal.as_deref()) => return Next::End(End::Lost),
            }
            self.gather(inbox, &mut inputs);
            // Answers without inputs must not wait for the next input.
            if !inputs.is_empty() || !self.answers.is_empty() {
                return Next::Inputs(inputs);
            }
        }
    }

    /// What has happened besides, so that it is written together.
    fn gather(&mut self, inbox: &mut Inbox, inputs: &mut Vec<Input>) {
        while inputs.len() < GROUP_MAX
            && let Some(joined) = self.tasks.running.try_join_next_with_id()
        {
            inputs.extend(self.joined(joined));
        }
        while inputs.len() < GROUP_MAX
            && let Ok(message) = inbox.try_recv()
        {
            inputs.extend(self.read(message));
        }
    }

    /// A task's future has ended.
    fn joined(
        &mut self,
        joined: Result<(tokio::task::Id, (TaskId, Done)), JoinError>,
    ) -> Option<Input> {
        let (task, done) = match joined {
            Ok((_, ended)) => ended,
            Err(error) => {
                let id = error.id();
                let found = self.tasks.handles.iter().find(|(_, it)| it.id() == id);
                // Cancelled ones are no longer there.
                let task = *found?.0;
                error!(execution = self.context.id, %error, "a task of a workflow failed");
                (task, Done::failed(TaskError::platform("the node failed")))
            }
        };
        self.tasks.handles.remove(&task);
        match done {
            Done::Ended(Ok((output, reply))) => {
                self.report(task, reply);
                Some(Input::Event(Event::TaskSucceeded { task, output }))
            }
            Done::Ended(Err(TaskError { error, cause })) => {
                let (error, cause) = (Some(error), Some(cause));
                Some(Input::Event(Event::TaskFailed { task, error, cause }))
            }
            Done::Submitted => Some(Input::Submitted(task)),
            Done::Left { was_sent } => was_sent.then_some(Input::Withdrawn(task)),
        }
    }

    fn report(&mut self, task: TaskId, reply: Option<Box<InvokeReply>>) {
        if let Some(reply) = reply.filter(|_| self.context.reports)
            && let Some(pending) = self.pending.get(&task)
        {
            let state = pending.invocation.state.clone();
            self.reports.push((state, *reply));
        }
    }

    fn read(&mut self, message: Message) -> Option<Input> {
        match message {
            Message::Stop {
                error,
                cause,
                answer,
            } => {
                self.answers.push(Box::new(move || {
                    let _ = answer.send(());
                }));
                Some(Input::Event(Event::Stopped { error, cause }))
            }
            Message::Callback {
                token,
                what,
                answer,
            } => {
                let awaits = |task: &&Pending| task.invocation.token.as_ref() == Some(&token);
                let found = self.pending.values().find(awaits);
                let found = found.map(|task| task.invocation.task);
                let is_known = found.is_some();
                self.answers.push(Box::new(move || {
                    let _ = answer.send(is_known);
                }));
                let task = found?;
                Some(Input::Event(match what {
                    Callback::Succeeded(output) => {
                        self.abort(task);
                        Event::TaskSucceeded { task, output }
                    }
                    Callback::Failed { error, cause } => {
                        self.abort(task);
                        Event::TaskFailed { task, error, cause }
                    }
                    Callback::Alive => Event::Heartbeat { task },
                }))
            }
        }
    }

    /// A callback came before its function ended: the function may go on, nobody listens.
    fn abort(&mut self, task: TaskId) {
        self.tasks.handles.remove(&task);
        self.queue.retain(|queued| *queued != task);
    }

    /// What is to be done about tasks that were under way when their node died.
    pub(crate) fn recover(&mut self) -> Vec<Input> {
        let crashes_max = self.node.config.workflow.crashes_max;
        let mut inputs = Vec::new();
        for (task, pending) in &self.pending {
            let cause = match (self.context.on_crash, pending.sent) {
                _ if pending.submitted => continue,
                (_, 0) => None,
                (OnCrash::Fail, _) => Some("the node died while the task was running".to_owned()),
                (OnCrash::Retry, sent) if sent >= crashes_max => Some(format!(
                    "given up: the node died {} times while the task was running",
                    sent + 1
                )),
                (OnCrash::Retry, _) => None,
            };
            match cause {
                None => {
                    self.queue.push_back(*task);
                    self.recovered.insert(*task);
                }
                Some(cause) => inputs.push(Input::Event(Event::TaskFailed {
                    task: *task,
                    error: Some(task::NODE_DIED.to_owned()),
                    cause: Some(cause),
                })),
            }
        }
        inputs
    }
}

/// Completes when another node goes on with the execution.
async fn lost(journal: Option<&Journal>) {
    match journal.and_then(Journal::copy) {
        Some(copy) => copy.lost().await,
        None => std::future::pending().await,
    }
}

/// Completes at a time, or a little before.
async fn nap(wake: Option<i64>) {
    match wake {
        None => std::future::pending().await,
        Some(wake) => {
            let span = u64::try_from(wake.saturating_sub(clock())).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(span).min(NAP_MAX)).await;
        }
    }
}
