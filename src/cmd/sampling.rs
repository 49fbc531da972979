//! The flags that say how tokens are drawn.

use super::words::{count, number, one_of, temperature, whole};
use crate::diffusion::policy::COUNT_MAX;
use crate::engine::{EndOfText, Request};
use clap::Args;

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct SamplingArgs {
    /// Sampling temperature. 0 takes the most probable token
    #[arg(long, default_value_t = 0.0, value_parser = temperature())]
    pub(super) temperature: f32,
    /// Sample from this many of the most probable tokens. Needs a --temperature
    #[arg(long, value_name = "N", value_parser = count::<u32>(COUNT_MAX.into()))]
    pub(super) top_k: Option<u32>,
    /// Sample from the most probable tokens that add up to this probability. Needs a --temperature
    #[arg(long, value_name = "0..1", value_parser = number(0.0_f32, 1.0))]
    pub(super) top_p: Option<f32>,
    /// Sample from tokens with at least this share of the largest probability. Needs --temperature
    #[arg(long, value_name = "0..1", value_parser = number(0.0_f32, 1.0))]
    pub(super) min_p: Option<f32>,
}

/// How the tokens of an answer or a repair are drawn.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct WritingArgs {
    /// When tokens that end a text may be filled in [default: free]
    #[arg(long, value_parser = one_of(EndOfText::ALL))]
    end_of_text: Option<EndOfText>,
    /// Classifier-free guidance weight, 0 to 100
    #[arg(long, default_value_t = 0.0, value_parser = number(0.0_f32, 100.0))]
    cfg_scale: f32,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Random seed. The same seed gives the same answer
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0, u64::MAX))]
    seed: Option<u64>,
}

impl WritingArgs {
    /// The request with these options.
    pub(super) fn set(&self, request: Request) -> Request {
        let SamplingArgs { temperature, top_k, top_p, min_p } = self.sampling;
        let Self { end_of_text, cfg_scale, seed, .. } = *self;
        Request { end_of_text, cfg_scale, temperature, top_k, top_p, min_p, seed, ..request }
    }
}
