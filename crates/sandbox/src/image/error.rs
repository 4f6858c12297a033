//! What can go wrong with images.

use std::io;

/// Why an image can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not the name of an image.
    #[error("'{name}' is no name of an image: {problem}")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It isn't here.
    #[error("no image here is called {0}")]
    Missing(String),
    /// It can't be used here: malformed, hostile, for another machine, or above a limit.
    #[error("{0}")]
    Invalid(String),
    /// The registry didn't give it.
    #[error("the registry {registry} {problem}")]
    Registry {
        /// Its host.
        registry: String,
        /// What it did.
        problem: String,
        /// Whether another try may do better.
        transient: bool,
    },
    /// Something on this machine failed.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// How it failed.
        source: io::Error,
    },
}

impl ImageError {
    pub(super) fn invalid(what: impl Into<String>) -> Self {
        ImageError::Invalid(what.into())
    }

    /// For `map_err`.
    pub(super) fn io<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> ImageError {
        let doing = doing.into();
        move |source| ImageError::Io {
            doing,
            source: source.into(),
        }
    }

    /// All of it, with its causes.
    pub fn chain(&self) -> String {
        match self {
            ImageError::Io { doing, source } => format!("{doing}: {source}"),
            other => other.to_string(),
        }
    }
}
