//! Numbers of a schema: their bounds and steps.

use super::budget::Budget;
use super::decimal::{Decimal, text};
use super::keywords::{TOKENS, known_of, size};
use super::path::Path;
use crate::api::error::{ApiError, ApiResult};
use crate::engine::Shape;
use crate::text::{DIGITS_MAX, Pattern};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Decimals of a number in a range, and the most that a narrow one may need.
const DECIMALS: u32 = 2;
const DECIMALS_MAX: u32 = 14;
/// A range with fewer numbers gets more decimals.
const NUMBERS_MIN: i128 = 10;
/// Digits of a number in a range that is open at an end, its sign included.
const DIGITS: u32 = 6;
/// Most multiples in a range, each of which becomes an option.
const MULTIPLES_MAX: i128 = 256;
/// Formats of a number say how programs hold it.
const NUMBER_FORMATS: &str = "int8 int16 int32 int64 uint8 uint16 uint32 uint64 int uint float double decimal";
const BOUNDS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
/// Programs that know no integer without bounds give these: 2^53 - 1.
const SAFE: i128 = 9_007_199_254_740_991;
/// Digits of a number that stays below that.
const SAFE_DIGITS: usize = 15;

/// The bounds of a schema. Each list has those that are there, and whether the range excludes them.
struct Bounds<'p> {
    lower: Vec<(Decimal, bool)>,
    upper: Vec<(Decimal, bool)>,
    /// Where errors point to.
    at: Path<'p>,
    /// As the schema has them, for errors.
    given: String,
}

/// The shape of a number, or of an integer.
pub(super) fn shape(
    schema: &Map<String, Value>,
    path: &Path<'_>,
    is_whole: bool,
    budget: &mut Budget,
) -> ApiResult<Shape> {
    known_of(schema, path, "number")?;
    let is_format =
        |format: &Value| format.as_str().is_some_and(|format| NUMBER_FORMATS.split(' ').any(|known| known == format));
    if let Some(format) = schema.get("format").filter(|format| !is_format(format)) {
        let message = format!("this cannot be kept; here only {} can", NUMBER_FORMATS.replace(' ', ", "));
        return Err(path.at("format").refused(format, &message));
    }
    let step = schema.get("multipleOf").map(|step| positive(step, path)).transpose()?;
    // an integer is a multiple of what divides 1
    let step = step.filter(|(step, _)| !(is_whole && Decimal::ONE.is_multiple_of(*step) == Some(true)));
    let steps = step.and_then(|(step, _)| power_of_ten(step));
    let is_whole = is_whole || steps == Some(0);
    let cells = size(schema, path, TOKENS)?;
    let bounds = Bounds::of(schema, path)?;
    if let (Some((step, given)), None) = (step, steps) {
        return bounds.multiples(step, is_whole, budget).unwrap_or_else(|| {
            let message = format!(
                "without near bounds, only 1, 0.1, 0.01 and so on can be kept; give minimum and maximum with at \
                 most {MULTIPLES_MAX} multiples between them, or leave it out"
            );
            Err(path.at("multipleOf").refused(given, &message))
        });
    }
    let decimals = if is_whole { 0 } else { steps.unwrap_or_else(|| bounds.decimals()) };
    let (low, high) = bounds.range(decimals);
    let largest = |digits: u32| 10_i128.pow(digits) - 1;
    let unit = 10_i128.pow(decimals);
    let (is_open_low, is_open_high) =
        (low.is_none_or(|low| low <= -SAFE * unit), high.is_none_or(|high| high >= SAFE * unit));
    if is_open_high && (steps.is_none() || is_whole) && (is_open_low || low == Some(0)) {
        // a bound that is given is one of 16 digits at least, or 0
        let has_bound = low.filter(|low| *low != 0).or(high).is_some();
        let places = SAFE_DIGITS + usize::from(is_open_low);
        return Ok(Shape::Number {
            cells: cells.map(|cells| if has_bound && is_whole { cells.min(places) } else { cells }),
            is_whole,
            is_signed: is_open_low,
            digits: has_bound.then_some(SAFE_DIGITS),
        });
    }
    budget.pattern(&bounds.at)?;
    let digits = cells.and_then(|cells| u32::try_from(cells).ok()).unwrap_or(DIGITS).clamp(1, 12) + decimals;
    let digits = digits.min(DIGITS_MAX);
    // as many numbers again as are below the bound
    let needed = |bound: i128| bound.saturating_mul(2).unsigned_abs().checked_ilog10().map_or(1, |log| log + 1);
    let far_low = -largest(digits.saturating_sub(1).max(high.map_or(1, |high| needed(high.min(0)))));
    let far_high = largest(digits.max(low.map_or(1, |low| needed(low.max(0)))));
    let low = if is_open_low { low.map_or(far_low, |low| low.max(far_low)) } else { low.unwrap_or(far_low) };
    let high = if is_open_high { high.map_or(far_high, |high| high.min(far_high)) } else { high.unwrap_or(far_high) };
    if low > high {
        return Err(bounds.empty(&match (is_whole, steps) {
            (true, _) => "no whole number".to_owned(),
            (false, Some(decimals)) => format!("no number with {decimals} decimals"),
            (false, None) => format!("no number with at most {DECIMALS_MAX} decimals"),
        }));
    }
    let pattern = Pattern::numbers(low, high, decimals);
    Ok(Shape::Range(Arc::new(pattern.map_err(|why| bounds.at.invalid(&format!("given {}; {why}", bounds.given)))?)))
}

fn positive<'s>(step: &'s Value, path: &Path<'_>) -> ApiResult<(Decimal, &'s Value)> {
    let number = Decimal::of(step).filter(|step| step.is_positive());
    number.map(|number| (number, step)).ok_or_else(|| path.at("multipleOf").refused(step, "give a number above 0"))
}

/// The decimals of the multiples of 1, 0.1 and so on.
fn power_of_ten(step: Decimal) -> Option<u32> {
    (0..=DECIMALS_MAX).find(|decimals| step.units(*decimals) == (1, true))
}

impl<'p> Bounds<'p> {
    fn of(schema: &Map<String, Value>, path: &'p Path<'p>) -> ApiResult<Self> {
        let side = |own: &str, exclusive: &str| -> ApiResult<Vec<(Decimal, bool)>> {
            let is_flagged = schema.get(exclusive) == Some(&Value::Bool(true));
            let mut all = Vec::new();
            for (word, excludes) in [(own, is_flagged), (exclusive, true)] {
                match schema.get(word) {
                    None => {}
                    Some(Value::Bool(_)) if word == exclusive => {}
                    Some(value) => {
                        let number = Decimal::of(value);
                        all.push((number.ok_or_else(|| path.at(word).refused(value, "give a number"))?, excludes));
                    }
                }
            }
            Ok(all)
        };
        let there: Vec<&str> = BOUNDS.into_iter().filter(|word| schema.contains_key(*word)).collect();
        let given: Vec<String> = there.iter().map(|word| format!("{word} {}", schema[*word])).collect();
        Ok(Self {
            lower: side("minimum", "exclusiveMinimum")?,
            upper: side("maximum", "exclusiveMaximum")?,
            at: path.at(BOUNDS.into_iter().find(|word| schema.contains_key(*word)).unwrap_or(BOUNDS[0])),
            given: given.join(", "),
        })
    }

    /// The lowest and the highest number, in units of the last of `decimals` decimals.
    fn range(&self, decimals: u32) -> (Option<i128>, Option<i128>) {
        let low = self.lower.iter().map(|(bound, excludes)| {
            let (units, is_exact) = bound.units(decimals);
            units + i128::from(!is_exact || *excludes)
        });
        let high = self.upper.iter().map(|(bound, excludes)| {
            let (units, is_exact) = bound.units(decimals);
            units - i128::from(is_exact && *excludes)
        });
        (low.max(), high.min())
    }

    /// The decimals with which the range has enough numbers; if none are enough, any.
    fn decimals(&self) -> u32 {
        let has = |count: i128| {
            move |decimals: &u32| match self.range(*decimals) {
                (Some(low), Some(high)) => high - low >= count - 1,
                (None, _) | (_, None) => true,
            }
        };
        let find = |count: i128| (DECIMALS..=DECIMALS_MAX).find(has(count));
        find(NUMBERS_MIN).or_else(|| find(1)).unwrap_or(DECIMALS)
    }

    /// The multiples of `step` in the range; `None` if they are too many, or not known.
    fn multiples(&self, step: Decimal, is_whole: bool, budget: &mut Budget) -> Option<ApiResult<Shape>> {
        let decimals = step.decimals();
        if is_whole && decimals > 0 || decimals > DECIMALS_MAX {
            return None;
        }
        let ((Some(low), Some(high)), (step, true)) = (self.range(decimals), step.units(decimals)) else { return None };
        let (first, last) = (low.div_euclid(step) + i128::from(low.rem_euclid(step) != 0), high.div_euclid(step));
        if last - first >= MULTIPLES_MAX {
            return None;
        }
        if last < first {
            return Some(Err(self.empty(&format!("no multiple of {}", text(step, decimals)))));
        }
        let options: Vec<String> = (first..=last).map(|number| text(number * step, decimals)).collect();
        Some(budget.options(&self.at, &options).map(|()| Shape::OneOf(options)))
    }

    fn empty(&self, what: &str) -> ApiError {
        self.at.invalid(&format!("given {}; {what} is in this range; give a wider one", self.given))
    }
}
