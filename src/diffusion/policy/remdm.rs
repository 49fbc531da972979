//! ReMDM (arXiv 2503.00307, section 4.1): remasking at random, so that a run's canvases keep the
//! distribution they have without it. With alpha_t and alpha_s, the filled shares before and after
//! a step, each filled cell is erased with a probability of at most (1 - alpha_s) / alpha_t. Unlike
//! in the paper, the budget and the blanks that can be filled again bound a step's number of cells.
//!
//! The paper's "conf" multiplies that with a softmax over minus the confidences; here the step's
//! planned number of cells is drawn from the same softmax.

use super::knob::{Knob, Range, Setting};
use super::remask::{BUDGET, HOLD, WINDOW, erase_by};
use super::rule::{Count, Rule, View};
use crate::diffusion::canvas::Edit;
use crate::diffusion::random::Purpose;

/// Cells of the block drawn without replacement, each with a chance proportional to
/// exp(-confidence when it was filled).
pub static REMDM: Rule = Rule {
    name: "remdm",
    help: "Cells drawn at random; a low confidence when filled raises the chance (ReMDM-conf).",
    source: "arXiv 2503.00307",
    knobs: &[&BUDGET, &WINDOW, &HOLD],
    // An exponential clock of rate exp(-confidence) for each cell: the first ones to ring are a
    // draw without replacement with chances proportional to the rates.
    decide: |view| {
        erase_by(view.filled.iter(), |cell| {
            let uniform = view.key.uniform(Purpose::Erase, cell.at);
            let rings = -uniform.ln() * f64::from(cell.confidence.get()).exp();
            rings.to_bits() // of a positive number, hence in its order
        })
    },
    ..Rule::NONE
};

/// The paper's eta.
static ETA: Knob = Knob {
    name: "eta",
    help: "Of `remdm_cap`, the highest probability with which a step erases a cell; of `remdm_rescale`, the share of \
           the highest possible one; default: 0.02.",
    range: Range::Fraction,
    default: |_, _| Some(Setting::Number(0.02)),
};

/// Each cell with a probability that is capped.
pub static CAP: Rule = Rule {
    name: "remdm_cap",
    help: "Each cell with the probability `eta`, as far as blanks are left for it (ReMDM-cap).",
    source: "arXiv 2503.00307",
    knobs: &[&BUDGET, &ETA, &WINDOW, &HOLD],
    count: Count::Own,
    decide: |view| each(view, f64::min),
    ..Rule::NONE
};

/// Each cell with a share of the highest possible probability.
pub static RESCALE: Rule = Rule {
    name: "remdm_rescale",
    help: "Each cell with `eta` times the highest possible probability (ReMDM-rescale).",
    decide: |view| each(view, |most, eta| most * eta),
    ..CAP
};

/// Erases each cell by itself, with a probability made of the highest possible one and eta.
fn each(view: &View<'_>, sigma: impl Fn(f64, f64) -> f64) -> Vec<Edit> {
    let [before, after] = view.progress().map(f64::from);
    let most = ((1.0 - after) / before.max(f64::EPSILON)).min(1.0);
    let sigma = sigma(most, view.settings.number(ETA.name).map_or(0.0, f64::from));
    let uniform = |at| view.key.uniform(Purpose::Erase, at);
    erase_by(view.filled.iter().filter(|cell| uniform(cell.at) < sigma), |cell| uniform(cell.at).to_bits())
}

#[cfg(test)]
mod tests {
    use super::super::rule::{Choice, FilledCell};
    use super::*;
    use crate::diffusion::random::{DrawKey, Seed};
    use crate::diffusion::reading::Proposal;
    use crate::diffusion::units::{Position, Probability, TokenId};

    #[test]
    fn remdm_sooner_erases_what_was_filled_with_little_confidence() {
        const DRAWS: u64 = 20_000;
        let confidences = [0.1, 0.5, 0.9, 1.0].map(|confidence| Probability::new(confidence).unwrap());
        let filled: Vec<FilledCell> =
            (0..).zip(confidences).map(|(at, confidence)| filled_cell(at, confidence)).collect();
        let mut counts = [0u32; 4];
        for seed in 0..DRAWS {
            let key = DrawKey { seed: Seed(seed), step: 0 };
            let edits = Choice::of(&REMDM).decide(View::of(&[], &filled, key));
            counts[edits[0].at().index()] += 1;
        }
        let weights = confidences.map(|confidence| f64::from(-confidence.get()).exp());
        let mass: f64 = weights.iter().sum();
        let distance = |(weight, count): (&f64, u32)| {
            let expected = DRAWS as f64 * weight / mass;
            (f64::from(count) - expected).powi(2) / expected
        };
        let chi2: f64 = weights.iter().zip(counts).map(distance).sum();
        // 3 degrees of freedom exceed 21.1 once in ten thousand times
        assert!(chi2 < 21.1, "{chi2} {counts:?}");
    }

    /// How often each cell is erased, of the draws of many seeds.
    fn rate(rule: &'static Rule, eta: f32, blanks: usize, due: u32) -> f64 {
        let filled: Vec<FilledCell> = (0..4).map(|at| filled_cell(at, Probability::ONE)).collect();
        let proposals = vec![blank(); blanks];
        let erased = |seed| {
            let view = View::of(&proposals, &filled, DrawKey { seed: Seed(seed), step: 0 });
            Choice::of(rule).with("eta", eta).decide(View { due, blanks_at_start: 8, ..view }).len()
        };
        (0..5_000).map(erased).sum::<usize>() as f64 / 20_000.0
    }

    #[test]
    fn each_cell_is_erased_with_the_probability_of_the_paper() {
        // of eight cells four are filled, and a step fills two: at most (1 - 6 / 8) / (4 / 8) = 0.5
        for (rule, eta, expected) in [(&CAP, 0.1, 0.1), (&CAP, 0.9, 0.5), (&RESCALE, 0.1, 0.05), (&RESCALE, 1.0, 0.5)] {
            let rate = rate(rule, eta, 4, 2);
            // five standard errors of 20,000 draws
            assert!(
                (rate - expected).abs() < 5.0 * (expected * (1.0 - expected) / 20_000.0).sqrt(),
                "{rate} {expected}"
            );
        }
        // while the number of filled cells is held: (1 - 6 / 8) / (6 / 8)
        let held = rate(&RESCALE, 0.6, 2, 0);
        assert!((held - 0.2).abs() < 0.015, "{held}");
        // a step that fills the rest erases nothing, since nothing could be filled again
        assert!(rate(&CAP, 1.0, 4, 4) == 0.0);
    }

    fn blank() -> Proposal {
        let (at, token, confidence, margin) = (Position(9), TokenId(0), Probability::ONE, Probability::ONE);
        Proposal { at, token, confidence, margin, entropy: 0.0 }
    }

    fn filled_cell(at: u32, confidence: Probability) -> FilledCell {
        FilledCell {
            at: Position(at),
            token: TokenId(at),
            confidence,
            age: 1,
            quality: None,
            present: None,
            best: None,
            memory: 0.0,
        }
    }
}
