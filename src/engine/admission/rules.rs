//! Rules: the policy and the cache of a request, checked and complete. Out of scope: canvases.

use super::values::{count, probability};
use crate::diffusion::policy::order::CONFIDENCE;
use crate::diffusion::policy::{
    COUNT_MAX, Choice, Kind, KnobError, NO_CACHE, Needs, OFF, PREFIX, QUALITY, Rule, Scoring, pace, rules,
};
use crate::diffusion::{DOUBTFUL, Pace, Policy, Proofreading};
use crate::engine::request::{self, Rejected, Request, invalid};
use crate::model::{Keeping, ModelSpec};
use std::num::{NonZeroU32, NonZeroUsize};

/// The field of orders and paces.
pub(super) const UNMASKING: &str = "diffusion.unmasking";
/// Default steps of proofreading: one per cell, at most this many.
pub(super) const PROOFREADING_MAX: u32 = 128;
/// What a model's requests may ask for.
pub(super) struct Rules<'a>(pub(super) &'a ModelSpec);

impl Rules<'_> {
    pub(super) fn policy(&self, request: &Request, blanks: usize) -> Result<Policy, Rejected> {
        let blanks = NonZeroU32::new(u32::try_from(blanks).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let block_length = match request.block_length {
            Some(0) => return Err(invalid("diffusion.block_length", "block_length is 0; give at least 1")),
            Some(length) => NonZeroU32::new(length),
            None => self.0.defaults.block_length,
        };
        let block_length = block_length.unwrap_or(NonZeroU32::MAX);
        let steps = request.steps.map(|steps| count("diffusion.steps", steps)).transpose()?;
        let per_block = block_length.min(blanks);
        let pace = match pace(&request.pace).map_err(|error| knob_fault(UNMASKING, error))? {
            None => Pace::Steps(steps.unwrap_or_else(|| self.default_steps(blanks))),
            Some(rule) => {
                Pace::Adaptive { rule: checked(UNMASKING, Kind::Pace, rule, per_block.get())?, steps_max: steps }
            }
        };
        let order = checked(UNMASKING, Kind::Order, order(request), per_block.get())?;
        let remasking = self.remasking(request.remasking, per_block)?;
        if let (Pace::Adaptive { rule, .. }, Some(_)) = (pace, remasking.hold()) {
            let message = format!(
                "hold is a part of a fixed number of steps, but {0} fills as many blanks a step as are ready; leave \
                 out hold, or {0} of unmasking",
                rule.rule.name
            );
            return Err(invalid("diffusion.remasking.hold", message));
        }
        let proofreading = self.proofreading(request, per_block.get())?;
        Ok(Policy { order, pace, remasking, block_length, proofreading })
    }

    /// The model's default, which may be made for longer answers: a block is full after one step
    /// per blank, and the budget of erasures is divided among all steps.
    fn default_steps(&self, blanks: NonZeroU32) -> NonZeroU32 {
        self.0.defaults.steps.map_or(blanks, |steps| steps.min(blanks))
    }

    /// As requested; else the model's default where remasking is by quality.
    ///
    /// `cells`: those of a block at most.
    fn proofreading(&self, request: &Request, cells: u32) -> Result<Option<Proofreading>, Rejected> {
        let by_quality = request.remasking.is_none_or(|asked| asked.rule == &QUALITY);
        let own = self.0.defaults.proofreading;
        match (&request.proofreading, by_quality) {
            (None, true) if self.0.has_quality => Ok(own),
            (None, _) | (Some(request::Proofreading { steps: Some(0), .. }), _) => Ok(None),
            (Some(_), _) if !self.0.has_quality => {
                Err(invalid("diffusion.proofreading", format!("proofreading {NO_HEAD} \"off\"")))
            }
            (Some(asked), _) => {
                let mut asked = asked.clone();
                if let (None, Some(own)) = (asked.steps, own) {
                    (asked.steps, asked.below) = (Some(own.steps), asked.below.or(Some(own.below.get())));
                }
                proofread(&asked, cells, PROOFREADING).map(Some)
            }
        }
    }

    fn remasking(&self, asked: Option<Choice>, per_block: NonZeroU32) -> Result<Choice, Rejected> {
        const FIELD: &str = "diffusion.remasking";
        let by_default = if self.0.has_quality { &QUALITY } else { &OFF };
        let asked = asked.unwrap_or(Choice::of(by_default));
        if let Some(why) = self.refusal(asked.rule) {
            let head = if why == HEADLESS { "give one with --prism-head, or " } else { "" };
            let others =
                rules(Kind::Remasking).into_iter().filter(|rule| self.refusal(rule).is_none() && *rule != &OFF);
            let others: Vec<String> = others.map(|rule| format!("{:?}", rule.name)).collect();
            let name = asked.rule.name;
            let message =
                format!("remasking by {name} {why}; {head}ask for remasking {} or \"off\"", others.join(", "));
            return Err(invalid(FIELD, message));
        }
        checked(FIELD, Kind::Remasking, asked, per_block.get())
    }

    /// Why no request to this model can ask for a rule, in words that follow the rule's name;
    /// `None` where some can.
    pub(super) fn refusal(&self, rule: &Rule) -> Option<String> {
        let Needs { quality, score, .. } = rule.needs;
        let keeps = rule.kind == Kind::Cache && *rule != NO_CACHE;
        if keeps && self.0.keeping == Keeping::No {
            let family = &self.0.family;
            return Some(format!("keeps keys and values, which a model of the family {family:?} does not"));
        }
        if score == Some(Scoring::Quality) {
            let is_met = self.0.judges_blanks;
            return (!is_met).then(|| "needs a model that judges blanks as well as tokens, as RemeDi does".to_owned());
        }
        (quality && !self.0.has_quality).then(|| HEADLESS.to_owned())
    }

    /// The length of the blocks of a block-causal model.
    pub(super) const fn blocks(&self) -> Option<NonZeroUsize> {
        match self.0.keeping {
            Keeping::Exact(length) => Some(length),
            Keeping::Approximate | Keeping::No => None,
        }
    }

    /// As requested; else none, or what lies before the block where keeping that changes nothing.
    pub(super) fn cache(&self, request: &Request, policy: &Policy) -> Result<Choice, Rejected> {
        const FIELD: &str = "diffusion.cache";
        let needs = policy.needs();
        let remasking = policy.remasking.rule.name;
        // rows in which something else is blank, or filled, than on the canvas
        let others = match (needs.exact, needs.corrected) {
            (true, _) => Some("reads a row for each filled cell"),
            (_, true) => Some("reads a working copy of the canvas"),
            (false, false) => None,
        };
        let is_exact = matches!(self.0.keeping, Keeping::Exact(_)) && others.is_none();
        let asked = request.cache.unwrap_or(Choice::of(if is_exact { &PREFIX } else { &NO_CACHE }));
        let choice = checked(FIELD, Kind::Cache, asked, 1)?;
        let name = asked.rule.name;
        let refuse = |why: String| Err(invalid(FIELD, format!("cache {name:?} {why}")));
        match (self.refusal(asked.rule), others) {
            (Some(why), _) if self.0.keeping == Keeping::No => refuse(format!("{why}; give \"off\"")),
            (Some(why), _) => {
                let others = rules(Kind::Cache).into_iter().filter(|rule| self.refusal(rule).is_none());
                let others: Vec<String> = others.map(|rule| format!("{:?}", rule.name)).collect();
                refuse(format!("{why}; give one with --prism-head, or one of the caches {}", others.join(", ")))
            }
            (None, Some(why)) if asked.rule != &NO_CACHE => {
                refuse(format!("does not go with the remasking {remasking:?}, which {why}; give \"off\""))
            }
            (None, _) => Ok(choice),
        }
    }
}

/// The order of a request, by confidence unless it says another.
pub(super) fn order(request: &Request) -> Choice {
    request.order.unwrap_or(Choice::of(&CONFIDENCE))
}

/// A rule as it runs: its knobs checked, others at their defaults for blocks of `blanks` blanks.
pub(super) fn checked(field: &'static str, kind: Kind, asked: Choice, blanks: u32) -> Result<Choice, Rejected> {
    if asked.rule.kind != kind {
        let names: Vec<_> = rules(kind).iter().map(|rule| rule.name).collect();
        let message = format!("{:?} is no {kind}; give one of {}", asked.rule.name, names.join(", "));
        return Err(invalid(field, message));
    }
    asked.check().map_err(|error| knob_fault(field, error))?;
    Ok(asked.with_defaults(blanks))
}

pub(super) fn knob_fault(field: &'static str, KnobError { knob, message }: KnobError) -> Rejected {
    Rejected::Invalid { param: format!("{field}.{knob}").into(), message }
}

/// Why a request is refused that needs a quality head.
pub(super) const HEADLESS: &str = "needs a quality head, which this model does not have";
/// The same in one. What else the request may ask for follows.
pub(super) const NO_HEAD: &str =
    "needs a quality head, which this model does not have; give one with --prism-head, or ask for";

/// Names of the request fields for `steps`, `below` and `most` of a proofreading.
pub(super) type Names = [&'static str; 3];
pub(super) const PROOFREADING: Names =
    ["diffusion.proofreading.steps", "diffusion.proofreading.below", "diffusion.proofreading.most"];
pub(super) const REPAIR: Names = ["steps", "below", "worst"];

/// A proofreading of `cells` cells, as requested.
pub(super) fn proofread(
    asked: &request::Proofreading,
    cells: u32,
    [steps, below, most]: Names,
) -> Result<Proofreading, Rejected> {
    let given = asked.steps.unwrap_or(cells.clamp(2, PROOFREADING_MAX));
    if !(2..=COUNT_MAX).contains(&given) {
        let off = if steps == REPAIR[0] { "" } else { "0, or " };
        let message = format!("steps is {given}; give {off}2 to {COUNT_MAX}: one to erase, one to write");
        return Err(invalid(steps, message));
    }
    Ok(Proofreading {
        steps: given,
        below: probability(below, asked.below.unwrap_or(DOUBTFUL))?,
        most: asked.most.map(|given| count(most, given)).transpose()?,
    })
}
