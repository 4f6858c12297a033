//! `cargo xtask bench`: the node beside the floor, in turn, in one run on this machine.
//!
//! Absolute times mean nothing on shared machines; ratios within one run do. Each figure is the
//! median over rounds in which floor and node alternate.

mod load;
mod server;

use std::time::{Duration, Instant};

use anyhow::ensure;

use self::load::Summary;
use self::server::{Server, floor, node};

/// A promise of `SPECIFICATION.md` and what was measured.
struct Row {
    what: String,
    floor: String,
    ours: String,
    ratio: Option<f64>,
    target: String,
    met: bool,
}

struct Plan {
    rounds: usize,
    duration: Duration,
    cold: usize,
    only: Option<String>,
}

impl Plan {
    fn of(arguments: &[String]) -> Self {
        let quick = arguments.iter().any(|argument| argument == "--quick");
        let only = arguments
            .iter()
            .find(|argument| !argument.starts_with("--"))
            .cloned();
        if quick {
            Self {
                rounds: 1,
                duration: Duration::from_secs(1),
                cold: 5,
                only,
            }
        } else {
            Self {
                rounds: 5,
                duration: Duration::from_secs(2),
                cold: 30,
                only,
            }
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }
}

/// Runs the benchmarks named, or all.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let plan = Plan::of(arguments);
    server::build()?;
    let mut rows = Vec::new();
    for (name, runtime, file) in [
        ("warm-python", "python314", "py"),
        ("warm-node", "nodejs17ng", "mjs"),
    ] {
        if plan.wants(name) {
            warm(&plan, name, runtime, file, &mut rows)?;
        }
    }
    if plan.wants("cold") {
        cold(&plan, &mut rows)?;
    }
    if plan.wants("burst") {
        burst(&plan, &mut rows)?;
    }
    if plan.wants("idle") {
        idle(&mut rows)?;
    }
    print(&rows);
    Ok(())
}

fn warm(
    plan: &Plan,
    name: &str,
    runtime: &str,
    file: &str,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    for connections in [1, 8, 32] {
        let floor = floor(file, if connections == 1 { 1 } else { 2 })?;
        let node = node()?;
        node.create("noop", runtime)?;
        node.call("/invoke/noop")?;
        let mut pairs = Vec::new();
        for round in 0..plan.rounds {
            println!("{name}: {connections} connections, round {}", round + 1);
            let of_floor = load::run(floor.port, "/invoke/noop", connections, plan.duration)?;
            let of_node = load::run(node.port, "/invoke/noop", connections, plan.duration)?;
            pairs.push((of_floor, of_node));
        }
        compare(name, connections, &pairs, rows);
    }
    Ok(())
}

fn compare(name: &str, connections: usize, pairs: &[(Summary, Summary)], rows: &mut Vec<Row>) {
    let middle = |value: &dyn Fn(&(Summary, Summary)) -> f64| median(pairs.iter().map(value));
    let (floor_p50, p50) = (middle(&|pair| pair.0.p50), middle(&|pair| pair.1.p50));
    let (floor_rate, rate) = (middle(&|pair| pair.0.rate), middle(&|pair| pair.1.rate));
    let p99 = middle(&|pair| pair.1.p99);
    let p50_ratio = middle(&|pair| pair.1.p50 / pair.0.p50);
    let rate_ratio = middle(&|pair| pair.1.rate / pair.0.rate);
    let what = |figure: &str| format!("{name}, {connections} conn: {figure}");
    let rate_min = if connections == 1 { 0.65 } else { 0.6 };
    if connections == 1 {
        rows.push(Row {
            what: what("p50"),
            floor: micros(floor_p50),
            ours: micros(p50),
            ratio: Some(p50_ratio),
            target: "<= 1.5 x".into(),
            met: p50_ratio <= 1.5,
        });
    } else {
        rows.push(Row {
            what: what("p99 / p50"),
            floor: String::new(),
            ours: format!("{} / {}", micros(p99), micros(p50)),
            ratio: Some(p99 / p50),
            target: "<= 10 x".into(),
            met: p99 <= 10.0 * p50,
        });
    }
    rows.push(Row {
        what: what("requests/s"),
        floor: format!("{floor_rate:.0}"),
        ours: format!("{rate:.0}"),
        ratio: Some(rate_ratio),
        target: format!(">= {rate_min} x"),
        met: rate_ratio >= rate_min,
    });
}

/// The first call of a function that never ran: a sandbox from nothing.
fn cold(plan: &Plan, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    for (language, runtime, target) in [
        ("Python", "python314", Some(30.0)),
        ("Node.js", "nodejs17ng", None),
    ] {
        let node = node()?;
        let mut times = Vec::new();
        for number in 0..plan.cold {
            let name = format!("cold{number}");
            node.create(&name, runtime)?;
            let began = Instant::now();
            node.call(&format!("/invoke/{name}"))?;
            times.push(began.elapsed().as_secs_f64());
            node.delete(&name)?;
        }
        let floor = server::interpreter_start(language)?;
        let p50 = median(times.iter().copied()) * 1e3;
        times.sort_by(f64::total_cmp);
        let p95 = times[times.len() * 95 / 100] * 1e3;
        rows.push(Row {
            what: format!("cold start, {language}: p50 (p95)"),
            floor: format!("{:.1} ms (interpreter alone)", floor * 1e3),
            ours: format!("{p50:.1} ms ({p95:.1} ms)"),
            ratio: Some(p50 / 1e3 / floor),
            target: target.map_or("-".into(), |target| format!("<= {target} ms")),
            met: target.is_none_or(|target| p50 <= target),
        });
    }
    Ok(())
}

/// 32 calls at once of a function that never ran.
fn burst(plan: &Plan, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let node = node()?;
    let mut slowest = Vec::new();
    for number in 0..plan.rounds.max(3) {
        let name = format!("burst{number}");
        node.create(&name, "python314")?;
        let path = format!("/invoke/{name}");
        let times: Vec<f64> = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..32)
                .map(|_| {
                    scope.spawn(|| {
                        let began = Instant::now();
                        node.call(&path).map(|_| began.elapsed().as_secs_f64())
                    })
                })
                .collect();
            calls
                .into_iter()
                .filter_map(|call| call.join().ok()?.ok())
                .collect()
        });
        ensure!(times.len() == 32, "{} of 32 calls failed", 32 - times.len());
        slowest.push(times.into_iter().fold(0.0, f64::max));
        node.delete(&name)?;
    }
    let slowest = median(slowest.into_iter()) * 1e3;
    rows.push(Row {
        what: "32 at once from cold: slowest".into(),
        floor: String::new(),
        ours: format!("{slowest:.1} ms"),
        ratio: None,
        target: "<= 150 ms".into(),
        met: slowest <= 150.0,
    });
    Ok(())
}

/// Memory of a node that does nothing: proportional set size of all its processes.
fn idle(rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let node = node()?;
    node.call_status()?;
    std::thread::sleep(Duration::from_millis(500));
    let megabytes = node.memory()? as f64 / 1024.0;
    rows.push(Row {
        what: "memory, idle (PSS, node and helper)".into(),
        floor: String::new(),
        ours: format!("{megabytes:.1} MB"),
        ratio: None,
        target: "<= 20 MB".into(),
        met: megabytes <= 20.0,
    });
    Ok(())
}

fn print(rows: &[Row]) {
    println!("\n| what | floor | node | ratio | target | met |\n|---|---|---|---|---|---|");
    for Row {
        what,
        floor,
        ours,
        ratio,
        target,
        met,
    } in rows
    {
        let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let met = if *met { "yes" } else { "NO" };
        println!("| {what} | {floor} | {ours} | {ratio} | {target} | {met} |");
    }
}

fn micros(seconds: f64) -> String {
    format!("{:.0} us", seconds * 1e6)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Server {
    /// A no-op function called `name`.
    fn create(&self, name: &str, runtime: &str) -> anyhow::Result<()> {
        let (handler, file, source) = if runtime.starts_with("python") {
            (
                "noop.handler",
                "noop.py",
                "def handler(params, context):\n    return None\n",
            )
        } else {
            ("noop.js", "noop.js", "module.exports = () => null;\n")
        };
        let body = serde_json::json!({
            "Name": name, "Runtime": runtime, "MemoryMB": 64, "Handler": handler,
            "TarFunctionCode": server::tar_base64(file, source)?,
        });
        self.post("/create", &body.to_string()).map(drop)
    }

    fn delete(&self, name: &str) -> anyhow::Result<()> {
        self.post("/delete", &serde_json::json!({ "Name": name }).to_string())
            .map(drop)
    }

    fn call(&self, path: &str) -> anyhow::Result<String> {
        self.post(path, load::BODY)
    }

    fn call_status(&self) -> anyhow::Result<String> {
        load::exchange(self.port, "GET", "/status", "")
    }

    fn post(&self, path: &str, body: &str) -> anyhow::Result<String> {
        load::exchange(self.port, "POST", path, body)
    }
}
