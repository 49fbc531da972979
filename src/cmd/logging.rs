//! Where logs and traces go and what they look like. Refuses to let anybody wait for them.

use crate::telemetry::trace::{SCOPE, collect};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::io::{IsTerminal, stderr};
use std::panic::PanicHookInfo;
use tracing::Level;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{Directive, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Lines that wait for a slow reader of the log at most; further ones are lost.
const LINES_MAX: usize = 16_384;
/// Events that hold texts of users are of this target.
const TEXTS: &str = "remask::texts";

/// What a log line looks like.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is told to whom.
#[derive(Args, Clone, Debug)]
pub(super) struct LogArgs {
    /// What a log line looks like; RUST_LOG says what is logged, as `info` or `remask=debug`
    #[arg(long, env = "REMASK_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Log what users ask, texts included; without it no text of theirs is in the log
    #[arg(long, env = "REMASK_LOG_TEXTS")]
    log_texts: bool,
    /// Send traces to this collector by OTLP over gRPC, as http://localhost:4317; OTEL_TRACES_SAMPLER and its kin are heeded
    #[arg(long, env = "REMASK_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
}

/// What holds logs and traces that are still to be written.
pub(super) struct Logs {
    traces: Option<SdkTracerProvider>,
    /// Writes what is left when it is dropped.
    _lines: WorkerGuard,
}

/// Sends logs to standard error, and traces where they are wanted. To be called inside the runtime that sends them.
pub(super) fn init(args: &LogArgs) -> anyhow::Result<Logs> {
    let traces = args.otlp_endpoint.as_deref().map(collector).transpose()?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let texts: Directive = format!("{TEXTS}={}", if args.log_texts { "info" } else { "off" }).parse()?;
    // whoever reads standard error may be slow, or gone
    let builder = NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).lossy(true);
    let (writer, lines) = builder.thread_name("remask-log").finish(stderr());
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(stderr().is_terminal());
    let layer = layer.log_internal_errors(false);
    let layer = match args.log_format {
        LogFormat::Text => layer.with_target(false).boxed(),
        LogFormat::Json => layer.json().with_span_list(false).boxed(),
    };
    // requests, not the machinery that sends them
    let ours =
        Targets::new().with_target("remask", Level::INFO).with_target(TEXTS, tracing::level_filters::LevelFilter::OFF);
    let spans = traces.as_ref().map(|traces| {
        tracing_opentelemetry::layer()
            .with_tracer(traces.tracer(SCOPE))
            .with_location(false)
            .with_threads(false)
            .with_filter(ours)
    });
    let log = layer.with_filter(filter.add_directive(texts));
    tracing_subscriber::registry().with(log).with(spans).try_init().context("logs go elsewhere already")?;
    let has_texts = args.log_texts;
    std::panic::set_hook(Box::new(move |panic| panicked(panic, has_texts)));
    Ok(Logs { traces, _lines: lines })
}

/// A panic's place; its words may quote a user's text.
fn panicked(panic: &PanicHookInfo<'_>, has_texts: bool) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let payload = panic.payload();
    let words =
        payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let words = words.filter(|_| has_texts).unwrap_or("(its words are logged with --log-texts)");
    tracing::error!(place, words, "a panic");
}

/// What sends spans to `endpoint`, some seconds' worth at a time.
fn collector(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    if !endpoint.starts_with("http://") {
        bail!(
            "--otlp-endpoint is {endpoint:?}; give http://HOST:PORT (4317 is usual). For TLS, have a collector beside this server"
        );
    }
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let exporter = exporter.with_context(|| format!("--otlp-endpoint {endpoint:?} is no address to send traces to"))?;
    let mut resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(SCOPE);
    }
    let traces = SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter).build();
    collect(traces.tracer(SCOPE));
    Ok(traces)
}

impl Logs {
    /// Sends what is left, on a thread that may wait for it.
    pub(super) fn end(self) {
        if let Some(traces) = &self.traces
            && let Err(error) = traces.shutdown()
        {
            tracing::warn!(%error, "the last spans are lost");
        }
    }
}
