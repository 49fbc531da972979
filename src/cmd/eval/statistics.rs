//! Confidence intervals, calibration errors and areas under ROC curves.

use serde::Serialize;

/// The two-sided 95 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// A share of successes with its 95 % interval (Wilson 1927).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Share {
    pub(super) successes: usize,
    pub(super) of: usize,
    pub(super) share: f64,
    pub(super) from: f64,
    pub(super) until: f64,
}

impl Share {
    pub(super) fn new(successes: usize, of: usize) -> Self {
        let (n, share) = (of.max(1) as f64, successes as f64 / of.max(1) as f64);
        let scale = (1.0 + Z * Z / n).recip();
        let centre = scale * (share + Z * Z / (2.0 * n));
        let half = scale * Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        Self { successes, of, share, from: (centre - half).max(0.0), until: (centre + half).min(1.0) }
    }
}

/// A difference of two shares of successes on the same tasks, with its 95 % interval, which is that
/// of pairs, with half a pair more of each kind (Agresti and Min 2005).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Difference {
    pub(super) share: f64,
    pub(super) from: f64,
    pub(super) until: f64,
}

impl Difference {
    /// How much more often `these` are right than `others`, task by task.
    pub(super) fn new(others: &[bool], these: &[bool]) -> Self {
        let count = |wanted| others.iter().zip(these).filter(|pair| *pair == wanted).count() as f64;
        let (better, worse) = (count((&false, &true)), count((&true, &false)));
        let n = these.len().max(1) as f64;
        let (more, fewer, of) = (better + 0.5, worse + 0.5, n + 2.0);
        let centre = (more - fewer) / of;
        let half = Z * (more + fewer - (more - fewer).powi(2) / of).sqrt() / of;
        Self { share: (better - worse) / n, from: (centre - half).max(-1.0), until: (centre + half).min(1.0) }
    }
}

/// One tenth of a reliability table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Bin {
    pub(super) count: usize,
    /// Mean of the predicted probabilities.
    pub(super) predicted: f64,
    /// Mean of the true probabilities or outcomes.
    pub(super) found: f64,
}

/// A reliability table: predicted probabilities against true ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Reliability {
    /// Ten equal bins of the predicted probability.
    pub(super) bins: [Bin; 10],
    /// Expected calibration error: mean distance of `predicted` and `found`, weighted by `count`.
    pub(super) expected_error: f64,
}

impl Reliability {
    /// From pairs of a predicted probability and its outcome, 0 or 1, or the true probability.
    pub(super) fn of(pairs: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut bins = [Bin::default(); 10];
        let mut total = 0;
        for (predicted, found) in pairs {
            let bin = &mut bins[((predicted * 10.0) as usize).min(9)];
            bin.count += 1;
            bin.predicted += predicted;
            bin.found += found;
            total += 1;
        }
        let distances = bins.iter().map(|bin| (bin.predicted - bin.found).abs()).sum::<f64>();
        let expected_error = distances / f64::from(total.max(1));
        for bin in bins.iter_mut().filter(|bin| bin.count > 0) {
            bin.predicted /= bin.count as f64;
            bin.found /= bin.count as f64;
        }
        Self { bins, expected_error }
    }
}

/// The area under the ROC curve: the probability that a right one (true) scores above a wrong one
/// (false), ties counting half. `None` unless there are both.
pub(super) fn area_under_curve(scored: &[(f64, bool)]) -> Option<f64> {
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut area) = (0.0, 0.0);
    for group in sorted.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        let right = group.iter().filter(|(_, is_right)| *is_right).count();
        let (right, wrong) = (right as f64, (group.len() - right) as f64);
        area += right * (below + wrong / 2.0);
        below += wrong;
    }
    let (right, wrong) = (scored.len() as f64 - below, below);
    (right > 0.0 && wrong > 0.0).then(|| area / (right * wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_wilsons() {
        // Newcombe 1998, table I: 81 of 263 and 0 of 20
        let share = Share::new(81, 263);
        assert!((share.from - 0.2553).abs() < 5e-5 && (share.until - 0.3662).abs() < 5e-5, "{share:?}");
        let share = Share::new(0, 20);
        assert!(share.from.abs() < 1e-9 && (share.until - 0.1611).abs() < 5e-5, "{share:?}");
    }

    #[test]
    fn the_interval_of_a_difference_is_that_of_pairs() {
        // 794, 86, 150 and 570 of 1,600 pairs, worked out by hand from the formula
        let pairs = [(true, true, 794), (false, true, 86), (true, false, 150), (false, false, 570)];
        let all = pairs.iter().flat_map(|&(first, second, count)| std::iter::repeat_n((first, second), count));
        let (first, second): (Vec<bool>, Vec<bool>) = all.unzip();
        let Difference { share, from, until } = Difference::new(&first, &second);
        assert!((share + 0.04).abs() < 1e-12, "{share}");
        assert!((from + 0.0587).abs() < 1e-4 && (until + 0.0213).abs() < 1e-4, "{from} {until}");
        let none = Difference::new(&[true; 10], &[true; 10]);
        assert!(none.share.abs() < 1e-12 && none.from < 0.0 && none.until > 0.0, "{none:?}");
    }

    #[test]
    fn an_honest_forecaster_has_no_error_and_a_boaster_has() {
        let honest = (0..100).map(|index| (0.25, f64::from(u8::from(index % 4 == 0))));
        assert!(Reliability::of(honest).expected_error < 1e-12);
        let boaster = (0..100).map(|index| (0.95, f64::from(u8::from(index % 2 == 0))));
        let boaster = Reliability::of(boaster);
        assert!((boaster.expected_error - 0.45).abs() < 1e-12);
        assert_eq!((boaster.bins[9].count, boaster.bins[2].count), (100, 0));
        assert_eq!(Reliability::of([(1.0, 1.0)]).bins[9].count, 1);
    }

    #[test]
    fn the_area_counts_pairs_in_the_right_order() {
        let scored = [(0.1, false), (0.4, true), (0.35, false), (0.8, true)];
        assert_eq!(area_under_curve(&scored), Some(1.0));
        let scored = [(0.1, false), (0.4, false), (0.35, true), (0.8, true)];
        assert_eq!(area_under_curve(&scored), Some(0.75));
        assert_eq!(area_under_curve(&[(0.5, true), (0.5, false)]), Some(0.5));
        assert_eq!(area_under_curve(&[(0.5, true)]), None);
    }
}
