//! How an answer is refined, apart from what is asked: the fields of a request that are the same
//! for every task. `remask eval compare` reads its policies in these words.

use super::common::LogitBias;
use super::diffusion::Diffusion;
use super::field::{self, object, temperature};
use crate::api::error::ApiResult;
use crate::api::request::body;
use crate::engine::{Request, Task};
use serde::Deserialize;

/// Fields of requests, with the names that they have there.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refinement {
    /// What a report calls it.
    name: Option<String>,
    #[serde(default, deserialize_with = "temperature")]
    temperature: Option<f32>,
    #[serde(default, deserialize_with = "field::limit")]
    top_k: Option<u32>,
    #[serde(default, deserialize_with = "field::fraction")]
    top_p: Option<f32>,
    #[serde(default, deserialize_with = "field::fraction")]
    min_p: Option<f32>,
    #[serde(default, deserialize_with = "field::penalty")]
    presence_penalty: Option<f32>,
    #[serde(default, deserialize_with = "field::penalty")]
    frequency_penalty: Option<f32>,
    #[serde(default, deserialize_with = "field::repetition")]
    repetition_penalty: Option<f32>,
    logit_bias: Option<LogitBias>,
    #[serde(default, deserialize_with = "object")]
    diffusion: Option<Diffusion>,
}

impl Refinement {
    /// From a JSON object.
    ///
    /// # Errors
    /// When it is not valid JSON, or a field is unknown or malformed.
    pub(crate) fn parse(json: &str) -> ApiResult<Self> {
        body::parse_object("the policy", json.as_bytes())
    }

    /// Its name, if it has one, and the request for `task`.
    ///
    /// # Errors
    /// When a field that another one needs is missing, or a key of `logit_bias` is no token id.
    pub(crate) fn read(self, task: Task) -> ApiResult<(Option<String>, Request)> {
        let request = Request {
            temperature: self.temperature.unwrap_or(0.0),
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            logit_bias: self.logit_bias.unwrap_or_default().read()?,
            ..Request::new(task)
        };
        Ok((self.name, self.diffusion.unwrap_or_default().read(request)?))
    }
}
