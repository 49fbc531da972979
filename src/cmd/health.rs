//! `remask health`: asks a server whether it is alive, for containers that have no other program to ask with. Refuses to know
//! what it serves.

use anyhow::{Context, bail};
use clap::Args;
use std::time::Duration;

/// Flags of `remask health`.
#[derive(Args, Clone, Debug)]
pub(super) struct HealthArgs {
    /// The server's address; default: this machine, at --port
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The server's port on this machine
    #[arg(long, env = "REMASK_PORT", default_value_t = 8080)]
    port: u16,
    /// Ask whether a request would be accepted, too
    #[arg(long)]
    ready: bool,
    /// Seconds to wait for an answer
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    timeout: u64,
}

/// # Errors
/// When the server does not answer, or not as it should.
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
