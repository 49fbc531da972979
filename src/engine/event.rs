//! What a request's owner hears: each step's edits, then the answer or the failure. Plain data; refuses to know how
//! it travels.

use crate::diffusion::{Cell, Edit, Position, Probability, TokenId};
use crate::model::ModelError;
use std::collections::BTreeMap;
use std::time::Duration;

/// The canvas before the first step, known as soon as a request is admitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// Cells that edits may name, in order: everything after a prompt, or a whole template.
    pub cells: Vec<Cell>,
    /// Cells before them (the prompt's). An edit's position counts these; a user's `at` does not.
    pub offset: usize,
    /// Tokens the user gave.
    pub prompt_tokens: usize,
    /// Steps planned at most, where the pace has a bound.
    pub steps_planned: Option<u32>,
}

/// One step, or several that a slow reader missed, merged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepEvent {
    /// The (last) step's number, from 0.
    pub step: u32,
    /// Blanks left on the canvas afterwards.
    pub blanks: usize,
    /// Changes, erasures first; applying them in order leads to the canvas after `step`.
    pub edits: Vec<Edit>,
    /// Text that is final now and follows what was sent before; empty for infills.
    pub text: String,
}

impl StepEvent {
    /// Merges the step that follows, so that applying the result equals applying both: a fill that was erased again
    /// leaves nothing. At most two edits a cell remain, however many steps are merged.
    pub fn absorb(&mut self, later: Self) {
        let mut cells: BTreeMap<Position, Vec<Edit>> = BTreeMap::new();
        for edit in self.edits.drain(..).chain(later.edits) {
            let edits = cells.entry(edit.at()).or_default();
            match (edits.last(), &edit) {
                (Some(Edit::Fill { .. }), Edit::Erase { .. }) => drop(edits.pop()),
                (Some(Edit::Fill { .. } | Edit::Erase { .. }) | None, _) => edits.push(edit),
            }
        }
        self.edits = cells.into_values().flatten().collect();
        self.edits.sort_by_key(|edit| matches!(edit, Edit::Fill { .. }));
        self.step = later.step;
        self.blanks = later.blanks;
        self.text.push_str(&later.text);
    }
}

/// Why writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The text came to its end, a stop string, or the last blank of a template.
    Stop,
    /// There was no more room.
    Length,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The text after a prompt.
    Continuation(String),
    /// A template, filled.
    Infill {
        /// The whole template.
        text: String,
        /// What was written into each run of blanks.
        gaps: Vec<String>,
    },
    /// A given text, as it stands now.
    Given(String),
}

impl Output {
    /// The whole of it.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Continuation(text) | Self::Infill { text, .. } | Self::Given(text) => text,
        }
    }
}

/// A token that was written, and what the model thinks of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Written {
    /// Where it stands.
    pub at: Position,
    /// The token.
    pub token: TokenId,
    /// Its probability when it was written.
    pub confidence: Probability,
    /// Its quality on the final canvas, if it was asked for.
    pub quality: Option<Probability>,
    /// Its probability given all other tokens of the final canvas, if that was asked for.
    pub likelihood: Option<Probability>,
}

/// Everything about a finished request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The text.
    pub output: Output,
    /// Why it ended.
    pub finish: Finish,
    /// The tokens written, left to right.
    pub written: Vec<Written>,
    /// Tokens the user gave.
    pub prompt_tokens: usize,
    /// Tokens of the answer: those written, up to the end of the text.
    pub completion_tokens: usize,
    /// Steps taken.
    pub steps: u32,
    /// Forward passes this request took part in.
    pub forward_passes: u32,
    /// Fills made.
    pub filled: u32,
    /// Erasures made.
    pub erased: u32,
    /// Whether steps were given up to meet the deadline.
    pub degraded: bool,
    /// Text that was held back until the end, following what the steps brought.
    pub tail: String,
}

/// Why an admitted request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The forward pass failed.
    #[error("{0}")]
    Model(#[from] ModelError),
    /// The deadline came before the request's turn.
    #[error("the deadline of {} ms came before this request's turn; give it longer, or try when fewer are waiting", deadline.as_millis())]
    TooLate {
        /// What was asked for.
        deadline: Duration,
    },
    /// A bug of the engine's.
    #[error("the server made a mistake while it worked on this request and others; its log says more. Ask again")]
    BrokeDown,
    /// The server stopped before the answer was ready.
    #[error("the server shut down before this answer was ready")]
    ShutDown,
}

/// What a request's owner hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The canvas changed.
    Step(StepEvent),
    /// The last event: the answer.
    Finished(Box<Answer>),
    /// The last event: there is no answer.
    Failed(Failure),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::Canvas;
    use proptest::prelude::*;

    fn step(step: u32, edits: Vec<Edit>) -> StepEvent {
        StepEvent { step, blanks: 0, edits, text: format!("{step}") }
    }

    proptest! {
        #[test]
        fn merged_steps_lead_to_the_same_canvas(script in prop::collection::vec((0u32..5, 0u32..9), 0..60)) {
            let start = Canvas::continuing(&[], 5);
            let mut canvas = start.clone();
            let mut merged = StepEvent::default();
            for (number, (at, token)) in script.into_iter().enumerate() {
                let at = Position(at);
                let edit = match canvas.cells()[at.index()].token() {
                    Some(was) => Edit::Erase { at, was, quality: None },
                    None => Edit::Fill { at, token: TokenId(token), confidence: Probability::ONE },
                };
                canvas.apply(&edit).unwrap();
                merged.absorb(step(u32::try_from(number).unwrap(), vec![edit]));
            }
            let mut replayed = start;
            for edit in &merged.edits {
                replayed.apply(edit).unwrap();
            }
            prop_assert_eq!(replayed, canvas);
            prop_assert!(merged.edits.len() <= 10);
        }
    }
}
