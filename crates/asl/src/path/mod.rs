//! JSONPath as Amazon States Language uses it: parsed once, evaluated many times.
//!
//! Semantics are those of the Jayway library that AWS uses: a *definite* path (which can select one
//! node at most) that finds nothing is an error, any other gives an array. That is why no RFC 9535
//! library fits.

mod evaluate;
mod filter;
mod parse;
mod reference;

pub(crate) use reference::ReferencePath;

use filter::Predicate;

/// Where a path begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Root {
    /// `$`: the state's input, or what the field applies to.
    Input,
    /// `$$`: the context object.
    Context,
    /// `$name`: a variable.
    Variable(String),
}

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Path {
    pub(crate) root: Root,
    pub(crate) segments: Vec<Segment>,
    pub(crate) text: String,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Segment {
    Key(String),
    Keys(Vec<String>),
    Index(i64),
    Indices(Vec<i64>),
    Slice {
        from: Option<i64>,
        to: Option<i64>,
        step: i64,
    },
    All,
    Filter(Predicate),
    /// `..` before the segment inside.
    Descend(Box<Segment>),
    /// `.length()` and its like, always last.
    Call(Call),
}

/// A function at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Length,
    Min,
    Max,
    Avg,
    Sum,
    Keys,
    First,
    Last,
}

/// Why a text is not a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) message: String,
}

impl Malformed {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}

impl Path {
    /// Parses a path that starts with `$`.
    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        parse::path(text)
    }

    /// `$` itself.
    pub(crate) fn is_whole_input(&self) -> bool {
        self.root == Root::Input && self.segments.is_empty()
    }

    /// Whether it can select one node at most.
    pub(crate) fn is_definite(&self) -> bool {
        let last = self.segments.len().saturating_sub(1);
        self.segments
            .iter()
            .enumerate()
            .all(|(at, segment)| segment.is_definite(at == last))
    }
}

impl Segment {
    fn is_definite(&self, is_last: bool) -> bool {
        match self {
            Self::Key(_) | Self::Index(_) | Self::Call(_) => true,
            // Several keys at the end make one object.
            Self::Keys(_) => is_last,
            _ => false,
        }
    }
}
