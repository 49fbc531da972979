//! The scripted readings of a story, and its drawing. Out of scope: which cells are right to fill
//! or erase.

use remask::diffusion::{
    Best, Canvas, Cell, Edit, Policy, Position, Probability, Proposal, Reading, Review, Seed, Sequence, TokenId,
};

/// A word written in place of the right one.
pub(super) struct Slip {
    step: u32,
    at: usize,
    word: &'static str,
    /// Of the cell while the word stands there, in tenths.
    quality: u8,
}

/// In step `step`, `word` is proposed for cell `at`. While it stands there, its quality is
/// `quality` tenths.
pub(super) fn slip(step: u32, at: usize, word: &'static str, quality: u8) -> Slip {
    Slip { step, at, word, quality }
}

/// The readings of a story: the right words, `[pinned]` ones fixed from the start, and a confidence
/// for each in tenths. In a filled cell, too, the right word is the most probable one.
pub(super) struct Script {
    words: &'static str,
    confidence: &'static str,
    slips: Vec<Slip>,
    /// Steps after which the sequence is stopped.
    stop_after: Option<u32>,
}

pub(super) fn script<const N: usize>(words: &'static str, confidence: &'static str, slips: [Slip; N]) -> Script {
    Script { words, confidence, slips: slips.into(), stop_after: None }
}

/// Quality of a right word.
const RIGHT: u8 = 8;

pub(super) fn tenths(number: u8) -> Probability {
    Probability::new(f32::from(number) / 10.0).unwrap()
}

impl Script {
    pub(super) fn stopped_after(self, steps: u32) -> Self {
        Self { stop_after: Some(steps), ..self }
    }

    fn words(&self) -> Vec<&'static str> {
        self.words.split(' ').map(|word| word.trim_matches(['[', ']'])).collect()
    }

    /// The right words in their places, then the slips; ids are positions in this list.
    fn vocabulary(&self) -> Vec<&'static str> {
        self.words().into_iter().chain(self.slips.iter().map(|slip| slip.word)).collect()
    }

    fn id(&self, word: &str) -> TokenId {
        TokenId(u32::try_from(self.vocabulary().iter().position(|known| *known == word).unwrap()).unwrap())
    }

    fn canvas(&self) -> Canvas {
        let cell = |word: &str| match word.strip_prefix('[') {
            Some(pinned) => Cell::Fixed(self.id(pinned.trim_end_matches(']'))),
            None => Cell::Blank,
        };
        Canvas::new(self.words.split(' ').map(cell).collect())
    }

    fn read(&self, sequence: &Sequence) -> Reading {
        let (canvas, window) = (sequence.canvas(), sequence.window().unwrap());
        let confidences: Vec<u8> = self.confidence.split(' ').map(|tenths| tenths.parse().unwrap()).collect();
        let propose = |at: Position| {
            let slip = self.slips.iter().find(|slip| slip.at == at.index() && slip.step == sequence.step());
            let token = self.id(slip.map_or(self.words()[at.index()], |slip| slip.word));
            let confidence = tenths(confidences[at.index()]);
            Proposal { at, token, confidence, margin: confidence, entropy: 1.0 - confidence.get() }
        };
        let review = |(at, token): (Position, TokenId)| {
            let slip = self.slips.iter().find(|slip| slip.at == at.index() && self.id(slip.word) == token);
            Review { at, quality: tenths(slip.map_or(RIGHT, |slip| slip.quality)) }
        };
        let best = |(at, _): (Position, TokenId)| {
            let (token, confidence) = (self.id(self.words()[at.index()]), tenths(confidences[at.index()]));
            Best { at, token, confidence }
        };
        Reading {
            proposals: canvas.blanks(window.clone()).map(propose).collect(),
            reviews: canvas.filled(window.clone()).map(review).collect(),
            best: canvas.filled(window).map(best).collect(),
            ..Reading::default()
        }
    }

    fn draw_canvas(&self, canvas: &Canvas) -> String {
        let word = |cell: &Cell| cell.token().map_or("___", |token| self.vocabulary()[token.0 as usize]);
        canvas.cells().iter().map(word).collect::<Vec<_>>().join(" ")
    }

    fn draw_edit(&self, edit: &Edit) -> String {
        match edit {
            Edit::Fill { token, .. } => format!("+{}", self.vocabulary()[token.0 as usize]),
            Edit::Erase { was, .. } => format!("-{}", self.vocabulary()[was.0 as usize]),
            Edit::Replace { was, token, .. } => {
                format!("{}>{}", self.vocabulary()[was.0 as usize], self.vocabulary()[token.0 as usize])
            }
        }
    }
}

/// Runs the script and compares it with the drawing: one line per step with the canvas and, after a
/// colon, its edits. `|` ends a step that finished a block.
#[track_caller]
pub(super) fn check(script: &Script, policy: Policy, drawn: &str) {
    let mut sequence = Sequence::new(script.canvas(), policy, Seed(1)).unwrap();
    let mut lines = Vec::new();
    while sequence.window().is_some() {
        let canvas = script.draw_canvas(sequence.canvas());
        let outcome = sequence.advance(&script.read(&sequence)).unwrap();
        assert_eq!(outcome.step as usize, lines.len());
        let mut edits: Vec<String> = outcome.edits.iter().map(|edit| script.draw_edit(edit)).collect();
        edits.extend(outcome.finished.map(|_| "|".to_owned()));
        lines.push(format!("{canvas}: {}", edits.join(" ")));
        if script.stop_after == Some(sequence.step()) {
            sequence.stop();
        }
    }
    lines.push(script.draw_canvas(sequence.canvas()));
    let drawn: Vec<&str> = drawn.trim().lines().map(str::trim).collect();
    assert!(lines == drawn, "\nfound:\n{}\ndrawn:\n{}", lines.join("\n"), drawn.join("\n"));
}
