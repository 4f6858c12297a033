//! `serverledge lb [CONFIG]`: runs a load balancer until it is told to stop.

use std::path::Path;

use serverledge::balancer::Balancer;
use serverledge::config::Config;
use tracing::warn;

use super::serve;

/// Loads the configuration and runs a balancer in the foreground.
pub(crate) fn run(explicit: Option<&Path>) -> anyhow::Result<()> {
    let (config, warnings) =
        Config::load(explicit.into(), serve::environment(), &serve::search_dirs())?;
    serve::init_logging(config.log_format);
    for warning in warnings {
        warn!("{warning}");
    }
    serve::raise_descriptor_limit();
    let balancer = Balancer::build(config.clone())?;
    serve::runtime()?.block_on(async {
        let listener = serve::listen(&config).await?;
        let (_, stop) = serve::stop_signals()?;
        balancer.run(listener, stop).await
    })
}
