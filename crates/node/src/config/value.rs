//! Values as files and variables have them, and what they can be read as.
//!
//! As lenient as the original where nothing is lost: `"4096"` is a number, `4096` is a text, `1` is
//! true. Durations may also have a unit (`500ms`), sizes too (`16MiB`).

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value that isn't a section.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    /// Written and left empty: the default.
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    /// For keys that take several values with commas: written so, if that can be told apart.
    List(Option<String>),
}

/// A file's content.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tree {
    Scalar(Scalar),
    /// In the order of the file; names may repeat.
    Section(Vec<(String, Tree)>),
}

impl Scalar {
    pub(super) fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Integer(0) => Some(false),
            Self::Integer(1) => Some(true),
            Self::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "t" => Some(true),
                "false" | "0" | "f" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    pub(super) fn as_integer(&self) -> Option<u64> {
        match self {
            Self::Integer(value) => u64::try_from(*value).ok(),
            // Some editors write 1024.0.
            Self::Float(value) if value.fract() == 0.0 && (0.0..=9e15).contains(value) => {
                Some(*value as u64)
            }
            Self::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    pub(super) fn as_number(&self) -> Option<f64> {
        let number = match self {
            Self::Integer(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            Self::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.filter(|number| number.is_finite())
    }

    pub(super) fn as_text(&self) -> Option<String> {
        match self {
            Self::Bool(value) => Some(value.to_string()),
            Self::Integer(value) => Some(value.to_string()),
            Self::Float(value) => Some(value.to_string()),
            Self::Text(text) => Some(text.clone()),
            Self::Null | Self::List(_) => None,
        }
    }

    /// Several values, with commas.
    pub(super) fn as_texts(&self) -> Option<String> {
        match self {
            Self::List(texts) => texts.clone(),
            other => other.as_text(),
        }
    }

    pub(super) fn as_duration(&self) -> Option<Duration> {
        const UNITS: [(&str, f64); 5] = [
            ("ms", 1e-3),
            ("s", 1.0),
            ("m", 60.0),
            ("h", 3600.0),
            ("d", 86400.0),
        ];
        let seconds = match self {
            Self::Text(text) => with_unit(text, &UNITS)?,
            other => other.as_number()?,
        };
        Duration::try_from_secs_f64(seconds).ok()
    }

    pub(super) fn as_bytes(&self) -> Option<u64> {
        const UNITS: [(&str, f64); 7] = [
            ("KiB", 1024.0),
            ("MiB", 1048576.0),
            ("GiB", 1073741824.0),
            ("kB", 1e3),
            ("MB", 1e6),
            ("GB", 1e9),
            ("B", 1.0),
        ];
        match self {
            Self::Text(text) => Self::Float(with_unit(text, &UNITS)?.round()).as_integer(),
            other => other.as_integer(),
        }
    }
}

/// A number, alone or with one of the units behind it.
fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let number_end = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let number = number.trim().parse::<f64>().ok()?;
    match unit {
        "" => Some(number),
        unit => units
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, factor)| number * factor),
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => formatter.write_str("nothing"),
            Self::Bool(value) => write!(formatter, "{value}"),
            Self::Integer(value) => write!(formatter, "{value}"),
            Self::Float(value) => write!(formatter, "{value}"),
            Self::Text(text) => write!(formatter, "\"{}\"", text.escape_debug()),
            Self::List(_) => formatter.write_str("a list"),
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a setting or a section")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(Scalar::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(Scalar::Integer(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        let scalar = i64::try_from(value).map_or(Scalar::Float(value as f64), Scalar::Integer);
        Ok(Tree::Scalar(scalar))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(Scalar::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(Scalar::Text(value.to_string())))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Scalar::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Scalar::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut texts = Some(Vec::new());
        while let Some(element) = list.next_element()? {
            let text = match element {
                Tree::Scalar(scalar) => scalar.as_text().filter(|text| !text.contains(',')),
                Tree::Section(_) => None,
            };
            texts = texts.zip(text).map(|(mut texts, text)| {
                texts.push(text);
                texts
            });
        }
        Ok(Tree::Scalar(Scalar::List(
            texts.map(|texts| texts.join(",")),
        )))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut section = Vec::new();
        while let Some(entry) = map.next_entry()? {
            section.push(entry);
        }
        Ok(Tree::Section(section))
    }
}
