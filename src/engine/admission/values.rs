//! The options of a request that are single numbers: their ranges, and what they ask of sampling.

use crate::diffusion::Probability;
use crate::diffusion::TokenId;
use crate::diffusion::policy::COUNT_MAX;
use crate::engine::biases::Penalties;
use crate::engine::request::{Rejected, Request, invalid};
use crate::model::Filter;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Largest weight of classifier-free guidance. Published samplers use 0 to 4. At 100 a difference
/// of one logit is a factor of e^101, so that a larger weight changes no choice of a token; far
/// above, the products are no finite numbers.
const CFG_SCALE_MAX: f32 = 100.0;

/// Largest absolute value of a penalty, as in OpenAI's API.
const PENALTY_MAX: f32 = 2.0;

/// The repetition penalties that may be asked for; those of published settings are 1 to 2. A logit
/// that is scaled by any of them is still finite.
const REPETITION: RangeInclusive<f32> = 0.01..=100.0;

/// The penalties on tokens that stand on the canvas, those that end a text excepted; `None` where
/// all are neutral.
pub(super) fn penalties(request: &Request, ends: &Arc<[TokenId]>) -> Result<Option<Penalties>, Rejected> {
    let (presence, frequency) = (request.presence_penalty, request.frequency_penalty);
    let given = [("presence_penalty", presence), ("frequency_penalty", frequency)];
    if let Some((param, value)) = given.iter().find(|(_, value)| !(-PENALTY_MAX..=PENALTY_MAX).contains(value)) {
        return Err(invalid(param, format!("{param} is {value}; give a number from -{PENALTY_MAX} to {PENALTY_MAX}")));
    }
    let repetition = request.repetition_penalty;
    if !REPETITION.contains(&repetition) {
        let (least, most) = (REPETITION.start(), REPETITION.end());
        let message = format!("repetition_penalty is {repetition}; give a number from {least} to {most}, 1 for none");
        return Err(invalid("repetition_penalty", message));
    }
    let penalties = Penalties { presence, frequency, repetition, exempt: Arc::clone(ends) };
    Ok(penalties.has_effect().then_some(penalties))
}

/// Which tokens may be drawn.
pub(super) fn filter(request: &Request) -> Result<Filter, Rejected> {
    let top_k = request.top_k.map(|top_k| count("top_k", top_k)).transpose()?;
    let share = |param, given: Option<f32>| given.map(|given| probability(param, given)).transpose();
    let top_p = share("top_p", request.top_p)?.map(Probability::get);
    let min_p = share("min_p", request.min_p)?.map(Probability::get);
    // the smallest set of tokens, as in OpenAI's API, has one token
    let top_k = if top_p == Some(0.0) { Some(NonZeroU32::MIN) } else { top_k };
    Ok(Filter {
        top_k,
        top_p: top_p.filter(|top_p| *top_p > 0.0 && *top_p < 1.0),
        min_p: min_p.filter(|min_p| *min_p > 0.0),
    })
}

pub(super) fn refill_temperature(request: &Request) -> f32 {
    let asked = request.proofreading.as_ref().and_then(|proofreading| proofreading.temperature);
    asked.unwrap_or(request.temperature)
}

pub(super) fn check_sampling(request: &Request) -> Result<(), Rejected> {
    if !(0.0..=CFG_SCALE_MAX).contains(&request.cfg_scale) {
        let message = format!("cfg_scale is {}; give a number from 0 to {CFG_SCALE_MAX}", request.cfg_scale);
        return Err(invalid("diffusion.cfg_scale", message));
    }
    // any finite temperature is multiplied and divided in f64 without an overflow
    let fields =
        [("temperature", request.temperature), ("diffusion.proofreading.temperature", refill_temperature(request))];
    let invalid_field = fields.into_iter().find(|(_, value)| !value.is_finite() || *value < 0.0);
    let Some((param, value)) = invalid_field else { return Ok(()) };
    Err(invalid(param, format!("{} is {value}; give a number from 0 to 3.4e38", last_name(param))))
}

pub(super) fn probability(param: &'static str, value: f32) -> Result<Probability, Rejected> {
    Probability::new(value)
        .ok_or_else(|| invalid(param, format!("{} is {value}; give a number from 0 to 1", last_name(param))))
}

pub(super) fn count(param: &'static str, value: u32) -> Result<NonZeroU32, Rejected> {
    NonZeroU32::new(value)
        .filter(|count| count.get() <= COUNT_MAX)
        .ok_or_else(|| invalid(param, format!("{} is {value}; give 1 to {COUNT_MAX}", last_name(param))))
}

fn last_name(param: &str) -> &str {
    param.rsplit('.').next().unwrap_or(param)
}
