//! Paths: each step is applied to every value that the step before has given.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::super::Error;
use super::super::syntax::{Kind, Node, Path, Stage, Step, Term};
use super::super::value::{Array, Frame, Object, Tuple, Value, append};
use super::operators::compare;
use super::{Evaluator, settle};

impl Evaluator<'_> {
    pub(super) fn path(
        &mut self,
        path: &Path,
        group: Option<&[(Node, Node)]>,
        input: &Value,
        frame: &Rc<Frame>,
    ) -> Result<Value, Error> {
        let variable = path
            .steps
            .first()
            .is_some_and(|step| matches!(step.node.kind, Kind::Variable(_)));
        let mut current = match input {
            Value::Array(_) if !variable => input.clone(),
            single => Value::sequence(vec![single.clone()]),
        };
        if let [step] = path.steps.as_slice()
            && step.focus.is_some()
            && !matches!(step.node.kind, Kind::Name(_))
        {
            // Nothing follows that could use the variable, so that it binds nothing.
            let result = self.evaluate(&step.node, input, frame)?;
            let result = self.filter_all(step, result, frame)?;
            return match group {
                Some(pairs) => self.group(pairs, result, frame),
                None => Ok(result),
            };
        }
        let mut tuples: Option<Vec<Tuple>> = None;
        let mut streaming = false;
        for (index, step) in path.steps.iter().enumerate() {
            streaming |= step.tuple;
            if index == 0 && step.literal {
                let result = self.evaluate(&step.node, &current, frame)?;
                current = literal(step, result);
            } else if streaming {
                tuples = Some(self.tuple_step(step, &current, tuples, frame)?);
                continue;
            } else {
                let last = index + 1 == path.steps.len();
                current = self.step(step, &current, frame, last)?;
            }
            let empty = match &current {
                Value::Undefined => true,
                Value::Array(array) => array.items.is_empty(),
                _ => false,
            };
            if !streaming && empty {
                break;
            }
        }
        let mut result = match tuples {
            Some(tuples) if path.tuple || group.is_some() => Value::Tuples(Rc::new(tuples)),
            Some(tuples) => Value::sequence(tuples.into_iter().map(|tuple| tuple.value).collect()),
            None => current,
        };
        if path.keep_array {
            result = keep(result);
        }
        match group {
            Some(pairs) => self.group(pairs, result, frame),
            None => Ok(result),
        }
    }

    /// One step for each value.
    fn step(
        &mut self,
        step: &Step,
        input: &Value,
        frame: &Rc<Frame>,
        last: bool,
    ) -> Result<Value, Error> {
        if let Kind::Sort(terms) = &step.node.kind {
            let result = self.sort_step(terms, input, frame)?;
            return self.filter_all(step, result, frame);
        }
        let mut results = Vec::new();
        for item in input.items() {
            let result = self.evaluate(&step.node, item, frame)?;
            let result = self.filter_all(step, literal(step, result), frame)?;
            if !result.is_undefined() {
                results.push(result);
            }
        }
        if last
            && let [Value::Array(array)] = results.as_slice()
            && !array.sequence
        {
            return Ok(results.remove(0));
        }
        let mut flat = Vec::with_capacity(results.len());
        for result in results {
            match result {
                Value::Array(array) if !array.literal => {
                    self.charge_items(flat.len() + array.items.len())?;
                    flat.extend_from_slice(&array.items);
                }
                single => flat.push(single),
            }
        }
        Ok(Value::sequence(flat))
    }

    fn filter_all(
        &mut self,
        step: &Step,
        mut result: Value,
        frame: &Rc<Frame>,
    ) -> Result<Value, Error> {
        for stage in &step.stages {
            if let Stage::Filter(filter) = stage {
                result = self.filter(filter, result, frame)?;
            }
        }
        Ok(result)
    }

    fn tuple_step(
        &mut self,
        step: &Step,
        input: &Value,
        tuples: Option<Vec<Tuple>>,
        frame: &Rc<Frame>,
    ) -> Result<Vec<Tuple>, Error> {
        let bare = |value: Value| Tuple {
            value,
            bindings: Vec::new(),
        };
        let mut result = Vec::new();
        if let Kind::Sort(terms) = &step.node.kind {
            let tuples = match tuples {
                Some(tuples) => tuples,
                None => input.items().iter().cloned().map(bare).collect(),
            };
            result = self.sort_tuples(terms, tuples, frame)?;
            if let Some(name) = &step.index {
                for (index, tuple) in result.iter_mut().enumerate() {
                    tuple
                        .bindings
                        .push((Arc::clone(name), Value::Number(index as f64)));
                }
            }
        } else {
            let tuples = match tuples {
                Some(tuples) => tuples,
                None => input.items().iter().cloned().map(bare).collect(),
            };
            for tuple in tuples {
                let inner = self.frame(frame, tuple.bindings.clone());
                let values = self.evaluate(&step.node, &tuple.value, &inner)?;
                extend(step, &tuple, values, &mut result);
                self.charge_items(result.len())?;
            }
        }
        for stage in &step.stages {
            match stage {
                Stage::Filter(filter) => {
                    let filtered = self.filter(filter, Value::Tuples(Rc::new(result)), frame)?;
                    result = match filtered {
                        Value::Tuples(tuples) => Rc::unwrap_or_clone(tuples),
                        _ => Vec::new(),
                    };
                }
                Stage::Index(name) => {
                    for (index, tuple) in result.iter_mut().enumerate() {
                        tuple
                            .bindings
                            .push((Arc::clone(name), Value::Number(index as f64)));
                    }
                }
            }
        }
        Ok(result)
    }

    /// The values for which the predicate is true, or whose index it gives.
    pub(super) fn filter(
        &mut self,
        predicate: &Node,
        input: Value,
        frame: &Rc<Frame>,
    ) -> Result<Value, Error> {
        if let Value::Tuples(tuples) = input {
            let mut kept = Vec::new();
            for (index, tuple) in tuples.iter().enumerate() {
                let inner = self.frame(frame, tuple.bindings.clone());
                if self.selects(predicate, &tuple.value, index, tuples.len(), &inner)? {
                    kept.push(tuple.clone());
                }
            }
            return Ok(Value::Tuples(Rc::new(kept)));
        }
        let items = input.items();
        if let Kind::Number(number) = &predicate.kind
            && predicate.is_plain()
        {
            let item = position(*number, items.len()).and_then(|index| items.get(index));
            return Ok(match item {
                None | Some(Value::Undefined) => Value::sequence(Vec::new()),
                Some(array @ Value::Array(_)) => array.clone(),
                Some(single) => Value::sequence(vec![single.clone()]),
            });
        }
        let mut kept = Vec::new();
        for (index, item) in items.iter().enumerate() {
            if self.selects(predicate, item, index, items.len(), frame)? {
                kept.push(item.clone());
            }
        }
        Ok(Value::sequence(kept))
    }

    fn selects(
        &mut self,
        predicate: &Node,
        item: &Value,
        index: usize,
        count: usize,
        frame: &Rc<Frame>,
    ) -> Result<bool, Error> {
        let result = self.evaluate(predicate, item, frame)?;
        let numbers = !result.items().is_empty()
            && result
                .items()
                .iter()
                .all(|value| matches!(value, Value::Number(_)));
        if !numbers {
            return Ok(result.truth());
        }
        Ok(result.items().iter().any(|value| match value {
            Value::Number(number) => position(*number, count) == Some(index),
            _ => false,
        }))
    }

    pub(in super::super) fn field(&mut self, input: &Value, name: &str) -> Result<Value, Error> {
        match input {
            Value::Object(object) => Ok(object.find(name).cloned().unwrap_or(Value::Undefined)),
            Value::Array(array) => {
                let mut found = Vec::new();
                self.charge(array.items.len() / 4)?;
                for item in &array.items {
                    match self.field(item, name)? {
                        Value::Undefined => {}
                        Value::Array(array) => found.extend_from_slice(&array.items),
                        single => found.push(single),
                    }
                }
                Ok(Value::sequence(found))
            }
            _ => Ok(Value::Undefined),
        }
    }

    pub(super) fn wildcard(&mut self, input: &Value) -> Result<Value, Error> {
        let input = match input {
            Value::Array(array) if array.wrapper => array.items.first().unwrap_or(input),
            other => other,
        };
        let mut found = Vec::new();
        let mut arrays = false;
        let mut add = |value: &Value| match value {
            Value::Array(_) => {
                arrays = true;
                flatten(value, &mut found);
            }
            single => found.push(single.clone()),
        };
        match input {
            Value::Object(object) => object.iter().for_each(|(_, value)| add(value)),
            Value::Array(array) => array.items.iter().for_each(add),
            _ => {}
        }
        self.charge_items(found.len())?;
        Ok(if arrays {
            Value::list(found)
        } else {
            Value::sequence(found)
        })
    }

    pub(super) fn descendants(&mut self, input: &Value) -> Result<Value, Error> {
        let mut found = Vec::new();
        descend(input, &mut found);
        self.charge(found.len())?;
        Ok(settle(Value::sequence(found), false))
    }

    /// `{key: value, …}`: groups the values by their keys.
    pub(super) fn group(
        &mut self,
        pairs: &[(Node, Node)],
        input: Value,
        frame: &Rc<Frame>,
    ) -> Result<Value, Error> {
        let tuples: Vec<Tuple> = match &input {
            Value::Tuples(tuples) => tuples.to_vec(),
            other => {
                let bare = |value: &Value| Tuple {
                    value: value.clone(),
                    bindings: Vec::new(),
                };
                match other.items() {
                    [] => vec![bare(&Value::Undefined)],
                    items => items.iter().map(bare).collect(),
                }
            }
        };
        let streaming = matches!(input, Value::Tuples(_));
        let mut places: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        let mut groups: Vec<(Arc<str>, usize, Vec<&Tuple>)> = Vec::new();
        for tuple in &tuples {
            let inner = if streaming {
                self.frame(frame, tuple.bindings.clone())
            } else {
                Rc::clone(frame)
            };
            for (number, (key, _)) in pairs.iter().enumerate() {
                let position = key.position;
                let key = match self.evaluate(key, &tuple.value, &inner)? {
                    Value::Undefined => continue,
                    Value::String(key) => key,
                    other => {
                        let message = format!(
                            "key in object structure must evaluate to a string, not {}",
                            other.type_name()
                        );
                        return Err(Error::new("T1003", message).at(position));
                    }
                };
                match places.get(&key) {
                    None => {
                        places.insert(Arc::clone(&key), groups.len());
                        groups.push((key, number, vec![tuple]));
                    }
                    Some(&place) if groups[place].1 == number => groups[place].2.push(tuple),
                    Some(_) => {
                        let message =
                            format!("multiple key definitions evaluate to same key: \"{key}\"");
                        return Err(Error::new("D1009", message).at(position));
                    }
                }
            }
        }
        let mut object = Object::default();
        for (key, number, members) in groups {
            let (context, bindings) = merge(&members);
            let inner = if streaming {
                self.frame(frame, bindings)
            } else {
                Rc::clone(frame)
            };
            let value = self.evaluate(&pairs[number].1, &context, &inner)?;
            if !value.is_undefined() {
                object.insert(key, value);
            }
        }
        Ok(Value::object(object))
    }

    pub(super) fn sort_step(
        &mut self,
        terms: &[Term],
        input: &Value,
        frame: &Rc<Frame>,
    ) -> Result<Value, Error> {
        let sorted = self.sort(input.items().to_vec(), &mut |this, a, b| {
            this.order(terms, (a, frame), (b, frame))
        })?;
        Ok(Value::sequence(sorted))
    }

    fn sort_tuples(
        &mut self,
        terms: &[Term],
        tuples: Vec<Tuple>,
        frame: &Rc<Frame>,
    ) -> Result<Vec<Tuple>, Error> {
        self.sort(tuples, &mut |this, a, b| {
            let first = this.frame(frame, a.bindings.clone());
            let second = this.frame(frame, b.bindings.clone());
            this.order(terms, (&a.value, &first), (&b.value, &second))
        })
    }

    /// Whether the second value is to come before the first.
    fn order(
        &mut self,
        terms: &[Term],
        first: (&Value, &Rc<Frame>),
        second: (&Value, &Rc<Frame>),
    ) -> Result<bool, Error> {
        for term in terms {
            let position = term.node.position;
            let a = self.evaluate(&term.node, first.0, first.1)?;
            let b = self.evaluate(&term.node, second.0, second.1)?;
            match (a.is_undefined(), b.is_undefined()) {
                (true, true) => continue,
                // What has no key comes last.
                (true, false) => return Ok(true),
                (false, true) => return Ok(false),
                (false, false) => {}
            }
            let sortable = |value: &Value| matches!(value, Value::Number(_) | Value::String(_));
            if !sortable(&a) || !sortable(&b) {
                let message = "the expressions within an order-by clause must evaluate to numeric or string values";
                return Err(Error::new("T2008", message).at(position));
            }
            if a.type_name() != b.type_name() {
                let message = "within an order-by clause all values must be of the same type";
                return Err(Error::new("T2007", message).at(position));
            }
            match compare(&a, &b) {
                None | Some(Ordering::Equal) => {}
                Some(ordering) => return Ok((ordering == Ordering::Greater) != term.descending),
            }
        }
        Ok(false)
    }

    /// Stable merge sort. The comparator, which is the user's, says whether its second value comes
    /// first; the standard library's sort could panic over one that contradicts itself.
    pub(in super::super) fn sort<T: Clone>(
        &mut self,
        items: Vec<T>,
        swap: &mut impl FnMut(&mut Self, &T, &T) -> Result<bool, Error>,
    ) -> Result<Vec<T>, Error> {
        if items.len() < 2 {
            return Ok(items);
        }
        self.charge(items.len() / 2)?;
        let mut left = items;
        let right = left.split_off(left.len() / 2);
        let left = self.sort(left, swap)?;
        let right = self.sort(right, swap)?;
        let mut merged = Vec::with_capacity(left.len() + right.len());
        let (mut l, mut r) = (0, 0);
        while l < left.len() && r < right.len() {
            if swap(self, &left[l], &right[r])? {
                merged.push(right[r].clone());
                r += 1;
            } else {
                merged.push(left[l].clone());
                l += 1;
            }
        }
        merged.extend_from_slice(&left[l..]);
        merged.extend_from_slice(&right[r..]);
        Ok(merged)
    }
}

/// Adds what a step has given for a tuple.
fn extend(step: &Step, tuple: &Tuple, values: Value, result: &mut Vec<Tuple>) {
    if let Value::Tuples(inner) = values {
        for other in inner.iter() {
            let mut bindings = tuple.bindings.clone();
            bindings.extend_from_slice(&other.bindings);
            result.push(Tuple {
                value: other.value.clone(),
                bindings,
            });
        }
        return;
    }
    if values.is_undefined() {
        return;
    }
    for (index, value) in values.items().iter().enumerate() {
        let mut bindings = tuple.bindings.clone();
        let mut bind = |name: &Arc<str>, value: Value| {
            bindings.retain(|(bound, _)| bound != name);
            bindings.push((Arc::clone(name), value));
        };
        let value = match &step.focus {
            Some(name) => {
                bind(name, value.clone());
                tuple.value.clone()
            }
            None => value.clone(),
        };
        if let Some(name) = &step.index {
            bind(name, Value::Number(index as f64));
        }
        for name in &step.ancestors {
            bind(name, tuple.value.clone());
        }
        result.push(Tuple { value, bindings });
    }
}

/// The members of a group as one: their values, and what each variable has been.
fn merge(members: &[&Tuple]) -> (Value, Vec<(Arc<str>, Value)>) {
    if let [single] = members {
        return (single.value.clone(), single.bindings.clone());
    }
    let mut context = Value::Undefined;
    let mut bindings: Vec<(Arc<str>, Value)> = Vec::new();
    for member in members {
        context = append(context, member.value.clone());
        for (name, value) in &member.bindings {
            match bindings.iter_mut().find(|(bound, _)| bound == name) {
                Some((_, all)) => {
                    let before = std::mem::replace(all, Value::Undefined);
                    *all = append(before, value.clone());
                }
                None => bindings.push((Arc::clone(name), value.clone())),
            }
        }
    }
    (context, bindings)
}

/// The index that a number means: from the end if negative.
fn position(number: f64, count: usize) -> Option<usize> {
    let index = number.floor();
    let index = if index < 0.0 {
        index + count as f64
    } else {
        index
    };
    (index >= 0.0 && index < count as f64).then_some(index as usize)
}

/// What an array written out as a step gives is not flattened.
fn literal(step: &Step, value: Value) -> Value {
    match value {
        Value::Array(array) if step.literal && matches!(step.node.kind, Kind::Array(_)) => {
            let mut array = Rc::unwrap_or_clone(array);
            array.literal = true;
            Value::array(array)
        }
        other => other,
    }
}

/// A path's result that stays an array, even of one value.
fn keep(value: Value) -> Value {
    match value {
        Value::Array(array) => {
            if array.literal && !array.sequence {
                let mut outer = Array::sequence(vec![Value::Array(array)]);
                outer.keep = true;
                return Value::array(outer);
            }
            let mut array = Rc::unwrap_or_clone(array);
            array.keep = true;
            Value::array(array)
        }
        other => other,
    }
}

fn flatten(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Array(array) => array.items.iter().for_each(|item| flatten(item, found)),
        single => found.push(single.clone()),
    }
}

fn descend(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Undefined => {}
        Value::Array(array) => array.items.iter().for_each(|item| descend(item, found)),
        Value::Object(object) => {
            found.push(value.clone());
            object.iter().for_each(|(_, value)| descend(value, found));
        }
        single => found.push(single.clone()),
    }
}
