//! Results of a distributed Map: of its child executions everything, or just their outputs.

use std::collections::BTreeSet;

use serde_json::{Map as Object, Value, json};

use super::map::Mapping;
use super::{Stepper, items};
use crate::failure::Failure;
use crate::machine::{Map, State, Transformation};
use crate::number;
use crate::timestamp;

use super::thread::Thread;

/// Results by what became of the executions, in the order of the items.
pub(super) struct Results {
    /// With the index of each.
    succeeded: Vec<(usize, Value)>,
    failed: Vec<(usize, Value)>,
    flattens: bool,
}

impl Results {
    /// As a state's output: all in the order of the items.
    pub(super) fn together(self) -> Vec<Value> {
        let mut all = self.succeeded;
        all.extend(self.failed);
        all.sort_by_key(|(index, _)| *index);
        let values = all.into_iter().map(|(_, value)| value).collect();
        match self.flattens {
            true => items::flattened(values),
            false => values,
        }
    }

    /// As a writer is told.
    pub(super) fn told(self, is_lines: bool) -> Value {
        let values = |all: Vec<(usize, Value)>| all.into_iter().map(|(_, value)| value);
        let succeeded: Vec<Value> = values(self.succeeded).collect();
        let failed: Vec<Value> = values(self.failed).collect();
        json!({
            "SUCCEEDED": match self.flattens {
                true => items::flattened(succeeded),
                false => succeeded,
            },
            "FAILED": failed,
            "OutputType": if is_lines { "JSONL" } else { "JSON" },
        })
    }
}

impl Stepper<'_> {
    /// What is told of iterations that have ended. A writer gets everything of those that failed.
    pub(super) fn results(
        &mut self,
        thread: &Thread,
        state: &State,
        map: &Map,
        transformation: Transformation,
        mapping: &Mapping,
    ) -> Result<Results, Failure> {
        let writer = map.distributed.as_ref().and_then(|one| one.writer.as_ref());
        let is_written = writer.is_some_and(|writer| writer.resource.is_some());
        let lost: BTreeSet<usize> = mapping.lost.iter().copied().collect();
        let mut results = Results {
            succeeded: Vec::new(),
            failed: Vec::new(),
            flattens: transformation == Transformation::Members,
        };
        for (index, output) in mapping.outputs.iter().enumerate() {
            let Some(output) = output else {
                continue;
            };
            let is_lost = lost.contains(&index);
            let is_record = transformation == Transformation::Records || is_lost && is_written;
            let value = match is_record {
                true => {
                    let input = self.unit_input(thread, state, map, mapping, index)?;
                    self.execution_record(state, mapping, index, &input, output, is_lost)
                }
                false => Value::clone(output),
            };
            match is_lost {
                true => results.failed.push((index, value)),
                false => results.succeeded.push((index, value)),
            }
        }
        Ok(results)
    }

    /// A child execution as AWS describes it.
    fn execution_record(
        &self,
        state: &State,
        mapping: &Mapping,
        index: usize,
        input: &Value,
        output: &Value,
        is_lost: bool,
    ) -> Value {
        let about = &self.x.about;
        let included = || json!({"Included": true});
        let mut record = Object::new();
        let mut put = |name: &str, value: Value| record.insert(name.to_owned(), value);
        put(
            "ExecutionArn",
            format!("{}/{}:{index}", about.id, state.name).into(),
        );
        put("Input", number::json(input).into());
        put("InputDetails", included());
        put("Name", index.to_string().into());
        if is_lost {
            for name in ["Error", "Cause"] {
                put(name, output.get(name).cloned().unwrap_or_default());
            }
            put("Status", "FAILED".into());
        } else {
            put("Output", number::json(output).into());
            put("OutputDetails", included());
            put("Status", "SUCCEEDED".into());
        }
        if let Some((began, ended)) = mapping.spans.get(index) {
            put("StartDate", timestamp::text(*began).into());
            put("StopDate", timestamp::text(*ended).into());
        }
        put(
            "StateMachineArn",
            format!("{}/{}", about.machine_id, state.name).into(),
        );
        Value::Object(record)
    }
}
