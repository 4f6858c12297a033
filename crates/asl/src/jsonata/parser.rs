//! Tokens to a tree: operator precedence after Pratt. What surrounds a step of a path is put
//! together in `path`, while it is read.

mod path;

use std::sync::Arc;

use super::lexer::{Lexer, Token, TokenKind};
use super::regex::Pattern;
use super::signature::Signature;
use super::syntax::{Kind, Lambda, Node, Operator, Slot, Step, Term, Transform};
use super::{Error, Flavour, grow};

/// How deep expressions may be nested, and how high their tree may grow by chains (`1+1+1…`).
/// Both bound the recursion of everything that walks the tree.
const DEPTH_MAX: usize = 400;
const HEIGHT_MAX: usize = 2000;

/// How tightly each operator binds to what is on its left.
fn power(token: &Token) -> u8 {
    let TokenKind::Operator(operator) = token.kind else {
        return 0;
    };
    match operator {
        "." => 75,
        "[" | "(" | "@" | "#" => 80,
        "{" => 70,
        "*" | "/" | "%" => 60,
        "+" | "-" | "&" => 50,
        "=" | "<" | ">" | "^" | "!=" | "<=" | ">=" | "~>" | "in" => 40,
        "and" => 30,
        "or" => 25,
        "?" => 20,
        ":=" => 10,
        _ => 0,
    }
}

/// Parses one expression, all of `text`.
pub(super) fn parse(text: &str, flavour: Flavour) -> Result<Node, Error> {
    let start = Token {
        kind: TokenKind::End,
        position: 0,
    };
    let mut parser = Parser {
        lexer: Lexer::new(text),
        token: start,
        levels: Vec::new(),
        depth: 0,
        height: 0,
        open: 0,
        inside: 0,
        flavour,
    };
    parser.advance(false)?;
    let node = parser.expression(0)?;
    if parser.token.kind != TokenKind::End {
        let message = format!("syntax error: {}", parser.token.text());
        return Err(Error::new("S0201", message).at(parser.token.position));
    }
    let alone = match &node.kind {
        Kind::Parent(_) => true,
        // Filtered by its own parent, which no step before it can be.
        Kind::Path(path) => match path.steps.as_slice() {
            [step] => !matches!(step.node.kind, Kind::Name(_)) && !step.node.seeking.is_empty(),
            _ => false,
        },
        _ => false,
    };
    if alone || !node.seeking.is_empty() {
        return Err(parent_lost(node.position));
    }
    Ok(node)
}

fn parent_lost(position: usize) -> Error {
    Error::new(
        "S0217",
        "the object representing the 'parent' cannot be derived from this expression",
    )
    .at(position)
}

struct Parser {
    lexer: Lexer,
    /// The token to be consumed next.
    token: Token,
    /// For each parent operator, how many steps back its value is still to be found.
    levels: Vec<usize>,
    depth: usize,
    /// Height of the tree made last.
    height: usize,
    /// How many brackets are still to be closed.
    open: usize,
    /// How many constructs around here give an expression a context of its own.
    inside: usize,
    flavour: Flavour,
}

impl Parser {
    /// Consumes a token; what follows is read as what comes after an operand, or as an operand.
    fn advance(&mut self, after_operand: bool) -> Result<Token, Error> {
        let next = self.lexer.next(after_operand)?;
        if next.is("!") || next.is("~") {
            let message = format!("unknown operator: {}", next.text());
            return Err(Error::new("S0204", message).at(next.position));
        }
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn expect(&mut self, operator: &str, after_operand: bool) -> Result<(), Error> {
        if self.token.is(operator) {
            return self.advance(after_operand).map(drop);
        }
        let (code, message) = if self.token.kind == TokenKind::End {
            (
                "S0203",
                format!("expected {operator} before end of expression"),
            )
        } else {
            (
                "S0202",
                format!("expected {operator}, got {}", self.token.text()),
            )
        };
        Err(Error::new(code, message).at(self.token.position))
    }

    fn expression(&mut self, binding: u8) -> Result<Node, Error> {
        if self.depth == DEPTH_MAX {
            let message = format!("expression is nested deeper than {DEPTH_MAX}");
            return Err(Error::new("U1001", message).at(self.token.position));
        }
        self.depth += 1;
        let around = std::mem::take(&mut self.height);
        let result = grow(|| self.operators(binding));
        self.depth -= 1;
        self.height = self.height.max(around);
        result
    }

    fn operators(&mut self, binding: u8) -> Result<Node, Error> {
        let token = self.advance(true)?;
        let mut left = self.prefix(token)?;
        self.height += 1;
        while binding < power(&self.token) {
            let token = self.advance(false)?;
            left = self.infix(token, left)?;
            self.height += 1;
            if self.height > HEIGHT_MAX {
                let message = format!("more than {HEIGHT_MAX} operators in a row");
                return Err(Error::new("U1001", message).at(self.token.position));
            }
        }
        Ok(left)
    }

    /// Something that a bracket has to close.
    fn within<R>(&mut self, read: impl FnOnce(&mut Self) -> Result<R, Error>) -> Result<R, Error> {
        self.open += 1;
        let result = read(self);
        self.open -= 1;
        result
    }

    /// An expression with a context of its own (`$` is not that of the whole).
    fn inner(&mut self, binding: u8) -> Result<Node, Error> {
        self.inside += 1;
        let result = self.expression(binding);
        self.inside -= 1;
        result
    }

    fn prefix(&mut self, token: Token) -> Result<Node, Error> {
        let position = token.position;
        let node = |kind| Ok(Node::new(kind, position));
        match token.kind {
            TokenKind::String(text) => node(Kind::String(text)),
            TokenKind::Number(number) => node(Kind::Number(number)),
            TokenKind::Bool(value) => node(Kind::Bool(value)),
            TokenKind::Null => node(Kind::Null),
            TokenKind::Regex { pattern, flags } => {
                let pattern = Pattern::new(&pattern, &flags).map_err(|e| e.at(position))?;
                node(Kind::Regex(Arc::new(pattern)))
            }
            TokenKind::Variable(name) => {
                if name.is_empty() || &*name == "$" {
                    self.needs_context(&format!("${name}"), position)?;
                }
                node(Kind::Variable(name))
            }
            TokenKind::Name(name) => self.name(name, position),
            TokenKind::End if self.open > 0 => {
                let message = "expected a closing bracket before end of expression";
                Err(Error::new("S0203", message).at(position))
            }
            TokenKind::End => Err(Error::new("S0207", "unexpected end of expression").at(position)),
            TokenKind::Operator(operator) => self.prefix_operator(operator, position),
        }
    }

    /// Refuses what has no meaning where there is no input document.
    fn needs_context(&self, what: &str, position: usize) -> Result<(), Error> {
        if self.flavour == Flavour::Plain || self.inside > 0 {
            return Ok(());
        }
        let message = format!(
            "{what} is not allowed here: a state's expressions have no context, use $states or a variable"
        );
        Err(Error::new("S0501", message).at(position))
    }

    fn name(&mut self, name: Arc<str>, position: usize) -> Result<Node, Error> {
        let lambda = self.token.is("(") && matches!(&*name, "function" | "λ");
        if !lambda {
            self.needs_context(&format!("the field name {name}"), position)?;
        }
        Ok(path::of(Node::new(Kind::Name(name), position)))
    }

    fn prefix_operator(&mut self, operator: &str, position: usize) -> Result<Node, Error> {
        match operator {
            "and" | "or" | "in" => self.name(operator.into(), position),
            "*" | "**" | "%" => {
                self.needs_context(operator, position)?;
                match operator {
                    "*" => Ok(Node::new(Kind::Wildcard, position)),
                    "**" => Ok(Node::new(Kind::Descendants, position)),
                    _ => Ok(self.parent(position)),
                }
            }
            "-" => self.negation(position),
            "(" => self.within(|this| this.block(position)),
            "[" => self.within(|this| this.array(position)),
            "{" => {
                let pairs = self.within(Self::pairs)?;
                let mut node = Node::new(Kind::Object(Vec::new()), position);
                for (key, value) in &pairs {
                    path::push_ancestry(&mut node, key);
                    path::push_ancestry(&mut node, value);
                }
                node.kind = Kind::Object(pairs);
                Ok(node)
            }
            "|" => self.within(|this| this.transform(position)),
            _ => {
                let message = format!("the symbol {operator} cannot be used as a unary operator");
                Err(Error::new("S0211", message).at(position))
            }
        }
    }

    fn parent(&mut self, position: usize) -> Node {
        let slot: Slot = self.levels.len();
        self.levels.push(1);
        Node::new(Kind::Parent(slot), position)
    }

    fn negation(&mut self, position: usize) -> Result<Node, Error> {
        let mut operand = self.expression(70)?;
        if let Kind::Number(number) = &mut operand.kind
            && operand.predicates.is_empty()
        {
            *number = -*number;
            return Ok(operand);
        }
        let mut node = Node::new(Kind::Negate(Box::new(operand)), position);
        path::adopt(&mut node);
        Ok(node)
    }

    fn block(&mut self, position: usize) -> Result<Node, Error> {
        let mut expressions = Vec::new();
        while !self.token.is(")") {
            expressions.push(self.expression(0)?);
            if !self.token.is(";") {
                break;
            }
            self.advance(false)?;
        }
        self.expect(")", true)?;
        let mut node = Node::new(Kind::Block(expressions), position);
        path::adopt(&mut node);
        Ok(node)
    }

    fn array(&mut self, position: usize) -> Result<Node, Error> {
        let mut items = Vec::new();
        while !(items.is_empty() && self.token.is("]")) {
            let mut item = self.expression(0)?;
            if self.token.is("..") {
                let position = self.token.position;
                self.advance(false)?;
                let end = self.expression(0)?;
                item = path::binary(Operator::Range, item, end, position);
            }
            items.push(item);
            if !self.token.is(",") {
                break;
            }
            self.advance(false)?;
        }
        self.expect("]", true)?;
        let mut node = Node::new(Kind::Array(items), position);
        path::adopt(&mut node);
        Ok(node)
    }

    /// `key: value, …}` after the opening brace.
    fn pairs(&mut self) -> Result<Vec<(Node, Node)>, Error> {
        let mut pairs = Vec::new();
        while !(pairs.is_empty() && self.token.is("}")) {
            let key = self.expression(0)?;
            self.expect(":", false)?;
            let value = self.expression(0)?;
            pairs.push((key, value));
            if !self.token.is(",") {
                break;
            }
            self.advance(false)?;
        }
        self.expect("}", true)?;
        Ok(pairs)
    }

    fn transform(&mut self, position: usize) -> Result<Node, Error> {
        let pattern = self.inner(0)?;
        self.expect("|", false)?;
        let update = self.inner(0)?;
        let mut delete = None;
        if self.token.is(",") {
            self.advance(false)?;
            delete = Some(self.inner(0)?);
        }
        self.expect("|", true)?;
        let transform = Transform {
            pattern,
            update,
            delete,
        };
        Ok(Node::new(Kind::Transform(Arc::new(transform)), position))
    }

    fn infix(&mut self, token: Token, left: Node) -> Result<Node, Error> {
        let position = token.position;
        let TokenKind::Operator(operator) = token.kind else {
            return Err(
                Error::new("S0201", format!("syntax error: {}", token.text())).at(position),
            );
        };
        let operation = match operator {
            "+" => Operator::Add,
            "-" => Operator::Subtract,
            "*" => Operator::Multiply,
            "/" => Operator::Divide,
            "%" => Operator::Remainder,
            "=" => Operator::Equal,
            "!=" => Operator::NotEqual,
            "<" => Operator::Less,
            "<=" => Operator::LessOrEqual,
            ">" => Operator::Greater,
            ">=" => Operator::GreaterOrEqual,
            "&" => Operator::Concatenate,
            "in" => Operator::In,
            _ => return self.structure(operator, position, left),
        };
        let right = self.expression(power(&token))?;
        Ok(path::binary(operation, left, right, position))
    }

    fn structure(&mut self, operator: &str, position: usize, left: Node) -> Result<Node, Error> {
        match operator {
            "." => {
                let right = self.inner(75)?;
                self.dot(left, right, position)
            }
            "[" => self.within(|this| this.predicate(left, position)),
            "{" => {
                self.inside += 1;
                let pairs = self.within(Self::pairs);
                self.inside -= 1;
                path::group(left, pairs?, position)
            }
            "(" => self.within(|this| this.call(left, position)),
            "^" => {
                let terms = self.within(Self::terms)?;
                self.order_by(left, terms, position)
            }
            "@" | "#" => self.binding(left, operator, position),
            "?" => {
                let then = self.expression(0)?;
                let mut otherwise = None;
                if self.token.is(":") {
                    self.advance(false)?;
                    otherwise = Some(self.expression(0)?);
                }
                let kind = Kind::Condition(Box::new((left, then, otherwise)));
                let mut node = Node::new(kind, position);
                path::adopt(&mut node);
                Ok(node)
            }
            ":=" => {
                let Kind::Variable(name) = &left.kind else {
                    let message = "the left side of := must be a variable name";
                    return Err(Error::new("S0212", message).at(position));
                };
                let name = name.clone();
                let value = self.expression(9)?;
                let mut node = Node::new(Kind::Bind(name, Box::new(value)), position);
                path::adopt(&mut node);
                Ok(node)
            }
            "and" | "or" | "~>" => {
                let right = self.expression(power(&Token {
                    kind: TokenKind::Operator(match operator {
                        "and" => "and",
                        "or" => "or",
                        _ => "~>",
                    }),
                    position,
                }))?;
                let keep = operator == "~>" && (left.keep_array || right.keep_array);
                let sides = Box::new((left, right));
                let kind = match operator {
                    "and" => Kind::And(sides),
                    "or" => Kind::Or(sides),
                    _ => Kind::Apply(sides),
                };
                let mut node = Node::new(kind, position);
                node.keep_array = keep;
                path::adopt(&mut node);
                Ok(node)
            }
            _ => Err(Error::new("S0201", format!("syntax error: {operator}")).at(position)),
        }
    }

    fn terms(&mut self) -> Result<Vec<Term>, Error> {
        self.expect("(", false)?;
        let mut terms = Vec::new();
        loop {
            let descending = self.token.is(">");
            if descending || self.token.is("<") {
                self.advance(false)?;
            }
            let node = self.inner(0)?;
            terms.push(Term { node, descending });
            if !self.token.is(",") {
                break;
            }
            self.advance(false)?;
        }
        self.expect(")", true)?;
        Ok(terms)
    }

    fn call(&mut self, procedure: Node, position: usize) -> Result<Node, Error> {
        let mut arguments = Vec::new();
        while !(arguments.is_empty() && self.token.is(")")) {
            if self.token.is("?") {
                arguments.push(None);
                self.advance(true)?;
            } else {
                arguments.push(Some(self.expression(0)?));
            }
            if !self.token.is(",") {
                break;
            }
            self.advance(false)?;
        }
        self.expect(")", true)?;
        if procedure
            .as_name()
            .is_some_and(|name| matches!(&**name, "function" | "λ"))
        {
            return self.lambda(arguments, position);
        }
        let procedure = Box::new(procedure);
        let kind = if arguments.iter().any(Option::is_none) {
            Kind::Partial(procedure, arguments)
        } else {
            Kind::Call(procedure, arguments.into_iter().flatten().collect())
        };
        let mut node = Node::new(kind, position);
        path::adopt(&mut node);
        Ok(node)
    }

    fn lambda(&mut self, arguments: Vec<Option<Node>>, position: usize) -> Result<Node, Error> {
        let mut parameters = Vec::new();
        for argument in arguments {
            match argument.map(|node| node.kind) {
                Some(Kind::Variable(name)) => parameters.push(name),
                _ => {
                    let message =
                        "parameters of a function definition must be variable names (start with $)";
                    return Err(Error::new("S0208", message).at(position));
                }
            }
        }
        let mut signature = None;
        if self.token.is("<") {
            // The token after `<` is not read as one, because signatures are a language of their own.
            self.lexer.rewind(self.token.position);
            let text = self.lexer.signature();
            signature = Some(Signature::parse(&text).map_err(|e| e.at(position))?);
            self.token = self.lexer.next(true)?;
            self.expect(">", true)?;
        }
        self.expect("{", false)?;
        let body = self.expression(0)?;
        self.expect("}", true)?;
        let lambda = Lambda {
            parameters,
            signature,
            body,
        };
        Ok(Node::new(Kind::Lambda(Arc::new(lambda)), position))
    }
}

/// A step made of a node: what filtered the node filters the step.
fn step_of(mut node: Node) -> Step {
    let stages = std::mem::take(&mut node.predicates);
    let mut step = Step::new(node);
    step.stages = stages
        .into_iter()
        .map(super::syntax::Stage::Filter)
        .collect();
    step
}
