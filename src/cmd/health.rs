//! `remask health`: a health check of a running server, for containers that have no HTTP client.

use super::words::{count, port};
use anyhow::{Context, bail};
use clap::Args;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
pub(super) struct HealthArgs {
    /// Base URL of the server [default: http://127.0.0.1 with --port]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Port of a server on this machine
    #[arg(long, env = "REMASK_PORT", default_value_t = 8080, value_parser = port())]
    port: u16,
    /// Check /ready instead of /health: whether the server accepts requests
    #[arg(long)]
    ready: bool,
    /// Timeout in seconds
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = count::<u64>(3600))]
    timeout: u64,
}

/// # Errors
/// When the server does not answer, or not with status 200.
pub(super) fn run(args: &HealthArgs) -> anyhow::Result<()> {
    let base = args.url.clone().unwrap_or_else(|| format!("http://127.0.0.1:{}", args.port));
    let address = format!("{}/{}", base.trim_end_matches('/'), if args.ready { "ready" } else { "health" });
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(args.timeout)));
    let agent = ureq::Agent::new_with_config(config.http_status_as_error(false).proxy(None).build());
    let answer = agent.get(&address).call().with_context(|| format!("{address} does not answer"))?;
    match answer.status().as_u16() {
        200 => Ok(()),
        status => bail!("{address} answers {status}"),
    }
}
