//! Names of images, as Docker reads them.

use std::fmt;
use std::str::FromStr;

use super::ImageError;

/// The registry that is meant where none is named.
const DOCKER_HUB: &str = "docker.io";
/// Longest name, of its parts more than any registry takes.
const NAME_MAX: usize = 512;
const TAG_MAX: usize = 128;

/// A name with all that short forms leave out: `python` is `docker.io/library/python:latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    pub(super) registry: String,
    pub(super) repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    /// Where the registry is reached.
    pub(super) fn host(&self) -> &str {
        match self.registry.as_str() {
            DOCKER_HUB => "registry-1.docker.io",
            other => other,
        }
    }

    /// The registry's name in files of credentials.
    pub(super) fn account(&self) -> &str {
        match self.registry.as_str() {
            DOCKER_HUB => "https://index.docker.io/v1/",
            other => other,
        }
    }

    /// What is asked of the registry: the digest if there is one.
    pub(super) fn version(&self) -> &str {
        let version = self.digest.as_deref().or(self.tag.as_deref());
        version.unwrap_or("latest")
    }

    pub(super) fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(name: &str) -> Result<Self, ImageError> {
        parse(name).map_err(|problem| ImageError::Name {
            name: name.chars().take(NAME_MAX).collect(),
            problem,
        })
    }
}

fn parse(name: &str) -> Result<Reference, &'static str> {
    if name.len() > NAME_MAX {
        return Err("it is too long");
    }
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    if digest.is_some_and(|digest| sha256_of(digest).is_none()) {
        return Err("after the @ must be sha256: and 64 digits of hexadecimal");
    }
    let (registry, rest) = match rest.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DOCKER_HUB, rest),
    };
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (rest, None),
    };
    let registry = match registry {
        "index.docker.io" => DOCKER_HUB,
        other => other,
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || ".-:".contains(c);
    if !registry.chars().all(is_host) {
        return Err("its registry is no host");
    }
    let is_path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    if !repository.chars().all(is_path) || !repository.split('/').all(is_part) {
        return Err("lower-case letters, digits and ._- make a path");
    }
    let is_tag = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if tag.is_some_and(|tag| tag.is_empty() || tag.len() > TAG_MAX || !tag.chars().all(is_tag)) {
        return Err("its tag is none");
    }
    let repository = match registry == DOCKER_HUB && !repository.contains('/') {
        true => format!("library/{repository}"),
        false => repository.to_owned(),
    };
    let tag = tag.or(digest.is_none().then_some("latest"));
    Ok(Reference {
        registry: registry.to_owned(),
        repository,
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    })
}

/// The hexadecimal part of a digest.
pub(super) fn sha256_of(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    (hex.len() == 64 && hex.bytes().all(is_hex)).then_some(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed_as_docker_does() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (short, long) in [
            ("python", "docker.io/library/python:latest"),
            ("python:3.14", "docker.io/library/python:3.14"),
            (
                "grussorusso/serverledge-python314",
                "docker.io/grussorusso/serverledge-python314:latest",
            ),
            ("localhost/a/b", "localhost/a/b:latest"),
            ("127.0.0.1:5000/a:1", "127.0.0.1:5000/a:1"),
            ("index.docker.io/x", "docker.io/library/x:latest"),
            (
                &format!("ghcr.io/a/b@{digest}"),
                &format!("ghcr.io/a/b@{digest}"),
            ),
        ] {
            let reference: Reference = short.parse().unwrap();
            assert_eq!(reference.to_string(), long);
            assert_eq!(long.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in [
            "",
            "a b",
            "A",
            "a/../b",
            "a//b",
            "a:",
            "a:b:c",
            "a@sha256:00",
            "/a",
            "http://a.example/b",
            "a?b",
            "a\nb",
        ] {
            assert!(name.parse::<Reference>().is_err(), "{name:?}");
        }
    }
}
