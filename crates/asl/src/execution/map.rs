//! Map states: iterations inline, and child executions of a distributed Map.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map as Object, Value, json};

use super::flow::{Flow, Step};
use super::thread::{Activity, Attempt, Parent, Thread, ThreadId};
use super::views::Extra;
use super::{Detail, Effect, Invocation, Purpose, Stepper, items};
use crate::choice;
use crate::context::Item;
use crate::failure::{Dialect, Failure, Fault};
use crate::machine::{Batcher, Distributed, Format, Map, Reader, State};
use crate::number;
use crate::resource::ObjectAction;
use crate::template::{Data, Template};

/// Iterations of an inline Map that AWS runs at a time.
const AWS_CONCURRENCY: usize = 40;
/// Child executions of a distributed Map that AWS runs at a time.
const AWS_DISTRIBUTED_CONCURRENCY: usize = 10_000;

/// Progress of a Map state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Mapping {
    stage: Stage,
    pub(super) units: Vec<Unit>,
    /// The first that has not begun.
    next: usize,
    limit: usize,
    active: BTreeMap<usize, ThreadId>,
    pub(super) outputs: Vec<Option<Data>>,
    failed: usize,
    /// Which those are; in a distributed Map that has gone on.
    pub(super) lost: Vec<usize>,
    /// Those to be run again, before the next.
    again: Vec<usize>,
    /// Size of the outputs so far.
    bytes: usize,
    source: String,
    /// When each began and ended, if its results tell.
    #[serde(default)]
    pub(super) spans: Vec<(i64, i64)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Stage {
    Reading(Attempt),
    Iterating,
    Writing(Attempt),
}

/// What one iteration works on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Unit {
    key: Option<String>,
    pub(super) value: Data,
    /// Whether it is an iteration's input as it stands: a batch.
    is_input: bool,
}

impl Mapping {
    /// Whether its items are known: it isn't reading them.
    pub(super) fn has_items(&self) -> bool {
        !matches!(self.stage, Stage::Reading(_))
    }

    /// Notes that an iteration has ended.
    fn end(&mut self, index: usize, now: i64) {
        self.active.remove(&index);
        if let Some((_, ended)) = self.spans.get_mut(index) {
            *ended = now;
        }
    }

    /// The iteration to begin next.
    fn take_next(&mut self) -> Option<usize> {
        if let Some(index) = self.again.pop() {
            return Some(index);
        }
        let index = self.next;
        (index < self.units.len()).then(|| self.next += 1)?;
        Some(index)
    }
}

impl Unit {
    fn of(value: Value) -> Self {
        Self {
            key: None,
            value: Arc::new(value),
            is_input: false,
        }
    }
}

impl Stepper<'_> {
    pub(super) fn begin_map(&mut self, thread: &mut Thread, state: &State, map: &Map) -> Step {
        let input = self.effective_input(thread, state)?;
        let mut mapping = Box::new(Mapping {
            stage: Stage::Iterating,
            units: Vec::new(),
            next: 0,
            limit: self.concurrency(thread, map, &input)?,
            active: BTreeMap::new(),
            outputs: Vec::new(),
            failed: 0,
            lost: Vec::new(),
            again: Vec::new(),
            bytes: 0,
            source: "STATE_DATA".to_owned(),
            spans: Vec::new(),
        });
        let reader = map.distributed.as_ref().and_then(|one| one.reader.as_ref());
        if let Some(reader) = reader {
            let mut arguments = match &reader.arguments {
                Some(template) => self.evaluate(thread, template, &input, Extra::default())?,
                None => Value::Object(Object::new()),
            };
            if let Value::Object(arguments) = &mut arguments {
                self.tell_reader(thread, reader, &input, arguments)?;
            }
            self.record(thread, "MapStateStarted");
            self.record(thread, "MapRunStarted");
            if let (Some(bucket), Some(key)) = (
                arguments.get("Bucket").and_then(Value::as_str),
                arguments.get("Key").and_then(Value::as_str),
            ) {
                mapping.source = format!("S3://{bucket}/{key}");
            }
            let invocation =
                self.side_task(state, Purpose::ItemReader, &reader.resource, arguments);
            mapping.stage = Stage::Reading(self.begin_task(thread, invocation));
            thread.activity = Activity::Mapping(mapping);
            return Ok(Flow::Blocked);
        }
        let units = self.units(thread, state, map, &input)?;
        self.record(thread, "MapStateStarted");
        if map.distributed.is_some() {
            self.record(thread, "MapRunStarted");
        }
        self.begin_iterations(thread, state, map, mapping, units)
    }

    /// Adds to what a reader is told how much it is to read, and in which form.
    fn tell_reader(
        &mut self,
        thread: &Thread,
        reader: &Reader,
        input: &Data,
        arguments: &mut Object<String, Value>,
    ) -> Result<(), Failure> {
        let mut config = Object::new();
        if reader.loads {
            config.insert("Transformation".to_owned(), "LOAD_AND_FLATTEN".into());
        }
        if matches!(reader.format, Format::Inventory) {
            config.insert("ManifestType".to_owned(), "S3_INVENTORY".into());
        }
        // Elsewhere there is nothing to be spared by it.
        let lists = ObjectAction::parse(&reader.resource) == Some(ObjectAction::List);
        if let Some(template) = reader.items_max.as_ref().filter(|_| lists && !reader.loads) {
            let items_max = self.seconds(thread, template, input)? as u64;
            config.insert("MaxItems".to_owned(), items_max.into());
        }
        if !config.is_empty() {
            arguments.insert("ReaderConfig".to_owned(), config.into());
        }
        Ok(())
    }

    fn side_task(
        &mut self,
        state: &State,
        purpose: Purpose,
        resource: &str,
        arguments: Value,
    ) -> Invocation {
        Invocation {
            task: self.identifier(),
            purpose,
            state: state.name.clone(),
            resource: resource.to_owned(),
            arguments: Arc::new(arguments),
            credentials: None,
            timeout_ms: None,
            heartbeat_ms: None,
            token: None,
            plain: None,
        }
    }

    fn concurrency(&mut self, thread: &Thread, map: &Map, input: &Value) -> Result<usize, Failure> {
        let asked = match &map.concurrency_max {
            Some(template) => self.seconds(thread, template, input)? as usize,
            None => 0,
        };
        let most = match (self.x.dialect, &map.distributed) {
            (Dialect::Specification, _) => usize::MAX,
            (Dialect::Aws, None) => AWS_CONCURRENCY,
            (Dialect::Aws, Some(_)) => AWS_DISTRIBUTED_CONCURRENCY,
        };
        Ok(if asked == 0 { most } else { asked.min(most) })
    }

    /// The items, from `ItemsPath`, `Items` or the whole input.
    fn units(
        &mut self,
        thread: &Thread,
        state: &State,
        map: &Map,
        input: &Data,
    ) -> Result<Vec<Unit>, Failure> {
        let items = match &map.items {
            Some(template) => self.evaluate(thread, template, input, Extra::default())?,
            None => Value::clone(input),
        };
        match items {
            Value::Array(values) => Ok(values.into_iter().map(Unit::of).collect()),
            Value::Object(members) if state.is_jsonata || map.distributed.is_some() => {
                let units = members.into_iter().map(|(key, value)| Unit {
                    key: Some(key),
                    ..Unit::of(value)
                });
                Ok(units.collect())
            }
            other => Err(match &map.items {
                Some(template @ Template::Expression(_)) => {
                    choice::unexpected(template, "array", &other)
                }
                Some(Template::Path { path, .. }) => Failure::new(
                    Fault::Runtime,
                    format!("Reference path \"{}\" must point to array.", path.text),
                ),
                _ => Failure::new(Fault::Runtime, "Reference path \"$\" must point to array."),
            }),
        }
    }

    fn begin_iterations(
        &mut self,
        thread: &mut Thread,
        state: &State,
        map: &Map,
        mut mapping: Box<Mapping>,
        units: Vec<Unit>,
    ) -> Step {
        mapping.stage = Stage::Iterating;
        mapping.units = units;
        let batcher = map
            .distributed
            .as_ref()
            .and_then(|one| one.batcher.as_ref());
        if let Some(batcher) = batcher {
            self.batch(thread, state, map, batcher, &mut mapping)?;
        }
        mapping.outputs = vec![None; mapping.units.len()];
        if map.tells_records() {
            mapping.spans = vec![(0, 0); mapping.units.len()];
        }
        self.iterate(thread, state, map, mapping)
    }

    /// Starts what may start; goes on when all have ended.
    fn iterate(
        &mut self,
        thread: &mut Thread,
        state: &State,
        map: &Map,
        mut mapping: Box<Mapping>,
    ) -> Step {
        while mapping.active.len() < mapping.limit {
            let Some(index) = mapping.take_next() else {
                break;
            };
            if map.distributed.is_none() {
                self.mark(thread, "MapIterationStarted", index);
            }
            if let Some((began, _)) = mapping.spans.get_mut(index) {
                *began = self.now;
            }
            match self.iteration(thread, state, map, &mapping, index) {
                Ok(id) => mapping.active.insert(index, id),
                Err(failure) => {
                    self.end_mapping(&mapping);
                    self.record(thread, "MapStateFailed");
                    return Err(failure);
                }
            };
        }
        if !mapping.active.is_empty() {
            thread.activity = Activity::Mapping(mapping);
            return Ok(Flow::Blocked);
        }
        self.write(thread, state, map, mapping)
    }

    fn iteration(
        &mut self,
        thread: &Thread,
        state: &State,
        map: &Map,
        mapping: &Mapping,
        index: usize,
    ) -> Result<ThreadId, Failure> {
        let unit = &mapping.units[index];
        let item = self.item(unit, mapping, index);
        let input = self.unit_input(thread, state, map, mapping, index)?;
        let is_apart = map.distributed.is_some();
        let parent = Parent {
            thread: thread.id,
            index,
            is_apart,
            is_silent: is_apart || thread.is_silent(),
        };
        let id = self.identifier();
        let start = self.machine.scopes[map.processor].start;
        let mut child = Thread::child(id, parent, input, start);
        child.item = Some(Arc::new(item));
        self.x.threads.insert(id, child);
        self.x.ready.push_back(id);
        Ok(id)
    }

    /// What an iteration works on.
    pub(super) fn unit_input(
        &mut self,
        thread: &Thread,
        state: &State,
        map: &Map,
        mapping: &Mapping,
        index: usize,
    ) -> Result<Data, Failure> {
        let unit = &mapping.units[index];
        match unit.is_input {
            true => Ok(unit.value.clone()),
            false => {
                let item = self.item(unit, mapping, index);
                self.iteration_input(thread, state, map, unit, &item)
            }
        }
    }

    fn item(&self, unit: &Unit, mapping: &Mapping, index: usize) -> Item {
        Item {
            index,
            value: unit.value.clone(),
            key: unit.key.clone(),
            source: mapping.source.clone(),
        }
    }

    /// An item after `ItemSelector`.
    fn iteration_input(
        &mut self,
        thread: &Thread,
        state: &State,
        map: &Map,
        unit: &Unit,
        item: &Item,
    ) -> Result<Data, Failure> {
        let Some(selector) = &map.selector else {
            return Ok(match &unit.key {
                Some(key) => Arc::new(json!({"Key": key, "Value": *unit.value})),
                None => unit.value.clone(),
            });
        };
        let input = self.effective_input(thread, state)?;
        let extra = Extra {
            item: Some(item),
            ..Extra::default()
        };
        self.evaluate(thread, selector, &input, extra).map(Arc::new)
    }

    /// Makes batches of the items.
    fn batch(
        &mut self,
        thread: &Thread,
        state: &State,
        map: &Map,
        batcher: &Batcher,
        mapping: &mut Mapping,
    ) -> Result<(), Failure> {
        let input = self.effective_input(thread, state)?;
        let mut most = |template: &Option<Template>| match template {
            Some(template) => self
                .seconds(thread, template, &input)
                .map(|number| (number as usize).max(1)),
            None => Ok(usize::MAX),
        };
        let (items_max, bytes_max) = (most(&batcher.items_max)?, most(&batcher.bytes_max)?);
        let common = match &batcher.input {
            Some(template) => Some(self.evaluate(thread, template, &input, Extra::default())?),
            None => None,
        };
        let mut values = Vec::with_capacity(mapping.units.len());
        for (index, unit) in mapping.units.iter().enumerate() {
            let item = self.item(unit, mapping, index);
            let value = self.iteration_input(thread, state, map, unit, &item)?;
            values.push(Arc::unwrap_or_clone(value));
        }
        let batches = items::batches(values, items_max, bytes_max).into_iter();
        mapping.units = batches
            .map(|batch| {
                let mut input = Object::new();
                if let Some(common) = &common {
                    input.insert("BatchInput".to_owned(), common.clone());
                }
                input.insert("Items".to_owned(), batch.into());
                Unit {
                    is_input: true,
                    ..Unit::of(Value::Object(input))
                }
            })
            .collect();
        Ok(())
    }

    pub(super) fn iteration_succeeded(
        &mut self,
        thread: &mut Thread,
        state: &State,
        map: &Map,
        mut mapping: Box<Mapping>,
        index: usize,
        output: Data,
    ) -> Step {
        mapping.end(index, self.now);
        mapping.bytes += number::length(&output) + 1;
        mapping.outputs[index] = Some(output);
        let writes = |one: &Distributed| one.writer.is_some();
        if !map.distributed.as_ref().is_some_and(writes)
            && let Err(failure) = self.check_bytes(thread, mapping.bytes)
        {
            // What is too large already doesn't get smaller.
            self.end_mapping(&mapping);
            return Err(failure);
        }
        if map.distributed.is_none() {
            self.mark(thread, "MapIterationSucceeded", index);
        }
        self.iterate(thread, state, map, mapping)
    }

    pub(super) fn iteration_failed(
        &mut self,
        thread: &mut Thread,
        state: &State,
        map: &Map,
        mut mapping: Box<Mapping>,
        index: usize,
        failure: Failure,
    ) -> Step {
        let Some(distributed) = &map.distributed else {
            self.mark(thread, "MapIterationFailed", index);
            for (other, id) in &mapping.active {
                if *other != index {
                    self.end(*id);
                    self.mark(thread, "MapIterationAborted", *other);
                }
            }
            self.wreck.keep_work(thread, Activity::Mapping(mapping));
            self.record(thread, "MapStateFailed");
            return Err(failure);
        };
        mapping.end(index, self.now);
        mapping.failed += 1;
        mapping.lost.push(index);
        mapping.outputs[index] = Some(Arc::new(self.error_output(&failure)));
        if self.tolerates(thread, state, distributed, &mapping)? {
            self.wreck.clear();
            return self.iterate(thread, state, map, mapping);
        }
        self.end_mapping(&mapping);
        self.wreck.keep_work(thread, Activity::Mapping(mapping));
        self.record(thread, "MapRunFailed");
        self.record(thread, "MapStateFailed");
        let cause = "The specified tolerated failure threshold was exceeded";
        Err(Failure::new(Fault::ExceedTolerated, cause))
    }

    fn tolerates(
        &mut self,
        thread: &Thread,
        state: &State,
        distributed: &Distributed,
        mapping: &Mapping,
    ) -> Result<bool, Failure> {
        let input = self.effective_input(thread, state)?;
        let failed = mapping.failed as f64;
        let (count, percentage) = (
            &distributed.tolerated_count,
            &distributed.tolerated_percentage,
        );
        if count.is_none() && percentage.is_none() {
            return Ok(false);
        }
        if let Some(template) = count
            && failed > self.seconds(thread, template, &input)?
        {
            return Ok(false);
        }
        if let Some(template) = percentage {
            let most = self.number(thread, template, &input, |most| most <= 100.0)?;
            return Ok(failed * 100.0 / mapping.units.len() as f64 <= most);
        }
        Ok(true)
    }

    /// All iterations have ended: their outputs are written, or are the result.
    fn write(
        &mut self,
        thread: &mut Thread,
        state: &State,
        map: &Map,
        mut mapping: Box<Mapping>,
    ) -> Step {
        let writer = map.distributed.as_ref().and_then(|one| one.writer.as_ref());
        let Some(writer) = writer else {
            let outputs = std::mem::take(&mut mapping.outputs).into_iter().flatten();
            let outputs: Vec<Value> = outputs.map(Arc::unwrap_or_clone).collect();
            return self.mapped(thread, state, map, outputs.into());
        };
        // Kept, should the writer fail.
        let results = self.results(thread, state, map, writer.transformation, &mapping)?;
        let Some(resource) = &writer.resource else {
            return self.mapped(thread, state, map, results.together().into());
        };
        let input = self.effective_input(thread, state)?;
        let mut arguments = match &writer.arguments {
            Some(template) => self.evaluate(thread, template, &input, Extra::default())?,
            None => Value::Object(Object::new()),
        };
        if let Value::Object(map) = &mut arguments {
            map.insert("Results".to_owned(), results.told(writer.is_lines));
        }
        let invocation = self.side_task(state, Purpose::ResultWriter, resource, arguments);
        mapping.stage = Stage::Writing(self.begin_task(thread, invocation));
        thread.activity = Activity::Mapping(mapping);
        Ok(Flow::Blocked)
    }

    fn mapped(&mut self, thread: &mut Thread, state: &State, map: &Map, result: Value) -> Step {
        self.check_size(thread, &result)?;
        if map.distributed.is_some() {
            self.record(thread, "MapRunSucceeded");
        }
        self.record(thread, "MapStateSucceeded");
        self.complete(thread, state, Arc::new(result))
    }

    /// The reader or the writer has answered.
    pub(super) fn map_answered(
        &mut self,
        thread: &mut Thread,
        state: &State,
        map: &Map,
        mapping: Box<Mapping>,
        output: Value,
    ) -> Step {
        match (&mapping.stage, &map.distributed) {
            (Stage::Reading(_), Some(distributed)) => {
                let Some(reader) = &distributed.reader else {
                    return Ok(Flow::Blocked);
                };
                let read = items::read(reader, output);
                let mut values = match read {
                    Ok(values) => values,
                    Err(cause) => {
                        self.record(thread, "MapRunFailed");
                        self.record(thread, "MapStateFailed");
                        return Err(Failure::new(Fault::ItemReader, cause));
                    }
                };
                if let Some(template) = &reader.items_max {
                    let input = self.effective_input(thread, state)?;
                    values.truncate(self.seconds(thread, template, &input)? as usize);
                }
                let units = values.into_iter().map(|(key, value)| Unit {
                    key,
                    ..Unit::of(value)
                });
                self.begin_iterations(thread, state, map, mapping, units.collect())
            }
            (Stage::Writing(_), _) => self.mapped(thread, state, map, output),
            _ => Ok(Flow::Blocked),
        }
    }

    /// The reader or the writer has failed.
    pub(super) fn map_refused(
        &mut self,
        thread: &mut Thread,
        mapping: Box<Mapping>,
        failure: Failure,
    ) -> Failure {
        self.record(thread, "MapRunFailed");
        self.record(thread, "MapStateFailed");
        let error = match mapping.stage {
            Stage::Writing(_) => {
                self.wreck.keep_work(thread, Activity::Mapping(mapping));
                "States.ResultWriterFailed"
            }
            _ => "States.ItemReaderFailed",
        };
        Failure::named(Some(error.to_owned()), failure.cause)
    }

    /// Goes on with what a failed Map has left to do.
    pub(super) fn resume_map(
        &mut self,
        thread: &mut Thread,
        state: &State,
        map: &Map,
        mut mapping: Box<Mapping>,
    ) -> Step {
        // It may have ended only after that.
        if let Stage::Writing(_) = mapping.stage {
            return self.write(thread, state, map, mapping);
        }
        mapping.failed = 0;
        mapping.again = std::mem::take(&mut mapping.lost);
        // From the first to the last.
        mapping.again.sort_unstable_by(|a, b| b.cmp(a));
        for index in &mapping.again {
            mapping.outputs[*index] = None;
        }
        self.iterate(thread, state, map, mapping)
    }

    /// Ends all iterations, or the reading or writing.
    pub(super) fn end_mapping(&mut self, mapping: &Mapping) {
        for id in mapping.active.values() {
            self.end(*id);
        }
        if let Stage::Reading(attempt) | Stage::Writing(attempt) = &mapping.stage {
            self.x.tasks.remove(&attempt.task);
            self.effects.push(Effect::Cancel(attempt.task));
        }
    }

    /// An event of the Map that doesn't count as a step of its scope.
    fn mark(&mut self, thread: &Thread, kind: &'static str, index: usize) {
        if thread.is_silent() {
            self.x.events += 1;
        } else {
            self.note_with(Some(thread.state), kind, Detail::Index(index));
        }
    }
}
