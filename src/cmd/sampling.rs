//! The flags that say how tokens are drawn.

use super::words::{count, number, temperature};
use crate::diffusion::policy::COUNT_MAX;
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
