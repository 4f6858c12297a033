//! Decisions: where a call runs, with a thousand peers known.

use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::report::{Limit, Promise, Report};
use crate::root;

/// Measured by an example of this package, optimised, which this isn't.
pub(super) fn measure(report: &mut Report) -> anyhow::Result<()> {
    let output = Command::new("cargo")
        .args(["run", "--release", "--locked", "--quiet"])
        .args(["--package", "xtask", "--example", "decision"])
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .context("running the example `decision`")?;
    ensure!(output.status.success(), "the example `decision` failed");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    let (Some(Ok(p50)), Some(Ok(p99))) = (numbers.next(), numbers.next()) else {
        anyhow::bail!("the example `decision` said {text:?}");
    };
    report.promise(Promise {
        what: "decision with 1,000 peers: p50".into(),
        measured: p50,
        unit: "us",
        limit: Limit::AtMost(20.0),
        remark: format!("p99 {p99:.1} us"),
    });
    Ok(())
}
