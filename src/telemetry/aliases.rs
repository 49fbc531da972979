//! Existing metrics under the names of other servers, for dashboards and routers made for those.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{LabelPair, MetricFamily};
use std::collections::HashMap;

/// A metric under another name, with the name of the model as a label.
pub(super) struct Alias {
    of: Box<dyn Collector>,
    name: &'static str,
    model: String,
    desc: Desc,
}

impl Alias {
    /// # Errors
    /// When `name` is not a valid name of a metric.
    pub(super) fn new(of: impl Collector + 'static, name: &'static str, model: &str) -> prometheus::Result<Self> {
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
