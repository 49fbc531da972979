//! Proofs that no answer of a shape satisfies another schema, which `oneOf` needs of each two of
//! its alternatives. What is not proven counts as possible. Out of scope: which answers there are.

use super::budget::Budget;
use super::decimal::{Decimal, is_same};
use super::options::is_a;
use super::path::Path;
use super::references::target;
use super::strings::{expression_of, has_format};
use crate::api::error::ApiResult;
use crate::engine::Shape;
use crate::text::{Expression, Pattern};
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::collections::HashMap;

/// How deep a schema is looked into.
const DEPTH_MAX: usize = 16;
/// Most parts of a schema whose required names are looked at.
const PARTS_MAX: usize = 64;

/// Looks for proofs within one document.
pub(super) struct Proofs<'a, 'b> {
    pub(super) root: &'a Value,
    pub(super) path: &'b Path<'b>,
    pub(super) budget: &'b mut Budget,
    /// The texts that match an expression; `None` if they are not known.
    pub(super) patterns: HashMap<String, Option<Pattern>>,
}

impl Proofs<'_, '_> {
    /// Whether it is certain that no answer of `shape`, which `own` describes, satisfies `schema`.
    pub(super) fn excludes(&mut self, shape: &Shape, own: &Value, schema: &Value, depth: usize) -> ApiResult<bool> {
        self.budget.proofs(self.path, 1)?;
        let words = match schema {
            Value::Bool(may_be) => return Ok(!may_be),
            Value::Object(words) if depth < DEPTH_MAX => words,
            _ => return Ok(false),
        };
        match shape {
            Shape::Either(shapes) => return all(shapes, |shape| self.excludes(shape, &Value::Null, schema, depth + 1)),
            Shape::OneOf(texts) => {
                return all(texts, |text| {
                    self.excludes(&Shape::Constant(text.clone()), &Value::Null, schema, depth + 1)
                });
            }
            _ => {}
        }
        if let Some(parts) = parts(shape) {
            return self.excludes(&parts, own, schema, depth + 1);
        }
        if let Some(next) = words.get("$ref").and_then(|reference| target(self.root, reference, self.path).ok())
            && self.excludes(shape, own, next, depth + 1)?
        {
            return Ok(true);
        }
        let of = |word: &str| words.get(word).and_then(Value::as_array).filter(|all| !all.is_empty());
        for part in of("allOf").into_iter().flatten() {
            if self.excludes(shape, own, part, depth + 1)? {
                return Ok(true);
            }
        }
        for options in ["anyOf", "oneOf"].into_iter().filter_map(of) {
            if all(options, |option| self.excludes(shape, own, option, depth + 1))? {
                return Ok(true);
            }
        }
        if self.differs(shape, words)? {
            return Ok(true);
        }
        match shape {
            Shape::Text { .. } | Shape::Pattern { .. } => self.excludes_texts(shape, words),
            Shape::Number { .. } | Shape::Range(_) => Ok(are_apart(own, words)),
            Shape::Constant(text) => self.excludes_value(&serde_json::from_str(text).unwrap_or_default(), words),
            Shape::Object(members) => self.excludes_members(members, own, words, depth),
            Shape::List { items, least, .. } => self.excludes_items(items, *least, words, depth),
            Shape::Map { members, least } => self.excludes_map(members, *least, words, depth),
            Shape::Either(_) | Shape::OneOf(_) => Ok(false),
        }
    }

    /// The names that a schema requires.
    pub(super) fn required(&self, schema: &Value) -> Vec<String> {
        let (mut names, mut open) = (Vec::new(), vec![schema]);
        for _ in 0..PARTS_MAX {
            let Some(schema) = open.pop() else { break };
            let of = |word: &str| schema.get(word).and_then(Value::as_array).into_iter().flatten();
            names.extend(of("required").filter_map(Value::as_str).map(str::to_owned));
            open.extend(of("allOf"));
            open.extend(schema.get("$ref").and_then(|reference| target(self.root, reference, self.path).ok()));
        }
        names
    }

    /// Whether the type, or the values that are listed, are others.
    fn differs(&mut self, shape: &Shape, words: &Map<String, Value>) -> ApiResult<bool> {
        let is_type = |word: &Value| word.as_str().is_none_or(|word| may_be_of(shape, word));
        let is_of_type = match words.get("type") {
            None => true,
            Some(Value::Array(all)) => all.iter().any(is_type),
            Some(word) => is_type(word),
        };
        let is_null = matches!(shape, Shape::Constant(text) if text == "null");
        let may_be_null = is_null && words.get("nullable") == Some(&Value::Bool(true));
        if !is_of_type && !may_be_null {
            return Ok(true);
        }
        let lists =
            [words.get("const").map(std::slice::from_ref), words.get("enum").and_then(|all| Some(&**all.as_array()?))];
        for values in lists.into_iter().flatten() {
            self.budget.proofs(self.path, values.len())?;
            if !values.iter().any(|value| may_be(shape, value)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn excludes_texts(&mut self, shape: &Shape, words: &Map<String, Value>) -> ApiResult<bool> {
        let (pattern, least, most) = match shape {
            Shape::Text { least, characters, .. } => (None, *least, *characters),
            Shape::Pattern { pattern, least, characters, .. } => {
                let (fewest, longest) = pattern.lengths();
                (Some(pattern), fewest.max(*least), Some(characters.map_or(longest, |most| most.min(longest))))
            }
            _ => return Ok(false),
        };
        let is_short = most.zip(size(words, "minLength")).is_some_and(|(most, least)| most < least);
        if is_short || size(words, "maxLength").is_some_and(|most| most < least) {
            return Ok(true);
        }
        let Some(pattern) = pattern else { return Ok(false) };
        let own = words.get("pattern").and_then(Value::as_str).map(str::to_owned);
        let format = words.get("format").and_then(Value::as_str).and_then(expression_of);
        for expression in own.into_iter().chain(format) {
            self.budget.pattern_proof(self.path)?;
            let known = self.patterns.entry(expression);
            let other = known.or_insert_with_key(|expression| Pattern::of_matches(expression));
            if other.as_ref().is_some_and(|other| pattern.is_disjoint(other)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a string, a number, a flag or null breaks a keyword.
    fn excludes_value(&mut self, value: &Value, words: &Map<String, Value>) -> ApiResult<bool> {
        if let Value::String(text) = value {
            let length = text.chars().count();
            if size(words, "minLength").is_some_and(|least| length < least)
                || size(words, "maxLength").is_some_and(|most| length > most)
                || words.get("format").and_then(Value::as_str).is_some_and(|format| !has_format(format)(text))
            {
                return Ok(true);
            }
            let Some(pattern) = words.get("pattern").and_then(Value::as_str) else { return Ok(false) };
            self.budget.pattern_proof(self.path)?;
            return Ok(Expression::new(pattern).and_then(|pattern| pattern.is_match(text)) == Ok(false));
        }
        let Some(number) = Decimal::of(value) else { return Ok(false) };
        let step = words.get("multipleOf").and_then(Decimal::of).filter(|step| step.is_positive());
        Ok(is_outside(number, words) || step.and_then(|step| number.is_multiple_of(step)) == Some(false))
    }

    fn excludes_members(
        &mut self,
        members: &[(String, Shape)],
        own: &Value,
        words: &Map<String, Value>,
        depth: usize,
    ) -> ApiResult<bool> {
        let has = |name: &str| members.iter().any(|(own, _)| own == name);
        let lacks = |name: &Value| name.as_str().is_some_and(|name| !has(name));
        if words.get("required").and_then(Value::as_array).is_some_and(|names| names.iter().any(lacks))
            || size(words, "minProperties").is_some_and(|least| members.len() < least)
            || size(words, "maxProperties").is_some_and(|most| members.len() > most)
        {
            return Ok(true);
        }
        let properties = words.get("properties").and_then(Value::as_object);
        // what parts of a schema name is evaluated there
        let has_parts = ["$ref", "allOf", "anyOf", "oneOf", "if", "$dynamicRef", "dependentSchemas"]
            .iter()
            .any(|word| words.contains_key(*word));
        let further = words
            .get("additionalProperties")
            .or_else(|| words.get("unevaluatedProperties").filter(|_| !has_parts))
            .filter(|_| !words.contains_key("patternProperties"));
        for (name, shape) in members {
            let known = properties.and_then(|known| known.get(name)).or(further);
            let own = own.get("properties").and_then(|own| own.get(name)).unwrap_or(&Value::Null);
            if let Some(schema) = known
                && self.excludes(shape, own, schema, depth + 1)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An object of names that are not known before.
    fn excludes_map(
        &mut self,
        members: &[(Shape, Shape)],
        least: usize,
        words: &Map<String, Value>,
        depth: usize,
    ) -> ApiResult<bool> {
        if size(words, "minProperties").is_some_and(|fewest| fewest > members.len())
            || size(words, "maxProperties").is_some_and(|most| most < least)
        {
            return Ok(true);
        }
        let of_any_name = !words.contains_key("properties") && !words.contains_key("patternProperties");
        match (members.first().filter(|_| least > 0), words.get("additionalProperties").filter(|_| of_any_name)) {
            (Some((_, value)), Some(schema)) => self.excludes(value, &Value::Null, schema, depth + 1),
            _ => Ok(false),
        }
    }

    fn excludes_items(
        &mut self,
        items: &[Shape],
        least: usize,
        words: &Map<String, Value>,
        depth: usize,
    ) -> ApiResult<bool> {
        if size(words, "minItems").is_some_and(|fewest| items.len() < fewest)
            || size(words, "maxItems").is_some_and(|most| least > most)
        {
            return Ok(true);
        }
        let (tuple, further) = match (words.get("items"), words.get("prefixItems")) {
            (Some(Value::Array(tuple)), _) => (&tuple[..], words.get("additionalItems")),
            (items, tuple) => (tuple.and_then(Value::as_array).map_or(&[][..], Vec::as_slice), items),
        };
        for (at, item) in items.iter().take(least).enumerate() {
            if let Some(schema) = tuple.get(at).or(further)
                && self.excludes(item, &Value::Null, schema, depth + 1)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether something holds for all of `values`.
fn all<T>(values: &[T], mut holds: impl FnMut(&T) -> ApiResult<bool>) -> ApiResult<bool> {
    for value in values {
        if !holds(value)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A constant array or object as a shape of constants.
fn parts(shape: &Shape) -> Option<Shape> {
    let Shape::Constant(text) = shape else { return None };
    let constant = |value: &Value| Shape::Constant(value.to_string());
    match serde_json::from_str(text).ok()? {
        Value::Array(items) => {
            Some(Shape::List { items: items.iter().map(constant).collect(), least: items.len(), is_distinct: false })
        }
        Value::Object(members) => {
            Some(Shape::Object(members.iter().map(|(name, value)| (name.clone(), constant(value))).collect()))
        }
        _ => None,
    }
}

/// Whether an answer of a shape may have this type.
fn may_be_of(shape: &Shape, word: &str) -> bool {
    match shape {
        Shape::Text { .. } | Shape::Pattern { .. } => word == "string",
        // a number may be a whole one
        Shape::Number { .. } | Shape::Range(_) => word == "number" || word == "integer",
        Shape::List { .. } => word == "array",
        Shape::Map { .. } | Shape::Object(_) => word == "object",
        Shape::Constant(text) => serde_json::from_str(text).is_ok_and(|value| is_a(word, &value)),
        Shape::OneOf(_) | Shape::Either(_) => true,
    }
}

/// Whether an answer of a shape may be this value.
fn may_be(shape: &Shape, value: &Value) -> bool {
    let has_length = |text: &str, least: usize, most: Option<usize>| {
        (least..=most.unwrap_or(usize::MAX)).contains(&text.chars().count())
    };
    match (shape, value) {
        (Shape::Constant(text), _) => serde_json::from_str(text).is_ok_and(|own: Value| is_same(&own, value)),
        (Shape::Text { least, characters, .. }, Value::String(text)) => has_length(text, *least, *characters),
        (Shape::Pattern { pattern, least, characters, .. }, Value::String(text)) => {
            has_length(text, *least, *characters) && pattern.holds(text)
        }
        (Shape::Number { is_whole, is_signed, .. }, Value::Number(_)) => {
            (!is_whole || is_a("integer", value)) && (*is_signed || value.as_f64().is_none_or(|number| number >= 0.0))
        }
        (Shape::Range(_), Value::Number(_)) | (Shape::Map { .. }, Value::Object(_)) => true,
        (Shape::List { items, least, .. }, Value::Array(values)) => {
            (*least..=items.len()).contains(&values.len())
                && items.iter().zip(values).all(|(item, value)| may_be(item, value))
        }
        (Shape::Object(members), Value::Object(values)) => {
            members.len() == values.len()
                && members.iter().all(|(name, shape)| values.get(name).is_some_and(|value| may_be(shape, value)))
        }
        (Shape::OneOf(texts), _) => texts.iter().any(|text| may_be(&Shape::Constant(text.clone()), value)),
        (Shape::Either(shapes), _) => shapes.iter().any(|shape| may_be(shape, value)),
        _ => false,
    }
}

fn size(words: &Map<String, Value>, word: &str) -> Option<usize> {
    words.get(word)?.as_f64().filter(|size| *size >= 0.0).map(|size| size as usize)
}

/// Whether a number is outside the bounds. A flag, as drafts before 6 had it, is not looked at.
fn is_outside(number: Decimal, words: &Map<String, Value>) -> bool {
    let compared = |word: &str| Some(number.compare(Decimal::of(words.get(word)?)?));
    compared("minimum").is_some_and(Ordering::is_lt)
        || compared("maximum").is_some_and(Ordering::is_gt)
        || compared("exclusiveMinimum").is_some_and(Ordering::is_le)
        || compared("exclusiveMaximum").is_some_and(Ordering::is_ge)
}

/// Whether the numbers of one schema are all below, or all above those of another.
fn are_apart(own: &Value, words: &Map<String, Value>) -> bool {
    // each end, and whether it is excluded
    let ends = |word: [Option<&Value>; 2]| {
        let [included, excluded] = word.map(|end| end.and_then(Decimal::of));
        [included.map(|end| (end, false)), excluded.map(|end| (end, true))].into_iter().flatten().collect::<Vec<_>>()
    };
    let is_below = |highs: &[(Decimal, bool)], lows: &[(Decimal, bool)]| {
        highs.iter().any(|(high, is_open)| {
            let is_apart = |(low, is_low_open): &(Decimal, bool)| match high.compare(*low) {
                Ordering::Less => true,
                Ordering::Equal => *is_open || *is_low_open,
                Ordering::Greater => false,
            };
            lows.iter().any(is_apart)
        })
    };
    let (lower, upper) = (["minimum", "exclusiveMinimum"], ["maximum", "exclusiveMaximum"]);
    is_below(&ends(upper.map(|word| own.get(word))), &ends(lower.map(|word| words.get(word))))
        || is_below(&ends(upper.map(|word| words.get(word))), &ends(lower.map(|word| own.get(word))))
}
