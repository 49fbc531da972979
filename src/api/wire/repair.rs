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

/// Why a repair has no field of this kind.
const BESIDE: &str = "which has steps, below and worst beside its text; give those, or leave it out";

/// A repair with the fields of its `diffusion`, and those that are only a repair's.
pub(crate) fn with_repair_fields(
    request: Request,
    steps: Option<u32>,
    below: Option<f32>,
    worst: Option<u32>,
) -> ApiResult<Request> {
    let pace = request.pace.iter().next().map(|(knob, _)| format!("unmasking.{knob}"));
    let cache = request.cache.filter(|cache| *cache != Choice::of(&NO_CACHE));
    let fields = [
        (request.steps.map(|_| "steps".to_owned()), BESIDE),
        (request.block_length.map(|_| "block_length".to_owned()), "which takes its text as one block; leave it out"),
        (request.remasking.map(|_| "remasking".to_owned()), BESIDE),
        (request.proofreading.as_ref().map(|_| "proofreading".to_owned()), BESIDE),
        (
            cache.map(|_| "cache".to_owned()),
            "which computes the whole text in every pass; give \"off\", or leave it out",
        ),
        (pace, BESIDE),
    ];
    if let Some((field, why)) = fields.into_iter().find_map(|(field, why)| Some((field?, why))) {
        let param = format!("diffusion.{field}");
        let message = format!("{param} does not go with a repair, {why}");
        return Err(ApiError::invalid(param, message));
    }
    let below = below.or(worst.map(|_| 1.0));
    let is_given = steps.is_some() || below.is_some(); // as it is with `worst`
    let proofreading = is_given.then_some(Proofreading { steps, below, most: worst, temperature: None });
    Ok(Request { proofreading, ..request })
}
