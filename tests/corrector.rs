//! Steps that correct: their passes and edits, against a second implementation on random answers,
//! and their laws when a deadline takes steps away and gives them back.

use proptest::prelude::*;
use remask::diffusion::policy::{CORRECT_EVERY, CORRECTOR_PASSES, PROSECO, THRESHOLD, order};
use remask::diffusion::{
    Best, Canvas, Cell, Choice, Draws, Edit, Pace, Policy, Position, Probability, Proposal, Purpose, Reading, Seed,
    Sequence, StepOutcome, TokenId, TokenSet,
};
use std::num::NonZeroU32;

const TOKENS: u32 = 3;

/// Tokens and probabilities for each pass and cell. They depend little on the pass, so that some
/// working copies settle.
#[derive(Clone, Debug)]
struct Answers(u64);

impl Answers {
    fn of(&self, pass: u32, at: usize, is_blank: bool) -> (TokenId, Probability) {
        let key = Seed(self.0 ^ u64::from(is_blank) << 63);
        let draw = |pass| Draws::new(key, Purpose::Token, pass, Position::at(at)).uniforms();
        let [token, is_new] = draw(pass);
        let [old, _] = draw(u32::MAX);
        let token = if is_new < 0.2 { token } else { old };
        // tenths, so that some are equal
        let tenths = (draw(pass + 1000)[1] * 11.0).floor() / 10.0;
        (TokenId((token * f64::from(TOKENS)) as u32), Probability::new(tenths as f32).unwrap())
    }

    fn proposal(&self, pass: u32, at: Position) -> Proposal {
        let (token, confidence) = self.of(pass, at.index(), true);
        Proposal { at, token, confidence, margin: confidence, entropy: 0.0 }
    }

    /// What a model says that is shown what the sequence asks for.
    fn reading(&self, sequence: &Sequence) -> Reading {
        let (window, canvas) = (sequence.window().unwrap(), sequence.canvas());
        let best = |(at, _): (Position, TokenId)| {
            let (token, confidence) = self.of(sequence.step(), at.index(), false);
            Best { at, token, confidence }
        };
        let shown = sequence.shown().unwrap_or(canvas);
        assert_eq!(shown.len(), canvas.len());
        assert!(sequence.shown().is_none() || shown.blanks(0..shown.len()).next().is_none());
        let best = shown.filled(window.clone()).filter(|_| sequence.needs().best).map(best).collect();
        let proposals = canvas.blanks(window).map(|at| self.proposal(sequence.step(), at)).collect();
        Reading { proposals, best, ..Reading::default() }
    }
}

#[derive(Clone, Debug)]
struct Case {
    answers: Answers,
    cells: Vec<Cell>,
    block: u32,
    steps: u32,
    threshold: Option<f32>,
    every: u32,
    passes: u32,
    /// A token that is never replaced, and one that replaces none.
    kept: Option<u32>,
    last: Option<u32>,
}

/// A canvas that begins with a blank and goes on with cells of any kind.
fn case() -> impl Strategy<Value = Case> {
    let token = (0..TOKENS).prop_map(TokenId);
    let cell = prop_oneof![4 => Just(Cell::Blank), 1 => token.clone().prop_map(Cell::Fixed), 1 => token.prop_map(Cell::Filled)];
    let some = || prop::option::weighted(0.3, 0..TOKENS);
    let threshold = prop::option::of((0u32..=10).prop_map(|tenths| tenths as f32 / 10.0));
    let knobs = (1u32..5, 1u32..5);
    (any::<u64>(), prop::collection::vec(cell, 0..12), 1u32..8, 0u32..9, threshold, knobs, some(), some()).prop_map(
        |(seed, cells, block, more, threshold, (every, passes), kept, last)| {
            let cells: Vec<Cell> = [Cell::Blank].into_iter().chain(cells).collect();
            let blocks = u32::try_from(cells.len()).unwrap().div_ceil(block);
            Case { answers: Answers(seed), cells, block, steps: blocks + more, threshold, every, passes, kept, last }
        },
    )
}

impl Case {
    fn sequence(&self) -> Sequence {
        let steps = NonZeroU32::new(self.steps).unwrap();
        let rule = |threshold| Choice::of(&THRESHOLD).with("threshold", threshold);
        let policy = Policy {
            order: Choice::of(&order::LEFTMOST),
            pace: match self.threshold {
                Some(threshold) => Pace::Adaptive { rule: rule(threshold), steps_max: Some(steps) },
                None => Pace::Steps(steps),
            },
            remasking: Choice::of(&PROSECO)
                .with(CORRECT_EVERY.name, self.every)
                .with(CORRECTOR_PASSES.name, self.passes),
            block_length: NonZeroU32::new(self.block).unwrap(),
            proofreading: None,
        };
        let judged = self.kept.map(|kept| std::iter::once(TokenId(kept)).collect::<TokenSet>().complement());
        let sequence = Sequence::new(Canvas::new(self.cells.clone()), policy, Seed(1)).unwrap();
        sequence.judging(judged).postponing(self.last.map(TokenId).into_iter().collect())
    }

    /// The edits of each pass, worked out by the words of the documentation.
    fn expected(&self) -> Vec<Vec<Edit>> {
        let (mut cells, mut all) = (self.cells.clone(), Vec::new());
        let blocks: Vec<usize> = (0..cells.len()).step_by(self.block as usize).collect();
        let with_blanks = |cells: &[Cell], from: usize| {
            cells[from..].iter().take(self.block as usize).any(|cell| *cell == Cell::Blank)
        };
        let blocks: Vec<usize> = blocks.into_iter().filter(|from| with_blanks(&cells, *from)).collect();
        let count = u32::try_from(blocks.len()).unwrap();
        for (number, from) in (0..).zip(blocks) {
            let end = (from + self.block as usize).min(cells.len());
            let steps = self.steps / count + u32::from(number < self.steps % count);
            for step in 1u32.. {
                let blanks: Vec<usize> = (from..end).filter(|at| cells[*at] == Cell::Blank).collect();
                if blanks.is_empty() {
                    break;
                }
                let pass = |all: &[Vec<Edit>]| u32::try_from(all.len()).unwrap();
                let mut edits = Vec::new();
                if step.is_multiple_of(self.every) {
                    let proposed = pass(&all);
                    let mut copy: Vec<TokenId> = (0..cells.len())
                        .map(|at| cells[at].token().unwrap_or_else(|| self.answers.of(proposed, at, true).0))
                        .collect();
                    all.push(Vec::new());
                    for round in 1..=self.passes {
                        let now = pass(&all);
                        let written = |at: usize| match cells[at] {
                            Cell::Fixed(token) => token,
                            Cell::Blank => self.answers.of(now, at, false).0,
                            Cell::Filled(token) if Some(token.0) == self.kept => copy[at],
                            Cell::Filled(_) => match self.answers.of(now, at, false).0 {
                                token if Some(token.0) == self.last => copy[at],
                                token => token,
                            },
                        };
                        let rewritten: Vec<TokenId> = (0..end).map(written).collect();
                        let is_settled = rewritten == copy[..end];
                        copy.splice(..end, rewritten);
                        if is_settled || round == self.passes {
                            break;
                        }
                        all.push(Vec::new());
                    }
                    for (at, cell) in cells.iter().enumerate().take(end) {
                        let (token, confidence) = self.answers.of(pass(&all), at, false);
                        match *cell {
                            Cell::Filled(was)
                                if was != token && Some(was.0) != self.kept && Some(token.0) != self.last =>
                            {
                                edits.push(Edit::Replace { at: Position::at(at), was, token, confidence });
                            }
                            _ => {}
                        }
                    }
                }
                let proposed = |at: &usize| self.answers.of(pass(&all), *at, true);
                let is_last = |at: &usize| Some(proposed(at).0.0) == self.last;
                let ready = |at: &usize| self.threshold.is_some_and(|least| proposed(at).1.get() >= least);
                // those that come last behind the others, and the ready ones before these
                let mut turns = blanks.clone();
                turns.sort_by_key(|at| if is_last(at) { 2 } else { u8::from(!ready(at)) });
                let share = blanks.len().div_ceil((steps.saturating_sub(step - 1)).max(1) as usize);
                let at_once = blanks.iter().filter(|at| ready(at) && !is_last(at)).count();
                edits.extend(turns.into_iter().take(share.max(at_once)).map(|at| {
                    let (token, confidence) = proposed(&at);
                    Edit::Fill { at: Position::at(at), token, confidence }
                }));
                for edit in &edits {
                    cells[edit.at().index()] = Cell::Filled(edit.written().unwrap().0);
                }
                all.push(edits);
            }
        }
        all
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3_000) })]

    #[test]
    fn passes_and_edits_are_those_of_the_words(case in case()) {
        let mut sequence = case.sequence();
        let mut all = Vec::new();
        while sequence.window().is_some() {
            all.push(sequence.advance(&case.answers.reading(&sequence)).unwrap().edits);
        }
        prop_assert_eq!(all, case.expected());
    }

    /// Time that comes and goes: a run never takes more passes than were announced, or than there
    /// was time for, and it always ends with a full canvas.
    #[test]
    fn passes_stay_within_every_bound(case in case(), fits in prop::collection::vec(prop::option::of(1u32..30), 0..20)) {
        let mut sequence = case.sequence();
        let announced = sequence.passes().all();
        let most = sequence.steps_max().unwrap();
        prop_assert!(announced <= u64::from(most), "{} {}", announced, most);
        let (mut fits, mut left) = (fits.into_iter(), None);
        let (mut taken, mut corrected) = (0u64, None);
        while sequence.window().is_some() {
            match fits.next() {
                Some(Some(passes)) => {
                    sequence.fit(passes);
                    left = Some(passes);
                }
                Some(None) => {
                    sequence.fit(u32::MAX);
                    left = None;
                }
                None => {}
            }
            let before = sequence.passes().all();
            prop_assert!(before > 0 && left.is_none_or(|left| before <= u64::from(left)), "{} {:?}", before, left);
            prop_assert!(taken + before <= u64::from(most));
            let is_hurried = sequence.is_hurried();
            let StepOutcome { step, edits, .. } = sequence.advance(&case.answers.reading(&sequence)).unwrap();
            prop_assert_eq!(u64::from(step), taken);
            taken += 1;
            left = left.map(|left| left - 1);
            prop_assert!(sequence.passes().all() < before, "each pass is one less");
            let replaced = edits.iter().filter(|edit| matches!(edit, Edit::Replace { .. })).count();
            prop_assert!(!is_hurried || replaced == 0, "a hurried step only fills");
            prop_assert!(!is_hurried || !edits.is_empty(), "and it does");
            if !edits.is_empty() {
                prop_assert!(sequence.shown().is_none(), "the working copy is of one step");
                corrected = corrected.max(Some(replaced));
            }
        }
        prop_assert!(taken <= u64::from(most));
        let canvas = sequence.canvas();
        prop_assert_eq!(canvas.blanks(0..canvas.len()).count(), 0);
        for (before, after) in case.cells.iter().zip(canvas.cells()) {
            prop_assert!(!matches!(before, Cell::Fixed(_)) || before == after);
        }
    }
}

#[test]
fn a_reading_without_the_proposals_of_later_blocks_is_refused() {
    let case = Case {
        answers: Answers(1),
        cells: vec![Cell::Blank; 6],
        block: 3,
        steps: 6,
        threshold: None,
        every: 1,
        passes: 2,
        kept: None,
        last: None,
    };
    let mut sequence = case.sequence();
    assert_eq!(sequence.window(), Some(0..6), "the first pass proposes for all blanks");
    let mut reading = case.answers.reading(&sequence);
    reading.proposals.truncate(3);
    let error = sequence.advance(&reading).unwrap_err();
    assert_eq!(error.to_string(), "the reading has 3 proposals that are not the 6 blanks of the window");
    assert_eq!((sequence.step(), sequence.shown()), (0, None));
    sequence.advance(&case.answers.reading(&sequence)).unwrap();
    assert_eq!(sequence.window(), Some(0..3));
}
