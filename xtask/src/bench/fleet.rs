//! Nodes in a fleet, and their etcd, all on this machine: what a call costs more that is sent on, how
//! soon nodes know of each other, and what becomes of calls while etcd is away.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::Plan;
use super::client::{Client, request};
use super::load::{self, Summary};
use super::measure::{ROOMY, median};
use super::report::{Limit, Promise, Report};
use super::server::{self, Language, Server};

/// As [`load::BODY`], but other nodes may run it.
const BODY: &str = r#"{"Params":{"n":"1"},"CanDoOffloading":true}"#;

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long etcd is away before calls are measured: longer than nodes take to notice.
const AWAY: Duration = Duration::from_secs(1);

/// Everything, on one fleet.
pub(super) fn all(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    println!("fleet");
    let mut etcd = Etcd::start()?;
    let cloud = etcd.node("cloud", "registry.area: CLOUD")?;
    let edge = etcd.node(
        "edge",
        "registry.area: EDGE\nregistry.remote.area: CLOUD\nscheduler.policy: cloudonly",
    )?;
    edge.create("noop", Language::Python)?;
    until("the edge to find the cloud", || {
        Client::connect(edge.port)?
            .exchange(&request("POST", "/invoke/noop", BODY))
            .map(drop)
    })?;
    hop(plan, report, &cloud, &edge)?;
    membership(plan, report, &etcd, [&cloud, &edge])?;
    away(plan, report, &mut etcd, &cloud)
}

/// Warm no-op calls at one connection: straight to the node that runs them, and by way of another.
fn hop(plan: &Plan, report: &mut Report, cloud: &Server, edge: &Server) -> anyhow::Result<()> {
    let sent = request("POST", "/invoke/noop", BODY);
    let mut rounds: Vec<[Summary; 2]> = Vec::new();
    for _ in 0..plan.rounds {
        let one = |port| load::run_request(port, &sent, 1, plan.duration);
        rounds.push([one(cloud.port)?, one(edge.port)?]);
    }
    let middle = |value: &dyn Fn(&[Summary; 2]) -> f64| median(rounds.iter().map(value));
    report.promise(Promise {
        what: "a hop between nodes: added p50".to_owned(),
        measured: middle(&|[near, far]| far.p50 - near.p50),
        unit: "us",
        limit: Limit::AtMost(300.0),
        remark: format!(
            "{:.0} us / {:.0} us; p99 {:.0} us / {:.0} us",
            middle(&|[_, far]| far.p50),
            middle(&|[near, _]| near.p50),
            middle(&|[_, far]| far.p99),
            middle(&|[near, _]| near.p99)
        ),
    });
    Ok(())
}

/// How soon all know that a node has come, and that one has been killed.
fn membership(
    plan: &Plan,
    report: &mut Report,
    etcd: &Etcd,
    others: [&Server; 2],
) -> anyhow::Result<()> {
    let (mut joined, mut left) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds.min(3) {
        let key = format!("member{round}");
        let mut node = etcd.node(&key, "registry.area: CLOUD")?;
        joined.push(until_all(&others, &key, true)?);
        node.kill()?;
        left.push(until_all(&others, &key, false)?);
    }
    for (what, times, most) in [
        ("a node joins: known to all", joined, 1.0),
        ("a node is killed: gone from the registry", left, 15.0),
    ] {
        report.promise(Promise {
            what: what.to_owned(),
            measured: times.iter().copied().fold(0.0, f64::max),
            unit: "s",
            limit: Limit::AtMost(most),
            remark: format!("the longest of {}", times.len()),
        });
    }
    Ok(())
}

/// Seconds until all list the node, or none does.
fn until_all(nodes: &[&Server], key: &str, is_listed: bool) -> anyhow::Result<f64> {
    let began = Instant::now();
    let quoted = format!("\"{key}\"");
    for node in nodes {
        until("the nodes to agree on who there is", || {
            let mut client = Client::connect(node.port)?;
            let listed = client.exchange(&request("GET", "/v1/nodes", ""))?;
            let listed = String::from_utf8_lossy(listed).contains(&quoted);
            ensure!(listed == is_listed, "listed: {listed}");
            Ok(())
        })?;
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Calls of a known function with etcd and without, and how soon a node is registered again with one
/// that has lost everything. A call that isn't answered is an error here.
fn away(plan: &Plan, report: &mut Report, etcd: &mut Etcd, node: &Server) -> anyhow::Result<()> {
    let load = |seconds| load::run(node.port, "/invoke/noop", 1, seconds);
    let (mut rounds, mut again) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let with = load(plan.duration)?;
        etcd.kill()?;
        std::thread::sleep(AWAY);
        rounds.push([with, load(plan.duration)?]);
        etcd.wipe()?;
        etcd.run()?;
        let began = Instant::now();
        let all = request(
            "POST",
            "/v3/kv/range",
            r#"{"key":"AA==","range_end":"AA=="}"#,
        );
        until("the node to be registered again", || {
            let mut client = Client::connect(etcd.port)?;
            let entries = client.exchange(&all)?;
            // The end of "registry/CLOUD/amd64/cloud" in base64.
            let listed = String::from_utf8_lossy(entries).contains("Y2xvdWQ=");
            ensure!(listed, "it isn't listed");
            Ok(())
        })?;
        again.push(began.elapsed().as_secs_f64());
    }
    let middle = |value: &dyn Fn(&[Summary; 2]) -> f64| median(rounds.iter().map(value));
    report.promise(Promise {
        what: "etcd away: p99 of known functions, all answered / with it".to_owned(),
        measured: middle(&|[with, without]| without.p99 / with.p99),
        unit: "x",
        limit: Limit::AtMost(1.2),
        remark: format!(
            "p99 {:.0} us / {:.0} us",
            middle(&|[_, without]| without.p99),
            middle(&|[with, _]| with.p99)
        ),
    });
    report.promise(Promise {
        what: "etcd back, and empty: registered again".to_owned(),
        measured: again.iter().copied().fold(0.0, f64::max),
        unit: "s",
        limit: Limit::AtMost(5.0),
        remark: format!("the longest of {}", again.len()),
    });
    Ok(())
}

/// Tries until it works.
fn until(what: &str, mut attempt: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) if began.elapsed() > PATIENCE => {
                return Err(error).context(format!("waiting for {what}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// An etcd (Debian's `etcd-server`) that ends with its value.
struct Etcd {
    port: u16,
    peers: u16,
    /// While it runs.
    child: Option<Child>,
    directory: PathBuf,
}

impl Etcd {
    fn start() -> anyhow::Result<Self> {
        let free = || TcpListener::bind("127.0.0.1:0");
        // At the same time, so that they differ.
        let (clients, peers) = (free()?, free()?);
        let mut etcd = Self {
            port: clients.local_addr()?.port(),
            peers: peers.local_addr()?.port(),
            child: None,
            directory: server::temporary("etcd"),
        };
        drop((clients, peers));
        etcd.run()?;
        Ok(etcd)
    }

    /// Starts it and waits until it answers.
    fn run(&mut self) -> anyhow::Result<()> {
        let clients = format!("http://127.0.0.1:{}", self.port);
        let peers = format!("http://127.0.0.1:{}", self.peers);
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(&self.directory)
            .args(["--listen-client-urls", &clients])
            .args(["--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers])
            .args(["--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting etcd (Debian's package is etcd-server)")?;
        self.child = Some(child);
        let question = request("POST", "/v3/kv/range", r#"{"key":"YQ=="}"#);
        until("etcd to answer", || {
            Client::connect(self.port)?.exchange(&question).map(drop)
        })
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Forgets everything.
    fn wipe(&self) -> anyhow::Result<()> {
        if self.child.is_some() {
            bail!("etcd runs");
        }
        Ok(std::fs::remove_dir_all(&self.directory)?)
    }

    /// A node that has this etcd.
    fn node(&self, key: &str, more: &str) -> anyhow::Result<Server> {
        let port = self.port;
        server::node(&format!(
            "{ROOMY}\netcd.address: \"127.0.0.1:{port}\"\nregistry.node.id: {key}\n\
             registry.udp.port: 0\n{more}"
        ))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
