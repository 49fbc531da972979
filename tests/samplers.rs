//! Published samplers: each request of the documentation's table runs, first hitting is ancestral
//! sampling in distribution, and ReMDM's loop erases as often as in its paper.

mod common;

use common::server::Server;
use remask::diffusion::policy::{ANCESTRAL, BUDGET, Choice, HOLD, Kind, OFF, REMDM_CAP, order, rules};
use remask::diffusion::{
    Canvas, Cell, DrawKey, Edit, Pace, Policy, Position, Probability, Proposal, Purpose, Reading, Seed, Sequence,
    TokenId,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::num::NonZeroU32;

/// Tokens of each request.
const TOKENS: u32 = 64;

/// The rows of the table: a sampler's name and the members of its request.
fn samplers() -> Vec<(String, Value)> {
    let page = include_str!("../docs/policies.md");
    let (_, rest) = page.split_once("<!-- samplers -->\n").unwrap();
    let (table, _) = rest.split_once("<!-- /samplers -->").unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let request = cells[2].trim_matches('`');
        (cells[1].to_owned(), serde_json::from_str(request).unwrap_or_else(|error| panic!("{request}: {error}")))
    };
    table.lines().skip(2).map(row).collect()
}

/// The name in a member that is a name, or an object that has one under `key`.
fn name(member: &Value, key: &str) -> Option<String> {
    member.as_str().or(member[key].as_str()).map(str::to_owned)
}

#[tokio::test]
async fn every_published_sampler_is_a_request() {
    let server = Server::toy().await;
    let mut names: BTreeSet<(String, String)> = BTreeSet::new();
    let mut erased = BTreeSet::new();
    for (sampler, request) in samplers() {
        let mut body = json!({"prompt": "Once upon a time", "max_tokens": TOKENS, "seed": 1});
        for (member, value) in request.as_object().unwrap() {
            body[member] = value.clone();
        }
        body["diffusion"]["end_of_text"] = json!("never");
        let answer = server.answer("/v1/completions", &body).await;
        let summary = &answer["diffusion"];
        let [filled, erasures] = ["filled", "erased"].map(|count| summary[count].as_u64().unwrap());
        assert_eq!(filled - erasures, u64::from(TOKENS), "{sampler}: {answer}");
        let (steps, asked) = (summary["steps"].as_u64().unwrap(), &request["diffusion"]);
        let count = |knob: &str| asked["remasking"][knob].as_u64();
        let correcting = |steps: u64| Some(steps / count("correct_every")? * count("corrector_passes")?);
        let most = asked["steps"].as_u64().map(|steps| steps + correcting(steps).unwrap_or(0));
        assert!(most.is_none_or(|most| steps <= most), "{sampler}: {summary}");
        if erasures > 0 {
            erased.insert(sampler.clone());
        }
        let (unmasking, remasking) = (&request["diffusion"]["unmasking"], &request["diffusion"]["remasking"]);
        names.extend(name(unmasking, "order").map(|name| (Kind::Order.to_string(), name)));
        names.extend(name(remasking, "policy").map(|name| (Kind::Remasking.to_string(), name)));
        let knobs = unmasking.as_object().into_iter().flatten();
        names.extend(knobs.map(|(knob, _)| (Kind::Pace.to_string(), knob.clone())));
    }
    // the table knows every rule, and those that erase a planned number do
    for kind in [Kind::Order, Kind::Pace, Kind::Remasking] {
        for rule in rules(kind) {
            assert!(
                names.contains(&(kind.to_string(), rule.name.to_owned())),
                "no sampler has the {kind} {}",
                rule.name
            );
        }
    }
    for sampler in ["PRISM, by blocks", "PRISM, random loop", "ReMDM's loop for LLaDA", "ReMDM-conf", "ReMDM-loop"] {
        assert!(erased.contains(sampler), "{sampler} erases nothing: {erased:?}");
    }
}

/// The probability that cell `at` of four holds token 1, given the others. The conditionals are not
/// those of one joint distribution, as a model's are not, so that the order of the fills matters.
fn conditional(cells: [Option<bool>; 4], at: usize) -> f64 {
    const WEIGHTS: [[f64; 4]; 4] =
        [[0.0, 2.0, -1.0, 0.5], [-1.5, 0.0, 1.0, 2.0], [1.0, 1.5, 0.0, -2.0], [2.0, -0.5, -1.0, 0.0]];
    let pull = |(cell, weight): (Option<bool>, f64)| match cell {
        None => 0.0,
        Some(true) => weight,
        Some(false) => -weight,
    };
    let sum: f64 = cells.into_iter().zip(WEIGHTS[at]).map(pull).sum();
    1.0 / (1.0 + (-0.3 * at as f64 - sum).exp())
}

/// Probabilities of the 16 canvases when one blank after the other is filled, by brute force over
/// all orders.
fn one_by_one(cells: [Option<bool>; 4]) -> [f64; 16] {
    let blanks: Vec<usize> = (0..4).filter(|at| cells[*at].is_none()).collect();
    let mut all = [0.0; 16];
    if blanks.is_empty() {
        all[outcome(cells)] = 1.0;
    }
    for at in &blanks {
        let one = conditional(cells, *at);
        for (token, chance) in [(true, one), (false, 1.0 - one)] {
            let mut next = cells;
            next[*at] = Some(token);
            let share = chance / blanks.len() as f64;
            all.iter_mut().zip(one_by_one(next)).for_each(|(sum, part)| *sum += share * part);
        }
    }
    all
}

fn outcome(cells: [Option<bool>; 4]) -> usize {
    (0..4).map(|at| usize::from(cells[at] == Some(true)) << at).sum()
}

/// How far the canvases of many runs are from `one_by_one`: chi square, and the steps of all runs.
fn distance(pace: Pace) -> (f64, u32) {
    const RUNS: u64 = 20_000;
    let policy = Policy {
        order: Choice::of(&order::RANDOM),
        pace,
        remasking: Choice::of(&OFF),
        block_length: NonZeroU32::MAX,
        proofreading: None,
    };
    let (mut counts, mut steps) = ([0.0; 16], 0);
    for seed in (0..RUNS).map(Seed) {
        let mut sequence = Sequence::new(Canvas::new(vec![Cell::Blank; 4]), policy, seed).unwrap();
        let tokens = |sequence: &Sequence| {
            let cells = sequence.canvas().cells();
            [0, 1, 2, 3].map(|at| cells[at].token().map(|token| token == TokenId(1)))
        };
        while sequence.window().is_some() {
            let key = DrawKey { seed, step: sequence.step() };
            let propose = |at: Position| {
                let is_one = key.uniform(Purpose::Token, at) < conditional(tokens(&sequence), at.index());
                let (confidence, margin) = (Probability::ONE, Probability::ONE);
                Proposal { at, token: TokenId(is_one.into()), confidence, margin, entropy: 0.0 }
            };
            let proposals = sequence.canvas().blanks(0..4).map(propose).collect();
            sequence.advance(&Reading { proposals, ..Reading::default() }).unwrap();
        }
        counts[outcome(tokens(&sequence))] += 1.0;
        steps += sequence.step();
    }
    let expected = one_by_one([None; 4]).map(|chance| chance * RUNS as f64);
    let part = |(count, expected): (f64, f64)| (count - expected).powi(2) / expected;
    (counts.into_iter().zip(expected).map(part).sum(), steps)
}

#[test]
fn first_hitting_is_ancestral_sampling_in_distribution() {
    let ancestral =
        |times: u32| Pace::Adaptive { rule: Choice::of(&ANCESTRAL).with("ancestral", times), steps_max: None };
    // 15 degrees of freedom exceed 44.3 once in ten thousand times
    let (first_hitting, steps) = distance(Pace::Steps(NonZeroU32::new(4).unwrap()));
    assert!(first_hitting < 44.3 && steps == 80_000, "{first_hitting}");
    let (fine, _) = distance(ancestral(65_536));
    assert!(fine < 44.3, "{fine}");
    // with few times blanks that share one do not see each other
    let (coarse, _) = distance(ancestral(2));
    assert!(coarse > 1_000.0, "{coarse}");
}

/// Of twenty cells eighteen are filled, and each of 180 steps erases each of them with probability
/// 0.02. A step that erases nothing takes no pass, and the next one draws anew.
#[test]
fn the_passes_of_a_loop_are_its_steps_that_erase() {
    const RUNS: u64 = 50;
    let policy = Policy {
        order: Choice::of(&order::RANDOM),
        pace: Pace::Steps(NonZeroU32::new(200).unwrap()),
        remasking: Choice::of(&REMDM_CAP).with("eta", 0.02).with(BUDGET.name, 65_536).with(HOLD.name, [0.09, 0.99]),
        block_length: NonZeroU32::MAX,
        proofreading: None,
    };
    let policy = Policy { remasking: policy.remasking.with_defaults(20), ..policy };
    let (mut passes, mut erased) = (0, 0);
    for seed in (0..RUNS).map(Seed) {
        let mut sequence = Sequence::new(Canvas::new(vec![Cell::Blank; 20]), policy, seed).unwrap();
        while sequence.window().is_some() {
            let (token, confidence) = (TokenId(0), Probability::ONE);
            let propose = |at| Proposal { at, token, confidence, margin: confidence, entropy: 0.0 };
            let proposals = sequence.canvas().blanks(0..20).map(propose).collect();
            let edits = sequence.advance(&Reading { proposals, ..Reading::default() }).unwrap().edits;
            let count = edits.iter().filter(|edit| matches!(edit, Edit::Erase { .. })).count();
            assert!(!edits.is_empty(), "a pass changes something");
            (passes, erased) = (passes + u32::from(count > 0), erased + count);
        }
        assert!(sequence.step() <= 200);
    }
    let chance = 1.0 - 0.98f64.powi(18);
    let mean = f64::from(passes) / RUNS as f64;
    // five standard errors
    let error = 5.0 * (180.0 * chance * (1.0 - chance) / RUNS as f64).sqrt();
    assert!((mean - 180.0 * chance).abs() < error, "{mean} passes, {} expected", 180.0 * chance);
    assert!(erased > passes as usize, "some erase two cells");
}
