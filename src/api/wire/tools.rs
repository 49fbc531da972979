//! `tools` and `tool_choice`: what the model's template is shown, and what an answer must call.

use super::field::shown;
use super::response_format;
use crate::api::error::{ApiError, ApiResult};
use crate::engine::{Format, Shape};
use crate::text::{json_string, quoted};
use serde_json::{Map, Value, json};

/// OpenAI's limits.
const TOOLS_MAX: usize = 128;
const NAME_MAX: usize = 64;
/// Where errors of the schema reader and of the engine say that a format is at fault.
const SCHEMA: &str = "response_format.json_schema.schema";
const FORMAT: &str = "response_format";

/// What a request says about tools.
#[derive(Debug, Default)]
pub(super) struct ToolUse {
    /// For the model's template; empty if none may be called.
    pub(super) shown: Vec<Value>,
    pub(super) call: Option<ForcedCall>,
}

/// The answer must be a call of a function.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ForcedCall {
    /// One, or several of which the model chooses one first.
    pub(crate) functions: Vec<Function>,
    /// Whether the request names the function, rather than requiring a call of any.
    pub(crate) is_named: bool,
}

/// A function that may be called.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// The format of a call: an object with `name` and `arguments`.
    pub(crate) format: Format,
    /// The field with the schema of its arguments, for errors.
    param: String,
}

impl ForcedCall {
    /// The format of an object with the name of one of the functions.
    pub(crate) fn choice(&self) -> Format {
        let names = self.functions.iter().map(|function| json_string(&function.name)).collect();
        Format::Shaped(Shape::Object(vec![("name".to_owned(), Shape::OneOf(names))]))
    }
}

impl Function {
    /// The error of a format that the engine refused, as one of the function's parameters.
    pub(crate) fn renamed(&self, error: ApiError) -> ApiError {
        renamed(error, FORMAT, &self.param)
    }
}

fn renamed(error: ApiError, from: &str, to: &str) -> ApiError {
    let own = |text: &str| text.strip_prefix(from).map(|rest| format!("{to}{rest}"));
    match error.param.as_deref().and_then(own) {
        None => error,
        Some(param) => {
            let message = own(&error.message).unwrap_or_else(|| format!("{to}: {}", error.message));
            ApiError { message, ..error }.at(Some(param))
        }
    }
}

/// Reads `tools` and `tool_choice`, whose default is `auto`.
pub(super) fn read(tools: Option<Value>, choice: Option<&Value>) -> ApiResult<ToolUse> {
    let tools = match tools {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(tools)) => tools,
        Some(Value::Object(tools)) if tools.is_empty() => Vec::new(),
        Some(_) => return Err(invalid("tools", "give an array of {\"type\": \"function\", \"function\": {..}}")),
    };
    if tools.len() > TOOLS_MAX {
        return Err(invalid("tools", &format!("given {}; give at most {TOOLS_MAX}", tools.len())));
    }
    let names = tools.iter().enumerate().map(|(index, tool)| name(index, tool)).collect::<ApiResult<Vec<_>>>()?;
    let (mode, allowed) = mode(choice)?;
    let find = |wanted: &str| names.iter().position(|name| name == wanted).ok_or_else(|| unknown(wanted, &names));
    let allowed = match allowed {
        None => (0..tools.len()).collect(),
        Some(allowed) => allowed.iter().map(|name| find(name)).collect::<ApiResult<Vec<_>>>()?,
    };
    if matches!(mode, Mode::Required | Mode::Named) && allowed.is_empty() {
        return Err(invalid("tool_choice", "a call is required and there are no tools; give at least one in tools"));
    }
    let shown = |allowed: &[usize]| allowed.iter().map(|index| tools[*index].clone()).collect::<Vec<_>>();
    match mode {
        Mode::None => Ok(ToolUse::default()),
        Mode::Auto => Ok(ToolUse { shown: shown(&allowed), call: None }),
        Mode::Required | Mode::Named => {
            let function = |index: &usize| function(*index, &names[*index], &tools[*index]);
            let functions = allowed.iter().map(function).collect::<ApiResult<Vec<_>>>()?;
            let call = ForcedCall { functions, is_named: mode == Mode::Named };
            Ok(ToolUse { shown: shown(&allowed), call: Some(call) })
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    None,
    Auto,
    Required,
    Named,
}

const CHOICES: &str =
    "give \"none\", \"auto\", \"required\", or {\"type\": \"function\", \"function\": {\"name\": ..}}";

/// The mode, and the names of the tools that may be called; `None` for all.
fn mode(choice: Option<&Value>) -> ApiResult<(Mode, Option<Vec<String>>)> {
    let choice = match choice {
        None | Some(Value::Null) => return Ok((Mode::Auto, None)),
        Some(choice) => choice,
    };
    let wrong = || invalid("tool_choice", &format!("given {}; {CHOICES}", shown(choice)));
    let named = |tool: &Value| tool.pointer("/function/name").and_then(Value::as_str).map(str::to_owned);
    let word = |word: Option<&str>| match word {
        Some("none") => Some(Mode::None),
        Some("auto") => Some(Mode::Auto),
        Some("required" | "any") => Some(Mode::Required), // "any" is Mistral's word for it
        Some(_) | None => None,
    };
    match choice.get("type").and_then(Value::as_str) {
        None => Ok((word(choice.as_str()).ok_or_else(wrong)?, None)),
        Some("function") => Ok((Mode::Named, Some(vec![named(choice).ok_or_else(wrong)?]))),
        Some("allowed_tools") => {
            let allowed = choice.get("allowed_tools").ok_or_else(wrong)?;
            let mode = word(allowed.get("mode").and_then(Value::as_str)).ok_or_else(wrong)?;
            let tools = allowed.get("tools").and_then(Value::as_array).ok_or_else(wrong)?;
            Ok((mode, Some(tools.iter().map(named).collect::<Option<_>>().ok_or_else(wrong)?)))
        }
        Some(_) => Err(wrong()),
    }
}

fn name(index: usize, tool: &Value) -> ApiResult<String> {
    let at = format!("tools[{index}]");
    if tool.get("type").is_none_or(|kind| kind != "function") {
        return Err(invalid(&format!("{at}.type"), "only functions can be called; give \"function\""));
    }
    let name = tool.pointer("/function/name").and_then(Value::as_str);
    let is_short = |name: &&str| (1..=NAME_MAX).contains(&name.chars().count());
    match name.filter(is_short) {
        Some(name) => Ok(name.to_owned()),
        None => Err(invalid(&format!("{at}.function.name"), &format!("give a text of 1 to {NAME_MAX} characters"))),
    }
}

fn unknown(wanted: &str, names: &[String]) -> ApiError {
    let known = names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { "there are none".to_owned() } else { format!("give one of {known}") };
    invalid("tool_choice", &format!("{} is none of the tools; {known}", quoted(wanted)))
}

fn function(index: usize, name: &str, tool: &Value) -> ApiResult<Function> {
    let param = format!("tools[{index}].function.parameters");
    let arguments = match tool.pointer("/function/parameters") {
        None | Some(Value::Null) => Shape::Object(Vec::new()),
        Some(Value::Object(schema)) if has_no_members(schema) => Shape::Object(Vec::new()),
        Some(schema) => {
            let format = json!({"type": "json_schema", "json_schema": {"schema": schema}});
            match response_format::read(Some(&format)).map_err(|error| renamed(error, SCHEMA, &param))? {
                Format::Shaped(shape) if is_object(&shape) => shape,
                Format::Shaped(_) | Format::Json | Format::Text => {
                    return Err(invalid(&param, "arguments are an object; give a JSON Schema of type object"));
                }
            }
        }
    };
    let name_shape = Shape::Constant(json_string(name));
    let members = vec![("name".to_owned(), name_shape), ("arguments".to_owned(), arguments)];
    Ok(Function { name: name.to_owned(), format: Format::Shaped(Shape::Object(members)), param })
}

/// Whether a schema has no parameters: the function is called without arguments.
fn has_no_members(schema: &Map<String, Value>) -> bool {
    let is_empty = |properties: &Value| properties.as_object().is_some_and(Map::is_empty);
    let is_plain = ["$ref", "allOf", "anyOf", "oneOf"].iter().all(|word| !schema.contains_key(*word));
    let is_object = schema.get("type").is_none_or(|kind| kind == "object");
    let is_closed = |further: &Value| further.is_boolean() || further.as_object().is_some_and(Map::is_empty);
    let is_closed =
        schema.get("additionalProperties").is_none_or(is_closed) && !schema.contains_key("patternProperties");
    is_plain && is_object && is_closed && schema.get("properties").is_none_or(is_empty)
}

fn is_object(shape: &Shape) -> bool {
    match shape {
        Shape::Object(_) | Shape::Map { .. } => true,
        Shape::Either(shapes) => shapes.iter().all(is_object),
        _ => false,
    }
}

fn invalid(param: &str, message: &str) -> ApiError {
    ApiError::invalid(param, format!("{param}: {message}"))
}
