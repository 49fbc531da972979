//! The pattern of the numbers in a range: as many characters for each, spaces before the shorter
//! ones, and a fixed number of decimals.

use super::pattern::{Pattern, Step};
use std::collections::BTreeMap;

/// Most digits of a number.
pub const DIGITS_MAX: u32 = 24;

/// The numbers of one sign, by their digits without it.
struct Side {
    is_negative: bool,
    /// As many digits as all numbers have, zeros first.
    low: Vec<u8>,
    high: Vec<u8>,
}

/// Where a number stands once some of its digits are written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    is_negative: bool,
    /// The next digit.
    digit: usize,
    /// Whether the digits so far are those of the lowest number, or of the highest.
    is_lowest: bool,
    is_highest: bool,
    has_begun: bool,
}

struct Builder {
    sides: Vec<Side>,
    digits: usize,
    decimals: usize,
    steps: Vec<Step>,
    known: BTreeMap<Place, Vec<usize>>,
}

impl Pattern {
    /// The numbers from `low` to `high`, both in units of the last of `decimals` decimals, as in
    /// `-12.50`. All have the same number of characters; shorter ones begin with spaces.
    ///
    /// # Errors
    /// When there are none, or they have more than [`DIGITS_MAX`] digits.
    pub fn numbers(low: i128, high: i128, decimals: u32) -> Result<Self, String> {
        if low > high {
            return Err("no number is in the range".to_owned());
        }
        let most = low.unsigned_abs().max(high.unsigned_abs());
        let digits = most.checked_ilog10().map_or(1, |log| log + 1).max(decimals + 1);
        if digits > DIGITS_MAX {
            return Err(format!("its numbers have up to {digits} digits; give a range of at most {DIGITS_MAX}"));
        }
        let written = |number: u128| -> Vec<u8> {
            let text = format!("{number:0width$}", width = digits as usize);
            text.bytes().map(|digit| digit - b'0').collect()
        };
        let side = |is_negative, low: u128, high: u128| Side { is_negative, low: written(low), high: written(high) };
        let mut sides = Vec::new();
        if high >= 0 {
            sides.push(side(false, low.max(0).unsigned_abs(), high.unsigned_abs()));
        }
        if low < 0 {
            sides.push(side(true, high.min(-1).unsigned_abs(), low.unsigned_abs()));
        }
        let (digits, decimals) = (digits as usize, decimals as usize);
        let mut builder = Builder { sides, digits, decimals, steps: Vec::new(), known: BTreeMap::new() };
        let first = builder.beginnings(0);
        Self::new(builder.steps, first, false)
    }
}

impl Builder {
    /// The steps with which cell `cell` may begin, where there have been only spaces so far.
    fn beginnings(&mut self, cell: usize) -> Vec<usize> {
        let signed = usize::from(self.sides.iter().any(|side| side.is_negative));
        let units = signed + self.digits - self.decimals - 1; // the cell of the last digit before the point
        let mut steps = Vec::new();
        if cell < units {
            let next = self.beginnings(cell + 1);
            steps.extend(self.step((' ', ' '), next, false));
        }
        for is_negative in [false, true] {
            // a sign stands before its first digit
            let digit = if is_negative { Some(cell) } else { cell.checked_sub(signed) };
            let Some(digit) = digit.filter(|digit| *digit < self.digits - self.decimals) else { continue };
            let Some(side) = self.sides.iter().find(|side| side.is_negative == is_negative) else { continue };
            let skipped = |number: &[u8]| number[..digit].iter().all(|digit| *digit == 0);
            if !skipped(&side.low) {
                continue; // the number would be too low
            }
            let is_highest = skipped(&side.high);
            let place = Place { is_negative, digit, is_lowest: true, is_highest, has_begun: false };
            let digits = self.digits_at(place);
            if is_negative {
                steps.extend(self.step(('-', '-'), digits, false));
            } else {
                steps.extend(digits);
            }
        }
        steps
    }

    fn digits_at(&mut self, place: Place) -> Vec<usize> {
        if let Some(steps) = self.known.get(&place) {
            return steps.clone();
        }
        let Place { is_negative, digit, is_lowest, is_highest, has_begun } = place;
        let is_last_unit = digit + self.decimals + 1 == self.digits;
        let side = self.sides.iter().find(|side| side.is_negative == is_negative);
        let Some((low, high)) = side.map(|side| (side.low[digit], side.high[digit])) else { return Vec::new() };
        let least = if is_lowest { low } else { 0 }.max(u8::from(!has_begun && !is_last_unit));
        let most = if is_highest { high } else { 9 };
        let mut steps = Vec::new();
        // digits with the same sequel are one step
        let ends = |first: u8| (is_lowest && first == low, is_highest && first == high);
        let digits: Vec<u8> = (least..=most).collect();
        for same in digits.chunk_by(|a, b| ends(*a) == ends(*b)) {
            let (first, last) = (same[0], same[same.len() - 1]);
            let (is_lowest, is_highest) = ends(first);
            let next = Place { is_negative, digit: digit + 1, is_lowest, is_highest, has_begun: true };
            let is_end = digit + 1 == self.digits;
            let mut after = if is_end { Vec::new() } else { self.digits_at(next) };
            if is_last_unit && self.decimals > 0 {
                after = self.step(('.', '.'), after, false).into_iter().collect();
            }
            let written = |digit: u8| char::from(b'0' + digit);
            steps.extend(self.step((written(first), written(last)), after, is_end));
        }
        self.known.insert(place, steps.clone());
        steps
    }

    /// A step; none where nothing can follow it.
    fn step(&mut self, characters: (char, char), next: Vec<usize>, may_end: bool) -> Option<usize> {
        if next.is_empty() && !may_end {
            return None;
        }
        self.steps.push(Step { characters: vec![characters], next, may_end });
        Some(self.steps.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every text of a pattern of numbers.
    fn texts(pattern: &Pattern) -> Vec<String> {
        let mut open: Vec<(String, usize)> = pattern.first.iter().map(|step| (String::new(), *step)).collect();
        let mut texts = Vec::new();
        while let Some((before, step)) = open.pop() {
            let step = &pattern.steps[step];
            for character in step.characters[0].0..=step.characters[0].1 {
                let text = format!("{before}{character}");
                open.extend(step.next.iter().map(|next| (text.clone(), *next)));
                texts.extend(step.may_end.then_some(text));
            }
        }
        texts.sort();
        texts
    }

    proptest! {
        #[test]
        fn a_range_is_exactly_its_numbers(low in -300i128..300, length in 0i128..300, decimals in 0u32..3) {
            let high = low + length;
            let texts = texts(&Pattern::numbers(low, high, decimals).unwrap());
            prop_assert_eq!(texts.len() as i128, length + 1, "{:?}", texts);
            let width = texts[0].len();
            for text in &texts {
                prop_assert_eq!(text.len(), width);
                let number: f64 = serde_json::from_str(text.trim_start()).unwrap();
                let units = (number * 10f64.powi(decimals as i32)).round() as i128;
                prop_assert!((low..=high).contains(&units), "{}", text);
            }
        }
    }

    #[test]
    fn an_impossible_range_says_so() {
        assert!(Pattern::numbers(2, 1, 0).is_err());
        assert!(Pattern::numbers(0, 1 << 100, 0).unwrap_err().contains("at most 24"));
        assert!(Pattern::numbers(i128::MIN, i128::MAX, 14).unwrap_err().contains("at most 24"));
        let largest = 10_i128.pow(DIGITS_MAX) - 1;
        assert_eq!(Pattern::numbers(-largest, largest, 0).unwrap().lengths(), (25, 25));
    }
}
