//! `anyOf`, `oneOf` and several types: alternatives, between which a model chooses. Out of scope:
//! how they are told apart.

use super::combine::resolved;
use super::decimal::is_same;
use super::exclusive::Proofs;
use super::keywords::required;
use super::options::{listed, only_null};
use super::path::Path;
use super::schema::Reader;
use super::union::either;
use crate::api::error::{ApiError, ApiResult};
use crate::engine::Shape;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// An alternative that is not only null.
struct Alternative<'s> {
    /// Which of the options it is.
    at: usize,
    schema: &'s Value,
    /// Its values, if it lists them.
    values: Option<Vec<Value>>,
}

impl Reader<'_> {
    /// One of several schemas. Those that cannot be kept are left out if another one can; null is
    /// written only if nothing else can be. `exclusive` are the options of `oneOf`: no answer
    /// satisfies two of them.
    pub(super) fn alternatives(
        &mut self,
        options: &[Value],
        exclusive: Option<&[Value]>,
        path: &Path<'_>,
        depth: usize,
    ) -> ApiResult<Shape> {
        let (mut open, mut nulls) = (Vec::new(), Vec::new());
        let mut refused: Option<ApiError> = None;
        for (at, schema) in options.iter().enumerate() {
            let found = resolved(self.root, schema, path, depth, self.budget).and_then(|schema| {
                let values = listed(&schema, path, self.budget)?;
                let values: Option<Vec<Value>> = values.map(|values| values.into_iter().cloned().collect());
                Ok((only_null(&schema, values.as_deref()), values))
            });
            match found {
                Ok((true, _)) => nulls.push(at),
                Ok((false, values)) => open.push(Alternative { at, schema, values }),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        let null = Shape::Constant("null".to_owned());
        if let Some(all) = exclusive {
            self.keep_exclusive_values(&mut open, &nulls, all, path)?;
            if let ([], [first, ..], None) = (&open[..], &nulls[..], &refused) {
                let mut shape = null.clone();
                self.set_apart(&mut shape, (*first, options), all, path, depth)?;
            }
        }
        if open.is_empty() {
            return refused.map_or(Ok(null), Err);
        }
        if let Some(lists) = open.iter().map(|one| one.values.as_deref()).collect::<Option<Vec<_>>>() {
            if let (Some(all), Some(_)) = (exclusive, &refused) {
                for one in &open {
                    let texts = one.values.iter().flatten().map(ToString::to_string).collect();
                    self.set_apart(&mut Shape::OneOf(texts), (one.at, options), all, path, depth)?;
                }
            }
            let mut values: Vec<&Value> = Vec::new();
            for value in lists.into_iter().flatten().take(2048) {
                if !values.contains(&value) {
                    values.push(value);
                }
            }
            return self.one_of(&values, path);
        }
        if self.is_decimal(&open, path, depth)? {
            open.truncate(1);
        }
        let (mut shapes, mut is_cut) = (Vec::new(), false);
        for Alternative { at, schema, values } in open {
            self.is_cut = false;
            let shape = match (values, exclusive) {
                (Some(values), Some(_)) => self.one_of(&values.iter().collect::<Vec<_>>(), path),
                _ => self.shape(schema, path, depth + 1),
            };
            match shape {
                Ok(mut shape) => {
                    if let Some(all) = exclusive {
                        self.set_apart(&mut shape, (at, options), all, path, depth)?;
                    }
                    shapes.push(shape);
                }
                Err(error) => {
                    is_cut |= self.is_cut;
                    refused = refused.or(Some(error));
                }
            }
        }
        self.is_cut = false;
        match refused {
            Some(_) if shapes.is_empty() && is_cut && !nulls.is_empty() => Ok(null),
            Some(error) if shapes.is_empty() => {
                self.is_cut = is_cut;
                Err(error)
            }
            _ => Ok(either(shapes)),
        }
    }

    /// Leaves out the values that several alternatives list.
    fn keep_exclusive_values(
        &self,
        open: &mut Vec<Alternative<'_>>,
        nulls: &[usize],
        all: &[Value],
        path: &Path<'_>,
    ) -> ApiResult<()> {
        let mut lists: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, value) in open.iter().flat_map(|one| one.values.iter().flatten().map(|value| (one.at, value))) {
            lists.entry(normal(value).to_string()).or_default().push(at);
        }
        for at in nulls {
            lists.entry(Value::Null.to_string()).or_default().push(*at);
        }
        let is_shared = |value: &Value| {
            lists.get(&normal(value).to_string()).is_some_and(|found| found.iter().any(|at| *at != found[0]))
        };
        let mut first: Option<(usize, usize)> = None;
        for one in open.iter_mut() {
            let Some(values) = &mut one.values else { continue };
            if let Some(value) = values.iter().find(|value| is_shared(value)) {
                let found = &lists[&normal(value).to_string()];
                let other = found.iter().find(|at| **at != one.at).copied().unwrap_or(one.at);
                first = first.or(Some((one.at, other)));
            }
            values.retain(|value| !is_shared(value));
        }
        let had_some = !open.is_empty();
        open.retain(|one| one.values.as_ref().is_none_or(|values| !values.is_empty()));
        match first {
            Some(pair) if had_some && open.is_empty() => Err(overlap(pair, all, path)),
            _ => Ok(()),
        }
    }

    /// Makes sure that no answer of `shape`, the alternative `at`, satisfies another one. If
    /// nothing else tells the two apart, a member that only the other one requires is left out, and
    /// an array or an object of any names is not empty.
    fn set_apart(
        &mut self,
        shape: &mut Shape,
        (at, options): (usize, &[Value]),
        all: &[Value],
        path: &Path<'_>,
        depth: usize,
    ) -> ApiResult<()> {
        let own = resolved(self.root, &options[at], path, depth, self.budget)?.into_owned();
        let needed: Vec<String> = required(&own, path)?.into_iter().map(|(_, name)| name.to_owned()).collect();
        let own = Value::Object(own);
        let mut proofs = Proofs { root: self.root, path, budget: &mut *self.budget, patterns: HashMap::new() };
        let mut overlapping = Vec::new();
        for (other, schema) in all.iter().enumerate().filter(|(other, _)| *other != at) {
            if !proofs.excludes(shape, &own, schema, 0)? {
                overlapping.push((other, schema));
            }
        }
        for (other, schema) in &overlapping {
            if proofs.excludes(shape, &own, schema, 0)? {
                continue; // by a member that was left out before
            }
            let names = proofs.required(schema);
            let is_left_out = names.iter().any(|name| !needed.contains(name) && leave_out(shape, name, &own));
            if !is_left_out && !have_one(shape) {
                return Err(overlap((at, *other), all, path));
            }
        }
        if overlapping.is_empty() {
            return Ok(());
        }
        // what is left out may have told it apart from another one
        for (other, schema) in all.iter().enumerate().filter(|(other, _)| *other != at) {
            if !proofs.excludes(shape, &own, schema, 0)? {
                return Err(overlap((at, other), all, path));
            }
        }
        Ok(())
    }

    /// Whether the alternatives are those of a decimal number, as pydantic writes it: a number, or
    /// a string that spells one. As the string's schema does not say so, the number is written.
    fn is_decimal(&mut self, options: &[Alternative<'_>], path: &Path<'_>, depth: usize) -> ApiResult<bool> {
        let [first, second] = options else { return Ok(false) };
        let mut is_a = |option: &Value, kind: &str| -> ApiResult<bool> {
            let schema = resolved(self.root, option, path, depth, self.budget)?;
            Ok(schema.get("type").is_some_and(|own| own == kind))
        };
        Ok(is_a(first.schema, "number")? && is_a(second.schema, "string")?)
    }
}

/// Leaves the member out, if the shape is an object that has it and need not have as many members.
fn leave_out(shape: &mut Shape, name: &str, own: &Value) -> bool {
    let Shape::Object(members) = shape else { return false };
    let is_chosen_by = |word: &str| own.get(word).is_some();
    if ["anyOf", "oneOf", "minProperties"].into_iter().any(is_chosen_by) {
        return false;
    }
    let before = members.len();
    members.retain(|(own, _)| own != name);
    members.len() < before
}

/// Gives an array or an object of any names at least one element, if it may be empty.
fn have_one(shape: &mut Shape) -> bool {
    let (least, most) = match shape {
        Shape::List { items, least, .. } => (least, items.len()),
        Shape::Map { members, least } => (least, members.len()),
        _ => return false,
    };
    let may_be_empty = *least == 0 && most > 0;
    *least = (*least).max(usize::from(may_be_empty));
    may_be_empty
}

/// A value with its numbers as floats: those that are the same are written alike.
fn normal(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(values) => values.iter().map(normal).collect(),
        Value::Object(members) => {
            let sorted: BTreeMap<&String, &Value> = members.iter().collect();
            Value::Object(sorted.into_iter().map(|(name, value)| (name.clone(), normal(value))).collect())
        }
        other => other.clone(),
    }
}

fn overlap((one, other): (usize, usize), all: &[Value], path: &Path<'_>) -> ApiError {
    let (one, other) = (one.min(other), one.max(other));
    let how = if is_same(&all[one], &all[other]) { "are the same" } else { "may both hold for one value" };
    path.invalid(&format!(
        "its alternatives {one} and {other}, counted from 0, {how}, and exactly one must hold; use anyOf, or give them \
         what tells them apart, as a property with another const in each"
    ))
}
