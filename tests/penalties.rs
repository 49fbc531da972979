//! Penalties: what is taken off the logits of tokens that were written, and how those of tokens
//! that stand on the canvas are scaled.

mod common;

use common::server::Server;
use common::{ask, engine, finished, llada_tiny_model, toy_tokenizer};
use remask::diffusion::policy::{BUDGET, Choice, random::RANDOM};
use remask::diffusion::{Canvas, Cell, Position, TokenId};
use remask::engine::{Limits, Request};
use remask::model::{Batch, Change, Denoiser, Inspection, ModelError, ModelSpec, Readings, Row, Toy};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::mpsc;

const PRESENCE: f32 = 0.5;
const FREQUENCY: f32 = -0.25;
const REPETITION: f32 = 1.25;

/// A toy that compares the biases of each row with the tokens of its canvas.
struct Checked {
    toy: Toy,
    /// Penalised tokens of each row.
    penalised: mpsc::Sender<usize>,
}

impl Denoiser for Checked {
    fn spec(&self) -> &ModelSpec {
        self.toy.spec()
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError> {
        for row in batch {
            let filled: Vec<TokenId> = row.canvas.filled(0..row.canvas.len()).map(|(_, token)| token).collect();
            let asked = (TokenId(101), Change::Add(1.0));
            let mut expected = BTreeMap::from([(asked.0, vec![asked.1])]);
            let ends = &self.toy.spec().ends;
            for token in (0..256).map(TokenId).filter(|token| !ends.contains(token)) {
                if row.canvas.cells().iter().any(|cell| cell.token() == Some(token)) {
                    expected.entry(token).or_default().push(Change::Scale(REPETITION));
                }
                let count = filled.iter().filter(|other| **other == token).count();
                if count > 0 {
                    let penalty = -PRESENCE - FREQUENCY * count as f32;
                    expected.entry(token).or_default().push(Change::Add(penalty));
                }
            }
            let mut found: BTreeMap<TokenId, Vec<Change>> = BTreeMap::new();
            for (token, change) in row.blank_biases.unwrap() {
                found.entry(*token).or_default().push(*change);
            }
            assert_eq!(found, expected);
            assert_eq!(row.biases, [asked], "filled cells are judged without penalties");
            self.penalised.send(expected.len()).unwrap();
        }
        self.toy.read(batch)
    }

    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        self.toy.inspect(ids)
    }
}

#[tokio::test]
async fn each_pass_has_the_penalties_of_the_tokens_that_stand_in_the_answer() {
    let (penalised, seen) = mpsc::channel();
    let handle = engine(Box::new(Checked { toy: Toy::new(), penalised }), Some(toy_tokenizer()), Limits::default());
    let request = Request {
        presence_penalty: PRESENCE,
        frequency_penalty: FREQUENCY,
        repetition_penalty: REPETITION,
        logit_bias: vec![(TokenId(101), 1.0)],
        remasking: Some(Choice::of(&RANDOM).with(BUDGET.name, 12)),
        ..ask("eeez", 40)
    };
    let answer = finished(handle.submit(&request).unwrap()).await;
    assert!(answer.erased > 0, "what is erased is not penalised any more");
    let counts: Vec<usize> = seen.try_iter().collect();
    assert_eq!((counts.len(), counts[0]), (answer.steps as usize, 2), "the two letters of the prompt");
    assert!(*counts.last().unwrap() > 10, "{counts:?}");
}

#[test]
fn a_model_adds_the_biases_of_blanks_to_proposals_alone() {
    let mut model = llada_tiny_model();
    let cells = (0u32..9).map(|at| if at % 3 == 0 { Cell::Blank } else { Cell::Filled(TokenId(at * 29)) });
    let canvas = Canvas::new(cells.collect());
    let plain = Row { present: true, best: true, ..Row::plain(&canvas, 0..9) };
    let mut read = |row: Row<'_>| model.read(&[row]).unwrap().remove(0).unwrap();
    let without = read(plain.clone());
    let lowered = Change::Add(-9.0);
    let likeliest: Vec<(TokenId, Change)> =
        without.proposals.iter().map(|proposal| (proposal.token, lowered)).collect();
    let asked = read(Row { biases: &likeliest, ..plain.clone() });
    let found = read(Row { blank_biases: Some(&likeliest), ..plain.clone() });
    assert_eq!(found.proposals, asked.proposals);
    assert_ne!(found.proposals, without.proposals);
    assert_eq!((&found.present, &found.best), (&without.present, &without.best));
    let none = read(Row { biases: &likeliest, blank_biases: Some(&[]), ..plain.clone() });
    assert_eq!((none.proposals, none.best), (without.proposals, asked.best));
    for (token, change, words) in [
        (9999, Change::Add(1.0), "a bias of 1 for token 9999"),
        (5, Change::Scale(0.0), "a repetition penalty of 0 for token 5"),
        (5, Change::Scale(f32::NAN), "a repetition penalty of NaN for token 5"),
    ] {
        let row = Row { blank_biases: Some(&[(TokenId(token), change)]), ..plain.clone() };
        let error = model.read(&[row]).unwrap().remove(0).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

/// transformers' definition, by brute force from the logits of a pass: a logit below 0 is
/// multiplied, another one divided.
#[test]
fn a_scaled_logit_is_divided_above_zero_and_multiplied_below() {
    let mut model = llada_tiny_model();
    let mask = model.spec().mask;
    let tokens: Vec<Option<u32>> = (0u32..12).map(|at| (at % 3 != 1).then_some(at * 19 % 250)).collect();
    let ids: Vec<TokenId> = tokens.iter().map(|token| token.map_or(mask, TokenId)).collect();
    let canvas =
        Canvas::new(tokens.iter().map(|token| token.map_or(Cell::Blank, |id| Cell::Fixed(TokenId(id)))).collect());
    let logits = model.inspect(&ids).unwrap().logits;
    let blanks: Vec<usize> = (0..12).filter(|at| tokens[*at].is_none()).collect();
    let (mut scaled_up, mut scaled_down) = (0, 0);
    for penalty in [0.5f32, 1.3, 4.0] {
        let biases: Vec<(TokenId, Change)> =
            (0..250).step_by(2).map(|id| (TokenId(id), Change::Scale(penalty))).collect();
        let row = Row { blank_biases: Some(&biases), ..Row::plain(&canvas, 0..12) };
        let proposals = model.read(&[row]).unwrap().remove(0).unwrap().proposals;
        assert_eq!(proposals.iter().map(|proposal| proposal.at.index()).collect::<Vec<_>>(), blanks);
        for proposal in proposals {
            let mut weights: Vec<f64> = logits[proposal.at.index()].iter().map(|logit| f64::from(*logit)).collect();
            for (token, _) in &biases {
                let logit = &mut weights[token.0 as usize];
                *[&mut scaled_up, &mut scaled_down][usize::from(*logit > 0.0)] += 1;
                *logit = if *logit > 0.0 { *logit / f64::from(penalty) } else { *logit * f64::from(penalty) };
            }
            weights[mask.0 as usize] = f64::NEG_INFINITY;
            let best = (0..weights.len()).max_by(|a, b| weights[*a].total_cmp(&weights[*b])).unwrap();
            let mass: f64 = weights.iter().map(|logit| (logit - weights[best]).exp()).sum();
            assert_eq!((proposal.at, proposal.token.0 as usize), (Position::at(proposal.at.index()), best));
            assert!((f64::from(proposal.confidence.get()) - 1.0 / mass).abs() < 1e-5, "{proposal:?} {mass}");
        }
    }
    assert!(scaled_up > 100 && scaled_down > 100, "{scaled_up} {scaled_down}");
}

/// The most cells that one letter has; several bytes may be shown as the same sign.
fn most(text: &str) -> usize {
    text.chars().filter(char::is_ascii).map(|letter| text.matches(letter).count()).max().unwrap()
}

#[tokio::test]
async fn a_letter_that_was_written_is_written_less() {
    let server = Server::toy().await;
    let text = async |penalties: Value| {
        let mut body = json!({"prompt": "Once", "max_tokens": 60, "temperature": 1, "seed": 3,
                              "diffusion": {"remasking": "off", "unmasking": "leftmost"}});
        body.as_object_mut().unwrap().extend(penalties.as_object().unwrap().clone());
        let answer = server.answer("/v1/completions", &body).await;
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let plain = text(json!({})).await;
    assert_eq!(text(json!({"presence_penalty": 0, "frequency_penalty": null})).await, plain);
    let [less, more] = [text(json!({"frequency_penalty": 2})).await, text(json!({"frequency_penalty": -2})).await];
    assert!(most(&less) < most(&plain) && most(&plain) < most(&more), "{less:?} {plain:?} {more:?}");
    assert_ne!(text(json!({"presence_penalty": 2})).await, plain);

    // a template's own text does not count, what is written into its gaps does
    let fill = async |template: &str, field: &str, penalty: f32| {
        let mut body = json!({"template": template, "temperature": 1, "seed": 3,
                              "diffusion": {"remasking": "off", "unmasking": "leftmost"}});
        body[field] = json!(penalty);
        let answer = server.answer("/v1/infill", &body).await;
        answer["choices"][0]["gaps"][0].as_str().unwrap().to_owned()
    };
    let fill_less = async |frequency| fill("eeeee<blank:50>", "frequency_penalty", frequency).await;
    let [less, plain, more] = [fill_less(2.0).await, fill_less(0.0).await, fill_less(-2.0).await];
    assert!(most(&less) < most(&plain) && most(&plain) < most(&more), "{less:?} {plain:?} {more:?}");

    // repetition counts a template's own text, too, on both sides of the gap
    const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";
    let known = |text: &str| text.chars().filter(|letter| LETTERS.contains(*letter)).count();
    for template in [format!("{LETTERS}<blank:50>"), format!("<blank:50>{LETTERS}")] {
        let fill = async |penalty| known(&fill(&template, "repetition_penalty", penalty).await);
        // the toy's logits are below 0: a penalty below 1 makes a token likelier
        let [less, plain, more] = [fill(100.0).await, fill(1.0).await, fill(0.2).await];
        assert!(less < plain / 2 && plain < more, "{less} {plain} {more}");
    }
}
