//! What a path selects.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

use super::{Call, Path, Segment};
use crate::number;

/// A definite path that selects nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PathError;

impl Path {
    /// The value selected in `root`.
    pub(crate) fn evaluate<'a>(&self, root: &'a Value) -> Result<Cow<'a, Value>, PathError> {
        // Nearly all paths are keys and indices: no list of nodes for them.
        let mut node = root;
        for segment in &self.segments {
            node = match segment {
                Segment::Key(key) => node.get(key.as_str()).ok_or(PathError)?,
                Segment::Index(index) => node
                    .as_array()
                    .and_then(|values| at(values, *index))
                    .ok_or(PathError)?,
                _ => {
                    let selected = select(&self.segments, root, root)?;
                    return selected.map(Cow::Owned).ok_or(PathError);
                }
            };
        }
        Ok(Cow::Borrowed(node))
    }
}

/// The value that segments select; none if they are definite and nothing is there.
pub(super) fn select(
    segments: &[Segment],
    from: &Value,
    root: &Value,
) -> Result<Option<Value>, PathError> {
    let (segments, call) = match segments {
        [before @ .., Segment::Call(call)] => (before, Some(*call)),
        _ => (segments, None),
    };
    let last = segments.len().saturating_sub(1);
    let is_definite = segments
        .iter()
        .enumerate()
        .all(|(at, segment)| segment.is_definite(at == last));
    let mut nodes: Vec<Cow<'_, Value>> = vec![Cow::Borrowed(from)];
    let mut definite_so_far = true;
    for (at, segment) in segments.iter().enumerate() {
        let mut found = Vec::new();
        for node in &nodes {
            let node: &Value = node;
            let count = found.len();
            let fits = children(segment, node, root, at == last, &mut found);
            // A missing member, or a wrong kind of node, before the path's end, is an error where
            // only one node was in question.
            let is_missing = at != last && found.len() == count && segment.is_definite(false);
            if definite_so_far && (!fits || (is_missing && matches!(segment, Segment::Key(_)))) {
                return Err(PathError);
            }
        }
        let found: Vec<Value> = found;
        nodes = found.into_iter().map(Cow::Owned).collect();
        definite_so_far &= segment.is_definite(at == last);
    }
    let mut values = nodes.into_iter().map(Cow::into_owned);
    let value = match is_definite {
        true => values.next(),
        false => Some(Value::Array(values.collect())),
    };
    match (call, value) {
        (None, value) => Ok(value),
        (Some(call), Some(value)) => call.apply(&value).map(Some),
        (Some(_), None) => Err(PathError),
    }
}

/// Adds what a segment selects under a node; false if the node is of the wrong kind.
fn children(
    segment: &Segment,
    node: &Value,
    root: &Value,
    is_last: bool,
    found: &mut Vec<Value>,
) -> bool {
    match (segment, node) {
        (Segment::Key(key), Value::Object(map)) => found.extend(map.get(key).cloned()),
        (Segment::Keys(keys), Value::Object(map)) => {
            let members = keys.iter().filter_map(|key| Some((key, map.get(key)?)));
            if is_last {
                let object: Map<_, _> = members
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                found.push(Value::Object(object));
            } else {
                found.extend(members.map(|(_, value)| value.clone()));
            }
        }
        (Segment::Index(index), Value::Array(values)) => found.extend(at(values, *index).cloned()),
        (Segment::Indices(indices), Value::Array(values)) => {
            let selected = indices.iter().filter_map(|index| at(values, *index));
            found.extend(selected.cloned());
        }
        (Segment::Slice { from, to, step }, Value::Array(values)) => {
            slice(values, *from, *to, *step, found);
        }
        (Segment::All, Value::Array(values)) => found.extend(values.iter().cloned()),
        (Segment::All, Value::Object(map)) => found.extend(map.values().cloned()),
        (Segment::All, _) => {}
        (Segment::Filter(predicate), Value::Array(values)) => {
            let kept = values.iter().filter(|value| predicate.holds(value, root));
            found.extend(kept.cloned());
        }
        (Segment::Filter(predicate), Value::Object(_)) => {
            if predicate.holds(node, root) {
                found.push(node.clone());
            }
        }
        (Segment::Descend(inner), _) => descend(inner, node, root, found),
        _ => return false,
    }
    true
}

/// The node and all below it, parents first. Values are as deep as the reader allows, at most.
fn descend(inner: &Segment, node: &Value, root: &Value, found: &mut Vec<Value>) {
    match (inner, node) {
        // Filters apply to the members of objects through the array that holds them.
        (Segment::Filter(_), Value::Object(_)) => {}
        _ => {
            children(inner, node, root, false, found);
        }
    }
    match node {
        Value::Array(values) => {
            for value in values {
                descend(inner, value, root, found);
            }
        }
        Value::Object(map) => {
            for value in map.values() {
                descend(inner, value, root, found);
            }
        }
        _ => {}
    }
}

fn at(values: &[Value], index: i64) -> Option<&Value> {
    let index = match index < 0 {
        true => i64::try_from(values.len()).ok()? + index,
        false => index,
    };
    values.get(usize::try_from(index).ok()?)
}

fn slice(values: &[Value], from: Option<i64>, to: Option<i64>, step: i64, found: &mut Vec<Value>) {
    let length = i64::try_from(values.len()).unwrap_or(i64::MAX);
    let bound = |index: i64| {
        let index = if index < 0 {
            length.saturating_add(index)
        } else {
            index
        };
        index.clamp(0, length)
    };
    let (mut index, end) = match step > 0 {
        true => (from.map_or(0, bound), to.map_or(length, bound)),
        false => (
            from.map_or(length - 1, |from| bound(from).min(length - 1)),
            to.map_or(-1, bound),
        ),
    };
    while (step > 0 && index < end) || (step < 0 && index > end) {
        found.extend(
            usize::try_from(index)
                .ok()
                .and_then(|at| values.get(at))
                .cloned(),
        );
        index = index.saturating_add(step);
    }
}

impl Call {
    fn apply(self, value: &Value) -> Result<Value, PathError> {
        match (self, value) {
            (Self::Length, Value::Array(values)) => Ok(values.len().into()),
            (Self::Length, Value::Object(map)) => Ok(map.len().into()),
            (Self::Length, Value::String(text)) => Ok(text.chars().count().into()),
            (Self::Keys, Value::Object(map)) => Ok(map.keys().cloned().collect()),
            (Self::First, Value::Array(values)) => values.first().cloned().ok_or(PathError),
            (Self::Last, Value::Array(values)) => values.last().cloned().ok_or(PathError),
            (Self::Min | Self::Max | Self::Avg | Self::Sum, Value::Array(values)) => {
                self.aggregate(values)
            }
            _ => Err(PathError),
        }
    }

    fn aggregate(self, values: &[Value]) -> Result<Value, PathError> {
        let numbers: Vec<f64> = values.iter().filter_map(Value::as_f64).collect();
        let count = numbers.len() as f64;
        let sum: f64 = numbers.iter().sum();
        let folded = match self {
            Self::Min => numbers.into_iter().reduce(f64::min),
            Self::Max => numbers.into_iter().reduce(f64::max),
            Self::Avg => (count > 0.0).then_some(sum / count),
            _ => Some(sum),
        };
        // These are doubles in the original, whatever they were made of.
        let folded = folded.and_then(Number::from_f64).ok_or(PathError)?;
        Ok(Value::Number(number::plain(folded)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn get(path: &str) -> Result<Value, PathError> {
        let root = json!({
            "a": {"b": [1, 2, 3, 4], "c d": "x"},
            "items": [{"n": 1, "t": "x"}, {"n": 2}, {"n": 3, "t": "y"}],
            "null": null,
        });
        let path = Path::parse(path).unwrap();
        path.evaluate(&root).map(Cow::into_owned)
    }

    #[test]
    fn definite_paths_select_one_node_or_fail() {
        for (path, expected) in [
            ("$.a.b[0]", Ok(json!(1))),
            ("$.a.b[-1]", Ok(json!(4))),
            ("$['a']['c d']", Ok(json!("x"))),
            ("$.a['c d']", Ok(json!("x"))),
            ("$.null", Ok(json!(null))),
            ("$.a.b[9]", Err(PathError)),
            ("$.nothing", Err(PathError)),
            ("$.null.x", Err(PathError)),
            ("$.a.b.length()", Ok(json!(4))),
            ("$['null','nothing']", Ok(json!({"null": null}))),
        ] {
            assert_eq!(get(path), expected, "{path}");
        }
    }

    #[test]
    fn other_paths_select_arrays() {
        for (path, expected) in [
            ("$.a.b[*]", Ok(json!([1, 2, 3, 4]))),
            ("$.a.b[1:]", Ok(json!([2, 3, 4]))),
            ("$.a.b[:-1]", Ok(json!([1, 2, 3]))),
            ("$.a.b[-2:]", Ok(json!([3, 4]))),
            ("$.a.b[::2]", Ok(json!([1, 3]))),
            ("$.a.b[0,2]", Ok(json!([1, 3]))),
            ("$.items[*].t", Ok(json!(["x", "y"]))),
            ("$..t", Ok(json!(["x", "y"]))),
            ("$.items[?(@.n > 1)].n", Ok(json!([2, 3]))),
            ("$.items[?(@.t)].n", Ok(json!([1, 3]))),
            ("$.items[?(@.n == 9)]", Ok(json!([]))),
            ("$.items[?(@.t=='x' || @.n==2)].n", Ok(json!([1, 2]))),
            ("$.items[?(!(@.t))].n", Ok(json!([2]))),
            ("$.items[?(@.t in ['y'])].n", Ok(json!([3]))),
            ("$.items[?(@.t =~ /Y|z/i)].n", Ok(json!([3]))),
            ("$.items[?(@.t =~ /\\// || @.n == 2)].n", Ok(json!([2]))),
            ("$.nothing[*]", Err(PathError)),
            ("$.null[*].x", Ok(json!([]))),
            ("$..nothing", Ok(json!([]))),
        ] {
            assert_eq!(get(path), expected, "{path}");
        }
    }

    #[test]
    fn texts_that_are_no_paths_are_refused() {
        for text in [
            "",
            "a",
            "$.",
            "$[",
            "$[a]",
            "$.a[?(@.b",
            "$.a b",
            "$.a..",
            "$['a",
            "$.x.foo()",
        ] {
            assert!(Path::parse(text).is_err(), "{text}");
        }
        assert!(Path::parse(&format!("$[?{}", "(".repeat(10_000))).is_err());
    }
}
