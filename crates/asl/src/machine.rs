//! A parsed state machine: everything compiled, every name resolved.

use crate::choice::Rule;
use crate::path::{Path, ReferencePath};
use crate::template::{Data, Template};

/// A valid state machine.
#[derive(Debug)]
pub struct Machine {
    /// All states of all scopes.
    pub(crate) states: Vec<State>,
    /// The machine itself first, then branches and processors.
    pub(crate) scopes: Vec<Scope>,
    /// Longest run of an execution, in seconds.
    pub(crate) timeout_seconds: Option<u64>,
}

/// States that can reach each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope {
    pub(crate) start: usize,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) is_jsonata: bool,
    pub(crate) input_path: Source,
    pub(crate) output_path: Source,
    /// `Parameters` or `Arguments`.
    pub(crate) parameters: Option<Template>,
    pub(crate) result_selector: Option<Template>,
    pub(crate) result_path: Target,
    /// `Output` of JSONata.
    pub(crate) output: Option<Template>,
    pub(crate) assign: Vec<(String, Template)>,
    pub(crate) retriers: Vec<Retrier>,
    pub(crate) catchers: Vec<Catcher>,
    pub(crate) next: Next,
    pub(crate) kind: Kind,
}

/// `InputPath` and `OutputPath`.
#[derive(Debug)]
pub(crate) enum Source {
    Whole,
    /// Null: an empty object.
    Nothing,
    Path(Path),
}

/// `ResultPath`.
#[derive(Debug)]
pub(crate) enum Target {
    Whole,
    /// Null: the result is dropped.
    Nothing,
    Path(ReferencePath),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    State(usize),
    End,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Pass {
        result: Option<Data>,
    },
    Task(Task),
    Choice {
        rules: Vec<Rule>,
        default: Option<usize>,
    },
    Wait(Wait),
    Succeed,
    Fail {
        error: Option<Template>,
        cause: Option<Template>,
    },
    Parallel {
        branches: Vec<usize>,
    },
    Map(Box<Map>),
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) resource: String,
    pub(crate) timeout: Option<Template>,
    pub(crate) heartbeat: Option<Template>,
    pub(crate) credentials: Option<Template>,
    /// Whether it says nothing of its input and output.
    pub(crate) is_plain: bool,
}

#[derive(Debug)]
pub(crate) enum Wait {
    Seconds(Template),
    Timestamp(Template),
}

#[derive(Debug)]
pub(crate) struct Map {
    pub(crate) processor: usize,
    /// `ItemsPath` or `Items`.
    pub(crate) items: Option<Template>,
    pub(crate) selector: Option<Template>,
    pub(crate) concurrency_max: Option<Template>,
    pub(crate) distributed: Option<Distributed>,
}

/// What only a distributed Map has.
#[derive(Debug, Default)]
pub(crate) struct Distributed {
    pub(crate) tolerated_count: Option<Template>,
    pub(crate) tolerated_percentage: Option<Template>,
    pub(crate) batcher: Option<Batcher>,
    pub(crate) reader: Option<Reader>,
    pub(crate) writer: Option<Writer>,
}

#[derive(Debug)]
pub(crate) struct Batcher {
    pub(crate) input: Option<Template>,
    pub(crate) items_max: Option<Template>,
    pub(crate) bytes_max: Option<Template>,
}

impl Map {
    /// Whether its results tell everything of the executions of its iterations.
    pub(crate) fn tells_records(&self) -> bool {
        let writer = self
            .distributed
            .as_ref()
            .and_then(|one| one.writer.as_ref());
        writer.is_some_and(|writer| writer.transformation == Transformation::Records)
    }
}

#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) resource: String,
    pub(crate) arguments: Option<Template>,
    pub(crate) format: Format,
    pub(crate) items_max: Option<Template>,
    pub(crate) pointer: Option<String>,
    /// `LOAD_AND_FLATTEN`: not the objects that are listed are the items, but what is in them.
    pub(crate) loads: bool,
}

/// How read items are written.
#[derive(Debug)]
pub(crate) enum Format {
    Json,
    JsonLines,
    Csv {
        delimiter: char,
        /// Given, or else in the first row.
        headers: Option<Vec<String>>,
    },
    /// A manifest of S3's inventory: the reader gives what it lists, with a header.
    Inventory,
    /// The reader's answer is used as it is.
    Other,
}

#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) resource: Option<String>,
    pub(crate) arguments: Option<Template>,
    pub(crate) transformation: Transformation,
    /// `JSONL` rather than `JSON`.
    pub(crate) is_lines: bool,
}

/// What a distributed Map tells of its child executions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transformation {
    /// Everything: `NONE`.
    Records,
    /// Their outputs: `COMPACT`.
    Outputs,
    /// Their outputs, and of arrays their members: `FLATTEN`.
    Members,
}

#[derive(Debug)]
pub(crate) struct Retrier {
    pub(crate) errors: Vec<String>,
    pub(crate) interval_seconds: f64,
    pub(crate) attempts_max: u64,
    pub(crate) rate: f64,
    pub(crate) delay_max_seconds: Option<f64>,
    pub(crate) has_jitter: bool,
}

#[derive(Debug)]
pub(crate) struct Catcher {
    pub(crate) errors: Vec<String>,
    pub(crate) next: usize,
    pub(crate) result_path: Target,
    pub(crate) assign: Vec<(String, Template)>,
    pub(crate) output: Option<Template>,
}
