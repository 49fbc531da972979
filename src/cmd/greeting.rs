//! The message once the models are loaded: what is served, where, and an example request.

use crate::api::Service;
use crate::model::{ModelSpec, threads};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// What the example depends on, besides the services.
#[derive(Clone, Copy, Debug)]
pub(super) struct Example {
    /// Whether the first model is the built-in one for Sudoku, also under another name.
    pub(super) is_sudoku: bool,
    pub(super) has_keys: bool,
}

/// An address to connect to: where the server listens on all interfaces, the one of this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The message for services that listen on these addresses, for HTTP and for gRPC. There is one at
/// least.
pub(super) fn greeting(
    services: &[Service],
    [address, grpc]: [SocketAddr; 2],
    loading: Duration,
    example: Example,
) -> String {
    let reachable = reachable(address);
    let served = match services {
        [service] => format!("serving {} ({}) on http://{address}", service.name, facts(service.handle.spec())),
        several => {
            let line = |service: &Service| format!("\n  {} ({})", service.name, facts(service.handle.spec()));
            let lines: String = several.iter().map(line).collect();
            let first = &several[0].name;
            format!(
                "serving {} models on http://{address}{lines}\nrequests say which by \"model\"; without it, {first} answers",
                several.len()
            )
        }
    };
    let (path, body) = match (example.is_sudoku, services[0].handle.tokenizer()) {
        (true, _) => (
            "infill",
            "{\"blank\": \".\", \"template\": \"53..7....\\n6..195...\\n.98....6.\\n8...6...3\\n4..8.3..1\\n\
             7...2...6\\n.6....28.\\n...419..5\\n....8..79\"}",
        ),
        (false, Some(_)) => ("completions", "{\"prompt\": \"Once upon a time\"}"),
        (false, None) => ("completions", "{\"prompt\": [1, 2, 3], \"return_token_ids\": true}"),
    };
    // quoted, since brackets of an IPv6 address are patterns of a shell
    let key = if example.has_keys { " -H \"Authorization: Bearer $REMASK_API_KEY\"" } else { "" };
    let curl = format!("curl 'http://{reachable}/v1/{path}'{key} -d '{body}'");
    let ask = if example.has_keys { "try, with an API key in REMASK_API_KEY:" } else { "try:" };
    let (seconds, threads) = (loading.as_secs_f64(), threads());
    format!(
        "{served}\nloaded in {seconds:.1} s; {threads} threads\n\
         playground: open http://{reachable} in a browser; documentation: http://{reachable}/docs\n\
         gRPC (remask.v1.Remask, health, reflection) on {grpc}\n{ask}\n  {curl}"
    )
}

fn facts(spec: &ModelSpec) -> String {
    let ModelSpec { family, parameters, dtype, device, has_quality, .. } = spec;
    let head = if *has_quality { "with a quality head" } else { "without a quality head" };
    format!("{family}, {parameters} parameters, {head}, {dtype} on {device}")
}
