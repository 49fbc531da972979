//! Every metric: a field with its name, help and unit. Callers count in a field, or report what
//! concerns several fields by a method. Those of a device are in `device`.

use super::alias::Alias;
use super::device::{DeviceMetrics, Devices, register};
use crate::diffusion::Probability;
use crate::diffusion::policy::{Kind, OFF, Rule, rules};
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};
use std::time::Duration;

/// Seconds, from a cached answer to a long one.
const ANSWER_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0];
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
    devices: Devices,
    cells_filled: IntCounter,
    cells_erased: IntCounterVec,
    cells_replaced: IntCounterVec,
    fill_confidence: Histogram,
    fill_quality: Histogram,
    pub(crate) degraded: IntCounter,
    ready: IntGauge,
    waiting: IntGauge,
    /// Fraction of the places for running sequences in use; exported under an alias only.
    occupancy: Gauge,
    pub(crate) admitted: IntCounter,
    pub(crate) finished: IntCounter,
    pub(crate) failed: IntCounter,
    pub(crate) cancelled: IntCounter,
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
    /// The model failed, or the server gave the request up: at its deadline, or as it shut down.
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
        let is_replacing = |rule: &&Rule| rule.needs.best || rule.needs.corrected;
        let erasing = rules(Kind::Remasking).into_iter().filter(|rule| *rule != &OFF && !is_replacing(rule));
        erasing.for_each(|rule| drop(erased.with_label_values(&[rule.name])));
        let help = "Filled cells that got another token without being erased";
        let replaced = counters("cells_replaced_total", help, &["policy"])?;
        let replacing = rules(Kind::Remasking).into_iter().filter(is_replacing);
        replacing.for_each(|rule| drop(replaced.with_label_values(&[rule.name])));
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
            devices: Devices::new(&registry)?,
            cells_filled: counter("cells_filled_total", "Blanks filled, refills included")?,
            cells_erased: erased,
            cells_replaced: replaced,
            fill_confidence: histogram("fill_confidence", "Probability of a token when written", PROBABILITY_BUCKETS)?,
            fill_quality: histogram(
                "fill_quality",
                "Quality of the tokens of answers that were judged",
                PROBABILITY_BUCKETS,
            )?,
            degraded: counter("deadline_degraded_total", "Answers for which steps were given up")?,
            ready: gauge("ready", "1 while a new request would be accepted, else 0")?,
            occupancy: Gauge::new("occupancy", "Share of the places of running sequences that is taken")?,
            waiting: gauge("sequences_waiting", "Sequences that wait for a place among the running ones")?,
            admitted: counter("sequences_admitted_total", "Sequences that took a place in the queue")?,
            finished: counter("sequences_finished_total", "Sequences refined to their end")?,
            failed: counter("sequences_failed_total", "Sequences given up with an error")?,
            cancelled: counter("sequences_cancelled_total", "Sequences dropped because their client went away")?,
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

    /// The metrics of a device, under its name as a label.
    pub fn device(&self, device: &str) -> DeviceMetrics {
        self.devices.of(device)
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

    /// The token of a filled cell was replaced.
    pub fn replaced(&self, policy: &str, confidence: Probability) {
        self.cells_replaced.with_label_values(&[policy]).inc();
        self.fill_confidence.observe(f64::from(confidence.get()));
    }

    /// Also exports metrics under the names that vLLM's dashboards and Kubernetes' inference
    /// routers read, summed over devices. For the usage of a key-value cache: the fraction of the
    /// running places in use.
    ///
    /// # Errors
    /// When called twice.
    pub fn alias_as_vllm(&self, model: &str) -> prometheus::Result<()> {
        let aliases = [
            Alias::new(self.devices.running.clone(), "vllm:num_requests_running", model)?,
            Alias::new(self.waiting.clone(), "vllm:num_requests_waiting", model)?,
            Alias::new(self.occupancy.clone(), "vllm:kv_cache_usage_perc", model)?,
            Alias::new(self.devices.forward_passes.clone(), "vllm:diffusion_num_denoising_steps_total", model)?,
            Alias::new(self.devices.token_forwards.clone(), "vllm:diffusion_num_canvas_positions_total", model)?,
            Alias::new(self.generated_tokens.clone(), "vllm:diffusion_num_committed_tokens_total", model)?,
        ];
        aliases.into_iter().try_for_each(|alias| self.unprefixed.register(Box::new(alias)))
    }

    /// The current number of queued sequences.
    pub fn waiting(&self, waiting: usize) {
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// The current number of running sequences on all devices, and how many may run.
    pub fn occupied(&self, running: usize, running_max: usize) {
        self.occupancy.set(running as f64 / running_max.max(1) as f64);
    }
}

/// Memory, processor time and open files of this process, on Linux.
fn process() -> prometheus::Result<Registry> {
    let registry = Registry::new();
    #[cfg(target_os = "linux")]
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    Ok(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_rendered_under_its_name() {
        let metrics = Metrics::new().unwrap();
        metrics.request("/v1/infill", Outcome::Ok, Duration::from_millis(30));
        metrics.erased("quality");
        metrics.replaced("token_editing", Probability::ONE);
        for (device, running) in [("cuda:0", 2), ("cuda:1", 1)] {
            metrics.device(device).running(running);
        }
        metrics.device("cuda:1").stepped(Duration::from_millis(30), 1, 70);
        metrics.occupied(3, 6);
        metrics.endpoint("/v1/score");
        metrics.alias_as_vllm("toy").unwrap();
        metrics.info("model_info", "The model served", &[("name", "toy")]).unwrap();
        let text = metrics.render();
        for line in [
            "remask_requests_total{endpoint=\"/v1/infill\",outcome=\"ok\"} 1",
            "remask_cells_erased_total{policy=\"quality\"} 1",
            "remask_cells_replaced_total{policy=\"token_editing\"} 1",
            "remask_fill_confidence_count 1",
            "remask_sequences_running{device=\"cuda:0\"} 2",
            "remask_forward_passes_total{device=\"cuda:0\"} 0",
            "remask_forward_passes_total{device=\"cuda:1\"} 1",
            "remask_batch_tokens_bucket{device=\"cuda:1\",le=\"64\"} 0",
            "vllm:diffusion_num_denoising_steps_total{model_name=\"toy\"} 1",
            "vllm:diffusion_num_canvas_positions_total{model_name=\"toy\"} 70",
            "remask_requests_total{endpoint=\"/v1/score\",outcome=\"failed\"} 0",
            "remask_cells_erased_total{policy=\"remdm\"} 0",
            "remask_cells_replaced_total{policy=\"proseco\"} 0",
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
