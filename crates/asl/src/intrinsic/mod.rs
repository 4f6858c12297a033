//! Intrinsic functions: `States.Format('Hello {}', $.name)`.

mod functions;
mod parse;

use serde_json::Value;

use crate::failure::{Failure, Fault};
use crate::path::{Malformed, Path};
use crate::template::View;

/// Calls may stand in calls up to this depth.
const DEPTH_MAX: usize = 10;

/// A parsed call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) function: Function,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) text: String,
}

/// What a call is given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Argument {
    Literal(Value),
    /// A text in quotes; braces escaped in it are not places of `States.Format`.
    Text(Vec<Piece>),
    Path(Path),
    Call(Call),
}

/// Part of a text in quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    /// `{}`
    Place,
}

macro_rules! functions {
    ($($name:ident: $least:literal..=$most:expr),* $(,)?) => {
        /// The functions there are.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(clippy::upper_case_acronyms, reason = "the language writes it so")]
        pub(crate) enum Function { $($name),* }

        impl Function {
            /// All names, with `States.`.
            pub(crate) const NAMES: &'static [&'static str] =
                &[$(concat!("States.", stringify!($name))),*];

            fn named(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }

            /// How many arguments it takes.
            fn arity(self) -> std::ops::RangeInclusive<usize> {
                match self { $(Self::$name => $least..=$most),* }
            }
        }
    };
}

functions! {
    Format: 1..=usize::MAX,
    StringToJson: 1..=1,
    JsonToString: 1..=1,
    Array: 0..=usize::MAX,
    ArrayPartition: 2..=2,
    ArrayContains: 2..=2,
    ArrayRange: 3..=3,
    ArrayGetItem: 2..=2,
    ArrayLength: 1..=1,
    ArrayUnique: 1..=1,
    Base64Encode: 1..=1,
    Base64Decode: 1..=1,
    Hash: 2..=2,
    JsonMerge: 3..=3,
    MathRandom: 2..=3,
    MathAdd: 2..=2,
    StringSplit: 2..=2,
    UUID: 0..=0,
}

impl Call {
    /// Whether a text in a field ending in `.$` is meant as a call.
    pub(crate) fn looks_like(text: &str) -> bool {
        text.starts_with("States.")
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        parse::call(text)
    }

    pub(crate) fn evaluate(&self, view: &mut View<'_>, field: &str) -> Result<Value, Failure> {
        let mut values = Vec::with_capacity(self.arguments.len());
        for argument in &self.arguments {
            values.push(match argument {
                Argument::Literal(value) => value.clone(),
                Argument::Text(pieces) => Value::String(Piece::joined(pieces)),
                Argument::Path(path) => view.path(path, field)?.into_owned(),
                Argument::Call(call) => call.evaluate(view, field)?,
            });
        }
        let pieces = match self.arguments.first() {
            Some(Argument::Text(pieces)) => Some(pieces.as_slice()),
            _ => None,
        };
        functions::apply(self.function, pieces, &values, view.random).map_err(|message| {
            let text = &self.text;
            let cause = format!("The function '{text}' had the following error: {message}");
            Failure::new(Fault::Intrinsic, cause)
        })
    }
}

impl Piece {
    fn joined(pieces: &[Self]) -> String {
        let texts = pieces.iter().map(|piece| match piece {
            Self::Text(text) => text.as_str(),
            Self::Place => "{}",
        });
        texts.collect()
    }

    /// A text that comes from data: nothing is escaped in it.
    fn of(text: &str) -> Vec<Self> {
        let mut pieces = Vec::new();
        for (at, part) in text.split("{}").enumerate() {
            if at > 0 {
                pieces.push(Self::Place);
            }
            pieces.push(Self::Text(part.to_owned()));
        }
        pieces
    }
}
