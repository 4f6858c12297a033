//! Python sandboxes that preload a large module, started each by itself and forked from a zygote: the
//! memory of all of them, and how long many calls at once wait for them.

use std::sync::Barrier;

use anyhow::{bail, ensure};
use serde_json::json;

use super::measure::timed;
use super::report::{Limit, Promise, Report};
use super::server::{self, Server, tar_base64};

/// Sandboxes of one function.
const SANDBOXES: usize = 20;

/// How long each call keeps its sandbox, so that each has one of its own, ms.
const BUSY: f64 = 2000.0;

const SOURCE: &str = "import time\n\n\ndef handler(params, context):\n    time.sleep(2)\n";

/// Both ways, one after the other.
pub(super) fn sandboxes(report: &mut Report) -> anyhow::Result<()> {
    println!("zygote");
    let [alone, forked] = [false, true].map(measure);
    let ((alone, alone_ms), (forked, forked_ms)) = (alone?, forked?);
    report.promise(Promise {
        what: format!("{SANDBOXES} sandboxes that preload numpy, from a zygote: memory / without"),
        measured: forked / alone,
        unit: "x",
        limit: Limit::None,
        remark: format!("PSS of all {forked:.0} MB / {alone:.0} MB"),
    });
    report.promise(Promise {
        what: format!("{SANDBOXES} calls at once of it, nothing warm: slowest start"),
        measured: forked_ms,
        unit: "ms",
        limit: Limit::None,
        remark: format!("without a zygote {alone_ms:.0} ms"),
    });
    Ok(())
}

/// Memory of all sandboxes, MB, and the longest that a call waited for one, ms.
fn measure(has_zygote: bool) -> anyhow::Result<(f64, f64)> {
    let node = server::node(&format!(
        "container.pool.memory: 16384\nsandbox.zygote: {has_zygote}"
    ))?;
    let file = node.directory()?.join("busy.py");
    std::fs::write(&file, SOURCE)?;
    let body = json!({
        "Name": "busy", "Runtime": "python314", "MemoryMB": 256, "Handler": "busy.handler",
        "Preload": ["numpy"], "TarFunctionCode": tar_base64(&file)?,
    });
    node.request("POST", "/create", &body.to_string())?;
    // So that what its kind needs is there.
    node.invoke("busy")?;
    let slowest = at_once(&node)? - BUSY;
    let sandboxes = node.sandboxes_kib()?;
    ensure!(
        sandboxes.len() >= SANDBOXES,
        "only {} sandboxes",
        sandboxes.len()
    );
    Ok((sandboxes.iter().sum::<u64>() as f64 / 1024.0, slowest))
}

/// The slowest of calls that begin together, ms.
fn at_once(node: &Server) -> anyhow::Result<f64> {
    let together = Barrier::new(SANDBOXES);
    let call = || {
        together.wait();
        timed(|| node.invoke("busy"))
    };
    let times: Vec<anyhow::Result<f64>> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..SANDBOXES).map(|_| scope.spawn(call)).collect();
        let end = |call: std::thread::ScopedJoinHandle<'_, anyhow::Result<f64>>| {
            call.join().unwrap_or_else(|_| bail!("a client panicked"))
        };
        calls.into_iter().map(end).collect()
    });
    times
        .into_iter()
        .try_fold(0.0, |slowest: f64, time| Ok(slowest.max(time?)))
}
