//! JSONata, the query and transformation language: version 2.0.6 of it, and the flavour of it that
//! AWS Step Functions speaks.
//!
//! Pure like the rest of the crate: the time and the state of the random generator come with the
//! [`Environment`], and equal environments give equal results. Expressions and data are taken to be
//! hostile: [`Limits`] bound depth, work and size, and regular expressions run in linear time.

mod evaluator;
mod functions;
mod json;
mod lexer;
mod number;
mod parser;
mod regex;
mod signature;
mod syntax;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use evaluator::Evaluator;
use syntax::Node;

/// Which language an expression is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavour {
    /// JSONata as its documentation has it: `$` and `$$` are the input document, and there is
    /// `$eval`.
    #[default]
    Plain,
    /// As in a state machine: no input document, so that `$`, `$$` and field names have no meaning
    /// at the top; no `$eval`; `$partition`, `$range`, `$hash`, `$uuid`, `$parse` and a seed for
    /// `$random`.
    States,
}

/// What an evaluation may use at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How deep evaluations may be nested; each call of a function that is not in tail position
    /// takes about four. Also how deep values may be nested.
    pub depth: u32,
    /// Steps of work, about as many as nodes of the expression are evaluated. Large values count
    /// by their size.
    pub steps: u64,
    /// Items of one array.
    pub sequence: usize,
    /// Bytes of one string, and of the result.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            depth: 4_000,
            steps: 10_000_000,
            sequence: 10_000_000,
            bytes: 16 << 20,
        }
    }
}

/// What an evaluation takes from the world.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The time, in milliseconds since 1970.
    pub now_ms: i64,
    /// State of the random generator; each use changes it.
    pub seed: u64,
    /// Which functions there are.
    pub flavour: Flavour,
    /// How much may be used.
    pub limits: Limits,
}

impl Environment {
    /// An environment with the default limits.
    pub fn new(flavour: Flavour, now_ms: i64, seed: u64) -> Environment {
        Environment {
            now_ms,
            seed,
            flavour,
            limits: Limits::default(),
        }
    }

    /// The next number of the generator (SplitMix64).
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number in `[0, 1)`.
    fn random_fraction(&mut self) -> f64 {
        (self.random() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Why an expression can't be compiled or evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    /// The reference implementation's code, such as `T2001`. Its own codes: `S0303` for a regular
    /// expression that can't run in linear time, `S0501` for what has no meaning in a state
    /// machine, `U1001` for every limit.
    pub code: String,
    /// What is wrong, for people.
    pub message: String,
    /// Where, in characters from the start of the expression: the end of the token in question.
    pub position: Option<usize>,
}

impl Error {
    fn new(code: &str, message: impl Into<String>) -> Error {
        Error {
            code: code.to_owned(),
            message: message.into(),
            position: None,
        }
    }

    /// Sets the position unless one is known, which is nearer to the cause.
    fn at(mut self, position: usize) -> Error {
        self.position.get_or_insert(position);
        self
    }
}

/// A compiled expression, cheap to clone.
#[derive(Clone)]
pub struct Expression {
    text: Arc<str>,
    root: Arc<Node>,
}

impl Expression {
    /// Compiles an expression of a state machine (without `{%` and `%}`).
    pub fn parse(text: &str) -> Result<Expression, Error> {
        Expression::parse_as(text, Flavour::States)
    }

    /// Compiles an expression of a flavour.
    pub fn parse_as(text: &str, flavour: Flavour) -> Result<Expression, Error> {
        let root = parser::parse(text, flavour)?;
        Ok(Expression {
            text: text.into(),
            root: Arc::new(root),
        })
    }

    /// What was compiled.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The result, or `None` if it is undefined. Bindings are named without the `$`.
    pub fn evaluate(
        &self,
        bindings: &BTreeMap<String, serde_json::Value>,
        environment: &mut Environment,
    ) -> Result<Option<serde_json::Value>, Error> {
        self.evaluate_with_input(None, bindings, environment)
    }

    /// As `evaluate`, with an input document.
    pub fn evaluate_with_input(
        &self,
        input: Option<&serde_json::Value>,
        bindings: &BTreeMap<String, serde_json::Value>,
        environment: &mut Environment,
    ) -> Result<Option<serde_json::Value>, Error> {
        let bytes_max = environment.limits.bytes;
        let bindings = bindings
            .iter()
            .map(|(name, value)| (name.as_str().into(), json::read(value)))
            .collect();
        let mut evaluator = Evaluator::new(environment, bindings);
        let result = evaluator.run(&self.root, input.map(json::read))?;
        json::write(&result, bytes_max)
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Expression")
            .field(&self.text)
            .finish()
    }
}

/// Equal texts mean the same.
impl PartialEq for Expression {
    fn eq(&self, other: &Expression) -> bool {
        self.text == other.text
    }
}

/// Runs a step of a recursion, on more stack if what is left is little.
fn grow<R>(step: impl FnOnce() -> R) -> R {
    stacker::maybe_grow(128 << 10, 2 << 20, step)
}
