//! ReMDM-conf (arXiv 2503.00307, section 4.1) on a schedule that counts. The paper erases each cell
//! by itself with a probability of sigma times a softmax over minus the confidences; here the
//! step's planned number of cells is drawn from the same softmax.

use super::remask::{BUDGET, WINDOW, erase_by};
use super::rule::Rule;
use crate::diffusion::random::Purpose;

/// Cells of the block drawn without replacement, each with a chance proportional to
/// exp(-confidence when it was filled).
pub static REMDM: Rule = Rule {
    name: "remdm",
    help: "Cells drawn at random; a low confidence when filled raises the chance (ReMDM-conf).",
    source: "arXiv 2503.00307",
    knobs: &[&BUDGET, &WINDOW],
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

#[cfg(test)]
mod tests {
    use super::super::rule::{Choice, FilledCell};
    use super::*;
    use crate::diffusion::random::{DrawKey, Seed};
    use crate::diffusion::units::{Position, Probability, TokenId};

    #[test]
    fn remdm_sooner_erases_what_was_filled_with_little_confidence() {
        const DRAWS: u64 = 20_000;
        let confidences = [0.1, 0.5, 0.9, 1.0].map(|confidence| Probability::new(confidence).unwrap());
        let filled: Vec<FilledCell> =
            (0..).zip(confidences).map(|(at, confidence)| filled_cell(at, confidence)).collect();
        let mut counts = [0u32; 4];
        for seed in 0..DRAWS {
            let edits = Choice::of(&REMDM).decide(&[], &filled, DrawKey { seed: Seed(seed), step: 0 });
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

    fn filled_cell(at: u32, confidence: Probability) -> FilledCell {
        FilledCell {
            at: Position(at),
            token: TokenId(at),
            confidence,
            age: 1,
            quality: None,
            present: None,
            memory: 0.0,
        }
    }
}
