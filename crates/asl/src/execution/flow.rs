//! From state to state.

use std::sync::Arc;

use serde_json::Value;

use super::thread::{Activity, Thread};
use super::views::Extra;
use super::{Detail, Outcome, Stepper, events};
use crate::choice::{self, Rule};
use crate::failure::{Failure, Fault};
use crate::machine::{Kind, Next, State, Wait};
use crate::number;
use crate::template::{Data, Template};
use crate::timestamp;

/// What a thread does next.
pub(super) enum Flow {
    /// Enter the state it is at.
    Enter,
    /// Do the state's work again, after a failure.
    Again,
    /// Wait for an event.
    Blocked,
    /// Its scope has ended.
    Ended(Data),
}

pub(super) type Step = Result<Flow, Failure>;

impl Stepper<'_> {
    /// Lets a thread go on until it waits or ends.
    pub(super) fn go(&mut self, mut thread: Thread, mut step: Step) {
        loop {
            step = match step {
                Ok(Flow::Enter) if self.budget == 0 => {
                    // Before all others, as if nothing had come between.
                    self.x.ready.push_front(thread.id);
                    self.x.threads.insert(thread.id, thread);
                    return;
                }
                Ok(Flow::Enter) => {
                    self.budget -= 1;
                    if let Some(failure) = self.exhausted(&thread) {
                        self.abandon();
                        // It would reach the limit again.
                        self.wreck.clear();
                        return self.fail_execution(failure);
                    }
                    self.enter(&mut thread);
                    self.work(&mut thread)
                }
                Ok(Flow::Again) => self.work(&mut thread),
                Ok(Flow::Blocked) => {
                    self.x.threads.insert(thread.id, thread);
                    return;
                }
                Ok(Flow::Ended(output)) => return self.ended(thread, output),
                Err(failure) => match self.recover(&mut thread, failure) {
                    Ok(flow) => {
                        self.wreck.clear();
                        Ok(flow)
                    }
                    Err(failure) => return self.thread_failed(thread, failure),
                },
            };
        }
    }

    /// Machines may loop for ever; executions may not.
    fn exhausted(&self, thread: &Thread) -> Option<Failure> {
        let limits = self.x.limits;
        let limit = if thread.events >= limits.scope_events {
            limits.scope_events
        } else if self.x.events >= limits.events {
            limits.events
        } else {
            return None;
        };
        let cause =
            format!("The execution reached the maximum number of history events ({limit}).");
        Some(Failure {
            kind: crate::failure::Kind::Named(Some("States.Runtime".to_owned())),
            cause: Some(cause),
        })
    }

    fn enter(&mut self, thread: &mut Thread) {
        let state = &self.machine.states[thread.state];
        thread.entered = self.now;
        thread.attempts.clear();
        thread.retries = 0;
        thread.activity = Activity::Running;
        let input = thread.input.clone();
        thread.entered_event =
            self.record_with(thread, events::entered(state), || Detail::Input(input));
    }

    fn work(&mut self, thread: &mut Thread) -> Step {
        let state = &self.machine.states[thread.state];
        match &state.kind {
            Kind::Pass { result } => {
                let input = match result {
                    Some(result) => result.clone(),
                    None if state.is_jsonata => thread.input.clone(),
                    None => self.arguments(thread, state, None)?,
                };
                self.complete(thread, state, input)
            }
            Kind::Succeed => {
                let input = self.effective_input(thread, state)?;
                self.complete_input(thread, state, input)
            }
            Kind::Choice { rules, default } => self.choose(thread, state, rules, *default),
            Kind::Wait(wait) => self.wait(thread, state, wait),
            Kind::Fail { error, cause } => {
                let error = self.words(thread, error.as_ref())?;
                let cause = self.words(thread, cause.as_ref())?;
                Err(Failure::named(error, cause))
            }
            Kind::Task(task) => self.invoke(thread, state, task),
            Kind::Parallel { branches } => self.fork(thread, state, branches),
            Kind::Map(map) => self.begin_map(thread, state, map),
        }
    }

    /// Takes a state's result through `ResultSelector`, `ResultPath`, `OutputPath` and `Assign`, or
    /// through `Output` and `Assign`, and leaves the state.
    pub(super) fn complete(&mut self, thread: &mut Thread, state: &State, result: Data) -> Step {
        if state.is_jsonata {
            let is_result = !matches!(state.kind, Kind::Pass { .. });
            let extra = Extra {
                result: is_result.then_some(&result),
                ..Extra::default()
            };
            let input = thread.input.clone();
            let assigned = self.assigned(thread, &state.assign, &input, extra)?;
            let output = match &state.output {
                Some(template) => Arc::new(self.evaluate(thread, template, &input, extra)?),
                None => result,
            };
            return self.leave(thread, state, output, assigned, state.next);
        }
        let result = match &state.result_selector {
            Some(template) => {
                let selected = self.evaluate(thread, template, &result, Extra::default())?;
                Arc::new(selected)
            }
            None => result,
        };
        let assigned = self.assigned(thread, &state.assign, &result, Extra::default())?;
        let placed = self.place(thread, &state.result_path, result)?;
        let output = self.source(thread, &state.output_path, &placed, "OutputPath")?;
        self.leave(thread, state, output, assigned, state.next)
    }

    /// Leaves a state that has no result: Succeed and Wait.
    fn complete_input(&mut self, thread: &mut Thread, state: &State, input: Data) -> Step {
        let assigned = self.assigned(thread, &state.assign, &input, Extra::default())?;
        let output = match &state.output {
            Some(template) => {
                let raw = thread.input.clone();
                Arc::new(self.evaluate(thread, template, &raw, Extra::default())?)
            }
            None => self.source(thread, &state.output_path, &input, "OutputPath")?,
        };
        self.leave(thread, state, output, assigned, state.next)
    }

    /// Goes to the next state, or to the end of the scope.
    pub(super) fn leave(
        &mut self,
        thread: &mut Thread,
        state: &State,
        output: Data,
        assigned: Vec<(String, Data)>,
        next: Next,
    ) -> Step {
        if !Arc::ptr_eq(&output, &thread.input) {
            self.check_size(thread, &output)?;
        }
        for (_, value) in &assigned {
            self.check_size(thread, value)?;
        }
        thread.variables.extend(assigned);
        self.record_with(thread, events::exited(state), || {
            Detail::Output(output.clone())
        });
        match next {
            Next::State(next) => {
                thread.state = next;
                thread.input = output;
                Ok(Flow::Enter)
            }
            Next::End => Ok(Flow::Ended(output)),
        }
    }

    fn choose(
        &mut self,
        thread: &mut Thread,
        state: &State,
        rules: &[Rule],
        default: Option<usize>,
    ) -> Step {
        let input = self.effective_input(thread, state)?;
        let mut chosen = None;
        for rule in rules {
            let holds = self.with_view(thread, &input, Extra::default(), |view| {
                rule.condition.holds(view)
            })?;
            if holds {
                chosen = Some(rule);
                break;
            }
        }
        let (next, assign, output) = match (chosen, default) {
            (Some(rule), _) => (rule.next, &rule.assign, &rule.output),
            (None, Some(default)) => (default, &state.assign, &state.output),
            (None, None) => {
                let cause = "Failed to transition out of the state. The state does not point to a \
                             next state.";
                return Err(Failure::new(Fault::NoChoice, cause));
            }
        };
        let assigned = self.assigned(thread, assign, &input, Extra::default())?;
        let output = match output {
            Some(template) => {
                let raw = thread.input.clone();
                Arc::new(self.evaluate(thread, template, &raw, Extra::default())?)
            }
            None => self.source(thread, &state.output_path, &input, "OutputPath")?,
        };
        self.leave(thread, state, output, assigned, Next::State(next))
    }

    fn wait(&mut self, thread: &mut Thread, state: &State, wait: &Wait) -> Step {
        let input = self.effective_input(thread, state)?;
        let until = match wait {
            Wait::Seconds(template) => {
                let seconds = self.seconds(thread, template, &input)?;
                self.now.saturating_add((seconds * 1_000.0) as i64)
            }
            Wait::Timestamp(template) => {
                let value = self.evaluate(thread, template, &input, Extra::default())?;
                let time = value.as_str().and_then(timestamp::parse);
                let time = time.ok_or_else(|| {
                    let form = "a valid ISO-8601 extended offset date-time format string";
                    misreferenced(template, form, "string", &value)
                })?;
                // Not before the time, to the millisecond.
                i64::try_from((time + 999_999).div_euclid(1_000_000)).unwrap_or(i64::MAX)
            }
        };
        if until <= self.now {
            return self.waited(thread);
        }
        thread.activity = Activity::Waiting;
        self.set_timer(thread, until);
        Ok(Flow::Blocked)
    }

    pub(super) fn waited(&mut self, thread: &mut Thread) -> Step {
        let state = &self.machine.states[thread.state];
        thread.activity = Activity::Running;
        let input = self.effective_input(thread, state)?;
        self.complete_input(thread, state, input)
    }

    /// A number of seconds or items: whole and not negative.
    pub(super) fn seconds(
        &mut self,
        thread: &Thread,
        template: &Template,
        input: &Value,
    ) -> Result<f64, Failure> {
        self.number(thread, template, input, |number| number.fract() == 0.0)
    }

    /// Whole seconds that a task is given: none at all is a mistake, not a timeout.
    pub(super) fn timeout(
        &mut self,
        thread: &Thread,
        template: &Template,
        input: &Value,
    ) -> Result<f64, Failure> {
        let fits = |number: f64| number.fract() == 0.0 && number > 0.0;
        self.number(thread, template, input, fits)
    }

    /// A number that is not negative.
    pub(super) fn number(
        &mut self,
        thread: &Thread,
        template: &Template,
        input: &Value,
        fits: fn(f64) -> bool,
    ) -> Result<f64, Failure> {
        let value = self.evaluate(thread, template, input, Extra::default())?;
        let number = value
            .as_f64()
            .filter(|number| *number >= 0.0 && fits(*number));
        number.ok_or_else(|| misreferenced(template, "an integer value", "number", &value))
    }

    fn words(
        &mut self,
        thread: &Thread,
        template: Option<&Template>,
    ) -> Result<Option<String>, Failure> {
        let Some(template) = template else {
            return Ok(None);
        };
        let input = thread.input.clone();
        match self.evaluate(thread, template, &input, Extra::default())? {
            Value::String(text) => Ok(Some(text)),
            other => Err(misreferenced(template, "a string value", "string", &other)),
        }
    }

    /// A thread's scope has ended well.
    fn ended(&mut self, thread: Thread, output: Data) {
        match thread.parent {
            Some(parent) => self.child_succeeded(parent, output),
            None => {
                let detail = Detail::Output(output.clone());
                self.note_with(None, "ExecutionSucceeded", detail);
                self.finish_execution(Outcome::Succeeded(output));
            }
        }
    }
}

/// A value that a field can't use, in the words AWS has for each query language.
fn misreferenced(template: &Template, form: &str, kind: &str, value: &Value) -> Failure {
    match template {
        Template::Path { path, field } => {
            let shown = match value {
                Value::String(text) => text.clone(),
                other => number::json(other),
            };
            let cause = format!(
                "The {field} parameter does not reference {form}: {} == {shown}",
                path.text
            );
            Failure::new(Fault::Runtime, cause)
        }
        other => choice::unexpected(other, kind, value),
    }
}
