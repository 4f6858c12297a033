//! Data on its way through a state.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Stepper;
use super::thread::Thread;
use crate::context::{Context, Item};
use crate::failure::{Failure, Fault};
use crate::machine::{Source, State, Target};
use crate::number;
use crate::template::{Data, Template, Variables, View};

/// What a template sees besides the state's input.
#[derive(Default, Clone, Copy)]
pub(super) struct Extra<'a> {
    pub(super) result: Option<&'a Value>,
    pub(super) error_output: Option<&'a Value>,
    pub(super) token: Option<&'a str>,
    /// Instead of the thread's own.
    pub(super) item: Option<&'a Item>,
}

impl Stepper<'_> {
    /// Lets something be evaluated where the thread is; `input` is `$`.
    pub(super) fn with_view<R>(
        &mut self,
        thread: &Thread,
        input: &Value,
        extra: Extra<'_>,
        evaluate: impl FnOnce(&mut View<'_>) -> R,
    ) -> R {
        let mut variables: Vec<&Variables> = vec![&thread.variables];
        let mut parent = thread.parent;
        while let Some(link) = parent {
            if link.is_apart {
                break;
            }
            let Some(above) = self.x.threads.get(&link.thread) else {
                break;
            };
            variables.push(&above.variables);
            parent = above.parent;
        }
        let state = &self.machine.states[thread.state];
        let mut view = View {
            input,
            raw: &thread.input,
            result: extra.result,
            error_output: extra.error_output,
            context: Context {
                about: &self.x.about,
                input: &self.x.input,
                started: self.x.started,
                state: &state.name,
                entered: thread.entered,
                retries: thread.retries,
                token: extra.token,
                item: extra.item.or(thread.item.as_deref()),
            },
            variables: &variables,
            random: &mut self.x.random,
            now: self.now,
        };
        evaluate(&mut view)
    }

    pub(super) fn evaluate(
        &mut self,
        thread: &Thread,
        template: &Template,
        input: &Value,
        extra: Extra<'_>,
    ) -> Result<Value, Failure> {
        self.with_view(thread, input, extra, |view| template.evaluate(view))
    }

    /// `InputPath` or `OutputPath`.
    pub(super) fn source(
        &mut self,
        thread: &Thread,
        source: &Source,
        input: &Data,
        field: &str,
    ) -> Result<Data, Failure> {
        match source {
            Source::Whole => Ok(input.clone()),
            Source::Nothing => Ok(Arc::new(Value::Object(Map::new()))),
            Source::Path(path) => self
                .with_view(thread, input, Extra::default(), |view| {
                    view.path(path, field).map(|value| value.into_owned())
                })
                .map(Arc::new),
        }
    }

    /// The state's input after `InputPath`.
    pub(super) fn effective_input(
        &mut self,
        thread: &Thread,
        state: &State,
    ) -> Result<Data, Failure> {
        let input = thread.input.clone();
        self.source(thread, &state.input_path, &input, "InputPath")
    }

    /// The state's input after `InputPath` and `Parameters`, or its `Arguments`.
    pub(super) fn arguments(
        &mut self,
        thread: &Thread,
        state: &State,
        token: Option<&str>,
    ) -> Result<Data, Failure> {
        let input = self.effective_input(thread, state)?;
        match &state.parameters {
            Some(Template::Literal(value)) => Ok(value.clone()),
            Some(template) => {
                let extra = Extra {
                    token,
                    ..Extra::default()
                };
                self.evaluate(thread, template, &input, extra).map(Arc::new)
            }
            None => Ok(input),
        }
    }

    /// Puts a result where `ResultPath` says.
    pub(super) fn place(
        &self,
        thread: &Thread,
        target: &Target,
        result: Data,
    ) -> Result<Data, Failure> {
        match target {
            Target::Whole => Ok(result),
            Target::Nothing => Ok(thread.input.clone()),
            Target::Path(path) => {
                let mut document = Value::clone(&thread.input);
                match path.put(&mut document, Arc::unwrap_or_clone(result)) {
                    true => Ok(Arc::new(document)),
                    false => {
                        let cause = format!(
                            "Unable to apply Reference Path {} to input {}",
                            path.text,
                            number::json(&thread.input)
                        );
                        Err(Failure::new(Fault::ResultPath, cause))
                    }
                }
            }
        }
    }

    /// `Assign`: the new values of variables, none of which is visible yet.
    pub(super) fn assigned(
        &mut self,
        thread: &Thread,
        assign: &[(String, Template)],
        input: &Value,
        extra: Extra<'_>,
    ) -> Result<Vec<(String, Data)>, Failure> {
        if assign.is_empty() {
            return Ok(Vec::new());
        }
        self.with_view(thread, input, extra, |view| {
            let evaluated = assign.iter().map(|(name, template)| {
                let value = match template {
                    Template::Literal(value) => value.clone(),
                    other => Arc::new(other.evaluate(view)?),
                };
                Ok((name.clone(), value))
            });
            evaluated.collect()
        })
    }
}
