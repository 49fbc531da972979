//! Token editing: which filled cells get another token, against a second implementation, and what
//! a model says about them.

mod common;

use common::server::Server;
use common::{finished, llada_tiny_model, toy};
use proptest::prelude::*;
use remask::diffusion::policy::{BUDGET, TOKEN_EDITING, WINDOW, order};
use remask::diffusion::{
    Best, Canvas, Cell, Choice, Edit, Pace, Policy, Position, Probability, Proposal, Reading, Seed, Sequence, TokenId,
};
use remask::engine::{Length, Prompt, Request, Task};
use remask::model::{Change, Restriction, Row};
use serde_json::{Value, json};
use std::num::NonZeroU32;

const TOKENS: u32 = 4;

/// A token and its probability for each step and cell, and whether it stands in a blank.
#[derive(Clone, Debug)]
struct Answers(u64);

impl Answers {
    fn of(&self, step: u32, at: usize, is_blank: bool) -> (TokenId, Probability) {
        let key = Seed(self.0 ^ u64::from(is_blank) << 63);
        let place = Position::at(at);
        let [token, confidence] =
            remask::diffusion::Draws::new(key, remask::diffusion::Purpose::Token, step, place).uniforms();
        // tenths, so that some are equal
        let tenths = (confidence * 11.0).floor() / 10.0;
        (TokenId((token * f64::from(TOKENS)) as u32), Probability::new(tenths as f32).unwrap())
    }

    fn reading(&self, step: u32, canvas: &Canvas) -> Reading {
        let propose = |at: Position| {
            let (token, confidence) = self.of(step, at.index(), true);
            Proposal { at, token, confidence, margin: confidence, entropy: 0.0 }
        };
        let best = |(at, _): (Position, TokenId)| {
            let (token, confidence) = self.of(step, at.index(), false);
            Best { at, token, confidence }
        };
        let all = 0..canvas.len();
        Reading {
            proposals: canvas.blanks(all.clone()).map(propose).collect(),
            best: canvas.filled(all).map(best).collect(),
            ..Reading::default()
        }
    }
}

#[derive(Clone, Debug)]
struct Case {
    answers: Answers,
    cells: Vec<Cell>,
    steps: u32,
    budget: u32,
    above: f32,
    window: [u32; 2],
}

/// A canvas of one block: a blank, then cells of any kind. The window is in eighths.
fn case() -> impl Strategy<Value = Case> {
    let token = (0..TOKENS).prop_map(TokenId);
    let cell = prop_oneof![3 => Just(Cell::Blank), 1 => token.clone().prop_map(Cell::Fixed), 1 => token.prop_map(Cell::Filled)];
    let window = (0u32..8).prop_flat_map(|from| (Just(from), from + 1..=8)).prop_map(|(from, until)| [from, until]);
    let above = (0u32..=10).prop_map(|tenths| tenths as f32 / 10.0);
    (any::<u64>(), prop::collection::vec(cell, 0..7), 1u32..9, 0u32..6, above, window).prop_map(
        |(seed, cells, steps, budget, above, window)| {
            let cells = [Cell::Blank].into_iter().chain(cells).collect();
            Case { answers: Answers(seed), cells, steps, budget, above, window }
        },
    )
}

/// The edits of each step, worked out by the words of the documentation.
fn expected(case: &Case) -> Vec<Vec<Edit>> {
    let (mut cells, mut left, mut all) = (case.cells.clone(), case.budget, Vec::new());
    let edge = |eighths: u32| (f64::from(eighths) / 8.0 * f64::from(case.steps)).round() as u32;
    for step in 0.. {
        let places = |wanted: fn(&Cell) -> bool| {
            cells.iter().enumerate().filter(move |(_, cell)| wanted(cell)).map(|(at, _)| at).collect::<Vec<_>>()
        };
        let blanks = places(|cell| matches!(cell, Cell::Blank));
        if blanks.is_empty() {
            break;
        }
        let mut edits = Vec::new();
        let is_inside = (edge(case.window[0])..edge(case.window[1])).contains(&step);
        // the most probable first, the leftmost of equals
        for tenths in (0..=10).rev() {
            for at in places(|cell| matches!(cell, Cell::Filled(_))) {
                let (token, confidence) = case.answers.of(step, at, false);
                let is_turn = (confidence.get() * 10.0).round() as u32 == tenths && confidence.get() > case.above;
                let was = cells[at].token().unwrap();
                if is_inside && is_turn && token != was && left > 0 {
                    left -= 1;
                    edits.push(Edit::Replace { at: Position::at(at), was, token, confidence });
                }
            }
        }
        let fills = u32::try_from(blanks.len()).unwrap().div_ceil(case.steps - step) as usize;
        edits.extend(blanks.into_iter().take(fills).map(|at| {
            let (token, confidence) = case.answers.of(step, at, true);
            Edit::Fill { at: Position::at(at), token, confidence }
        }));
        for edit in &edits {
            cells[edit.at().index()] = Cell::Filled(edit.written().unwrap().0);
        }
        all.push(edits);
    }
    all
}

fn sequence(case: &Case) -> Sequence {
    let window = case.window.map(|eighths| eighths as f32 / 8.0);
    let remasking = Choice::of(&TOKEN_EDITING).with(BUDGET.name, case.budget).with("above", case.above);
    let policy = Policy {
        order: Choice::of(&order::LEFTMOST),
        pace: Pace::Steps(NonZeroU32::new(case.steps).unwrap()),
        remasking: remasking.with(WINDOW.name, window),
        block_length: NonZeroU32::MAX,
        proofreading: None,
    };
    Sequence::new(Canvas::new(case.cells.clone()), policy, Seed(1)).unwrap()
}

fn edits(mut sequence: Sequence, answers: &Answers) -> Vec<Vec<Edit>> {
    let mut all = Vec::new();
    while sequence.window().is_some() {
        let reading = answers.reading(sequence.step(), sequence.canvas());
        all.push(sequence.advance(&reading).unwrap().edits);
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn the_edits_are_those_of_the_words(case in case()) {
        prop_assert_eq!(edits(sequence(&case), &case.answers), expected(&case));
    }

    #[test]
    fn no_token_is_replaced_by_one_that_comes_last(case in case()) {
        let last = TokenId(0);
        let replaced = |sequence| {
            let all = edits(sequence, &case.answers).into_iter().flatten();
            all.filter(|edit| matches!(edit, Edit::Replace { token, .. } if *token == last)).count()
        };
        prop_assert_eq!(replaced(sequence(&case).postponing(vec![last])), 0);
    }
}

#[test]
fn a_replaced_token_begins_its_age_and_memory_anew() {
    use remask::diffusion::policy::{Count, FilledCell, Needs, Rule};
    /// Replaces what has stood for two steps, and checks what it remembers.
    static RULE: Rule = Rule {
        name: "two",
        knobs: &[&BUDGET],
        count: Count::Own,
        needs: Needs::BEST,
        remember: Some(|cell| cell.memory + 1.0),
        decide: |view| {
            let is_right = |cell: &&_| {
                let FilledCell { age, memory, .. } = **cell;
                assert!(memory + 1.0 == age as f32 && age <= 2, "{cell:?}");
                age == 2
            };
            view.filled.iter().filter(is_right).filter_map(FilledCell::replace).collect()
        },
        ..Rule::NONE
    };
    let policy = Policy {
        order: Choice::of(&order::LEFTMOST),
        pace: Pace::Steps(NonZeroU32::new(8).unwrap()),
        remasking: Choice::of(&RULE).with(BUDGET.name, 99),
        block_length: NonZeroU32::MAX,
        proofreading: None,
    };
    let mut sequence = Sequence::new(Canvas::continuing(&[], 8), policy, Seed(1)).unwrap();
    let mut replaced = 0;
    while sequence.window().is_some() {
        // another token in each step
        let token = TokenId(sequence.step());
        let canvas = sequence.canvas();
        let confidence = Probability::ONE;
        let propose = |at| Proposal { at, token, confidence, margin: confidence, entropy: 0.0 };
        let reading = Reading {
            proposals: canvas.blanks(0..8).map(propose).collect(),
            best: canvas.filled(0..8).map(|(at, _)| Best { at, token, confidence }).collect(),
            ..Reading::default()
        };
        let outcome = sequence.advance(&reading).unwrap();
        replaced += outcome.edits.iter().filter(|edit| matches!(edit, Edit::Replace { .. })).count();
    }
    assert_eq!(replaced, 12, "cell n in each second step behind it");
}

/// The most probable of the allowed tokens, by the logits of an inspection, and its probability.
fn best_of(logits: &[f64], allowed: &[u32]) -> (TokenId, f64) {
    let likeliest = allowed.iter().copied().max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize])).unwrap();
    let mass: f64 = logits.iter().map(|logit| logit.exp()).sum();
    (TokenId(likeliest), logits[likeliest as usize].exp() / mass)
}

#[test]
fn the_best_token_is_that_of_an_inspection_restricted_biased_and_guided() {
    let mut model = llada_tiny_model();
    let (mask, size) = (model.spec().mask, model.spec().vocabulary);
    let cells = (0u32..12).map(|at| match at {
        0..=3 => Cell::Fixed(TokenId(at * 31 % 250)),
        5 | 9 => Cell::Blank,
        _ => Cell::Filled(TokenId(at * 17 % 250)),
    });
    let canvas = Canvas::new(cells.collect());
    let ids = |is_guided: bool| -> Vec<TokenId> {
        let id =
            |cell: &Cell| if is_guided && matches!(cell, Cell::Fixed(_)) { mask } else { cell.token().unwrap_or(mask) };
        canvas.cells().iter().map(id).collect()
    };
    let conditional = model.inspect(&ids(false)).unwrap().logits;
    let unconditional = model.inspect(&ids(true)).unwrap().logits;
    let every: Vec<u32> = (0..size).filter(|id| TokenId(*id) != mask).collect();
    let only = [Restriction { cells: 6..9, tokens: [3, 77, 200].map(TokenId).into() }];
    let added = [(TokenId(5), 4.0f32), (TokenId(9), f32::NEG_INFINITY)];
    let biases = added.map(|(token, bias)| (token, Change::Add(bias)));
    for (guidance, only, biases) in [
        (None, &[][..], &[][..]),
        (None, &only[..], &[][..]),
        (None, &[][..], &biases[..]),
        (Some(0.75f32), &[][..], &[][..]),
        (Some(0.75), &only[..], &biases[..]),
    ] {
        let row = Row { guidance, only, biases, best: true, ..Row::plain(&canvas, 4..12) };
        let reading = model.read(std::slice::from_ref(&row)).unwrap().remove(0).unwrap();
        let filled: Vec<Position> = canvas.filled(4..12).map(|(at, _)| at).collect();
        assert_eq!(reading.best.iter().map(|best| best.at).collect::<Vec<_>>(), filled);
        assert!(reading.present.is_empty() && reading.reviews.is_empty());
        for best in &reading.best {
            let at = best.at.index();
            let mut logits: Vec<f64> = conditional[at].iter().map(|logit| f64::from(*logit)).collect();
            for (logit, other) in logits.iter_mut().zip(&unconditional[at]) {
                let other = f64::from(*other);
                *logit = other + (1.0 + f64::from(guidance.unwrap_or(0.0))) * (*logit - other);
            }
            for (token, bias) in &added[..biases.len()] {
                logits[token.0 as usize] += f64::from(*bias);
            }
            logits[mask.0 as usize] = f64::NEG_INFINITY;
            logits.truncate(size as usize);
            let here: Vec<u32> = only
                .iter()
                .filter(|only| only.cells.contains(&at))
                .flat_map(|only| &*only.tokens)
                .map(|token| token.0)
                .collect();
            let (token, probability) = best_of(&logits, if here.is_empty() { &every } else { &here });
            assert_eq!(best.token, token, "{best:?}");
            assert!((f64::from(best.confidence.get()) - probability).abs() < 1e-4, "{best:?} {probability}");
        }
        // blanks are read as without it
        let plain = model.read(&[Row { best: false, ..row }]).unwrap().remove(0).unwrap();
        assert_eq!((plain.proposals, plain.best), (reading.proposals, Vec::new()));
    }
}

#[tokio::test]
async fn a_seed_gives_one_answer_and_what_is_replaced_has_its_new_confidence() {
    let handle = toy();
    let task = Task::Continue { prompt: Prompt::Text("Once".to_owned()), length: Length::New(60) };
    let request = Request {
        remasking: Some(Choice::of(&TOKEN_EDITING).with("above", 0.4)),
        order: Some(Choice::of(&order::RANDOM)),
        temperature: 1.5,
        steps: Some(20),
        ..Request::new(task)
    };
    let mut replaced = 0;
    for seed in 0..4 {
        let request = Request { seed: Some(seed), ..request.clone() };
        let answer = finished(handle.submit(&request).unwrap()).await;
        assert_eq!(answer, finished(handle.submit(&request).unwrap()).await);
        assert_eq!((answer.erased, answer.filled, answer.forward_passes), (0, 60, answer.steps), "it costs no pass");
        replaced += answer.replaced;
    }
    assert!(replaced > 10, "{replaced}");
}

#[tokio::test]
async fn json_keeps_its_schema_and_each_replacement_the_tokens_of_its_cell() {
    let server = Server::toy().await;
    let schema = |property: Value| {
        let schema = json!({"type": "object", "properties": {"a": property}});
        json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}})
    };
    type Case = (Value, &'static str, fn(&Value) -> bool);
    let cases: [Case; 4] = [
        (json!({"type": "integer", "x-tokens": 8}), "-0123456789 ", Value::is_i64),
        (json!({"type": "string", "pattern": "^[abc]{12}$"}), "abc", |a| a.as_str().is_some_and(|a| a.len() == 12)),
        (json!({"enum": ["abab", "baba", "bbbb"]}), "ab\"", |a| ["abab", "baba", "bbbb"].iter().any(|word| a == word)),
        (json!({"type": "string", "pattern": "^(ab|ba){6}$"}), "ab", |a| a.as_str().is_some_and(|a| a.len() == 12)),
    ];
    // little is likely on the toy: every other most probable letter replaces one
    let editing = json!({"policy": "token_editing", "above": 0, "budget": 40});
    let correcting = json!({"policy": "proseco", "correct_every": 1});
    let mut replaced = [[0; 4]; 2];
    for (index, (property, letters, holds)) in cases.into_iter().enumerate() {
        for (seed, remasking) in (0..12).map(|run| (run / 2, [&editing, &correcting][run % 2])) {
            let body = json!({"prompt": "Who?", "response_format": schema(property.clone()), "seed": seed,
                              "temperature": 3, "stream": true, "logit_bias": {"97": seed, "50": seed},
                              "diffusion": {"stream_edits": true, "remasking": remasking, "unmasking": "random"}});
            let events = server.events("/v1/completions", &body).await;
            let chunks: Vec<Value> =
                events.iter().filter(|event| event.data != "[DONE]").map(common::server::SseEvent::json).collect();
            let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
            let found: Value = serde_json::from_str(&text).unwrap();
            assert!(holds(&found["a"]), "{found}");
            for edit in chunks.iter().filter_map(|chunk| chunk["diffusion"]["edits"].as_array()).flatten() {
                // a value that is shorter than its cells has ends of text behind it
                let is_one = edit["text"].as_str().is_some_and(|text| letters.contains(text) || text == "<|end|>");
                assert!(is_one || edit["kind"] == "erase", "{edit} of {letters:?}");
                replaced[usize::from(remasking == &correcting)][index] += usize::from(edit["kind"] == "replace");
            }
        }
    }
    assert!(replaced.iter().all(|replaced| replaced[0] > 0 && replaced[1] > 0), "{replaced:?}");
}
