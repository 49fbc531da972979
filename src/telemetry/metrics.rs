//! Every metric: a field with its name, help and unit. Callers count in a field, or report what
//! concerns several fields by a method.

use crate::diffusion::Probability;
use crate::diffusion::policy::{Kind, OFF, rules};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{LabelPair, MetricFamily};
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};
use std::{collections::HashMap, time::Duration};

/// Seconds, from a step of the smallest model to one of the largest on a CPU.
const STEP_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Seconds, from a cached answer to a long one.
const ANSWER_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0];
const COUNT_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
const TOKEN_BUCKETS: &[f64] = &[64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
const PROBABILITY_BUCKETS: &[f64] = &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99];

/// All metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Metrics without the prefix `remask`: those of the process, and aliases.
    unprefixed: Registry,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    pub(crate) queue_duration: Histogram,
    pub(crate) time_to_first_edit: Histogram,
    pub(crate) time_to_first_text: Histogram,
    prompt_tokens: IntCounter,
    generated_tokens: IntCounter,
    forward_passes: IntCounter,
    token_forwards: IntCounter,
    step_duration: Histogram,
    batch_sequences: Histogram,
    batch_tokens: Histogram,
    cells_filled: IntCounter,
    cells_erased: IntCounterVec,
    fill_confidence: Histogram,
    fill_quality: Histogram,
    pub(crate) degraded: IntCounter,
    ready: IntGauge,
    running: IntGauge,
    waiting: IntGauge,
    /// Fraction of the places for running sequences in use; exported under an alias only.
    occupancy: Gauge,
    pub(crate) admitted: IntCounter,
    pub(crate) finished: IntCounter,
    pub(crate) failed: IntCounter,
    pub(crate) cancelled: IntCounter,
    pub(crate) model_failures: IntCounter,
    pub(crate) model_restarts: IntCounter,
}

/// How a request ended, as the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Ok,
    /// It was invalid.
    Invalid,
    /// The queue was full, or the server was not ready.
    Refused,
    /// The model failed.
    Failed,
    /// The client disconnected or cancelled it.
    Cancelled,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Ok, Self::Invalid, Self::Refused, Self::Failed, Self::Cancelled];

    /// Its label, which the log uses, too.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Metrics {
    /// Metrics at zero.
    ///
    /// # Errors
    /// When two metrics have the same name, which is a bug.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("remask".to_owned()), None)?;
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help)?);
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            register(&registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
        };
        let duration = |name: &str, help: &str| histogram(name, help, ANSWER_BUCKETS);
        let erased = counters("cells_erased_total", "Filled cells erased again", &["policy"])?;
        let erasing = rules(Kind::Remasking).into_iter().filter(|rule| *rule != &OFF);
        erasing.for_each(|rule| drop(erased.with_label_values(&[rule.name])));
        Ok(Self {
            requests: counters("requests_total", "Requests ended", &["endpoint", "outcome"])?,
            request_duration: {
                let opts = HistogramOpts::new("request_duration_seconds", "From a request's arrival to its last byte")
                    .buckets(ANSWER_BUCKETS.to_vec());
                register(&registry, HistogramVec::new(opts, &["endpoint"])?)?
            },
            queue_duration: duration("queue_duration_seconds", "From admission to the first pass")?,
            time_to_first_edit: duration(
                "time_to_first_edit_seconds",
                "From admission to the first change of the canvas",
            )?,
            time_to_first_text: duration(
                "time_to_first_text_seconds",
                "From a request's arrival to the first final text",
            )?,
            prompt_tokens: counter("prompt_tokens_total", "Tokens given by users, of answered requests")?,
            generated_tokens: counter("generated_tokens_total", "Tokens of answers")?,
            forward_passes: counter("forward_passes_total", "Forward passes of the model")?,
            token_forwards: counter("token_forwards_total", "Tokens seen by forward passes")?,
            step_duration: histogram("step_duration_seconds", "One tick: choose, read, advance", STEP_BUCKETS)?,
            batch_sequences: histogram("batch_sequences", "Sequences that shared a pass", COUNT_BUCKETS)?,
            batch_tokens: histogram("batch_tokens", "Tokens of a pass", TOKEN_BUCKETS)?,
            cells_filled: counter("cells_filled_total", "Blanks filled, refills included")?,
            cells_erased: erased,
            fill_confidence: histogram("fill_confidence", "Probability of a token when written", PROBABILITY_BUCKETS)?,
            fill_quality: histogram(
                "fill_quality",
                "Quality of the tokens of answers that were judged",
                PROBABILITY_BUCKETS,
            )?,
            degraded: counter("deadline_degraded_total", "Answers for which steps were given up")?,
            ready: gauge("ready", "1 while a new request would be accepted, else 0")?,
            running: gauge("sequences_running", "Sequences being refined")?,
            occupancy: Gauge::new("occupancy", "Share of the places of running sequences that is taken")?,
            waiting: gauge("sequences_waiting", "Sequences that wait for a place among the running ones")?,
            admitted: counter("sequences_admitted_total", "Sequences that took a place in the queue")?,
            finished: counter("sequences_finished_total", "Sequences refined to their end")?,
            failed: counter("sequences_failed_total", "Sequences given up with an error")?,
            cancelled: counter("sequences_cancelled_total", "Sequences dropped because their client went away")?,
            model_restarts: counter(
                "model_restarts_total",
                "Times that the model broke down and was to be loaded anew",
            )?,
            model_failures: counter("model_failures_total", "Forward passes that failed")?,
            unprefixed: process()?,
            registry,
        })
    }

    /// Starts the counters of `endpoint` at zero.
    pub fn endpoint(&self, endpoint: &str) {
        for outcome in Outcome::ALL {
            let _ = self.requests.with_label_values(&[endpoint, outcome.label()]);
        }
    }

    /// Exports constants as the labels of a metric that is always 1.
    ///
    /// # Errors
    /// When `name` is in use or the name of a label is invalid.
    pub fn info(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> prometheus::Result<()> {
        let opts = labels.iter().fold(Opts::new(name, help), |opts, (key, value)| opts.const_label(*key, *value));
        register(&self.registry, IntGauge::with_opts(opts)?)?.set(1);
        Ok(())
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        let families = [self.registry.gather(), self.unprefixed.gather()].concat();
        match TextEncoder::new().encode(&families, &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# metrics could not be written: {error}\n"),
        }
    }

    /// A request ended.
    pub fn request(&self, endpoint: &str, outcome: Outcome, took: Duration) {
        self.requests.with_label_values(&[endpoint, outcome.label()]).inc();
        self.request_duration.with_label_values(&[endpoint]).observe(took.as_secs_f64());
    }

    /// A request was answered.
    pub fn answered(&self, prompt_tokens: usize, completion_tokens: usize) {
        self.prompt_tokens.inc_by(prompt_tokens as u64);
        self.generated_tokens.inc_by(completion_tokens as u64);
    }

    /// A forward pass succeeded and its sequences advanced.
    pub fn stepped(&self, took: Duration, sequences: usize, tokens: usize) {
        self.forward_passes.inc();
        self.token_forwards.inc_by(tokens as u64);
        self.step_duration.observe(took.as_secs_f64());
        for (histogram, count) in [(&self.batch_sequences, sequences), (&self.batch_tokens, tokens)] {
            histogram.observe(count as f64);
        }
    }

    /// A blank was filled.
    pub fn filled(&self, confidence: Probability) {
        self.cells_filled.inc();
        self.fill_confidence.observe(f64::from(confidence.get()));
    }

    /// The quality of a token of an answer was measured.
    pub fn quality(&self, quality: Probability) {
        self.fill_quality.observe(f64::from(quality.get()));
    }

    /// Whether a new request would be accepted.
    pub fn ready(&self, is_ready: bool) {
        self.ready.set(i64::from(is_ready));
    }

    /// A filled cell was erased.
    pub fn erased(&self, policy: &str) {
        self.cells_erased.with_label_values(&[policy]).inc();
    }

    /// Also exports metrics under the names that vLLM's dashboards and Kubernetes' inference
    /// routers read. For the usage of a key-value cache: the fraction of the running places in use.
    ///
    /// # Errors
    /// When called twice.
    pub fn alias_as_vllm(&self, model: &str) -> prometheus::Result<()> {
        let aliases = [
            Alias::new(self.running.clone(), "vllm:num_requests_running", model)?,
            Alias::new(self.waiting.clone(), "vllm:num_requests_waiting", model)?,
            Alias::new(self.occupancy.clone(), "vllm:kv_cache_usage_perc", model)?,
            Alias::new(self.forward_passes.clone(), "vllm:diffusion_num_denoising_steps_total", model)?,
            Alias::new(self.token_forwards.clone(), "vllm:diffusion_num_canvas_positions_total", model)?,
            Alias::new(self.generated_tokens.clone(), "vllm:diffusion_num_committed_tokens_total", model)?,
        ];
        aliases.into_iter().try_for_each(|alias| self.unprefixed.register(Box::new(alias)))
    }

    /// The current numbers of sequences, and how many may run.
    pub fn sequences(&self, running: usize, waiting: usize, running_max: usize) {
        self.occupancy.set(running as f64 / running_max.max(1) as f64);
        for (gauge, count) in [(&self.running, running), (&self.waiting, waiting)] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

/// Memory, processor time and open files of this process, on Linux.
fn process() -> prometheus::Result<Registry> {
    let registry = Registry::new();
    #[cfg(target_os = "linux")]
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    Ok(registry)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// A metric under another name, with the name of the model as a label.
struct Alias {
    of: Box<dyn Collector>,
    name: &'static str,
    model: String,
    desc: Desc,
}

impl Alias {
    fn new(of: impl Collector + 'static, name: &'static str, model: &str) -> prometheus::Result<Self> {
        let desc = Desc::new(name.to_owned(), "As another server calls it".to_owned(), Vec::new(), HashMap::new())?;
        Ok(Self { of: Box::new(of), name, model: model.to_owned(), desc })
    }
}

impl Collector for Alias {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.of.collect();
        for family in &mut families {
            family.set_name(self.name.to_owned());
            for metric in family.mut_metric() {
                let mut label = LabelPair::default();
                label.set_name("model_name".to_owned());
                label.set_value(self.model.clone());
                metric.set_label(vec![label]);
            }
        }
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_rendered_under_its_name() {
        let metrics = Metrics::new().unwrap();
        metrics.request("/v1/infill", Outcome::Ok, Duration::from_millis(30));
        metrics.erased("quality");
        metrics.sequences(3, 1, 6);
        metrics.endpoint("/v1/score");
        metrics.alias_as_vllm("toy").unwrap();
        metrics.info("model_info", "The model served", &[("name", "toy")]).unwrap();
        let text = metrics.render();
        for line in [
            "remask_requests_total{endpoint=\"/v1/infill\",outcome=\"ok\"} 1",
            "remask_cells_erased_total{policy=\"quality\"} 1",
            "remask_sequences_running 3",
            "remask_requests_total{endpoint=\"/v1/score\",outcome=\"failed\"} 0",
            "remask_cells_erased_total{policy=\"remdm\"} 0",
            "vllm:num_requests_running{model_name=\"toy\"} 3",
            "vllm:kv_cache_usage_perc{model_name=\"toy\"} 0.5",
            "# TYPE vllm:diffusion_num_denoising_steps_total counter",
            "remask_model_info{name=\"toy\"} 1",
            "remask_request_duration_seconds_bucket{endpoint=\"/v1/infill\",le=\"0.05\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
