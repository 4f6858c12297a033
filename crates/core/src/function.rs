//! What a function may be called and which runtimes there are.

/// Longest name, bytes.
const NAME_MAX: usize = 512;

/// A function's name: not empty, of bounded length, without control characters. Slashes and spaces
/// are allowed, as in the original.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FunctionName(String);

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// There is none.
    #[error("a name is required")]
    Empty,
    /// It is too long.
    #[error("the name is longer than {NAME_MAX} bytes")]
    TooLong,
    /// It can't be printed.
    #[error("the name has a control character")]
    Control,
}

impl FunctionName {
    /// Checks `name`.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        if name.is_empty() {
            Err(InvalidName::Empty)
        } else if name.len() > NAME_MAX {
            Err(InvalidName::TooLong)
        } else if name.chars().any(char::is_control) {
            Err(InvalidName::Control)
        } else {
            Ok(Self(name.to_owned()))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The language of a runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Python 3.
    Python,
    /// Node.js.
    Node,
    /// Go: a program that holds the handler.
    Go,
    /// Java.
    Java,
    /// Whatever was compiled to WebAssembly.
    Wasm,
    /// Any program.
    Custom,
}

impl Language {
    /// Where its interpreter is on most machines.
    pub fn interpreter(self) -> &'static str {
        match self {
            Self::Python => "/usr/bin/python3",
            Self::Node => "/usr/bin/node",
            Self::Java => "/usr/bin/java",
            Self::Go | Self::Wasm | Self::Custom => "",
        }
    }
}

/// A runtime: an entry in a table, not a branch in code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runtime {
    /// Its language.
    pub language: Language,
    /// Whether one sandbox can serve several calls at once.
    pub supports_concurrency: bool,
}

/// Names of runtimes in the wild, of this and of older versions of the original.
const RUNTIMES: [(&str, Language); 14] = [
    ("python314", Language::Python),
    ("python312ml", Language::Python),
    ("python310", Language::Python),
    ("python38", Language::Python),
    ("nodejs17ng", Language::Node),
    ("nodejs17", Language::Node),
    ("go125", Language::Go),
    ("java21", Language::Java),
    ("java17", Language::Java),
    ("wasm", Language::Wasm),
    ("custom", Language::Custom),
    // AWS Lambda's names for a program that brings its own runtime.
    ("provided", Language::Custom),
    ("provided.al2", Language::Custom),
    ("provided.al2023", Language::Custom),
];

impl Runtime {
    /// The runtime called `name`.
    pub fn by_name(name: &str) -> Option<Self> {
        RUNTIMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, language)| Self::of(*language))
    }

    /// What is true of every runtime of `language`.
    pub fn of(language: Language) -> Self {
        let supports_concurrency = matches!(
            language,
            Language::Python | Language::Go | Language::Java | Language::Wasm
        );
        Self {
            language,
            supports_concurrency,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_names_and_empty_ones_are_not() {
        for name in ["a", "a/b c", "ünï", "..", "%2F"] {
            assert!(FunctionName::new(name).is_ok(), "{name}");
        }
        assert_eq!(FunctionName::new(""), Err(InvalidName::Empty));
        assert_eq!(FunctionName::new("a\nb"), Err(InvalidName::Control));
        assert_eq!(
            FunctionName::new(&"x".repeat(513)),
            Err(InvalidName::TooLong)
        );
    }

    #[test]
    fn runtimes_are_found_by_name() {
        assert_eq!(
            Runtime::by_name("python314").unwrap().language,
            Language::Python
        );
        assert!(Runtime::by_name("wasm").unwrap().supports_concurrency);
        assert!(!Runtime::by_name("nodejs17ng").unwrap().supports_concurrency);
        assert_eq!(Runtime::by_name("cobol"), None);
    }
}
