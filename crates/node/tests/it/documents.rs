//! The commands and settings in the documents, as a reader would type them: every line of a shell
//! block runs, in order, from the project's root, against a node of the test; every key of a YAML
//! block exists.
//!
//! What builds or checks the project itself (`cargo build`, `cargo xtask`) is CI's own work and is
//! not run again from within a test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{balancer, node};

pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const SERVERLEDGE: &str = env!("CARGO_BIN_EXE_serverledge");

/// Documents whose commands stand alone. Others have a test of their own.
const DOCUMENTS: [&str; 2] = ["README.md", "CONTRIBUTING.md"];

/// The load balancer's, which needs one.
const BALANCER: &str = "docs/load-balancer.md";

/// Whose commands are run in `components`.
pub(crate) const WEBASSEMBLY: &str = "docs/webassembly.md";

/// The lines of all blocks in this language, joined where they are continued.
pub(crate) fn blocks(document: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(ROOT).join(document)).expect("a document");
    let mut lines: Vec<String> = Vec::new();
    let mut inside = false;
    let mut continued = false;
    for line in text.lines() {
        if let Some(fence) = line.strip_prefix("```") {
            inside = fence == language;
            continue;
        }
        if !inside || line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (part, goes_on) = match line.strip_suffix('\\') {
            Some(part) => (part, true),
            None => (line, false),
        };
        match lines.last_mut().filter(|_| continued) {
            Some(last) => last.push_str(part.trim_start()),
            None => lines.push(part.to_owned()),
        }
        continued = goes_on;
    }
    lines
}

/// The client, which is built beside the node.
fn client() -> PathBuf {
    let client = Path::new(SERVERLEDGE).with_file_name("serverledge-cli");
    assert!(
        client.exists(),
        "no client: `cargo build --workspace` first"
    );
    client
}

/// What functions are compiled with that come from npm and PyPI.
const COMPILERS: [&str; 2] = [
    "target/javascript/node_modules/.bin/",
    "target/python/bin/componentize-py",
];

/// What is typed in place of a command of the documents; `None` if it isn't for a test.
pub(crate) fn typed(command: &str) -> Option<String> {
    let client = client();
    if let Some(arguments) = command.strip_prefix("cargo run --release -- ") {
        // As it stands there it would serve until Ctrl-C.
        let (arguments, comment) = arguments.split_once('#').unwrap_or((arguments, ""));
        let once = arguments.trim_end();
        return Some(format!("{SERVERLEDGE} {once} --port 0 --once #{comment}"));
    }
    if command.starts_with("cargo ") {
        return None;
    }
    let program = command.split_whitespace().next();
    let alone = command.split('#').next().map(str::trim) == program;
    match program {
        // The node that the test has started.
        Some("target/release/serverledge") if alone => None,
        Some("target/release/serverledge") if command.contains(" lb ") => None,
        Some("curl") => Some(command.to_owned()),
        Some("target/release/serverledge" | "target/release/serverledge-cli") => {
            let client = client.to_string_lossy();
            let command = command.replace("target/release/serverledge-cli", &client);
            Some(command.replace("target/release/serverledge", SERVERLEDGE))
        }
        // What the set-up has installed.
        Some("npm" | "python3" | "target/python/bin/pip") => None,
        // A compiler of functions.
        Some("javac" | "clang" | "rustc") => Some(command.to_owned()),
        Some(program) if program.starts_with(COMPILERS[0]) || program == COMPILERS[1] => {
            Some(command.to_owned())
        }
        _ => panic!("no rule for the command `{command}`: say here how it is run"),
    }
}

/// How long a command may take, seconds. Some compile an interpreter.
const PATIENCE: &str = "1200";

pub(crate) fn run(command: &str, port: u16, storage: &Path) -> Output {
    Command::new("timeout")
        .args([PATIENCE, "sh", "-c", command])
        .current_dir(ROOT)
        .env("SERVERLEDGE_PORT", port.to_string())
        .env("SERVERLEDGE_STORAGE_PATH", storage)
        .output()
        .expect("running a shell")
}

#[test]
fn commands_in_the_documents_work() {
    let node = node().start();
    let storage = tempfile::tempdir().expect("a temporary directory");
    let mut request = String::new();
    let mut count = 0;
    for document in DOCUMENTS {
        for command in blocks(document, "sh") {
            let Some(typed) = typed(&command) else {
                continue;
            };
            let typed = typed.replace("REQ_ID", &request);
            let output = run(&typed, node.address.port(), storage.path());
            let (said, complaint) = (
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
            );
            assert!(
                output.status.success(),
                "{document}: `{command}`: {}\n{said}{complaint}",
                output.status
            );
            if let Some((_, id)) = said.split_once("\"ReqId\": \"") {
                request = id.split('"').next().unwrap_or_default().to_owned();
                node.poll(&request);
            }
            count += 1;
        }
    }
    assert!(count >= 8, "only {count} commands were found");
}

#[test]
fn commands_in_the_load_balancers_document_work() {
    let node = node().start();
    // As the document says, but for the ports.
    let settings = blocks(BALANCER, "yaml");
    let alone = settings
        .iter()
        .skip_while(|it| !it.starts_with("lb.targets"));
    let alone: Vec<&str> = alone.map(String::as_str).collect();
    let nodes = "127.0.0.1:1323, 127.0.0.1:1324";
    let yaml = alone.join("\n");
    assert!(yaml.contains(nodes), "{yaml}");
    let yaml = yaml.replace(nodes, &node.address.to_string());
    let balancer = balancer().config(&yaml).start();
    let port = balancer.address.port();
    let storage = tempfile::tempdir().expect("a temporary directory");
    let mut count = 0;
    for command in blocks(BALANCER, "sh") {
        let Some(typed) = typed(&command) else {
            continue;
        };
        let typed = typed.replace("127.0.0.1:1330", &format!("127.0.0.1:{port}"));
        let output = run(&typed, port, storage.path());
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        let is_well = output.status.success() && !said.is_empty();
        assert!(is_well, "`{command}`: {}\n{said}{complaint}", output.status);
        count += 1;
    }
    assert_eq!(count, 5);
}

#[test]
fn settings_in_the_documents_exist() {
    let output = Command::new(SERVERLEDGE)
        .arg("config")
        .output()
        .expect("running the node");
    let known = String::from_utf8_lossy(&output.stdout);
    let others = [BALANCER, WEBASSEMBLY, "docs/fleet.md", "docs/workflows.md"];
    for document in DOCUMENTS.into_iter().chain(others) {
        for line in blocks(document, "yaml") {
            let key = line.split(':').next().unwrap_or_default().trim();
            let found = known
                .lines()
                .any(|line| line.starts_with(&format!("{key} (")));
            assert!(found, "{document} sets {key}, which `config` doesn't know");
        }
    }
}
