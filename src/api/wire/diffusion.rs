//! The `diffusion` object: what only a diffusion model can do, as callers write it. Refuses to judge values.

use super::{missing, needs_stream};
use crate::api::error::ApiError;
use crate::api::field::{count, number, off_word, word_or_object};
use crate::diffusion::Order;
use crate::engine::{EndOfText, Proofreading, Remasking, Request};
use serde::Deserialize;
use std::time::Duration;

/// What only a diffusion model can do.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Diffusion {
    #[serde(default, deserialize_with = "count")]
    steps: Option<u32>,
    #[serde(default, deserialize_with = "count")]
    block_length: Option<u32>,
    #[serde(default, deserialize_with = "word_or_object::<_, OrderWord, _>")]
    unmasking: Option<Unmasking>,
    #[serde(default, deserialize_with = "word_or_object::<_, PolicyWord, _>")]
    remasking: Option<RemaskingField>,
    #[serde(default, deserialize_with = "word_or_object::<_, OffWord, _>")]
    proofreading: Option<ProofreadingField>,
    end_of_text: Option<EndOfTextWord>,
    #[serde(default, deserialize_with = "number")]
    cfg_scale: Option<f32>,
    pub(super) stream_edits: Option<bool>,
    return_quality: Option<bool>,
    #[serde(default, rename = "cache", deserialize_with = "off_word")]
    _cache: (),
    #[serde(default, deserialize_with = "count")]
    deadline_ms: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OrderWord {
    Confidence,
    Margin,
    Entropy,
    Random,
    Leftmost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unmasking {
    order: Option<OrderWord>,
    #[serde(default, deserialize_with = "number")]
    threshold: Option<f32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PolicyWord {
    Off,
    Quality,
    Confidence,
    ReMdm,
    Random,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemaskingField {
    policy: PolicyWord,
    #[serde(default, deserialize_with = "count")]
    budget: Option<u32>,
    #[serde(default, deserialize_with = "number")]
    below: Option<f32>,
    window: Option<[f32; 2]>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum EndOfTextWord {
    Free,
    Last,
    Never,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OffWord {
    Off,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofreadingField {
    #[serde(default, deserialize_with = "count")]
    steps: Option<u32>,
    #[serde(default, deserialize_with = "number")]
    below: Option<f32>,
    #[serde(default, deserialize_with = "count")]
    most: Option<u32>,
    #[serde(default, deserialize_with = "number")]
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
pub(in crate::api) fn rounds(steps: Option<u32>) -> Result<u32, ApiError> {
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
