//! Turns a request into a job: fills in every default and checks every limit, once for all
//! protocols. Out of scope: running the job.

mod beginning;
mod canvas;
mod encoding;
mod json_layout;
mod passes;
mod presets;
mod rules;
mod spellings;
mod under_load;
mod values;

pub(crate) use canvas::STOPS_MAX;
pub(crate) use presets::{FIELDS, Preset, Presets};

use super::biases::Biases;
use super::event::Start;
use super::job::{Job, Options};
use super::request::{EndOfText, Format, Rejected, Request, Task, invalid};
use crate::diffusion::policy::{Kind, Rule};
use crate::diffusion::{Cell, Seed, Sequence, TokenId, TokenSet, u32_of};
use crate::model::{Change, ModelSpec};
use crate::text::{Conversation, Tokenizer};
use canvas::{CanvasBuilder, Common};
use presets::check_tasks;
use rules::{HEADLESS, NO_HEAD, REPAIR, Rules, UNMASKING, checked, order, proofread};
use std::hash::{BuildHasher, RandomState};
use std::{num::NonZeroU32, sync::Arc, time::Duration};
use under_load::{fewer_steps, less_proofreading};
use values::{check_sampling, filter, penalties, refill_temperature};

/// Largest absolute value of a logit bias, as in OpenAI's API.
const BIAS_MAX: f32 = 100.0;
/// What requests are checked against.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    pub(super) spec: Arc<ModelSpec>,
    canvases: CanvasBuilder,
    /// The tokens that may be judged, erased and replaced; `None` is all.
    judged: Option<TokenSet>,
    pub(super) presets: Arc<Presets>,
    /// Most tokens of a pass.
    batch_tokens_max: usize,
}

impl Admission {
    /// `canvas_max`: most cells of a canvas, at most the model's own limit. `batch_tokens_max`:
    /// most tokens of a pass.
    pub(super) fn new(
        spec: Arc<ModelSpec>,
        tokenizer: Option<Arc<Tokenizer>>,
        canvas_max: usize,
        batch_tokens_max: usize,
    ) -> Self {
        let canvases = CanvasBuilder::new(Arc::clone(&spec), tokenizer, canvas_max);
        let judged = spec.judged.clone().or_else(|| not_special(&canvases));
        Self { canvases, spec, judged, presets: Arc::default(), batch_tokens_max }
    }

    /// The tokens that may be judged, erased and replaced; `None` is all.
    pub(super) const fn judged(&self) -> Option<&TokenSet> {
        self.judged.as_ref()
    }

    pub(super) const fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.canvases.tokenizer.as_ref()
    }

    /// The ids of a conversation that the chat template makes `most` bytes of at most.
    ///
    /// # Errors
    /// When it is empty or too long, or the model's chat template has no place for it.
    pub(super) fn encode_chat(&self, conversation: &Conversation, most: usize) -> Result<Vec<TokenId>, Rejected> {
        self.canvases.encode_chat(conversation, most)
    }

    /// Why no request can ask for a rule; `None` where some can.
    pub(super) fn refusal(&self, rule: &Rule) -> Option<String> {
        Rules(&self.spec).refusal(rule)
    }

    /// Why no request can ask the quality head; `None` where there is one.
    pub(super) fn refusal_to_judge(&self) -> Option<&'static str> {
        (!self.spec.has_quality).then_some(HEADLESS)
    }

    pub(super) const fn canvas_max(&self) -> usize {
        self.canvases.canvas_max
    }

    /// Checks a preset with a canvas of one blank: whatever is refused there, is refused on every
    /// canvas.
    pub(super) fn check_preset(&self, preset: &Preset) -> Result<(), Rejected> {
        let (request, _) = preset.fill(Request::new(Task::InfillTokens { cells: vec![None] }));
        check_sampling(&request)?;
        let common = self.canvases.common(&request, self.biases(&request)?)?;
        self.choices(&request, &common, 1, 1.0, &mut Vec::new()).map(drop)
    }

    /// The jobs for `choices` choices of each task, all with the options of `request`, and their
    /// first canvases for the client. The first choice has the request's seed, the next one the
    /// seed behind it. `share`: the fraction of their steps that they keep, in (0, 1]; below 1 when
    /// many requests are queued.
    ///
    /// # Errors
    /// When an option is out of its range, or the model cannot serve the request.
    pub(super) fn admit(
        &self,
        request: Request,
        tasks: Vec<Task>,
        choices: usize,
        share: f32,
    ) -> Result<Vec<(Job, Start)>, Rejected> {
        check_tasks(&request, &tasks)?;
        let (request, taken) = self.presets.fill(request)?;
        let jobs = self.admit_filled(request, tasks, choices, share);
        match taken {
            Some(taken) => jobs.map_err(|rejected| taken.explain(rejected)),
            None => jobs,
        }
    }

    /// The same for a request that names no preset.
    fn admit_filled(
        &self,
        mut request: Request,
        tasks: Vec<Task>,
        choices: usize,
        share: f32,
    ) -> Result<Vec<(Job, Start)>, Rejected> {
        check_sampling(&request)?;
        if request.deadline == Some(Duration::ZERO) {
            return Err(invalid("diffusion.deadline_ms", "deadline_ms is 0; give at least 1"));
        }
        let common = self.canvases.common(&request, self.biases(&request)?)?;
        tracing::info!(target: "remask::texts", ?tasks, "asked");
        let (mut jobs, mut passes) = (Vec::new(), 0);
        for task in tasks {
            request.task = task;
            let each = self.choices(&request, &common, choices, share, &mut jobs)?;
            passes += each.saturating_mul(choices as u64);
            passes::check_all(passes, choices)?;
        }
        Ok(jobs)
    }

    /// Adds the jobs for one task. Returns the passes that each of them may take.
    fn choices(
        &self,
        request: &Request,
        common: &Common,
        choices: usize,
        share: f32,
        jobs: &mut Vec<(Job, Start)>,
    ) -> Result<u64, Rejected> {
        let draft = self.canvases.draft(request, common)?;
        if request.format != Format::Text && !matches!(request.task, Task::Continue { .. }) {
            const MESSAGE: &str = "response_format does not go with a template, a suffix or a given text";
            return Err(invalid("response_format", MESSAGE));
        }
        let blanks = draft.canvas.blanks(0..draft.canvas.len()).count();
        let (before, cells) = draft.canvas.cells().split_at(draft.offset);
        let before = if draft.offset == 0 { cells } else { before };
        let fixed = before.iter().map_while(|cell| match cell {
            Cell::Fixed(token) => Some(*token),
            Cell::Filled(_) | Cell::Blank => None,
        });
        let (prompt, cells) = (fixed.collect::<Arc<[_]>>(), cells.to_vec());
        let seed = Seed(0); // each choice has its own
        let sequence = match &request.task {
            Task::Repair { .. } => {
                let mut asked = request.proofreading.clone().unwrap_or_default();
                if let (None, None, Some(own)) = (asked.below, asked.most, self.spec.defaults.repair) {
                    (asked.below, asked.most) = (Some(own.below.get()), own.worst.map(NonZeroU32::get));
                }
                let proofreading = less_proofreading(proofread(&asked, u32_of(cells.len()), REPAIR)?, share);
                let order = checked(UNMASKING, Kind::Order, order(request), u32_of(cells.len()))?;
                Sequence::proofread(draft.canvas, order, proofreading, seed)
            }
            _ => {
                let rules = Rules(&self.spec);
                let policy = rules.policy(request, blanks)?;
                passes::of_step(&policy, cells.len(), blanks, self.batch_tokens_max)?;
                passes::of_distributions(&policy, blanks, self.spec.vocabulary)?;
                let cache = rules.cache(request, &policy)?;
                Sequence::new(draft.canvas, fewer_steps(policy, cells.len(), share), seed)
                    .map_err(|error| invalid("diffusion.steps", error.to_string()))?
                    .caching(cache, rules.blocks())
            }
        };
        if request.return_quality && !self.spec.has_quality {
            return Err(invalid("diffusion.return_quality", format!("return_quality {NO_HEAD} the answer without it")));
        }
        let start = Start {
            cells,
            offset: draft.offset,
            prompt,
            prompt_tokens: draft.prompt_tokens,
            steps_planned: sequence.steps_max(),
            ends: draft.writing.ends(),
        };
        let sequence = sequence.judging(self.judged.clone());
        let is_scored = matches!(request.task, Task::Score { .. });
        let sequence = match request.end_of_text.unwrap_or_default() {
            EndOfText::Free | EndOfText::Never => sequence,
            EndOfText::Last => sequence.postponing(self.canvases.ends()),
        };
        let options = Options {
            temperature: request.temperature,
            refill_temperature: refill_temperature(request),
            guidance: (request.cfg_scale != 0.0).then_some(request.cfg_scale),
            filter: filter(request)?,
            biases: Biases::new(Arc::clone(&common.biases), penalties(request, &common.ends)?),
            priority: request.priority,
            origin: common.origin,
            deadline: request.deadline,
            quality: request.return_quality || (is_scored && self.spec.has_quality),
            likelihood: matches!(request.task, Task::Score { likelihood: true, .. }),
            degraded: share < 1.0 && start.steps_planned.is_some_and(|steps| steps > 0),
        };
        let measured = if options.likelihood { start.cells.len() as u64 } else { 0 };
        let passes = passes::of_choice(request, sequence.passes(), measured + u64::from(options.quality))?;
        jobs.extend((0..choices as u64).map(|choice| {
            let seed = Seed(request.seed.map_or_else(fresh_seed, |seed| seed.wrapping_add(choice)));
            let job = Job::new(sequence.clone().seeded(seed), draft.writing.clone(), &start, options.clone());
            (job, start.clone())
        }));
        Ok(passes)
    }

    fn biases(&self, request: &Request) -> Result<Arc<[(TokenId, Change)]>, Rejected> {
        const PARAM: &str = "logit_bias";
        let mut biases = request.logit_bias.clone();
        self.canvases.check_ids(PARAM, &biases.iter().map(|(token, _)| *token).collect::<Vec<_>>())?;
        if let Some((TokenId(id), bias)) = biases.iter().find(|(_, bias)| !(-BIAS_MAX..=BIAS_MAX).contains(bias)) {
            let message = format!("logit_bias of token {id} is {bias}; give -{BIAS_MAX} to {BIAS_MAX}");
            return Err(invalid(PARAM, message));
        }
        biases.sort_unstable_by_key(|(token, _)| *token);
        // each is added to each row of logits: no more of them than a row has
        if let Some(twice) = biases.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let TokenId(id) = twice[0].0;
            return Err(invalid(PARAM, format!("logit_bias has token {id} twice; give each token once")));
        }
        if request.end_of_text == Some(EndOfText::Never) {
            biases.extend(self.canvases.ends().into_iter().map(|end| (end, f32::NEG_INFINITY)));
        }
        Ok(biases.into_iter().map(|(token, bias)| (token, Change::Add(bias))).collect())
    }
}

/// The tokens that a head is taken to judge whose file does not say: all but the special ones, of
/// which those that end a text are masked in training like any other.
fn not_special(canvases: &CanvasBuilder) -> Option<TokenSet> {
    let ends = canvases.ends();
    let special = canvases.tokenizer.as_ref()?.special_ids().filter(|id| !ends.contains(id));
    Some(special.collect::<TokenSet>().complement())
}

/// A random seed, for a request that names none: the keys of std's hashers are random.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::request::{Length, Prompt};
    use crate::engine::writing::Writing;
    use crate::model::{Denoiser, Toy};

    #[test]
    fn choices_share_what_they_have_in_common() {
        let tokenizer = Tokenizer::from_bytes(include_bytes!("../../../models/toy/tokenizer.json")).unwrap();
        let admission = Admission::new(Arc::new(Toy::new().spec().clone()), Some(Arc::new(tokenizer)), 1024, 8192);
        let task = Task::Continue { prompt: Prompt::Text("a".to_owned()), length: Length::New(4) };
        let request = Request { logit_bias: vec![(TokenId(97), 1.0)], ..Request::new(task.clone()) };
        let jobs = admission.admit(request, vec![task.clone(), task], 8, 1.0).unwrap();
        assert_eq!(jobs.len(), 16);
        let ends = |job: &Job| match job.writing() {
            Writing::Continuation { ends, .. } => Arc::clone(ends),
            other => panic!("{other:?}"),
        };
        for (job, _) in &jobs {
            assert!(Arc::ptr_eq(&job.options.biases.requested, &jobs[0].0.options.biases.requested));
            assert!(Arc::ptr_eq(&ends(job), &ends(&jobs[0].0)));
        }
    }
}
