//! What callers get to read: the engine's words in OpenAI's shapes, the `diffusion` object beside them. Refuses to
//! know whether it travels whole or in pieces.

use crate::diffusion::{Cell, Edit, Probability, TokenId};
use crate::engine::{Answer, Finish, Start, StepEvent};
use crate::text::Tokenizer;
use serde::Serialize;
use utoipa::ToSchema;

/// Tokens, as they are billed elsewhere.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    /// Of some answers, as many for each prompt as `choices`; a prompt counts once.
    pub(crate) fn of(answers: &[Answer], choices: usize) -> Self {
        let prompt_tokens = answers.iter().map(|answer| answer.prompt_tokens).sum::<usize>() / choices.max(1);
        let completion_tokens = answers.iter().map(|answer| answer.completion_tokens).sum();
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

/// What the refinement took.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = Refinement)]
pub(crate) struct Summary {
    steps: u32,
    /// Passes of the model, which may be more than steps.
    forward_passes: u32,
    /// Cells filled, those erased before included.
    filled: u32,
    /// Cells erased.
    erased: u32,
    /// Steps were given up, so that the answer was there in time.
    degraded: bool,
}

impl Summary {
    /// Of some answers together: the most steps that one took, the sum of all else.
    pub(crate) fn of(answers: &[Answer]) -> Self {
        let sum = |count: fn(&Answer) -> u32| answers.iter().map(count).sum();
        Self {
            steps: answers.iter().map(|answer| answer.steps).max().unwrap_or(0),
            forward_passes: sum(|answer| answer.forward_passes),
            filled: sum(|answer| answer.filled),
            erased: sum(|answer| answer.erased),
            degraded: answers.iter().any(|answer| answer.degraded),
        }
    }
}

/// What the model thinks of each token of the answer, left to right.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct Quality {
    tokens: Vec<Option<String>>,
    token_ids: Vec<u32>,
    confidence: Vec<f32>,
    quality: Vec<Option<f32>>,
}

impl Quality {
    /// `None` where nobody asked: then no token has a quality.
    pub(crate) fn of(answer: &Answer, words: Words<'_>) -> Option<Self> {
        let written = &answer.written[..answer.completion_tokens.min(answer.written.len())];
        written.iter().any(|token| token.quality.is_some()).then(|| Self {
            tokens: written.iter().map(|written| words.piece(written.token)).collect(),
            token_ids: written.iter().map(|written| written.token.0).collect(),
            confidence: written.iter().map(|written| written.confidence.get()).collect(),
            quality: written.iter().map(|written| written.quality.map(Probability::get)).collect(),
        })
    }
}

/// Why an answer ends where it does.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FinishReason {
    /// It has come to its end.
    Stop,
    /// There was no more room.
    Length,
}

impl From<Finish> for FinishReason {
    fn from(finish: Finish) -> Self {
        match finish {
            Finish::Stop => Self::Stop,
            Finish::Length => Self::Length,
        }
    }
}

/// How tokens are put into words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words<'a>(pub(crate) Option<&'a Tokenizer>);

impl Words<'_> {
    /// The text of one token; `None` where the model has no tokenizer.
    pub(crate) fn piece(self, token: TokenId) -> Option<String> {
        self.0.map(|tokenizer| tokenizer.piece(token))
    }

    /// The text of some tokens; empty where the model has no tokenizer.
    pub(crate) fn text(self, tokens: &[TokenId]) -> String {
        self.0.map(|tokenizer| tokenizer.decode(tokens)).unwrap_or_default()
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
        confidence: f32,
    },
    Erase {
        at: usize,
        was: u32,
        #[schema(required)]
        quality: Option<f32>,
    },
}

impl EditObject {
    fn new(edit: &Edit, offset: usize, words: Words<'_>) -> Self {
        let at = edit.at().index() - offset;
        match edit {
            Edit::Fill { token, confidence, .. } => {
                Self::Fill { at, token: token.0, text: words.piece(*token), confidence: confidence.get() }
            }
            Edit::Erase { was, quality, .. } => Self::Erase { at, was: was.0, quality: quality.map(Probability::get) },
        }
    }
}

/// One step, or several that a slow reader missed, merged.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Step)]
pub(crate) struct StepObject {
    /// Of which choice.
    index: usize,
    step: u32,
    #[schema(required)]
    steps_planned: Option<u32>,
    /// Cells still blank.
    blanks: usize,
    /// `at` counts cells after the prompt.
    edits: Vec<EditObject>,
    /// Cells after the prompt; told once, with a choice's first step.
    #[serde(skip_serializing_if = "Option::is_none")]
    canvas_length: Option<usize>,
}

impl StepObject {
    /// `step` of a choice's canvas that began as `start`.
    pub(crate) fn new(index: usize, step: &StepEvent, start: &Start, words: Words<'_>) -> Self {
        Self {
            index,
            step: step.step,
            steps_planned: start.steps_planned,
            blanks: step.blanks,
            edits: step.edits.iter().map(|edit| EditObject::new(edit, start.offset, words)).collect(),
            canvas_length: None,
        }
    }

    /// The same, telling the canvas's length too.
    pub(crate) fn with_canvas(self, start: &Start) -> Self {
        Self { canvas_length: Some(start.cells.len()), ..self }
    }
}

/// The canvas before the first step.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Start)]
pub(crate) struct StartObject {
    canvas_length: usize,
    pinned: Vec<Pinned>,
}

/// A cell the user gave.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Pinned {
    at: usize,
    token: u32,
    #[schema(required)]
    text: Option<String>,
}

impl StartObject {
    pub(crate) fn new(start: &Start, words: Words<'_>) -> Self {
        let pinned = start.cells.iter().enumerate().filter_map(|(at, cell)| match cell {
            Cell::Fixed(token) => Some(Pinned { at, token: token.0, text: words.piece(*token) }),
            Cell::Filled(_) | Cell::Blank => None,
        });
        Self { canvas_length: start.cells.len(), pinned: pinned.collect() }
    }
}
