//! A metric under another name, for the dashboards and routers of another server.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::HashMap;

/// The only label: the name of the model.
const LABEL: &str = "model_name";

/// A counter or gauge under another name, with the name of the model as its only label: the sum
/// over its own labels.
pub(super) struct Alias {
    of: Box<dyn Collector>,
    name: &'static str,
    model: String,
    desc: Desc,
}

impl Alias {
    pub(super) fn new(of: impl Collector + 'static, name: &'static str, model: &str) -> prometheus::Result<Self> {
        let label = HashMap::from([(LABEL.to_owned(), model.to_owned())]);
        let desc = Desc::new(name.to_owned(), "As another server calls it".to_owned(), Vec::new(), label)?;
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
            let series = family.get_metric();
            let counters =
                series.iter().map(|metric| metric.get_counter().get_value()).fold(0.0, |sum, value| sum + value);
            let gauges = series.iter().map(|metric| metric.get_gauge().get_value()).fold(0.0, |sum, value| sum + value);
            let (mut sum, mut label) = (Metric::default(), LabelPair::default());
            let (mut counter, mut gauge) = (Counter::default(), Gauge::default());
            label.set_name(LABEL.to_owned());
            label.set_value(self.model.clone());
            counter.set_value(counters);
            gauge.set_value(gauges);
            sum.set_label(vec![label]);
            match family.get_field_type() {
                MetricType::COUNTER => sum.set_counter(counter),
                _ => sum.set_gauge(gauge),
            }
            family.set_name(self.name.to_owned());
            family.set_metric(vec![sum]);
        }
        families
    }
}
