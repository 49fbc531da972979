//! The bodies of `POST /v1/score` and `POST /v1/repair`: texts that are there already. Refuses to judge values.

use crate::api::error::ApiError;
use crate::api::schema;
use crate::api::wire::Delivery;
use crate::api::wire::diffusion::Diffusion;
use crate::api::wire::field::Count;
use crate::api::wire::field::count;
use crate::api::wire::field::number;
use crate::api::wire::field::object;
use crate::api::wire::field::rank;
use crate::api::wire::field::seed;
use crate::api::wire::missing;
use crate::diffusion::TokenId;
use crate::engine::{DOUBTFUL, Prompt, Proofreading, Request, Task};
use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "give a string or an array of token ids")]
enum TextField {
    Text(String),
    Tokens(Vec<Count>),
}

impl ToSchema for TextField {
    fn name() -> std::borrow::Cow<'static, str> {
        "Text".into()
    }
}

impl PartialSchema for TextField {
    fn schema() -> RefOr<Schema> {
        schema::either([schema::text(1), schema::list(schema::token(), 1, None)])
    }
}

impl TextField {
    fn read(text: Option<Self>) -> Result<Prompt, ApiError> {
        match text.ok_or_else(|| missing("text", "a string, or an array of token ids"))? {
            Self::Text(text) => Ok(Prompt::Text(text)),
            Self::Tokens(tokens) => Ok(Prompt::Tokens(tokens.into_iter().map(|Count(id)| TokenId(id)).collect())),
        }
    }
}

/// A text to be judged.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct ScoreRequest {
    /// As `/v1/models` has it; default: the model that is served.
    pub(crate) model: Option<String>,
    /// A text, or token ids.
    #[schema(required, nullable = false)]
    text: Option<TextField>,
    /// Tokens of lower quality are listed as doubtful; default 0.5.
    #[serde(default, deserialize_with = "number")]
    #[schema(minimum = 0, maximum = 1)]
    below: Option<f32>,
    /// Also tell each token's probability given all others, for one more forward pass each; default false.
    likelihood: Option<bool>,
    /// Who waits with a lower number is served first; default 0.
    #[serde(default, deserialize_with = "rank")]
    #[schema(schema_with = schema::rank)]
    priority: Option<i32>,
    #[serde(rename = "user")]
    #[schema(schema_with = schema::ignored)]
    _user: Option<IgnoredAny>,
}

impl ScoreRequest {
    /// What the engine is asked for, and the quality below which a token is doubtful.
    ///
    /// # Errors
    /// When a field is missing or out of its range.
    pub(crate) fn read(self) -> Result<(Request, f32), ApiError> {
        let below = doubtful(self.below)?;
        let task = Task::Score { text: TextField::read(self.text)?, likelihood: self.likelihood == Some(true) };
        Ok((Request { priority: self.priority.unwrap_or(0), ..Request::new(task) }, below))
    }
}

/// The quality below which a token is doubtful.
///
/// # Errors
/// When it is no probability.
pub(crate) fn doubtful(below: Option<f32>) -> Result<f32, ApiError> {
    match below.unwrap_or(DOUBTFUL) {
        below if (0.0..=1.0).contains(&below) => Ok(below),
        below => Err(ApiError::invalid("below", format!("below is {below}; give a number from 0 to 1"))),
    }
}

/// A text to be mended.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct RepairRequest {
    /// As `/v1/models` has it; default: the model that is served.
    pub(crate) model: Option<String>,
    /// A text, or token ids.
    #[schema(required, nullable = false)]
    text: Option<TextField>,
    /// Characters (of a string) or tokens (of ids) that stay, as pairs of a start and an end.
    #[schema(schema_with = schema::pairs)]
    pinned: Option<Vec<[Count; 2]>>,
    /// Tokens of lower quality are erased; default 0.5, or 1 with `worst`.
    #[serde(default, deserialize_with = "number")]
    #[schema(minimum = 0, maximum = 1)]
    below: Option<f32>,
    /// As many tokens are erased in a round at most, the worst first.
    #[serde(default, deserialize_with = "count")]
    #[schema(minimum = 1, maximum = 65536)]
    worst: Option<u32>,
    /// Forward passes at most; default: one a token, 128 at most.
    #[serde(default, deserialize_with = "count")]
    #[schema(minimum = 2, maximum = 65536)]
    steps: Option<u32>,
    /// Default 0, greedy.
    #[serde(default, deserialize_with = "number")]
    #[schema(minimum = 0, maximum = 3.4e38)]
    temperature: Option<f32>,
    /// The same seed gives the same answer.
    #[serde(default, deserialize_with = "seed")]
    #[schema(schema_with = schema::seed)]
    seed: Option<u64>,
    /// Who waits with a lower number is served first; default 0.
    #[serde(default, deserialize_with = "rank")]
    #[schema(schema_with = schema::rank)]
    priority: Option<i32>,
    /// As the events `start`, `step` and `done`, while the answer takes shape.
    stream: Option<bool>,
    #[serde(default, deserialize_with = "object")]
    #[schema(schema_with = Diffusion::beside_a_text)]
    diffusion: Option<Diffusion>,
    #[serde(rename = "user")]
    #[schema(schema_with = schema::ignored)]
    _user: Option<IgnoredAny>,
}

impl RepairRequest {
    /// What the engine is asked for, and how the answer is wanted; a streamed repair always tells its edits.
    ///
    /// # Errors
    /// When a field is missing, or asks for what goes only with another one.
    pub(crate) fn read(self) -> Result<(Request, Delivery), ApiError> {
        let text = TextField::read(self.text)?;
        let pinned =
            self.pinned.unwrap_or_default().into_iter().map(|[start, end]| start.0 as usize..end.0 as usize).collect();
        let diffusion = self.diffusion.unwrap_or_default();
        let delivery = if self.stream == Some(true) {
            Delivery::Stream { with_edits: true, with_usage: true }
        } else {
            diffusion.check_whole()?;
            Delivery::Whole
        };
        let (seed, priority) = (self.seed, self.priority.unwrap_or(0));
        let request = Request { seed, priority, ..Request::new(Task::Repair { text, pinned }) };
        let request = mending(diffusion.read(request)?, self.steps, self.below, self.worst)?;
        Ok((Request { temperature: self.temperature.unwrap_or(0.0), ..request }, delivery))
    }
}

/// `request`, a repair, as far as `diffusion` says, with the repair's own knobs.
///
/// # Errors
/// When `diffusion` says what has its place beside the text.
pub(crate) fn mending(
    request: Request,
    steps: Option<u32>,
    below: Option<f32>,
    worst: Option<u32>,
) -> Result<Request, ApiError> {
    let is_for_blanks = request.steps.is_some() || request.block_length.is_some() || !request.pace.is_empty();
    if is_for_blanks || request.proofreading.is_some() || request.remasking.is_some() {
        let message = "a repair takes steps, below and worst beside its text; in diffusion it takes none of steps, \
                       block_length, unmasking.threshold, remasking and proofreading";
        return Err(ApiError::invalid("diffusion", message));
    }
    let below = below.or(worst.map(|_| 1.0));
    let proofreading = match (steps, below, worst) {
        (None, None, None) => None,
        (steps, below, most) => Some(Proofreading { steps, below, most, temperature: None }),
    };
    Ok(Request { proofreading, ..request })
}
