//! `response_format`: a JSON Schema, or a skeleton with typed blanks, as a shape of answers.
//! Constraints that cannot be kept are errors. Out of scope: how many cells a shape takes.

use crate::api::error::ApiError;
use crate::engine::{Format, Shape};
use serde_json::{Map, Value};

/// The field that errors name.
const PARAM: &str = "response_format";
/// Limit on nesting, references followed.
const DEPTH_MAX: usize = 32;
/// Limit on the values of one shape; a canvas would not hold more.
const VALUES_MAX: usize = 4096;

/// Keywords of a schema that constrain nothing.
const ANNOTATIONS: [&str; 11] = [
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "x-order",
];
/// Limit on the tokens of a value: this server's own keyword.
const TOKENS: &str = "x-tokens";

/// Reads OpenAI's `response_format`, or `{"type": "json_skeleton", "skeleton": ..}`.
pub(crate) fn read(format: Option<&Value>) -> Result<Format, ApiError> {
    let format = match format {
        None | Some(Value::Null) => return Ok(Format::Text),
        Some(Value::Object(format)) => format,
        Some(_) => return Err(invalid("", "give an object, as {\"type\": \"json_schema\", \"json_schema\": {..}}")),
    };
    let field = |name: &str, known: &[&str]| {
        let unknown = format.keys().find(|key| *key != "type" && !known.contains(&key.as_str()));
        if let Some(unknown) = unknown {
            return Err(invalid(unknown, &format!("unknown here; known are type{}", listed(known))));
        }
        known
            .iter()
            .find(|known| **known == name)
            .and_then(|name| format.get(*name))
            .ok_or_else(|| invalid(name, "missing"))
    };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(Format::Text),
        Some("json_object") => Ok(Format::Json),
        Some("json_schema") => {
            let wrapper = field("json_schema", &["json_schema"])?;
            let schema =
                wrapper.get("schema").ok_or_else(|| invalid("json_schema.schema", "missing; give a JSON Schema"))?;
            let mut reader = Reader { root: schema, values: 0 };
            Ok(Format::Shaped(reader.shape(schema, "json_schema.schema", 0)?))
        }
        Some("json_skeleton") => {
            let skeleton = field("skeleton", &["skeleton"])?;
            Ok(Format::Shaped(skeleton_shape(skeleton, "skeleton")?))
        }
        Some(_) | None => Err(invalid("type", "give \"text\", \"json_object\", \"json_schema\" or \"json_skeleton\"")),
    }
}

fn invalid(path: &str, message: &str) -> ApiError {
    let path = if path.is_empty() { PARAM.to_owned() } else { format!("{PARAM}.{path}") };
    let message = format!("{path}: {message}");
    ApiError::invalid(path, message)
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!(", {word}")).collect()
}

/// Reads a schema.
struct Reader<'a> {
    root: &'a Value,
    values: usize,
}

impl<'a> Reader<'a> {
    fn shape(&mut self, schema: &'a Value, path: &str, depth: usize) -> Result<Shape, ApiError> {
        self.values += 1;
        if depth > DEPTH_MAX || self.values > VALUES_MAX {
            let message =
                format!("nested deeper than {DEPTH_MAX}, or more than {VALUES_MAX} values; a canvas is finite");
            return Err(invalid(path, &message));
        }
        let Value::Object(schema) = schema else {
            return Err(invalid(path, "give a schema as an object; true and false leave everything open"));
        };
        if let Some(reference) = schema.get("$ref") {
            known(schema, path, &["$ref"])?;
            let target = reference.as_str().and_then(|reference| self.root.pointer(reference.strip_prefix('#')?));
            let target =
                target.ok_or_else(|| invalid(&format!("{path}.$ref"), "leads nowhere; give one like #/$defs/NAME"))?;
            return self.shape(target, path, depth + 1);
        }
        if let Some(Value::Array(options)) = schema.get("anyOf") {
            known(schema, path, &["anyOf"])?;
            let mut open = options.iter().filter(|option| option.get("type").is_none_or(|kind| kind != "null"));
            return match (open.next(), open.next()) {
                (Some(only), None) => self.shape(only, &format!("{path}.anyOf"), depth + 1),
                (Some(_) | None, _) => Err(invalid(
                    &format!("{path}.anyOf"),
                    "a canvas is laid out before anything is chosen; give one alternative, beside null",
                )),
            };
        }
        if let Some(given) = schema.get("const") {
            known(schema, path, &["const", "type"])?;
            return Ok(Shape::Constant(given.to_string()));
        }
        if let Some(options) = schema.get("enum") {
            known(schema, path, &["enum", "type"])?;
            let options = options.as_array().filter(|options| !options.is_empty());
            let options =
                options.ok_or_else(|| invalid(&format!("{path}.enum"), "give an array of at least one value"))?;
            return Ok(Shape::OneOf(options.iter().map(Value::to_string).collect()));
        }
        self.typed(schema, path, depth)
    }

    fn typed(&mut self, schema: &'a Map<String, Value>, path: &str, depth: usize) -> Result<Shape, ApiError> {
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

    fn object(&mut self, schema: &'a Map<String, Value>, path: &str, depth: usize) -> Result<Shape, ApiError> {
        known(schema, path, &["type", "properties", "required", "additionalProperties"])?;
        let properties: Vec<(&String, &Value)> = match schema.get("properties") {
            None => Vec::new(),
            Some(Value::Object(properties)) => properties.iter().collect(),
            Some(_) => return Err(invalid(&format!("{path}.properties"), "give an object of schemas")),
        };
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        let stranger =
            required.filter_map(Value::as_str).find(|name| !properties.iter().any(|(known, _)| known == name));
        if let Some(name) = stranger {
            let message = format!("{name:?} is none of the properties; say what it is");
            return Err(invalid(&format!("{path}.required"), &message));
        }
        let mut members = Vec::new();
        for (name, schema) in properties {
            members.push((name.clone(), self.shape(schema, &format!("{path}.properties.{name}"), depth + 1)?));
        }
        Ok(Shape::Object(members))
    }

    fn array(&mut self, schema: &'a Map<String, Value>, path: &str, depth: usize) -> Result<Shape, ApiError> {
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
                return Err(invalid(
                    path,
                    "an array's length must be known: give minItems and maxItems, both the same",
                ));
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
    match schema.keys().find(|word| !words.contains(&word.as_str()) && !ANNOTATIONS.contains(&word.as_str())) {
        None => Ok(()),
        Some(word) => {
            let message = format!("this cannot be kept; here only{} can", listed(words).trim_start_matches(','));
            Err(invalid(&format!("{path}.{word}"), &message))
        }
    }
}

fn size(schema: &Map<String, Value>, path: &str, word: &str) -> Result<Option<usize>, ApiError> {
    let read =
        |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= VALUES_MAX);
    match schema.get(word) {
        None => Ok(None),
        Some(value) => match read(value) {
            Some(size) => Ok(Some(size)),
            None => Err(invalid(&format!("{path}.{word}"), &format!("give a whole number from 0 to {VALUES_MAX}"))),
        },
    }
}

/// The shape of a skeleton: JSON in which `"<string>"`, `"<string:12>"`, `"<number>"`,
/// `"<integer:3>"`, `"<boolean>"` and `"<a|b|c>"` stand for values.
fn skeleton_shape(skeleton: &Value, path: &str) -> Result<Shape, ApiError> {
    match skeleton {
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(name, value)| Ok((name.clone(), skeleton_shape(value, &format!("{path}.{name}"))?)));
            Ok(Shape::Object(members.collect::<Result<_, ApiError>>()?))
        }
        Value::Array(values) => {
            let values =
                values.iter().enumerate().map(|(index, value)| skeleton_shape(value, &format!("{path}[{index}]")));
            Ok(Shape::List(values.collect::<Result<_, _>>()?))
        }
        Value::String(text) => match text.strip_prefix('<').and_then(|text| text.strip_suffix('>')) {
            Some(blank) => typed_blank(blank, path),
            None => Ok(Shape::Constant(skeleton.to_string())),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(Shape::Constant(skeleton.to_string())),
    }
}

fn typed_blank(blank: &str, path: &str) -> Result<Shape, ApiError> {
    let (word, cells) = match blank.split_once(':') {
        Some((word, cells)) => match cells.parse::<usize>() {
            Ok(cells) if (1..=VALUES_MAX).contains(&cells) => (word, Some(cells)),
            Ok(_) | Err(_) => {
                return Err(invalid(path, &format!("{cells:?} is no number of tokens from 1 to {VALUES_MAX}")));
            }
        },
        None => (blank, None),
    };
    match word {
        "string" => Ok(Shape::Text { cells, characters: None }),
        "number" | "integer" => Ok(Shape::Number { cells, is_whole: word == "integer", is_signed: true }),
        "boolean" => Ok(Shape::OneOf(vec!["true".to_owned(), "false".to_owned()])),
        _ if blank.contains('|') => {
            Ok(Shape::OneOf(blank.split('|').map(|option| Value::from(option).to_string()).collect()))
        }
        _ => Err(invalid(
            path,
            &format!("<{blank}> is none of <string>, <string:12>, <number>, <integer>, <boolean> and <one|two|three>"),
        )),
    }
}
