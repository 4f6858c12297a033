//! One run of a machine, as a value: stepped with events, it answers with effects.
//!
//! The caller carries effects out and reports back; it decides what time it is and when to wake the
//! execution up. After every step the value can be stored and read again, and goes on as if it had
//! never left memory.

mod children;
mod events;
mod failures;
mod flow;
mod items;
mod map;
mod redrive;
mod results;
mod tasks;
mod thread;
mod views;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::context::About;
use crate::failure::{Dialect, Failure, Fault};
use crate::machine::Machine;
use crate::number;
use crate::random::Random;
use crate::template::Data;
pub use events::{Detail, Record};
use flow::Flow;
use redrive::Wreck;
use thread::{Thread, ThreadId};

/// Deepest nesting of data. Readers of JSON stop at 128, and a stored execution adds some levels.
const DATA_DEPTH_MAX: usize = 100;
/// Largest data where AWS's limit doesn't apply.
const SPECIFICATION_BYTES_MAX: usize = 2 << 20;

/// Identifies one attempt of a task; never used again.
pub type TaskId = u64;

/// Bounds of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Most history events of the machine's own scope, or of one branch or iteration.
    pub scope_events: u64,
    /// Most history events in all.
    pub events: u64,
    /// Most bytes of a state's input or output, as compact JSON.
    pub data_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            scope_events: 25_000,
            events: 2_000_000,
            data_bytes: 262_144,
        }
    }
}

/// What an execution is started with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Start {
    /// What the context object says of it.
    pub about: About,
    /// Its input.
    pub input: Value,
    /// Whose behaviour is followed.
    pub dialect: Dialect,
    /// Its bounds.
    pub limits: Limits,
    /// Seed of all randomness.
    pub seed: u64,
    /// What the tokens of its tasks begin with, so that it can be found by them.
    pub tokens: String,
}

/// What happens to an execution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// It begins. The first event, once.
    Started,
    /// A task has its result.
    TaskSucceeded {
        /// Which.
        task: TaskId,
        /// Its result.
        output: Value,
    },
    /// A task has failed.
    TaskFailed {
        /// Which.
        task: TaskId,
        /// Name of the error.
        error: Option<String>,
        /// Explanation.
        cause: Option<String>,
    },
    /// A task says that it is alive.
    Heartbeat {
        /// Which.
        task: TaskId,
    },
    /// The time that [`Execution::wake_at`] named has come.
    Woken,
    /// It failed, timed out or was stopped, and goes on where that happened.
    Redriven,
    /// Somebody stops it.
    Stopped {
        /// Name of the error to give as the reason.
        error: Option<String>,
        /// Explanation.
        cause: Option<String>,
    },
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Run a task and report its end.
    Invoke(Invocation),
    /// A task's end is no longer awaited.
    Cancel(TaskId),
    /// Add to the history.
    Record(Record),
    /// The execution has ended.
    Finished(Outcome),
}

/// A task to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Invocation {
    /// Names the attempt in events.
    pub task: TaskId,
    /// What it is part of.
    pub purpose: Purpose,
    /// The state it belongs to.
    pub state: String,
    /// `Resource` of the state.
    pub resource: String,
    /// The effective input.
    pub arguments: Data,
    /// `Credentials`, evaluated.
    pub credentials: Option<Value>,
    /// The execution gives up after so many milliseconds.
    pub timeout_ms: Option<i64>,
    /// The execution gives up when no heartbeat comes for so many milliseconds.
    pub heartbeat_ms: Option<i64>,
    /// Token of a task that ends by callback.
    pub token: Option<String>,
    /// The execution's input, if the state is a Task that says nothing of its input and output.
    pub plain: Option<Data>,
}

/// Why a task is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// A Task state.
    Task,
    /// Reading the items of a distributed Map: the result is what was read. What of `ReaderConfig`
    /// makes a difference to that is in the arguments under this name.
    ItemReader,
    /// Writing its results: the arguments hold them under `Results`, by what became of the
    /// iterations, `SUCCEEDED` and `FAILED`, with the `OutputType` to write them in.
    ResultWriter,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// With an output.
    Succeeded(Data),
    /// By an error nobody caught.
    Failed {
        /// Name of the error.
        error: Option<String>,
        /// Explanation.
        cause: Option<String>,
    },
    /// By the machine's `TimeoutSeconds`.
    TimedOut,
    /// By being stopped.
    Aborted {
        /// Name of the error given.
        error: Option<String>,
        /// Explanation given.
        cause: Option<String>,
    },
}

/// Progress of one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Execution {
    about: About,
    dialect: Dialect,
    limits: Limits,
    input: Data,
    random: Random,
    started: i64,
    /// When the machine's own timeout comes.
    deadline: Option<i64>,
    threads: BTreeMap<ThreadId, Thread>,
    /// Who waits for which task.
    tasks: BTreeMap<TaskId, ThreadId>,
    timers: BTreeSet<(i64, ThreadId)>,
    ids: u64,
    events: u64,
    outcome: Option<Outcome>,
    tokens: String,
    /// Threads to go on with, in this order.
    ready: VecDeque<ThreadId>,
    /// What was under way when it failed.
    fallen: BTreeMap<ThreadId, Thread>,
}

impl Execution {
    /// An execution that has not begun: step it with [`Event::Started`].
    pub fn new(start: Start) -> Self {
        Self {
            about: start.about,
            dialect: start.dialect,
            limits: start.limits,
            input: Arc::new(start.input),
            random: Random::new(start.seed),
            started: 0,
            deadline: None,
            threads: BTreeMap::new(),
            tasks: BTreeMap::new(),
            timers: BTreeSet::new(),
            ids: 0,
            events: 0,
            outcome: None,
            tokens: start.tokens,
            ready: VecDeque::new(),
            fallen: BTreeMap::new(),
        }
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// When it wants to be woken, in milliseconds since the epoch.
    pub fn wake_at(&self) -> Option<i64> {
        let timer = self.timers.first().map(|(when, _)| *when);
        match (timer, self.deadline) {
            (Some(timer), Some(deadline)) => Some(timer.min(deadline)),
            (timer, deadline) => timer.or(deadline),
        }
    }

    /// Takes an event in at a time, in milliseconds since the epoch. Events for tasks whose end is
    /// no longer awaited change nothing.
    pub fn step(&mut self, machine: &Machine, event: Event, now: i64) -> Vec<Effect> {
        self.step_some(machine, Some(event), now, usize::MAX).0
    }

    /// As [`Execution::step`], but enters no more states than `budget`, so that a machine that
    /// computes for long can be left in between. While there is more to do, which is the second
    /// part of the answer, it is to be called again without an event and with the same time. It
    /// makes no difference in how many parts a step is taken.
    pub fn step_some(
        &mut self,
        machine: &Machine,
        event: Option<Event>,
        now: i64,
        budget: usize,
    ) -> (Vec<Effect>, bool) {
        if self.outcome.is_some() && event != Some(Event::Redriven) {
            return (Vec::new(), false);
        }
        let mut stepper = Stepper {
            x: self,
            machine,
            now,
            effects: Vec::new(),
            wreck: Wreck::default(),
            budget,
        };
        if let Some(event) = event {
            stepper.take(event);
        }
        let has_more = stepper.run();
        (stepper.effects, has_more)
    }
}

/// An execution while it is stepped.
struct Stepper<'a> {
    x: &'a mut Execution,
    machine: &'a Machine,
    now: i64,
    effects: Vec<Effect>,
    /// What a failure on its way up has destroyed.
    wreck: Wreck,
    /// States that may still be entered.
    budget: usize,
}

impl Stepper<'_> {
    fn take(&mut self, event: Event) {
        match event {
            Event::Started => self.start(),
            Event::TaskSucceeded { task, output } => {
                if let Some(thread) = self.waiter(task) {
                    self.task_succeeded(thread, output);
                }
            }
            Event::TaskFailed { task, error, cause } => {
                if let Some(thread) = self.waiter(task) {
                    self.task_failed(thread, Failure::named(error, cause));
                }
            }
            Event::Heartbeat { task } => self.heartbeat(task),
            Event::Woken => {}
            Event::Redriven => self.redrive(),
            Event::Stopped { error, cause } => {
                self.abandon();
                let detail = Detail::Failure {
                    error: error.clone(),
                    cause: cause.clone(),
                };
                self.note_with(None, "ExecutionAborted", detail);
                self.finish_execution(Outcome::Aborted { error, cause });
            }
        }
    }

    fn start(&mut self) {
        self.x.started = self.now;
        self.set_deadline();
        let input = Detail::Input(self.x.input.clone());
        self.note_with(None, "ExecutionStarted", input);
        let root = Thread::root(self.x.input.clone(), self.machine.scopes[0].start);
        self.x.ids = 1;
        if let Err(failure) = self.check_size(&root, &root.input) {
            let Failure { cause, .. } = failure;
            let error = Some("States.Runtime".to_owned());
            return self.fail_execution(Failure::named(error, cause));
        }
        self.x.ready.push_back(root.id);
        self.x.threads.insert(root.id, root);
    }

    fn set_deadline(&mut self) {
        let timeout = self.machine.timeout_seconds;
        let timeout = timeout.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
        self.x.deadline =
            timeout.map(|seconds| self.now.saturating_add(seconds.saturating_mul(1_000)));
    }

    /// Whether there is more to do.
    fn run(&mut self) -> bool {
        loop {
            while let Some(id) = self.x.ready.pop_front() {
                if self.budget == 0 {
                    self.x.ready.push_front(id);
                    return true;
                }
                if let Some(thread) = self.x.threads.remove(&id) {
                    self.go(thread, Ok(Flow::Enter));
                }
                if self.x.outcome.is_some() {
                    return false;
                }
            }
            if self.x.outcome.is_some() || !self.fire() {
                return false;
            }
        }
    }

    /// Handles one timer that is due.
    fn fire(&mut self) -> bool {
        if self.x.deadline.is_some_and(|deadline| deadline <= self.now) {
            let first = self.x.timers.first().map(|(when, _)| *when);
            if first.is_none_or(|first| Some(first) >= self.x.deadline) {
                self.abandon();
                self.note(None, "ExecutionTimedOut");
                self.finish_execution(Outcome::TimedOut);
                return true;
            }
        }
        match self.x.timers.first().copied() {
            Some((when, id)) if when <= self.now => {
                self.x.timers.remove(&(when, id));
                if let Some(thread) = self.x.threads.remove(&id) {
                    self.woken(thread);
                }
                true
            }
            _ => false,
        }
    }

    /// The thread that waits for a task, which it no longer does.
    fn waiter(&mut self, task: TaskId) -> Option<Thread> {
        let id = self.x.tasks.remove(&task)?;
        let mut thread = self.x.threads.remove(&id)?;
        self.clear_timer(&mut thread);
        Some(thread)
    }

    fn set_timer(&mut self, thread: &mut Thread, when: i64) {
        self.clear_timer(thread);
        thread.timer = Some(when);
        self.x.timers.insert((when, thread.id));
    }

    fn clear_timer(&mut self, thread: &mut Thread) {
        if let Some(when) = thread.timer.take() {
            self.x.timers.remove(&(when, thread.id));
        }
    }

    fn identifier(&mut self) -> u64 {
        self.x.ids += 1;
        self.x.ids
    }

    /// Ends all threads and awaits no task.
    fn abandon(&mut self) {
        for task in std::mem::take(&mut self.x.tasks).into_keys() {
            self.effects.push(Effect::Cancel(task));
        }
        for thread in std::mem::take(&mut self.x.threads).into_values() {
            self.wreck.keep(thread);
        }
        self.x.timers.clear();
        self.x.ready.clear();
    }

    fn finish_execution(&mut self, outcome: Outcome) {
        self.x.deadline = None;
        let wreck = std::mem::take(&mut self.wreck);
        self.x.fallen = match outcome {
            Outcome::Succeeded(_) => BTreeMap::new(),
            _ => wreck.into_threads(),
        };
        self.x.outcome = Some(outcome.clone());
        self.effects.push(Effect::Finished(outcome));
    }

    /// Refuses data that AWS wouldn't pass on, or that grow without bounds.
    fn check_size(&self, thread: &Thread, value: &Value) -> Result<(), Failure> {
        if number::is_deeper_than(value, DATA_DEPTH_MAX) {
            let cause = format!("Data are nested deeper than {DATA_DEPTH_MAX} levels.");
            return Err(Failure::new(Fault::Runtime, cause));
        }
        match number::is_longer_than(value, self.bytes_max()) {
            true => Err(self.too_large(thread)),
            false => Ok(()),
        }
    }

    fn check_bytes(&self, thread: &Thread, bytes: usize) -> Result<(), Failure> {
        match bytes > self.bytes_max() {
            true => Err(self.too_large(thread)),
            false => Ok(()),
        }
    }

    fn bytes_max(&self) -> usize {
        match self.x.dialect {
            Dialect::Aws => self.x.limits.data_bytes,
            Dialect::Specification => self.x.limits.data_bytes.max(SPECIFICATION_BYTES_MAX),
        }
    }

    fn too_large(&self, thread: &Thread) -> Failure {
        let name = &self.machine.states[thread.state].name;
        let cause = format!(
            "The state/task '{name}' returned a result with a size exceeding the maximum number \
             of bytes service limit."
        );
        Failure::new(Fault::DataLimit, cause)
    }
}
