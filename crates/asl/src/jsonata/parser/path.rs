//! Paths: steps, what filters, sorts, groups and names them, and whom a parent operator means.

use std::sync::Arc;

use super::super::Error;
use super::super::lexer::TokenKind;
use super::super::syntax::{Kind, Node, Operator, Path, Slot, Stage, Step, Term, slot_name};
use super::{Parser, parent_lost, step_of};

/// A path of this one step.
pub(super) fn of(node: Node) -> Node {
    let position = node.position;
    let path = Path {
        steps: vec![Step::new(node)],
        ..Path::default()
    };
    Node::new(Kind::Path(path), position)
}

pub(super) fn binary(operator: Operator, left: Node, right: Node, position: usize) -> Node {
    let mut node = Node::new(Kind::Binary(operator, Box::new((left, right))), position);
    adopt(&mut node);
    node
}

/// Parent operators in `value` are still to be found in `node`, which contains it.
pub(super) fn push_ancestry(node: &mut Node, value: &Node) {
    node.seeking.extend_from_slice(&value.seeking);
    if let Kind::Parent(slot) = value.kind {
        node.seeking.push(slot);
    }
}

/// Takes over the parent operators of all children.
pub(super) fn adopt(node: &mut Node) {
    let mut found = Vec::new();
    let mut take = |child: &Node| {
        found.extend_from_slice(&child.seeking);
        if let Kind::Parent(slot) = child.kind {
            found.push(slot);
        }
    };
    match &node.kind {
        Kind::Binary(_, sides) | Kind::And(sides) | Kind::Or(sides) => {
            take(&sides.0);
            take(&sides.1);
        }
        Kind::Negate(child) | Kind::Bind(_, child) => take(child),
        Kind::Array(children) | Kind::Block(children) | Kind::Call(_, children) => {
            children.iter().for_each(take);
        }
        Kind::Partial(_, children) => children.iter().flatten().for_each(take),
        Kind::Condition(parts) => {
            take(&parts.0);
            take(&parts.1);
            parts.2.iter().for_each(take);
        }
        _ => {}
    }
    node.seeking.extend(found);
}

/// Whether an array written out is kept as it is when a path's step.
fn is_literal(node: &Node) -> bool {
    match &node.kind {
        Kind::Array(_) => true,
        Kind::Block(parts) => parts.iter().any(|part| match &part.kind {
            Kind::Path(path) => path.steps.first().is_some_and(|step| step.literal),
            Kind::Block(_) => is_literal(part),
            _ => false,
        }),
        _ => false,
    }
}

/// `left{key: value, …}`.
pub(super) fn group(
    mut left: Node,
    pairs: Vec<(Node, Node)>,
    position: usize,
) -> Result<Node, Error> {
    if left.group.is_some() {
        let message = "each step can only have one grouping expression";
        return Err(Error::new("S0210", message).at(position));
    }
    left.group = Some(pairs);
    Ok(left)
}

impl Parser {
    pub(super) fn dot(&mut self, left: Node, right: Node, position: usize) -> Result<Node, Error> {
        let mut result = path_of(left);
        let mut keep = right.keep_array;
        let mut seeking = Vec::new();
        let group;
        let Kind::Path(path) = &mut result.kind else {
            return Err(Error::new("S0201", "syntax error: .").at(position));
        };
        match right.kind {
            Kind::Path(rest) if right.group.is_none() => {
                keep |= rest.keep_array;
                seeking = right.seeking;
                group = None;
                path.steps.extend(rest.steps);
            }
            _ => {
                let mut right = right;
                group = right.group.take_if(|_| matches!(right.kind, Kind::Path(_)));
                path.steps.push(step_of(right));
            }
        }
        for step in &mut path.steps {
            if let Kind::Number(_) | Kind::Bool(_) | Kind::Null = step.node.kind {
                let message = "a literal value cannot be used as a step within a path expression";
                return Err(Error::new("S0213", message).at(step.node.position));
            }
            if let Kind::String(text) = &step.node.kind {
                step.node.kind = Kind::Name(text.clone());
            }
            keep |= step.node.keep_array;
        }
        path.keep_array |= keep;
        let last = path.steps.len() - 1;
        for index in [0, last] {
            let step = &mut path.steps[index];
            step.literal |= is_literal(&step.node);
        }
        result.group = group.or(result.group);
        result.seeking.extend(seeking);
        self.resolve_ancestry(&mut result)?;
        Ok(result)
    }

    /// Finds the steps that the parent operators of the last step mean.
    fn resolve_ancestry(&mut self, node: &mut Node) -> Result<(), Error> {
        let position = node.position;
        let Kind::Path(path) = &mut node.kind else {
            return Ok(());
        };
        let Some(last) = path.steps.last_mut() else {
            return Ok(());
        };
        let mut slots = std::mem::take(&mut last.node.seeking);
        if let Kind::Parent(slot) = last.node.kind {
            slots.push(slot);
        }
        for slot in slots {
            let mut index = path.steps.len() - 1;
            while self.levels[slot] > 0 {
                if index == 0 {
                    node.seeking.push(slot);
                    break;
                }
                index -= 1;
                // Steps that only bind a variable leave the context where it is.
                while index > 0
                    && path.steps[index].focus.is_some()
                    && path.steps[index - 1].focus.is_some()
                {
                    index -= 1;
                }
                self.seek(&mut path.steps[index], slot, position)?;
            }
        }
        Ok(())
    }

    fn seek(&mut self, step: &mut Step, slot: Slot, position: usize) -> Result<(), Error> {
        match &mut step.node.kind {
            Kind::Name(_) | Kind::Wildcard => {
                self.levels[slot] -= 1;
                if self.levels[slot] == 0 {
                    step.ancestors.push(slot_name(slot));
                    step.tuple = true;
                }
                Ok(())
            }
            Kind::Parent(_) => {
                self.levels[slot] += 1;
                Ok(())
            }
            _ => {
                step.tuple = true;
                self.seek_within(&mut step.node, slot, position)
            }
        }
    }

    fn seek_within(&mut self, node: &mut Node, slot: Slot, position: usize) -> Result<(), Error> {
        match &mut node.kind {
            Kind::Block(parts) => match parts.last_mut() {
                Some(last) => self.seek_within(last, slot, position),
                None => Err(parent_lost(position)),
            },
            Kind::Path(path) => {
                path.tuple = true;
                for step in path.steps.iter_mut().rev() {
                    self.seek(step, slot, position)?;
                    if self.levels[slot] == 0 {
                        break;
                    }
                }
                Ok(())
            }
            Kind::Parent(_) => {
                self.levels[slot] += 1;
                Ok(())
            }
            _ => Err(parent_lost(position)),
        }
    }

    /// `left[...]`.
    pub(super) fn predicate(&mut self, mut left: Node, position: usize) -> Result<Node, Error> {
        if self.token.is("]") {
            self.advance(true)?;
            left.keep_array = true;
            if let Kind::Path(path) = &mut left.kind {
                path.keep_array = true;
            }
            return Ok(left);
        }
        let filter = self.inner(0)?;
        self.expect("]", true)?;
        let grouped = Error::new(
            "S0209",
            "a predicate cannot follow a grouping expression in a step",
        );
        if left.group.is_some() && !matches!(left.kind, Kind::Path(_)) {
            return Err(grouped.at(position));
        }
        let mut slots = filter.seeking.clone();
        if let Kind::Parent(slot) = filter.kind {
            slots.push(slot);
        }
        if !slots.is_empty() {
            // Only a step can be told whom it is the parent of.
            left = path_of_filtered(left);
        }
        let Kind::Path(path) = &mut left.kind else {
            left.predicates.push(filter);
            return Ok(left);
        };
        if let Some(step) = path.steps.last_mut() {
            for slot in slots {
                if self.levels[slot] == 1 {
                    self.seek(step, slot, position)?;
                } else {
                    self.levels[slot] -= 1;
                }
                step.node.seeking.push(slot);
            }
            step.stages.push(Stage::Filter(filter));
        }
        Ok(left)
    }

    pub(super) fn order_by(
        &mut self,
        left: Node,
        terms: Vec<Term>,
        position: usize,
    ) -> Result<Node, Error> {
        let mut result = path_of(left);
        let mut sort = Node::new(Kind::Sort(Vec::new()), position);
        for term in &terms {
            push_ancestry(&mut sort, &term.node);
        }
        sort.kind = Kind::Sort(terms);
        if let Kind::Path(path) = &mut result.kind {
            path.steps.push(Step::new(sort));
        }
        self.resolve_ancestry(&mut result)?;
        Ok(result)
    }

    /// `left@$name` and `left#$name`.
    pub(super) fn binding(
        &mut self,
        left: Node,
        operator: &str,
        position: usize,
    ) -> Result<Node, Error> {
        let name = match &self.token.kind {
            TokenKind::Variable(name) => Arc::clone(name),
            _ => {
                let message =
                    format!("the right side of {operator} must be a variable name (start with $)");
                // Whatever is wrong inside what follows is the better message.
                if self.token.kind != TokenKind::End {
                    self.expression(80)?;
                }
                return Err(Error::new("S0214", message).at(position));
            }
        };
        self.advance(true)?;
        let predicated = !left.predicates.is_empty();
        let mut result = path_of_filtered(left);
        let Kind::Path(path) = &mut result.kind else {
            return Ok(result);
        };
        let Some(step) = path.steps.last_mut() else {
            return Ok(result);
        };
        if operator == "@" {
            if predicated || !step.stages.is_empty() {
                let message = "a context variable binding must precede any predicates on a step";
                return Err(Error::new("S0215", message).at(position));
            }
            if let Kind::Sort(_) = step.node.kind {
                let message =
                    "a context variable binding must precede the 'order-by' clause on a step";
                return Err(Error::new("S0216", message).at(position));
            }
            step.focus = Some(name);
        } else if step.stages.is_empty() {
            step.index = Some(name);
        } else {
            step.stages.push(Stage::Index(name));
        }
        step.tuple = true;
        Ok(result)
    }
}

/// The node as a path; what was not one becomes its first step, with its predicates.
fn path_of(node: Node) -> Node {
    if matches!(node.kind, Kind::Path(_)) {
        return node;
    }
    let seeking = match node.kind {
        Kind::Parent(slot) => vec![slot],
        _ => Vec::new(),
    };
    let mut path = of(node);
    path.seeking = seeking;
    path
}

/// As `path_of`, but predicates become stages, after which an index can be bound.
fn path_of_filtered(node: Node) -> Node {
    if matches!(node.kind, Kind::Path(_)) {
        return node;
    }
    let position = node.position;
    let path = Path {
        steps: vec![step_of(node)],
        ..Path::default()
    };
    Node::new(Kind::Path(path), position)
}
