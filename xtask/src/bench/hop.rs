//! What a call costs more when it arrives at a node that sends it on: two nodes and an etcd, all on
//! this machine.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::Plan;
use super::client::{Client, request};
use super::load::{self, Summary};
use super::measure::{ROOMY, median};
use super::report::{Limit, Promise, Report};
use super::server::{self, Language};

/// As [`load::BODY`], but other nodes may run it.
const BODY: &str = r#"{"Params":{"n":"1"},"CanDoOffloading":true}"#;

/// How long the nodes may take to find each other.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Warm no-op calls at one connection: straight to the node that runs them, and by way of another.
pub(super) fn calls(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    println!("hop");
    let etcd = Etcd::start()?;
    let settings = |area: &str, more: &str| {
        format!(
            "{ROOMY}\netcd.address: \"{}\"\nregistry.area: {area}\n{more}",
            etcd.address
        )
    };
    let cloud = server::node(&settings("CLOUD", ""))?;
    let edge = server::node(&settings(
        "EDGE",
        "registry.remote.area: CLOUD\nscheduler.policy: cloudonly",
    ))?;
    edge.create("noop", Language::Python)?;
    let sent = request("POST", "/invoke/noop", BODY);
    until("the edge to find the cloud", || {
        Client::connect(edge.port)?.exchange(&sent).map(drop)
    })?;
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

/// Tries until it works.
fn until(what: &str, mut attempt: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) if began.elapsed() > JOIN_TIMEOUT => {
                return Err(error).context(format!("waiting for {what}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// An etcd (Debian's `etcd-server`) that ends with its value.
struct Etcd {
    address: String,
    child: Child,
    directory: PathBuf,
}

impl Etcd {
    fn start() -> anyhow::Result<Self> {
        let directory = server::temporary("etcd");
        let free = || -> anyhow::Result<String> {
            Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
        };
        let (address, peers) = (free()?, free()?);
        ensure!(address != peers, "no two free ports");
        let (clients, peers) = (format!("http://{address}"), format!("http://{peers}"));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(&directory)
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
        let etcd = Self {
            address,
            child,
            directory,
        };
        let (_, port) = etcd.address.rsplit_once(':').context("a port")?;
        let port = port.parse()?;
        let question = request("POST", "/v3/kv/range", r#"{"key":"YQ=="}"#);
        until("etcd to answer", || {
            Client::connect(port)?.exchange(&question).map(drop)
        })?;
        Ok(etcd)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
