//! `|pattern|update,delete|`: a copy of a value in which what the pattern finds is changed.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::super::syntax::Transform;
use super::super::value::{Array, Frame, Object, Value};
use super::super::{Error, grow};
use super::Evaluator;

/// What becomes of one object: keys to set, in order, and keys to remove.
#[derive(Default)]
struct Change {
    set: Vec<Rc<Object>>,
    remove: Vec<Arc<str>>,
}

/// Changes by the address of the object in the copy, which no other object shares.
type Changes = BTreeMap<*const Object, Change>;

impl Evaluator<'_> {
    pub(super) fn transform(
        &mut self,
        transform: &Transform,
        subject: Value,
        frame: &Rc<Frame>,
    ) -> Result<Value, Error> {
        match subject {
            Value::Undefined => return Ok(Value::Undefined),
            Value::Object(_) | Value::Array(_) => {}
            _ => {
                let message = "argument 1 of the transform must be an object or an array";
                return Err(Error::new("T0410", message));
            }
        }
        // Each object gets an address of its own, even if the subject has it in several places.
        let copy = self.copy(&subject)?;
        let matches = self.evaluate(&transform.pattern, &copy, frame)?;
        let mut changes = Changes::new();
        for found in matches.items() {
            let mut change = Change::default();
            match self.evaluate(&transform.update, found, frame)? {
                Value::Undefined => {}
                Value::Object(update) => change.set.push(update),
                _ => {
                    let message = "the insert/update clause of the transform expression must evaluate to an object";
                    return Err(Error::new("T2011", message).at(transform.update.position));
                }
            }
            if let Some(delete) = &transform.delete {
                let removed = self.evaluate(delete, found, frame)?;
                let texts = removed.items().iter().map(|item| match item {
                    Value::String(text) => Some(Arc::clone(text)),
                    _ => None,
                });
                let texts: Option<Vec<_>> = texts.collect();
                match texts {
                    Some(texts) => change.remove = texts,
                    None if removed.is_undefined() => {}
                    None => {
                        let message = "the delete clause of the transform expression must evaluate to a string or array of strings";
                        return Err(Error::new("T2012", message).at(delete.position));
                    }
                }
            }
            if let Value::Object(object) = found {
                let known = changes.entry(Rc::as_ptr(object)).or_default();
                known.set.extend(change.set);
                known.remove.extend(change.remove);
            }
        }
        self.rebuild(&copy, &changes)
    }

    fn copy(&mut self, value: &Value) -> Result<Value, Error> {
        self.rebuild(value, &Changes::new())
    }

    fn rebuild(&mut self, value: &Value, changes: &Changes) -> Result<Value, Error> {
        self.charge(1)?;
        match value {
            Value::Array(array) => grow(|| {
                let mut items = Vec::with_capacity(array.items.len());
                for item in &array.items {
                    items.push(self.rebuild(item, changes)?);
                }
                let mut copy = Array::plain(items);
                copy.sequence = array.sequence;
                copy.keep = array.keep;
                copy.wrapper = array.wrapper;
                Ok(Value::array(copy))
            }),
            Value::Object(object) => grow(|| {
                let mut copy = Object::default();
                for (key, value) in object.iter() {
                    copy.insert(Arc::clone(key), self.rebuild(value, changes)?);
                }
                if let Some(change) = changes.get(&Rc::as_ptr(object)) {
                    for update in &change.set {
                        for (key, value) in update.iter() {
                            copy.insert(Arc::clone(key), value.clone());
                        }
                    }
                    change.remove.iter().for_each(|key| copy.remove(key));
                }
                Ok(Value::object(copy))
            }),
            Value::Function(_) => Ok(Value::string("")),
            other => Ok(other.clone()),
        }
    }
}
