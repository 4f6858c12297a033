//! Conditions of choices in the original's form, as expressions in JSONata.

use serde_json::Value;
use serverledge_api::Condition;

/// What every condition begins with: the parameters as a choice sees them, and how it compares.
///
/// `$time` and `$number` look at the form first, since they would otherwise fail; a text is
/// compared with a letter before it, because an empty match is an error in JSONata.
const PRELUDE: &str = r#"
$object := function($x) { $type($x) = "object" ? $x : {} };
$data := $merge([$object($states.context.Execution.Input), $object($states.input)]);
$get := function($name) { ($x := $lookup($data, $name); $exists($x) ? $x : null) };
$timed := function($x) { $type($x) = "string" and $contains($x, /^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[-+][0-9]{2}:[0-9]{2})$/) };
$whole := function($x) { $type($x) = "string" and $contains($x, /^-?[0-9]{1,15}$/) };
$numeric := function($x) { $type($x) = "string" and $contains($x, /^-?[0-9]{1,15}(\.[0-9]{1,15})?$/) };
$value := function($x, $y, $counts) {
  $timed($x) and $timed($y) ? $toMillis($x) : $counts($x) and $counts($y) ? $number($x) : $x
};
$equal := function($a, $b) {
  $type($a) = $type($b) and $value($a, $b, $whole) = $value($b, $a, $whole)
};
$less := function($a, $b) {
  $type($a) = $type($b) and $type($a) in ["number", "string"]
    ? $value($a, $b, $numeric) < $value($b, $a, $numeric) : false
};
$absent := function($x) { $type($x) = "null" or ($type($x) = "string" and $x = "null") };
$empty := function($x) {
  $type($x) = "null" ? true : $type($x) = "string" ? $x = "" : $type($x) = "array" ? $count($x) = 0
    : $type($x) = "object" ? $count($keys($x)) = 0 : false
};
"#;

/// The condition, ready for a rule of a Choice.
pub(super) fn test(condition: &Condition) -> Result<Value, String> {
    if let Some(constant) = constant(condition) {
        return Ok(Value::Bool(constant));
    }
    let expression = expression(condition)?;
    Ok(Value::String(format!("{{% ({PRELUDE}{expression}) %}}")))
}

fn constant(condition: &Condition) -> Option<bool> {
    let literal = condition.find.first() != Some(&true);
    (condition.kind == "Const" && literal).then(|| condition.operands.first()?.as_bool())?
}

fn expression(condition: &Condition) -> Result<String, String> {
    let kind = condition.kind.as_str();
    let inner = || -> Result<Vec<String>, String> {
        let inner = condition.inner.as_deref().unwrap_or_default();
        inner.iter().map(expression).collect()
    };
    let at = |index: usize| operand(condition, index);
    let is = |kind: &str, index| {
        Ok(format!(
            "$type({}) = \"{kind}\"",
            operand(condition, index)?
        ))
    };
    let unary = |function: &str| Ok(format!("${function}({})", at(0)?));
    Ok(match kind {
        "And" | "Or" => {
            let (word, none) = match kind {
                "And" => (" and ", "true"),
                _ => (" or ", "false"),
            };
            let inner = inner()?;
            match inner.is_empty() {
                true => none.to_owned(),
                false => format!("({})", inner.join(word)),
            }
        }
        "Not" => match inner()?.as_slice() {
            [one] => format!("$not({one})"),
            many => return Err(format!("Not is of one condition, not of {}", many.len())),
        },
        "Const" => format!("{} = true", at(0)?),
        "Eq" => format!("$equal({}, {})", at(0)?, at(1)?),
        "Diff" => format!("$not($equal({}, {}))", at(0)?, at(1)?),
        "Smaller" => format!("$less({}, {})", at(0)?, at(1)?),
        "Greater" => format!("$less({}, {})", at(1)?, at(0)?),
        "IsEmpty" => return unary("empty"),
        "IsNull" => return unary("absent"),
        "IsPresent" => format!("$type({}) != \"null\"", at(0)?),
        // The original takes only texts for numeric, as its command line sends nothing else.
        "IsNumeric" => format!("({} or {})", is("number", 0)?, unary("numeric")?),
        "IsString" => return is("string", 0),
        "IsBoolean" => return is("boolean", 0),
        "IsTimestamp" => return unary("timed"),
        "StringMatches" => matches(condition)?,
        other => return Err(format!("there is no type '{other}'")),
    })
}

/// An operand: a parameter's value, null if it isn't there, or a literal.
fn operand(condition: &Condition, index: usize) -> Result<String, String> {
    let kind = &condition.kind;
    let missing = || format!("{kind} has too few operands");
    let operand = condition.operands.get(index).ok_or_else(missing)?;
    if condition.find.get(index) != Some(&true) {
        return Ok(operand.to_string());
    }
    match operand {
        Value::String(name) => Ok(format!("$get({})", Value::from(name.as_str()))),
        other => Err(format!("{other} is no name of a parameter")),
    }
}

/// Texts by a pattern, in which a backslash makes the next character an ordinary one.
fn matches(condition: &Condition) -> Result<String, String> {
    let subject = operand(condition, 0)?;
    let is_literal = condition.find.get(1) != Some(&true);
    let pattern = condition.operands.get(1).and_then(Value::as_str);
    let Some(pattern) = pattern.filter(|_| is_literal) else {
        return Err("the pattern of StringMatches is a text, not a parameter".to_owned());
    };
    let mut regex = String::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '*' => regex.push_str("[\\s\\S]*"),
            '\\' => literal(characters.next().unwrap_or('\\'), &mut regex),
            other => literal(other, &mut regex),
        }
    }
    Ok(format!(
        "($x := {subject}; $type($x) = \"string\" and $contains(\"x\" & $x, /^x{regex}$/))"
    ))
}

fn literal(character: char, regex: &mut String) {
    match character {
        '\n' => regex.push_str("\\n"),
        '\r' => regex.push_str("\\r"),
        c if "^$\\.*+?()[]{}|/".contains(c) => regex.extend(['\\', c]),
        c => regex.push(c),
    }
}
