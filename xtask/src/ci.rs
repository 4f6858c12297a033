//! `cargo xtask ci`: everything that must hold, in the order in which it fails fastest.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::{cargo, registries, setup, suite, tidy};

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// What CI runs.
    Everything,
    /// What needs no set-up: format, tidy, clippy, unit tests.
    Fast,
}

/// One thing that must hold.
struct Step {
    name: &'static str,
    run: fn() -> anyhow::Result<()>,
    /// What to do about a failure.
    advice: &'static str,
    scopes: &'static [Scope],
}

const BOTH: &[Scope] = &[Scope::Everything, Scope::Fast];
const EVERYTHING: &[Scope] = &[Scope::Everything];

const STEPS: [Step; 13] = [
    Step {
        name: "set-up",
        run: setup::packages,
        advice: "install what is named above by hand, then again",
        scopes: EVERYTHING,
    },
    Step {
        name: "toolchain",
        run: setup::toolchain,
        advice: "install rustfmt and clippy for this toolchain",
        scopes: BOTH,
    },
    Step {
        name: "format",
        run: || cargo(&["fmt", "--all", "--", "--check"], &[]),
        advice: "`cargo fmt --all` repairs it",
        scopes: BOTH,
    },
    Step {
        name: "tidy",
        run: tidy::run,
        advice: "each line above is a broken rule; CONTRIBUTING.md has the reasons",
        scopes: BOTH,
    },
    Step {
        name: "clippy",
        run: clippy,
        advice: "mend the first warning above; `#[expect(.., reason = ..)]` if it is wrong",
        scopes: BOTH,
    },
    Step {
        name: "unit tests",
        run: || cargo(&["test", "--locked", "--workspace", "--lib", "--bins"], &[]),
        advice: "`cargo test -p PACKAGE --lib NAME` runs one alone",
        scopes: &[Scope::Fast],
    },
    Step {
        name: "get Go's",
        run: setup::go_modules,
        advice: "Go's module proxy must be reachable, once on a machine",
        scopes: EVERYTHING,
    },
    Step {
        name: "get npm's",
        run: registries::install,
        advice: "npm's and PyPI's registries must be reachable, once a checkout",
        scopes: EVERYTHING,
    },
    Step {
        name: "Go tests",
        run: setup::go_tests,
        advice: "`go test .` in sdk/go says what is wrong",
        scopes: EVERYTHING,
    },
    Step {
        name: "tests",
        run: tests,
        advice: "`cargo test -p PACKAGE --test it NAME -- --nocapture` runs one alone",
        scopes: EVERYTHING,
    },
    Step {
        name: "doc",
        run: documentation,
        advice: "mend the comment that is named above",
        scopes: EVERYTHING,
    },
    Step {
        name: "get deny",
        run: setup::cargo_deny,
        advice: "install cargo-deny by hand (it needs the network), then again",
        scopes: EVERYTHING,
    },
    Step {
        name: "deny",
        run: deny,
        advice: "choose another dependency, or change deny.toml with a reason",
        scopes: EVERYTHING,
    },
];

/// Runs the steps; stops at the first that fails.
pub(crate) fn run(scope: Scope) -> anyhow::Result<()> {
    let steps: Vec<&Step> = STEPS
        .iter()
        .filter(|step| step.scopes.contains(&scope))
        .collect();
    let began = Instant::now();
    let mut done: Vec<(&str, Duration)> = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        println!("== {} ({} of {})", step.name, number + 1, steps.len());
        let step_began = Instant::now();
        let result = (step.run)();
        done.push((step.name, step_began.elapsed()));
        if let Err(error) = result {
            summary(&done, "FAILED");
            bail!("{}: {error:#}\n  what to do: {}", step.name, step.advice);
        }
    }
    summary(&done, "ok");
    let seconds = began.elapsed().as_secs_f64();
    println!("{} steps, all passed, {seconds:.1} s", done.len());
    Ok(())
}

fn summary(done: &[(&str, Duration)], last: &str) {
    println!("\n{:<12} {:>9}  result", "step", "time");
    for (number, (name, time)) in done.iter().enumerate() {
        let result = if number + 1 == done.len() { last } else { "ok" };
        println!("{name:<12} {:>7.1} s  {result}", time.as_secs_f64());
    }
}

fn clippy() -> anyhow::Result<()> {
    let what = ["clippy", "--locked", "--workspace", "--all-targets"];
    cargo(&[&what[..], &["--", "-D", "warnings"]].concat(), &[])
}

/// With a Docker engine at hand, which the tests of that backend need.
fn tests() -> anyhow::Result<()> {
    let docker = setup::docker()?;
    let (name, socket) = docker.variable();
    for name in suite::run(&[(name, &socket)])? {
        println!("FLAKY: {name} failed among the others and passed alone; it is to be mended");
    }
    Ok(())
}

fn documentation() -> anyhow::Result<()> {
    cargo(
        &["doc", "--locked", "--workspace", "--no-deps", "--quiet"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    )
}

/// Without the advisories: their database can't be reached from everywhere.
fn deny() -> anyhow::Result<()> {
    let what = [
        "deny",
        "--locked",
        "--workspace",
        "check",
        "--hide-inclusion-graph",
    ];
    cargo(&[&what[..], &["bans", "licenses", "sources"]].concat(), &[])
}
