//! Schemas of what `api::field` reads, under the same names, and parts to put others together from: what a type alone
//! would not say. Refuses to know which field it describes.

use serde_json::{Value, json};
use utoipa::PartialSchema;
use utoipa::openapi::schema::{
    AdditionalProperties, AnyOfBuilder, ArrayBuilder, Object, ObjectBuilder, OneOfBuilder, SchemaType, Type,
};
use utoipa::openapi::{RefOr, Schema};

type Part = RefOr<Schema>;

/// What stands behind the fields that OpenAI has and a diffusion model has no use for.
const FOR_NOTHING: &str = "OpenAI's; taken where it asks for nothing.";

/// One of some parts that exclude each other.
pub(crate) fn either(parts: impl IntoIterator<Item = Part>) -> Part {
    parts.into_iter().fold(OneOfBuilder::new(), OneOfBuilder::item).into()
}

/// One of some parts, or several at the same time.
pub(crate) fn any(parts: impl IntoIterator<Item = Part>) -> Part {
    parts.into_iter().fold(AnyOfBuilder::new(), AnyOfBuilder::item).into()
}

/// One of some parts, or null.
pub(crate) fn either_or_null(parts: impl IntoIterator<Item = Part>, description: &str) -> Part {
    let parts = parts.into_iter().chain([null()]);
    parts.fold(OneOfBuilder::new(), OneOfBuilder::item).description(Some(description)).into()
}

/// Only null.
pub(crate) fn null() -> Part {
    Object::with_type(Type::Null).into()
}

/// A text of at least so many characters.
pub(crate) fn text(length_min: usize) -> Part {
    let length_min = Some(length_min).filter(|length| *length > 0);
    ObjectBuilder::new().schema_type(Type::String).min_length(length_min).into()
}

/// A text that spells JSON.
pub(crate) fn spelled(schema: Part) -> Part {
    let text = ObjectBuilder::new().schema_type(Type::String).content_media_type("application/json");
    text.content_schema(Some(schema)).into()
}

/// A whole number from `min` to `max`.
pub(crate) fn whole(min: usize, max: usize) -> Part {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(min)).maximum(Some(max)).into()
}

/// A token's id.
pub(crate) fn token() -> Part {
    whole(0, u32::MAX as usize)
}

/// One of some words.
pub(crate) fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Part {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
}

/// A list of so many.
pub(crate) fn list(of: Part, min: usize, max: Option<usize>) -> Part {
    ArrayBuilder::new().items(of).min_items(Some(min).filter(|min| *min > 0)).max_items(max).into()
}

/// An empty list.
pub(crate) fn empty() -> Part {
    list(null(), 0, Some(0))
}

/// A type's own object, to be changed.
pub(crate) fn object<T: PartialSchema>() -> Object {
    match T::schema() {
        RefOr::T(Schema::Object(object)) => object,
        RefOr::T(_) | RefOr::Ref(_) => Object::new(),
    }
}

/// Only one of these values, or null.
fn only(values: &[Value], description: &str) -> Part {
    let values = values.iter().cloned().chain([Value::Null]);
    ObjectBuilder::new()
        .schema_type(SchemaType::AnyValue)
        .enum_values(Some(values))
        .description(Some(description))
        .into()
}

/// A whole number of 64 bits.
pub(crate) fn seed() -> Part {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Integer, Type::Null]))
        .minimum(Some(isize::MIN))
        .maximum(Some(usize::MAX))
        .description(Some("The same seed gives the same answer. Default: a fresh one."))
        .into()
}

/// Only 1.
pub(crate) fn one() -> Part {
    only(&[json!(1)], FOR_NOTHING)
}

/// Only 0.
pub(crate) fn zero() -> Part {
    only(&[json!(0)], FOR_NOTHING)
}

/// Only false.
pub(crate) fn off() -> Part {
    only(&[json!(false)], FOR_NOTHING)
}

/// Only an empty list or object.
pub(crate) fn nothing() -> Part {
    only(&[json!([]), json!({})], FOR_NOTHING)
}

/// Only null.
pub(crate) fn unsupported() -> Part {
    only(&[], FOR_NOTHING)
}

/// Only the word "off".
pub(crate) fn off_word() -> Part {
    only(&[json!("off")], "Nothing is cached between steps yet.")
}

/// Only that no tool is called.
pub(crate) fn no_tool() -> Part {
    only(&[json!("none"), json!("auto")], "OpenAI's; there are no tools.")
}

/// What an answer is to be.
pub(crate) fn response_format() -> Part {
    let kind = |kind| ObjectBuilder::new().schema_type(Type::Object).property("type", words([kind])).required("type");
    let anything = || ObjectBuilder::new().schema_type(SchemaType::AnyValue);
    let wrapper = ObjectBuilder::new().schema_type(Type::Object).property("schema", anything()).required("schema");
    let schema = kind("json_schema").property("json_schema", wrapper).required("json_schema");
    let skeleton = kind("json_skeleton").property("skeleton", anything()).required("skeleton");
    let description = "JSON that always parses: of a schema, of a skeleton whose values are blanks such as `\"<string:8>\"`, `\"<integer>\"`, \
                       `\"<boolean>\"` and `\"<yes|no>\"`, or any object. What could not be kept is refused by name.";
    either_or_null([kind("text").into(), kind("json_object").into(), schema.into(), skeleton.into()], description)
}

/// A whole number of 32 bits.
pub(crate) fn rank() -> Part {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Integer, Type::Null]))
        .minimum(Some(i32::MIN as isize))
        .maximum(Some(i32::MAX as usize))
        .description(Some("Who waits with a lower number is served first; default 0."))
        .into()
}

/// Only an answer in text.
pub(crate) fn text_only() -> Part {
    only(&[json!(["text"])], FOR_NOTHING)
}

/// Anything.
pub(crate) fn ignored() -> Part {
    let anything = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
    anything.description(Some("Taken, whatever it is, and ignored.")).into()
}

/// Ids of tokens.
pub(crate) fn tokens() -> Part {
    list(token(), 0, None)
}

/// The same, or null.
pub(crate) fn tokens_or_null() -> Part {
    either_or_null([tokens()], "vLLM's: tokens that end the answer; they are not part of it.")
}

/// Token ids, and what is added to their logits.
pub(crate) fn logit_bias() -> Part {
    let id = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9]{1,9}$")).build();
    let bias = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(-100)).maximum(Some(100));
    let biases = ObjectBuilder::new()
        .schema_type(Type::Object)
        .property_names(Some(id))
        .additional_properties(Some(AdditionalProperties::from(bias)));
    either_or_null([biases.into()], "Token ids, and what is added to their logits.")
}

/// Pairs of a start and an end.
pub(crate) fn pairs() -> Part {
    let pair = list(token(), 2, Some(2));
    let description = "Characters (of a text) or tokens (of ids) that stay, as pairs of a start and an end.";
    either_or_null([list(pair, 0, None)], description)
}
