//! The metrics of each model that is served, with the label `model`. Those of its devices are in
//! `device`.

use super::alias::Alias;
use super::device::{DeviceMetrics, Devices};
use super::registrar::Registrar;
use crate::diffusion::Probability;
use crate::diffusion::policy::{Kind, OFF, Rule, rules};
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

const PROBABILITY_BUCKETS: &[f64] = &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99];

/// All metrics of one model.
#[derive(Debug)]
pub struct ModelMetrics {
    /// The name of the model.
    name: String,
    pub(crate) queue_duration: Histogram,
    pub(crate) time_to_first_edit: Histogram,
    prompt_tokens: IntCounter,
    generated_tokens: IntCounter,
    devices: Devices,
    cells_filled: IntCounter,
    cells_erased: IntCounterVec,
    cells_replaced: IntCounterVec,
    fill_confidence: Histogram,
    fill_quality: Histogram,
    pub(crate) degraded: IntCounter,
    waiting: IntGauge,
    /// Fraction of the places for running sequences in use; exported under an alias only.
    occupancy: Gauge,
    pub(crate) admitted: IntCounter,
    finished: IntCounter,
    pub(crate) failed: IntCounter,
    pub(crate) cancelled: IntCounter,
}

impl ModelMetrics {
    /// Metrics at zero, in `registry`.
    pub(super) fn new(registry: &Registry, name: &str) -> prometheus::Result<Self> {
        let registrar = Registrar::of_model(registry, name);
        let help = "Filled cells erased again";
        let erased = registrar.counters("cells_erased_total", help, &["policy"])?;
        let is_replacing = |rule: &&Rule| rule.needs.best || rule.needs.corrected;
        let erasing = rules(Kind::Remasking).into_iter().filter(|rule| *rule != &OFF && !is_replacing(rule));
        erasing.for_each(|rule| drop(erased.with_label_values(&[rule.name])));
        let help = "Filled cells that got another token without being erased";
        let replaced = registrar.counters("cells_replaced_total", help, &["policy"])?;
        let replacing = rules(Kind::Remasking).into_iter().filter(is_replacing);
        replacing.for_each(|rule| drop(replaced.with_label_values(&[rule.name])));
        let probability = |name: &str, help: &str| registrar.histogram(name, help, PROBABILITY_BUCKETS);
        Ok(Self {
            name: name.to_owned(),
            queue_duration: registrar.duration("queue_duration_seconds", "From admission to the first pass")?,
            time_to_first_edit: registrar
                .duration("time_to_first_edit_seconds", "From admission to the first change of the canvas")?,
            prompt_tokens: registrar
                .counter("prompt_tokens_total", "Tokens given by users, of requests that finished")?,
            generated_tokens: registrar.counter("generated_tokens_total", "Tokens of answers")?,
            devices: Devices::new(&registrar)?,
            cells_filled: registrar.counter("cells_filled_total", "Blanks filled, refills included")?,
            cells_erased: erased,
            cells_replaced: replaced,
            fill_confidence: probability("fill_confidence", "Probability of a token when written")?,
            fill_quality: probability("fill_quality", "Quality of the tokens of answers that were judged")?,
            degraded: registrar.counter("deadline_degraded_total", "Answers for which steps were given up")?,
            occupancy: Gauge::new("occupancy", "Share of the places of running sequences that is taken")?,
            waiting: registrar.gauge("sequences_waiting", "Sequences that wait for a place among the running ones")?,
            admitted: registrar.counter("sequences_admitted_total", "Sequences that took a place in the queue")?,
            finished: registrar.counter("sequences_finished_total", "Sequences refined to their end")?,
            failed: registrar.counter("sequences_failed_total", "Sequences given up with an error")?,
            cancelled: registrar
                .counter("sequences_cancelled_total", "Sequences dropped because their client went away")?,
        })
    }

    /// The name of the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A sequence was refined to its end, with so many tokens of each kind.
    pub fn finished(&self, prompt_tokens: usize, completion_tokens: usize) {
        self.finished.inc();
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

    /// A filled cell was erased.
    pub fn erased(&self, policy: &str) {
        self.cells_erased.with_label_values(&[policy]).inc();
    }

    /// The token of a filled cell was replaced.
    pub fn replaced(&self, policy: &str, confidence: Probability) {
        self.cells_replaced.with_label_values(&[policy]).inc();
        self.fill_confidence.observe(f64::from(confidence.get()));
    }

    /// The current number of queued sequences.
    pub fn waiting(&self, waiting: usize) {
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// The current number of running sequences on all devices, and how many may run.
    pub fn occupied(&self, running: usize, running_max: usize) {
        self.occupancy.set(running as f64 / running_max.max(1) as f64);
    }

    /// Some of these metrics under the names that vLLM's dashboards and Kubernetes' inference
    /// routers read, summed over devices. The usage of a key-value cache is the fraction of the
    /// running places in use.
    pub(super) fn as_vllm(&self) -> prometheus::Result<[Alias; 6]> {
        let name = &self.name;
        Ok([
            Alias::new(self.devices.running.clone(), "vllm:num_requests_running", name)?,
            Alias::new(self.waiting.clone(), "vllm:num_requests_waiting", name)?,
            Alias::new(self.occupancy.clone(), "vllm:kv_cache_usage_perc", name)?,
            Alias::new(self.devices.forward_passes.clone(), "vllm:diffusion_num_denoising_steps_total", name)?,
            Alias::new(self.devices.token_forwards.clone(), "vllm:diffusion_num_canvas_positions_total", name)?,
            Alias::new(self.generated_tokens.clone(), "vllm:diffusion_num_committed_tokens_total", name)?,
        ])
    }
}
