//! KLASS (arXiv 2511.05664): confident blanks are filled once their distribution is at rest.

mod common;

use common::{llada_tiny_model, server::Server};
use remask::diffusion::policy::{BUDGET, Choice, KLASS, OFF, order, random::RANDOM};
use remask::diffusion::{Canvas, Cell, Edit, Pace, Policy, Position, Seed, Sequence, TokenId};
use remask::model::{Change, Row};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

/// Probabilities of all tokens but the mask, which is the last one, in f64.
fn softmax(logits: &[f32]) -> Vec<f64> {
    let logits: Vec<f64> = logits.iter().map(|logit| f64::from(*logit)).collect();
    let (_, logits) = logits.split_last().unwrap();
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mass: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    logits.iter().map(|logit| (logit - largest).exp() / mass).collect()
}

fn divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum()
}

fn canvas() -> Canvas {
    let cell = |at: u32| if at.is_multiple_of(6) { Cell::Fixed(TokenId(at * 37 % 250)) } else { Cell::Blank };
    Canvas::new((0..30).map(cell).collect())
}

/// Runs the pace and compares each step with the definition by brute force from the logits of the
/// pass. Returns the steps that filled what was ready, and those that filled the first in order.
fn compare(klass: f32, shift: f32, remasking: Choice) -> [usize; 2] {
    let mut model = llada_tiny_model();
    let mask = model.spec().mask;
    let rule = Choice::of(&KLASS).with("klass", klass).with("klass_shift", shift);
    let policy = Policy {
        order: Choice::of(&order::CONFIDENCE),
        pace: Pace::Adaptive { rule, steps_max: None },
        remasking: remasking.with_defaults(10),
        block_length: NonZeroU32::new(10).unwrap(),
        proofreading: None,
    };
    let mut sequence = Sequence::new(canvas(), policy, Seed(3)).unwrap();
    let mut past: BTreeMap<usize, Vec<Vec<f64>>> = BTreeMap::new();
    let mut counts = [0; 2];
    while let Some(window) = sequence.window() {
        let canvas = sequence.canvas().clone();
        let ids: Vec<TokenId> = canvas.cells().iter().map(|cell| cell.token().unwrap_or(mask)).collect();
        let logits = model.inspect(&ids).unwrap().logits;
        let distributions = sequence.needs().shift;
        let reading =
            model.read(&[Row { distributions, ..Row::plain(&canvas, window.clone()) }]).unwrap().remove(0).unwrap();
        let blanks: Vec<usize> = canvas.blanks(window.clone()).map(Position::index).collect();
        past.retain(|at, _| blanks.contains(at));
        let (mut ready, mut best) = (BTreeSet::new(), (0.0, 0));
        for at in &blanks {
            let of_blank = past.entry(*at).or_default();
            of_blank.push(softmax(&logits[*at]));
            let now = of_blank.last().unwrap();
            let confidence = now.iter().copied().fold(0.0, f64::max);
            let moves: Vec<f64> = of_blank.windows(2).map(|pair| divergence(&pair[1], &pair[0])).collect();
            let is_at_rest = moves.len() >= 2 && moves[moves.len() - 2..].iter().all(|moved| *moved < shift.into());
            if confidence > klass.into() && is_at_rest {
                ready.insert(*at);
            }
            if confidence > best.0 {
                best = (confidence, *at);
            }
        }
        let edits = sequence.advance(&reading).unwrap().edits;
        let fills = edits.iter().filter(|edit| matches!(edit, Edit::Fill { .. }));
        let filled: BTreeSet<usize> = fills.map(|edit| edit.at().index()).collect();
        counts[usize::from(ready.is_empty())] += 1;
        let expected = if ready.is_empty() { BTreeSet::from([best.1]) } else { ready };
        assert_eq!(filled, expected, "step {}", sequence.step());
        edits.iter().for_each(|edit| drop(past.remove(&edit.at().index())));
    }
    counts
}

#[test]
fn each_step_fills_what_the_definition_says_is_ready() {
    // the tiny model is sure of nothing: its largest probabilities are about 0.1
    let [ready, first] = compare(0.02, 0.05, Choice::of(&OFF));
    assert!(ready > 2 && first > 5, "{ready} {first}");
    let [none, all] = compare(1.0, 1000.0, Choice::of(&OFF));
    assert_eq!((none, all), (0, 25));
    let [ready, first] = compare(0.0, 0.2, Choice::of(&RANDOM).with(BUDGET.name, 8));
    assert!(ready > 2 && first > 2, "{ready} {first}");
}

#[test]
fn a_shortened_run_asks_for_no_distributions() {
    let rule = Choice::of(&KLASS).with("klass", 0.9).with_defaults(10);
    let policy = Policy {
        order: Choice::of(&order::CONFIDENCE),
        pace: Pace::Adaptive { rule, steps_max: None },
        remasking: Choice::of(&OFF),
        block_length: NonZeroU32::new(10).unwrap(),
        proofreading: None,
    };
    let mut sequence = Sequence::new(canvas(), policy, Seed(3)).unwrap();
    assert!(sequence.needs().shift);
    sequence.fit(1); // all blocks become one
    assert!(sequence.window().unwrap().len() > 10 && !sequence.needs().shift);
    sequence.fit(100);
    assert!(sequence.needs().shift);
}

#[test]
fn distributions_are_the_models_own_and_come_for_the_rows_that_ask() {
    let mut model = llada_tiny_model();
    let mask = model.spec().mask;
    let canvas = canvas();
    let ids: Vec<TokenId> = canvas.cells().iter().map(|cell| cell.token().unwrap_or(mask)).collect();
    let logits = model.inspect(&ids).unwrap().logits;
    let biases = [(TokenId(3), Change::Add(5.0))];
    let asking = Row { distributions: true, guidance: Some(0.7), biases: &biases, ..Row::plain(&canvas, 2..17) };
    let silent = Row { distributions: false, ..asking.clone() };
    let readings = model.read(&[silent.clone(), asking, silent]).unwrap();
    let [first, reading, last] = [0, 1, 2].map(|row| readings[row].clone().unwrap());
    assert!(first.distributions.is_empty() && first == last && reading.proposals == first.proposals);
    let blanks: Vec<usize> = canvas.blanks(2..17).map(Position::index).collect();
    assert_eq!(reading.distributions.iter().map(|found| found.at.index()).collect::<Vec<_>>(), blanks);
    for found in &reading.distributions {
        let expected = softmax(&logits[found.at.index()]);
        assert_eq!(found.log_probabilities.len(), expected.len());
        for (found, expected) in found.log_probabilities.iter().zip(expected) {
            assert!((f64::from(*found) - expected.ln()).abs() < 1e-4, "{found} {}", expected.ln());
        }
    }
}

#[tokio::test]
async fn a_looser_rest_takes_fewer_passes() {
    let server = Server::toy().await;
    let steps = async |unmasking: Value| {
        let body = json!({"prompt": "Once", "max_tokens": 60, "seed": 1,
                          "diffusion": {"unmasking": unmasking, "remasking": "off"}});
        server.answer("/v1/completions", &body).await["diffusion"]["steps"].as_u64().unwrap()
    };
    let strict = steps(json!({"klass": 0.9, "klass_shift": 0})).await;
    let paper = steps(json!({"klass": 0.9})).await;
    let loose = steps(json!({"klass": 0.5, "klass_shift": 10})).await;
    assert!(strict == 60 && loose < paper && paper < strict, "{strict} {paper} {loose}");
    let bounded = steps(json!({"klass": 1})).await;
    assert_eq!(bounded, 60);
}
