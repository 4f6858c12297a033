//! Workflows: five tasks in sequence, the engine alone, items, definitions, and many that wait.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::Plan;
use super::client::{Client, request};
use super::load::{self, Summary, percentile};
use super::measure::{ROOMY, median};
use super::report::{Limit, Promise, Report};
use super::server::{self, Language, Server};

/// Passes of the machine that shows what one costs.
const PASSES: usize = 1_000;
/// Passes of the many durable executions.
const PASSES_DURABLE: usize = 20;
/// Items of the Map.
const ITEMS: usize = 10_000;
/// States of the definition that is checked.
const STATES: usize = 1_000;
/// How often it is checked.
const CHECKS: usize = 100;
/// Connections that start what is started in number.
const CONNECTIONS: usize = 8;

/// All of it.
pub(super) fn all(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let node = server::node(ROOMY)?;
    five_tasks(plan, &node, report)?;
    engine(plan, &node, report)?;
    definitions(plan, &node, report)?;
    drop(node);
    waiting(plan, report)
}

fn five_tasks(plan: &Plan, node: &Server, report: &mut Report) -> anyhow::Result<()> {
    println!("workflow, five tasks");
    node.create("noop", Language::Python)?;
    node.invoke("noop")?;
    let task = json!({"Type": "Task", "Resource": "noop"});
    register(node, "five", &chain(&task, 5))?;
    let (mut express, mut standard, mut fsync) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        express.push(run(plan, node, &start("five", "express", &json!({})), 1)?);
        standard.push(run(plan, node, &start("five", "standard", &json!({})), 1)?);
        fsync.push(fsync_us(&node.directory()?)?);
    }
    let fsync = median(fsync.into_iter());
    let p50 = |rounds: &[Summary]| median(rounds.iter().map(|round| round.p50));
    let rate = |rounds: &[Summary]| median(rounds.iter().map(|round| round.rate));
    report.promise(Promise {
        what: "five tasks, express: p50".into(),
        measured: p50(&express),
        unit: "us",
        limit: Limit::AtMost(700.0),
        remark: "1 connection, warm Python no-op".into(),
    });
    report.promise(Promise {
        what: "five tasks, express: executions a second".into(),
        measured: rate(&express),
        unit: "/s",
        limit: Limit::AtLeast(1_500.0),
        remark: "the same".into(),
    });
    report.promise(Promise {
        what: "five tasks, standard: p50".into(),
        measured: p50(&standard),
        unit: "us",
        limit: Limit::AtMost((5.0 * fsync + 1_000.0).round()),
        remark: format!("fsync of this disk: {fsync:.0} us"),
    });
    Ok(())
}

fn engine(plan: &Plan, node: &Server, report: &mut Report) -> anyhow::Result<()> {
    println!("workflow, the engine alone");
    let pass = json!({"Type": "Pass"});
    register(node, "passes", &chain(&pass, PASSES))?;
    register(node, "few", &chain(&pass, PASSES_DURABLE))?;
    let each = json!({
        "Type": "Map",
        "ItemProcessor": {"StartAt": "Each", "States": {"Each": {"Type": "Pass", "End": true}}},
    });
    register(node, "items", &chain(&each, 1))?;
    let items: Value = (0..ITEMS).collect();
    let (mut memory, mut durable, mut map) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        memory.push(run(plan, node, &start("passes", "express", &json!({})), 1)?.p50);
        let few = start("few", "standard", &json!({}));
        durable.push(run(plan, node, &few, CONNECTIONS)?.rate);
        map.push(run(plan, node, &start("items", "express", &items), 1)?.p50);
    }
    report.promise(Promise {
        what: "Pass to Pass, in memory".into(),
        measured: median(memory.into_iter()) / PASSES as f64,
        unit: "us",
        limit: Limit::AtMost(5.0),
        remark: format!("an execution of {PASSES}, with its request"),
    });
    report.promise(Promise {
        what: "Pass to Pass, durable: transitions a second".into(),
        measured: median(durable.into_iter()) * PASSES_DURABLE as f64,
        unit: "/s",
        limit: Limit::AtLeast(20_000.0),
        remark: format!("executions of {PASSES_DURABLE}, {CONNECTIONS} connections"),
    });
    report.promise(Promise {
        what: format!("Map over {ITEMS} items"),
        measured: median(map.into_iter()) / 1_000.0,
        unit: "ms",
        limit: Limit::AtMost(150.0),
        remark: "inline, a Pass for each".into(),
    });
    Ok(())
}

fn definitions(plan: &Plan, node: &Server, report: &mut Report) -> anyhow::Result<()> {
    println!("workflow, a definition of {STATES} states");
    let definition = chain(
        &json!({"Type": "Pass", "Parameters": {"a.$": "$.a"}}),
        STATES,
    );
    let file = node.directory()?.join("large.asl.json");
    std::fs::write(&file, definition.to_string())?;
    let checked = (0..plan.rounds).map(|_| check_ms(&file));
    let checked = checked.collect::<anyhow::Result<Vec<f64>>>()?;
    report.promise(Promise {
        what: format!("a definition of {STATES} states, parsed and checked"),
        measured: median(checked.into_iter()),
        unit: "ms",
        limit: Limit::AtMost(5.0),
        remark: format!("`asl check` of {CHECKS} more, each"),
    });
    let mut times = Vec::new();
    for _ in 0..plan.starts {
        let began = Instant::now();
        register(node, "large", &definition)?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    report.promise(Promise {
        what: "the same, registered: p50".into(),
        measured: percentile(&times, 50),
        unit: "ms",
        limit: Limit::None,
        remark: "a request, with its write to the disk and the definition in the reply".into(),
    });
    Ok(())
}

/// What checking a file takes: what `CHECKS` more of it add to the program's time.
fn check_ms(file: &Path) -> anyhow::Result<f64> {
    let time = |count: usize| -> anyhow::Result<f64> {
        let began = Instant::now();
        server::check(file, count)?;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    };
    Ok((time(CHECKS + 1)? - time(1)?) / CHECKS as f64)
}

/// Memory of executions that wait for a day, and that a killed node finds all of them again.
fn waiting(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let count = if plan.rounds < 5 { 10_000 } else { 100_000 };
    println!("workflow, {count} executions that wait");
    let mut node = server::node(ROOMY)?;
    let wait = json!({"Type": "Wait", "Seconds": 86_400});
    register(&node, "wait", &chain(&wait, 1))?;
    let request = request("POST", "/v1/executions", r#"{"Workflow":"wait"}"#);
    begin(node.port, &request, CONNECTIONS)?;
    let before = node.memory_kib()?;
    begin(node.port, &request, count)?;
    // Those begun last have yet to leave memory.
    std::thread::sleep(Duration::from_secs(1));
    let bytes = node.memory_kib()?.saturating_sub(before) as f64 * 1024.0 / count as f64;
    report.promise(Promise {
        what: "an execution that waits: memory".into(),
        measured: bytes,
        unit: "B",
        limit: Limit::AtMost(2048.0),
        remark: format!("{count} of them (PSS)"),
    });
    node.crash()?;
    let began = Instant::now();
    let found = running(node.port)?;
    report.promise(Promise {
        what: "executions that wait, after kill -9".into(),
        measured: found as f64,
        unit: "",
        limit: Limit::AtLeast((count + CONNECTIONS) as f64),
        remark: format!("listed in {:.1} s", began.elapsed().as_secs_f64()),
    });
    Ok(())
}

fn begin(port: u16, request: &[u8], count: usize) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                scope.spawn(move || -> anyhow::Result<()> {
                    let mut client = Client::connect(port)?;
                    for _ in (number..count).step_by(CONNECTIONS) {
                        client.exchange(request)?;
                    }
                    Ok(())
                })
            })
            .collect();
        for thread in threads {
            let ended = thread.join().ok().context("a client panicked")?;
            ended?;
        }
        Ok(())
    })
}

fn running(port: u16) -> anyhow::Result<usize> {
    let mut client = Client::connect(port)?;
    let (mut found, mut after) = (0, String::new());
    loop {
        let path = format!("/v1/executions?status=RUNNING&limit=1000&after={after}");
        let page: Value = serde_json::from_slice(client.exchange(&request("GET", &path, ""))?)?;
        found += page["Executions"].as_array().map_or(0, Vec::len);
        match page["Next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => return Ok(found),
        }
    }
}

fn run(plan: &Plan, node: &Server, start: &[u8], connections: usize) -> anyhow::Result<Summary> {
    // What fails is fast, too.
    let mut client = Client::connect(node.port)?;
    let reply: Value = serde_json::from_slice(client.exchange(start)?)?;
    ensure!(
        reply["Status"] == "SUCCEEDED",
        "an execution ended so: {reply}"
    );
    load::run_request(node.port, start, connections, plan.duration)
}

/// The request that runs an execution to its end.
fn start(workflow: &str, kind: &str, input: &Value) -> Vec<u8> {
    let body = json!({"Workflow": workflow, "Type": kind, "Input": input, "Wait": 30});
    request("POST", "/v1/executions", &body.to_string())
}

fn register(node: &Server, name: &str, definition: &Value) -> anyhow::Result<()> {
    let body = json!({"Definition": definition}).to_string();
    node.request("PUT", &format!("/v1/workflows/{name}"), &body)
}

/// A machine of so many states, one after the other.
fn chain(state: &Value, count: usize) -> Value {
    let states: serde_json::Map<String, Value> = (0..count)
        .map(|number| {
            let mut state = state.clone();
            match number + 1 < count {
                true => state["Next"] = format!("S{}", number + 1).into(),
                false => state["End"] = true.into(),
            }
            (format!("S{number}"), state)
        })
        .collect();
    json!({"StartAt": "S0", "States": states})
}

/// Median time to get a small write to the disk that holds `directory`.
fn fsync_us(directory: &Path) -> anyhow::Result<f64> {
    let path = directory.join("fsync");
    let mut file = std::fs::File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..100 {
        file.write_all(&[0; 4096])?;
        let began = Instant::now();
        file.sync_data()?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(&path)?;
    ensure!(!times.is_empty(), "nothing was measured");
    times.sort_by(f64::total_cmp);
    Ok(percentile(&times, 50))
}
