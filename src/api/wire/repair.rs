//! The body of `POST /v1/repair`.

use super::common::named_events;
use super::diffusion::Diffusion;
use super::field::{Offset, count, fraction, limit, object, rank, seed, temperature};
use super::params::Delivery;
use super::score::TextField;
use crate::api::error::{ApiError, ApiResult};
use crate::api::schema;
use crate::diffusion::policy::{COUNT_MAX, Choice, NO_CACHE};
use crate::engine::{Proofreading, Request, Task};
use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::ToSchema;

/// A text to repair.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct RepairRequest {
    /// A name listed by `/v1/models`; default, also where it is empty: the first one there.
    pub(crate) model: Option<String>,
    /// A text, or token ids.
    #[schema(required, nullable = false)]
    text: Option<TextField>,
    /// Characters (of a string) or tokens (of ids) that stay, as pairs of a start and an end.
    #[schema(schema_with = schema::pairs)]
    pinned: Option<Vec<[Offset; 2]>>,
    /// Tokens of lower quality are erased; default: the model's, else 0.5, or 1 with `worst`.
    #[serde(default, deserialize_with = "fraction")]
    #[schema(minimum = 0, maximum = 1)]
    below: Option<f32>,
    /// Tokens erased per round at most, the lowest quality first.
    #[serde(default, deserialize_with = "count::<_, 1, COUNT_MAX>")]
    #[schema(minimum = 1, maximum = 65536)]
    worst: Option<u32>,
    /// Forward passes at most; default: one per token, at most 128.
    #[serde(default, deserialize_with = "count::<_, 2, COUNT_MAX>")]
    #[schema(minimum = 2, maximum = 65536)]
    steps: Option<u32>,
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
    #[schema(schema_with = Diffusion::beside_a_text)]
    diffusion: Option<Diffusion>,
    #[serde(rename = "user")]
    #[schema(schema_with = schema::ignored)]
    _user: Option<IgnoredAny>,
}

impl RepairRequest {
    /// The request to the engine, and how its answer is sent. A stream always has the edits.
    pub(crate) fn read(self) -> Result<(Request, Delivery), ApiError> {
        let text = TextField::read(self.text)?;
        let span = |[start, end]: [Offset; 2]| start.0 as usize..end.0 as usize;
        let pinned = self.pinned.unwrap_or_default().into_iter().map(span).collect();
        let diffusion = self.diffusion.unwrap_or_default();
        let delivery = named_events(self.stream, &diffusion)?;
        let request = Request {
            temperature: self.temperature.unwrap_or(0.0),
            top_p: self.top_p,
            min_p: self.min_p,
            top_k: self.top_k,
            seed: self.seed,
            priority: self.priority.unwrap_or(0),
            ..Request::new(Task::Repair { text, pinned })
        };
        Ok((with_repair_fields(diffusion.read(request)?, self.steps, self.below, self.worst)?, delivery))
    }
}

/// A repair with the fields of its `diffusion`, and those that are only a repair's.
pub(crate) fn with_repair_fields(
    request: Request,
    steps: Option<u32>,
    below: Option<f32>,
    worst: Option<u32>,
) -> ApiResult<Request> {
    let pace = request.pace.iter().next().map(|(knob, _)| format!("unmasking.{knob}"));
    let fields = [
        ("steps", request.steps.is_some()),
        ("block_length", request.block_length.is_some()),
        ("remasking", request.remasking.is_some()),
        ("proofreading", request.proofreading.is_some()),
        ("cache", request.cache.is_some_and(|cache| cache != Choice::of(&NO_CACHE))),
    ];
    let field = fields.into_iter().find_map(|(field, is_given)| is_given.then(|| field.to_owned()));
    if let Some(field) = field.or(pace) {
        let param = format!("diffusion.{field}");
        let message = format!("{param} does not go with a repair, which has steps, below and worst beside its text");
        return Err(ApiError::invalid(param, message));
    }
    let below = below.or(worst.map(|_| 1.0));
    let is_given = steps.is_some() || below.is_some(); // as it is with `worst`
    let proofreading = is_given.then_some(Proofreading { steps, below, most: worst, temperature: None });
    Ok(Request { proofreading, ..request })
}
