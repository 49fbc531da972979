//! Numbers of a schema: their bounds and steps.

use super::budget::Budget;
use super::keywords::{TOKENS, known, size, words_of};
use super::path::Path;
use crate::api::error::ApiResult;
use crate::engine::Shape;
use crate::text::Pattern;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Decimals of a number in a range.
const DECIMALS: u32 = 2;
/// Digits of a number in a range that is open at an end, its sign included.
const DIGITS: u32 = 6;
/// Formats of a number say how programs hold it.
const NUMBER_FORMATS: [&str; 6] = ["int32", "int64", "uint32", "uint64", "float", "double"];
const STEPS: &str = "this cannot be kept; here only 1, 0.1, 0.01, 0.001 and 0.0001 can";

/// The shape of a number, or of an integer.
pub(super) fn shape(
    schema: &Map<String, Value>,
    path: &Path<'_>,
    is_whole: bool,
    budget: &mut Budget,
) -> ApiResult<Shape> {
    const BOUNDS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
    known(schema, path, words_of("number"))?;
    let is_format = |format: &Value| format.as_str().is_some_and(|format| NUMBER_FORMATS.contains(&format));
    if schema.get("format").is_some_and(|format| !is_format(format)) {
        let message = format!("this cannot be kept; here only {} can", NUMBER_FORMATS.join(", "));
        return Err(path.at("format").invalid(&message));
    }
    let steps =
        schema.get("multipleOf").map(|step| decimals_of(step).ok_or_else(|| path.at("multipleOf").invalid(STEPS)));
    let steps = steps.transpose()?;
    let is_whole = is_whole || steps == Some(0);
    let cells = size(schema, path, TOKENS)?;
    let decimals = if is_whole { 0 } else { steps.unwrap_or(DECIMALS) };
    let low = bound(schema, path, ["minimum", "exclusiveMinimum"], decimals)?;
    let high = bound(schema, path, ["maximum", "exclusiveMaximum"], decimals)?;
    match (low, high) {
        (None, None) if decimals == 0 || steps.is_none() => {
            return Ok(Shape::Number { cells, is_whole, is_signed: true });
        }
        (Some(0), None) if decimals == 0 || steps.is_none() => {
            return Ok(Shape::Number { cells, is_whole, is_signed: false });
        }
        _ => {}
    }
    let word = BOUNDS.into_iter().find(|word| schema.contains_key(*word)).unwrap_or(BOUNDS[0]);
    let at = path.at(word);
    budget.pattern(&at)?;
    let digits =
        cells.and_then(|cells| u32::try_from(cells).ok()).unwrap_or(DIGITS).clamp(1, 12).min(15 - decimals) + decimals;
    let largest = |digits: u32| 10_i64.pow(digits) - 1;
    let needed = |bound: i64| bound.unsigned_abs().checked_ilog10().map_or(1, |log| log + 1);
    let (low, high) = match (low, high) {
        (Some(low), Some(high)) => (low, high),
        (Some(low), None) => (low, largest(digits.max(needed(low)))),
        (None, Some(high)) => (-largest(digits.saturating_sub(1).max(needed(high)).max(1)), high),
        (None, None) => (-largest(digits), largest(digits)),
    };
    let pattern = Pattern::numbers(low, high, decimals).map_err(|why| at.invalid(&why))?;
    Ok(Shape::Range(Arc::new(pattern)))
}

/// The decimals of the multiples of 1, 0.1 and so on.
fn decimals_of(step: &Value) -> Option<u32> {
    let step = step.as_f64()?;
    (0..=4_u32).find(|decimals| (step * 10f64.powi(decimals.cast_signed()) - 1.0).abs() < 1e-9)
}

/// A bound of a number, in units of its last decimal; `None` where there is none that matters.
/// `words`: the bound itself, and the one that is not part of the range, which may also be a flag.
fn bound(schema: &Map<String, Value>, path: &Path<'_>, words: [&str; 2], decimals: u32) -> ApiResult<Option<i64>> {
    /// Programs that know no integer without bounds give these: 2^53 - 1.
    const SAFE: f64 = 9_007_199_254_740_991.0;
    let is_lower = words[0] == "minimum";
    let is_flagged = schema.get(words[1]) == Some(&Value::Bool(true));
    let mut tightest: Option<i64> = None;
    for (word, excludes) in [(words[0], is_flagged), (words[1], true)] {
        let value = match schema.get(word) {
            None => continue,
            Some(Value::Bool(_)) if word == words[1] => continue,
            Some(value) => value.as_f64().ok_or_else(|| path.at(word).invalid("give a number"))?,
        };
        if value.abs() >= SAFE && (value < 0.0) == is_lower {
            continue;
        }
        let scaled = value * 10f64.powi(decimals.cast_signed());
        if scaled.abs() > 1e15 {
            return Err(path.at(word).invalid("this cannot be kept; give a number of at most 15 digits"));
        }
        let rounded = if is_lower { scaled.ceil() } else { scaled.floor() };
        #[allow(clippy::cast_possible_truncation)] // at most 1e15
        let mut unit = rounded as i64;
        #[allow(clippy::float_cmp)] // a bound that is itself a number of the range
        if excludes && rounded == scaled {
            unit += if is_lower { 1 } else { -1 };
        }
        let tighter = |known: i64| if is_lower { known.max(unit) } else { known.min(unit) };
        tightest = Some(tightest.map_or(unit, tighter));
    }
    Ok(tightest)
}
