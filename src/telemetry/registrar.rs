//! Makes metrics and registers them, with the name of a model as a label where they are a model's.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Seconds, from a cached answer to a long one.
const ANSWER_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0];

/// Makes the metrics of the server, or those of a model.
#[derive(Debug)]
pub(super) struct Registrar<'a> {
    registry: &'a Registry,
    model: Option<&'a str>,
}

impl<'a> Registrar<'a> {
    /// Metrics of the server as a whole.
    pub(super) const fn of_server(registry: &'a Registry) -> Self {
        Self { registry, model: None }
    }

    /// Metrics of a model, with the label `model`.
    pub(super) const fn of_model(registry: &'a Registry, model: &'a str) -> Self {
        Self { registry, model: Some(model) }
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        self.model.into_iter().fold(Opts::new(name, help), |opts, model| opts.const_label("model", model))
    }

    fn histogram_opts(&self, name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
        HistogramOpts { common_opts: self.opts(name, help), buckets: buckets.to_vec() }
    }

    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> prometheus::Result<C> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::with_opts(self.opts(name, help))?)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::with_opts(self.opts(name, help))?)
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        self.register(Histogram::with_opts(self.histogram_opts(name, help, buckets))?)
    }

    /// A histogram of seconds that a client may wait.
    pub(super) fn duration(&self, name: &str, help: &str) -> prometheus::Result<Histogram> {
        self.histogram(name, help, ANSWER_BUCKETS)
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(self.opts(name, help), labels)?)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(self.opts(name, help), labels)?)
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> prometheus::Result<HistogramVec> {
        self.register(HistogramVec::new(self.histogram_opts(name, help, buckets), labels)?)
    }

    /// The same for seconds that a client may wait.
    pub(super) fn durations(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
        self.histograms(name, help, ANSWER_BUCKETS, labels)
    }

    /// A metric that is always 1, whose labels say something.
    pub(super) fn info(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> prometheus::Result<()> {
        let opts = labels.iter().fold(self.opts(name, help), |opts, (key, value)| opts.const_label(*key, *value));
        self.register(IntGauge::with_opts(opts)?)?.set(1);
        Ok(())
    }
}
