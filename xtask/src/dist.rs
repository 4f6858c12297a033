//! `cargo xtask dist`: release programs and the licence in one archive.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::{cargo, root, target};

const PROGRAMS: [&str; 2] = ["serverledge", "serverledge-cli"];

/// Builds, strips and packs. The executor and the shims are inside `serverledge`.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut build = vec!["build", "--locked", "--release"];
    build.extend(PROGRAMS.iter().flat_map(|program| ["-p", *program]));
    cargo(&build, &[])?;
    let name = format!(
        "serverledge-{}-{}-linux",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    );
    let dist = target().join("dist");
    let stage = dist.join(&name);
    std::fs::create_dir_all(&stage).with_context(|| format!("creating {}", stage.display()))?;
    for program in PROGRAMS {
        let copy = stage.join(program);
        std::fs::copy(target().join("release").join(program), &copy)
            .with_context(|| format!("copying {program}"))?;
        shell("strip", &[&copy])?;
    }
    for file in ["LICENSE", "README.md", "CHANGELOG.md"] {
        std::fs::copy(root().join(file), stage.join(file))
            .with_context(|| format!("copying {file}"))?;
    }
    let archive = dist.join(format!("{name}.tar.gz"));
    shell(
        "tar",
        &[
            Path::new("--owner=0"),
            Path::new("--group=0"),
            Path::new("-C"),
            &dist,
            Path::new("-czf"),
            &archive,
            Path::new(&name),
        ],
    )?;
    std::fs::remove_dir_all(&stage)?;
    let bytes = std::fs::metadata(&archive)?.len();
    println!("{} ({:.1} MB)", archive.display(), bytes as f64 / 1e6);
    Ok(())
}

fn shell(program: &str, arguments: &[&Path]) -> anyhow::Result<()> {
    let status = Command::new(program)
        .args(arguments)
        .status()
        .with_context(|| format!("starting {program}"))?;
    if !status.success() {
        bail!("{program} failed ({status})");
    }
    Ok(())
}
