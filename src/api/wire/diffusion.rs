//! The `diffusion` object of a request: what only a diffusion model can do. Out of scope: values,
//! which `engine::admission` checks.

use super::field::{self, OneOf, count, word_or_object};
use super::params::needs_stream;
use super::policy::{self, Unmasking};
use crate::api::{error::ApiError, schema, schema::SchemaRef};
use crate::diffusion::Choice;
use crate::diffusion::policy::{COUNT_MAX, order::CONFIDENCE};
use crate::engine::{EndOfText, Proofreading, Request};
use serde::{Deserialize, Deserializer, de::DeserializeSeed};
use std::time::Duration;
use utoipa::{PartialSchema, ToSchema, openapi::schema::Object};

/// What only a diffusion model can do.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Diffusion {
    /// A name of `presets` in `/v1/models`, as `fast`: it sets the fields of this object that are
    /// not given here.
    preset: Option<String>,
    /// Forward passes for the whole answer; default: one per blank, or the model's if less.
    #[serde(default, deserialize_with = "count::<_, 1, COUNT_MAX>")]
    #[schema(minimum = 1, maximum = 65536)]
    steps: Option<u32>,
    /// Cells per block, refined left to right; default: the model's, else all.
    #[serde(default, deserialize_with = "count::<_, 1, { u32::MAX }>")]
    #[schema(minimum = 1, maximum = 4294967295_u32)]
    block_length: Option<u32>,
    #[serde(default, deserialize_with = "policy::unmasking")]
    #[schema(schema_with = policy::unmasking_schema)]
    unmasking: Option<Unmasking>,
    #[serde(default, deserialize_with = "policy::remasking")]
    #[schema(schema_with = policy::remasking_schema)]
    remasking: Option<Choice>,
    #[serde(default, deserialize_with = "proofreading")]
    #[schema(schema_with = proofreading_schema)]
    proofreading: Option<ProofreadingField>,
    #[serde(default, deserialize_with = "end_of_text")]
    #[schema(schema_with = end_of_text_schema)]
    end_of_text: Option<EndOfText>,
    /// Weight of classifier-free guidance, which doubles the cost; default 0, off.
    #[serde(default, deserialize_with = "field::cfg_scale")]
    #[schema(minimum = 0, maximum = 100)]
    cfg_scale: Option<f32>,
    /// With `stream`: also send every edit; default false.
    pub(super) stream_edits: Option<bool>,
    /// Judge every token of the finished answer: one more forward pass. Needs a quality head.
    return_quality: Option<bool>,
    #[serde(default, deserialize_with = "policy::cache")]
    #[schema(schema_with = policy::cache_schema)]
    cache: Option<Choice>,
    /// The answer is returned within this time, as good as it can be by then.
    #[serde(default, deserialize_with = "count::<_, 1, { u32::MAX }>")]
    #[schema(minimum = 1, maximum = 4294967295_u32)]
    deadline_ms: Option<u32>,
}

fn end_of_text<'de, D: Deserializer<'de>>(input: D) -> Result<Option<EndOfText>, D::Error> {
    let words = EndOfText::ALL.map(|(word, ..)| word);
    let index = OneOf { what: "variant", words: &words, or: "" }.deserialize(input)?;
    Ok(index.map(|index| EndOfText::ALL[index].1))
}

fn end_of_text_schema() -> SchemaRef {
    let description =
        "When end-of-text tokens may be filled: like others, last in their block, or never; default `free`.";
    schema::either_or_null([schema::words(EndOfText::ALL.map(|(word, ..)| word))], description)
}

fn proofreading_schema() -> SchemaRef {
    let description = "When a block is full, the quality head scores it, and doubtful tokens are filled again; \
                       default: the model's where remasking is by quality, else `off`.";
    schema::either_or_null([schema::words([OFF, ON]), ProofreadingField::schema()], description)
}

/// 0 is off; else one to erase and one to write are the least.
fn proofreading_steps() -> SchemaRef {
    let steps = [schema::whole(0, 0), schema::whole(2, 65_536)];
    let description = "Further steps per block at most; default: the model's, else one per cell of a block, from 2 to \
                       128.";
    schema::either_or_null(steps, description)
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ProofreadingField {
    #[serde(default, deserialize_with = "field::proofreading_steps")]
    #[schema(schema_with = proofreading_steps)]
    steps: Option<u32>,
    /// Tokens of lower quality are filled again; default 0.5, and without `steps` the model's if
    /// it has one.
    #[serde(default, deserialize_with = "field::fraction")]
    #[schema(minimum = 0, maximum = 1)]
    below: Option<f32>,
    /// Erasures per round at most, the lowest quality first; default: all doubtful tokens.
    #[serde(default, deserialize_with = "count::<_, 1, COUNT_MAX>")]
    #[schema(minimum = 1, maximum = 65536)]
    most: Option<u32>,
    /// Default: the request's.
    #[serde(default, deserialize_with = "field::temperature")]
    #[schema(minimum = 0, maximum = 3.4e38)]
    temperature: Option<f32>,
}

const OFF: &str = "off";
const ON: &str = "on";

fn proofreading<'de, D: Deserializer<'de>>(input: D) -> Result<Option<ProofreadingField>, D::Error> {
    let off = ProofreadingField { steps: Some(0), ..ProofreadingField::default() };
    word_or_object(input, vec![(OFF, off), (ON, ProofreadingField::default())])
}

impl ProofreadingField {
    fn read(self) -> Proofreading {
        let Self { steps, below, most, temperature } = self;
        Proofreading { steps, below, most, temperature }
    }
}

impl Diffusion {
    /// What goes with a text that is there already: a repair has its steps beside the text.
    pub(super) fn beside_a_text() -> SchemaRef {
        let without = |mut object: Object, fields: &[&str]| {
            object.properties.extend(fields.iter().map(|field| ((*field).to_owned(), schema::null())));
            object
        };
        let mut object =
            without(schema::object::<Self>(), &["preset", "steps", "block_length", "remasking", "proofreading"]);
        object.properties.insert("unmasking".to_owned(), policy::order_schema());
        object.properties.insert("cache".to_owned(), schema::off_word());
        schema::either_or_null([object.into()], "Options of the refinement; a repair has its `steps` beside the text.")
    }

    /// Checks what has no meaning for an answer in one piece.
    pub(super) fn check_whole(&self) -> Result<(), ApiError> {
        if self.stream_edits == Some(true) { Err(needs_stream("diffusion.stream_edits")) } else { Ok(()) }
    }

    pub(super) fn read(self, request: Request) -> Result<Request, ApiError> {
        let Unmasking { order, of_order, pace } = self.unmasking.unwrap_or_default();
        Ok(Request {
            preset: self.preset,
            order: CONFIDENCE.unless(order, of_order),
            pace,
            steps: self.steps,
            block_length: self.block_length,
            remasking: self.remasking,
            proofreading: self.proofreading.map(ProofreadingField::read),
            end_of_text: self.end_of_text,
            cache: self.cache,
            deadline: self.deadline_ms.map(|millis| Duration::from_millis(millis.into())),
            cfg_scale: self.cfg_scale.unwrap_or(0.0),
            return_quality: self.return_quality == Some(true),
            ..request
        })
    }
}
