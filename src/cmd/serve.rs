//! `remask serve`: listens at once, loads the model meanwhile, and drains on SIGTERM or Ctrl-C.

use super::environment::UsageError;
use super::greeting::{Example, greeting};
use super::loading::{self, load_all, reload};
use super::logging::{self, LogArgs};
use super::model::{self, Loaded, ModelArgs};
use super::print::{say, say_in_passing};
use super::signal::{Signals, exit};
use super::version::{REVISION, VERSION};
use super::words::{count, port, whole};
use crate::api::{self, Access, AppState, Guard, Listeners, Patience, Service};
use crate::engine::{Clock, Handle, Limits, Replica, Restart, start_replicas};
use crate::model::{Device, Keeping};
use crate::telemetry::Metrics;
use anyhow::{Context, bail};
use axum::http::{HeaderValue, Uri};
use clap::builder::{NonEmptyStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use futures_util::future::select_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{io, path::PathBuf, sync::Arc};
use tokio::{
    net::{TcpListener, lookup_host},
    runtime::{Builder, Runtime},
    sync::Notify,
    task::spawn_blocking,
};

/// Headings of `--help`, in its order.
const LISTENING: &str = "Listening";
const LOAD: &str = "Load and limits";
const ACCESS: &str = "Access";

/// Longest time in seconds that a flag may set: a week.
const WAIT_MAX: u64 = 7 * 24 * 3600;

#[derive(Args, Clone, Debug)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Model name in requests and answers. Of several models give all names, in the same order
    /// [default: the last part of --model-id]
    #[arg(long, env = "REMASK_SERVED_MODEL_NAME", value_name = "NAME,..", value_delimiter = ',', help_heading = model::HEADING, value_parser = NonEmptyStringValueParser::new().try_map(name))]
    served_model_name: Vec<String>,
    /// Address to listen on. 0.0.0.0 is all interfaces
    #[arg(long, env = "REMASK_HOSTNAME", default_value = "127.0.0.1", help_heading = LISTENING, value_parser = NonEmptyStringValueParser::new())]
    hostname: String,
    /// Port to listen on. 0 picks a free port
    #[arg(long, env = "REMASK_PORT", default_value_t = 8080, help_heading = LISTENING, value_parser = port())]
    port: u16,
    /// Separate port for gRPC. 0 picks a free port [default: gRPC shares --port with HTTP]
    #[arg(long, env = "REMASK_GRPC_PORT", value_name = "PORT", help_heading = LISTENING, value_parser = port())]
    grpc_port: Option<u16>,
    /// Maximum number of tokens per forward pass of a device, over all its requests. A longer
    /// canvas runs alone [default: 8192; on a CPU 512 per thread, from 1024 to 8192]
    #[arg(long, env = "REMASK_MAX_BATCH_TOKENS", value_name = "N", help_heading = LOAD, value_parser = count::<usize>(1 << 24))]
    max_batch_tokens: Option<usize>,
    /// Maximum number of requests refined at the same time on each device; each choice counts. API
    /// keys take turns, as do requests, and one without a place gets one of those that have several
    #[arg(long, env = "REMASK_MAX_CONCURRENT_REQUESTS", default_value_t = Limits::default().running_max, value_name = "N", help_heading = LOAD, value_parser = count::<usize>(1 << 16))]
    max_concurrent_requests: usize,
    /// Maximum number of queued requests, for all devices together; each choice counts. Further
    /// ones are refused with status 429. One of several API keys may hold three quarters of the
    /// places, running and queued, that the others do not hold
    #[arg(long, env = "REMASK_MAX_QUEUE", default_value_t = Limits::default().queue_max, value_name = "N", help_heading = LOAD, value_parser = whole::<usize>(0, 1 << 20))]
    max_queue: usize,
    /// Under load, reduce the steps of requests, down to this share (for example 0.5) when the
    /// queue is full. Such answers have `degraded` set
    #[arg(long, env = "REMASK_BROWN_OUT", value_name = "SHARE", value_parser = share, help_heading = LOAD)]
    brown_out: Option<f32>,
    /// Maximum length of a canvas in cells, including the prompt [default: the model's limit]
    #[arg(long, env = "REMASK_MAX_MODEL_LEN", value_name = "N", help_heading = LOAD, value_parser = count::<usize>(1 << 20))]
    max_model_len: Option<usize>,
    /// Maximum size of a request body or gRPC message in bytes
    #[arg(long, env = "REMASK_PAYLOAD_LIMIT", default_value_t = api::BODY_MAX, value_name = "BYTES", help_heading = LOAD, value_parser = count::<usize>(1 << 30))]
    payload_limit: usize,
    /// API keys, separated by commas. If set, requests must send one as `Authorization: Bearer KEY`
    #[arg(long, env = "REMASK_API_KEY", hide_env_values = true, value_delimiter = ',', value_name = "KEY,..", help_heading = ACCESS)]
    api_key: Vec<String>,
    /// File with one API key per line. It is read again when it changes
    #[arg(long, env = "REMASK_API_KEY_FILE", value_name = "FILE", help_heading = ACCESS)]
    api_key_file: Option<PathBuf>,
    /// Maximum number of concurrent requests per API key
    #[arg(long, env = "REMASK_MAX_REQUESTS_PER_KEY", value_name = "N", help_heading = ACCESS, value_parser = count::<usize>(1 << 20))]
    max_requests_per_key: Option<usize>,
    /// Allowed CORS origins, separated by commas, for example `https://example.org`, or `*` for all
    #[arg(long, env = "REMASK_CORS_ALLOW_ORIGIN", value_delimiter = ',', value_name = "ORIGIN,..", help_heading = ACCESS, value_parser = origin)]
    cors_allow_origin: Vec<HeaderValue>,
    /// Timeout of a request in seconds, until the last byte of the answer is sent [default: none]
    #[arg(long, env = "REMASK_REQUEST_TIMEOUT", value_name = "SECONDS", help_heading = LOAD, value_parser = count::<u64>(WAIT_MAX))]
    request_timeout: Option<u64>,
    /// Seconds for which a broken /v1/infill or /v1/repair stream can be resumed. 0 cancels it at
    /// once
    #[arg(long, env = "REMASK_RESUME_GRACE", default_value_t = api::RESUME_GRACE.as_secs(), value_name = "SECONDS", help_heading = LOAD, value_parser = whole::<u64>(0, WAIT_MAX))]
    resume_grace: u64,
    /// Additional port that serves only /metrics, /health and /ready
    #[arg(long, env = "REMASK_METRICS_PORT", value_name = "PORT", help_heading = LISTENING, value_parser = port())]
    metrics_port: Option<u16>,
    /// Also export metrics under the names of another server, for its dashboards and routers
    #[arg(long, env = "REMASK_METRICS_ALIASES", value_name = "SERVER", help_heading = logging::HEADING)]
    metrics_aliases: Option<MetricsAliases>,
    /// Seconds that running requests have to finish when the server stops
    #[arg(long, env = "REMASK_DRAIN_TIMEOUT", default_value_t = 30, value_name = "SECONDS", help_heading = LOAD, value_parser = whole::<u64>(0, WAIT_MAX))]
    drain_timeout: u64,
    #[command(flatten)]
    logs: LogArgs,
}

pub(super) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    on_runtime(|runtime| {
        let logs = runtime.block_on(async { logging::init(&args.logs) })?;
        let served = runtime.block_on(serve(args));
        let _inside = runtime.enter();
        logs.end(); // on this thread: all blocking threads may be busy
        served
    })?
}

/// Calls `work` with a runtime. Does not wait for blocking threads, whose requests have been given
/// up, as dropping the runtime would.
fn on_runtime<T>(work: impl FnOnce(&Runtime) -> T) -> io::Result<T> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let result = work(&runtime);
    runtime.shutdown_background();
    Ok(result)
}

async fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    open_more_files();
    let models = args.models()?;
    let metrics = Arc::new(Metrics::new()?);
    let http = listen(&args.hostname, args.port, "--port").await?;
    let address = http.local_addr()?;
    let (listeners, grpc_address) = match args.grpc_port {
        None => (Listeners::One(http), address),
        Some(port) => {
            let grpc = listen(&args.hostname, port, "--grpc-port").await?;
            let address = grpc.local_addr()?;
            (Listeners::Two { http, grpc }, address)
        }
    };
    let (mut signals, given_up) = (Signals::new()?, Arc::new(Notify::new()));
    let is_loaded = Arc::new(AtomicBool::new(false));
    let per_key_max = args.max_requests_per_key;
    let guard = Guard::new(&args.api_key, args.api_key_file.as_deref(), per_key_max)?;
    if guard.is_none() && per_key_max.is_some() {
        bail!("--max-requests-per-key bounds API keys, and there are none; give --api-key or --api-key-file");
    }
    let has_keys = guard.is_some();
    let access = Access { guard, origins: args.cors_allow_origin.clone() };
    let patience = Patience {
        timeout: args.request_timeout.map(Duration::from_secs),
        resume: Duration::from_secs(args.resume_grace),
    };
    let state = AppState::new(Arc::clone(&metrics), args.payload_limit, access).patient(patience);
    let drain_timeout = Duration::from_secs(args.drain_timeout);
    if let Some(port) = args.metrics_port {
        let listener = listen(&args.hostname, port, "--metrics-port").await?;
        tokio::spawn(api::serve_operators(listener, state.clone()));
    }
    let stop = {
        let (given_up, is_loaded, drain) = (Arc::clone(&given_up), Arc::clone(&is_loaded), args.drain_timeout);
        async move {
            tokio::select! {
                code = signals.next() => {
                    if !is_loaded.load(Ordering::Acquire) {
                        exit(code, "stopped while the model was being loaded"); // nothing else ends its thread
                    }
                    say_in_passing(format_args!(
                        "remask: stopping; the requests under way have {drain} s to finish; another signal, a second from \
                         now or later, ends them"
                    ));
                }
                () = given_up.notified() => {}
            }
            tokio::spawn(async move {
                let code = signals.next().await;
                exit(code, "stopped at once; the requests under way are lost")
            });
        }
    };
    let mut server = tokio::spawn(api::serve(listeners, state.clone(), stop, drain_timeout));

    let names: Vec<&str> = models.iter().map(|(_, name)| name.as_str()).collect();
    say(format_args!("remask {VERSION}: loading {} ...", names.join(", ")));
    let (loading, tokens, begun) = (models.clone(), args.batch_tokens_max(), Instant::now());
    let load = move || loading.iter().map(|(model, _)| load_all(model, tokens)).collect::<anyhow::Result<Vec<_>>>();
    let loaded = tokio::select! {
        loaded = spawn_blocking(load) => loaded.context("the model's loader broke down")??,
        served = &mut server => return served.context("the server broke down"),
    };
    metrics.info("build_info", "The program", &[("version", env!("CARGO_PKG_VERSION")), ("revision", REVISION)])?;
    let is_sudoku = models[0].0.only()? == "sudoku";
    let start = |(loaded, model)| start_service(loaded, model, args, &metrics);
    let services: Vec<Service> = loaded.into_iter().zip(models).map(start).collect::<anyhow::Result<_>>()?;
    let greeting = greeting(&services, [address, grpc_address], begun.elapsed(), Example { is_sudoku, has_keys });
    let handles: Vec<Handle> = services.iter().map(|service| service.handle.clone()).collect();
    is_loaded.store(true, Ordering::Release);
    state.loaded(services)?;
    say(greeting);
    tokio::select! {
        served = &mut server => return served.context("the server broke down"),
        _ = select_all(handles.iter().map(|handle| Box::pin(handle.given_up()))) => given_up.notify_one(),
    }
    server.await.context("the server broke down")?;
    bail!("the model broke down and could not be loaded anew; the log says why")
}

/// Raises the soft limit on open files to the hard limit, since every connection is an open file.
fn open_more_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Err(cause) = raised {
        tracing::warn!(%cause, "the limit on open files stays as it is");
    }
}

async fn listen(hostname: &str, port: u16, flag: &str) -> anyhow::Result<TcpListener> {
    // an IPv6 address has brackets in a URL
    let host = hostname.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(hostname);
    let mut addresses: Vec<SocketAddr> = match lookup_host((host, port)).await {
        Ok(addresses) => addresses.collect(),
        Err(cause) => {
            bail!(
                "--hostname is {hostname:?}, which is no IP address and no name that resolves ({cause}); give one, \
                 without http:// and without a port, which is for {flag}"
            )
        }
    };
    // a name such as localhost may have both kinds; most clients are given 127.0.0.1
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let listener = TcpListener::bind(&*addresses).await;
    listener.with_context(|| format!("cannot listen on {hostname}:{port}; choose another {flag}"))
}

impl ServeArgs {
    /// Each model, and the name under which it is served.
    fn models(&self) -> anyhow::Result<Vec<(ModelArgs, String)>> {
        let models = self.model.each()?;
        let names = match self.served_model_name.len() {
            0 => models.iter().map(ModelArgs::name).collect::<anyhow::Result<Vec<_>>>()?,
            given if given == models.len() => self.served_model_name.clone(),
            given => bail!(UsageError(format!(
                "the number of names in --served-model-name is {given}, that of models in --model-id is {}; give a name \
                 for each, in the same order",
                models.len()
            ))),
        };
        let same = |(number, name): &(usize, &String)| names[..*number].contains(name);
        if let Some((_, name)) = names.iter().enumerate().find(same) {
            bail!(UsageError(format!(
                "two models have the name {name:?}, and requests could not say which one they mean; give each a name \
                 of its own with --served-model-name"
            )));
        }
        Ok(models.into_iter().zip(names).collect())
    }

    fn batch_tokens_max(&self) -> usize {
        self.max_batch_tokens.unwrap_or_else(|| loading::batch_tokens_max(self.model.devices()))
    }
}

/// The pause before a failed model is loaded again, in which a device may recover.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

fn start_service(
    loaded: Vec<(Device, Loaded)>,
    (model_args, name): (ModelArgs, String),
    args: &ServeArgs,
    metrics: &Metrics,
) -> anyhow::Result<Service> {
    let (mut tokenizer, mut replicas) = (None, Vec::new());
    for (device, Loaded { model, tokenizer: its, .. }) in loaded {
        tokenizer = tokenizer.or(its);
        let reload = reload(&model_args, device, args.batch_tokens_max());
        replicas.push(Replica { model, restart: Restart::by(reload, RESTART_PAUSE) });
    }
    let limits = Limits {
        batch_tokens_max: args.batch_tokens_max(),
        running_max: args.max_concurrent_requests,
        queue_max: args.max_queue,
        canvas_max: args.max_model_len,
        brown_out: args.brown_out,
    };
    let of_model = metrics.model(&name)?;
    let handle = start_replicas(Clock::system(), replicas, tokenizer, limits, Arc::clone(&of_model))?;
    let handle = api::with_presets(&handle)?;
    let spec = handle.spec();
    metrics.info(
        "model_info",
        "The models that are served",
        &[("name", &name), ("family", &spec.family), ("dtype", &spec.dtype), ("device", &spec.device)],
    )?;
    if let Some(given) = args.max_model_len.filter(|given| *given > spec.canvas_max) {
        let limit = spec.canvas_max;
        tracing::warn!("--max-model-len {given} is more than the canvas of {name}; its {limit} cells are the limit");
    }
    if model_args.has_cache_bytes() && spec.keeping == Keeping::No {
        tracing::warn!("--cache-bytes does nothing for {name}: this model keeps no keys and values");
    }
    if let Some(MetricsAliases::Vllm) = args.metrics_aliases {
        metrics.alias_as_vllm(&of_model)?;
    }
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(Service { handle, name, created })
}

/// Servers whose metric names can be exported as well.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum MetricsAliases {
    /// The names of vLLM, which Kubernetes inference routers read
    Vllm,
}

fn name(word: String) -> Result<String, &'static str> {
    let is_shown = !word.trim().is_empty() && !word.contains(char::is_control);
    if is_shown { Ok(word) } else { Err("give a name that can be seen, on one line") }
}

fn share(word: &str) -> Result<f32, &'static str> {
    let share = word.parse().ok().filter(|share| *share > 0.0 && *share < 1.0);
    share.ok_or("give a number above 0 and below 1")
}

/// An origin as browsers send it, or `*` for all.
fn origin(word: &str) -> Result<HeaderValue, &'static str> {
    let is_origin = |uri: Uri| {
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        is_web
            && uri.host().is_some_and(|host| !host.is_empty())
            && !word.contains(['@', '?'])
            && !word.ends_with('/')
            && uri.path() == "/"
    };
    let value = HeaderValue::from_str(word).ok().filter(|_| word == "*" || word.parse().is_ok_and(is_origin));
    value.ok_or("give SCHEME://HOST or SCHEME://HOST:PORT, for example https://example.org, without a path, or *")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn the_end_waits_for_no_blocking_thread() {
        let ((_never, wait), (begun, begins)) = (mpsc::channel::<()>(), mpsc::channel());
        let (ended, ends) = mpsc::channel();
        std::thread::spawn(move || {
            let result = on_runtime(|runtime| {
                runtime.block_on(async {
                    let busy = spawn_blocking(move || {
                        begun.send(()).unwrap();
                        wait.recv() // ends after the test
                    });
                    drop(busy); // as a request that is given up
                    spawn_blocking(move || begins.recv()).await
                })
            });
            ended.send(result.is_ok()).unwrap();
        });
        assert_eq!(ends.recv_timeout(Duration::from_secs(60)), Ok(true));
    }
}
