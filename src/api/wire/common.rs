//! The common fields of OpenAI's completions and chat completions.

use super::diffusion::Diffusion;
use super::field::Bias;
use super::forms;
pub(super) use super::guided::FormatFields;
use super::guided::Given;
use super::neutral::{self, Neutral, Screened, Tables};
use super::params::{CompletionParams, Delivery, needs_stream};
use crate::api::error::{ApiError, ApiResult};
use crate::api::schema::{self, SchemaRef};
use crate::diffusion::TokenId;
use crate::engine::{Request, STOPS_MAX, Task};
use crate::text::quoted;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use utoipa::{PartialSchema, ToSchema};

/// Limit on the choices of one request, all prompts together.
pub(super) const CHOICES_MAX: usize = 128;

/// One text or several.
#[derive(Debug)]
pub(super) struct Stop(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        forms::field(input, "give a string or an array of strings", |value| match value {
            Value::Array(items) => forms::list(items, forms::text),
            one => forms::text(one).map(|text| vec![text]),
        })
        .map(Self)
    }
}

impl ToSchema for Stop {}

impl PartialSchema for Stop {
    fn schema() -> SchemaRef {
        schema::either([schema::text(1), schema::list(schema::text(1), 0, Some(STOPS_MAX))])
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamOptions {
    /// Send one more chunk with the usage.
    include_usage: Option<bool>,
}

pub(super) type StreamOptionsField = Screened<StreamOptions>;

impl Tables for StreamOptions {
    const TABLES: &'static [&'static [Neutral]] = &[neutral::STREAM_OPTIONS];
}

/// Token ids as the keys of a JSON object, and what is added to their logits. llama.cpp's clients
/// write an array where there are none.
#[derive(Debug, Default)]
pub(super) struct LogitBias(BTreeMap<String, Bias>);

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(LogitBiasVisitor).map(Self)
    }
}

impl LogitBias {
    /// Each token with what is added to its logit.
    ///
    /// # Errors
    /// When a key is no token id.
    pub(super) fn read(self) -> ApiResult<Vec<(TokenId, f32)>> {
        let bias = |(token, Bias(bias)): (String, Bias)| match token.parse() {
            Ok(id) => Ok((TokenId(id), bias)),
            Err(_) => {
                let keys = "its keys are ids, its values numbers from -100 to 100";
                let message = format!("logit_bias: {} is no token id; {keys}", quoted(&token));
                Err(ApiError::invalid(format!("logit_bias.{token}"), message))
            }
        };
        self.0.into_iter().map(bias).collect()
    }
}

struct LogitBiasVisitor;

impl<'de> Visitor<'de> for LogitBiasVisitor {
    type Value = BTreeMap<String, Bias>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of token ids and numbers from -100 to 100")
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        BTreeMap::deserialize(MapAccessDeserializer::new(object))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        match array.next_element::<IgnoredAny>()? {
            None => Ok(BTreeMap::new()),
            Some(_) => Err(A::Error::invalid_type(Unexpected::Seq, &self)),
        }
    }
}

/// Declares a body with its own fields and the common ones. serde's `flatten` would accept unknown
/// fields. The caller imports the names in it.
macro_rules! body {
    ($(#[$of_body:meta])* $name:ident, $fields:ident, $table:ident { $($own:tt)* }) => {
        pub(crate) type $name = neutral::Screened<$fields>;

        $(#[$of_body])*
        #[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields, expecting = "a JSON object")]
        #[schema(as = $name)]
        pub(crate) struct $fields {
            /// A name listed by `/v1/models`; default, also where it is empty: the first one there.
            pub(crate) model: Option<String>,
            $($own)*
            /// Default 0, greedy; OpenAI's default is 1.
            #[serde(default, deserialize_with = "field::temperature")]
            #[schema(minimum = 0, maximum = 3.4e38)]
            temperature: Option<f32>,
            /// Sample from the most probable tokens whose probabilities add up to this; 0 takes the
            /// most probable one.
            #[serde(default, deserialize_with = "field::fraction")]
            #[schema(minimum = 0, maximum = 1)]
            top_p: Option<f32>,
            /// vLLM's and llama.cpp's: sample from the tokens whose probability is at least this
            /// share of the largest one; 0 means all tokens.
            #[serde(default, deserialize_with = "field::fraction")]
            #[schema(minimum = 0, maximum = 1)]
            min_p: Option<f32>,
            /// vLLM's; 0 and -1 mean all tokens.
            #[serde(default, deserialize_with = "field::limit")]
            #[schema(value_type = Option<i64>, minimum = -1, maximum = 65536)]
            top_k: Option<u32>,
            /// Taken off the logit of each token that stands in the answer, in blanks; default 0.
            #[serde(default, deserialize_with = "field::penalty")]
            #[schema(minimum = -2, maximum = 2)]
            presence_penalty: Option<f32>,
            /// Taken off the logit of a token for each cell of the answer that it stands in, in
            /// blanks; default 0.
            #[serde(default, deserialize_with = "field::penalty")]
            #[schema(minimum = -2, maximum = 2)]
            frequency_penalty: Option<f32>,
            /// vLLM's: in blanks, divides the logit of each token that stands on the canvas, prompt
            /// included, where it is above 0, and multiplies it elsewhere; default 1.
            #[serde(default, deserialize_with = "field::repetition")]
            #[schema(minimum = 0.01, maximum = 100)]
            repetition_penalty: Option<f32>,
            /// The same seed gives the same answer.
            #[serde(default, deserialize_with = "field::seed")]
            #[schema(schema_with = schema::seed)]
            seed: Option<u64>,
            /// Choices for each prompt, 128 in all at most; default 1.
            #[serde(default, deserialize_with = "field::count::<_, 1, 128>")]
            #[schema(minimum = 1, maximum = 128)]
            n: Option<u32>,
            /// Texts that end the answer and are not part of it.
            stop: Option<common::Stop>,
            /// vLLM's: tokens that end the answer.
            #[schema(schema_with = schema::tokens_or_null)]
            stop_token_ids: Option<Vec<field::Id>>,
            /// vLLM's: also return the ids of the tokens that were written, and of the prompt's.
            return_token_ids: Option<bool>,
            /// Numbers added to the logits of token ids.
            #[schema(schema_with = schema::logit_bias)]
            logit_bias: Option<common::LogitBias>,
            /// JSON of a schema, of a skeleton, or any.
            #[schema(schema_with = schema::response_format)]
            response_format: Option<serde_json::Value>,
            /// vLLM's: a JSON Schema, or a text of one, as in `response_format`.
            #[schema(schema_with = schema::guided_json)]
            guided_json: Option<serde_json::Value>,
            /// vLLM's: texts, of which the answer is one.
            #[schema(schema_with = schema::guided_choice)]
            guided_choice: Option<serde_json::Value>,
            /// vLLM's newer name for both.
            #[schema(schema_with = schema::structured_outputs)]
            structured_outputs: Option<serde_json::Value>,
            /// SGLang's and llama.cpp's name for `guided_json`.
            #[schema(schema_with = schema::guided_json)]
            json_schema: Option<serde_json::Value>,
            /// vLLM's: requests with a lower number leave the queue first; default 0.
            #[serde(default, deserialize_with = "field::rank")]
            #[schema(schema_with = schema::rank)]
            priority: Option<i32>,
            /// Stream the answer as server-sent events.
            stream: Option<bool>,
            /// Only with `stream`.
            #[serde(default, deserialize_with = "field::object")]
            stream_options: Option<common::StreamOptionsField>,
            #[serde(default, deserialize_with = "field::object")]
            diffusion: Option<Diffusion>,
        }

        impl neutral::Tables for $fields {
            const TABLES: &'static [&'static [neutral::Neutral]] = &[neutral::COMMON, neutral::$table];
        }

        impl $fields {
            fn common(&mut self) -> common::CommonFields {
                common::CommonFields {
                    request: Request {
                        temperature: self.temperature.unwrap_or(0.0),
                        top_p: self.top_p,
                        min_p: self.min_p,
                        top_k: self.top_k,
                        presence_penalty: self.presence_penalty.unwrap_or(0.0),
                        frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
                        repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
                        stop: self.stop.take().map(|common::Stop(texts)| texts).unwrap_or_default(),
                        stop_tokens: self.stop_token_ids.take().into_iter().flatten().map(TokenId::from).collect(),
                        priority: self.priority.unwrap_or(0),
                        ..Request::new(Task::InfillTokens { cells: Vec::new() })
                    },
                    seed: self.seed,
                    choices: self.n.unwrap_or(1) as usize,
                    logit_bias: self.logit_bias.take().unwrap_or_default(),
                    format: common::FormatFields {
                        response_format: self.response_format.take(),
                        guided_json: self.guided_json.take(),
                        guided_choice: self.guided_choice.take(),
                        structured_outputs: self.structured_outputs.take(),
                        json_schema: self.json_schema.take(),
                    },
                    token_ids: self.return_token_ids == Some(true),
                    is_streamed: self.stream == Some(true),
                    stream_options: self.stream_options.take(),
                    diffusion: self.diffusion.take().unwrap_or_default(),
                }
            }
        }
    };
}
pub(super) use body;

#[derive(Debug)]
pub(super) struct CommonFields {
    /// The fields that need no check here. Its task is empty.
    pub(super) request: Request,
    pub(super) seed: Option<u64>,
    pub(super) choices: usize,
    pub(super) logit_bias: LogitBias,
    pub(super) format: FormatFields,
    pub(super) token_ids: bool,
    pub(super) is_streamed: bool,
    pub(super) stream_options: Option<StreamOptionsField>,
    pub(super) diffusion: Diffusion,
}

impl CommonFields {
    /// The parameters of a completion with a task for each prompt.
    pub(super) fn params(self, tasks: Vec<Task>, logprobs: bool, echo: Vec<String>) -> ApiResult<CompletionParams> {
        let delivery = if self.is_streamed {
            let with_usage = self.stream_options.is_some_and(|Screened(options)| options.include_usage == Some(true));
            Delivery::Stream { with_edits: self.diffusion.stream_edits == Some(true), with_usage }
        } else if self.stream_options.is_some() {
            return Err(needs_stream("stream_options"));
        } else {
            self.diffusion.check_whole()?;
            Delivery::Whole
        };
        let (choices, token_ids) = (self.choices, self.token_ids);
        check_choices(tasks.len(), choices)?;
        let Given { format, field: format_field } = self.format.read()?;
        let request = self.diffusion.read(Request {
            seed: self.seed,
            logit_bias: self.logit_bias.read()?,
            format,
            ..self.request
        })?;
        Ok(CompletionParams {
            request,
            tasks,
            choices,
            delivery,
            logprobs,
            token_ids,
            echo,
            call: None,
            length_field: None,
            format_field,
        })
    }
}

/// Checks how many choices there are in all.
pub(super) fn check_choices(prompts: usize, choices: usize) -> ApiResult<()> {
    let all = prompts.saturating_mul(choices);
    let (param, message) = match (CHOICES_MAX / prompts.max(1), choices) {
        (0, _) => ("prompt", format!("given {prompts} prompts; give at most {CHOICES_MAX}")),
        (most, 1..) if choices <= most => return Ok(()),
        (_, _) if prompts <= 1 => ("n", format!("given {choices}; give a whole number from 1 to {CHOICES_MAX}")),
        (_, 0) => ("n", "given 0; give at least 1".to_owned()),
        (most, _) => {
            let fewer = if most == 1 { "leave n out".to_owned() } else { format!("give an n of at most {most}") };
            let given = format!("given {choices} for each of {prompts} prompts, which are {all} choices");
            ("n", format!("{given}; a request has at most {CHOICES_MAX}: {fewer}, or send fewer prompts at once"))
        }
    };
    Err(ApiError::invalid(param, format!("{param}: {message}")))
}

/// How an answer in named events is sent. A stream always has the edits.
pub(super) fn named_events(stream: Option<bool>, diffusion: &Diffusion) -> ApiResult<Delivery> {
    if stream == Some(true) {
        return Ok(Delivery::Stream { with_edits: true, with_usage: true });
    }
    diffusion.check_whole()?;
    Ok(Delivery::Whole)
}
