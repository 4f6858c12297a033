//! What is wrong with a definition, where, and what to do about it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::json::{self, line_and_column};

/// Codes are those of AWS's `ValidateStateMachineDefinition`, where it has one.
pub mod code {
    /// The text is not JSON.
    pub const INVALID_JSON: &str = "INVALID_JSON_DESCRIPTION";
    /// A field is missing, unknown, or of the wrong type or range.
    pub const SCHEMA: &str = "SCHEMA_VALIDATION_FAILED";
    /// A path, call or expression can't be parsed.
    pub const EXPRESSION: &str = "INVALID_EXPRESSION";
    /// A `Resource` can't be one.
    pub const RESOURCE: &str = "INVALID_RESOURCE";
    /// A name leads nowhere.
    pub const TARGET: &str = "MISSING_TRANSITION_TARGET";
    /// No way leads to a state.
    pub const UNREACHABLE: &str = "UNREACHABLE_STATE";
    /// No state ends the scope.
    pub const NO_END: &str = "MISSING_END_STATE";
    /// A state's name is used twice.
    pub const DUPLICATE_NAME: &str = "DUPLICATE_STATE_NAME";
    /// A key is given twice in one object.
    pub const DUPLICATE_KEY: &str = "DUPLICATE_KEY";
    /// A state's name is empty or too long.
    pub const STATE_NAME: &str = "INVALID_STATE_NAME";
    /// A variable's name is not allowed, or belongs to an outer scope.
    pub const VARIABLE: &str = "INVALID_VARIABLE_NAME";
    /// A label is used twice.
    pub const DUPLICATE_LABEL: &str = "DUPLICATE_LABEL_NAME";
    /// A label is not allowed.
    pub const LABEL: &str = "INVALID_LABEL_NAME";
    /// Scopes are nested too deeply.
    pub const DEPTH: &str = "TOO_DEEPLY_NESTED";
    /// Warning: a value looks like a path, but its key does not end in `.$`.
    pub const NO_DOLLAR: &str = "NO_DOLLAR";
    /// Warning: a value looks like a path, but its field's name does not end in `Path`.
    pub const NO_PATH: &str = "NO_PATH";
    /// Warning: a path in the `Result` of a Pass state is not evaluated.
    pub const STATIC_RESULT: &str = "PASS_RESULT_IS_STATIC";
    /// Warning: an error's name is unknown.
    pub const UNKNOWN_ERROR: &str = "UNKNOWN_ERROR_NAME";
    /// Warning: a field has no effect.
    pub const NO_EFFECT: &str = "FIELD_WITHOUT_EFFECT";
}

/// How bad it is: only errors make a definition invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// The definition can't be used.
    Error,
    /// It can, but hardly means what it says.
    Warning,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether it makes the definition invalid.
    pub severity: Severity,
    /// Stable identifier.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// JSON pointer of the value concerned.
    pub pointer: String,
    /// Line, from 1, when there is a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Column in characters, from 1, when there is a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// What to write instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl Diagnostic {
    /// Whether it makes the definition invalid.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// Finds line and column of each diagnostic in the text.
pub(crate) fn locate(diagnostics: &mut [Diagnostic], text: &str) {
    if diagnostics.is_empty() {
        return;
    }
    let positions: BTreeMap<String, usize> = json::positions(text);
    for diagnostic in diagnostics {
        let mut pointer = diagnostic.pointer.as_str();
        // What is missing stands nowhere: its parent does.
        let offset = loop {
            match (positions.get(pointer), pointer.rfind('/')) {
                (Some(offset), _) => break *offset,
                (None, Some(at)) => pointer = &pointer[..at],
                (None, None) => break 0,
            }
        };
        let (line, column) = line_and_column(text, offset);
        diagnostic.line = Some(line);
        diagnostic.column = Some(column);
    }
}

/// The known word nearest to a misspelt one.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let rated = known.into_iter().map(|one| {
        (
            strsim::damerau_levenshtein(&lower, &one.to_lowercase()),
            one,
        )
    });
    let limit = (word.chars().count() / 3).max(1);
    let best = rated.min_by_key(|(distance, _)| *distance);
    best.filter(|(distance, _)| *distance <= limit)
        .map(|(_, one)| one)
}
