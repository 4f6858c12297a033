//! Retrying, catching, failing.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::flow::{Flow, Step};
use super::thread::{Activity, Thread};
use super::views::Extra;
use super::{Detail, Outcome, Stepper};
use crate::failure::{Dialect, Failure, Fault, Kind};
use crate::machine::{self, Catcher, Next, Retrier, State};

const RUNTIME: &str = "States.Runtime";
const DATA_LIMIT: &str = "States.DataLimitExceeded";
const TIMEOUT: &str = "States.Timeout";
const HEARTBEAT: &str = "States.HeartbeatTimeout";

impl Stepper<'_> {
    /// A failed state is tried again, or caught, or fails its thread.
    pub(super) fn recover(&mut self, thread: &mut Thread, failure: Failure) -> Step {
        let state = &self.machine.states[thread.state];
        thread.activity = Activity::Running;
        self.clear_timer(thread);
        let failure = self.named(thread, failure);
        let error = error_name(&failure).unwrap_or_default();
        if let Some(at) = self.first_match(state, error, |state, at| {
            Some(&state.retriers.get(at)?.errors)
        }) {
            thread.attempts.resize(state.retriers.len(), 0);
            let retrier = &state.retriers[at];
            if thread.attempts[at] < retrier.attempts_max {
                thread.attempts[at] += 1;
                thread.retries += 1;
                let delay = self.delay_ms(retrier, thread.attempts[at]);
                thread.activity = Activity::Backoff;
                self.set_timer(thread, self.now.saturating_add(delay));
                return Ok(Flow::Blocked);
            }
        }
        match self.first_match(state, error, |state, at| {
            Some(&state.catchers.get(at)?.errors)
        }) {
            Some(at) => {
                let catcher = &state.catchers[at];
                // What goes wrong in a catcher can't be caught by its neighbours.
                self.catch(thread, state, catcher, &failure)
                    .map_err(|failure| self.named(thread, failure))
            }
            None => Err(failure),
        }
    }

    fn first_match<'s>(
        &self,
        state: &'s State,
        error: &str,
        errors: impl Fn(&'s State, usize) -> Option<&'s Vec<String>>,
    ) -> Option<usize> {
        (0..)
            .map_while(|at| errors(state, at))
            .position(|errors| errors.iter().any(|one| self.is_match(state, one, error)))
    }

    /// Whether a name in `ErrorEquals` means an error.
    fn is_match(&self, state: &State, pattern: &str, error: &str) -> bool {
        let is_final = self.x.dialect == Dialect::Aws && error == RUNTIME;
        let is_unlisted = self.x.dialect == Dialect::Aws && error == DATA_LIMIT;
        match pattern {
            _ if is_final => false,
            "States.ALL" => !is_unlisted,
            "States.TaskFailed" => {
                let is_task = matches!(state.kind, machine::Kind::Task(_));
                error == pattern
                    || (is_task && error != TIMEOUT && error != HEARTBEAT && !is_unlisted)
            }
            TIMEOUT => error == TIMEOUT || error == HEARTBEAT,
            "States.BranchFailed" => {
                error == pattern
                    || (matches!(state.kind, machine::Kind::Parallel { .. }) && !is_unlisted)
            }
            other => other == error,
        }
    }

    fn delay_ms(&mut self, retrier: &Retrier, attempt: u64) -> i64 {
        let exponent = i32::try_from(attempt - 1).unwrap_or(i32::MAX);
        let mut seconds = retrier.interval_seconds * retrier.rate.powi(exponent);
        // A year is the most that may be asked for.
        seconds = seconds.min(retrier.delay_max_seconds.unwrap_or(31_622_400.0));
        if retrier.has_jitter {
            seconds *= self.x.random.unit();
        }
        (seconds * 1_000.0) as i64
    }

    fn catch(
        &mut self,
        thread: &mut Thread,
        state: &State,
        catcher: &Catcher,
        failure: &Failure,
    ) -> Step {
        let error = self.error_output(failure);
        let extra = Extra {
            error_output: Some(&error),
            ..Extra::default()
        };
        let input = thread.input.clone();
        let next = Next::State(catcher.next);
        if state.is_jsonata {
            let assigned = self.assigned(thread, &catcher.assign, &input, extra)?;
            let output = match &catcher.output {
                Some(template) => Arc::new(self.evaluate(thread, template, &input, extra)?),
                None => Arc::new(error.clone()),
            };
            return self.leave(thread, state, output, assigned, next);
        }
        let assigned = self.assigned(thread, &catcher.assign, &error, extra)?;
        let output = self.place(thread, &catcher.result_path, Arc::new(error.clone()))?;
        self.leave(thread, state, output, assigned, next)
    }

    /// `{"Error", "Cause"}`.
    pub(super) fn error_output(&self, failure: &Failure) -> Value {
        let mut map = Map::new();
        let error = error_name(failure).unwrap_or_default();
        map.insert("Error".to_owned(), error.into());
        match (&failure.cause, self.x.dialect) {
            (Some(cause), _) => {
                map.insert("Cause".to_owned(), cause.as_str().into());
            }
            (None, Dialect::Aws) => {
                map.insert("Cause".to_owned(), "".into());
            }
            (None, Dialect::Specification) => {}
        }
        Value::Object(map)
    }

    /// The failure with its final name and, as AWS has it, the state where it happened.
    fn named(&mut self, thread: &mut Thread, failure: Failure) -> Failure {
        let Kind::Fault(fault) = failure.kind else {
            return failure;
        };
        if fault == Fault::Query {
            self.record(thread, "EvaluationFailed");
        }
        let error = fault.name(self.x.dialect).to_owned();
        let cause = match (failure.cause, self.x.dialect) {
            (Some(cause), Dialect::Aws) if fault.names_its_state() => {
                let state = &self.machine.states[thread.state].name;
                let event = thread.entered_event;
                Some(format!(
                    "An error occurred while executing the state '{state}' (entered at the event \
                     id #{event}). {cause}"
                ))
            }
            (cause, _) => cause,
        };
        Failure::named(Some(error), cause)
    }

    /// A thread has failed, and with it what it is part of.
    pub(super) fn thread_failed(&mut self, thread: Thread, failure: Failure) {
        let parent = thread.parent;
        self.wreck.keep(thread);
        match parent {
            Some(parent) => self.child_failed(parent, failure),
            None => self.fail_execution(failure),
        }
    }

    pub(super) fn fail_execution(&mut self, failure: Failure) {
        let error = error_name(&failure).map(str::to_owned);
        self.note_with(None, "ExecutionFailed", Detail::failure(&failure));
        self.finish_execution(Outcome::Failed {
            error,
            cause: failure.cause,
        });
    }
}

fn error_name(failure: &Failure) -> Option<&str> {
    match &failure.kind {
        Kind::Named(name) => name.as_deref(),
        // Given its name before anyone looks.
        Kind::Fault(_) => None,
    }
}
