//! A fleet on a network: an etcd, nodes at the edge and in a cloud, balancers and a client.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::emulator::Link;
use crate::forward::Forward;
use crate::http::{self, Reply};
use crate::network::Network;

/// The host of etcd.
const REGISTRY: &str = "registry";
const REGISTRY_PORT: u16 = 2379;
const REGISTRY_PEERS: u16 = 2380;

/// The host of those who call.
const CLIENT: &str = "client";

/// Port of every node's API, and of every balancer.
const API_PORT: u16 = 1323;

/// How long a member may take to answer for the first time.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a member may take to end when it is asked to.
const STOP_MAX: Duration = Duration::from_secs(60);

/// Areas of the registry, as the original's examples have them.
const EDGE: &str = "EDGE";
const CLOUD: &str = "CLOUD";

/// What a member of a fleet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A node at the edge, which has the cloud behind it.
    Edge,
    /// A node in the cloud.
    Cloud,
    /// A load balancer before the cloud's nodes.
    Balancer,
}

impl Role {
    /// Where it is in the registry.
    pub fn area(self) -> &'static str {
        match self {
            Self::Edge => EDGE,
            Self::Cloud | Self::Balancer => CLOUD,
        }
    }
}

/// A fleet that is not running yet.
#[derive(Debug, Clone)]
pub struct Plan {
    program: PathBuf,
    members: Vec<(String, Role)>,
    /// Of whom (nobody: of all), which key, which value.
    settings: Vec<(Option<String>, String, String)>,
    between_edges: Link,
    to_the_cloud: Link,
    seed: u64,
    has_registry: bool,
}

impl Plan {
    /// A fleet of nobody, of which `program` runs every member: edges are 5 ms from each other and
    /// 25 ms from the cloud.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            members: Vec::new(),
            settings: Vec::new(),
            between_edges: Link::delay(Duration::from_millis(5)),
            to_the_cloud: Link::delay(Duration::from_millis(25)),
            seed: 1,
            has_registry: true,
        }
    }

    /// Adds a node at the edge.
    pub fn edge(self, name: &str) -> Self {
        self.member(name, Role::Edge)
    }

    /// Adds a node in the cloud.
    pub fn cloud(self, name: &str) -> Self {
        self.member(name, Role::Cloud)
    }

    /// Adds a balancer before the cloud's nodes.
    pub fn balancer(self, name: &str) -> Self {
        self.member(name, Role::Balancer)
    }

    fn member(mut self, name: &str, role: Role) -> Self {
        self.members.push((name.to_owned(), role));
        self
    }

    /// Sets a configuration key of all members.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings
            .push((None, key.to_owned(), value.to_string()));
        self
    }

    /// Sets a configuration key of one member.
    pub fn set_for(mut self, member: &str, key: &str, value: impl ToString) -> Self {
        let setting = (Some(member.to_owned()), key.to_owned(), value.to_string());
        self.settings.push(setting);
        self
    }

    /// What links the edges to each other and to the client.
    pub fn between_edges(mut self, link: Link) -> Self {
        self.between_edges = link;
        self
    }

    /// What links the edges and the client to the cloud, etcd included.
    pub fn to_the_cloud(mut self, link: Link) -> Self {
        self.to_the_cloud = link;
        self
    }

    /// Chooses other losses and jitter.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Leaves etcd out: members gossip, and know of the first to begin with.
    pub fn without_registry(mut self) -> Self {
        self.has_registry = false;
        self
    }

    /// Makes the network, starts all members and waits until each answers. The calling thread has to
    /// live as long as the fleet: members die with it.
    pub fn start(self) -> anyhow::Result<Fleet> {
        let mut names = vec![CLIENT];
        names.extend(self.has_registry.then_some(REGISTRY));
        names.extend(self.members.iter().map(|(name, _)| name.as_str()));
        let network = Network::start(&self.program, &names, self.to_the_cloud, self.seed)?;
        let mut near = vec![CLIENT];
        let mut far: Vec<&str> = self.has_registry.then_some(REGISTRY).into_iter().collect();
        for (name, role) in &self.members {
            match role {
                Role::Edge => near.push(name),
                Role::Cloud | Role::Balancer => far.push(name),
            }
        }
        let region = Link::delay(Duration::from_micros(200));
        for (side, link) in [(near, self.between_edges), (far, region)] {
            for (at, one) in side.iter().enumerate() {
                for other in &side[at + 1..] {
                    network.link(one, other, link)?;
                }
            }
        }
        let directory = tempfile::Builder::new().prefix("testbed-").tempdir()?;
        let mut fleet = Fleet {
            running: Vec::new(),
            network,
            directory,
            plan: self,
        };
        if fleet.plan.has_registry {
            fleet.start_registry()?;
        }
        let members: Vec<String> = fleet.members().map(|(name, _)| name.to_owned()).collect();
        for member in &members {
            fleet.spawn(member)?;
        }
        for member in &members {
            fleet.wait_for(member, "GET", "/status", "")?;
        }
        Ok(fleet)
    }
}

/// A running fleet. Dropping it ends all of it.
#[derive(Debug)]
pub struct Fleet {
    // In this order: members end before their network does.
    running: Vec<(String, Member)>,
    network: Network,
    directory: TempDir,
    plan: Plan,
}

/// A process of the fleet.
#[derive(Debug)]
struct Member(Child);

impl Member {
    /// Asks it to end, and waits.
    fn stop(&mut self) {
        let deadline = Instant::now() + STOP_MAX;
        if let Some(pid) = Pid::from_raw(self.0.id() as i32)
            && matches!(self.0.try_wait(), Ok(None))
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Fleet {
    /// Names and roles of nodes and balancers.
    pub fn members(&self) -> impl Iterator<Item = (&str, Role)> {
        let members = self.plan.members.iter();
        members.map(|(name, role)| (name.as_str(), *role))
    }

    /// The links, to change and to look at. Hosts are the members, `registry` and `client`.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Whether a member's process is there.
    pub fn is_running(&mut self, member: &str) -> bool {
        let found = self.running.iter_mut().find(|(name, _)| name == member);
        found.is_some_and(|(_, process)| matches!(process.0.try_wait(), Ok(None)))
    }

    /// Ends a member without a warning.
    pub fn kill(&mut self, member: &str) -> anyhow::Result<()> {
        self.take(member)?.kill();
        Ok(())
    }

    /// Asks a member to end, and waits until it has.
    pub fn stop(&mut self, member: &str) -> anyhow::Result<()> {
        self.take(member)?.stop();
        Ok(())
    }

    /// Starts a member, or etcd, that was ended, with the data that it had, and waits for it.
    pub fn restart(&mut self, member: &str) -> anyhow::Result<()> {
        if self.is_running(member) {
            bail!("{member} is running");
        }
        self.running.retain(|(name, _)| name != member);
        if member == REGISTRY {
            return self.start_registry();
        }
        self.spawn(member)?;
        self.wait_for(member, "GET", "/status", "")
    }

    /// Sends a request to a member from the client's host.
    pub fn send(&self, to: &str, method: &str, path: &str, body: &Value) -> anyhow::Result<Reply> {
        self.send_from(CLIENT, to, method, path, body)
    }

    /// Sends a request from one host to another.
    pub fn send_from(
        &self,
        from: &str,
        to: &str,
        method: &str,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Reply> {
        let address = self.api(to)?;
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.network
            .inside(from, || http::request(address, method, path, &body))?
    }

    /// Makes a port of this machine's loopback lead to a member's API, for as long as the result
    /// lives; port 0 takes a free one.
    pub fn publish(&self, member: &str, port: u16) -> anyhow::Result<Published> {
        self.network.forward(port, member, API_PORT).map(Published)
    }

    /// What a member wrote to its log.
    pub fn log(&self, member: &str) -> String {
        let text = std::fs::read(self.log_file(member)).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn log_file(&self, member: &str) -> PathBuf {
        self.directory.path().join(member).with_extension("log")
    }

    fn api(&self, member: &str) -> anyhow::Result<SocketAddr> {
        Ok((self.network.address(member)?, API_PORT).into())
    }

    fn registry(&self) -> anyhow::Result<SocketAddr> {
        Ok((self.network.address(REGISTRY)?, REGISTRY_PORT).into())
    }

    fn take(&mut self, member: &str) -> anyhow::Result<Member> {
        let found = self.running.iter().position(|(name, _)| name == member);
        let place = found.with_context(|| format!("{member} is not running"))?;
        Ok(self.running.remove(place).1)
    }

    fn start_registry(&mut self) -> anyhow::Result<()> {
        let address = self.registry()?;
        let clients = format!("http://{address}");
        let peers = format!("http://{}:{REGISTRY_PEERS}", address.ip());
        let mut command = self.network.command(REGISTRY, Path::new("etcd"))?;
        command
            .arg("--data-dir")
            .arg(self.directory.path().join("etcd"))
            .args(["--listen-client-urls", &clients])
            .args(["--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers])
            .args(["--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}")]);
        self.run(REGISTRY, command)
            .context("starting etcd (Debian's package is etcd-server)")?;
        self.wait_for(REGISTRY, "POST", "/v3/kv/range", r#"{"key":"YQ=="}"#)
    }

    fn spawn(&mut self, member: &str) -> anyhow::Result<()> {
        let (_, role) = self
            .members()
            .find(|(name, _)| *name == member)
            .with_context(|| format!("no member '{member}'"))?;
        let mut command = self.network.command(member, &self.plan.program)?;
        if role == Role::Balancer {
            command.arg("lb");
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SERVERLEDGE_") {
                command.env_remove(name);
            }
        }
        let storage = self.directory.path().join(member);
        std::fs::create_dir_all(&storage)?;
        command.current_dir(&storage);
        let mut set = |key: &str, value: &str| {
            let variable = format!("SERVERLEDGE_{}", key.replace('.', "_").to_uppercase());
            command.env(variable, value);
        };
        let address = self.api(member)?;
        set("api.host", &address.ip().to_string());
        set("api.port", &API_PORT.to_string());
        set("api.insecure", "true");
        match self.plan.has_registry {
            true => set("etcd.address", &self.registry()?.to_string()),
            false => set("federation.peers", &self.first_peer()?),
        }
        set("registry.area", role.area());
        set("registry.node.id", member);
        if role == Role::Edge {
            set("registry.remote.area", CLOUD);
        }
        if role != Role::Balancer {
            set("storage.path", &storage.join("data").to_string_lossy());
        }
        for (whose, key, value) in &self.plan.settings {
            if whose.as_deref().is_none_or(|name| name == member) {
                set(key, value);
            }
        }
        self.run(member, command)
    }

    /// Where the first member tells its status.
    fn first_peer(&self) -> anyhow::Result<String> {
        let (first, _) = self.members().next().context("nobody is in the fleet")?;
        Ok(self.network.address(first)?.to_string())
    }

    /// Starts `command` as `member`; its output is added to its log.
    fn run(&mut self, member: &str, mut command: Command) -> anyhow::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file(member))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {member}"))?;
        self.running.push((member.to_owned(), Member(child)));
        Ok(())
    }

    /// Waits until a request, sent from the member's own host, is answered with 200.
    fn wait_for(
        &mut self,
        member: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> anyhow::Result<()> {
        let address = match member {
            REGISTRY => self.registry()?,
            _ => self.api(member)?,
        };
        let deadline = Instant::now() + START_MAX;
        loop {
            let reply = self
                .network
                .inside(member, || http::request(address, method, path, body))?;
            if reply.as_ref().is_ok_and(|reply| reply.status == 200) {
                return Ok(());
            }
            if !self.is_running(member) || Instant::now() > deadline {
                let log = self.log(member);
                let from = log.lines().count().saturating_sub(10);
                let last: Vec<&str> = log.lines().skip(from).collect();
                let why = reply.map_or_else(|error| format!("{error:#}"), |reply| reply.body);
                bail!(
                    "{member} does not answer: {why}\nits last words:\n{}",
                    last.join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Members first, while etcd is there for their good-bye.
        for (name, member) in self.running.iter_mut().rev() {
            match name == REGISTRY {
                true => member.kill(),
                false => member.stop(),
            }
        }
        if std::thread::panicking() {
            for (name, _) in &self.plan.members {
                eprintln!("--- the log of {name} ---\n{}---", self.log(name));
            }
        }
    }
}

/// A member's API on this machine's loopback.
#[derive(Debug)]
pub struct Published(Forward);

impl Published {
    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }
}
