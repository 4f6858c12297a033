//! `serverledge doctor`: what this machine can isolate.

use std::path::Path;
use std::process::ExitCode;

use serverledge_sandbox::docker::{Engine, SOCKET};
use serverledge_sandbox::probe::Item;

use super::serve;

/// Prints the report; fails when functions can't be isolated.
#[expect(clippy::print_stdout, reason = "the command's product")]
pub(crate) fn run() -> ExitCode {
    let mut report = serverledge_sandbox::probe::isolation();
    let docker = docker();
    let isolates = report.can_isolate() || docker.available;
    report.items.push(docker);
    print!("{report}");
    if isolates {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Whether a Docker engine is at hand, the other way to make sandboxes.
fn docker() -> Item {
    let connect = Engine::connect(Path::new(SOCKET));
    let engine = serve::runtime().map(|runtime| runtime.block_on(connect));
    let found = match engine {
        Ok(Ok(engine)) => Ok(format!("API {} at {SOCKET}", engine.api_version())),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    Item {
        name: "Docker engine".to_owned(),
        available: found.is_ok(),
        required: false,
        remedy: found.is_err().then(|| {
            "only sandbox.backend: docker needs it (Debian: apt install docker.io)".to_owned()
        }),
        detail: found.unwrap_or_else(|lack| lack),
    }
}
