//! The tree that the parser makes and the evaluator walks.

use std::sync::Arc;

use super::regex::Pattern;
use super::signature::Signature;

/// One expression with what was written after it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) position: usize,
    /// `[...]` behind an expression that is not a path.
    pub(super) predicates: Vec<Node>,
    /// `{...}` behind it: group by.
    pub(super) group: Option<Vec<(Node, Node)>>,
    /// `[]` behind it: a single value stays an array.
    pub(super) keep_array: bool,
    /// Parent operators below this node whose step is not found yet. Used while parsing only.
    pub(super) seeking: Vec<Slot>,
}

/// A parent operator (`%`), numbered by the parser.
pub(super) type Slot = usize;

/// The variable in which the value that a parent operator means is kept.
pub(super) fn slot_name(slot: Slot) -> Arc<str> {
    format!("%{slot}").into()
}

#[derive(Debug)]
pub(super) enum Kind {
    String(Arc<str>),
    Number(f64),
    Bool(bool),
    Null,
    Regex(Arc<Pattern>),
    Name(Arc<str>),
    Variable(Arc<str>),
    Wildcard,
    Descendants,
    Parent(Slot),
    Path(Path),
    Binary(Operator, Box<(Node, Node)>),
    And(Box<(Node, Node)>),
    Or(Box<(Node, Node)>),
    Negate(Box<Node>),
    Array(Vec<Node>),
    Object(Vec<(Node, Node)>),
    Block(Vec<Node>),
    Condition(Box<(Node, Node, Option<Node>)>),
    Bind(Arc<str>, Box<Node>),
    Call(Box<Node>, Vec<Node>),
    /// An argument that is `None` is a `?`.
    Partial(Box<Node>, Vec<Option<Node>>),
    Lambda(Arc<Lambda>),
    Apply(Box<(Node, Node)>),
    Transform(Arc<Transform>),
    /// `^(...)`: only as a step of a path.
    Sort(Vec<Term>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Concatenate,
    In,
    Range,
}

#[derive(Debug, Default)]
pub(super) struct Path {
    pub(super) steps: Vec<Step>,
    pub(super) keep_array: bool,
    /// Whoever contains this path needs the variables bound in it, not only its values.
    pub(super) tuple: bool,
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) node: Node,
    pub(super) stages: Vec<Stage>,
    /// `@$name`.
    pub(super) focus: Option<Arc<str>>,
    /// `#$name`.
    pub(super) index: Option<Arc<str>>,
    /// Parent operators that mean what this step is applied to.
    pub(super) ancestors: Vec<Arc<str>>,
    pub(super) tuple: bool,
    /// An array written out as first or last step: its arrays are not flattened.
    pub(super) literal: bool,
}

#[derive(Debug)]
pub(super) enum Stage {
    Filter(Node),
    Index(Arc<str>),
}

#[derive(Debug)]
pub(super) struct Term {
    pub(super) node: Node,
    pub(super) descending: bool,
}

#[derive(Debug)]
pub(super) struct Lambda {
    pub(super) parameters: Vec<Arc<str>>,
    pub(super) signature: Option<Signature>,
    pub(super) body: Node,
}

#[derive(Debug)]
pub(super) struct Transform {
    pub(super) pattern: Node,
    pub(super) update: Node,
    pub(super) delete: Option<Node>,
}

impl Node {
    pub(super) fn new(kind: Kind, position: usize) -> Node {
        Node {
            kind,
            position,
            predicates: Vec::new(),
            group: None,
            keep_array: false,
            seeking: Vec::new(),
        }
    }

    /// Whether nothing was written after it.
    pub(super) fn is_plain(&self) -> bool {
        self.predicates.is_empty() && self.group.is_none()
    }

    /// The name, if this is nothing but a name.
    pub(super) fn as_name(&self) -> Option<&Arc<str>> {
        let Kind::Path(path) = &self.kind else {
            return None;
        };
        match path.steps.as_slice() {
            [step] if step.stages.is_empty() && !step.tuple => match &step.node.kind {
                Kind::Name(name) => Some(name),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Step {
    pub(super) fn new(node: Node) -> Step {
        Step {
            node,
            stages: Vec::new(),
            focus: None,
            index: None,
            ancestors: Vec::new(),
            tuple: false,
            literal: false,
        }
    }
}
