//! How far the distributions of blanks move from pass to pass (KLASS, arXiv 2511.05664). Out of
//! scope: what follows from it.

use super::reading::Distribution;
use super::units::Position;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Divergences that a blank keeps: those of its last passes.
const KEPT: usize = 2;

/// What the blanks of one block keep of their last passes.
#[derive(Clone, Debug, Default)]
pub(super) struct Shifts {
    blanks: BTreeMap<Position, Blank>,
}

#[derive(Clone, Debug)]
struct Blank {
    last: Arc<[f32]>,
    /// The latest comes last; infinite where there was no pass before.
    divergences: [f32; KEPT],
}

impl Shifts {
    /// Takes a pass. Returns for each of its blanks the largest of the last two divergences, in
    /// nats; infinite for a blank that has been read fewer than three times in a row. What the pass
    /// did not read is forgotten.
    pub(super) fn take(&mut self, read: &[Distribution]) -> Vec<f32> {
        let mut before = std::mem::take(&mut self.blanks);
        let blank = |Distribution { at, log_probabilities: now }: &Distribution| {
            let divergences = before.remove(at).map_or([f32::INFINITY; KEPT], |Blank { last, divergences }| {
                let [_, latest] = divergences;
                [latest, divergence(now, &last)]
            });
            (*at, Blank { last: Arc::clone(now), divergences })
        };
        let blanks: Vec<(Position, Blank)> = read.iter().map(blank).collect();
        let largest = |(_, blank): &(Position, Blank)| blank.divergences.into_iter().fold(0.0, f32::max);
        let shifts = blanks.iter().map(largest).collect();
        self.blanks = blanks.into_iter().collect();
        shifts
    }

    /// Forgets a cell that was filled.
    pub(super) fn forget(&mut self, at: Position) {
        self.blanks.remove(&at);
    }
}

/// KL(p || q) in nats, of logarithms of probabilities over the same tokens.
fn divergence(p: &[f32], q: &[f32]) -> f32 {
    // terms in f32, their sum in f64
    let term = |(p, q): (&f32, &f32)| f64::from(if *p > f32::MIN { p.exp() * (p - q) } else { 0.0 });
    (p.iter().zip(q).map(term).sum::<f64>() as f32).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(at: u32, probabilities: [f32; 3]) -> Distribution {
        Distribution { at: Position(at), log_probabilities: probabilities.map(f32::ln).into() }
    }

    #[test]
    fn a_blank_has_moved_by_the_larger_of_its_last_two_divergences() {
        let mut shifts = Shifts::default();
        let (a, b, c) = ([0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.375, 0.375]);
        let ab = 0.25 * (0.5f32).ln() + 0.5 * (2.0f32).ln();
        let bc = 0.375 * (0.75f32).ln() + 0.375 * (1.5f32).ln();
        assert_eq!(shifts.take(&[read(4, a), read(7, c)]), [f32::INFINITY; 2]);
        assert_eq!(shifts.take(&[read(4, b), read(7, c)]), [f32::INFINITY; 2]);
        let found = shifts.take(&[read(4, c), read(7, c)]);
        assert!((found[0] - ab.max(bc)).abs() < 1e-6 && found[1] == 0.0, "{found:?}");
        let found = shifts.take(&[read(4, c), read(7, c)]);
        assert!((found[0] - bc).abs() < 1e-6, "{found:?}");
        // one that was filled, or not read, begins anew
        shifts.forget(Position(4));
        assert_eq!(shifts.take(&[read(4, c)]), [f32::INFINITY]);
        assert_eq!(shifts.take(&[read(4, c), read(7, c)]), [f32::INFINITY; 2]);
    }
}
