//! What is wrong with a configuration, and what is only odd.

use std::fmt;

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key or variable, as it was written; `None` if it is the file as a whole.
    pub key: Option<String>,
    /// Where it was found: a file, or "the environment".
    pub place: String,
    /// What is wrong and how to put it right.
    pub text: String,
}

/// Something that is accepted and doesn't do what may be expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The key or variable, as it was written.
    pub key: String,
    /// Where it was found.
    pub place: String,
    /// What doesn't happen.
    pub text: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [problem] = self.problems.as_slice() {
            return write!(formatter, "the configuration has a problem: {problem}");
        }
        write!(
            formatter,
            "the configuration has {} problems:",
            self.problems.len()
        )?;
        self.problems
            .iter()
            .try_for_each(|problem| write!(formatter, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(formatter, "{key} (in {}) {}", self.place, self.text),
            None => write!(formatter, "{}: {}", self.place, self.text),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (in {}): {}", self.key, self.place, self.text)
    }
}
