//! Logs on standard error, and traces to an OpenTelemetry collector. Neither blocks the server.

use super::environment::UsageError;
use crate::telemetry::trace::{SCOPE, UNTRACED, collect};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use std::env;
use std::ffi::OsString;
use std::io::{IsTerminal, stderr};
use std::panic::PanicHookInfo;
use tracing::{Level, level_filters::LevelFilter};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{Directive, Targets};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Largest number of log lines that wait for a slow reader; further ones are dropped.
const LINES_MAX: usize = 16_384;
/// The target of events that contain users' texts.
const TEXTS: &str = "remask::texts";

/// Format of a log line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogFormat {
    /// Plain text
    Text,
    /// One JSON object per line
    Json,
}

/// The heading of these flags in `--help`.
pub(super) const HEADING: &str = "Logs, metrics and traces";

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = HEADING)]
pub(super) struct LogArgs {
    /// Format of log lines. What is logged is set by RUST_LOG, for example `info` or `remask=debug`
    #[arg(long, env = "REMASK_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Log the requests of users including their texts. Without this flag no user text is logged
    #[arg(long, env = "REMASK_LOG_TEXTS")]
    log_texts: bool,
    /// Send traces to this collector by OTLP over gRPC, for example http://localhost:4317. The
    /// standard variables such as OTEL_TRACES_SAMPLER apply
    #[arg(long, env = "REMASK_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
}

/// Owns the logs and traces that are not written yet.
pub(super) struct Logs {
    traces: Option<SdkTracerProvider>,
    /// Writes the remaining lines when it is dropped.
    _lines: WorkerGuard,
}

/// Starts logging and tracing. To be called inside the runtime that is to send traces.
pub(super) fn init(args: &LogArgs) -> anyhow::Result<Logs> {
    let traces = args.otlp_endpoint.as_deref().map(collector).transpose()?;
    let filter = filter(env::var_os(EnvFilter::DEFAULT_ENV), "info", args.log_texts)?;
    // the reader of standard error may be slow or closed
    let builder = NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).lossy(true);
    let (writer, lines) = builder.thread_name("remask-log").finish(stderr());
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(has_colours());
    let layer = layer.log_internal_errors(false);
    let layer = match args.log_format {
        LogFormat::Text => layer.with_target(false).boxed(),
        LogFormat::Json => layer.json().with_span_list(false).boxed(),
    };
    // spans of requests, without those of the exporter itself
    let ours = Targets::new().with_target("remask", Level::INFO).with_target(TEXTS, LevelFilter::OFF);
    let ours = ours.with_target(UNTRACED, LevelFilter::OFF);
    let spans = traces.as_ref().map(|traces| {
        tracing_opentelemetry::layer()
            .with_tracer(traces.tracer(SCOPE))
            .with_location(false)
            .with_threads(false)
            .with_filter(ours)
    });
    let log = layer.with_filter(filter);
    tracing_subscriber::registry().with(log).with(spans).try_init().context("logs go elsewhere already")?;
    let has_texts = args.log_texts;
    std::panic::set_hook(Box::new(move |panic| panicked(panic, has_texts)));
    Ok(Logs { traces, _lines: lines })
}

/// Logs warnings on standard error, for commands that do not serve.
pub(super) fn warnings() -> anyhow::Result<()> {
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(has_colours());
    let layer = layer.without_time().with_target(false).log_internal_errors(false);
    let layer = layer.with_filter(filter(env::var_os(EnvFilter::DEFAULT_ENV), "warn", false)?);
    tracing_subscriber::registry().with(layer).try_init().context("logs go elsewhere already")
}

/// Whether log lines have colours: on a terminal, unless `NO_COLOR` is set
/// (<https://no-color.org>).
fn has_colours() -> bool {
    stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// What is logged: as `value` says, that of `RUST_LOG`, else from the level `usual` on.
fn filter(value: Option<OsString>, usual: &str, log_texts: bool) -> anyhow::Result<EnvFilter> {
    let texts: Directive = format!("{TEXTS}={}", if log_texts { "info" } else { "off" }).parse()?;
    Ok(levels(value, usual)?.add_directive(texts))
}

fn levels(value: Option<OsString>, usual: &str) -> Result<EnvFilter, UsageError> {
    let Some(value) = value else { return Ok(EnvFilter::new(usual)) };
    let refused = |problem: &str| {
        UsageError(format!(
            "RUST_LOG is {value:?}{problem}; give error, warn, info, debug, trace or off, or remask=debug"
        ))
    };
    let words = value.to_str().filter(|words| !words.trim().is_empty()).ok_or_else(|| refused(""))?;
    let filter = EnvFilter::try_new(words).map_err(|_| refused(""))?;
    // a word that is no level is the name of a crate, and all others are then silent
    let is_name = |word: &str| word.parse::<LevelFilter>().is_err() && !word.contains(['=', '[']);
    let mut parts = words.split(',').map(str::trim).filter(|part| !part.is_empty());
    if parts.all(|part| is_name(part) && !part.starts_with("remask")) {
        return Err(refused(", which is no level"));
    }
    Ok(filter)
}

/// Logs a panic. Its message is included with `--log-texts` only, since it may quote a user's text.
fn panicked(panic: &PanicHookInfo<'_>, has_texts: bool) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let payload = panic.payload();
    let owned = || payload.downcast_ref::<String>().map(String::as_str);
    let words = payload.downcast_ref::<&str>().copied().or_else(owned).filter(|_| has_texts);
    let words = words.unwrap_or("(its words are logged with --log-texts)");
    tracing::error!(place, words, "a panic");
}

/// An exporter that sends spans to `endpoint` in batches.
fn collector(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    if !endpoint.starts_with("http://") {
        bail!(
            "--otlp-endpoint is {endpoint:?}; give http://HOST:PORT (4317 is usual). For TLS, have a collector beside this server"
        );
    }
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let exporter = exporter.with_context(|| format!("--otlp-endpoint {endpoint:?} is no address to send traces to"))?;
    let mut resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(SCOPE);
    }
    let traces = SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter).build();
    collect(traces.tracer(SCOPE));
    Ok(traces)
}

impl Logs {
    /// Sends the remaining traces and lines. Blocks until that is done.
    pub(super) fn end(self) {
        if let Some(traces) = &self.traces
            && let Err(error) = traces.shutdown()
        {
            tracing::warn!(%error, "the last spans are lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_log_is_a_level_or_names_what_is_logged() {
        for words in ["info", "OFF", "4", "remask=debug", "warn,hyper=trace", "remask", "[request]=debug", "hyper=off"]
        {
            assert!(levels(Some(words.into()), "info").is_ok(), "{words}");
        }
        assert_eq!(levels(None, "warn").unwrap().to_string(), "warn");
        for words in ["garbage", "infos", "a=b=c", "remask=loud", "verbose,", " ", "hyper,tonic"] {
            let error = levels(Some(words.into()), "info").unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("RUST_LOG is {words:?}")) && error.contains("give error, warn"),
                "{error}"
            );
        }
    }
}
