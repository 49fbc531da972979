//! `response_format`: a JSON Schema, or a skeleton with typed blanks, as a shape of answers.
//! Constraints that cannot be kept are errors. Out of scope: how many cells a shape takes.

use crate::api::error::{ApiError, ApiResult};
use crate::engine::{Format, Shape};
use serde_json::{Map, Value};

/// The field that errors name.
const PARAM: &str = "response_format";
/// Limit on nesting, references followed.
const DEPTH_MAX: usize = 32;
/// Limit on the values of one shape; a canvas would not hold more.
const VALUES_MAX: usize = 4096;

/// Keywords of a schema that constrain nothing.
const ANNOTATIONS: &str =
    "$schema $id $comment $defs definitions title description default examples deprecated x-order";
/// Limit on the tokens of a value: this server's own keyword.
const TOKENS: &str = "x-tokens";

/// Reads OpenAI's `response_format`, or `{"type": "json_skeleton", "skeleton": ..}`.
pub(crate) fn read(format: Option<&Value>) -> Result<Format, ApiError> {
    let format = match format {
        None | Some(Value::Null) => return Ok(Format::Text),
        Some(Value::Object(format)) => format,
        Some(_) => return Err(invalid("", "give an object, as {\"type\": \"json_schema\", \"json_schema\": {..}}")),
    };
    let field = |name: &str| {
        if let Some(unknown) = format.keys().find(|key| *key != "type" && *key != name) {
            return Err(invalid(unknown, &format!("unknown here; known are type, {name}")));
        }
        format.get(name).ok_or_else(|| invalid(name, "missing"))
    };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(Format::Text),
        Some("json_object") => Ok(Format::Json),
        Some("json_schema") => {
            let schema = field("json_schema")?.get("schema");
            let root = schema.ok_or_else(|| invalid("json_schema.schema", "missing; give a JSON Schema"))?;
            Ok(Format::Shaped(Reader { root, values: 0 }.shape(root, "json_schema.schema", 0)?))
        }
        Some("json_skeleton") => Ok(Format::Shaped(skeleton_shape(field("skeleton")?, "skeleton")?)),
        Some(_) | None => Err(invalid("type", "give \"text\", \"json_object\", \"json_schema\" or \"json_skeleton\"")),
    }
}

fn invalid(path: &str, message: &str) -> ApiError {
    let path = if path.is_empty() { PARAM.to_owned() } else { format!("{PARAM}.{path}") };
    let message = format!("{path}: {message}");
    ApiError::invalid(path, message)
}

struct Reader<'a> {
    root: &'a Value,
    values: usize,
}

impl<'a> Reader<'a> {
    fn shape(&mut self, schema: &'a Value, path: &str, depth: usize) -> ApiResult<Shape> {
        self.values += 1;
        if depth > DEPTH_MAX || self.values > VALUES_MAX {
            let limits = format!("nested deeper than {DEPTH_MAX}, or more than {VALUES_MAX} values");
            return Err(invalid(path, &format!("{limits}; a canvas is finite")));
        }
        let Value::Object(schema) = schema else {
            return Err(invalid(path, "give a schema as an object; true and false leave everything open"));
        };
        let at = |word: &str| format!("{path}.{word}");
        if let Some(reference) = schema.get("$ref") {
            known(schema, path, &["$ref"])?;
            let target = reference.as_str().and_then(|reference| self.root.pointer(reference.strip_prefix('#')?));
            let nowhere = || invalid(&at("$ref"), "leads nowhere; give one like #/$defs/NAME");
            return self.shape(target.ok_or_else(nowhere)?, path, depth + 1);
        }
        if let Some(Value::Array(options)) = schema.get("anyOf") {
            known(schema, path, &["anyOf"])?;
            let mut open = options.iter().filter(|option| option.get("type").is_none_or(|kind| kind != "null"));
            let (Some(only), None) = (open.next(), open.next()) else {
                let message = "a canvas is laid out before anything is chosen; give one alternative, beside null";
                return Err(invalid(&at("anyOf"), message));
            };
            return self.shape(only, &at("anyOf"), depth + 1);
        }
        if let Some(given) = schema.get("const") {
            known(schema, path, &["const", "type"])?;
            return Ok(Shape::Constant(given.to_string()));
        }
        if let Some(options) = schema.get("enum") {
            known(schema, path, &["enum", "type"])?;
            let options = options.as_array().filter(|options| !options.is_empty());
            let options = options.ok_or_else(|| invalid(&at("enum"), "give an array of at least one value"))?;
            return Ok(Shape::OneOf(options.iter().map(Value::to_string).collect()));
        }
        self.typed(schema, path, depth)
    }

    fn typed(&mut self, schema: &'a Map<String, Value>, path: &str, depth: usize) -> ApiResult<Shape> {
        let at = |word: &str| format!("{path}.{word}");
        match kind(schema, path)? {
            "object" => self.object(schema, path, depth),
            "array" => self.array(schema, path, depth),
            "string" => {
                known(schema, path, &["type", "maxLength", TOKENS])?;
                let (cells, characters) = (size(schema, path, TOKENS)?, size(schema, path, "maxLength")?);
                Ok(Shape::Text { cells, characters })
            }
            word @ ("integer" | "number") => {
                known(schema, path, &["type", "minimum", TOKENS])?;
                let is_signed = match schema.get("minimum").map(Value::as_f64) {
                    None => true,
                    Some(Some(0.0)) => false,
                    Some(_) => return Err(invalid(&at("minimum"), "only 0 can be kept; leave other limits out")),
                };
                Ok(Shape::Number { cells: size(schema, path, TOKENS)?, is_whole: word == "integer", is_signed })
            }
            "boolean" => {
                known(schema, path, &["type"])?;
                Ok(Shape::OneOf(vec!["true".to_owned(), "false".to_owned()]))
            }
            "null" => Ok(Shape::Constant("null".to_owned())),
            _ => Err(invalid(&at("type"), "give object, array, string, number, integer, boolean or null")),
        }
    }

    fn object(&mut self, schema: &'a Map<String, Value>, path: &str, depth: usize) -> ApiResult<Shape> {
        known(schema, path, &["type", "properties", "required", "additionalProperties"])?;
        let properties = match schema.get("properties") {
            None => None,
            Some(Value::Object(properties)) => Some(properties),
            Some(_) => return Err(invalid(&format!("{path}.properties"), "give an object of schemas")),
        };
        let mut required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        let is_stranger = |name: &&str| !properties.is_some_and(|known| known.contains_key(*name));
        if let Some(name) = required.find_map(|name| name.as_str().filter(is_stranger)) {
            let message = format!("{name:?} is none of the properties; say what it is");
            return Err(invalid(&format!("{path}.required"), &message));
        }
        let mut members = Vec::new();
        for (name, schema) in properties.into_iter().flatten() {
            members.push((name.clone(), self.shape(schema, &format!("{path}.properties.{name}"), depth + 1)?));
        }
        Ok(Shape::Object(members))
    }

    fn array(&mut self, schema: &'a Map<String, Value>, path: &str, depth: usize) -> ApiResult<Shape> {
        known(schema, path, &["type", "items", "prefixItems", "minItems", "maxItems"])?;
        let at = |word: &str| format!("{path}.{word}");
        let bounds = (size(schema, path, "minItems")?, size(schema, path, "maxItems")?);
        let mut items = Vec::new();
        for item in schema.get("prefixItems").and_then(Value::as_array).into_iter().flatten() {
            items.push(self.shape(item, &at("prefixItems"), depth + 1)?);
        }
        let length = match bounds {
            (None, None) if !items.is_empty() => items.len(),
            (Some(least), Some(most)) if least == most && least >= items.len() => most,
            _ => {
                let message = "an array's length must be known: give minItems and maxItems, both the same";
                return Err(invalid(path, message));
            }
        };
        while items.len() < length {
            let item = schema.get("items").ok_or_else(|| invalid(&at("items"), "missing; give a schema"))?;
            items.push(self.shape(item, &at("items"), depth + 1)?);
        }
        Ok(Shape::List(items))
    }
}

/// The type of a value. `null` beside it is ignored: a value may always be given.
fn kind<'a>(schema: &'a Map<String, Value>, path: &str) -> Result<&'a str, ApiError> {
    let words: Vec<&str> = match schema.get("type") {
        Some(Value::String(word)) => vec![word],
        Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).filter(|word| *word != "null").collect(),
        Some(_) | None => Vec::new(),
    };
    match words[..] {
        [word] => Ok(word),
        _ => Err(invalid(&format!("{path}.type"), "give one type; null may stand beside it")),
    }
}

/// Rejects keywords other than `words` and [`ANNOTATIONS`]: their constraints would not be kept.
fn known(schema: &Map<String, Value>, path: &str, words: &[&str]) -> Result<(), ApiError> {
    let is_known = |word: &str| words.contains(&word) || ANNOTATIONS.split(' ').any(|known| known == word);
    match schema.keys().find(|word| !is_known(word)) {
        None => Ok(()),
        Some(word) => {
            let message = format!("this cannot be kept; here only {} can", words.join(", "));
            Err(invalid(&format!("{path}.{word}"), &message))
        }
    }
}

fn size(schema: &Map<String, Value>, path: &str, word: &str) -> Result<Option<usize>, ApiError> {
    let Some(value) = schema.get(word) else { return Ok(None) };
    match value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= VALUES_MAX) {
        None => Err(invalid(&format!("{path}.{word}"), &format!("give a whole number from 0 to {VALUES_MAX}"))),
        size => Ok(size),
    }
}

/// The shape of a skeleton: JSON in which `"<string>"`, `"<string:12>"`, `"<number>"`,
/// `"<integer:3>"`, `"<boolean>"` and `"<a|b|c>"` stand for values.
fn skeleton_shape(skeleton: &Value, path: &str) -> ApiResult<Shape> {
    match skeleton {
        Value::Object(members) => {
            let member =
                |(name, value): (&String, _)| Ok((name.clone(), skeleton_shape(value, &format!("{path}.{name}"))?));
            Ok(Shape::Object(members.iter().map(member).collect::<ApiResult<_>>()?))
        }
        Value::Array(values) => {
            let shape = |(index, value)| skeleton_shape(value, &format!("{path}[{index}]"));
            Ok(Shape::List(values.iter().enumerate().map(shape).collect::<ApiResult<_>>()?))
        }
        Value::String(text) => match text.strip_prefix('<').and_then(|text| text.strip_suffix('>')) {
            Some(blank) => typed_blank(blank, path),
            None => Ok(Shape::Constant(skeleton.to_string())),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(Shape::Constant(skeleton.to_string())),
    }
}

fn typed_blank(blank: &str, path: &str) -> ApiResult<Shape> {
    let (word, cells) = match blank.split_once(':') {
        Some((word, cells)) => {
            let size = cells.parse().ok().filter(|cells| (1..=VALUES_MAX).contains(cells));
            let wrong = || invalid(path, &format!("{cells:?} is no number of tokens from 1 to {VALUES_MAX}"));
            (word, Some(size.ok_or_else(wrong)?))
        }
        None => (blank, None),
    };
    match word {
        "string" => Ok(Shape::Text { cells, characters: None }),
        "number" | "integer" => Ok(Shape::Number { cells, is_whole: word == "integer", is_signed: true }),
        "boolean" => Ok(Shape::OneOf(vec!["true".to_owned(), "false".to_owned()])),
        _ if blank.contains('|') => {
            Ok(Shape::OneOf(blank.split('|').map(|option| Value::from(option).to_string()).collect()))
        }
        _ => {
            let known = "<string>, <string:12>, <number>, <integer>, <boolean> and <one|two|three>";
            Err(invalid(path, &format!("<{blank}> is none of {known}")))
        }
    }
}
