//! Reference paths: where a result is put.

use serde_json::{Map, Value};

use super::{Malformed, Path, Root, Segment};

/// A path of keys and indices, which names one place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReferencePath {
    pub(crate) text: String,
    segments: Vec<Segment>,
}

impl ReferencePath {
    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        let path = Path::parse(text)?;
        let is_plain = |segment: &Segment| matches!(segment, Segment::Key(_) | Segment::Index(0..));
        if path.root != Root::Input {
            return Err(Malformed::new("a reference path starts with '$'"));
        }
        if !path.segments.iter().all(is_plain) {
            return Err(Malformed::new(
                "a reference path names a single place: keys and indices only",
            ));
        }
        Ok(Self {
            text: path.text,
            segments: path.segments,
        })
    }

    /// Whether the place is the whole document.
    pub(crate) fn is_whole(&self) -> bool {
        self.segments.is_empty()
    }

    /// Puts a value in its place; objects on the way are made. False if the document has another
    /// shape.
    #[must_use]
    pub(crate) fn put(&self, document: &mut Value, value: Value) -> bool {
        let mut place = document;
        for segment in &self.segments {
            let next = match (segment, place) {
                (Segment::Key(key), Value::Object(map)) => map
                    .entry(key.as_str())
                    .or_insert_with(|| Value::Object(Map::new())),
                (Segment::Index(index), Value::Array(values)) => {
                    let index = usize::try_from(*index).ok();
                    let Some(found) = index.and_then(|index| values.get_mut(index)) else {
                        return false;
                    };
                    found
                }
                _ => return false,
            };
            place = next;
        }
        *place = value;
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn put(path: &str, mut document: Value) -> Option<Value> {
        let path = ReferencePath::parse(path).unwrap();
        path.put(&mut document, json!(9)).then_some(document)
    }

    #[test]
    fn values_are_put_where_the_path_says() {
        for (path, document, expected) in [
            ("$", json!([1]), Some(json!(9))),
            ("$.a", json!({}), Some(json!({"a": 9}))),
            (
                "$.a.b.c",
                json!({"x": 1}),
                Some(json!({"x": 1, "a": {"b": {"c": 9}}})),
            ),
            ("$.a[1]", json!({"a": [1, 2]}), Some(json!({"a": [1, 9]}))),
            ("$.a[5]", json!({"a": [1, 2]}), None),
            ("$.a.b", json!({"a": 1}), None),
            ("$.a", json!("text"), None),
        ] {
            assert_eq!(put(path, document), expected, "{path}");
        }
    }

    #[test]
    fn paths_of_many_places_are_refused() {
        for text in [
            "$.a[*]",
            "$..a",
            "$.a[1:2]",
            "$.a[?(@.b)]",
            "$$.a",
            "$x",
            "$.a.length()",
        ] {
            assert!(ReferencePath::parse(text).is_err(), "{text}");
        }
    }
}
