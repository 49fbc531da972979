//! The metrics of the whole server: of its requests, by endpoint. Those of a model are in `model`.

use super::model::ModelMetrics;
use super::registrar::Registrar;
use prometheus::{Encoder, Histogram, HistogramVec, IntCounterVec, IntGauge, Registry, TextEncoder};
use std::sync::Arc;
use std::time::Duration;

/// All metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Metrics without the prefix `remask`: those of the process, and aliases.
    unprefixed: Registry,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    pub(crate) time_to_first_text: Histogram,
    ready: IntGauge,
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
        let server = Registrar::of_server(&registry);
        Ok(Self {
            requests: server.counters("requests_total", "Requests ended", &["endpoint", "outcome"])?,
            request_duration: server.durations(
                "request_duration_seconds",
                "From a request's arrival to its last byte",
                &["endpoint"],
            )?,
            time_to_first_text: server
                .duration("time_to_first_text_seconds", "From a request's arrival to the first final text")?,
            ready: server.gauge("ready", "1 while a new request would be accepted, else 0")?,
            unprefixed: process()?,
            registry,
        })
    }

    /// The metrics of the model `name`, at zero, which are rendered with these.
    ///
    /// # Errors
    /// When there is a model of this name already.
    pub fn model(&self, name: &str) -> prometheus::Result<Arc<ModelMetrics>> {
        Ok(Arc::new(ModelMetrics::new(&self.registry, name)?))
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
    /// When there are the same labels with the same values already, or the name of one is invalid.
    pub fn info(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> prometheus::Result<()> {
        Registrar::of_server(&self.registry).info(name, help, labels)
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

    /// Whether a new request would be accepted.
    pub fn ready(&self, is_ready: bool) {
        self.ready.set(i64::from(is_ready));
    }

    /// Also exports metrics of a model under the names of vLLM.
    ///
    /// # Errors
    /// When called twice for a model.
    pub fn alias_as_vllm(&self, model: &ModelMetrics) -> prometheus::Result<()> {
        model.as_vllm()?.into_iter().try_for_each(|alias| self.unprefixed.register(Box::new(alias)))
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
    use crate::diffusion::Probability;

    #[test]
    fn what_happened_is_rendered_under_its_name() {
        let metrics = Metrics::new().unwrap();
        let (toy, other) = (metrics.model("toy").unwrap(), metrics.model("a \"b\"").unwrap());
        metrics.request("/v1/infill", Outcome::Ok, Duration::from_millis(30));
        toy.erased("quality");
        toy.replaced("token_editing", Probability::ONE);
        for (device, running) in [("cuda:0", 2), ("cuda:1", 1)] {
            toy.device(device).running(running);
        }
        toy.device("cuda:1").stepped(Duration::from_millis(30), 1, 70);
        toy.occupied(3, 6);
        toy.finished(5, 7);
        metrics.endpoint("/v1/score");
        for model in [&toy, &other] {
            metrics.alias_as_vllm(model).unwrap();
        }
        metrics.info("model_info", "The models served", &[("name", "toy")]).unwrap();
        metrics.info("model_info", "The models served", &[("name", "other")]).unwrap();
        let text = metrics.render();
        for line in [
            "remask_requests_total{endpoint=\"/v1/infill\",outcome=\"ok\"} 1",
            "remask_cells_erased_total{model=\"toy\",policy=\"quality\"} 1",
            "remask_cells_erased_total{model=\"a \\\"b\\\"\",policy=\"quality\"} 0",
            "remask_cells_replaced_total{model=\"toy\",policy=\"token_editing\"} 1",
            "remask_fill_confidence_count{model=\"toy\"} 1",
            "remask_prompt_tokens_total{model=\"toy\"} 5",
            "remask_generated_tokens_total{model=\"toy\"} 7",
            "remask_sequences_finished_total{model=\"toy\"} 1",
            "remask_sequences_running{device=\"cuda:0\",model=\"toy\"} 2",
            "remask_forward_passes_total{device=\"cuda:0\",model=\"toy\"} 0",
            "remask_forward_passes_total{device=\"cuda:1\",model=\"toy\"} 1",
            "remask_batch_tokens_bucket{device=\"cuda:1\",model=\"toy\",le=\"64\"} 0",
            "vllm:diffusion_num_denoising_steps_total{model_name=\"toy\"} 1",
            "vllm:diffusion_num_denoising_steps_total{model_name=\"a \\\"b\\\"\"} 0",
            "vllm:diffusion_num_canvas_positions_total{model_name=\"toy\"} 70",
            "remask_requests_total{endpoint=\"/v1/score\",outcome=\"failed\"} 0",
            "remask_cells_erased_total{model=\"toy\",policy=\"remdm\"} 0",
            "remask_cells_replaced_total{model=\"toy\",policy=\"proseco\"} 0",
            "vllm:num_requests_running{model_name=\"toy\"} 3",
            "vllm:kv_cache_usage_perc{model_name=\"toy\"} 0.5",
            "# TYPE vllm:diffusion_num_denoising_steps_total counter",
            "remask_model_info{name=\"toy\"} 1",
            "remask_model_info{name=\"other\"} 1",
            "remask_request_duration_seconds_bucket{endpoint=\"/v1/infill\",le=\"0.05\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        for once in ["# TYPE remask_fill_confidence ", "# TYPE vllm:num_requests_running "] {
            assert_eq!(text.matches(once).count(), 1, "{once} in {text}");
        }
        assert!(metrics.model("toy").is_err(), "a second model of this name");
    }
}
