//! Which crate may depend on what. Dependencies point inward, and the pure crates have next to none.

/// Direct dependencies that a crate may have.
pub(super) struct Allowed {
    /// Its folder.
    pub(super) directory: &'static str,
    /// Crates of this workspace, without `serverledge-`.
    ours: &'static [&'static str],
    /// Crates of others; `None` is all.
    others: Option<&'static [&'static str]>,
}

pub(super) const CRATES: [Allowed; 8] = [
    Allowed {
        directory: "crates/core",
        ours: &[],
        others: Some(&["good_lp", "thiserror"]),
    },
    Allowed {
        directory: "crates/asl",
        ours: &[],
        others: Some(&[
            "base64",
            "hex",
            "md-5",
            "regex",
            "serde",
            "serde_json",
            "sha1",
            "sha2",
            "stacker",
            "strsim",
            "thiserror",
        ]),
    },
    // Compiled alone by a build script, as a static program.
    Allowed {
        directory: "crates/executor",
        ours: &[],
        others: Some(&[]),
    },
    Allowed {
        directory: "crates/api",
        ours: &["core"],
        others: None,
    },
    Allowed {
        directory: "crates/sandbox",
        ours: &["core", "executor"],
        others: None,
    },
    Allowed {
        directory: "crates/testbed",
        ours: &["sandbox"],
        others: None,
    },
    Allowed {
        directory: "crates/node",
        ours: &["api", "asl", "core", "sandbox", "testbed"],
        others: None,
    },
    Allowed {
        directory: "crates/cli",
        ours: &["api", "core"],
        others: None,
    },
];

/// Dependencies in the manifest's text that the crate may not have.
pub(super) fn forbidden<'a>(allowed: &Allowed, manifest: &'a str) -> Vec<&'a str> {
    let mut names = dependencies(manifest);
    names.retain(|name| match name.strip_prefix("serverledge-") {
        Some(ours) => !allowed.ours.contains(&ours),
        None => allowed.others.is_some_and(|others| !others.contains(name)),
    });
    names
}

/// Names of normal and build dependencies. Those of tests are free.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        let line = line.trim();
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            // `[dependencies]`, `[target.'cfg(..)'.dependencies]`, or `[dependencies.name]`.
            inside = section.ends_with("dependencies") && !section.ends_with("dev-dependencies");
            let table = section.rsplit_once("dependencies.");
            if let Some((before, name)) = table
                && !before.ends_with("dev-")
            {
                names.push(name);
            }
        } else if inside && !line.starts_with('#') {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            names.extend((!name.is_empty()).then_some(name));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "\
[package]
name = \"x\"

[dependencies]
thiserror.workspace = true
# a comment
serverledge-core = { path = \"../core\" }

[dev-dependencies]
proptest = \"1\"

[target.'cfg(unix)'.dependencies]
libc = \"0.2\"

[build-dependencies.cc]
version = \"1\"
";

    #[test]
    fn all_kinds_of_dependencies_are_read() {
        let expected = ["thiserror", "serverledge-core", "libc", "cc"];
        assert_eq!(dependencies(MANIFEST), expected);
    }

    #[test]
    fn what_is_not_allowed_is_named() {
        let core = &CRATES[0];
        assert_eq!(
            forbidden(core, MANIFEST),
            ["serverledge-core", "libc", "cc"]
        );
        let cli = &CRATES[6];
        assert!(forbidden(cli, MANIFEST).is_empty());
    }
}
