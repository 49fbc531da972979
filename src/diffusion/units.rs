//! Token ids, positions and probabilities.

use std::fmt;

/// A token of the model's vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u32);

/// A cell of a canvas, counted from the canvas's first cell (prompt included).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u32);

impl Position {
    /// The position as an index into a slice of cells.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The position of the `index`-th cell.
    ///
    /// # Panics
    /// When `index` does not fit 32 bits, which no canvas reaches.
    pub const fn at(index: usize) -> Self {
        Self(u32_of(index))
    }
}

/// A count of cells, tokens, steps or ids in 32 bits.
///
/// # Panics
/// When it does not fit. Admission bounds every canvas far below that.
pub const fn u32_of(count: usize) -> u32 {
    assert!(count <= u32::MAX as usize, "a count fits 32 bits");
    count as u32
}

/// A count with its noun, for people: `1 block`, `2 blocks`. `noun` is in the singular, and its
/// plural has an `s`.
pub fn counted(count: impl fmt::Display + PartialEq + From<u8> + Copy, noun: &str) -> String {
    let plural = if count == 1.into() { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// A number in `[0, 1]`: finite, hence totally ordered. A NaN stops where a `Probability` is made.
#[derive(Clone, Copy, PartialEq)]
pub struct Probability(f32);

impl Probability {
    /// 0.
    pub const ZERO: Self = Self(0.0);
    /// 0.5.
    pub const HALF: Self = Self(0.5);
    /// 1.
    pub const ONE: Self = Self(1.0);

    /// `None` unless `value` is finite and in `[0, 1]`.
    pub fn new(value: f32) -> Option<Self> {
        (0.0..=1.0).contains(&value).then_some(Self(value))
    }

    /// A value computed in floating point: rounding may have carried it a little past 0 or 1, which
    /// is forgiven; NaN and infinities are `None`.
    pub fn rounded(value: f32) -> Option<Self> {
        value.is_finite().then(|| Self(value.clamp(0.0, 1.0)))
    }

    /// The number itself.
    pub const fn get(self) -> f32 {
        self.0
    }
}

/// Quality below which a token counts as doubtful where a request does not say: more likely wrong
/// than right.
pub const DOUBTFUL: f32 = 0.5;

impl Eq for Probability {}

impl PartialOrd for Probability {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Probability {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl fmt::Debug for Probability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probability_is_finite_and_between_zero_and_one() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.001, 1.001] {
            assert_eq!(Probability::new(bad), None, "{bad}");
        }
        assert_eq!(Probability::rounded(1.000_001), Some(Probability::ONE));
        assert_eq!(Probability::rounded(f32::NAN), None);
    }

    #[test]
    fn probabilities_are_ordered() {
        let half = Probability::new(0.5).unwrap();
        assert!(Probability::ZERO < half && half < Probability::ONE);
    }
}
