//! Calls: arguments, partial application, chains, and tail calls, which take no stack.

use std::rc::Rc;
use std::sync::Arc;

use super::super::Error;
use super::super::functions::Arguments;
use super::super::regex::{Match, Pattern};
use super::super::syntax::{Kind, Node};
use super::super::value::{Frame, Function, Object, Value};
use super::{Evaluator, settle};

/// What is left of a lambda's body: a value, or a call to be made in its place.
enum Tail {
    Value(Value),
    Call {
        procedure: Value,
        arguments: Vec<Value>,
        position: usize,
    },
}

impl Evaluator<'_> {
    pub(super) fn call(
        &mut self,
        procedure: &Node,
        arguments: &[Node],
        first: Option<Value>,
        input: &Value,
        frame: &Rc<Frame>,
        position: usize,
    ) -> Result<Value, Error> {
        let function = self
            .procedure(procedure, "T1005", input, frame)
            .map_err(|e| e.at(position))?;
        let mut values: Vec<Value> = first.into_iter().collect();
        for argument in arguments {
            values.push(self.evaluate(argument, input, frame)?);
        }
        self.caller = Rc::clone(frame);
        self.apply(function, values, input)
            .map_err(|error| error.at(position))
    }

    /// The function to call, with a hint if its `$` was forgotten.
    fn procedure(
        &mut self,
        node: &Node,
        code: &str,
        input: &Value,
        frame: &Rc<Frame>,
    ) -> Result<Value, Error> {
        let function = self.evaluate(node, input, frame)?;
        if function.is_undefined()
            && let Kind::Path(path) = &node.kind
            && let Some(Kind::Name(name)) = path.steps.first().map(|step| &step.node.kind)
            && !self.lookup(name, frame).is_undefined()
        {
            let message = format!("attempted to invoke a non-function. Did you mean ${name}?");
            return Err(Error::new(code, message));
        }
        Ok(function)
    }

    /// Calls a function with arguments; `input` stands in for those that come from the context.
    pub(in super::super) fn apply(
        &mut self,
        mut function: Value,
        mut arguments: Vec<Value>,
        input: &Value,
    ) -> Result<Value, Error> {
        let mut tail_position = None;
        loop {
            let result = self.deeper(|this| this.apply_once(&function, arguments, input));
            let result = match tail_position {
                Some(position) => result.map_err(|error: Error| error.at(position)),
                None => result,
            };
            match result? {
                Tail::Value(value) => return Ok(value),
                Tail::Call {
                    procedure,
                    arguments: next,
                    position,
                } => {
                    function = procedure;
                    arguments = next;
                    tail_position = Some(position);
                }
            }
        }
    }

    fn apply_once(
        &mut self,
        function: &Value,
        arguments: Vec<Value>,
        input: &Value,
    ) -> Result<Tail, Error> {
        let Value::Function(function) = function else {
            return Err(Error::new("T1006", "attempted to invoke a non-function"));
        };
        match &**function {
            Function::Lambda {
                lambda,
                input: own,
                frame,
            } => {
                let arguments = match &lambda.signature {
                    Some(signature) => signature.validate(arguments, input)?,
                    None => arguments,
                };
                let bindings = bind(&lambda.parameters, arguments);
                let frame = self.frame(frame, bindings);
                self.tail(&lambda.body, own, &frame)
            }
            Function::Builtin(builtin) => {
                let values = match &builtin.signature {
                    Some(signature) => signature.validate(arguments, input)?,
                    None => arguments,
                };
                let arguments = Arguments { values, input };
                (builtin.implementation)(self, &arguments).map(Tail::Value)
            }
            Function::Pattern(pattern) => match arguments.first() {
                Some(Value::String(text)) => self.next_match(pattern, text, 0).map(Tail::Value),
                _ => Ok(Tail::Value(Value::Undefined)),
            },
            Function::Next {
                pattern,
                text,
                from,
            } => self.next_match(pattern, text, *from).map(Tail::Value),
            Function::Partial {
                function,
                arguments: given,
                ..
            } => {
                let all = fill(given, arguments);
                let procedure = Value::Function(Rc::clone(function));
                self.apply(procedure, all, input).map(Tail::Value)
            }
            Function::Composed { first, second, .. } => {
                let between = self.apply(Value::Function(Rc::clone(first)), arguments, input)?;
                let second = Value::Function(Rc::clone(second));
                self.apply(second, vec![between], input).map(Tail::Value)
            }
            Function::Transform { transform, frame } => {
                let subject = arguments.into_iter().next().unwrap_or(Value::Undefined);
                self.transform(transform, subject, frame).map(Tail::Value)
            }
        }
    }

    /// Evaluates a lambda's body up to the call that ends it, if one does.
    fn tail(&mut self, node: &Node, input: &Value, frame: &Rc<Frame>) -> Result<Tail, Error> {
        if !node.is_plain() || node.keep_array {
            return self.evaluate(node, input, frame).map(Tail::Value);
        }
        self.charge(1)?;
        match &node.kind {
            Kind::Block(expressions) => {
                let Some((last, others)) = expressions.split_last() else {
                    return Ok(Tail::Value(Value::Undefined));
                };
                let frame = Frame::new(frame, Vec::new());
                for expression in others {
                    self.evaluate(expression, input, &frame)?;
                }
                self.deeper(|this| this.tail(last, input, &frame))
            }
            Kind::Condition(parts) => {
                let branch = if self.evaluate(&parts.0, input, frame)?.truth() {
                    Some(&parts.1)
                } else {
                    parts.2.as_ref()
                };
                match branch {
                    Some(branch) => self.deeper(|this| this.tail(branch, input, frame)),
                    None => Ok(Tail::Value(Value::Undefined)),
                }
            }
            Kind::Call(procedure, arguments) => {
                let position = node.position;
                let procedure = self
                    .procedure(procedure, "T1005", input, frame)
                    .map_err(|e| e.at(position))?;
                let mut values = Vec::with_capacity(arguments.len());
                for argument in arguments {
                    values.push(self.evaluate(argument, input, frame)?);
                }
                self.caller = Rc::clone(frame);
                Ok(Tail::Call {
                    procedure,
                    arguments: values,
                    position,
                })
            }
            _ => self.evaluate(node, input, frame).map(Tail::Value),
        }
    }

    pub(super) fn partial(
        &mut self,
        procedure: &Node,
        arguments: &[Option<Node>],
        input: &Value,
        frame: &Rc<Frame>,
    ) -> Result<Value, Error> {
        let mut given = Vec::with_capacity(arguments.len());
        for argument in arguments {
            given.push(match argument {
                Some(node) => Some(self.evaluate(node, input, frame)?),
                None => None,
            });
        }
        let Value::Function(function) = self.procedure(procedure, "T1007", input, frame)? else {
            return Err(Error::new(
                "T1008",
                "attempted to partially apply a non-function",
            ));
        };
        let inner = given.iter().flatten().map(Value::depth).max().unwrap_or(0);
        Ok(Value::function(Function::Partial {
            depth: inner.max(function.depth()) + 1,
            function,
            arguments: given,
        }))
    }

    /// `left ~> right`.
    pub(super) fn chain(
        &mut self,
        left: &Node,
        right: &Node,
        input: &Value,
        frame: &Rc<Frame>,
        position: usize,
    ) -> Result<Value, Error> {
        let value = self.evaluate(left, input, frame)?;
        if let Kind::Call(procedure, arguments) = &right.kind {
            return self.call(
                procedure,
                arguments,
                Some(value),
                input,
                frame,
                right.position,
            );
        }
        let Value::Function(second) = self.evaluate(right, input, frame)? else {
            let message =
                "the right side of the function application operator ~> must be a function";
            return Err(Error::new("T2006", message).at(position));
        };
        match value {
            Value::Function(first) => Ok(Value::function(Function::Composed {
                depth: first.depth().max(second.depth()) + 1,
                first,
                second,
            })),
            value => self
                .apply(Value::Function(second), vec![value], input)
                .map(|result| settle(result, false))
                .map_err(|error| error.at(position)),
        }
    }

    /// What a regular expression gives when it is called.
    fn next_match(
        &mut self,
        pattern: &Arc<Pattern>,
        text: &Arc<str>,
        from: usize,
    ) -> Result<Value, Error> {
        self.charge(1 + text.len().saturating_sub(from) / 64)?;
        let Some(found) = pattern.find(text, from)? else {
            return Ok(Value::Undefined);
        };
        Ok(match_value(&found, pattern, text))
    }
}

/// Parameters with their arguments; those that are missing are undefined.
fn bind(parameters: &[Arc<str>], arguments: Vec<Value>) -> Vec<(Arc<str>, Value)> {
    let given = arguments
        .into_iter()
        .chain(std::iter::repeat(Value::Undefined));
    parameters.iter().cloned().zip(given).collect()
}

/// The arguments given before, with those given now in their gaps and behind them.
fn fill(given: &[Option<Value>], arguments: Vec<Value>) -> Vec<Value> {
    let mut arguments = arguments.into_iter();
    let mut all = Vec::with_capacity(given.len());
    for value in given {
        let value = value.clone().or_else(|| arguments.next());
        all.push(value.unwrap_or(Value::Undefined));
    }
    all.extend(arguments);
    all
}

fn match_value(found: &Match, pattern: &Arc<Pattern>, text: &Arc<str>) -> Value {
    let units = |bytes: usize| Value::Number(text[..bytes].encode_utf16().count() as f64);
    let group = |group: &Option<String>| match group {
        Some(group) => Value::string(group.as_str()),
        None => Value::Undefined,
    };
    let mut object = Object::default();
    object.insert("match".into(), Value::string(&text[found.start..found.end]));
    object.insert("start".into(), units(found.start));
    object.insert("end".into(), units(found.end));
    object.insert(
        "groups".into(),
        Value::list(found.groups.iter().map(group).collect()),
    );
    let next = Function::Next {
        pattern: Arc::clone(pattern),
        text: Arc::clone(text),
        from: found.end,
    };
    object.insert("next".into(), Value::function(next));
    Value::object(object)
}
