//! Choosing and starting what makes the sandboxes.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use serverledge::config::{Config, Isolation, SandboxBackend};
use serverledge_sandbox::Backend;
use serverledge_sandbox::docker::{DockerBackend, DockerConfig, Engine};
use serverledge_sandbox::image::ImageStore;
use serverledge_sandbox::oci::{OciBackend, OciConfig, Reaped};
use serverledge_sandbox::probe::Report;
use serverledge_sandbox::process::ProcessBackend;
use tracing::{info, warn};

/// The backend that is configured, or the best that there is.
pub(crate) async fn start(config: &Config) -> anyhow::Result<Arc<dyn Backend>> {
    let sandbox = &config.sandbox;
    if sandbox.isolation == Isolation::Process {
        warn!("sandbox.isolation is 'process': functions run with the rights of this node");
        let backend = ProcessBackend::start(state_dir(config));
        return Ok(backend.with_context(|| preparing(config))?);
    }
    if sandbox.backend == SandboxBackend::Docker {
        return docker(config, Engine::connect(&sandbox.docker_socket).await?).await;
    }
    let report = serverledge_sandbox::probe::isolation();
    if report.can_isolate() {
        return builtin(config, &report).await;
    }
    let only =
        sandbox.isolation == Isolation::Builtin || sandbox.backend == SandboxBackend::Builtin;
    let no_docker = match only {
        true => "the configuration asks for the built-in sandbox".to_owned(),
        false => match Engine::connect(&sandbox.docker_socket).await {
            Ok(engine) => {
                info!("this machine cannot isolate functions itself: Docker does");
                return docker(config, engine).await;
            }
            Err(error) => error.to_string(),
        },
    };
    bail!(
        "this machine cannot isolate functions itself, and {no_docker}; running them without \
         isolation must be asked for (sandbox.isolation: process)\n{report}"
    );
}

async fn builtin(config: &Config, report: &Report) -> anyhow::Result<Arc<dyn Backend>> {
    for missing in report.missing() {
        warn!(
            "isolation is not complete: no {}: {}",
            missing.name, missing.detail
        );
    }
    let reaped = serverledge_sandbox::oci::reap(&state_dir(config));
    tell(&reaped.with_context(|| preparing(config))?);
    let doing = preparing(config);
    let images = ImageStore::open(config.image.store(&config.storage.path));
    let images = images.with_context(|| preparing(config))?;
    let config = OciConfig {
        images: Some(Arc::new(images)),
        process_max: config.sandbox.processes_max,
        tmp_mb: config.sandbox.tmp_mb,
        network: config.network.limits(),
        zygote: config.sandbox.zygote,
        ..OciConfig::new(state_dir(config))
    };
    Ok(OciBackend::start(config).await.context(doing)?)
}

async fn docker(config: &Config, engine: Engine) -> anyhow::Result<Arc<dyn Backend>> {
    let state_dir = state_dir(config);
    let reaped = serverledge_sandbox::docker::reap(&engine, &state_dir).await;
    tell(&reaped.context("removing what an earlier run left behind")?);
    info!(
        api = engine.api_version(),
        "sandboxes are containers of a Docker engine"
    );
    let config = DockerConfig {
        process_max: config.sandbox.processes_max,
        tmp_mb: config.sandbox.tmp_mb,
        network: config.network.limits(),
        ..DockerConfig::new(state_dir)
    };
    Ok(DockerBackend::start(engine, config).await?)
}

fn state_dir(config: &Config) -> PathBuf {
    config.storage.path.join("sandboxes")
}

fn preparing(config: &Config) -> String {
    let path = state_dir(config);
    format!(
        "preparing for sandboxes in {} (in storage.path)",
        path.display()
    )
}

fn tell(reaped: &Reaped) {
    if reaped.sandboxes > 0 {
        info!(
            sandboxes = reaped.sandboxes,
            "removed what an earlier run left behind"
        );
    }
    for problem in &reaped.problems {
        warn!("left behind by an earlier run: {problem}");
    }
}
