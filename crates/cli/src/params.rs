//! Parameters of a call: from flags, a file, standard input or text.

use std::io::Read as _;

use serde_json::{Map, Value};

use crate::Failure;
use crate::arguments::Params;

/// The object to send.
pub(crate) fn read(params: &Params) -> Result<Map<String, Value>, Failure> {
    let ways = usize::from(!params.params.is_empty())
        + usize::from(params.params_file.is_some())
        + usize::from(params.data.is_some());
    if ways > 1 {
        return Err(Failure::arguments(
            "Parameters must be specified using either --param OR --params_file OR --data",
        ));
    }
    if let Some(file) = &params.params_file {
        let text = std::fs::read_to_string(file).map_err(|error| {
            Failure::arguments(format!(
                "Could not read parameters from '{}': {error}",
                file.display()
            ))
        })?;
        return object(&text, &file.display().to_string());
    }
    match params.data.as_deref() {
        Some(argument) => {
            let (text, place) = data(argument)?;
            object(&text, &place)
        }
        None => pairs(&params.params),
    }
}

/// JSON of any kind: the text itself, `@FILE`, or `-` for standard input.
pub(crate) fn value(argument: &str) -> Result<Value, Failure> {
    let (text, place) = data(argument)?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::arguments(format!("Could not parse JSON from '{place}': {error}"))
    })
}

/// What `--data` means, and what to call that.
fn data(argument: &str) -> Result<(String, String), Failure> {
    if argument == "-" {
        let mut text = String::new();
        let read = std::io::stdin().read_to_string(&mut text);
        read.map_err(|error| {
            Failure::arguments(format!("Could not read standard input: {error}"))
        })?;
        return Ok((text, "standard input".to_owned()));
    }
    match argument.strip_prefix('@') {
        Some(file) => match std::fs::read_to_string(file) {
            Ok(text) => Ok((text, file.to_owned())),
            Err(error) => Err(Failure::arguments(format!(
                "Could not read parameters from '{file}': {error}"
            ))),
        },
        None => Ok((argument.to_owned(), "--data".to_owned())),
    }
}

fn object(text: &str, place: &str) -> Result<Map<String, Value>, Failure> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Failure::arguments(format!(
            "Could not parse JSON-encoded parameters from '{place}': an object is expected"
        ))),
        Err(error) => Err(Failure::arguments(format!(
            "Could not parse JSON-encoded parameters from '{place}': {error}"
        ))),
    }
}

fn pairs(arguments: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut object = Map::new();
    for argument in arguments {
        if let Some((name, json)) = argument.split_once(":=")
            && !name.contains([':', ','])
        {
            let value = serde_json::from_str(json).map_err(|error| {
                Failure::arguments(format!("parameter '{argument}': not JSON: {error}"))
            })?;
            object.insert(name.to_owned(), value);
            continue;
        }
        for (name, text) in named(argument)? {
            object.insert(name, Value::String(text));
        }
    }
    Ok(object)
}

/// `name:value` pairs, separated by commas as in a line of CSV.
pub(crate) fn named(argument: &str) -> Result<Vec<(String, String)>, Failure> {
    fields(argument)
        .into_iter()
        .map(|field| match field.split_once(':') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(Failure::arguments(format!(
                "'{field}': write NAME:VALUE (or NAME:=JSON for a parameter)"
            ))),
        })
        .collect()
}

/// Splits at commas; a field in double quotes may contain them, with `""` for a quote.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(char) = chars.next() {
        let Some(field) = fields.last_mut() else {
            break;
        };
        match char {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_text_or_json() {
        let arguments: Vec<String> = [
            "a:2",
            "b:x:y",
            "c:1,d:2",
            "n:=5",
            "l:=[1,{\"k\":2}]",
            "\"q:1,2\"",
        ]
        .map(Into::into)
        .into();
        let object = Value::Object(pairs(&arguments).unwrap());
        let expected = serde_json::json!({
            "a": "2", "b": "x:y", "c": "1", "d": "2", "n": 5, "l": [1, {"k": 2}], "q": "1,2"
        });
        assert_eq!(object, expected);
        assert!(pairs(&["bad".into()]).is_err());
        assert!(pairs(&["n:=oops".into()]).is_err());
    }
}
