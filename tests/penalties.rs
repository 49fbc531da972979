//! Presence and frequency penalties: what is taken off the logits of tokens that were written.

mod common;

use common::server::Server;
use common::{ask, engine, finished, llada_tiny_model, toy_tokenizer};
use remask::diffusion::policy::{BUDGET, Choice, random::RANDOM};
use remask::diffusion::{Canvas, Cell, TokenId};
use remask::engine::{Limits, Request};
use remask::model::{Batch, Denoiser, Inspection, ModelError, ModelSpec, Readings, Row, Toy};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::mpsc;

const PRESENCE: f32 = 0.5;
const FREQUENCY: f32 = -0.25;

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
            let mut expected: BTreeMap<TokenId, f32> = BTreeMap::from([(TokenId(101), 1.0)]);
            let ends = &self.toy.spec().ends;
            for token in filled.iter().filter(|token| !ends.contains(token)) {
                let count = filled.iter().filter(|other| *other == token).count();
                let asked = if *token == TokenId(101) { 1.0 } else { 0.0 };
                expected.insert(*token, asked - PRESENCE - FREQUENCY * count as f32);
            }
            assert_eq!(row.blank_biases.unwrap().iter().copied().collect::<BTreeMap<_, _>>(), expected);
            assert_eq!(row.biases, [(TokenId(101), 1.0)], "filled cells are judged without penalties");
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
        logit_bias: vec![(TokenId(101), 1.0)],
        remasking: Some(Choice::of(&RANDOM).with(BUDGET.name, 12)),
        ..ask("eeee", 40)
    };
    let answer = finished(handle.submit(&request).unwrap()).await;
    assert!(answer.erased > 0, "what is erased is not penalised any more");
    let counts: Vec<usize> = seen.try_iter().collect();
    assert_eq!((counts.len(), counts[0]), (answer.steps as usize, 1));
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
    let likeliest: Vec<(TokenId, f32)> = without.proposals.iter().map(|proposal| (proposal.token, -9.0)).collect();
    let asked = read(Row { biases: &likeliest, ..plain.clone() });
    let found = read(Row { blank_biases: Some(&likeliest), ..plain.clone() });
    assert_eq!(found.proposals, asked.proposals);
    assert_ne!(found.proposals, without.proposals);
    assert_eq!((&found.present, &found.best), (&without.present, &without.best));
    let none = read(Row { biases: &likeliest, blank_biases: Some(&[]), ..plain.clone() });
    assert_eq!((none.proposals, none.best), (without.proposals, asked.best));
    assert!(model.read(&[Row { blank_biases: Some(&[(TokenId(9999), 1.0)]), ..plain }]).unwrap()[0].is_err());
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
    let fill = async |frequency: i32| {
        let body = json!({"template": "eeeee<blank:50>", "temperature": 1, "seed": 3, "frequency_penalty": frequency,
                          "diffusion": {"remasking": "off", "unmasking": "leftmost"}});
        let answer = server.answer("/v1/infill", &body).await;
        answer["choices"][0]["text"].as_str().unwrap().trim_start_matches("eeeee").to_owned()
    };
    let [less, plain, more] = [fill(2).await, fill(0).await, fill(-2).await];
    assert!(most(&less) < most(&plain) && most(&plain) < most(&more), "{less:?} {plain:?} {more:?}");
}
