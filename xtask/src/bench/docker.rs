//! Cold starts in containers of a Docker engine, made ahead and not.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::Plan;
use super::load::percentile;
use super::measure::timed;
use super::report::{Limit, Promise, Report};
use super::server::{self, Language};
use crate::setup::{self, Docker};

/// Between starts that are meant to find a container ready: an engine takes its time to make one.
const REFILL: Duration = Duration::from_secs(1);

/// This machine's Python as an image, without what no function here needs: no registry is asked.
const IMAGE: &str = "serverledge-bench-python";
const MAKE_IMAGE: &str = r#"
library=$(/usr/bin/python3 -I -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
files=$(ldd /usr/bin/python3 "$library"/lib-dynload/*.so | tr -s ' \t' '\n' | grep '^/.*[^:]$' | sort -u)
tar --dereference -C / -cf - --exclude=__pycache__ --exclude=test --exclude=idlelib --exclude=ensurepip \
    --exclude=dist-packages --exclude='config-*' $(for file in /usr/bin/python3 $files "$library"; do echo "${file#/}"; done) |
    docker -H "$0" import - "$1"
"#;

/// The first call of a function that never ran, from nothing and in a container that waited for it.
pub(super) fn starts(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let engine = setup::docker()?;
    make_image(&engine)?;
    let (_, socket) = engine.variable();
    for (ahead, how, limit) in [
        (0, "from nothing", Limit::None),
        (4, "prestarted", Limit::AtMost(10.0)),
    ] {
        println!("cold start, Docker, {how}");
        let node = server::node(&format!(
            "container.pool.memory: 4096\nsandbox.backend: docker\nsandbox.docker.socket: {socket}\n\
             runtime.python314.image: {IMAGE}\nsandbox.prestart: {ahead}"
        ))?;
        let mut times = Vec::new();
        for number in 0..plan.starts {
            let name = format!("docker{number}");
            node.create(&name, Language::Python)?;
            if ahead > 0 {
                std::thread::sleep(REFILL);
            }
            times.push(timed(|| node.invoke(&name))?);
            node.delete(&name)?;
        }
        times.sort_by(f64::total_cmp);
        report.promise(Promise {
            what: format!("cold start, Docker, {how}, Python: p50"),
            measured: percentile(&times, 50),
            unit: "ms",
            limit,
            remark: format!(
                "p95 {:.1} ms, {} starts",
                percentile(&times, 95),
                times.len()
            ),
        });
    }
    Ok(())
}

fn make_image(engine: &Docker) -> anyhow::Result<()> {
    let (_, socket) = engine.variable();
    let status = Command::new("sh")
        .args(["-ec", MAKE_IMAGE])
        .arg(format!("unix://{socket}"))
        .arg(IMAGE)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("starting a shell")?;
    ensure!(status.success(), "making an image of Python failed");
    Ok(())
}
