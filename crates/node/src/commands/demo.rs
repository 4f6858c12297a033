//! `serverledge demo fleet`: a continuum on one machine, to look at and to break.

use std::io::BufRead as _;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use serde_json::{Value, json};
use serverledge_testbed::{Fleet, Link, Plan, Published, Role};

use super::serve;

/// What is demonstrated.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// A fleet of nodes at the edge and in a cloud, with delays between them. Needs root, and etcd if
    /// not told otherwise.
    Fleet(Arguments),
}

/// Arguments of `serverledge demo fleet`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Nodes at the edge.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    edges: u8,
    /// Nodes in the cloud.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=20))]
    clouds: u8,
    /// Milliseconds from the edge to the cloud, one way.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    delay: u64,
    /// Without etcd: nodes tell each other who is there, and functions go along with calls.
    #[arg(long)]
    no_etcd: bool,
    /// Policy of the nodes at the edge (`scheduler.policy`).
    #[arg(long, default_value = "edgecloud")]
    policy: String,
}

/// A function that fits everywhere and says where it ran.
const GREET: (&str, u32) = ("greet", 64);
/// One that has room in the cloud only.
const THINK: (&str, u32) = ("think", 1_024);

const CODE: &str =
    "def handler(params, context):\n    return 'hello, ' + str(params.get('name', 'world'))\n";

const HELP: &str = "  call MEMBER [FUNCTION]  call greet or think at a member
  status                  who is there
  kill MEMBER             end a member without a warning (also: registry)
  start MEMBER            start it again
  cut A B                 let nothing through between two of them
  isolate A               cut one off from all others
  heal A                  mend all cuts of one
  log MEMBER              what it wrote
  quit                    end everything (also Ctrl-C)";

/// Starts the fleet, shows what it does and obeys commands.
pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    let Command::Fleet(arguments) = command;
    let words = words()?;
    let plan = plan(arguments)?;
    say(&format!(
        "starting {}{} nodes at the edge and {} in the cloud, {} ms away, behind a balancer ...",
        if arguments.no_etcd { "" } else { "etcd, " },
        arguments.edges,
        arguments.clouds,
        arguments.delay
    ));
    let mut demo = Demo::start(plan, arguments.no_etcd)?;
    demo.status();
    demo.demonstrate()?;
    say(&format!("\nCommands:\n{HELP}\n"));
    for line in words {
        let line: Vec<&str> = line.split_whitespace().collect();
        match line.as_slice() {
            [] => {}
            ["quit" | "exit"] => break,
            line => {
                if let Err(error) = demo.obey(line) {
                    say(&format!("{error:#}"));
                }
            }
        }
    }
    say("stopping");
    Ok(())
}

/// Lines of standard input; ends with it, or at a signal.
fn words() -> anyhow::Result<impl Iterator<Item = String>> {
    let (sender, words) = mpsc::channel();
    let signals = sender.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.send(Some(line)).is_err() {
                return;
            }
        }
        let _ = sender.send(None);
    });
    let runtime = serve::runtime()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let Ok((_, mut stop)) = serve::stop_signals() else {
                return;
            };
            stop.recv().await;
            let _ = signals.send(None);
            // A further signal waits for what is being stopped, like the first.
            std::future::pending::<()>().await;
        });
    });
    Ok(std::iter::from_fn(move || words.recv().ok().flatten()))
}

fn plan(arguments: &Arguments) -> anyhow::Result<Plan> {
    let program = std::env::current_exe().context("finding this program")?;
    let delay = Duration::from_millis(arguments.delay);
    let mut plan = Plan::new(program)
        .to_the_cloud(Link::delay(delay).jitter(delay / 20))
        .between_edges(Link::delay(Duration::from_millis(3)).jitter(Duration::from_millis(1)));
    for number in 1..=arguments.edges {
        let name = format!("edge-{number}");
        plan = plan
            .edge(&name)
            .set_for(&name, "scheduler.policy", &arguments.policy)
            .set_for(&name, "container.pool.memory", 512);
    }
    for number in 1..=arguments.clouds {
        let name = format!("cloud-{number}");
        plan = plan
            .cloud(&name)
            .set_for(&name, "container.pool.memory", 4_096);
    }
    if arguments.no_etcd {
        plan = plan.without_registry();
    }
    Ok(plan.balancer("balancer"))
}

struct Demo {
    // In this order: ports are closed before what they lead to ends.
    ports: Vec<(String, Published)>,
    fleet: Fleet,
    /// Whether each node has functions of its own.
    no_etcd: bool,
}

impl Demo {
    fn start(plan: Plan, no_etcd: bool) -> anyhow::Result<Self> {
        let fleet = plan.start()?;
        let members: Vec<String> = fleet.members().map(|(name, _)| name.to_owned()).collect();
        let mut ports = Vec::new();
        for member in members {
            let port = fleet.publish(&member, 0)?;
            ports.push((member, port));
        }
        Ok(Self {
            ports,
            fleet,
            no_etcd,
        })
    }

    fn status(&mut self) {
        say("\nmember        role      API on this machine");
        for (name, port) in &self.ports {
            let role = self.fleet.members().find(|(member, _)| member == name);
            let role = match role.map(|(_, role)| role) {
                Some(Role::Edge) => "edge",
                Some(Role::Cloud) => "cloud",
                Some(Role::Balancer) => "balancer",
                None => "",
            };
            let state = match self.fleet.is_running(name) {
                true => format!("http://{}", port.address()),
                false => "not running".to_owned(),
            };
            say(&format!("{name:<13} {role:<9} {state}"));
        }
    }

    /// Deploys at one edge and calls at another; without etcd, deploys at every edge.
    fn demonstrate(&self) -> anyhow::Result<()> {
        let edges: Vec<&str> = self
            .fleet
            .members()
            .filter(|(_, role)| *role == Role::Edge)
            .map(|(name, _)| name)
            .collect();
        let (Some(&first), Some(&last)) = (edges.first(), edges.last()) else {
            return Ok(());
        };
        for (name, memory) in [GREET, THINK] {
            let create = json!({
                "Name": name, "Runtime": "python314", "Handler": "greet.handler",
                "MemoryMB": memory, "TarFunctionCode": packed()?,
            });
            let places = if self.no_etcd { &edges[..] } else { &[first] };
            for place in places {
                let reply = self.fleet.send(place, "POST", "/create", &create)?;
                if reply.status != 200 {
                    bail!("{place} answers {}: {}", reply.status, reply.body);
                }
            }
            let places = places.join(", ");
            say(&format!("\ndeployed {name} ({memory} MB) at {places}"));
            self.call(last, name)?;
        }
        Ok(())
    }

    fn call(&self, member: &str, function: &str) -> anyhow::Result<()> {
        let request = json!({
            "Params": { "name": member }, "CanDoOffloading": true, "ReturnOutput": false,
        });
        let path = format!("/invoke/{function}");
        let reply = self.fleet.send(member, "POST", &path, &request)?;
        let why = reply.header("serverledge-decision").unwrap_or_default();
        if reply.status != 200 {
            say(&format!(
                "{member} answers {}: {}",
                reply.status, reply.body
            ));
            return Ok(());
        }
        let report = reply.json()?;
        let milliseconds = report["ResponseTime"].as_f64().unwrap_or_default() * 1e3;
        let start = match &report["IsWarmStart"] {
            Value::Bool(true) => "warm",
            _ => "cold",
        };
        let place = report["ExecutionNode"].as_str().unwrap_or(member);
        say(&format!(
            "called   {function} at {member}: ran at {place}, {start}, {milliseconds:.1} ms"
        ));
        if !why.is_empty() {
            say(&format!("         {why}"));
        }
        Ok(())
    }

    fn obey(&mut self, line: &[&str]) -> anyhow::Result<()> {
        let network = self.fleet.network();
        match line {
            ["call", member] => self.call(member, GREET.0),
            ["call", member, function] => self.call(member, function),
            ["status"] => {
                self.status();
                Ok(())
            }
            ["kill", member] => self.fleet.kill(member),
            ["start", member] => self.fleet.restart(member),
            ["cut", one, other] => network.cut(one, other),
            ["isolate", member] => network.isolate(member),
            ["heal", member] => network.heal(member),
            ["log", member] => {
                say(&self.fleet.log(member));
                Ok(())
            }
            ["help"] => {
                say(HELP);
                Ok(())
            }
            _ => bail!("unknown command; there are:\n{HELP}"),
        }
    }
}

/// The functions' code, as the API wants it.
fn packed() -> anyhow::Result<String> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(CODE.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "greet.py", CODE.as_bytes())?;
    let archive = archive.into_inner()?;
    Ok(base64::engine::general_purpose::STANDARD.encode(archive))
}

#[expect(clippy::print_stdout, reason = "the command's product")]
fn say(text: &str) {
    println!("{text}");
}
