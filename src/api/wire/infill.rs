//! The body of `POST /v1/infill`.

use super::common::named_events;
use super::diffusion::Diffusion;
use super::field::{fraction, limit, object, penalty, rank, repetition, seed, temperature};
use super::params::{Delivery, missing};
use crate::api::error::ApiError;
use crate::api::schema;
use crate::engine::{DEFAULT_BLANK, Request, Task};
use crate::text::quoted;
use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::ToSchema;

/// A template and how its gaps are filled.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct InfillRequest {
    /// A name listed by `/v1/models`; default, also where it is empty: the first one there.
    pub(crate) model: Option<String>,
    /// A text in which `blank` stands for each cell to fill; the rest is fixed.
    #[schema(required, nullable = false, min_length = 1)]
    template: Option<String>,
    /// The text that stands for one blank cell; default `<blank>`; `<blank:12>` is twelve cells.
    #[schema(min_length = 1)]
    blank: Option<String>,
    /// Default 0, greedy.
    #[serde(default, deserialize_with = "temperature")]
    #[schema(minimum = 0, maximum = 3.4e38)]
    temperature: Option<f32>,
    /// Sample from the most probable tokens whose probabilities add up to this; 0 takes the most
    /// probable one.
    #[serde(default, deserialize_with = "fraction")]
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    /// Sample from the tokens whose probability is at least this share of the largest one; 0 means
    /// all tokens.
    #[serde(default, deserialize_with = "fraction")]
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f32>,
    /// Sample from this many of the most probable tokens; 0 and -1 mean all tokens.
    #[serde(default, deserialize_with = "limit")]
    #[schema(value_type = Option<i64>, minimum = -1, maximum = 65536)]
    top_k: Option<u32>,
    /// Taken off the logit of each token that stands in the gaps, in blanks; default 0.
    #[serde(default, deserialize_with = "penalty")]
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f32>,
    /// Taken off the logit of a token for each cell of the gaps that it stands in, in blanks;
    /// default 0.
    #[serde(default, deserialize_with = "penalty")]
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
    /// In blanks, divides the logit of each token that stands on the canvas, the template included,
    /// where it is above 0, and multiplies it elsewhere; default 1.
    #[serde(default, deserialize_with = "repetition")]
    #[schema(minimum = 0.01, maximum = 100)]
    repetition_penalty: Option<f32>,
    /// The same seed gives the same answer.
    #[serde(default, deserialize_with = "seed")]
    #[schema(schema_with = schema::seed)]
    seed: Option<u64>,
    /// Requests with a lower number leave the queue first; default 0.
    #[serde(default, deserialize_with = "rank")]
    #[schema(schema_with = schema::rank)]
    priority: Option<i32>,
    /// Stream the events `start`, `step` and `done`.
    stream: Option<bool>,
    #[serde(default, deserialize_with = "object")]
    diffusion: Option<Diffusion>,
    #[serde(rename = "user")]
    #[schema(schema_with = schema::ignored)]
    _user: Option<IgnoredAny>,
}

impl InfillRequest {
    /// The request to the engine, and how its answer is sent. A stream always has the edits.
    pub(crate) fn read(self) -> Result<(Request, Delivery), ApiError> {
        let blank = self.blank.unwrap_or_else(|| DEFAULT_BLANK.to_owned());
        let wanted = || missing("template", &format!("a text with {} for each cell to fill", quoted(&blank)));
        let template = self.template.ok_or_else(wanted)?;
        let diffusion = self.diffusion.unwrap_or_default();
        let delivery = named_events(self.stream, &diffusion)?;
        let request = Request {
            temperature: self.temperature.unwrap_or(0.0),
            top_p: self.top_p,
            min_p: self.min_p,
            top_k: self.top_k,
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            seed: self.seed,
            priority: self.priority.unwrap_or(0),
            ..Request::new(Task::Infill { template, blank })
        };
        Ok((diffusion.read(request)?, delivery))
    }
}
