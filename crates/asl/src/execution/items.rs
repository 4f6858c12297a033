//! Items of a distributed Map as they are read, batched and written.

use serde_json::{Map, Value};

use crate::machine::{Format, Reader};
use crate::number;

/// Items with their keys, if they are members of an object.
type Items = Vec<(Option<String>, Value)>;

/// The items in what a reader has read: a text in the reader's format, or JSON. With
/// `LOAD_AND_FLATTEN`, an array of such texts.
pub(super) fn read(reader: &Reader, content: Value) -> Result<Items, String> {
    match content {
        Value::Array(contents) if reader.loads => {
            let mut items = Items::new();
            for content in contents {
                match content {
                    Value::String(_) => items.extend(read_one(reader, content)?),
                    // Somebody has read it already.
                    item => items.push((None, item)),
                }
            }
            Ok(items)
        }
        content => read_one(reader, content),
    }
}

fn read_one(reader: &Reader, content: Value) -> Result<Items, String> {
    let content = match (&reader.format, content) {
        (Format::Inventory, Value::String(text)) => return csv(&text, ',', None),
        (Format::Csv { delimiter, headers }, Value::String(text)) => {
            return csv(&text, *delimiter, headers.as_deref());
        }
        (Format::JsonLines, Value::String(text)) => {
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            let values = lines.map(serde_json::from_str);
            values
                .collect::<Result<Vec<Value>, _>>()
                .map_err(|error| format!("Attempted to read an invalid JSON line: {error}"))?
                .into()
        }
        (Format::Json, Value::String(text)) => serde_json::from_str(&text)
            .map_err(|error| format!("Attempted to read an invalid JSON document: {error}"))?,
        (_, content) => content,
    };
    let content = match &reader.pointer {
        Some(pointer) => content
            .pointer(pointer)
            .cloned()
            .ok_or_else(|| format!("nothing is at the items' pointer '{pointer}'"))?,
        None => content,
    };
    match content {
        Value::Array(values) => Ok(values.into_iter().map(|value| (None, value)).collect()),
        Value::Object(map) => Ok(map
            .into_iter()
            .map(|(key, value)| (Some(key), value))
            .collect()),
        _ => Err("Attempted to map over data that is not an array or object".to_owned()),
    }
}

fn csv(text: &str, delimiter: char, headers: Option<&[String]>) -> Result<Items, String> {
    let mut rows = rows(text, delimiter).into_iter();
    let headers = match headers {
        Some(headers) => headers.to_vec(),
        None => rows.next().ok_or("the CSV file has no header")?,
    };
    let items = rows.map(|row| {
        let mut cells = row.into_iter();
        let members = headers.iter().map(|header| {
            let cell = cells.next().unwrap_or_default();
            (header.clone(), Value::from(cell))
        });
        (None, Value::Object(members.collect::<Map<_, _>>()))
    });
    Ok(items.collect())
}

/// Rows of a CSV text (RFC 4180): quotes around cells, doubled inside them. Empty lines are none.
fn rows(text: &str, delimiter: char) -> Vec<Vec<String>> {
    let text = text.trim_start_matches('\u{feff}');
    let mut rows = Vec::new();
    let mut row = Vec::new();
    let mut cell = String::new();
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted => match characters.next_if_eq(&'"') {
                Some(quote) => cell.push(quote),
                None => quoted = false,
            },
            '"' if cell.is_empty() => quoted = true,
            '\r' if !quoted && characters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            one if one == delimiter && !quoted => row.push(std::mem::take(&mut cell)),
            other => cell.push(other),
        }
    }
    if !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push(row);
    }
    rows.retain(|row| row.len() > 1 || row.iter().any(|cell| !cell.is_empty()));
    rows
}

/// Items in batches of at most so many items and bytes; an item that is too large stands alone.
pub(super) fn batches(values: Vec<Value>, items_max: usize, bytes_max: usize) -> Vec<Vec<Value>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0usize;
    for value in values {
        let size = match bytes_max {
            usize::MAX => 0,
            _ => number::json(&value).len() + 1,
        };
        let is_full = batch.len() >= items_max || bytes.saturating_add(size) > bytes_max;
        if is_full && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += size;
        batch.push(value);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// `FLATTEN`: arrays among the outputs give their members.
pub(super) fn flattened(outputs: Vec<Value>) -> Vec<Value> {
    let mut flat = Vec::new();
    for output in outputs {
        match output {
            Value::Array(values) => flat.extend(values),
            other => flat.push(other),
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn csv_has_quotes_headers_and_short_rows() {
        let text = "a,b\r\n1,\"x, \"\"y\"\"\"\r\n\r\n2\n";
        let items = csv(text, ',', None).unwrap();
        let expected = json!([{"a": "1", "b": "x, \"y\""}, {"a": "2", "b": ""}]);
        let values: Value = items.into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, expected);
    }

    #[test]
    fn batches_keep_to_their_limits() {
        let values: Vec<Value> = (0..5).map(Value::from).collect();
        let sizes = |items, bytes| {
            let batches = batches(values.clone(), items, bytes);
            batches.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(2, usize::MAX), [2, 2, 1]);
        assert_eq!(sizes(10, 6), [3, 2]);
        assert_eq!(sizes(10, 1), [1, 1, 1, 1, 1]);
    }
}
