//! Texts that never belong in a file of the project: loose ends, and names that hold on one machine
//! only.

/// Loose ends. Written in halves, or this file would be the first to break the rule.
const LOOSE_ENDS: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// Directories that exist on the machine of whoever wrote the text.
const MACHINE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// Hosts that a text may name. A registry's mirror that slips into `Cargo.lock` breaks everybody
/// else's build.
const HOSTS: [&str; 10] = [
    "127.0.0.1",
    "localhost",
    "[::1",
    "github.com",
    "crates.io",
    "docs.rs",
    "doc.rust-lang.org",
    "keepachangelog.com",
    "semver.org",
    // What Docker Hub is called where Docker keeps passwords.
    "index.docker.io",
];

/// What is wrong with a line, if anything.
pub(super) fn problem(line: &str) -> Option<String> {
    if let Some(word) = LOOSE_ENDS.iter().find(|word| has_word(line, word)) {
        return Some(format!("`{word}`: do it, or say in an issue what is left"));
    }
    if let Some(path) = MACHINE_PATHS.iter().find(|path| has_path(line, path)) {
        return Some(format!("`{path}`: a path of one machine"));
    }
    let host = hosts(line).find(|host| !is_public(host))?;
    Some(format!("`{host}`: not a host that files may name"))
}

fn has_word(line: &str, word: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_none_or(|byte| !byte.is_ascii_alphanumeric());
    line.match_indices(word).any(|(at, _)| {
        let bytes = line.as_bytes();
        edge(at.checked_sub(1).map(|before| &bytes[before])) && edge(bytes.get(at + word.len()))
    })
}

/// The path as the beginning of a path: `/proc/1` may well go on like that.
fn has_path(line: &str, path: &str) -> bool {
    let within = |byte: u8| byte.is_ascii_alphanumeric() || b"._-}*".contains(&byte);
    line.match_indices(path)
        .any(|(at, _)| at == 0 || !within(line.as_bytes()[at - 1]))
}

fn hosts(line: &str) -> impl Iterator<Item = &str> {
    ["http://", "https://"]
        .into_iter()
        .flat_map(|scheme| line.split(scheme).skip(1))
        .map(|rest| {
            let end = |c: char| !(c.is_ascii_alphanumeric() || ".-[:{".contains(c));
            let authority = rest.split(end).next().unwrap_or_default();
            // The port is not the host's name, but IPv6 has colons of its own.
            if authority.starts_with('[') {
                authority
            } else {
                authority.split(':').next().unwrap_or_default()
            }
        })
}

/// Known, an example's, or put in by a program.
fn is_public(host: &str) -> bool {
    host.is_empty()
        || host.contains('{')
        || HOSTS
            .iter()
            .any(|known| host.starts_with(known) || host.ends_with(&format!(".{known}")))
        || ["example", "example.com", "example.org", "invalid", "test"]
            .iter()
            .any(|end| host == *end || host.ends_with(&format!(".{end}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loose_ends_and_machine_paths_are_found() {
        for line in [
            concat!("// TO", "DO: later"),
            concat!("open(\"/wo", "rk/x\")"),
            concat!("cd /ro", "ot/project"),
            concat!("registry = \"http", "s://mirror.internal:8443/index\""),
        ] {
            assert!(problem(line).is_some(), "{line}");
        }
    }

    #[test]
    fn ordinary_lines_pass() {
        for line in [
            "a mastodon",
            concat!("/proc/1/ro", "ot/etc"),
            concat!("crates/wo", "rk/x"),
            "curl http://127.0.0.1:1323/status",
            "http://{address}/status and http://[::1]:80/",
            "source = \"registry+https://github.com/rust-lang/crates.io-index\"",
            "https://faas.example.com/x",
        ] {
            assert_eq!(problem(line), None, "{line}");
        }
    }
}
