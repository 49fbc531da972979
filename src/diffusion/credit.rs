//! Credit: what a blank keeps of the tokens that earlier passes found most probable there
//! (CreditDecoding, arXiv 2510.06133; dInfer). Out of scope: logits.

use super::policy::{CREDIT, CREDIT_DECAY, CREDIT_POWER, Settings};
use super::reading::Best;
use super::units::{Position, TokenId};
use std::collections::BTreeMap;

/// Credits below this are forgotten: it bounds what a blank keeps, and changes no logit that an f32
/// could show.
const LEAST: f32 = 1e-6;

/// The credits of the blanks of one sequence: C <- decay C in each pass, then C\[favourite\] +=
/// p^power; logit + weight ln(1 + C).
#[derive(Clone, Debug, PartialEq)]
pub struct Credits {
    weight: f32,
    decay: f32,
    power: f32,
    /// What is left of each blank's credits in the next pass, before that adds to them.
    held: BTreeMap<Position, Vec<(TokenId, f32)>>,
}

impl Credits {
    /// No credit yet. `weight` and `power` are not negative, `decay` is from 0 to 1.
    pub const fn new(weight: f32, decay: f32, power: f32) -> Self {
        Self { weight, decay, power, held: BTreeMap::new() }
    }

    /// As the knobs of an order ask for it, their defaults included; `None` without credit.
    pub(super) fn of(settings: &Settings) -> Option<Self> {
        let weight = settings.number(CREDIT.name).filter(|weight| *weight > 0.0)?;
        let number = |knob| settings.number(knob).unwrap_or(1.0);
        Some(Self::new(weight, number(CREDIT_DECAY.name), number(CREDIT_POWER.name)))
    }

    /// What the next pass needs to know about a blank.
    pub fn at(&self, at: Position) -> Credit<'_> {
        let held = self.held.get(&at).map_or(&[][..], Vec::as_slice);
        Credit { weight: self.weight, power: self.power, held }
    }

    /// Takes a pass: the most probable token of each blank without credit.
    pub fn take(&mut self, favourites: &[Best]) {
        for Best { at, token, confidence } in favourites {
            let gain = self.at(*at).gain(confidence.get());
            let held = self.held.entry(*at).or_default();
            match held.iter_mut().find(|(other, _)| other == token) {
                Some((_, credit)) => *credit += gain,
                None => held.push((*token, gain)),
            }
            held.iter_mut().for_each(|(_, credit)| *credit *= self.decay);
            held.retain(|(_, credit)| *credit >= LEAST);
        }
    }

    /// Forgets the credits of a cell that was filled.
    pub fn forget(&mut self, at: Position) {
        self.held.remove(&at);
    }
}

/// The credits of one blank before a pass adds to them.
#[derive(Clone, Copy, Debug)]
pub struct Credit<'a> {
    /// The logit of a token gains this times ln(1 + its credit); above 0.
    pub weight: f32,
    /// The favourite of the pass gains its probability to this power.
    pub power: f32,
    /// What is left of earlier passes, each token once, above 0.
    pub held: &'a [(TokenId, f32)],
}

impl Credit<'_> {
    /// What the favourite of a pass gains.
    pub(crate) fn gain(&self, probability: f32) -> f32 {
        probability.powf(self.power)
    }

    /// What is added to the logit of a token with this credit.
    pub(crate) fn bonus(&self, credit: f32) -> f32 {
        self.weight * credit.ln_1p()
    }
}

#[cfg(test)]
mod tests {
    use super::super::units::Probability;
    use super::*;

    #[test]
    fn credit_fades_and_grows_with_the_probability_of_the_favourite() {
        let mut credits = Credits::new(0.7, 0.8, 0.2);
        let best = |token, p| Best { at: Position(3), token: TokenId(token), confidence: Probability::new(p).unwrap() };
        for favourite in [best(5, 0.5), best(5, 0.9), best(8, 0.3)] {
            credits.take(&[favourite]);
        }
        let [first, second, third] = [0.5f32, 0.9, 0.3].map(|p| p.powf(0.2));
        let expected = [(5, 0.8 * 0.8 * (0.8 * first + second)), (8, 0.8 * third)];
        let held = credits.at(Position(3)).held;
        for ((token, credit), (expected_token, expected_credit)) in held.iter().zip(expected) {
            assert_eq!(token.0, expected_token);
            assert!((credit - expected_credit).abs() < 1e-6, "{credit} {expected_credit}");
        }
        assert_eq!((held.len(), credits.at(Position(4)).held.len()), (2, 0));
        credits.forget(Position(3));
        assert!(credits.at(Position(3)).held.is_empty());
        // what has faded is forgotten, so that no more is kept than passes count
        (0..1000).for_each(|token| credits.take(&[best(token, 1.0)]));
        assert!(credits.at(Position(3)).held.len() < 70);
    }
}
