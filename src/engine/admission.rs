//! From what a user asked for to a job that can run: every default looked up, every limit checked, once for all
//! protocols. Refuses to run anything.

use super::draft::{NO_ROOM, check_no_stop};
use super::event::Start;
use super::job::Job;
use super::request::{self, DOUBTFUL, EndOfText, Format, Rejected, Remasking, Request, Task};
use super::shape::Spellings;
use super::template::Segment;
use crate::diffusion::{Pace, Policy, Probability, Proofreading, Remask, Seed, Sequence, Stretch, TokenId};
use crate::model::{Filter, ModelSpec};
use crate::text::Tokenizer;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Steps and erasures a request may ask for, so that no request runs for ever.
const COUNT_MAX: u32 = 65_536;
/// Steps of proofreading where the user does not say, at most; else one a cell.
const PROOFREADING_MAX: u32 = 128;
/// Furthest a logit may be moved, as OpenAI has it: nearly a ban, or nearly nothing else.
const BIAS_MAX: f32 = 100.0;

/// What requests are checked against.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    pub(super) spec: Arc<ModelSpec>,
    pub(super) tokenizer: Option<Arc<Tokenizer>>,
    /// Cells of a canvas at most: the model's limit, or the operator's if that is less.
    pub(super) canvas_max: usize,
    /// Tokens that shapes need, once one has needed them.
    pub(super) spellings: Arc<OnceLock<Spellings>>,
}

impl Admission {
    /// The job `request` stands for, and what its owner is told at once. `share`: of its steps that it keeps, where more would
    /// keep others waiting.
    pub(super) fn admit(&self, request: &Request, share: f32) -> Result<(Job, Start), Rejected> {
        check_sampling(request)?;
        if request.deadline == Some(Duration::ZERO) {
            return Err(invalid("diffusion.deadline_ms", "deadline_ms is 0; give at least 1"));
        }
        let draft = match &request.task {
            Task::Continue { prompt, length } => self.continuation(prompt, *length, request)?,
            Task::Between { cells: 0, .. } => return Err(invalid("max_tokens", NO_ROOM)),
            Task::Between { before, cells, after } => {
                check_no_stop(&request.stop)?;
                let texts = [before, after].map(|text| Segment::Text(text.clone()));
                let [before, after] = texts;
                let segments = [before, Segment::Blanks(*cells), after];
                self.segments(segments.into_iter().filter(|part| *part != Segment::Text(String::new())).collect())?
            }
            Task::Infill { template, blank } => self.infill(template, blank, &request.stop)?,
            Task::InfillTokens { cells } => self.infill_tokens(cells, &request.stop)?,
            Task::Score { text, likelihood } => self.given(text, &[], !likelihood)?,
            Task::Repair { text, pinned } => self.given(text, pinned, true)?,
        };
        if request.format != Format::Text && !matches!(request.task, Task::Continue { .. }) {
            return Err(invalid(
                "response_format",
                "response_format does not go with a template, a suffix or a given text",
            ));
        }
        let blanks = draft.canvas.blanks(0..draft.canvas.len()).count();
        let seed = Seed(request.seed.unwrap_or_else(fresh_seed));
        let cells = draft.canvas.cells()[draft.offset..].to_vec();
        let sequence = match &request.task {
            Task::Repair { .. } => {
                let nothing = request::Proofreading { steps: None, below: None, most: None, temperature: None };
                let asked = request.proofreading.as_ref().unwrap_or(&nothing);
                let proofreading = proofread(asked, u32::try_from(cells.len()).unwrap_or(u32::MAX), REPAIR)?;
                let proofreading = less_reading(proofreading, share);
                Sequence::mending(draft.canvas, request.order, proofreading, seed)
            }
            _ => Sequence::new(draft.canvas, fewer_steps(self.policy(request, blanks)?, cells.len(), share), seed)
                .map_err(|error| invalid("diffusion.steps", error.to_string()))?,
        };
        if request.return_quality && !self.spec.has_quality {
            return Err(invalid("diffusion.return_quality", format!("return_quality {NO_HEAD}")));
        }
        let start = Start {
            cells,
            offset: draft.offset,
            prompt_tokens: draft.prompt_tokens,
            steps_planned: sequence.steps_max(),
        };
        let is_scored = matches!(request.task, Task::Score { .. });
        let mut biases = self.biases(&request.logit_bias)?;
        let sequence = match request.end_of_text {
            EndOfText::Free => sequence,
            EndOfText::Last => sequence.postponing(self.ends()),
            EndOfText::Never => {
                biases.extend(self.ends().into_iter().map(|end| (end, f32::NEG_INFINITY)));
                sequence
            }
        };
        let job = Job::new(sequence, draft.writing, &start)
            .steered(biases, filter(request)?)
            .sampled(
                [request.temperature, refill_temperature(request)],
                (request.cfg_scale != 0.0).then_some(request.cfg_scale),
            )
            .due(request.deadline)
            .reduced(share < 1.0 && start.steps_planned.is_some_and(|steps| steps > 0))
            .judged(request.return_quality || (is_scored && self.spec.has_quality))
            .likened(matches!(request.task, Task::Score { likelihood: true, .. }))
            .urgent(request.priority);
        Ok((job, start))
    }

    /// The tokens that end a text: the model's own, and those that end a turn in a conversation.
    pub(super) fn ends(&self) -> Vec<TokenId> {
        let mut ends = self.spec.ends.clone();
        let turns = self.tokenizer.iter().flat_map(|tokenizer| tokenizer.turn_ends());
        ends.extend(turns.filter(|end| end.0 < self.spec.vocabulary && !self.spec.ends.contains(end)));
        ends
    }

    /// Checks what is to be added to logits.
    fn biases(&self, asked: &[(TokenId, f32)]) -> Result<Vec<(TokenId, f32)>, Rejected> {
        const PARAM: &str = "logit_bias";
        self.check_ids(PARAM, &asked.iter().map(|(token, _)| *token).collect::<Vec<_>>())?;
        match asked.iter().find(|(_, bias)| !(-BIAS_MAX..=BIAS_MAX).contains(bias)) {
            None => Ok(asked.to_vec()),
            Some((token, bias)) => {
                let message = format!("logit_bias of token {} is {bias}; give -{BIAS_MAX} to {BIAS_MAX}", token.0);
                Err(invalid(PARAM, message))
            }
        }
    }

    fn policy(&self, request: &Request, blanks: usize) -> Result<Policy, Rejected> {
        let blanks = NonZeroU32::new(u32::try_from(blanks).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let block_length = match request.block_length {
            Some(0) => return Err(invalid("diffusion.block_length", "block_length is 0; give at least 1")),
            Some(length) => NonZeroU32::new(length),
            None => self.spec.defaults.block_length,
        };
        let block_length = block_length.unwrap_or(NonZeroU32::MAX);
        let steps = request.steps.map(|steps| count("diffusion.steps", steps)).transpose()?;
        let pace = match request.threshold {
            None => Pace::Steps(steps.or(self.spec.defaults.steps).unwrap_or(blanks)),
            Some(threshold) => Pace::Threshold {
                threshold: probability("diffusion.unmasking.threshold", threshold)?,
                steps_max: steps,
            },
        };
        let remask = self.remask(request.remasking.as_ref(), block_length.min(blanks))?;
        let proofreading = self.proofreading(request, blanks.get())?;
        Ok(Policy { order: request.order, pace, remask, block_length, proofreading })
    }

    /// As asked for; else the model's own habit, where the request leaves remasking to quality.
    fn proofreading(&self, request: &Request, cells: u32) -> Result<Option<Proofreading>, Rejected> {
        match (&request.proofreading, &request.remasking) {
            (None, None | Some(Remasking::Quality { .. })) if self.spec.has_quality => {
                Ok(self.spec.defaults.proofreading)
            }
            (None, _) | (Some(request::Proofreading { steps: Some(0), .. }), _) => Ok(None),
            (Some(_), _) if !self.spec.has_quality => {
                Err(invalid("diffusion.proofreading", format!("proofreading {NO_HEAD}")))
            }
            (Some(asked), _) => proofread(asked, cells, PROOFREADING).map(Some),
        }
    }

    fn remask(&self, asked: Option<&Remasking>, per_block: NonZeroU32) -> Result<Remask, Rejected> {
        const BUDGET: &str = "diffusion.remasking.budget";
        let by_default = Remasking::Quality { budget: None, below: None, window: None };
        let asked = match asked {
            None if self.spec.has_quality => &by_default,
            None => &Remasking::Off,
            Some(asked) => asked,
        };
        let budget_of = |budget: &Option<u32>| budget.map_or(Ok(per_block.get()), |budget| at_most(BUDGET, budget));
        Ok(match asked {
            Remasking::Off => Remask::Never,
            Remasking::Quality { .. } if !self.spec.has_quality => {
                return Err(invalid("diffusion.remasking", format!("remasking by quality {NO_HEAD}, or \"off\"")));
            }
            Remasking::Quality { budget, below, window } => {
                Remask::Quality { budget: budget_of(budget)?, below: bar(*below, *budget)?, window: stretch(*window)? }
            }
            Remasking::Confidence { budget, below, window } => Remask::Confidence {
                budget: budget_of(budget)?,
                below: bar(*below, *budget)?,
                window: stretch(*window)?,
            },
            Remasking::ReMdm { budget, window } => {
                Remask::ReMdm { budget: budget_of(budget)?, window: stretch(*window)? }
            }
            Remasking::Random { budget, window } => {
                Remask::Random { budget: budget_of(budget)?, window: stretch(*window)? }
            }
        })
    }
}

const NO_HEAD: &str = "needs a quality head, which this model does not have; \
                       give one with --prism-head, or ask for remasking \"confidence\", \"remdm\" or \"random\"";

/// What the fields of a proofreading are called: steps, below, most.
type Names = [&'static str; 3];
const PROOFREADING: Names =
    ["diffusion.proofreading.steps", "diffusion.proofreading.below", "diffusion.proofreading.most"];
const REPAIR: Names = ["steps", "below", "worst"];

/// A proofreading as asked for, of `cells` cells.
fn proofread(asked: &request::Proofreading, cells: u32, [steps, below, most]: Names) -> Result<Proofreading, Rejected> {
    let given = asked.steps.unwrap_or(cells.clamp(2, PROOFREADING_MAX));
    if given < 2 {
        let off = if steps == REPAIR[0] { "" } else { "0, or " };
        let message = format!("steps is {given}; give {off}2 to {COUNT_MAX}: one to erase, one to write");
        return Err(invalid(steps, message));
    }
    Ok(Proofreading {
        steps: at_most(steps, given)?,
        below: probability(below, asked.below.unwrap_or(DOUBTFUL))?,
        most: asked.most.map(|given| count(most, given)).transpose()?,
    })
}

/// A policy that keeps a share of its steps, at least one for each block of a canvas of `cells` cells.
fn fewer_steps(policy: Policy, cells: usize, share: f32) -> Policy {
    let blocks = cells.div_ceil(policy.block_length.get() as usize) + 1; // the first one may begin anywhere
    let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
    let pace = match policy.pace {
        Pace::Steps(steps) => Pace::Steps(reduced(steps, share).max(steps.min(blocks.try_into().unwrap_or(steps)))),
        Pace::Threshold { .. } => policy.pace,
    };
    let proofreading = policy.proofreading.map(|proofreading| less_reading(proofreading, share));
    Policy { pace, proofreading, ..policy }
}

fn less_reading(proofreading: Proofreading, share: f32) -> Proofreading {
    let steps = NonZeroU32::new(proofreading.steps).map_or(0, |steps| reduced(steps, share).get().max(2));
    Proofreading { steps: steps.min(proofreading.steps), ..proofreading }
}

/// A share of some steps, rounded up.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // of a number above zero, no more than it was
fn reduced(steps: NonZeroU32, share: f32) -> NonZeroU32 {
    let fewer = (f64::from(steps.get()) * f64::from(share)).ceil() as u32;
    NonZeroU32::new(fewer).map_or(steps, |fewer| fewer.min(steps))
}

/// Which tokens may be drawn.
fn filter(request: &Request) -> Result<Filter, Rejected> {
    let top_k = request.top_k.map(|top_k| count("top_k", top_k)).transpose()?;
    match request.top_p {
        Some(top_p) if !(top_p > 0.0 && top_p <= 1.0) => {
            Err(invalid("top_p", format!("top_p is {top_p}; give a number above 0 and at most 1")))
        }
        top_p => Ok(Filter { top_k, top_p: top_p.filter(|top_p| *top_p < 1.0) }),
    }
}

/// Temperature at which proofreading writes.
fn refill_temperature(request: &Request) -> f32 {
    let asked = request.proofreading.as_ref().and_then(|proofreading| proofreading.temperature);
    asked.unwrap_or(request.temperature)
}

fn check_sampling(request: &Request) -> Result<(), Rejected> {
    let fields = [
        ("temperature", request.temperature),
        ("diffusion.cfg_scale", request.cfg_scale),
        ("diffusion.proofreading.temperature", refill_temperature(request)),
    ];
    match fields.into_iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
        Some((param, value)) => {
            let name = last_name(param);
            Err(invalid(param, format!("{name} is {value}; give a finite number that is not negative")))
        }
        None => Ok(()),
    }
}

fn probability(param: &'static str, value: f32) -> Result<Probability, Rejected> {
    Probability::new(value)
        .ok_or_else(|| invalid(param, format!("{} is {value}; give a number from 0 to 1", last_name(param))))
}

/// The bar below which a cell is erased: as asked for, else one if the number of erasures is left open, too.
fn bar(below: Option<f32>, budget: Option<u32>) -> Result<Option<Probability>, Rejected> {
    let below = below.or(budget.is_none().then_some(DOUBTFUL));
    below.map(|below| probability("diffusion.remasking.below", below)).transpose()
}

fn stretch(window: Option<[f32; 2]>) -> Result<Stretch, Rejected> {
    const PARAM: &str = "diffusion.remasking.window";
    let Some([from, until]) = window else { return Ok(Stretch::WHOLE) };
    Stretch::new(probability(PARAM, from)?, probability(PARAM, until)?)
        .ok_or_else(|| invalid(PARAM, format!("window is [{from}, {until}]; its end must lie after its start")))
}

fn count(param: &'static str, value: u32) -> Result<NonZeroU32, Rejected> {
    NonZeroU32::new(at_most(param, value)?)
        .ok_or_else(|| invalid(param, format!("{} is 0; give 1 to {COUNT_MAX}", last_name(param))))
}

fn at_most(param: &'static str, value: u32) -> Result<u32, Rejected> {
    if value > COUNT_MAX {
        return Err(invalid(param, format!("{} is {value}; give at most {COUNT_MAX}", last_name(param))));
    }
    Ok(value)
}

fn last_name(param: &str) -> &str {
    param.rsplit('.').next().unwrap_or(param)
}

pub(super) fn invalid(param: &'static str, message: impl Into<String>) -> Rejected {
    Rejected::Invalid { param, message: message.into() }
}

/// A seed for a request that names none: std's hasher keys are the process's own randomness.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(0_u8)
}
