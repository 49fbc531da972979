//! From what a user asked for to a job that can run: every default looked up, every limit checked, once for all
//! protocols. Refuses to run anything.

use super::event::Start;
use super::job::{Job, Writing};
use super::request::{self, EndOfText, Length, Prompt, Rejected, Remasking, Request, Task};
use super::template::{self, Segment};
use crate::diffusion::{
    Canvas, Cell, Pace, Policy, Probability, Proofreading, Remask, Seed, Sequence, Stretch, TokenId,
};
use crate::model::ModelSpec;
use crate::text::{Special, Tokenizer, Transcript};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;

/// Steps and erasures a request may ask for, so that no request runs for ever.
const COUNT_MAX: u32 = 65_536;
/// Stop strings of one request; each costs a search per finished block.
const STOPS_MAX: usize = 16;
/// Quality below which a token counts as doubtful where the user does not say: more likely wrong than right.
const DOUBTFUL: f32 = 0.5;

/// What requests are checked against.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    pub(super) spec: Arc<ModelSpec>,
    pub(super) tokenizer: Option<Arc<Tokenizer>>,
    /// Cells of a canvas at most: the model's limit, or the operator's if that is less.
    pub(super) canvas_max: usize,
}

/// A canvas not yet refined, and how its answer is put into words.
struct Draft {
    canvas: Canvas,
    offset: usize,
    prompt_tokens: usize,
    writing: Writing,
}

impl Admission {
    /// The job `request` stands for, and what its owner is told at once.
    pub(super) fn admit(&self, request: &Request) -> Result<(Job, Start), Rejected> {
        check_sampling(request)?;
        let draft = match &request.task {
            Task::Continue { prompt, length } => self.continuation(prompt, *length, &request.stop)?,
            Task::Infill { template, blank } => self.infill(template, blank, &request.stop)?,
            Task::InfillTokens { cells } => self.infill_tokens(cells, &request.stop)?,
        };
        let blanks = draft.canvas.blanks(0..draft.canvas.len()).count();
        let policy = self.policy(request, blanks)?;
        let seed = Seed(request.seed.unwrap_or_else(fresh_seed));
        let cells = draft.canvas.cells()[draft.offset..].to_vec();
        let sequence =
            Sequence::new(draft.canvas, policy, seed).map_err(|error| invalid("diffusion.steps", error.to_string()))?;
        if request.return_quality && !self.spec.has_quality {
            return Err(invalid("diffusion.return_quality", format!("return_quality {NO_HEAD}")));
        }
        let start = Start {
            cells,
            offset: draft.offset,
            prompt_tokens: draft.prompt_tokens,
            steps_planned: sequence.steps_max(),
        };
        let ends = self.ends();
        let (sequence, banned) = match request.end_of_text {
            EndOfText::Free => (sequence, &[][..]),
            EndOfText::Last => (sequence.postponing(ends), &[][..]),
            EndOfText::Never => (sequence, &ends[..]),
        };
        let job = Job::new(sequence, draft.writing, &start)
            .banning(banned)
            .sampled(
                [request.temperature, refill_temperature(request)],
                (request.cfg_scale != 0.0).then_some(request.cfg_scale),
            )
            .judged(request.return_quality);
        Ok((job, start))
    }

    /// The tokens that end a text: the model's own, and those that end a turn in a conversation.
    fn ends(&self) -> Vec<TokenId> {
        let mut ends = self.spec.ends.clone();
        let turns = self.tokenizer.iter().flat_map(|tokenizer| tokenizer.turn_ends());
        ends.extend(turns.filter(|end| end.0 < self.spec.vocabulary && !self.spec.ends.contains(end)));
        ends
    }

    fn continuation(&self, prompt: &Prompt, length: Length, stop: &[String]) -> Result<Draft, Rejected> {
        let prompt = match prompt {
            Prompt::Text(text) => self.encode("prompt", text)?,
            Prompt::Tokens(tokens) => tokens.clone(),
        };
        self.check_prompt(&prompt)?;
        let room = self.canvas_max - prompt.len();
        let new_tokens = match length {
            Length::Default => self.spec.defaults.new_tokens.map_or(room, |new| room.min(new.get() as usize)),
            Length::New(0) => return Err(invalid("max_tokens", "max_tokens is 0; ask for at least 1")),
            Length::New(new) if new > room => {
                let (given, limit) = (prompt.len(), self.canvas_max);
                return Err(invalid(
                    "max_tokens",
                    format!(
                        "max_tokens {new} does not fit: the prompt has {given} tokens and the canvas {limit} cells; \
                         ask for at most {room}"
                    ),
                ));
            }
            Length::New(new) => new,
            Length::Total(total) if total <= prompt.len() || total > self.canvas_max => {
                let (given, limit) = (prompt.len(), self.canvas_max);
                return Err(invalid(
                    "total_length",
                    format!("total_length {total} must be above the prompt's {given} tokens and at most {limit}"),
                ));
            }
            Length::Total(total) => total - prompt.len(),
        };
        if stop.len() > STOPS_MAX || stop.iter().any(String::is_empty) {
            return Err(invalid(
                "stop",
                format!("stop has {} strings; give at most {STOPS_MAX}, none of them empty", stop.len()),
            ));
        }
        let transcript = Transcript::new(self.tokenizer.clone(), stop.to_vec());
        Ok(Draft {
            canvas: Canvas::continuing(&prompt, new_tokens),
            offset: prompt.len(),
            prompt_tokens: prompt.len(),
            writing: Writing::Continuation { transcript, ends: self.ends() },
        })
    }

    fn infill(&self, template: &str, blank: &str, stop: &[String]) -> Result<Draft, Rejected> {
        if blank.is_empty() {
            return Err(invalid("blank", "blank is empty; say what stands for one blank cell, as \"<blank>\""));
        }
        check_no_stop(stop)?;
        let segments = template::parse(template, blank);
        if !segments.iter().any(|segment| matches!(segment, Segment::Blanks(_))) {
            return Err(invalid(
                "template",
                format!("the template holds no {blank:?}; mark each cell to fill with it, or name another \"blank\""),
            ));
        }
        let mut cells = Vec::new();
        for segment in &segments {
            match segment {
                Segment::Text(text) => {
                    cells.extend(self.encode("template", text)?.into_iter().map(Cell::Fixed));
                }
                Segment::Blanks(count) if *count > self.canvas_max => return Err(self.too_long("template", *count)),
                Segment::Blanks(count) => cells.extend(std::iter::repeat_n(Cell::Blank, *count)),
            }
            if cells.len() > self.canvas_max {
                return Err(self.too_long("template", cells.len()));
            }
        }
        let fixed = cells.iter().filter(|cell| matches!(cell, Cell::Fixed(_))).count();
        let tokenizer = self.tokenizer.clone();
        let canvas = Canvas::new(cells);
        Ok(Draft { canvas, offset: 0, prompt_tokens: fixed, writing: Writing::Infill { tokenizer, segments } })
    }

    fn infill_tokens(&self, cells: &[Option<TokenId>], stop: &[String]) -> Result<Draft, Rejected> {
        check_no_stop(stop)?;
        if cells.len() > self.canvas_max {
            return Err(self.too_long("template", cells.len()));
        }
        if !cells.iter().any(Option::is_none) {
            return Err(invalid("template", "the template holds no blank; leave at least one cell to fill"));
        }
        let fixed: Vec<TokenId> = cells.iter().copied().flatten().collect();
        self.check_ids("template", &fixed)?;
        let text = |tokens: &[TokenId]| self.tokenizer.as_ref().map(|t| t.decode(tokens)).unwrap_or_default();
        let segments = cells
            .chunk_by(|a, b| a.is_some() == b.is_some())
            .map(|run| match run.iter().copied().collect::<Option<Vec<_>>>() {
                Some(pinned) => Segment::Text(text(&pinned)),
                None => Segment::Blanks(run.len()),
            })
            .collect();
        let canvas = Canvas::new(cells.iter().map(|cell| cell.map_or(Cell::Blank, Cell::Fixed)).collect());
        let writing = Writing::Infill { tokenizer: self.tokenizer.clone(), segments };
        Ok(Draft { canvas, offset: 0, prompt_tokens: fixed.len(), writing })
    }

    fn encode(&self, param: &'static str, text: &str) -> Result<Vec<TokenId>, Rejected> {
        let Some(tokenizer) = &self.tokenizer else {
            return Err(invalid(
                param,
                "this model was loaded without a tokenizer.json; give token ids instead of text",
            ));
        };
        let tokens =
            tokenizer.encode(text, Special::AsText).map_err(|error| invalid(param, format!("{param}: {error}")))?;
        match tokens.iter().position(|&token| token == self.spec.mask) {
            Some(at) => {
                let piece = tokenizer.piece(self.spec.mask);
                Err(invalid(
                    param,
                    format!(
                        "token {at} of the {param} is the model's mask ({piece:?}), which stands for a blank; \
                         blanks are asked for with /v1/infill and \"blank\": {piece:?}"
                    ),
                ))
            }
            None => Ok(tokens),
        }
    }

    fn check_prompt(&self, prompt: &[TokenId]) -> Result<(), Rejected> {
        if prompt.is_empty() {
            return Err(invalid("prompt", "the prompt is empty; give at least one token"));
        }
        if prompt.len() >= self.canvas_max {
            return Err(self.too_long("prompt", prompt.len()));
        }
        self.check_ids("prompt", prompt)
    }

    fn check_ids(&self, param: &'static str, tokens: &[TokenId]) -> Result<(), Rejected> {
        let (vocabulary, mask) = (self.spec.vocabulary, self.spec.mask);
        match tokens.iter().enumerate().find(|(_, token)| token.0 >= vocabulary || **token == mask) {
            Some((at, token)) => Err(invalid(
                param,
                format!(
                    "token {at} of the {param} is {}; ids are below {vocabulary} and may not be the mask, {}",
                    token.0, mask.0
                ),
            )),
            None => Ok(()),
        }
    }

    fn too_long(&self, param: &'static str, given: usize) -> Rejected {
        let limit = self.canvas_max;
        let room = if param == "prompt" { ", new tokens included" } else { "" };
        invalid(param, format!("the {param} takes {given} cells; the canvas has {limit}{room}"))
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
        let proofreading = self.proofreading(request)?;
        Ok(Policy { order: request.order, pace, remask, block_length, proofreading })
    }

    /// As asked for; else the model's own habit, where the request leaves remasking to quality.
    fn proofreading(&self, request: &Request) -> Result<Option<Proofreading>, Rejected> {
        const STEPS: &str = "diffusion.proofreading.steps";
        match (&request.proofreading, &request.remasking) {
            (None, None | Some(Remasking::Quality { .. })) if self.spec.has_quality => {
                Ok(self.spec.defaults.proofreading)
            }
            (None, _) | (Some(request::Proofreading { steps: 0, .. }), _) => Ok(None),
            (Some(_), _) if !self.spec.has_quality => {
                Err(invalid("diffusion.proofreading", format!("proofreading {NO_HEAD}")))
            }
            (Some(request::Proofreading { steps: 1, .. }), _) => {
                Err(invalid(STEPS, format!("steps is 1; give 0, or 2 to {COUNT_MAX}: one to erase, one to write")))
            }
            (Some(request::Proofreading { steps, below, .. }), _) => Ok(Some(Proofreading {
                steps: at_most(STEPS, *steps)?,
                below: probability("diffusion.proofreading.below", below.unwrap_or(DOUBTFUL))?,
            })),
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

fn check_no_stop(stop: &[String]) -> Result<(), Rejected> {
    if stop.is_empty() {
        return Ok(());
    }
    Err(invalid("stop", "stop does not go with a template, which is always filled to its end"))
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

fn invalid(param: &'static str, message: impl Into<String>) -> Rejected {
    Rejected::Invalid { param, message: message.into() }
}

/// A seed for a request that names none: std's hasher keys are the process's own randomness.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(0_u8)
}
