//! The measurements, and the targets that `SPECIFICATION.md` promises.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::Plan;
use super::load::{self, Summary, percentile};
use super::report::{Limit, Load, Promise, Report};
use super::server::{self, Language, Server};

/// Calls that come at once in the burst.
const BURST: usize = 32;

/// Settings of a node that doesn't want for room.
pub(super) const ROOMY: &str = "container.pool.memory: 4096";

/// Between cold starts that are meant to find a sandbox ready.
const REFILL: Duration = Duration::from_millis(150);

/// Warm calls at 1, 8 and 32 connections, floor and node in turn.
pub(super) fn warm(plan: &Plan, language: Language, report: &mut Report) -> anyhow::Result<()> {
    let name = match language {
        Language::Python => "warm-python",
        Language::Node => "warm-node",
        Language::Java => "warm-java",
    };
    for connections in [1, 8, 32] {
        println!("{name}, {connections} connections");
        let floor = server::floor(language, if connections == 1 { 1 } else { 2 })?;
        let node = server::node(ROOMY)?;
        node.create("noop", language)?;
        node.invoke("noop")?;
        let mut pairs = Vec::new();
        for _ in 0..plan.rounds {
            let of_floor = load::run(floor.port, "/invoke/noop", connections, plan.duration)?;
            let of_node = load::run(node.port, "/invoke/noop", connections, plan.duration)?;
            pairs.push((of_floor, of_node));
        }
        let load = compare(name, connections, &pairs);
        promises(&load, report);
        report.load(load);
    }
    Ok(())
}

fn compare(benchmark: &'static str, connections: usize, pairs: &[(Summary, Summary)]) -> Load {
    let middle = |value: &dyn Fn(&(Summary, Summary)) -> f64| median(pairs.iter().map(value));
    Load {
        benchmark,
        connections,
        floor: Summary {
            p50: middle(&|(floor, _)| floor.p50),
            p99: middle(&|(floor, _)| floor.p99),
            rate: middle(&|(floor, _)| floor.rate),
        },
        node: Summary {
            p50: middle(&|(_, node)| node.p50),
            p99: middle(&|(_, node)| node.p99),
            rate: middle(&|(_, node)| node.rate),
        },
        p50_ratio: middle(&|(floor, node)| node.p50 / floor.p50),
        rate_ratio: middle(&|(floor, node)| node.rate / floor.rate),
    }
}

fn promises(load: &Load, report: &mut Report) {
    let Load {
        benchmark,
        connections,
        floor,
        node,
        ..
    } = load;
    let what = |figure: &str| format!("{benchmark}, {connections} connections: {figure}");
    if *connections == 1 {
        report.promise(Promise {
            what: what("p50 / floor"),
            measured: load.p50_ratio,
            unit: "x",
            limit: Limit::AtMost(1.5),
            remark: format!("{:.0} us / {:.0} us", node.p50, floor.p50),
        });
    } else {
        report.promise(Promise {
            what: what("p99 / p50"),
            measured: node.p99 / node.p50,
            unit: "x",
            limit: Limit::AtMost(10.0),
            remark: format!("{:.0} us / {:.0} us", node.p99, node.p50),
        });
    }
    report.promise(Promise {
        what: what("requests/s / floor"),
        measured: load.rate_ratio,
        unit: "x",
        limit: Limit::AtLeast(if *connections == 1 { 0.65 } else { 0.6 }),
        remark: format!("{:.0} / {:.0}", node.rate, floor.rate),
    });
}

/// The first call of a function that never ran: a sandbox from nothing.
pub(super) fn cold(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    for (language, limit) in [
        (Language::Python, Limit::AtMost(30.0)),
        (Language::Node, Limit::None),
        (Language::Java, Limit::None),
    ] {
        println!("cold start, {language:?}");
        let node = server::node("sandbox.prestart: 0")?;
        ready(&node, language)?;
        let (mut times, mut alone) = (Vec::new(), Vec::new());
        for number in 0..plan.starts {
            let name = format!("cold{number}");
            node.create(&name, language)?;
            times.push(timed(|| node.invoke(&name))?);
            node.delete(&name)?;
            alone.push(timed(|| server::interpreter_alone(language))?);
        }
        times.sort_by(f64::total_cmp);
        let alone = median(alone.into_iter());
        report.promise(Promise {
            what: format!("cold start from nothing, {language:?}: p50"),
            measured: percentile(&times, 50),
            unit: "ms",
            limit,
            remark: format!(
                "p95 {:.1} ms; the interpreter alone {alone:.1} ms",
                percentile(&times, 95)
            ),
        });
    }
    Ok(())
}

/// Has made what is made once for all functions of a language: Java's shim.
fn ready(node: &Server, language: Language) -> anyhow::Result<()> {
    node.create("first", language)?;
    node.invoke("first")?;
    if language == Language::Java {
        // Its classes are archived in the background.
        std::thread::sleep(Duration::from_secs(2));
    }
    node.delete("first")
}

/// The first call of a function that never ran, in a sandbox that was started ahead.
pub(super) fn prestarted(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    for (language, limits) in [
        (Language::Python, [Limit::AtMost(5.0), Limit::AtMost(15.0)]),
        (Language::Node, [Limit::AtMost(5.0), Limit::AtMost(15.0)]),
        (Language::Java, [Limit::None, Limit::None]),
    ] {
        println!("cold start, {language:?}, prestarted");
        let node = server::node(ROOMY)?;
        ready(&node, language)?;
        // A JVM takes longer to start than the others.
        let refill = REFILL * if language == Language::Java { 2 } else { 1 };
        let mut times = Vec::new();
        for number in 0..plan.starts * 4 {
            let name = format!("ahead{number}");
            node.create(&name, language)?;
            // Long enough for the next to be ready: this is not the burst.
            std::thread::sleep(refill);
            times.push(timed(|| node.invoke(&name))?);
            node.delete(&name)?;
        }
        times.sort_by(f64::total_cmp);
        for (percent, limit) in [50, 99].into_iter().zip(limits) {
            report.promise(Promise {
                what: format!("cold start, prestarted, {language:?}: p{percent}"),
                measured: percentile(&times, percent),
                unit: "ms",
                limit,
                remark: format!("{} starts", times.len()),
            });
        }
    }
    Ok(())
}

/// Many more functions than there is room for, called in turn: every call is a cold start.
pub(super) fn round_robin(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    println!("round robin");
    // Room for 50 of 128 MB.
    let node = server::node("container.pool.memory: 6400")?;
    let count = plan.starts * 100 / 3;
    for number in 0..count {
        node.create(&format!("many{number}"), Language::Python)?;
    }
    let mut times = Vec::new();
    for number in 0..count {
        times.push(timed(|| node.invoke(&format!("many{number}")))?);
    }
    times.sort_by(f64::total_cmp);
    report.promise(Promise {
        what: format!("{count} functions in turn, room for 50: p99"),
        measured: percentile(&times, 99),
        unit: "ms",
        limit: Limit::AtMost(40.0),
        remark: format!("p50 {:.1} ms, no failure", percentile(&times, 50)),
    });
    Ok(())
}

/// Memory of many warm sandboxes: of each, and what each adds to the node's processes.
pub(super) fn density(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    println!("density");
    let node = server::node("container.pool.memory: 131072\nsandbox.prestart: 0")?;
    let before = node.memory_kib()?;
    let count = plan.starts * 50 / 3;
    for number in 0..count {
        let name = format!("dense{number}");
        node.create(&name, Language::Python)?;
        node.invoke(&name)?;
    }
    let after = settled(|| node.memory_kib())?;
    let mut each = node.sandboxes_kib()?;
    ensure!(
        each.len() == count,
        "{} of {count} sandboxes are warm",
        each.len()
    );
    each.sort_unstable();
    let megabytes = |kib: u64| kib as f64 / 1024.0;
    report.promise(Promise {
        what: format!("memory of the largest of {count} warm Python no-op sandboxes"),
        measured: megabytes(each[count - 1]),
        unit: "MB",
        limit: Limit::AtMost(8.0),
        remark: format!(
            "PSS; median {:.1} MB; with the node's own share {:.1} MB",
            megabytes(each[count / 2]),
            (after - before as f64) / 1024.0 / count as f64
        ),
    });
    Ok(())
}

/// Many calls at once of a function that never ran.
pub(super) fn burst(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    println!("burst");
    let node = server::node(ROOMY)?;
    let mut slowest = Vec::new();
    for number in 0..plan.rounds {
        let name = format!("burst{number}");
        node.create(&name, Language::Python)?;
        std::thread::sleep(REFILL);
        slowest.push(at_once(&node, &name)?);
        node.delete(&name)?;
    }
    let most = slowest.iter().copied().fold(0.0, f64::max);
    report.promise(Promise {
        what: format!("{BURST} at once, nothing warm: slowest"),
        measured: median(slowest.into_iter()),
        unit: "ms",
        limit: Limit::AtMost(60.0),
        remark: format!("median of {} bursts, worst {most:.1} ms", plan.rounds),
    });
    Ok(())
}

/// The slowest of calls that begin together, ms.
fn at_once(node: &Server, name: &str) -> anyhow::Result<f64> {
    let together = std::sync::Barrier::new(BURST);
    let times: Vec<anyhow::Result<f64>> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..BURST)
            .map(|_| {
                scope.spawn(|| {
                    together.wait();
                    timed(|| node.invoke(name))
                })
            })
            .collect();
        calls
            .into_iter()
            .map(|call| {
                call.join()
                    .unwrap_or_else(|_| anyhow::bail!("a client panicked"))
            })
            .collect()
    });
    times
        .into_iter()
        .try_fold(0.0, |slowest: f64, time| Ok(slowest.max(time?)))
}

/// Memory of a node that does nothing: proportional set size of all its processes.
pub(super) fn idle(report: &mut Report) -> anyhow::Result<()> {
    println!("idle memory");
    let node = server::node(ROOMY)?;
    node.status()?;
    let megabytes = settled(|| node.memory_kib())? / 1024.0;
    report.promise(Promise {
        what: "memory of an idle node, all its processes".into(),
        measured: megabytes,
        unit: "MB",
        limit: Limit::AtMost(20.0),
        remark: "PSS".into(),
    });
    Ok(())
}

/// A value once it is the same twice in half a second.
fn settled(value: impl Fn() -> anyhow::Result<u64>) -> anyhow::Result<f64> {
    let mut last = value()?;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(500));
        let now = value()?;
        // The page cache's sharing moves it a little for ever.
        if now.abs_diff(last) <= last / 100 {
            return Ok(now as f64);
        }
        last = now;
    }
    ensure!(last > 0, "no memory at all");
    Ok(last as f64)
}

/// How long it takes, ms.
pub(super) fn timed<T>(action: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<f64> {
    let began = Instant::now();
    action()?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
