//! The fields that OpenAI's completions and chat completions have in common. Refuses to judge values.

use crate::api::error::ApiError;
use crate::api::schema;
use crate::api::wire::Delivery;
use crate::api::wire::Wish;
use crate::api::wire::diffusion::Diffusion;
use crate::api::wire::field::Count;
use crate::api::wire::field::Number;
use crate::api::wire::field::off;
use crate::api::wire::needs_stream;
use crate::diffusion::TokenId;
use crate::engine::{Request, STOPS_MAX};
use serde::Deserialize;
use std::collections::BTreeMap;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Choices of one answer at most, all prompts together.
pub(crate) const CHOICES_MAX: usize = 128;

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "give a string or an array of strings")]
pub(crate) enum Stop {
    One(String),
    Many(Vec<String>),
}

impl ToSchema for Stop {}

impl PartialSchema for Stop {
    fn schema() -> RefOr<Schema> {
        schema::either([schema::text(1), schema::list(schema::text(1), 0, Some(STOPS_MAX))])
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    /// One more chunk tells the usage.
    include_usage: Option<bool>,
    /// Padding against eavesdroppers who measure chunks.
    #[serde(default, rename = "include_obfuscation", deserialize_with = "off")]
    #[schema(schema_with = schema::off)]
    _include_obfuscation: (),
}

/// Tokens by their ids, as keys of a JSON object, and what is added to their logits.
pub(crate) type LogitBias = BTreeMap<String, Number>;

/// Declares a body with its own fields and those that both have in common; serde's own way to share fields does not
/// refuse unknown ones.
macro_rules! body {
    ($(#[$of_body:meta])* $name:ident { $($own:tt)* }) => {
        $(#[$of_body])*
        #[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields, expecting = "a JSON object")]
        pub(crate) struct $name {
            /// As `/v1/models` has it; default: the model that is served.
            pub(crate) model: Option<String>,
            $($own)*
            /// Default 0, greedy, where OpenAI's is 1.
            #[serde(default, deserialize_with = "crate::api::wire::field::number")]
            #[schema(minimum = 0, maximum = 3.4e38)]
            temperature: Option<f32>,
            /// Only the likeliest tokens are drawn whose probabilities together reach this.
            #[serde(default, deserialize_with = "crate::api::wire::field::number")]
            #[schema(exclusive_minimum = 0, maximum = 1)]
            top_p: Option<f32>,
            /// vLLM's; 0 and -1 are all tokens.
            #[serde(default, deserialize_with = "crate::api::wire::field::limit")]
            #[schema(value_type = Option<i64>, minimum = -1, maximum = 65536)]
            top_k: Option<u32>,
            /// The same seed gives the same answer.
            #[serde(default, deserialize_with = "crate::api::wire::field::seed")]
            #[schema(schema_with = crate::api::schema::seed)]
            seed: Option<u64>,
            /// Choices for each prompt, 128 in all at most; default 1.
            #[serde(default, deserialize_with = "crate::api::wire::field::count")]
            #[schema(minimum = 1, maximum = 128)]
            n: Option<u32>,
            /// Texts that end the answer; they are not part of it.
            stop: Option<crate::api::wire::common::Stop>,
            /// vLLM's: tokens that end the answer.
            #[schema(schema_with = crate::api::schema::tokens_or_null)]
            stop_token_ids: Option<Vec<crate::api::wire::field::Count>>,
            /// Token ids, and what is added to their logits.
            #[schema(schema_with = crate::api::schema::logit_bias)]
            logit_bias: Option<crate::api::wire::common::LogitBias>,
            /// JSON of a schema, of a skeleton, or any.
            #[schema(schema_with = crate::api::schema::response_format)]
            response_format: Option<serde_json::Value>,
            /// vLLM's: who waits with a lower number is served first; default 0.
            #[serde(default, deserialize_with = "crate::api::wire::field::rank")]
            #[schema(schema_with = crate::api::schema::rank)]
            priority: Option<i32>,
            /// As server-sent events, while the answer takes shape.
            stream: Option<bool>,
            /// Only with `stream`.
            #[serde(default, deserialize_with = "crate::api::wire::field::object")]
            stream_options: Option<crate::api::wire::common::StreamOptions>,
            #[serde(default, deserialize_with = "crate::api::wire::field::object")]
            diffusion: Option<crate::api::wire::diffusion::Diffusion>,

            // OpenAI's, taken where they ask for nothing
            #[serde(default, rename = "presence_penalty", deserialize_with = "crate::api::wire::field::zero")]
            #[schema(schema_with = crate::api::schema::zero)]
            _presence_penalty: (),
            #[serde(default, rename = "frequency_penalty", deserialize_with = "crate::api::wire::field::zero")]
            #[schema(schema_with = crate::api::schema::zero)]
            _frequency_penalty: (),
            #[serde(default, rename = "tools", deserialize_with = "crate::api::wire::field::nothing")]
            #[schema(schema_with = crate::api::schema::nothing)]
            _tools: (),
            #[serde(default, rename = "functions", deserialize_with = "crate::api::wire::field::nothing")]
            #[schema(schema_with = crate::api::schema::nothing)]
            _functions: (),
            #[serde(default, rename = "tool_choice", deserialize_with = "crate::api::wire::field::no_tool")]
            #[schema(schema_with = crate::api::schema::no_tool)]
            _tool_choice: (),
            #[serde(default, rename = "store", deserialize_with = "crate::api::wire::field::off")]
            #[schema(schema_with = crate::api::schema::off)]
            _store: (),

            // OpenAI's, which mean nothing here
            #[serde(rename = "user")]
            #[schema(schema_with = crate::api::schema::ignored)]
            _user: Option<serde::de::IgnoredAny>,
            #[serde(rename = "metadata")]
            #[schema(schema_with = crate::api::schema::ignored)]
            _metadata: Option<serde::de::IgnoredAny>,
            #[serde(rename = "service_tier")]
            #[schema(schema_with = crate::api::schema::ignored)]
            _service_tier: Option<serde::de::IgnoredAny>,
            #[serde(rename = "parallel_tool_calls")]
            #[schema(schema_with = crate::api::schema::ignored)]
            _parallel_tool_calls: Option<serde::de::IgnoredAny>,
            #[serde(rename = "safety_identifier")]
            #[schema(schema_with = crate::api::schema::ignored)]
            _safety_identifier: Option<serde::de::IgnoredAny>,
            #[serde(rename = "prompt_cache_key")]
            #[schema(schema_with = crate::api::schema::ignored)]
            _prompt_cache_key: Option<serde::de::IgnoredAny>,
        }

        impl $name {
            /// Takes out what both bodies have in common.
            fn options(&mut self) -> crate::api::wire::common::Options {
                crate::api::wire::common::Options {
                    temperature: self.temperature,
                    top_p: self.top_p,
                    top_k: self.top_k,
                    seed: self.seed,
                    choices: self.n,
                    stop: self.stop.take(),
                    stop_token_ids: self.stop_token_ids.take(),
                    logit_bias: self.logit_bias.take(),
                    response_format: self.response_format.take(),
                    priority: self.priority,
                    is_streamed: self.stream == Some(true),
                    stream_options: self.stream_options.take(),
                    diffusion: self.diffusion.take().unwrap_or_default(),
                }
            }
        }
    };
}
pub(crate) use body;

/// The fields in common.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) seed: Option<u64>,
    pub(crate) choices: Option<u32>,
    pub(crate) stop: Option<Stop>,
    pub(crate) stop_token_ids: Option<Vec<Count>>,
    pub(crate) logit_bias: Option<LogitBias>,
    pub(crate) response_format: Option<serde_json::Value>,
    pub(crate) priority: Option<i32>,
    pub(crate) is_streamed: bool,
    pub(crate) stream_options: Option<StreamOptions>,
    pub(crate) diffusion: Diffusion,
}

impl Options {
    /// What is asked for with these options: `prompts` are requests that say nothing but their task.
    ///
    /// # Errors
    /// When a field asks for what goes only with another one, or there are too many choices.
    pub(crate) fn wish(self, prompts: Vec<Request>, logprobs: bool, echo: Vec<String>) -> Result<Wish, ApiError> {
        let delivery = if self.is_streamed {
            let with_usage = self.stream_options.is_some_and(|options| options.include_usage == Some(true));
            Delivery::Stream { with_edits: self.diffusion.stream_edits == Some(true), with_usage }
        } else if self.stream_options.is_some() {
            return Err(needs_stream("stream_options"));
        } else {
            self.diffusion.check_whole()?;
            Delivery::Whole
        };
        let choices = self.choices.unwrap_or(1) as usize;
        if choices == 0 || prompts.len().saturating_mul(choices) > CHOICES_MAX {
            let (given, most) = (prompts.len(), CHOICES_MAX / prompts.len().max(1));
            let message = match most {
                0 => {
                    return Err(ApiError::invalid(
                        "prompt",
                        format!("prompt: given {given} prompts; give at most {CHOICES_MAX}"),
                    ));
                }
                most => format!("n: given {choices}; give 1 to {most}: all choices together are at most {CHOICES_MAX}"),
            };
            return Err(ApiError::invalid("n", message));
        }
        let stop = match self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop],
            Some(Stop::Many(stops)) => stops,
        };
        let logit_bias =
            self.logit_bias.unwrap_or_default().into_iter().map(|(token, Number(bias))| match token.parse() {
                Ok(id) => Ok((TokenId(id), bias)),
                Err(_) => Err(ApiError::invalid(
                    format!("logit_bias.{token}"),
                    format!(
                        "logit_bias: {token:?} is no token id; its keys are ids, its values numbers from -100 to 100"
                    ),
                )),
            });
        let common = Request {
            temperature: self.temperature.unwrap_or(0.0),
            top_p: self.top_p,
            top_k: self.top_k,
            stop,
            stop_tokens: self.stop_token_ids.unwrap_or_default().into_iter().map(|Count(id)| TokenId(id)).collect(),
            logit_bias: logit_bias.collect::<Result<_, _>>()?,
            format: crate::api::wire::response_format::read(self.response_format.as_ref())?,
            priority: self.priority.unwrap_or(0),
            ..Request::new(crate::engine::Task::InfillTokens { cells: Vec::new() })
        };
        let common = self.diffusion.read(common)?;
        let seed = |choice: usize| self.seed.map(|seed| seed.wrapping_add(choice as u64));
        let requests = prompts.into_iter().flat_map(|Request { task, .. }| {
            let request = Request { task, ..common.clone() };
            (0..choices).map(move |choice| Request { seed: seed(choice), ..request.clone() })
        });
        let echo = echo.into_iter().flat_map(|text| std::iter::repeat_n(text, choices));
        Ok(Wish { requests: requests.collect(), choices, delivery, logprobs, echo: echo.collect() })
    }
}
