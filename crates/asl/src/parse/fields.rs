//! Reading an object's fields, with what is wrong with each.

use serde_json::{Map, Value};

use super::Builder;
use super::place::Place;
use crate::diagnostic::{code, nearest};

/// An object and its place.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) map: &'a Map<String, Value>,
    pub(super) place: &'a Place<'a>,
}

impl<'a> Fields<'a> {
    pub(super) fn at<'b>(&'b self, key: &'b str) -> Place<'b> {
        self.place.key(key)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }
}

impl Builder {
    pub(super) fn object<'a>(
        &mut self,
        value: &'a Value,
        place: &'a Place<'a>,
    ) -> Option<Fields<'a>> {
        match value {
            Value::Object(map) => Some(Fields { map, place }),
            _ => {
                self.error(code::SCHEMA, place, "an object is expected");
                None
            }
        }
    }

    /// Reports fields that the object can't have.
    pub(super) fn only(&mut self, fields: &Fields<'_>, known: &[&str], owner: &str) {
        for key in fields.map.keys() {
            if !known.contains(&key.as_str()) {
                let message = format!("{owner} has no field '{key}'");
                let nearest = nearest(key, known.iter().copied());
                self.suggest(code::SCHEMA, &fields.at(key), message, nearest);
            }
        }
    }

    pub(super) fn missing(&mut self, fields: &Fields<'_>, name: &str) {
        let message = format!("the field '{name}' is missing");
        self.error(code::SCHEMA, fields.place, message);
    }

    pub(super) fn string<'a>(&mut self, fields: &Fields<'a>, name: &str) -> Option<&'a str> {
        match fields.map.get(name)? {
            Value::String(text) => Some(text),
            _ => {
                self.error(code::SCHEMA, &fields.at(name), "a text is expected");
                None
            }
        }
    }

    pub(super) fn required_string<'a>(
        &mut self,
        fields: &Fields<'a>,
        name: &str,
    ) -> Option<&'a str> {
        if !fields.has(name) {
            self.missing(fields, name);
        }
        self.string(fields, name)
    }

    /// A number within limits.
    pub(super) fn number(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        least: f64,
        most: f64,
        is_whole: bool,
    ) -> Option<f64> {
        let value = fields.map.get(name)?;
        let number = value.as_f64().filter(|number| {
            (least..=most).contains(number) && (!is_whole || number.fract() == 0.0)
        });
        if number.is_none() {
            let kind = if is_whole {
                "a whole number"
            } else {
                "a number"
            };
            let range = if most < f64::MAX {
                format!("from {least} to {most}")
            } else {
                format!("of at least {least}")
            };
            self.error(
                code::SCHEMA,
                &fields.at(name),
                format!("{kind} {range} is expected"),
            );
        }
        number
    }

    pub(super) fn list<'a>(&mut self, fields: &Fields<'a>, name: &str) -> Option<&'a Vec<Value>> {
        match fields.map.get(name)? {
            Value::Array(values) => Some(values),
            _ => {
                self.error(code::SCHEMA, &fields.at(name), "an array is expected");
                None
            }
        }
    }

    /// Reports fields of which only one may be given; gives how many there are.
    pub(super) fn exclusive(&mut self, fields: &Fields<'_>, names: &[&str]) -> usize {
        let given: Vec<_> = names.iter().filter(|name| fields.has(name)).collect();
        if let [_, second, ..] = given.as_slice() {
            let message = format!("only one of {} may be given", names.join(", "));
            self.error(code::SCHEMA, &fields.at(second), message);
        }
        given.len()
    }
}
