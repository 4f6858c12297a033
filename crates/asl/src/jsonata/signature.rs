//! Signatures such as `<s-nn?:s>`: which types a function takes, which argument comes from the
//! context when it is left out, which single value is taken for an array.

use super::Error;
use super::value::{Array, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Once,
    Optional,
    Several,
}

#[derive(Debug)]
struct Parameter {
    /// Letters of the types it takes; `m` is a missing value.
    types: String,
    times: Times,
    /// Taken from the context when left out.
    context: bool,
    /// Declared as an array: a single value is made one.
    array: bool,
    /// What the array's items must be.
    items: Option<String>,
}

/// A parsed signature.
#[derive(Debug)]
pub(super) struct Signature(Vec<Parameter>);

/// The letter of a value's type.
fn letter(value: &Value) -> char {
    match value {
        Value::Undefined | Value::Tuples(_) => 'm',
        Value::Null => 'l',
        Value::Bool(_) => 'b',
        Value::Number(_) => 'n',
        Value::String(_) => 's',
        Value::Array(_) => 'a',
        Value::Object(_) => 'o',
        Value::Function(_) => 'f',
    }
}

/// The text inside the bracket opened before `text`, and its length with the closing one.
fn enclosed(text: &str, open: char, close: char) -> (&str, usize) {
    let mut depth = 1;
    for (index, current) in text.char_indices() {
        if current == open {
            depth += 1;
        } else if current == close {
            depth -= 1;
        }
        if depth == 0 {
            return (&text[..index], index + close.len_utf8());
        }
    }
    (text, text.len())
}

impl Signature {
    /// Parses `<...>`.
    pub(super) fn parse(text: &str) -> Result<Signature, Error> {
        let mut parameters: Vec<Parameter> = Vec::new();
        let mut rest = text.strip_prefix('<').unwrap_or(text);
        while let Some(current) = rest.chars().next() {
            rest = &rest[current.len_utf8()..];
            let types = match current {
                ':' | '>' => break,
                's' | 'n' | 'b' | 'l' | 'o' => format!("{current}m"),
                'a' | 'x' => "asnblfom".to_owned(),
                'f' => "f".to_owned(),
                'j' => "asnblom".to_owned(),
                'u' => "snblm".to_owned(),
                '(' => {
                    let (choice, length) = enclosed(rest, '(', ')');
                    if choice.contains('<') {
                        let message =
                            "choice groups containing parameterized types are not supported";
                        return Err(Error::new("S0402", message));
                    }
                    rest = &rest[length..];
                    format!("{choice}m")
                }
                _ => {
                    let last = parameters.last_mut();
                    rest = modify(last, current, rest)?;
                    continue;
                }
            };
            parameters.push(Parameter {
                types,
                times: Times::Once,
                context: false,
                array: current == 'a',
                items: None,
            });
        }
        Ok(Signature(parameters))
    }

    /// The arguments as the function is to see them.
    pub(super) fn validate(
        &self,
        arguments: Vec<Value>,
        context: &Value,
    ) -> Result<Vec<Value>, Error> {
        let letters: Vec<char> = arguments.iter().map(letter).collect();
        let Some(counts) = fit(&self.0, &letters) else {
            return Err(self.misfit(&letters));
        };
        let mut validated = Vec::with_capacity(arguments.len());
        let mut arguments = arguments.into_iter();
        for (parameter, count) in self.0.iter().zip(counts) {
            if count == 0 {
                if !parameter.context {
                    validated.push(arguments.next().unwrap_or(Value::Undefined));
                } else if parameter.types.contains(letter(context)) {
                    validated.push(context.clone());
                } else {
                    let message = format!(
                        "context value is not a compatible type with argument {}",
                        validated.len() + 1
                    );
                    return Err(Error::new("T0411", message));
                }
                continue;
            }
            for argument in arguments.by_ref().take(count) {
                let number = validated.len() + 1;
                validated.push(parameter.accept(argument, number)?);
            }
        }
        Ok(validated)
    }

    fn misfit(&self, letters: &[char]) -> Error {
        let mut good = 0;
        for length in 1..=self.0.len() {
            match longest(&self.0[..length], letters) {
                Some(fitting) => good = fitting,
                None => break,
            }
        }
        Error::new(
            "T0410",
            format!(
                "argument {} of the function does not match its signature",
                good + 1
            ),
        )
    }
}

/// Applies what stands behind a type.
fn modify<'t>(
    last: Option<&mut Parameter>,
    modifier: char,
    rest: &'t str,
) -> Result<&'t str, Error> {
    if modifier == '<' {
        let (items, length) = enclosed(rest, '<', '>');
        match last {
            Some(parameter) if parameter.array || parameter.types == "f" => {
                if parameter.array {
                    parameter.items = Some(items.to_owned());
                }
            }
            _ => {
                let message = "type parameters can only be applied to functions and arrays";
                return Err(Error::new("S0401", message));
            }
        }
        return Ok(&rest[length..]);
    }
    if let Some(parameter) = last {
        match modifier {
            '-' => {
                parameter.context = true;
                parameter.times = Times::Optional;
            }
            '?' => parameter.times = Times::Optional,
            '+' => parameter.times = Times::Several,
            _ => {}
        }
    }
    Ok(rest)
}

/// How many letters each parameter takes, if all are taken; as many as can be, from the left.
fn fit(parameters: &[Parameter], letters: &[char]) -> Option<Vec<usize>> {
    let Some((parameter, others)) = parameters.split_first() else {
        return letters.is_empty().then(Vec::new);
    };
    for count in parameter.counts(letters) {
        if let Some(mut rest) = fit(others, &letters[count..]) {
            rest.insert(0, count);
            return Some(rest);
        }
    }
    None
}

/// How many letters from the start the parameters take.
fn longest(parameters: &[Parameter], letters: &[char]) -> Option<usize> {
    let Some((parameter, others)) = parameters.split_first() else {
        return Some(0);
    };
    let mut counts = parameter.counts(letters);
    counts.find_map(|count| Some(count + longest(others, &letters[count..])?))
}

impl Parameter {
    /// The numbers of letters it can take, greatest first.
    fn counts(&self, letters: &[char]) -> std::iter::Rev<std::ops::RangeInclusive<usize>> {
        let fitting = letters
            .iter()
            .take_while(|&&letter| self.types.contains(letter));
        let most = match self.times {
            Times::Several => fitting.count(),
            _ => fitting.count().min(1),
        };
        let least = usize::from(self.times != Times::Optional);
        (least..=most).rev()
    }

    fn accept(&self, argument: Value, number: usize) -> Result<Value, Error> {
        if !self.array || matches!(argument, Value::Undefined) {
            return Ok(argument);
        }
        if let Some(items) = &self.items {
            let wanted = items.chars().next().unwrap_or('x');
            let good = match &argument {
                // Any items will do as long as the first has the type and the others its own.
                Value::Array(array) => array.items.iter().all(|item| letter(item) == wanted),
                other => letter(other) == wanted && items.len() == 1,
            };
            if !good {
                let message = format!(
                    "argument {number} of the function must be an array of {}",
                    plural(wanted)
                );
                return Err(Error::new("T0412", message));
            }
        }
        match argument {
            array @ Value::Array(_) => Ok(array),
            single => Ok(Value::array(Array::plain(vec![single]))),
        }
    }
}

fn plural(letter: char) -> &'static str {
    match letter {
        's' => "strings",
        'n' => "numbers",
        'b' => "booleans",
        'o' => "objects",
        'a' => "arrays",
        'f' => "functions",
        _ => "values",
    }
}
