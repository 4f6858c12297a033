//! Workflows in the original's own form: tasks by id, each with its successors.
//!
//! One that is imported becomes a definition in the Amazon States Language whose states are called
//! as its tasks are, so that progress, reports and plans of both speak of the same things. What the
//! language has no words for is written in JSONata: a choice there looks at the execution's
//! parameters beneath the current data, takes a missing parameter for null, and compares texts that
//! are both numbers or times as such. Values of different types are never equal and in no order, as
//! the language has it: the original compares the text of them.
//!
//! The other way, for other nodes, is in `export.rs`.

mod condition;
pub mod export;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Map, Value, json};
use serverledge_api::{SerializedWorkflow, WorkflowTask};

use super::definition::Record;
use super::signature;
use crate::node::Node;

/// Why a workflow in the original's form is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// A part of it isn't there.
    #[error("the workflow has no {0}")]
    Missing(&'static str),
    /// A task without a type known here.
    #[error("the task '{task}' has the type '{kind}', which is none of {TYPES}")]
    Kind {
        /// Which.
        task: String,
        /// Its type.
        kind: String,
    },
    /// A task that goes nowhere.
    #[error("the task '{task}' has no {field}")]
    Field {
        /// Which.
        task: String,
        /// What is missing.
        field: &'static str,
    },
    /// A successor that isn't there.
    #[error("the task '{task}' goes on with '{next}', and there is no such task")]
    Target {
        /// Which.
        task: String,
        /// What it names.
        next: String,
    },
    /// As many conditions as alternatives.
    #[error("the task '{task}' has {conditions} conditions and {alternatives} alternatives")]
    Alternatives {
        /// Which.
        task: String,
        /// How many there are.
        conditions: usize,
        /// How many there are.
        alternatives: usize,
    },
    /// A condition that can't be tested.
    #[error("a condition of the task '{task}': {problem}")]
    Condition {
        /// Which.
        task: String,
        /// What is wrong.
        problem: String,
    },
}

const TYPES: &str = "StartTask, EndTask, FunctionTask, ChoiceTask, SuccessTask, Fail, PassTask";

/// The definition that does what `workflow` does. Tasks that nothing leads to are left out; names
/// of functions are not looked up, and lengths of ids not checked.
pub fn definition(workflow: &SerializedWorkflow) -> Result<Value, ImportError> {
    let start = workflow
        .start
        .as_ref()
        .ok_or(ImportError::Missing("Start"))?;
    let end = workflow.end.as_ref().ok_or(ImportError::Missing("End"))?;
    let tasks = workflow
        .tasks
        .as_ref()
        .ok_or(ImportError::Missing("Tasks"))?;
    let mut import = Import {
        tasks,
        end: &end.id,
        seen: BTreeSet::new(),
        queue: VecDeque::new(),
        ends: false,
    };
    let first = import.next("Start", start)?.to_owned();
    let mut states = Map::new();
    if first == end.id {
        // Nothing but a beginning and an end: what goes in comes out.
        states.insert(first.clone(), json!({"Type": "Pass", "End": true}));
    } else {
        import.visit(&first);
    }
    while let Some(id) = import.queue.pop_front() {
        let task = import.task(&id)?;
        let state = import.state(&id, task)?;
        states.insert(id, state);
    }
    if import.ends {
        states.insert(end.id.clone(), json!({"Type": "Succeed"}));
    }
    Ok(json!({"StartAt": first, "States": states}))
}

/// A workflow in the original's form: as it was imported, or what says the same; `None` if nothing
/// does. States have their names as ids.
pub(crate) fn serialized(node: &Node, record: &Record) -> Option<SerializedWorkflow> {
    match &record.original {
        Some(original) => serde_json::from_value(original.clone()).ok(),
        None => {
            let has_signature = |name: &str| signature::is_of(node, name);
            export::export(&record.name, &record.definition(), has_signature)
        }
    }
}

struct Import<'a> {
    tasks: &'a BTreeMap<String, WorkflowTask>,
    end: &'a str,
    seen: BTreeSet<String>,
    /// Tasks that something leads to, and that are no states yet.
    queue: VecDeque<String>,
    /// Whether a choice leads to the end, which in the language must be a state then.
    ends: bool,
}

impl<'a> Import<'a> {
    fn visit(&mut self, id: &str) {
        if id != self.end && self.seen.insert(id.to_owned()) {
            self.queue.push_back(id.to_owned());
        }
    }

    fn task(&self, id: &str) -> Result<&'a WorkflowTask, ImportError> {
        self.tasks.get(id).ok_or_else(|| ImportError::Target {
            task: id.to_owned(),
            next: id.to_owned(),
        })
    }

    /// What follows a task, which exists.
    fn next<'t>(&self, id: &str, task: &'t WorkflowTask) -> Result<&'t str, ImportError> {
        let next = task.next.as_deref().filter(|next| !next.is_empty());
        let next = next.ok_or_else(|| ImportError::Field {
            task: id.to_owned(),
            field: "NextTask",
        })?;
        self.exists(id, next)?;
        Ok(next)
    }

    fn exists(&self, id: &str, next: &str) -> Result<(), ImportError> {
        if next == self.end || self.tasks.contains_key(next) {
            return Ok(());
        }
        Err(ImportError::Target {
            task: id.to_owned(),
            next: next.to_owned(),
        })
    }

    fn state(&mut self, id: &str, task: &WorkflowTask) -> Result<Value, ImportError> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        match task.kind.as_str() {
            "FunctionTask" => {
                let function = text(&task.function);
                if function.is_empty() {
                    return Err(ImportError::Field {
                        task: id.to_owned(),
                        field: "Func",
                    });
                }
                self.followed(id, task, json!({"Type": "Task", "Resource": function}))
            }
            "PassTask" => self.followed(id, task, json!({"Type": "Pass"})),
            "ChoiceTask" => self.choice(id, task),
            "SuccessTask" => Ok(json!({"Type": "Succeed"})),
            "Fail" => Ok(json!({
                "Type": "Fail", "Error": text(&task.error), "Cause": text(&task.cause),
            })),
            other => Err(ImportError::Kind {
                task: id.to_owned(),
                kind: other.to_owned(),
            }),
        }
    }

    fn followed(
        &mut self,
        id: &str,
        task: &WorkflowTask,
        mut state: Value,
    ) -> Result<Value, ImportError> {
        let next = self.next(id, task)?;
        if next == self.end {
            state["End"] = true.into();
        } else {
            state["Next"] = next.into();
            self.visit(next);
        }
        Ok(state)
    }

    fn choice(&mut self, id: &str, task: &WorkflowTask) -> Result<Value, ImportError> {
        let conditions = task.conditions.as_deref().unwrap_or_default();
        let alternatives = task.alternatives.as_deref().unwrap_or_default();
        if conditions.is_empty() || conditions.len() != alternatives.len() {
            return Err(ImportError::Alternatives {
                task: id.to_owned(),
                conditions: conditions.len(),
                alternatives: alternatives.len(),
            });
        }
        let mut rules = Vec::new();
        for (condition, next) in conditions.iter().zip(alternatives) {
            self.exists(id, next)?;
            self.ends |= next == self.end;
            self.visit(next);
            let test = condition::test(condition).map_err(|problem| ImportError::Condition {
                task: id.to_owned(),
                problem,
            })?;
            rules.push(json!({"Condition": test, "Next": next}));
        }
        Ok(json!({"Type": "Choice", "QueryLanguage": "JSONata", "Choices": rules}))
    }
}

#[cfg(test)]
mod tests;
