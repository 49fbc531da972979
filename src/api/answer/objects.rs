//! Parts of answers: qualities, finish reasons, the edits of a canvas, and what an answer cost.

use super::{Detokenizer, Spelling};
use crate::diffusion::{Cell, Edit, Probability};
use crate::engine::{Answer, Finish, Start, StepEvent};
use serde::Serialize;
use utoipa::ToSchema;

/// The model's scores of each token of the answer, left to right.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct Quality {
    tokens: Vec<Option<String>>,
    token_ids: Vec<u32>,
    confidence: Vec<f32>,
    /// `null` for tokens that the quality head was not trained to judge.
    quality: Vec<Option<f32>>,
}

impl Quality {
    /// The qualities of an answer; `None` where they were not asked for.
    pub(crate) fn of(answer: &Answer, detokenizer: Detokenizer<'_>) -> Option<Self> {
        let written = &answer.written[..answer.completion_tokens.min(answer.written.len())];
        answer.is_judged.then(|| Self {
            tokens: written.iter().map(|written| detokenizer.piece(written.token)).collect(),
            token_ids: written.iter().map(|written| written.token.0).collect(),
            confidence: written.iter().map(|written| written.confidence.get()).collect(),
            quality: written.iter().map(|written| written.quality.map(Probability::get)).collect(),
        })
    }
}

/// Why the answer ended.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FinishReason {
    /// It has come to its end.
    Stop,
    /// There was no more room.
    Length,
    /// It is a call of a tool that the model chose, or that it had to make without a name given.
    ToolCalls,
}

impl From<Finish> for FinishReason {
    fn from(finish: Finish) -> Self {
        match finish {
            Finish::Stop => Self::Stop,
            Finish::Length => Self::Length,
        }
    }
}

/// A change of one cell.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[schema(as = Edit)]
enum EditObject {
    Fill {
        at: usize,
        token: u32,
        #[schema(required)]
        text: Option<String>,
        /// Only of a token that has a part of a character: its bytes.
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<Vec<u8>>,
        confidence: f32,
    },
    Erase {
        at: usize,
        was: u32,
        #[schema(required)]
        quality: Option<f32>,
    },
    /// A filled cell got another token in one step.
    Replace {
        at: usize,
        was: u32,
        token: u32,
        #[schema(required)]
        text: Option<String>,
        /// Only of a token that has a part of a character: its bytes.
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<Vec<u8>>,
        confidence: f32,
    },
}

impl EditObject {
    fn new(edit: &Edit, offset: usize, detokenizer: Detokenizer<'_>) -> Self {
        let at = edit.at().index() - offset;
        match edit {
            Edit::Fill { token, confidence, .. } => {
                let Spelling { text, bytes } = detokenizer.spelling(*token);
                Self::Fill { at, token: token.0, text, bytes, confidence: confidence.get() }
            }
            Edit::Erase { was, quality, .. } => Self::Erase { at, was: was.0, quality: quality.map(Probability::get) },
            Edit::Replace { was, token, confidence, .. } => {
                let (was, Spelling { text, bytes }) = (was.0, detokenizer.spelling(*token));
                Self::Replace { at, was, token: token.0, text, bytes, confidence: confidence.get() }
            }
        }
    }
}

/// One step, or several that a slow reader missed, merged.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Step)]
pub(crate) struct StepObject {
    /// The index of the choice.
    index: usize,
    step: u32,
    #[schema(required)]
    steps_planned: Option<u32>,
    /// Cells still blank.
    blanks: usize,
    /// `at` counts cells after the prompt.
    edits: Vec<EditObject>,
    /// What erased: the name of the remasking, `proofreading`, or both where steps were merged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    erased_by: Vec<&'static str>,
    /// Cells after the prompt; only in the first step of a choice of a completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    canvas_length: Option<usize>,
    /// Those of them that stay, as what a format or `suffix` gives; only there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pinned: Vec<GivenCell>,
    /// The tokens that end the answer, which is what is before the first of them; only there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ends: Vec<u32>,
}

impl StepObject {
    /// A step of choice `index`, whose canvas was `start` at first. `tells_start`: the step also
    /// says what that canvas was.
    pub(crate) fn new(
        index: usize,
        step: &StepEvent,
        start: &Start,
        tells_start: bool,
        detokenizer: Detokenizer<'_>,
    ) -> Self {
        let begun = tells_start.then(|| StartObject::new(start, detokenizer));
        let canvas_length = begun.as_ref().map(|begun| begun.canvas_length);
        let (pinned, ends) = begun.map(|begun| (begun.pinned, begun.ends)).unwrap_or_default();
        Self {
            index,
            step: step.step,
            steps_planned: start.steps_planned,
            blanks: step.blanks,
            edits: step.edits.iter().map(|edit| EditObject::new(edit, start.offset, detokenizer)).collect(),
            erased_by: step.erased_by.clone(),
            canvas_length,
            pinned,
            ends,
        }
    }
}

/// The canvas before the first step.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Start)]
pub(crate) struct StartObject {
    canvas_length: usize,
    /// The cells that stay.
    pinned: Vec<GivenCell>,
    /// The cells that are filled and may change: the text of a repair, without what is pinned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    given: Vec<GivenCell>,
    /// The tokens that end the answer, which is what is before the first of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ends: Vec<u32>,
}

/// A cell with a token of the request.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct GivenCell {
    at: usize,
    token: u32,
    #[schema(required)]
    text: Option<String>,
    /// Only of a token that has a part of a character: its bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<Vec<u8>>,
}

impl StartObject {
    pub(crate) fn new(start: &Start, detokenizer: Detokenizer<'_>) -> Self {
        let (mut pinned, mut given) = (Vec::new(), Vec::new());
        for (at, cell) in start.cells.iter().enumerate() {
            let (token, cells) = match cell {
                Cell::Fixed(token) => (token, &mut pinned),
                Cell::Filled(token) => (token, &mut given),
                Cell::Blank => continue,
            };
            let Spelling { text, bytes } = detokenizer.spelling(*token);
            cells.push(GivenCell { at, token: token.0, text, bytes });
        }
        let ends = start.ends.iter().map(|end| end.0).collect();
        Self { canvas_length: start.cells.len(), pinned, given, ends }
    }
}

/// Token counts.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    /// The usage of some answers, `choices` for each prompt. A prompt counts once.
    pub(crate) fn of(answers: &[Answer], choices: usize) -> Self {
        let prompt_tokens = answers.iter().map(|answer| answer.prompt_tokens).sum::<usize>() / choices.max(1);
        let completion_tokens = answers.iter().map(|answer| answer.completion_tokens).sum();
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

/// Counts of the refinement.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Refinement {
    steps: u32,
    /// Forward passes; may be more than `steps`.
    forward_passes: u32,
    /// Tokens that these passes computed: fewer with a cache.
    forward_tokens: u64,
    /// Cells filled, refills included.
    filled: u32,
    /// Cells erased.
    erased: u32,
    /// Filled cells that got another token without being erased.
    replaced: u32,
    /// True if steps were dropped to meet the deadline.
    degraded: bool,
}

impl Refinement {
    /// The most steps of one answer, and the sums of the other counts.
    pub(crate) fn of(answers: &[Answer]) -> Self {
        let sum = |count: fn(&Answer) -> u32| answers.iter().map(count).sum();
        Self {
            steps: answers.iter().map(|answer| answer.steps).max().unwrap_or(0),
            forward_passes: sum(|answer| answer.forward_passes),
            forward_tokens: answers.iter().map(|answer| answer.forward_tokens).sum(),
            filled: sum(|answer| answer.filled),
            erased: sum(|answer| answer.erased),
            replaced: sum(|answer| answer.replaced),
            degraded: answers.iter().any(|answer| answer.degraded),
        }
    }
}
