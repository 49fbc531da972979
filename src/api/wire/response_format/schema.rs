//! A JSON Schema as a shape of answers.

use super::budget::Budget;
use super::combine::resolved;
use super::keywords::{array_of, for_kind, further, is_annotation, kinds, known_of, required, size, upper_size};
use super::options::listed;
use super::path::Path;
use super::references::with_pointers;
use super::{numbers, strings};
use crate::api::error::ApiResult;
use crate::engine::{Format, Shape};
use crate::text::quoted;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Places of an array without `maxItems`, and of an object whose names are not given.
const PLACES: usize = 4;
/// Places of an array with a larger `maxItems` at most, if `minItems` does not ask for more.
const PLACES_MAX: usize = 16;
/// Tokens of a name that is not given.
const NAME_CELLS: usize = 8;
/// How often a definition may be open within itself.
const NESTED_MAX: usize = 2;

/// The answers that satisfy `schema`: any object, if it asks for nothing else, or a shape.
pub(super) fn format(schema: &Value, path: &Path<'_>, budget: &mut Budget) -> ApiResult<Format> {
    let schema = &*with_pointers(schema);
    if is_open(resolved(schema, schema, path, 0, budget)?.as_ref()) {
        return Ok(Format::Json);
    }
    let mut reader = Reader { root: schema, budget, open: Vec::new(), is_cut: false };
    reader.shape(schema, path, 0).map(Format::Shaped)
}

/// Whether every object satisfies a schema.
fn is_open(schema: &Map<String, Value>) -> bool {
    schema.iter().filter(|(word, _)| !is_annotation(word)).all(|(word, value)| match word.as_str() {
        "type" => value == "object" || value.as_array().is_some_and(|kinds| kinds.contains(&json!("object"))),
        "additionalProperties" | "unevaluatedProperties" => *value == json!(true) || *value == json!({}),
        _ => false,
    })
}

pub(super) struct Reader<'a> {
    /// What references lead into.
    pub(super) root: &'a Value,
    pub(super) budget: &'a mut Budget,
    /// The references that are being followed.
    open: Vec<String>,
    /// Whether the last error was that a definition is nested in itself too often.
    pub(super) is_cut: bool,
}

impl Reader<'_> {
    pub(super) fn shape(&mut self, schema: &Value, path: &Path<'_>, depth: usize) -> ApiResult<Shape> {
        let all = schema.get("allOf").and_then(Value::as_array).into_iter().flatten();
        let reference = [schema].into_iter().chain(all).find_map(|part| part.get("$ref")?.as_str());
        let Some(reference) = reference else {
            return self.resolved_shape(schema, path, depth);
        };
        if self.open.iter().filter(|open| *open == reference).count() >= NESTED_MAX {
            self.is_cut = true;
            return Err(path.at("$ref").invalid("it is nested in itself without an end; a canvas is finite"));
        }
        self.open.push(reference.to_owned());
        let shape = self.resolved_shape(schema, path, depth);
        self.open.pop();
        shape
    }

    fn resolved_shape(&mut self, schema: &Value, path: &Path<'_>, depth: usize) -> ApiResult<Shape> {
        let schema = &*resolved(self.root, schema, path, depth, self.budget)?;
        for word in ["anyOf", "oneOf"] {
            if let Some(given) = schema.get(word) {
                let at = path.at(word);
                let options = given.as_array().filter(|options| !options.is_empty());
                let options = options.ok_or_else(|| at.refused(given, "give an array of at least one schema"))?;
                let is_beside = |own: &&String| *own != word && !is_annotation(own);
                let exclusive = (word == "oneOf").then_some(&options[..]);
                if !schema.keys().any(|own| is_beside(&own)) {
                    return self.alternatives(options, exclusive, &at, depth + 1);
                }
                // what stands beside them is asked of each
                let beside = schema.iter().filter(|(own, _)| is_beside(own));
                let beside: Map<String, Value> = beside.map(|(own, value)| (own.clone(), value.clone())).collect();
                let each = |option: &Value| {
                    let option = json!({"allOf": [beside, option]});
                    self.budget.combined(&at, &option).map(|()| option)
                };
                let combined = options.iter().map(each).collect::<ApiResult<Vec<Value>>>()?;
                return self.alternatives(&combined, exclusive, &at, depth + 1);
            }
        }
        if let Some(values) = listed(schema, path, self.budget)? {
            if schema.contains_key("const") {
                let given = values[0].to_string();
                self.budget.text(path, &given)?;
                return Ok(Shape::Constant(given));
            }
            return self.one_of(&values, &path.at("enum"));
        }
        match kinds(schema, path)?[..] {
            [kind] => self.of_kind(schema, kind, path, depth),
            // whatever it may be: a single value
            [] => {
                let all = ["string", "number", "boolean"].map(|kind| json!({"type": kind}));
                self.alternatives(&all, None, path, depth + 1)
            }
            ref several => {
                let options: Vec<Value> = several.iter().map(|kind| Value::Object(for_kind(schema, kind))).collect();
                options.iter().try_for_each(|option| self.budget.combined(path, option))?;
                self.alternatives(&options, None, &path.at("type"), depth + 1)
            }
        }
    }

    fn of_kind(&mut self, schema: &Map<String, Value>, kind: &str, path: &Path<'_>, depth: usize) -> ApiResult<Shape> {
        match kind {
            "object" => self.object(schema, path, depth),
            "array" => self.array(schema, path, depth),
            "string" => strings::shape(schema, path, self.budget),
            "integer" | "number" => numbers::shape(schema, path, kind == "integer", self.budget),
            "boolean" => {
                known_of(schema, path, kind)?;
                Ok(Shape::OneOf(vec!["true".to_owned(), "false".to_owned()]))
            }
            _ => Ok(Shape::Constant("null".to_owned())),
        }
    }

    pub(super) fn one_of(&mut self, options: &[&Value], path: &Path<'_>) -> ApiResult<Shape> {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        self.budget.options(path, &options)?;
        Ok(Shape::OneOf(options))
    }

    fn object(&mut self, schema: &Map<String, Value>, path: &Path<'_>, depth: usize) -> ApiResult<Shape> {
        known_of(schema, path, "object")?;
        let at = path.at("properties");
        let properties = match schema.get("properties") {
            None => None,
            Some(Value::Object(properties)) => Some(properties),
            Some(given) => return Err(at.refused(given, "give an object of schemas")),
        };
        let names = self.names(schema, path, depth)?;
        let required = required(schema, path)?;
        let is_known = |name: &str| {
            let is_listed = names.iter().flatten().any(|known| known == name);
            is_listed || properties.is_some_and(|known| known.contains_key(name))
        };
        let strangers: Vec<(&str, &str)> = required.into_iter().filter(|(_, name)| !is_known(name)).collect();
        let everything = json!({});
        let further = match further(schema, path)? {
            Some((_, Value::Bool(true))) => Some(&everything),
            further => further.map(|(_, further)| further).filter(|further| further.is_object()),
        };
        if let (Some((word, name)), None) = (strangers.first(), further) {
            let message = format!("{} is none of the properties; say what it is", quoted(name));
            return Err(path.at(word).invalid(&message));
        }
        let values = further.unwrap_or(&everything);
        let mut properties: Vec<(&str, &Value)> = match (properties, &names) {
            (Some(properties), _) => {
                if let Some(word) =
                    ["propertyNames", "patternProperties"].iter().find(|word| schema.contains_key(**word))
                {
                    return Err(path.at(word).invalid("this cannot be kept beside properties; leave it out"));
                }
                properties.iter().map(|(name, schema)| (name.as_str(), schema)).collect()
            }
            (None, Some(names)) => names.iter().map(|name| (name.as_str(), values)).collect(),
            (None, None) if strangers.is_empty() => return self.map(schema, path, depth),
            (None, None) => Vec::new(),
        };
        properties.extend(strangers.into_iter().map(|(_, name)| (name, values)));
        let (least, most) = (size(schema, path, "minProperties")?, upper_size(schema, path, "maxProperties")?);
        let word = if least.is_some_and(|least| least > properties.len()) { "minProperties" } else { "maxProperties" };
        if word == "minProperties" || most.is_some_and(|most| most < properties.len()) {
            let message = format!("all {} properties are written, and no others", properties.len());
            return Err(path.at(word).invalid(&message));
        }
        let mut members = Vec::new();
        for (name, schema) in properties {
            self.budget.name(&at, name)?;
            members.push((name.to_owned(), self.shape(schema, &at.at(name), depth + 1)?));
        }
        Ok(Shape::Object(members))
    }

    /// The names that `propertyNames` lists, if it is a list of names.
    fn names(&mut self, schema: &Map<String, Value>, path: &Path<'_>, depth: usize) -> ApiResult<Option<Vec<String>>> {
        let Some(names) = schema.get("propertyNames") else { return Ok(None) };
        let at = path.at("propertyNames");
        let names = resolved(self.root, names, &at, depth + 1, self.budget)?;
        let Some(names) = listed(&names, &at, self.budget)? else { return Ok(None) };
        let mut names: Vec<String> = names.iter().filter_map(|name| name.as_str()).map(str::to_owned).collect();
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        Ok(Some(names))
    }

    /// An object whose names are not given.
    fn map(&mut self, schema: &Map<String, Value>, path: &Path<'_>, depth: usize) -> ApiResult<Shape> {
        let everything = json!({});
        let patterns = match schema.get("patternProperties") {
            None => None,
            Some(Value::Object(patterns)) => Some(patterns),
            Some(given) => return Err(path.at("patternProperties").refused(given, "give an object of schemas")),
        };
        let pattern = patterns.and_then(|patterns| patterns.iter().next());
        let (name, values, word) = match (pattern, further(schema, path)?) {
            (Some((pattern, values)), _) => {
                if patterns.is_some_and(|patterns| patterns.len() > 1) || schema.contains_key("propertyNames") {
                    let message = "this cannot be kept; give one pattern, and no propertyNames";
                    return Err(path.at("patternProperties").invalid(message));
                }
                (json!({"type": "string", "pattern": pattern}), values, "patternProperties")
            }
            (None, Some((_, Value::Bool(false)))) => return Ok(Shape::Object(Vec::new())),
            (None, further) => {
                let name = schema.get("propertyNames").filter(|names| !names.is_boolean());
                let name = name.cloned().unwrap_or_else(|| json!({"type": "string"}));
                let (word, values) = further.unwrap_or(("additionalProperties", &everything));
                (name, values, word)
            }
        };
        let least = size(schema, path, "minProperties")?.unwrap_or(0);
        let most = upper_size(schema, path, "maxProperties")?.map_or(PLACES, |most| most.min(PLACES_MAX));
        if least > 1 || least > most {
            let message = "this cannot be kept: a name may occur twice; give 0 or 1, and not more than maxProperties";
            return Err(path.at("minProperties").invalid(message));
        }
        let mut members = Vec::new();
        for _ in 0..most {
            let name = match self.shape(&name, &path.at("propertyNames"), depth + 1)? {
                Shape::Text { cells, least, characters } => {
                    Shape::Text { cells: cells.or(Some(NAME_CELLS)), least, characters }
                }
                name @ Shape::Pattern { .. } => name,
                _ => return Err(path.at("propertyNames").invalid("this cannot be kept; give a schema of a string")),
            };
            self.is_cut = false;
            match self.shape(values, &path.at(word), depth + 1) {
                Ok(value) => members.push((name, value)),
                Err(_) if self.is_cut && least == 0 => break,
                Err(error) => return Err(error),
            }
        }
        self.is_cut = false;
        Ok(Shape::Map { members, least })
    }

    fn array(&mut self, schema: &Map<String, Value>, path: &Path<'_>, depth: usize) -> ApiResult<Shape> {
        known_of(schema, path, "array")?;
        // before 2020, a tuple was an array of `items`
        let (word, prefix, further) = match schema.get("items") {
            Some(Value::Array(all)) => ("items", Some(all), "additionalItems"),
            _ => ("prefixItems", array_of(schema, path, "prefixItems", "schemas")?, "items"),
        };
        let further_word = if schema.contains_key(further) { further } else { "unevaluatedItems" };
        let further = schema.get(further_word);
        let mut items = Vec::new();
        for item in prefix.into_iter().flatten() {
            items.push(self.shape(item, &path.at(word), depth + 1)?);
        }
        let (least, most) = (size(schema, path, "minItems")?, upper_size(schema, path, "maxItems")?);
        let is_closed = further == Some(&Value::Bool(false));
        let most = if is_closed { Some(most.map_or(items.len(), |most| most.min(items.len()))) } else { most };
        let everything = json!({});
        let further = further.filter(|further| !further.is_boolean()).unwrap_or(&everything);
        let (least, most) = match (least, most) {
            // a tuple: all of it
            (None, None) if !items.is_empty() => (items.len(), items.len()),
            (None, Some(most)) if is_closed && most == items.len() => (most, most),
            (least, most) => {
                let least = least.unwrap_or(0);
                (least, most.map_or(PLACES, |most| most.min(PLACES_MAX)).max(least).min(most.unwrap_or(usize::MAX)))
            }
        };
        if most < least || most < items.len() && least != most {
            return Err(match schema.contains_key("maxItems") {
                true => path.at("maxItems").invalid("it is below minItems, or below the number of prefixItems"),
                false => path.at("minItems").invalid("it is above the number of elements that may be there"),
            });
        }
        let is_distinct = match schema.get("uniqueItems") {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Bool(true)) if least > 1 => {
                const MESSAGE: &str = "this cannot be kept beside minItems above 1: an element may occur twice";
                return Err(path.at("uniqueItems").invalid(MESSAGE));
            }
            Some(Value::Bool(true)) => true,
            Some(given) => return Err(path.at("uniqueItems").refused(given, "give true or false")),
        };
        items.truncate(most);
        while items.len() < most {
            self.is_cut = false;
            match self.shape(further, &path.at(further_word), depth + 1) {
                Ok(item) => items.push(item),
                // a model that contains itself ends here
                Err(_) if self.is_cut && items.len() >= least => break,
                Err(error) => return Err(error),
            }
        }
        self.is_cut = false;
        Ok(Shape::List { items, least, is_distinct })
    }
}
