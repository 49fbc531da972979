//! A JSON Schema as a shape of answers.

use super::budget::Budget;
use super::combine::{alternative, resolved};
use super::keywords::{TOKENS, kind, known, size, upper_size};
use super::path::Path;
use crate::api::error::ApiResult;
use crate::engine::Shape;
use crate::text::{LENGTH_MAX, Pattern};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Places of an array without `maxItems`.
const PLACES: usize = 4;
/// Places of an array with a larger `maxItems` at most, if `minItems` does not ask for more.
const PLACES_MAX: usize = 16;
/// Decimals of a number in a range.
const DECIMALS: u32 = 2;
/// Digits of a number in a range that is open at an end, its sign included.
const DIGITS: u32 = 6;
/// Formats of a number say how programs hold it.
const NUMBER_FORMATS: [&str; 4] = ["int32", "int64", "float", "double"];
/// Formats of a string that constrain nothing which a canvas could break.
const PLAIN_FORMATS: [&str; 2] = ["password", "binary"];
const TIME: &str = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z";
/// The months of 31, 30 and 28 days, and the 29th of February of a leap year.
const DATE: &str = "([12][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|\
                    02-(0[1-9]|1[0-9]|2[0-8]))|\
                    (([12][0-9](0[48]|[2468][048]|[13579][26]))|([12][048]00|1[26]00|2[048]00))-02-29)";
const HEX: &str = "[0-9a-f]";

/// The shape of the answers that satisfy `schema`.
pub(super) fn shape(schema: &Value, path: &Path<'_>, budget: &mut Budget) -> ApiResult<Shape> {
    Reader { root: schema, budget }.shape(schema, path, 0)
}

struct Reader<'a> {
    /// What references lead into.
    root: &'a Value,
    budget: &'a mut Budget,
}

impl Reader<'_> {
    fn shape(&mut self, schema: &Value, path: &Path<'_>, depth: usize) -> ApiResult<Shape> {
        let schema = &*resolved(self.root, schema, path, depth, self.budget)?;
        for word in ["anyOf", "oneOf"] {
            if let Some(options) = schema.get(word) {
                known(schema, path, &[word, "type"])?;
                let at = path.at(word);
                let options = options.as_array().ok_or_else(|| at.invalid("give an array of schemas"))?;
                let only = alternative(self.root, options, &at, depth + 1, self.budget)?;
                return self.shape(&only, &at, depth + 1);
            }
        }
        if let Some(given) = schema.get("const") {
            known(schema, path, &["const", "type"])?;
            let given = given.to_string();
            self.budget.text(path, &given)?;
            return Ok(Shape::Constant(given));
        }
        if let Some(options) = schema.get("enum") {
            known(schema, path, &["enum", "type"])?;
            let at = path.at("enum");
            let options = options.as_array().filter(|options| !options.is_empty());
            let options = options.ok_or_else(|| at.invalid("give an array of at least one value"))?;
            let options: Vec<String> = options.iter().map(Value::to_string).collect();
            self.budget.options(&at, &options)?;
            return Ok(Shape::OneOf(options));
        }
        match kind(schema, path)? {
            "object" => self.object(schema, path, depth),
            "array" => self.array(schema, path, depth),
            "string" => self.string(schema, path),
            word @ ("integer" | "number") => self.number(schema, path, word == "integer"),
            "boolean" => {
                known(schema, path, &["type"])?;
                Ok(Shape::OneOf(vec!["true".to_owned(), "false".to_owned()]))
            }
            "null" => Ok(Shape::Constant("null".to_owned())),
            _ => Err(path.at("type").invalid("give object, array, string, number, integer, boolean or null")),
        }
    }

    fn object(&mut self, schema: &Map<String, Value>, path: &Path<'_>, depth: usize) -> ApiResult<Shape> {
        known(schema, path, &["type", "properties", "required", "additionalProperties"])?;
        let at = path.at("properties");
        let properties = match schema.get("properties") {
            None => None,
            Some(Value::Object(properties)) => Some(properties),
            Some(_) => return Err(at.invalid("give an object of schemas")),
        };
        let mut required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        let is_stranger = |name: &&str| !properties.is_some_and(|known| known.contains_key(*name));
        if let Some(name) = required.find_map(|name| name.as_str().filter(is_stranger)) {
            let message = format!("{name:?} is none of the properties; say what it is");
            return Err(path.at("required").invalid(&message));
        }
        let Some(properties) = properties else {
            let word = if schema.contains_key("additionalProperties") { "additionalProperties" } else { "properties" };
            const MESSAGE: &str = "a canvas is laid out before names are chosen; name the members in properties";
            return Err(path.at(word).invalid(MESSAGE));
        };
        let mut members = Vec::new();
        for (name, schema) in properties {
            self.budget.name(&at, name)?;
            members.push((name.clone(), self.shape(schema, &at.at(name), depth + 1)?));
        }
        Ok(Shape::Object(members))
    }

    fn array(&mut self, schema: &Map<String, Value>, path: &Path<'_>, depth: usize) -> ApiResult<Shape> {
        known(schema, path, &["type", "items", "prefixItems", "minItems", "maxItems"])?;
        let mut items = Vec::new();
        for item in schema.get("prefixItems").and_then(Value::as_array).into_iter().flatten() {
            items.push(self.shape(item, &path.at("prefixItems"), depth + 1)?);
        }
        let (least, most) = (size(schema, path, "minItems")?, upper_size(schema, path, "maxItems")?);
        let further = schema.get("items").filter(|items| **items != Value::Bool(false));
        let (least, most) = match (least, most) {
            // a tuple: all of it
            (None, None) if !items.is_empty() => (items.len(), items.len()),
            (least, most) => {
                let least = least.unwrap_or(0);
                (least, most.map_or(PLACES, |most| most.min(PLACES_MAX)).max(least).min(most.unwrap_or(usize::MAX)))
            }
        };
        if most < least || most < items.len() && least != most {
            return Err(path.at("maxItems").invalid("it is below minItems, or below the number of prefixItems"));
        }
        items.truncate(most);
        while items.len() < most {
            let Some(further) = further else {
                return Err(path.at("items").invalid("missing; give a schema"));
            };
            items.push(self.shape(further, &path.at("items"), depth + 1)?);
        }
        Ok(Shape::List { items, least })
    }

    fn string(&mut self, schema: &Map<String, Value>, path: &Path<'_>) -> ApiResult<Shape> {
        known(schema, path, &["type", "minLength", "maxLength", "pattern", "format", TOKENS])?;
        let cells = size(schema, path, TOKENS)?;
        let least = size(schema, path, "minLength")?.unwrap_or(0);
        let characters = upper_size(schema, path, "maxLength")?;
        if characters.is_some_and(|most| most < least) {
            return Err(path.at("minLength").invalid("it is above maxLength"));
        }
        let format = match schema.get("format") {
            None => None,
            Some(Value::String(format)) if PLAIN_FORMATS.contains(&format.as_str()) => None,
            Some(format) => Some(format_pattern(format).ok_or_else(|| {
                let formats = "date, date-time, time, uuid, uuid1 to uuid8, email, ipv4, password and binary";
                path.at("format").invalid(&format!("this cannot be kept; here only {formats} can"))
            })?),
        };
        let (word, expression) = match (format, schema.get("pattern")) {
            (None, None) => return Ok(Shape::Text { cells, least, characters }),
            (Some(_), Some(_)) => {
                return Err(path.at("pattern").invalid("this cannot be kept beside a format; give one of the two"));
            }
            (Some(format), None) => ("format", format),
            (None, Some(Value::String(pattern))) => ("pattern", pattern.clone()),
            (None, Some(_)) => return Err(path.at("pattern").invalid("give a string")),
        };
        let at = path.at(word);
        self.budget.pattern(&at)?;
        self.budget.text(&at, &expression)?;
        let pattern = Pattern::parse(&expression).map_err(|why| at.invalid(&format!("this cannot be kept: {why}")))?;
        let (shortest, longest) = pattern.lengths();
        if least > longest || characters.is_some_and(|most| most < shortest) {
            let message =
                format!("its texts have {shortest} to {longest} characters (up to {LENGTH_MAX}), against the lengths");
            return Err(at.invalid(&message));
        }
        Ok(Shape::Pattern { pattern: Arc::new(pattern), cells, least, characters })
    }

    fn number(&mut self, schema: &Map<String, Value>, path: &Path<'_>, is_whole: bool) -> ApiResult<Shape> {
        const BOUNDS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
        known(schema, path, &["type", BOUNDS[0], BOUNDS[1], BOUNDS[2], BOUNDS[3], "multipleOf", "format", TOKENS])?;
        let is_format = |format: &Value| format.as_str().is_some_and(|format| NUMBER_FORMATS.contains(&format));
        if schema.get("format").is_some_and(|format| !is_format(format)) {
            let message = format!("this cannot be kept; here only {} can", NUMBER_FORMATS.join(", "));
            return Err(path.at("format").invalid(&message));
        }
        let is_whole = match schema.get("multipleOf").map(Value::as_f64) {
            None => is_whole,
            Some(Some(1.0)) => true,
            Some(_) => return Err(path.at("multipleOf").invalid("this cannot be kept; here only 1 can")),
        };
        let cells = size(schema, path, TOKENS)?;
        let decimals = if is_whole { 0 } else { DECIMALS };
        let low = bound(schema, path, ["minimum", "exclusiveMinimum"], decimals)?;
        let high = bound(schema, path, ["maximum", "exclusiveMaximum"], decimals)?;
        match (low, high) {
            (None, None) => return Ok(Shape::Number { cells, is_whole, is_signed: true }),
            (Some(0), None) => return Ok(Shape::Number { cells, is_whole, is_signed: false }),
            (Some(_), _) | (None, Some(_)) => {}
        }
        let word = BOUNDS.into_iter().find(|word| schema.contains_key(*word)).unwrap_or(BOUNDS[0]);
        let at = path.at(word);
        self.budget.pattern(&at)?;
        let digits = cells.and_then(|cells| u32::try_from(cells).ok()).unwrap_or(DIGITS).clamp(1, 12) + decimals;
        let largest = |digits: u32| 10_i64.pow(digits) - 1;
        let needed = |bound: i64| bound.unsigned_abs().checked_ilog10().map_or(1, |log| log + 1);
        let (low, high) = match (low, high) {
            (Some(low), Some(high)) => (low, high),
            (Some(low), None) => (low, largest(digits.max(needed(low)))),
            (None, Some(high)) => (-largest(digits.saturating_sub(1).max(needed(high)).max(1)), high),
            (None, None) => (0, 0),
        };
        let pattern = Pattern::numbers(low, high, decimals).map_err(|why| at.invalid(&why))?;
        Ok(Shape::Range(Arc::new(pattern)))
    }
}

/// The regular expression of a format.
fn format_pattern(format: &Value) -> Option<String> {
    let uuid = |version: &str, variant: &str| {
        format!("{HEX}{{8}}-{HEX}{{4}}-{version}{HEX}{{3}}-{variant}{HEX}{{3}}-{HEX}{{12}}")
    };
    let byte = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
    Some(match format.as_str()? {
        "date" => DATE.to_owned(),
        "time" => TIME.to_owned(),
        "date-time" => format!("{DATE}T{TIME}"),
        "uuid" => uuid(HEX, HEX),
        format if format.len() == 5 && format.starts_with("uuid") && ('1'..='8').any(|v| format.ends_with(v)) => {
            uuid(&format[4..], "[89ab]")
        }
        "email" => "[a-z0-9]([a-z0-9._]{0,14}[a-z0-9])?@[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?\\.[a-z]{2,4}".to_owned(),
        "ipv4" => format!("{byte}(\\.{byte}){{3}}"),
        _ => return None,
    })
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
