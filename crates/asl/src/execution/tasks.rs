//! Task states, and whatever else waits for the outside.

use std::sync::Arc;

use serde_json::Value;

use super::flow::{Flow, Step};
use super::thread::{Activity, Attempt, Thread};
use super::views::Extra;
use super::{Detail, Effect, Invocation, Purpose, Stepper, TaskId, events};
use crate::failure::{Dialect, Failure, Fault};
use crate::machine::{Kind, State, Task};

/// Timeout of a Task in the specification, where it gives none.
const SPECIFICATION_TIMEOUT_SECONDS: f64 = 60.0;

impl Stepper<'_> {
    pub(super) fn invoke(&mut self, thread: &mut Thread, state: &State, task: &Task) -> Step {
        let awaits_callback = task.resource.ends_with(".waitForTaskToken");
        let is_activity = task.resource.contains(":activity:");
        let token = (awaits_callback || is_activity)
            .then(|| format!("{}{}", self.x.tokens, self.x.random.uuid()));
        let input = self.effective_input(thread, state)?;
        let arguments = self.arguments(thread, state, token.as_deref())?;
        let timeout = match &task.timeout {
            Some(template) => Some(self.timeout(thread, template, &input)?),
            None if self.x.dialect == Dialect::Specification => Some(SPECIFICATION_TIMEOUT_SECONDS),
            None => None,
        };
        let heartbeat = match &task.heartbeat {
            Some(template) => Some(self.timeout(thread, template, &input)?),
            None => None,
        };
        let credentials = match &task.credentials {
            Some(template) => Some(self.evaluate(thread, template, &input, Extra::default())?),
            None => None,
        };
        let milliseconds = |seconds: f64| (seconds * 1_000.0) as i64;
        let invocation = Invocation {
            task: self.identifier(),
            purpose: Purpose::Task,
            state: state.name.clone(),
            resource: task.resource.clone(),
            arguments,
            credentials,
            timeout_ms: timeout.map(milliseconds),
            heartbeat_ms: heartbeat.map(milliseconds),
            token,
            plain: task.is_plain.then(|| Arc::clone(&self.x.input)),
        };
        let names = events::of_task(&task.resource);
        self.record_with(thread, names.scheduled, || Detail::Task {
            resource: task.resource.clone(),
            arguments: invocation.arguments.clone(),
        });
        self.record(thread, names.started);
        if let Some(submitted) = names.submitted {
            self.record(thread, submitted);
        }
        let attempt = self.begin_task(thread, invocation);
        thread.activity = Activity::Task(attempt);
        Ok(Flow::Blocked)
    }

    /// Hands a task out and awaits its end.
    pub(super) fn begin_task(&mut self, thread: &mut Thread, invocation: Invocation) -> Attempt {
        let after = |span: i64| self.now.saturating_add(span);
        let attempt = Attempt {
            task: invocation.task,
            deadline: invocation.timeout_ms.map(after),
            heartbeat_ms: invocation.heartbeat_ms,
            heartbeat_deadline: invocation.heartbeat_ms.map(after),
        };
        self.x.tasks.insert(invocation.task, thread.id);
        self.effects.push(Effect::Invoke(invocation));
        self.arm(thread, &attempt);
        attempt
    }

    fn arm(&mut self, thread: &mut Thread, attempt: &Attempt) {
        let ends = [attempt.deadline, attempt.heartbeat_deadline];
        if let Some(when) = ends.into_iter().flatten().min() {
            self.set_timer(thread, when);
        }
    }

    pub(super) fn heartbeat(&mut self, task: TaskId) {
        let Some(id) = self.x.tasks.get(&task).copied() else {
            return;
        };
        let Some(mut thread) = self.x.threads.remove(&id) else {
            return;
        };
        if let Activity::Task(attempt) = &mut thread.activity {
            attempt.heartbeat_deadline = attempt
                .heartbeat_ms
                .map(|span| self.now.saturating_add(span));
            let attempt = attempt.clone();
            self.arm(&mut thread, &attempt);
        }
        self.x.threads.insert(id, thread);
    }

    pub(super) fn task_succeeded(&mut self, mut thread: Thread, output: Value) {
        let state = &self.machine.states[thread.state];
        let activity = std::mem::replace(&mut thread.activity, Activity::Running);
        let step = match (activity, &state.kind) {
            (Activity::Mapping(mapping), Kind::Map(map)) => {
                self.map_answered(&mut thread, state, map, mapping, output)
            }
            (_, Kind::Task(task)) => match self.check_size(&thread, &output) {
                Ok(()) => {
                    let output = Arc::new(output);
                    let succeeded = events::of_task(&task.resource).succeeded;
                    self.record_with(&mut thread, succeeded, || Detail::Output(output.clone()));
                    self.complete(&mut thread, state, output)
                }
                Err(failure) => {
                    let failed = events::of_task(&task.resource).failed;
                    self.record_with(&mut thread, failed, || Detail::failure(&failure));
                    Err(failure)
                }
            },
            _ => Ok(Flow::Blocked),
        };
        self.go(thread, step);
    }

    pub(super) fn task_failed(&mut self, mut thread: Thread, failure: Failure) {
        let state = &self.machine.states[thread.state];
        let activity = std::mem::replace(&mut thread.activity, Activity::Running);
        let failure = match (activity, &state.kind) {
            (_, Kind::Task(task)) => {
                let failed = events::of_task(&task.resource).failed;
                self.record_with(&mut thread, failed, || Detail::failure(&failure));
                failure
            }
            (Activity::Mapping(mapping), _) => self.map_refused(&mut thread, mapping, failure),
            _ => failure,
        };
        self.go(thread, Err(failure));
    }

    /// A thread's timer has come.
    pub(super) fn woken(&mut self, mut thread: Thread) {
        thread.timer = None;
        let step = match &thread.activity {
            Activity::Waiting => self.waited(&mut thread),
            Activity::Backoff => {
                thread.activity = Activity::Running;
                Ok(Flow::Again)
            }
            Activity::Task(attempt) => {
                let attempt = attempt.clone();
                self.timed_out(&mut thread, &attempt)
            }
            _ => Ok(Flow::Blocked),
        };
        self.go(thread, step);
    }

    fn timed_out(&mut self, thread: &mut Thread, attempt: &Attempt) -> Step {
        self.x.tasks.remove(&attempt.task);
        self.effects.push(Effect::Cancel(attempt.task));
        let is_late = attempt
            .deadline
            .is_some_and(|deadline| deadline <= self.now);
        let fault = match is_late {
            true => Fault::Timeout,
            false => Fault::HeartbeatTimeout,
        };
        if let Kind::Task(task) = &self.machine.states[thread.state].kind {
            self.record(thread, events::of_task(&task.resource).timed_out);
        }
        Err(Failure {
            kind: crate::failure::Kind::Fault(fault),
            cause: None,
        })
    }
}
