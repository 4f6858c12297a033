//! `cargo xtask bench`: the node beside the floor, in turn, in one run on this machine.
//!
//! Absolute times mean nothing on shared machines; ratios within one run do. Each figure is the
//! median over rounds in which floor and node alternate.

mod client;
mod decision;
mod docker;
mod fleet;
mod lb;
mod load;
mod measure;
mod report;
mod server;
mod wasm;
mod workflow;
mod zygote;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};

use self::report::Report;
use self::server::Language;

/// One measurement of the table in `SPECIFICATION.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Benchmark {
    Warm(Language),
    Wasm,
    Cold,
    Prestarted,
    Docker,
    Burst,
    RoundRobin,
    Density,
    Decision,
    Idle,
    Workflow,
    Balancer,
    Fleet,
    Zygote,
}

const BENCHMARKS: [(&str, Benchmark); 15] = [
    ("warm-python", Benchmark::Warm(Language::Python)),
    ("warm-node", Benchmark::Warm(Language::Node)),
    ("wasm", Benchmark::Wasm),
    ("cold", Benchmark::Cold),
    ("prestarted", Benchmark::Prestarted),
    ("docker", Benchmark::Docker),
    ("burst", Benchmark::Burst),
    ("round-robin", Benchmark::RoundRobin),
    ("density", Benchmark::Density),
    ("decision", Benchmark::Decision),
    ("idle", Benchmark::Idle),
    ("workflow", Benchmark::Workflow),
    ("lb", Benchmark::Balancer),
    ("fleet", Benchmark::Fleet),
    ("zygote", Benchmark::Zygote),
];

/// What is measured, how often and how long.
#[derive(Debug)]
struct Plan {
    benchmarks: Vec<Benchmark>,
    rounds: usize,
    /// Of one load on one server.
    duration: Duration,
    /// Cold starts.
    starts: usize,
    json: Option<PathBuf>,
}

impl Plan {
    fn parse(words: &[&str]) -> anyhow::Result<Self> {
        let mut plan = Self {
            benchmarks: Vec::new(),
            rounds: 5,
            duration: Duration::from_secs(2),
            starts: 30,
            json: None,
        };
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word}: what?"));
            match word {
                "--quick" => {
                    plan.rounds = 3;
                    plan.duration = Duration::from_millis(500);
                    plan.starts = 5;
                }
                "--json" => plan.json = Some(value()?.into()),
                "--only" => {
                    let name = value()?;
                    plan.benchmarks.push(named(name)?);
                }
                name => plan.benchmarks.push(named(name)?),
            }
        }
        if plan.benchmarks.is_empty() {
            plan.benchmarks = BENCHMARKS.map(|(_, benchmark)| benchmark).to_vec();
        }
        Ok(plan)
    }
}

fn named(name: &str) -> anyhow::Result<Benchmark> {
    let found = BENCHMARKS.iter().find(|(known, _)| *known == name);
    let Some((_, benchmark)) = found else {
        let known = BENCHMARKS.map(|(known, _)| known).join(", ");
        bail!("no benchmark or option '{name}'; there are {known}, --quick and --json FILE");
    };
    Ok(*benchmark)
}

/// Runs the benchmarks named, or all.
pub(crate) fn run(words: &[&str]) -> anyhow::Result<()> {
    let plan = Plan::parse(words)?;
    server::build()?;
    let mut report = Report::new();
    for benchmark in &plan.benchmarks {
        match benchmark {
            Benchmark::Warm(language) => measure::warm(&plan, *language, &mut report)?,
            Benchmark::Wasm => wasm::calls(&plan, &mut report)?,
            Benchmark::Cold => measure::cold(&plan, &mut report)?,
            Benchmark::Prestarted => measure::prestarted(&plan, &mut report)?,
            Benchmark::Docker => docker::starts(&plan, &mut report)?,
            Benchmark::Burst => measure::burst(&plan, &mut report)?,
            Benchmark::RoundRobin => measure::round_robin(&plan, &mut report)?,
            Benchmark::Density => measure::density(&plan, &mut report)?,
            Benchmark::Decision => decision::measure(&mut report)?,
            Benchmark::Idle => measure::idle(&mut report)?,
            Benchmark::Workflow => workflow::all(&plan, &mut report)?,
            Benchmark::Balancer => lb::calls(&plan, &mut report)?,
            Benchmark::Fleet => fleet::all(&plan, &mut report)?,
            Benchmark::Zygote => zygote::sandboxes(&mut report)?,
        }
    }
    report.print();
    if let Some(path) = &plan.json {
        report
            .write(path)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read() {
        let plan = Plan::parse(&[]).unwrap();
        assert_eq!(plan.benchmarks.len(), BENCHMARKS.len());
        let plan = Plan::parse(&["idle", "--only", "cold", "--quick", "--json", "x"]).unwrap();
        assert_eq!(plan.benchmarks, [Benchmark::Idle, Benchmark::Cold]);
        assert_eq!((plan.starts, plan.json), (5, Some("x".into())));
        for wrong in [&["--only"][..], &["warm"], &["--json"], &["--fast"]] {
            assert!(Plan::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
