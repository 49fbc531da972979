//! The metrics of each device that a model is computed on, with the label `device`.

use super::registrar::Registrar;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use std::time::Duration;

const LABEL: &[&str] = &["device"];
/// Seconds, from a step of the smallest model to one of the largest on a CPU.
const STEP_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const COUNT_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
const TOKEN_BUCKETS: &[f64] = &[64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

/// The metrics of all devices of a model.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) forward_passes: IntCounterVec,
    pub(super) token_forwards: IntCounterVec,
    step_duration: HistogramVec,
    batch_sequences: HistogramVec,
    batch_tokens: HistogramVec,
    pub(super) running: IntGaugeVec,
    ready: IntGaugeVec,
    cache_bytes: IntGaugeVec,
    cache_sequences: IntGaugeVec,
    cache_evictions: IntCounterVec,
    model_failures: IntCounterVec,
    model_restarts: IntCounterVec,
}

/// The metrics of one device.
#[derive(Clone, Debug)]
pub struct DeviceMetrics {
    forward_passes: IntCounter,
    token_forwards: IntCounter,
    step_duration: Histogram,
    batch_sequences: Histogram,
    batch_tokens: Histogram,
    running: IntGauge,
    ready: IntGauge,
    cache_bytes: IntGauge,
    cache_sequences: IntGauge,
    cache_evictions: IntCounter,
    pub(crate) model_failures: IntCounter,
    pub(crate) model_restarts: IntCounter,
}

impl Devices {
    pub(super) fn new(registrar: &Registrar<'_>) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str| registrar.counters(name, help, LABEL);
        let gauges = |name: &str, help: &str| registrar.gauges(name, help, LABEL);
        let histograms = |name: &str, help: &str, buckets: &[f64]| registrar.histograms(name, help, buckets, LABEL);
        Ok(Self {
            forward_passes: counters("forward_passes_total", "Forward passes of the model")?,
            token_forwards: counters("token_forwards_total", "Tokens seen by forward passes")?,
            step_duration: histograms("step_duration_seconds", "One tick: choose, read, advance", STEP_BUCKETS)?,
            batch_sequences: histograms("batch_sequences", "Sequences that shared a pass", COUNT_BUCKETS)?,
            batch_tokens: histograms("batch_tokens", "Tokens of a pass", TOKEN_BUCKETS)?,
            running: gauges("sequences_running", "Sequences being refined")?,
            ready: gauges("device_ready", "1 while the device takes sequences, else 0")?,
            cache_bytes: gauges("cache_bytes", "Keys and values kept between passes")?,
            cache_sequences: gauges("cache_sequences", "Sequences whose keys and values are kept")?,
            cache_evictions: counters(
                "cache_evictions_total",
                "Times that keys and values of a sequence made room for others, or found no room",
            )?,
            model_restarts: counters(
                "model_restarts_total",
                "Times that the model broke down and was to be loaded anew",
            )?,
            model_failures: counters("model_failures_total", "Forward passes that failed")?,
        })
    }

    /// The metrics of a device, all of which exist from now on.
    pub(super) fn of(&self, device: &str) -> DeviceMetrics {
        let label = &[device];
        DeviceMetrics {
            forward_passes: self.forward_passes.with_label_values(label),
            token_forwards: self.token_forwards.with_label_values(label),
            step_duration: self.step_duration.with_label_values(label),
            batch_sequences: self.batch_sequences.with_label_values(label),
            batch_tokens: self.batch_tokens.with_label_values(label),
            running: self.running.with_label_values(label),
            ready: self.ready.with_label_values(label),
            cache_bytes: self.cache_bytes.with_label_values(label),
            cache_sequences: self.cache_sequences.with_label_values(label),
            cache_evictions: self.cache_evictions.with_label_values(label),
            model_failures: self.model_failures.with_label_values(label),
            model_restarts: self.model_restarts.with_label_values(label),
        }
    }
}

impl DeviceMetrics {
    /// A forward pass succeeded and its sequences advanced.
    pub fn stepped(&self, took: Duration, sequences: usize, tokens: usize) {
        self.forward_passes.inc();
        self.token_forwards.inc_by(tokens as u64);
        self.step_duration.observe(took.as_secs_f64());
        for (histogram, count) in [(&self.batch_sequences, sequences), (&self.batch_tokens, tokens)] {
            histogram.observe(count as f64);
        }
    }

    /// The current number of running sequences.
    pub fn running(&self, running: usize) {
        self.running.set(i64::try_from(running).unwrap_or(i64::MAX));
    }

    /// What is kept between passes: bytes, for so many sequences. `evicted` is the number of times
    /// since the last call that one made room for others, or found none.
    pub fn keeps(&self, bytes: u64, sequences: usize, evicted: u64) {
        self.cache_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.cache_sequences.set(i64::try_from(sequences).unwrap_or(i64::MAX));
        self.cache_evictions.inc_by(evicted);
    }

    /// Whether the device takes sequences.
    pub fn ready(&self, is_ready: bool) {
        self.ready.set(i64::from(is_ready));
    }
}
