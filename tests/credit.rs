//! Credit: what earlier passes found most probable in a blank raises its logits, as in
//! CreditDecoding (arXiv 2510.06133).

mod common;

use common::{llada_tiny_model, server::Server};
use remask::diffusion::policy::{BUDGET, Choice, OFF, THRESHOLD, order, random::RANDOM};
use remask::diffusion::{Best, Canvas, Cell, Credits, Pace, Policy, Position, Seed, Sequence, TokenId};
use remask::model::{Change, Filter, Restriction, Row, Sampling};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// The definition by brute force: the credit of every token in every blank, in f64.
struct Oracle {
    weight: f64,
    decay: f64,
    power: f64,
    credits: BTreeMap<usize, Vec<f64>>,
}

impl Oracle {
    /// Takes the logits of a blank in a pass. Returns the most probable token without credit, the
    /// one with credit, and its probability.
    fn read(&mut self, at: usize, logits: &[f32], mask: TokenId) -> (usize, usize, f64) {
        let mut logits: Vec<f64> = logits.iter().map(|logit| f64::from(*logit)).collect();
        logits[mask.0 as usize] = f64::NEG_INFINITY;
        let (favourite, probability) = best(&logits);
        let credits = self.credits.entry(at).or_insert_with(|| vec![0.0; logits.len()]);
        credits.iter_mut().for_each(|credit| *credit *= self.decay);
        credits[favourite] += probability.powf(self.power);
        logits.iter_mut().zip(credits).for_each(|(logit, credit)| *logit += self.weight * credit.ln_1p());
        let (token, probability) = best(&logits);
        (favourite, token, probability)
    }
}

/// The most probable token, and its probability.
fn best(logits: &[f64]) -> (usize, f64) {
    let token = (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
    (token, 1.0 / logits.iter().map(|logit| (logit - logits[token]).exp()).sum::<f64>())
}

fn canvas() -> Canvas {
    let cell = |at: u32| if at.is_multiple_of(5) { Cell::Fixed(TokenId(at * 37 % 250)) } else { Cell::Blank };
    Canvas::new((0..25).map(cell).collect())
}

/// Runs a policy and compares each pass with the oracle. Returns how often credit changed the
/// token, and the passes.
fn compare([weight, decay, power]: [f32; 3], threshold: f32, remasking: Choice) -> (usize, u32) {
    let mut model = llada_tiny_model();
    let mask = model.spec().mask;
    let order = Choice::of(&order::MARGIN).with("credit", weight);
    let policy = Policy {
        order: order.with("credit_decay", decay).with("credit_power", power),
        pace: Pace::Adaptive { rule: Choice::of(&THRESHOLD).with("threshold", threshold), steps_max: None },
        remasking: remasking.with_defaults(8),
        block_length: NonZeroU32::new(8).unwrap(),
        proofreading: None,
    };
    let mut oracle =
        Oracle { weight: weight.into(), decay: decay.into(), power: power.into(), credits: BTreeMap::new() };
    let mut sequence = Sequence::new(canvas(), policy, Seed(3)).unwrap();
    let mut changed = 0;
    while let Some(window) = sequence.window() {
        let canvas = sequence.canvas().clone();
        let ids: Vec<TokenId> = canvas.cells().iter().map(|cell| cell.token().unwrap_or(mask)).collect();
        let logits = model.inspect(&ids).unwrap().logits;
        let row = Row { credit: sequence.credits(), ..Row::plain(&canvas, window.clone()) };
        let reading = model.read(&[row]).unwrap().remove(0).unwrap();
        let blanks: Vec<usize> = canvas.blanks(window).map(Position::index).collect();
        assert_eq!(reading.proposals.iter().map(|proposal| proposal.at.index()).collect::<Vec<_>>(), blanks);
        assert_eq!(reading.favourites.iter().map(|favourite| favourite.at.index()).collect::<Vec<_>>(), blanks);
        for (proposal, favourite) in reading.proposals.iter().zip(&reading.favourites) {
            let at = proposal.at.index();
            let (expected_favourite, token, probability) = oracle.read(at, &logits[at], mask);
            assert_eq!((favourite.token.0 as usize, proposal.token.0 as usize), (expected_favourite, token));
            let confidence = f64::from(proposal.confidence.get());
            assert!((confidence - probability).abs() < 1e-5, "pass {}: {confidence} {probability}", sequence.step());
            changed += usize::from(favourite.token != proposal.token);
        }
        for edit in sequence.advance(&reading).unwrap().edits {
            oracle.credits.remove(&edit.at().index()); // a cell that is erased begins without credit
        }
    }
    (changed, sequence.step())
}

#[test]
fn each_pass_has_the_credits_of_the_definition() {
    let (_, passes) = compare([0.7, 0.8, 0.2], 0.9, Choice::of(&OFF));
    assert!(passes > 10, "{passes}");
    let (_, fewer) = compare([40.0, 1.0, 0.0], 0.9, Choice::of(&OFF));
    assert!(fewer < passes / 2, "{fewer} of {passes}");
    // where no threshold ends it, favourites of earlier passes win
    let (changed, _) = compare([4.0, 0.9, 0.5], 1.0, Choice::of(&OFF));
    assert!(changed > 5, "{changed}");
    compare([3.0, 0.5, 1.0], 0.9, Choice::of(&RANDOM).with(BUDGET.name, 12));
}

/// Guidance, biases, temperature and lists of tokens go with credit: what is drawn is drawn from
/// the logits with it, and the favourite is one that may be written.
#[test]
fn credit_is_added_before_anything_is_drawn() {
    let mut model = llada_tiny_model();
    let canvas = canvas();
    let mut read = |row: Row<'_>| model.read(&[row]).unwrap().remove(0).unwrap();
    let plain = read(Row::plain(&canvas, 0..25));
    // a token that is not probable gets all credit
    let unlikely = TokenId((0..250).find(|id| plain.proposals.iter().all(|proposal| proposal.token.0 != *id)).unwrap());
    let mut credits = Credits::new(100.0, 1.0, 0.0);
    for proposal in &plain.proposals {
        let favourite = Best { at: proposal.at, token: unlikely, confidence: proposal.confidence };
        (0..9).for_each(|_| credits.take(&[favourite]));
    }
    let filters =
        [Filter::ALL, Filter { top_k: NonZeroU32::new(1), ..Filter::ALL }, Filter { top_p: Some(0.5), ..Filter::ALL }];
    for (temperature, filter) in [0.0f32, 1.0].into_iter().zip(filters).chain([(1.0, filters[2])]) {
        let sampling = Sampling { temperature, seed: Seed(1), step: 0, filter };
        let row = Row { sampling, credit: Some(&credits), guidance: Some(0.5), ..Row::plain(&canvas, 0..25) };
        let read = read(row);
        assert!(read.proposals.iter().all(|proposal| proposal.token == unlikely), "{temperature} {filter:?}");
        assert!(read.favourites.iter().all(|favourite| favourite.token != unlikely));
    }
    let only = [Restriction { cells: 0..25, tokens: [TokenId(7), TokenId(9)].into() }];
    let biases = [(TokenId(9), Change::Add(f32::NEG_INFINITY))];
    let row = Row { only: &only, biases: &biases, credit: Some(&credits), ..Row::plain(&canvas, 0..25) };
    let read = read(row);
    assert!(read.favourites.iter().all(|favourite| favourite.token == TokenId(7)));
    assert!(read.proposals.iter().all(|proposal| proposal.token == TokenId(7)));
}

#[tokio::test]
async fn a_request_with_credit_takes_fewer_passes_to_the_same_threshold() {
    let server = Server::toy().await;
    let ask = async |credit: Value| {
        let unmasking = json!({"threshold": 0.97, "credit": credit, "order": "entropy"});
        let body = json!({"prompt": "Once", "max_tokens": 60, "seed": 1,
                          "diffusion": {"unmasking": unmasking, "remasking": "off"}});
        server.answer("/v1/completions", &body).await["diffusion"]["steps"].as_u64().unwrap()
    };
    let [none, zero, some] = [ask(Value::Null).await, ask(json!(0)).await, ask(json!(0.7)).await];
    assert!(none == zero && some < none, "{none} {zero} {some}");
}
