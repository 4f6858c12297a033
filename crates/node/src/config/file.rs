//! Finding the configuration file and reading its settings, whatever its format.

use std::path::{Path, PathBuf};

use super::value::{Scalar, Tree};

const BASE_NAME: &str = "serverledge-conf";

/// In the order in which they are looked for, which is the original's.
const ENDINGS: [&str; 8] = [
    "json",
    "toml",
    "yaml",
    "yml",
    "properties",
    "props",
    "prop",
    "hcl",
];

/// The first file there is.
pub(super) fn find(directories: &[PathBuf]) -> Option<PathBuf> {
    directories.iter().find_map(|directory| {
        let candidates = ENDINGS
            .iter()
            .map(|ending| directory.join(format!("{BASE_NAME}.{ending}")));
        // A directory of that name isn't meant.
        candidates
            .into_iter()
            .find(|path| path.exists() && !path.is_dir())
    })
}

/// The settings of a file: dotted keys in lower case, in the order of the file. An error is a
/// text.
pub(super) fn read(path: &Path) -> Result<Vec<(String, Scalar)>, String> {
    let ending = path
        .extension()
        .map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    let parse = match ending.as_deref() {
        Some("json") => parse_json,
        Some("toml") => parse_toml,
        Some("yaml" | "yml") => parse_yaml,
        Some("properties" | "props" | "prop") => parse_properties,
        Some("hcl") => {
            return Err("HCL is not supported: write the settings as YAML, TOML or JSON".into());
        }
        _ => {
            let endings = ENDINGS[..7].join(", .");
            return Err(format!(
                "the format can't be told from the name: it must end in .{endings}"
            ));
        }
    };
    let bytes = std::fs::read(path).map_err(|error| format!("it can't be read: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_string())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let tree = parse(text)?;
    let mut settings = Vec::new();
    match tree {
        Tree::Section(_) => flatten(tree, "", &mut settings),
        // A file of nothing but comments.
        Tree::Scalar(Scalar::Null) => {}
        Tree::Scalar(scalar) => return Err(format!("expected settings, found {scalar}")),
    }
    Ok(settings)
}

fn flatten(tree: Tree, prefix: &str, settings: &mut Vec<(String, Scalar)>) {
    match tree {
        Tree::Scalar(scalar) => settings.push((prefix.to_string(), scalar)),
        Tree::Section(entries) => {
            for (name, entry) in entries {
                let name = name.to_lowercase();
                let key = if prefix.is_empty() {
                    name
                } else {
                    format!("{prefix}.{name}")
                };
                flatten(entry, &key, settings);
            }
        }
    }
}

fn parse_json(text: &str) -> Result<Tree, String> {
    serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))
}

fn parse_toml(text: &str) -> Result<Tree, String> {
    toml::from_str(text)
        .map_err(|error| format!("it is not TOML: {}", error.to_string().trim_end()))
}

fn parse_yaml(text: &str) -> Result<Tree, String> {
    serde_norway::from_str(text).map_err(|error| format!("it is not YAML: {error}"))
}

/// Java's format as far as people use it: `key = value`, `key: value` or `key value`, comments
/// with `#` and `!`, a backslash at the end of a line that goes on, and escapes.
fn parse_properties(text: &str) -> Result<Tree, String> {
    let mut entries = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut line = line.trim_start().to_string();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        while goes_on(&line) {
            line.pop();
            line.push_str(lines.next().unwrap_or_default().trim_start());
        }
        let (key, value) = split_property(&line);
        entries.push((unescape(key), Tree::Scalar(Scalar::Text(unescape(value)))));
    }
    Ok(Tree::Section(entries))
}

fn goes_on(line: &str) -> bool {
    let backslashes = line.bytes().rev().take_while(|byte| *byte == b'\\').count();
    backslashes % 2 == 1
}

fn split_property(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let ends = !escaped && (c == '=' || c == ':' || c.is_whitespace());
        escaped = c == '\\' && !escaped;
        ends
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim();
    let value = rest.strip_prefix(['=', ':']).map_or(rest, str::trim_start);
    (key, value)
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => plain.push('\n'),
            Some('t') => plain.push('\t'),
            Some('r') => plain.push('\r'),
            Some('u') => {
                let digits: String = characters.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16)
                    .ok()
                    .and_then(char::from_u32);
                plain.push(code.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    plain
}
