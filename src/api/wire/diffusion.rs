//! The `diffusion` object: what only a diffusion model can do, as callers write it. Refuses to judge values.

use super::field::{Number, count, number, off_word, word_or_object};
use super::params::{missing, needs_stream};
use crate::api::error::ApiError;
use crate::api::schema;
use crate::diffusion::Order;
use crate::engine::{EndOfText, Proofreading, Remasking, Request};
use serde::Deserialize;
use std::time::Duration;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// What only a diffusion model can do.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Diffusion {
    /// Forward passes for the whole answer; default: the model's, else one per blank.
    #[serde(default, deserialize_with = "count")]
    #[schema(minimum = 1, maximum = 65536)]
    steps: Option<u32>,
    /// Cells refined together, left to right; default: the model's, else all.
    #[serde(default, deserialize_with = "count")]
    #[schema(minimum = 1, maximum = 4294967295_u32)]
    block_length: Option<u32>,
    #[serde(default, deserialize_with = "word_or_object::<_, OrderWord, _>")]
    #[schema(schema_with = unmasking_schema)]
    unmasking: Option<Unmasking>,
    #[serde(default, deserialize_with = "word_or_object::<_, PolicyWord, _>")]
    #[schema(schema_with = remasking_schema)]
    remasking: Option<RemaskingField>,
    #[serde(default, deserialize_with = "word_or_object::<_, OffWord, _>")]
    #[schema(schema_with = proofreading_schema)]
    proofreading: Option<ProofreadingField>,
    /// When tokens that end a text may be filled in: like others, after all else of their block, or never; default `free`.
    #[schema(inline)]
    end_of_text: Option<EndOfTextWord>,
    /// Weight of classifier-free guidance, which doubles the cost; default 0, off.
    #[serde(default, deserialize_with = "number")]
    #[schema(minimum = 0, maximum = 3.4e38)]
    cfg_scale: Option<f32>,
    /// With `stream`: every fill and erasure is sent as well; default false.
    pub(super) stream_edits: Option<bool>,
    /// Judge every token of the finished answer; one more forward pass, and needs a quality head. Default false.
    return_quality: Option<bool>,
    #[serde(default, rename = "cache", deserialize_with = "off_word")]
    #[schema(schema_with = schema::off_word)]
    _cache: (),
    /// The answer is there after this time, as good as it can be by then.
    #[serde(default, deserialize_with = "count")]
    #[schema(minimum = 1, maximum = 4294967295_u32)]
    deadline_ms: Option<u32>,
}

fn unmasking_schema() -> RefOr<Schema> {
    let description = "Which blank is filled first; default `confidence`. With a `threshold`, every blank is filled in \
                       a step that is sure enough, instead of an even share.";
    schema::either_or_null([OrderWord::schema(), Unmasking::schema()], description)
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum OrderWord {
    Confidence,
    Margin,
    Entropy,
    Random,
    Leftmost,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Unmasking {
    #[schema(inline)]
    order: Option<OrderWord>,
    /// Confidence from which blanks are filled.
    #[serde(default, deserialize_with = "number")]
    #[schema(minimum = 0, maximum = 1)]
    threshold: Option<f32>,
}

/// A word, or an object whose knobs are those that go with its word.
fn remasking_schema() -> RefOr<Schema> {
    let knobs = |policies: &[&str], without: &[&str]| {
        let mut object = schema::object::<RemaskingField>();
        object.properties.insert("policy".to_owned(), schema::words(policies.iter().copied()));
        object.properties.extend(without.iter().map(|knob| ((*knob).to_owned(), schema::null())));
        RefOr::from(object)
    };
    let description = "Which filled cells may be erased; default: those of quality below 0.5 if the model has a head, \
                       else none. `quality` needs a head.";
    let forms = [
        PolicyWord::schema(),
        knobs(&["quality", "confidence"], &[]),
        knobs(&["remdm", "random"], &["below"]),
        knobs(&["off"], &["budget", "below", "window"]),
    ];
    schema::either_or_null(forms, description)
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum PolicyWord {
    Off,
    Quality,
    Confidence,
    ReMdm,
    Random,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RemaskingField {
    #[schema(inline)]
    policy: PolicyWord,
    /// Erasures per block at most; default: one per blank of the block.
    #[serde(default, deserialize_with = "count")]
    #[schema(maximum = 65536)]
    budget: Option<u32>,
    /// Only cells of lower quality (or confidence); default: 0.5 without a budget, else the worst whatever theirs is.
    #[serde(default, deserialize_with = "number")]
    #[schema(minimum = 0, maximum = 1)]
    below: Option<f32>,
    #[schema(schema_with = window_schema)]
    window: Option<[Number; 2]>,
}

fn window_schema() -> RefOr<Schema> {
    let fraction = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0)).maximum(Some(1));
    let description =
        "Part of each block's steps in which erasing is allowed, as two fractions, the second above the first.";
    schema::either_or_null([schema::list(fraction.into(), 2, Some(2))], description)
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum EndOfTextWord {
    Free,
    Last,
    Never,
}

fn proofreading_schema() -> RefOr<Schema> {
    let description = "When a block is full, the quality head reads it through, and what it doubts is written again; \
                       default: the model's where remasking is by quality, else `off`.";
    schema::either_or_null([OffWord::schema(), ProofreadingField::schema()], description)
}

/// 0 is off; else one to erase and one to write are the least.
fn proofreading_steps() -> RefOr<Schema> {
    schema::either([schema::whole(0, 0), schema::whole(2, 65_536)])
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum OffWord {
    Off,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ProofreadingField {
    #[serde(default, deserialize_with = "count")]
    #[schema(schema_with = proofreading_steps, required)]
    steps: Option<u32>,
    /// Tokens of lower quality are written again; default 0.5.
    #[serde(default, deserialize_with = "number")]
    #[schema(minimum = 0, maximum = 1)]
    below: Option<f32>,
    /// As many at a time at most, the worst first; default: all that are doubted.
    #[serde(default, deserialize_with = "count")]
    #[schema(minimum = 1, maximum = 65536)]
    most: Option<u32>,
    /// Default: the request's.
    #[serde(default, deserialize_with = "number")]
    #[schema(minimum = 0, maximum = 3.4e38)]
    temperature: Option<f32>,
}

impl From<OffWord> for ProofreadingField {
    fn from(word: OffWord) -> Self {
        match word {
            OffWord::Off => Self { steps: Some(0), below: None, most: None, temperature: None },
        }
    }
}

impl ProofreadingField {
    fn read(self) -> Result<Proofreading, ApiError> {
        let Self { steps, below, most, temperature } = self;
        Ok(Proofreading { steps: Some(rounds(steps)?), below, most, temperature })
    }
}

/// The steps of a proofreading, which have to be said.
///
/// # Errors
/// When they are not.
pub(crate) fn rounds(steps: Option<u32>) -> Result<u32, ApiError> {
    steps.ok_or_else(|| missing("diffusion.proofreading.steps", "the most steps a full block may take"))
}

impl From<OrderWord> for Order {
    fn from(word: OrderWord) -> Self {
        match word {
            OrderWord::Confidence => Self::Confidence,
            OrderWord::Margin => Self::Margin,
            OrderWord::Entropy => Self::Entropy,
            OrderWord::Random => Self::Random,
            OrderWord::Leftmost => Self::Leftmost,
        }
    }
}

impl From<EndOfTextWord> for EndOfText {
    fn from(word: EndOfTextWord) -> Self {
        match word {
            EndOfTextWord::Free => Self::Free,
            EndOfTextWord::Last => Self::Last,
            EndOfTextWord::Never => Self::Never,
        }
    }
}

impl From<OrderWord> for Unmasking {
    fn from(word: OrderWord) -> Self {
        Self { order: Some(word), threshold: None }
    }
}

impl From<PolicyWord> for RemaskingField {
    fn from(policy: PolicyWord) -> Self {
        Self { policy, budget: None, below: None, window: None }
    }
}

impl Diffusion {
    /// What goes with a text that is there already: a repair has its steps beside the text.
    pub(super) fn beside_a_text() -> RefOr<Schema> {
        let without = |mut object: Object, fields: &[&str]| {
            object.properties.extend(fields.iter().map(|field| ((*field).to_owned(), schema::null())));
            object
        };
        let orders = [OrderWord::schema(), without(schema::object::<Unmasking>(), &["threshold"]).into()];
        let unmasking = schema::either_or_null(orders, "In which order what was erased is written again.");
        let mut object = without(schema::object::<Self>(), &["steps", "block_length", "remasking", "proofreading"]);
        object.properties.insert("unmasking".to_owned(), unmasking);
        schema::either_or_null([object.into()], "A repair has its steps beside the text.")
    }

    /// Checks what has no meaning for an answer in one piece.
    pub(super) fn check_whole(&self) -> Result<(), ApiError> {
        if self.stream_edits == Some(true) { Err(needs_stream("diffusion.stream_edits")) } else { Ok(()) }
    }

    pub(super) fn read(self, request: Request) -> Result<Request, ApiError> {
        let unmasking = self.unmasking.unwrap_or(Unmasking { order: None, threshold: None });
        Ok(Request {
            order: unmasking.order.map_or(request.order, Order::from),
            threshold: unmasking.threshold,
            steps: self.steps,
            block_length: self.block_length,
            remasking: self.remasking.map(RemaskingField::read).transpose()?,
            proofreading: self.proofreading.map(ProofreadingField::read).transpose()?,
            end_of_text: self.end_of_text.map(Into::into).unwrap_or_default(),
            deadline: self.deadline_ms.map(|millis| Duration::from_millis(millis.into())),
            cfg_scale: self.cfg_scale.unwrap_or(0.0),
            return_quality: self.return_quality == Some(true),
            ..request
        })
    }
}

impl RemaskingField {
    fn read(self) -> Result<Remasking, ApiError> {
        let Self { policy, budget, below, window } = self;
        let window = window.map(|ends| ends.map(|Number(end)| end));
        match (policy, budget, below, window) {
            (PolicyWord::Quality, ..) => Ok(Remasking::Quality { budget, below, window }),
            (PolicyWord::Confidence, ..) => Ok(Remasking::Confidence { budget, below, window }),
            (PolicyWord::ReMdm, _, None, _) => Ok(Remasking::ReMdm { budget, window }),
            (PolicyWord::Random, _, None, _) => Ok(Remasking::Random { budget, window }),
            (PolicyWord::ReMdm | PolicyWord::Random, _, Some(_), _) => Err(ApiError::invalid(
                "diffusion.remasking.below",
                "below goes with the policies \"quality\" and \"confidence\"; with \"remdm\" and \"random\" give budget and window",
            )),
            (PolicyWord::Off, None, None, None) => Ok(Remasking::Off),
            (PolicyWord::Off, ..) => Err(ApiError::invalid(
                "diffusion.remasking",
                "policy \"off\" takes no budget, below or window; choose another policy, as \"quality\"",
            )),
        }
    }
}
