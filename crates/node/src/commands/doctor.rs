//! `serverledge doctor`: what this machine can isolate.

use std::process::ExitCode;

/// Prints the report; fails when functions can't be isolated.
#[expect(clippy::print_stdout, reason = "the command's product")]
pub(crate) fn run() -> ExitCode {
    let report = serverledge_sandbox::probe::isolation();
    print!("{report}");
    if report.can_isolate() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
