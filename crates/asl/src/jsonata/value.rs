//! Values while an expression is evaluated: JSON, undefined, functions, and sequences, which are
//! arrays that dissolve when they hold one value or none.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::functions::Builtin;
use super::regex::Pattern;
use super::syntax::{Lambda, Transform};

#[derive(Clone, Debug)]
pub(super) enum Value {
    Undefined,
    Null,
    Bool(bool),
    Number(f64),
    String(Arc<str>),
    Array(Rc<Array>),
    Object(Rc<Object>),
    Function(Rc<Function>),
    /// Values with the variables bound on the way to them: between the steps of a path only.
    Tuples(Rc<Vec<Tuple>>),
}

/// A value and the variables that a path has bound for it.
#[derive(Clone, Debug)]
pub(super) struct Tuple {
    pub(super) value: Value,
    pub(super) bindings: Vec<(Arc<str>, Value)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Array {
    pub(super) items: Vec<Value>,
    /// Dissolves when it holds one value or none.
    pub(super) sequence: bool,
    /// A sequence that doesn't dissolve when it holds one value.
    pub(super) keep: bool,
    /// Written out in the expression: not flattened into a path's result.
    pub(super) literal: bool,
    /// Around an input document that is an array.
    pub(super) wrapper: bool,
    depth: u32,
    functions: bool,
}

/// Keys in the order of their arrival.
#[derive(Clone, Debug, Default)]
pub(super) struct Object {
    entries: Vec<(Arc<str>, Value)>,
    /// Where keys are; only when there are many.
    index: BTreeMap<Arc<str>, usize>,
    depth: u32,
    functions: bool,
}

#[derive(Debug)]
pub(super) enum Function {
    Lambda {
        lambda: Arc<Lambda>,
        input: Value,
        frame: Rc<Frame>,
    },
    Builtin(&'static Builtin),
    Pattern(Arc<Pattern>),
    /// Looks for the next match of a pattern, from a byte on.
    Next {
        pattern: Arc<Pattern>,
        text: Arc<str>,
        from: usize,
    },
    Partial {
        function: Rc<Function>,
        arguments: Vec<Option<Value>>,
        depth: u32,
    },
    /// The first one's result is the second one's argument.
    Composed {
        first: Rc<Function>,
        second: Rc<Function>,
        depth: u32,
    },
    Transform {
        transform: Arc<Transform>,
        frame: Rc<Frame>,
    },
}

/// Variables of a block, a call or a tuple.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) bindings: RefCell<Vec<(Arc<str>, Value)>>,
    parent: Option<Rc<Frame>>,
}

impl Frame {
    pub(super) fn new(parent: &Rc<Frame>, bindings: Vec<(Arc<str>, Value)>) -> Rc<Frame> {
        Rc::new(Frame {
            bindings: RefCell::new(bindings),
            parent: Some(Rc::clone(parent)),
        })
    }

    pub(super) fn lookup(&self, name: &str) -> Option<Value> {
        let mut frame = self;
        loop {
            let bindings = frame.bindings.borrow();
            if let Some((_, value)) = bindings.iter().rev().find(|(bound, _)| &**bound == name) {
                return Some(value.clone());
            }
            drop(bindings);
            frame = frame.parent.as_deref()?;
        }
    }
}

impl Value {
    pub(super) fn array(array: Array) -> Value {
        Value::Array(Rc::new(array))
    }

    pub(super) fn list(items: Vec<Value>) -> Value {
        Value::array(Array::plain(items))
    }

    pub(super) fn sequence(items: Vec<Value>) -> Value {
        Value::array(Array::sequence(items))
    }

    pub(super) fn object(object: Object) -> Value {
        Value::Object(Rc::new(object))
    }

    pub(super) fn function(function: Function) -> Value {
        Value::Function(Rc::new(function))
    }

    pub(super) fn string(text: impl Into<Arc<str>>) -> Value {
        Value::String(text.into())
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined)
    }

    /// The items of an array, or the value as the only one.
    pub(super) fn items(&self) -> &[Value] {
        match self {
            Value::Array(array) => &array.items,
            single => std::slice::from_ref(single),
        }
    }

    /// How deep it is nested.
    pub(super) fn depth(&self) -> u32 {
        match self {
            Value::Array(array) => array.depth,
            Value::Object(object) => object.depth,
            Value::Function(function) => function.depth(),
            _ => 0,
        }
    }

    /// Whether it is or contains a function, which may hold on to the frame it is bound in.
    pub(super) fn has_function(&self) -> bool {
        match self {
            Value::Array(array) => array.functions,
            Value::Object(object) => object.functions,
            Value::Function(_) => true,
            _ => false,
        }
    }

    /// Its truth: empty and zero things are false, and functions, and arrays without a true item.
    pub(super) fn truth(&self) -> bool {
        match self {
            Value::Undefined | Value::Null | Value::Function(_) | Value::Tuples(_) => false,
            Value::Bool(value) => *value,
            Value::Number(number) => *number != 0.0 && !number.is_nan(),
            Value::String(text) => !text.is_empty(),
            Value::Array(array) => array.items.iter().any(Value::truth),
            Value::Object(object) => !object.is_empty(),
        }
    }

    /// Its type's name in messages and for `$type`.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined | Value::Tuples(_) => "undefined",
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
            Value::Function(_) => "function",
        }
    }
}

/// Deep equality; the order of keys doesn't matter, functions equal themselves only.
impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Undefined, Value::Undefined) | (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Number(a), Value::Number(b)) => a == b,
            (Value::String(a), Value::String(b)) => a == b,
            (Value::Array(a), Value::Array(b)) => a.items == b.items,
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .all(|(key, value)| b.find(key).is_some_and(|other| other == value))
            }
            (Value::Function(a), Value::Function(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Array {
    pub(super) fn plain(items: Vec<Value>) -> Array {
        let inner = items.iter().map(Value::depth).max().unwrap_or(0);
        Array {
            depth: inner + 1,
            functions: items.iter().any(Value::has_function),
            items,
            ..Array::default()
        }
    }

    pub(super) fn sequence(items: Vec<Value>) -> Array {
        Array {
            sequence: true,
            ..Array::plain(items)
        }
    }

    /// Around an input document that is an array: one value to the first step, not many.
    pub(super) fn wrapper(document: Value) -> Array {
        Array {
            wrapper: true,
            ..Array::sequence(vec![document])
        }
    }
}

/// From this many keys on, an object is indexed.
const INDEXED: usize = 12;

impl Object {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Value)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    fn position(&self, key: &str) -> Option<usize> {
        if self.index.is_empty() {
            return self.entries.iter().position(|(found, _)| &**found == key);
        }
        self.index.get(key).copied()
    }

    pub(super) fn find(&self, key: &str) -> Option<&Value> {
        self.position(key).map(|position| &self.entries[position].1)
    }

    /// Sets a key, which keeps its place if it has one.
    pub(super) fn insert(&mut self, key: Arc<str>, value: Value) {
        self.depth = self.depth.max(value.depth() + 1);
        self.functions |= value.has_function();
        if let Some(position) = self.position(&key) {
            self.entries[position].1 = value;
            return;
        }
        if !self.index.is_empty() {
            self.index.insert(Arc::clone(&key), self.entries.len());
        }
        self.entries.push((key, value));
        if self.index.is_empty() && self.entries.len() == INDEXED {
            let keys = self.entries.iter().map(|(key, _)| Arc::clone(key));
            self.index = keys.zip(0..).collect();
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        if let Some(position) = self.position(key) {
            self.entries.remove(position);
            self.index.clear();
            if self.entries.len() >= INDEXED {
                let keys = self.entries.iter().map(|(key, _)| Arc::clone(key));
                self.index = keys.zip(0..).collect();
            }
        }
    }
}

impl FromIterator<(Arc<str>, Value)> for Object {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Value)>>(entries: I) -> Object {
        let mut object = Object::default();
        for (key, value) in entries {
            object.insert(key, value);
        }
        object
    }
}

impl Function {
    pub(super) fn depth(&self) -> u32 {
        match self {
            Function::Partial { depth, .. } | Function::Composed { depth, .. } => *depth,
            _ => 1,
        }
    }

    /// How many arguments it can use.
    pub(super) fn arity(&self) -> usize {
        match self {
            Function::Lambda { lambda, .. } => lambda.parameters.len(),
            Function::Builtin(builtin) => builtin.arity,
            Function::Pattern(_) => 2,
            Function::Next { .. } => 0,
            Function::Partial { arguments, .. } => arguments.iter().filter(|a| a.is_none()).count(),
            Function::Composed { .. } | Function::Transform { .. } => 1,
        }
    }
}

/// Joins two values as arrays; one that is undefined is left out.
pub(super) fn append(first: Value, second: Value) -> Value {
    if first.is_undefined() {
        return second;
    }
    if second.is_undefined() {
        return first;
    }
    let mut items = match first {
        Value::Array(array) => Rc::try_unwrap(array).map_or_else(|a| a.items.clone(), |a| a.items),
        single => vec![single],
    };
    match second {
        Value::Array(array) => items.extend_from_slice(&array.items),
        single => items.push(single),
    }
    Value::list(items)
}
