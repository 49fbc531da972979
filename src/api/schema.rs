//! Helpers for JSON schemas, and schemas of what `wire::field` reads, under the same names.

use serde_json::{Value, json};
use utoipa::openapi::schema::{
    AdditionalProperties, AnyOfBuilder, ArrayBuilder, Object, ObjectBuilder, OneOfBuilder, SchemaType, Type,
};
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

pub(crate) type SchemaRef = RefOr<Schema>;

pub(crate) type NamedSchemas = Vec<(String, SchemaRef)>;

/// The description of other servers' fields that have no use here.
const FOR_NOTHING: &str = "Other servers' field; accepted only where it has no effect.";

/// Exactly one of some schemas.
pub(crate) fn either(parts: impl IntoIterator<Item = SchemaRef>) -> SchemaRef {
    parts.into_iter().fold(OneOfBuilder::new(), OneOfBuilder::item).into()
}

/// One of some schemas, or several of them.
pub(crate) fn any(parts: impl IntoIterator<Item = SchemaRef>) -> SchemaRef {
    parts.into_iter().fold(AnyOfBuilder::new(), AnyOfBuilder::item).into()
}

pub(crate) fn either_or_null(parts: impl IntoIterator<Item = SchemaRef>, description: &str) -> SchemaRef {
    let parts = parts.into_iter().chain([null()]);
    parts.fold(OneOfBuilder::new(), OneOfBuilder::item).description(Some(description)).into()
}

pub(crate) fn null() -> SchemaRef {
    Object::with_type(Type::Null).into()
}

/// A string of at least `length_min` characters.
pub(crate) fn text(length_min: usize) -> SchemaRef {
    let length_min = Some(length_min).filter(|length| *length > 0);
    ObjectBuilder::new().schema_type(Type::String).min_length(length_min).into()
}

/// A string that contains JSON.
pub(crate) fn spelled(schema: SchemaRef) -> SchemaRef {
    let text = ObjectBuilder::new().schema_type(Type::String).content_media_type("application/json");
    text.content_schema(Some(schema)).into()
}

pub(crate) fn whole(min: usize, max: usize) -> SchemaRef {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(min)).maximum(Some(max)).into()
}

pub(crate) fn token() -> SchemaRef {
    whole(0, u32::MAX as usize)
}

/// One of some strings.
pub(crate) fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> SchemaRef {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
}

pub(crate) fn list(of: SchemaRef, min: usize, max: Option<usize>) -> SchemaRef {
    ArrayBuilder::new().items(of).min_items(Some(min).filter(|min| *min > 0)).max_items(max).into()
}

pub(crate) fn empty() -> SchemaRef {
    list(null(), 0, Some(0))
}

pub(crate) fn reference<T: ToSchema>() -> SchemaRef {
    Ref::from_schema_name(T::name()).into()
}

/// Adds a type's schema, and those that it refers to.
pub(crate) fn add<T: ToSchema>(schemas: &mut NamedSchemas) {
    T::schemas(schemas);
    schemas.push((T::name().into_owned(), T::schema()));
}

/// A copy of a type's object schema.
pub(crate) fn object<T: PartialSchema>() -> Object {
    match T::schema() {
        RefOr::T(Schema::Object(object)) => object,
        RefOr::T(_) | RefOr::Ref(_) => Object::new(),
    }
}

/// Only one of these values, or null.
fn only(values: &[Value], description: &str) -> SchemaRef {
    let values = values.iter().cloned().chain([Value::Null]);
    let value = ObjectBuilder::new().schema_type(SchemaType::AnyValue).enum_values(Some(values));
    value.description(Some(description)).into()
}

fn whole_or_null(min: isize, max: usize, description: &str) -> SchemaRef {
    let number = ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Integer, Type::Null]));
    number.minimum(Some(min)).maximum(Some(max)).description(Some(description)).into()
}

pub(crate) fn new_tokens() -> SchemaRef {
    let default = ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([-1]));
    let description = "Tokens of the answer at most. Default, also for llama.cpp's -1: the model's own limit, else the room \
                       on its canvas.";
    either_or_null([whole(1, u32::MAX as usize), default.into()], description)
}

pub(crate) fn seed() -> SchemaRef {
    whole_or_null(isize::MIN, usize::MAX, "The same seed gives the same answer. Default: a fresh one.")
}

/// Of a field that has no use here: only values that ask for nothing.
pub(crate) fn neutral(values: &[Value]) -> SchemaRef {
    only(values, FOR_NOTHING)
}

pub(crate) fn off_word() -> SchemaRef {
    only(&[json!("off")], "Nothing is cached between steps yet.")
}

/// An object with the type `kind`, and what belongs to it under the same name.
fn tagged(kind: &str, object: ObjectBuilder) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("type", words([kind]))
        .property(kind, object)
        .required("type")
        .required(kind)
}

pub(crate) fn tools() -> SchemaRef {
    let function = ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("name", ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(64)))
        .property("description", ObjectBuilder::new().schema_type(SchemaType::AnyValue))
        .property("parameters", ObjectBuilder::new().schema_type(SchemaType::AnyValue))
        .required("name");
    let tool = tagged("function", function);
    let description = "Functions that the model may call, 128 at most. With `tool_choice` `auto` the model's chat template must \
                       show tools.";
    either_or_null([list(tool.into(), 0, Some(128))], description)
}

pub(crate) fn tool_choice() -> SchemaRef {
    let named = ObjectBuilder::new().schema_type(Type::Object).property("name", text(1)).required("name");
    let function: SchemaRef = tagged("function", named).into();
    let tools = list(function.clone(), 0, Some(128));
    let tools = ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("mode", words(["none", "auto", "required", "any"]))
        .property("tools", tools)
        .required("mode")
        .required("tools");
    let allowed = tagged("allowed_tools", tools);
    let description = "`required` (or `any`, Mistral's word for it) and a function's name make the answer a call whose arguments \
         keep the function's schema.";
    either_or_null([words(["none", "auto", "required", "any"]), function, allowed.into()], description)
}

pub(crate) fn response_format() -> SchemaRef {
    let kind = |kind| ObjectBuilder::new().schema_type(Type::Object).property("type", words([kind])).required("type");
    let anything = || ObjectBuilder::new().schema_type(SchemaType::AnyValue);
    let wrapper = ObjectBuilder::new().schema_type(Type::Object).property("schema", anything()).required("schema");
    let schema = kind("json_schema").property("json_schema", wrapper).required("json_schema");
    let skeleton = kind("json_skeleton").property("skeleton", anything()).required("skeleton");
    let description = "JSON that always parses: by a schema, by a skeleton whose values are blanks such as `\"<string:8>\"`, `\"<integer>\"`, \
                       `\"<boolean>\"` and `\"<yes|no>\"`, or any object. A keyword that cannot be enforced is an error that names it. At most 131072 bytes.";
    let object = kind("json_object").property("schema", anything());
    either_or_null([kind("text").into(), object.into(), schema.into(), skeleton.into()], description)
}

/// A JSON Schema, or a text of one.
pub(crate) fn guided_json() -> SchemaRef {
    let object = ObjectBuilder::new().schema_type(Type::Object).into();
    let description = "vLLM's, SGLang's and llama.cpp's way to give the schema of `response_format`, or a text of it. What is empty \
                       asks for nothing.";
    either_or_null([object, text(0), empty()], description)
}

fn texts() -> SchemaRef {
    list(text(1), 0, Some(1000))
}

pub(crate) fn guided_choice() -> SchemaRef {
    let description = "vLLM's: texts, of which the answer is one. What is empty asks for nothing.";
    either_or_null([texts(), words([""])], description)
}

pub(crate) fn structured_outputs() -> SchemaRef {
    let flag = || ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Boolean, Type::Null]));
    let object = ObjectBuilder::new().schema_type(Type::Object);
    let object = object.property("json", guided_json()).property("choice", guided_choice());
    let object = object.property("json_object", flag());
    let description =
        "vLLM's newer name for `guided_json` and `guided_choice`: one of `json`, `choice` and `json_object`.";
    either_or_null([object.into()], description)
}

pub(crate) fn rank() -> SchemaRef {
    let description = "Requests with a lower number leave the queue first; default 0.";
    whole_or_null(i32::MIN as isize, i32::MAX as usize, description)
}

pub(crate) fn ignored() -> SchemaRef {
    let anything = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
    anything.description(Some("Accepted and ignored.")).into()
}

pub(crate) fn tokens() -> SchemaRef {
    list(token(), 0, None)
}

pub(crate) fn tokens_or_null() -> SchemaRef {
    either_or_null([tokens()], "vLLM's: tokens that end the answer and are not part of it.")
}

pub(crate) fn logit_bias() -> SchemaRef {
    let id = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9]{1,9}$")).build();
    let bias = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(-100)).maximum(Some(100));
    let biases = ObjectBuilder::new()
        .schema_type(Type::Object)
        .property_names(Some(id))
        .additional_properties(Some(AdditionalProperties::from(bias)));
    either_or_null([biases.into()], "Numbers added to the logits of token ids.")
}

/// Objects of fields, each under a name.
pub(crate) fn presets() -> SchemaRef {
    let fields = ObjectBuilder::new().schema_type(Type::Object);
    let description = "What each name means that requests may give as `preset`: fields of the `diffusion` object.";
    let object = ObjectBuilder::new().schema_type(Type::Object).description(Some(description));
    object.additional_properties(Some(AdditionalProperties::from(fields))).into()
}

pub(crate) fn pairs() -> SchemaRef {
    let pair = list(token(), 2, Some(2));
    let description = "Ranges that stay fixed, as pairs of start and end: characters of a text, or tokens of ids.";
    either_or_null([list(pair, 0, None)], description)
}
