//! Statistics: a trend with its standard error, a quantile of a histogram.

/// Number of intervals that a trend is fitted to. Samples a second apart are correlated; the means
/// of intervals hardly are.
const STRETCHES: usize = 25;

/// The slope of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Trend {
    /// By least squares, per second.
    pub(super) slope: f64,
    /// Standard error of the slope.
    pub(super) error: f64,
    /// Length of the series in seconds.
    pub(super) period: f64,
}

impl Trend {
    /// The trend of (seconds, value) in order of time; `None` where there are too few.
    pub(super) fn of(samples: &[(f64, f64)]) -> Option<Self> {
        let points: Vec<_> = samples.chunks(samples.len().div_ceil(STRETCHES).max(1)).map(mean_point).collect();
        let (count, middle) = (points.len() as f64, mean_point(&points));
        let spread: f64 = points.iter().map(|point| (point.0 - middle.0).powi(2)).sum();
        if points.len() < 3 || spread == 0.0 {
            return None;
        }
        let slope = points.iter().map(|point| (point.0 - middle.0) * (point.1 - middle.1)).sum::<f64>() / spread;
        let off = |point: &(f64, f64)| point.1 - middle.1 - slope * (point.0 - middle.0);
        let left: f64 = points.iter().map(|point| off(point).powi(2)).sum();
        let period = samples.last()?.0 - samples.first()?.0;
        Some(Self { slope, error: (left / (count - 2.0) / spread).sqrt(), period })
    }

    pub(super) fn growth(&self) -> f64 {
        self.slope * self.period
    }

    /// Whether the slope is within two standard errors of zero.
    pub(super) fn is_within_noise(&self) -> bool {
        self.slope.abs() < 2.0 * self.error
    }
}

fn mean_point(points: &[(f64, f64)]) -> (f64, f64) {
    (mean(points.iter().map(|point| point.0)), mean(points.iter().map(|point| point.1)))
}

/// The mean; zero of no values.
pub(super) fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (count, sum) = values.into_iter().fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
    if count == 0.0 { 0.0 } else { sum / count }
}

/// A quantile of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bucketed {
    /// The estimate of Prometheus' `histogram_quantile`, which takes values as evenly spread in a
    /// bucket.
    pub(super) value: f64,
    /// The bounds of the bucket it lies in.
    pub(super) from: f64,
    pub(super) to: f64,
}

/// The quantile of buckets by their upper bounds, the last infinite; `None` of an empty histogram.
pub(super) fn histogram_quantile(share: f64, buckets: &[(f64, f64)]) -> Option<Bucketed> {
    let rank = share * buckets.last().filter(|last| last.1 > 0.0)?.1;
    let index = buckets.iter().position(|(_, count)| *count >= rank)?;
    let (from, before) = if index == 0 { (0.0, 0.0) } else { buckets[index - 1] };
    let (to, count) = buckets[index];
    let value = if to.is_infinite() { from } else { from + (to - from) * (rank - before) / (count - before) };
    Some(Bucketed { value, from, to })
}

#[test]
fn a_trend_is_told_from_noise() {
    let noise = |index: usize| f64::from([0_i32, 3, -2, 1, -3, 2, -1][index * 5 % 7]);
    let samples = |slope: f64| (0..250).map(|i| (i as f64, 40.0 + slope * i as f64 + noise(i))).collect::<Vec<_>>();
    let (flat, steep) = (Trend::of(&samples(0.0)).unwrap(), Trend::of(&samples(0.1)).unwrap());
    assert!(flat.is_within_noise() && !steep.is_within_noise(), "{flat:?} {steep:?}");
    assert!((steep.slope - 0.1).abs() < 2.0 * steep.error && (steep.growth() - 24.9).abs() < 0.5, "{steep:?}");
    // R: summary(lm(c(1, 2, 4) ~ c(0, 1, 2)))
    let small = Trend::of(&[(0.0, 1.0), (1.0, 2.0), (2.0, 4.0)]).unwrap();
    assert!((small.slope - 1.5).abs() < 1e-9 && (small.error - 0.288_675).abs() < 1e-6, "{small:?}");
    assert_eq!((Trend::of(&[]), Trend::of(&[(0.0, 1.0), (1.0, 2.0)])), (None, None));
}

#[test]
fn quantiles_are_those_of_the_books() {
    use crate::common::figures::quantile;
    assert_eq!(quantile(0.99, (1..=200).map(f64::from)), 198.0);
    assert_eq!((quantile(0.5, [3.0]), quantile(0.5, [])), (3.0, 0.0));
    let buckets = [(1.0, 0.0), (2.0, 50.0), (4.0, 100.0), (f64::INFINITY, 100.0)];
    let told = |share| histogram_quantile(share, &buckets).map(|told| (told.value, told.from, told.to));
    assert_eq!((told(0.25), told(0.75)), (Some((1.5, 1.0, 2.0)), Some((3.0, 2.0, 4.0))));
    let beyond = histogram_quantile(0.5, &[(1.0, 0.0), (f64::INFINITY, 3.0)]).unwrap();
    assert_eq!((beyond.value, beyond.from), (1.0, 1.0));
    assert_eq!(histogram_quantile(0.5, &[(1.0, 0.0), (f64::INFINITY, 0.0)]), None);
}
