//! Walks the tree. Depth and work are counted here, so that every evaluation ends.

mod apply;
mod operators;
mod path;
mod transform;

use std::rc::Rc;
use std::sync::Arc;

pub(super) use operators::{compare, string};

use super::syntax::{Kind, Node};
use super::value::{Array, Frame, Function, Value};
use super::{Environment, Error, functions, grow};

pub(super) struct Evaluator<'e> {
    pub(super) environment: &'e mut Environment,
    steps_left: u64,
    depth: u32,
    root: Rc<Frame>,
    /// Where the call being made is written: its variables are those of `$eval`.
    pub(super) caller: Rc<Frame>,
    /// Frames that hold a function, which may hold the frame: taken apart at the end.
    holders: Vec<Rc<Frame>>,
}

impl Drop for Evaluator<'_> {
    fn drop(&mut self) {
        for frame in &self.holders {
            frame.bindings.take();
        }
    }
}

impl<'e> Evaluator<'e> {
    pub(super) fn new(
        environment: &'e mut Environment,
        bindings: Vec<(Arc<str>, Value)>,
    ) -> Evaluator<'e> {
        let root = Frame::new(&Rc::default(), bindings);
        Evaluator {
            steps_left: environment.limits.steps,
            environment,
            depth: 0,
            caller: Rc::clone(&root),
            root,
            holders: Vec::new(),
        }
    }

    pub(super) fn run(&mut self, node: &Node, input: Option<Value>) -> Result<Value, Error> {
        let input = match input {
            None => Value::Undefined,
            Some(array @ Value::Array(_)) => Value::array(Array::wrapper(array)),
            Some(single) => single,
        };
        self.root
            .bindings
            .borrow_mut()
            .push(("$".into(), input.clone()));
        let frame = Frame::new(&self.root, Vec::new());
        self.evaluate(node, &input, &frame)
    }

    /// Pays for work.
    pub(super) fn charge(&mut self, steps: usize) -> Result<(), Error> {
        match self.steps_left.checked_sub(steps as u64) {
            Some(left) => self.steps_left = left,
            None => {
                self.steps_left = 0;
                let message = "expression evaluation takes too long: check for an infinite loop";
                return Err(Error::new("U1001", message));
            }
        }
        Ok(())
    }

    /// Checks the size of an array to be made, and pays for it.
    pub(super) fn charge_items(&mut self, items: usize) -> Result<(), Error> {
        if items > self.environment.limits.sequence {
            let most = self.environment.limits.sequence;
            let message = format!("an array of {items} items is longer than the limit of {most}");
            return Err(Error::new("D2014", message));
        }
        self.charge(items / 8)
    }

    /// Checks the size of a string to be made, and pays for it.
    pub(super) fn charge_bytes(&mut self, bytes: usize) -> Result<(), Error> {
        if bytes > self.environment.limits.bytes {
            let most = self.environment.limits.bytes;
            let message = format!("a string of {bytes} bytes is longer than the limit of {most}");
            return Err(Error::new("U1001", message));
        }
        self.charge(bytes / 16)
    }

    /// Binds a variable in a frame.
    pub(super) fn bind(&mut self, frame: &Rc<Frame>, name: Arc<str>, value: Value) {
        if value.has_function() {
            self.holders.push(Rc::clone(frame));
        }
        let mut bindings = frame.bindings.borrow_mut();
        match bindings.iter_mut().find(|(bound, _)| *bound == name) {
            Some(binding) => binding.1 = value,
            None => bindings.push((name, value)),
        }
    }

    /// A frame with variables, whatever they are.
    pub(super) fn frame(
        &mut self,
        parent: &Rc<Frame>,
        bindings: Vec<(Arc<str>, Value)>,
    ) -> Rc<Frame> {
        let holds = bindings.iter().any(|(_, value)| value.has_function());
        let frame = Frame::new(parent, bindings);
        if holds {
            self.holders.push(Rc::clone(&frame));
        }
        frame
    }

    pub(super) fn lookup(&self, name: &str, frame: &Frame) -> Value {
        if let Some(value) = frame.lookup(name) {
            return value;
        }
        match functions::find(name, self.environment.flavour) {
            Some(builtin) => Value::function(Function::Builtin(builtin)),
            None => Value::Undefined,
        }
    }

    /// Goes one level deeper.
    fn deeper<R>(&mut self, step: impl FnOnce(&mut Self) -> Result<R, Error>) -> Result<R, Error> {
        self.charge(1)?;
        if self.depth >= self.environment.limits.depth {
            let message = "stack overflow: check for a recursion without end, or make the function tail-recursive";
            return Err(Error::new("U1001", message));
        }
        self.depth += 1;
        let result = grow(|| step(self));
        self.depth -= 1;
        result
    }

    pub(super) fn evaluate(
        &mut self,
        node: &Node,
        input: &Value,
        frame: &Rc<Frame>,
    ) -> Result<Value, Error> {
        self.deeper(|this| {
            let result = this.kind(node, input, frame)?;
            this.finish(node, result, frame)
        })
    }

    /// Filters and groups as is written after a node.
    fn finish(
        &mut self,
        node: &Node,
        mut result: Value,
        frame: &Rc<Frame>,
    ) -> Result<Value, Error> {
        for predicate in &node.predicates {
            result = self.filter(predicate, result, frame)?;
        }
        if let Some(pairs) = &node.group
            && !matches!(node.kind, Kind::Path(_))
        {
            result = self.group(pairs, result, frame)?;
        }
        if result.depth() > self.environment.limits.depth {
            return Err(Error::new("U1001", "a value is nested too deeply").at(node.position));
        }
        Ok(settle(result, node.keep_array))
    }

    fn kind(&mut self, node: &Node, input: &Value, frame: &Rc<Frame>) -> Result<Value, Error> {
        let position = node.position;
        match &node.kind {
            Kind::String(text) => Ok(Value::String(Arc::clone(text))),
            Kind::Number(number) => Ok(Value::Number(*number)),
            Kind::Bool(value) => Ok(Value::Bool(*value)),
            Kind::Null => Ok(Value::Null),
            Kind::Regex(pattern) => Ok(Value::function(Function::Pattern(Arc::clone(pattern)))),
            Kind::Name(name) => self.field(input, name),
            Kind::Variable(name) if name.is_empty() => Ok(match input {
                Value::Array(array) if array.wrapper => {
                    array.items.first().cloned().unwrap_or(Value::Undefined)
                }
                other => other.clone(),
            }),
            Kind::Variable(name) => Ok(self.lookup(name, frame)),
            Kind::Wildcard => self.wildcard(input),
            Kind::Descendants => self.descendants(input),
            Kind::Parent(slot) => Ok(frame
                .lookup(&super::syntax::slot_name(*slot))
                .unwrap_or(Value::Undefined)),
            Kind::Path(path) => self.path(path, node.group.as_deref(), input, frame),
            Kind::Binary(operator, sides) => {
                let left = self.evaluate(&sides.0, input, frame)?;
                let right = self.evaluate(&sides.1, input, frame)?;
                self.binary(*operator, left, right)
                    .map_err(|error| error.at(position))
            }
            Kind::And(sides) => Ok(Value::Bool(
                self.evaluate(&sides.0, input, frame)?.truth()
                    && self.evaluate(&sides.1, input, frame)?.truth(),
            )),
            Kind::Or(sides) => Ok(Value::Bool(
                self.evaluate(&sides.0, input, frame)?.truth()
                    || self.evaluate(&sides.1, input, frame)?.truth(),
            )),
            Kind::Negate(operand) => match self.evaluate(operand, input, frame)? {
                Value::Undefined => Ok(Value::Undefined),
                Value::Number(number) => Ok(Value::Number(-number)),
                _ => Err(Error::new("D1002", "cannot negate a non-numeric value").at(position)),
            },
            Kind::Array(items) => self.array(items, input, frame),
            Kind::Object(pairs) => self.group(pairs, input.clone(), frame),
            Kind::Sort(terms) => self.sort_step(terms, input, frame),
            Kind::Block(_) | Kind::Condition(_) => self.branch(node, input, frame),
            Kind::Bind(name, value) => {
                let value = self.evaluate(value, input, frame)?;
                self.bind(frame, Arc::clone(name), value.clone());
                Ok(value)
            }
            Kind::Call(procedure, arguments) => {
                self.call(procedure, arguments, None, input, frame, position)
            }
            Kind::Partial(procedure, arguments) => self
                .partial(procedure, arguments, input, frame)
                .map_err(|e| e.at(position)),
            Kind::Lambda(lambda) => Ok(Value::function(Function::Lambda {
                lambda: Arc::clone(lambda),
                input: input.clone(),
                frame: Rc::clone(frame),
            })),
            Kind::Apply(sides) => self.chain(&sides.0, &sides.1, input, frame, position),
            Kind::Transform(transform) => Ok(Value::function(Function::Transform {
                transform: Arc::clone(transform),
                frame: Rc::clone(frame),
            })),
        }
    }

    fn branch(&mut self, node: &Node, input: &Value, frame: &Rc<Frame>) -> Result<Value, Error> {
        match &node.kind {
            Kind::Block(expressions) => {
                let frame = Frame::new(frame, Vec::new());
                let mut result = Value::Undefined;
                for expression in expressions {
                    result = self.evaluate(expression, input, &frame)?;
                }
                Ok(result)
            }
            Kind::Condition(parts) => {
                if self.evaluate(&parts.0, input, frame)?.truth() {
                    return self.evaluate(&parts.1, input, frame);
                }
                match &parts.2 {
                    Some(otherwise) => self.evaluate(otherwise, input, frame),
                    None => Ok(Value::Undefined),
                }
            }
            _ => Ok(Value::Undefined),
        }
    }

    fn array(&mut self, nodes: &[Node], input: &Value, frame: &Rc<Frame>) -> Result<Value, Error> {
        let mut items = Vec::new();
        for node in nodes {
            match self.evaluate(node, input, frame)? {
                Value::Undefined | Value::Tuples(_) => {}
                // An array written inside an array stays one.
                array @ Value::Array(_) if matches!(node.kind, Kind::Array(_)) => items.push(array),
                Value::Array(array) => {
                    self.charge_items(items.len() + array.items.len())?;
                    items.extend_from_slice(&array.items);
                }
                single => items.push(single),
            }
        }
        Ok(Value::list(items))
    }
}

/// Dissolves a sequence of one value or none.
pub(super) fn settle(value: Value, keep: bool) -> Value {
    match value {
        Value::Array(array) if array.sequence => match array.items.as_slice() {
            [] => Value::Undefined,
            [single] if !keep && !array.keep => single.clone(),
            _ if keep && !array.keep => {
                let mut array = Rc::unwrap_or_clone(array);
                array.keep = true;
                Value::array(array)
            }
            _ => Value::Array(array),
        },
        other => other,
    }
}
