//! What was measured: for people on standard output, for programs in a file.

use std::path::Path;

use serde::Serialize;

use super::load::Summary;

/// The measurements of one run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Mean number of processes that wanted to run in the minute before.
    busy_before: f64,
    cores: usize,
    loads: Vec<Load>,
    promises: Vec<Promise>,
}

/// Floor and node under the same load.
#[derive(Debug, Serialize)]
pub(super) struct Load {
    pub(super) benchmark: &'static str,
    pub(super) connections: usize,
    pub(super) floor: Summary,
    pub(super) node: Summary,
    /// Medians of the ratios within each round, which is not the ratio of the medians.
    pub(super) p50_ratio: f64,
    pub(super) rate_ratio: f64,
}

/// A line of `SPECIFICATION.md`.
#[derive(Debug, Serialize)]
pub(super) struct Promise {
    pub(super) what: String,
    pub(super) measured: f64,
    pub(super) unit: &'static str,
    pub(super) limit: Limit,
    /// What the figure should be seen beside.
    pub(super) remark: String,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Limit {
    AtMost(f64),
    AtLeast(f64),
    /// Told, not promised.
    None,
}

impl Promise {
    fn is_kept(&self) -> bool {
        match self.limit {
            Limit::AtMost(most) => self.measured <= most,
            Limit::AtLeast(least) => self.measured >= least,
            Limit::None => true,
        }
    }

    fn line(&self) -> String {
        let Self {
            what, unit, remark, ..
        } = self;
        let digits = if *unit == "x" { 2 } else { 1 };
        let measured = format!("{:.digits$} {unit}", self.measured);
        let (target, met) = match self.limit {
            Limit::AtMost(most) => (format!("<= {most} {unit}"), self.is_kept()),
            Limit::AtLeast(least) => (format!(">= {least} {unit}"), self.is_kept()),
            Limit::None => return format!("| {what} | {measured} | | | {remark} |"),
        };
        let met = if met { "yes" } else { "NO" };
        format!("| {what} | {measured} | {target} | {met} | {remark} |")
    }
}

impl Report {
    pub(super) fn new() -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let first = load.split_whitespace().next().unwrap_or_default();
        Self {
            busy_before: first.parse().unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            loads: Vec::new(),
            promises: Vec::new(),
        }
    }

    pub(super) fn load(&mut self, load: Load) {
        self.loads.push(load);
    }

    pub(super) fn promise(&mut self, promise: Promise) {
        println!(
            "  {}: {:.2} {}",
            promise.what, promise.measured, promise.unit
        );
        self.promises.push(promise);
    }

    /// Tables in Markdown, so that they can be pasted where they are needed.
    pub(super) fn print(&self) {
        println!();
        if !self.loads.is_empty() {
            println!("| load | connections | | p50 us | p99 us | requests/s |");
            println!("|---|---|---|---|---|---|");
        }
        for Load {
            benchmark,
            connections,
            floor,
            node,
            ..
        } in &self.loads
        {
            for (who, Summary { p50, p99, rate }) in [("floor", floor), ("node", node)] {
                println!(
                    "| {benchmark} | {connections} | {who} | {p50:.0} | {p99:.0} | {rate:.0} |"
                );
            }
        }
        println!("\n| promise | measured | target | met | beside |\n|---|---|---|---|---|");
        for promise in &self.promises {
            println!("{}", promise.line());
        }
        let broken = self
            .promises
            .iter()
            .filter(|promise| !promise.is_kept())
            .count();
        let (all, cores, busy) = (self.promises.len(), self.cores, self.busy_before);
        println!(
            "\n{broken} of {all} figures miss their target; {cores} cores, load before: {busy}"
        );
        if busy > 1.0 {
            println!("the machine was busy with other things: run it again when it is not");
        }
    }

    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(path, text)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_judged() {
        let promise = |measured, limit| Promise {
            what: "cold".into(),
            measured,
            unit: "ms",
            limit,
            remark: "r".into(),
        };
        let kept = promise(30.0, Limit::AtMost(30.0));
        assert_eq!(kept.line(), "| cold | 30.0 ms | <= 30 ms | yes | r |");
        let broken = promise(30.1, Limit::AtMost(30.0));
        assert_eq!(broken.line(), "| cold | 30.1 ms | <= 30 ms | NO | r |");
        assert!(!promise(0.5, Limit::AtLeast(0.6)).is_kept());
        assert!(!promise(f64::NAN, Limit::AtMost(1.0)).is_kept());
        assert_eq!(
            promise(7.0, Limit::None).line(),
            "| cold | 7.0 ms | | | r |"
        );
    }
}
