//! The body of `POST /v1/infill`. Refuses to judge values.

use super::diffusion::Diffusion;
use super::{Delivery, missing};
use crate::api::error::ApiError;
use crate::api::field::{number, object, rank, seed};
use crate::engine::{DEFAULT_BLANK, Request, Task};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A template and how its gaps are filled.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(in crate::api) struct InfillRequest {
    pub(in crate::api) model: Option<String>,
    template: Option<String>,
    /// What stands for one blank cell.
    blank: Option<String>,
    /// Default 0, greedy.
    #[serde(default, deserialize_with = "number")]
    temperature: Option<f32>,
    #[serde(default, deserialize_with = "seed")]
    seed: Option<u64>,
    /// Who waits with a lower number is served first; default 0.
    #[serde(default, deserialize_with = "rank")]
    priority: Option<i32>,
    stream: Option<bool>,
    #[serde(default, deserialize_with = "object")]
    diffusion: Option<Diffusion>,
    #[serde(rename = "user")]
    _user: Option<IgnoredAny>,
}

impl InfillRequest {
    /// What the engine is asked for, and how the answer is wanted; a streamed infill always tells its edits.
    ///
    /// # Errors
    /// When a field is missing, or asks for what goes only with another one.
    pub(in crate::api) fn read(self) -> Result<(Request, Delivery), ApiError> {
        let blank = self.blank.unwrap_or_else(|| DEFAULT_BLANK.to_owned());
        let template = self
            .template
            .ok_or_else(|| missing("template", &format!("a text with {blank:?} for each cell to fill")))?;
        let diffusion = self.diffusion.unwrap_or_default();
        let delivery = if self.stream == Some(true) {
            Delivery::Stream { with_edits: true, with_usage: true }
        } else {
            diffusion.check_whole()?;
            Delivery::Whole
        };
        let request = Request {
            temperature: self.temperature.unwrap_or(0.0),
            seed: self.seed,
            priority: self.priority.unwrap_or(0),
            ..Request::new(Task::Infill { template, blank })
        };
        Ok((diffusion.read(request)?, delivery))
    }
}
