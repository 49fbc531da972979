//! Fields that other servers have and that are of no use here. A value that asks for nothing is
//! accepted; every other is an error that names the field. The tables are data: a field is one row.

use super::field::shown;
use crate::api::schema::{self, NamedSchemas, SchemaRef};
use serde::de::{DeserializeSeed, Error, IgnoredAny, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt;
use utoipa::{PartialSchema, ToSchema};

/// A field, and the values that ask for nothing. Null always does.
#[derive(Debug)]
pub(crate) struct Neutral {
    name: &'static str,
    /// `None`: whatever is given makes no difference to the answer.
    values: Option<&'static [Plain]>,
}

/// A JSON value that can be a constant.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plain {
    Number(f64),
    Flag(bool),
    Word(&'static str),
    /// `[]`.
    NoItems,
    /// `{}`.
    NoMembers,
    /// `["text"]`.
    TextOnly,
}

use Plain::{Flag, NoItems, NoMembers, Number, TextOnly, Word};

const ZERO: &[Plain] = &[Number(0.0)];
const ONE: &[Plain] = &[Number(1.0)];
const OFF: &[Plain] = &[Flag(false)];
const ON: &[Plain] = &[Flag(true)];
const NOTHING: &[Plain] = &[NoItems, NoMembers];
const NULL: &[Plain] = &[];

const fn only(name: &'static str, values: &'static [Plain]) -> Neutral {
    Neutral { name, values: Some(values) }
}

const fn ignored(name: &'static str) -> Neutral {
    Neutral { name, values: None }
}

/// Of completions and chat completions: OpenAI's fields, then those of vLLM and SGLang.
pub(super) const COMMON: &[Neutral] = &[
    only("presence_penalty", ZERO),
    only("frequency_penalty", ZERO),
    only("store", OFF),
    ignored("user"),
    ignored("metadata"),
    ignored("service_tier"),
    ignored("safety_identifier"),
    ignored("prompt_cache_key"),
    ignored("prompt_cache_retention"),
    ignored("parallel_tool_calls"),
    only("best_of", ONE),
    only("repetition_penalty", ONE),
    only("length_penalty", ONE),
    only("min_p", ZERO),
    only("min_tokens", ZERO),
    only("ignore_eos", OFF),
    only("use_beam_search", OFF),
    only("early_stopping", OFF),
    only("skip_special_tokens", ON),
    ignored("spaces_between_special_tokens"),
    only("include_stop_str_in_output", OFF),
    only("no_stop_trim", OFF),
    only("truncate_prompt_tokens", NULL),
    only("prompt_logprobs", NULL),
    only("return_tokens_as_token_ids", OFF),
    only("return_token_ids", OFF),
    only("allowed_token_ids", NULL),
    only("bad_words", NOTHING),
    only("logits_processors", NOTHING),
    only("guided_json", NULL),
    only("guided_regex", NULL),
    only("guided_choice", NULL),
    only("guided_grammar", NULL),
    ignored("guided_decoding_backend"),
    only("guided_whitespace_pattern", NULL),
    only("structured_outputs", NULL),
    only("structural_tag", NULL),
    only("regex", NULL),
    only("ebnf", NULL),
    only("lora_path", NULL),
    only("kv_transfer_params", NULL),
    only("vllm_xargs", NOTHING),
    ignored("cache_salt"),
    ignored("request_id"),
];

/// Of completions alone.
pub(super) const COMPLETION: &[Neutral] =
    &[only("tools", NOTHING), only("tool_choice", &[Word("none"), Word("auto")]), ignored("add_special_tokens")];

/// Of chat completions alone.
pub(super) const CHAT: &[Neutral] = &[
    only("functions", NOTHING),
    only("function_call", &[Word("none"), Word("auto")]),
    only("top_logprobs", ZERO),
    only("modalities", &[TextOnly]),
    only("audio", NULL),
    only("moderation", NULL),
    only("web_search_options", NULL),
    ignored("prediction"), // it makes OpenAI's answer faster, not another one
    ignored("reasoning_effort"),
    ignored("reasoning"),
    ignored("thinking"),
    ignored("include_reasoning"),
    ignored("separate_reasoning"),
    ignored("stream_reasoning"),
    ignored("verbosity"),
    only("echo", OFF),
    only("add_generation_prompt", ON),
    only("continue_final_message", OFF),
    only("add_special_tokens", OFF),
    only("documents", NOTHING),
    only("chat_template", NULL),
    only("chat_template_kwargs", NOTHING),
    only("mm_processor_kwargs", NOTHING),
];

/// Of a message: what answers of OpenAI and of other servers have, when they are sent back.
pub(super) const MESSAGE: &[Neutral] = &[
    ignored("annotations"),
    only("audio", NULL),
    only("function_call", NULL),
    only("images", NOTHING),
    only("prefix", OFF),
    ignored("parsed"),
    ignored("reasoning"),
    ignored("reasoning_content"),
    ignored("reasoning_details"),
    ignored("thinking_blocks"),
    ignored("provider_specific_fields"),
    ignored("cache_control"),
];

/// Of a call of a tool in a message, and of its function.
pub(super) const TOOL_CALL: &[Neutral] = &[ignored("index"), ignored("provider_specific_fields")];
pub(super) const CALLED_FUNCTION: &[Neutral] = &[ignored("parsed_arguments")];

/// Of `stream_options`.
pub(super) const STREAM_OPTIONS: &[Neutral] = &[only("include_obfuscation", OFF), only("continuous_usage_stats", OFF)];

impl Plain {
    fn is(self, value: &Value) -> bool {
        match self {
            Number(number) => value.as_f64() == Some(number),
            Flag(flag) => value.as_bool() == Some(flag),
            Word(word) => value == word,
            NoItems => value.as_array().is_some_and(Vec::is_empty),
            NoMembers => value.as_object().is_some_and(serde_json::Map::is_empty),
            TextOnly => value == &json!(["text"]),
        }
    }

    #[allow(clippy::cast_possible_truncation)] // the numbers of the tables are small and whole
    fn json(self) -> Value {
        match self {
            Number(number) => json!(number as i64),
            Flag(flag) => json!(flag),
            Word(word) => json!(word),
            NoItems => json!([]),
            NoMembers => json!({}),
            TextOnly => json!(["text"]),
        }
    }
}

impl Neutral {
    fn check(&self, value: &Value) -> Result<(), String> {
        let Some(values) = self.values else { return Ok(()) };
        if value.is_null() || values.iter().any(|neutral| neutral.is(value)) {
            return Ok(());
        }
        let allowed: Vec<String> = values.iter().map(|neutral| neutral.json().to_string()).collect();
        Err(match allowed[..] {
            [] => format!("given {}; this is not supported; leave it out", shown(value)),
            [ref one] => format!("given {}; only {one} is supported", shown(value)),
            _ => format!("given {}; only {} are supported", shown(value), allowed.join(" and ")),
        })
    }

    fn schema(&self) -> SchemaRef {
        match self.values {
            None => schema::ignored(),
            Some(values) => schema::neutral(&values.iter().map(|neutral| neutral.json()).collect::<Vec<_>>()),
        }
    }
}

impl<'de> DeserializeSeed<'de> for &Neutral {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        match self.values {
            None => IgnoredAny::deserialize(input).map(drop),
            Some(_) => self.check(&Value::deserialize(input)?).map_err(Error::custom),
        }
    }
}

/// A type whose JSON object may also have the fields of some tables.
pub(crate) trait Tables {
    const TABLES: &'static [&'static [Neutral]];
}

/// A `T`, read from an object from which the fields of its tables are taken off.
#[derive(Debug)]
pub(crate) struct Screened<T>(pub(crate) T);

impl<'de, T: Deserialize<'de> + Tables> Deserialize<'de> for Screened<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        T::deserialize(Screen { input, tables: T::TABLES }).map(Self)
    }
}

type TableList = &'static [&'static [Neutral]];

/// Passes on what a struct is read from, and takes off the fields of the tables.
struct Screen<D> {
    input: D,
    tables: TableList,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Screen<D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.input.deserialize_struct(name, fields, ScreenVisitor { visitor, fields, tables: self.tables })
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.input.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct ScreenVisitor<V> {
    visitor: V,
    fields: &'static [&'static str],
    tables: TableList,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for ScreenVisitor<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(formatter)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        let Self { visitor, fields, tables } = self;
        visitor.visit_map(ScreenMap { map, fields, tables, seen: Vec::new() })
    }
}

struct ScreenMap<A> {
    map: A,
    fields: &'static [&'static str],
    tables: TableList,
    /// The fields of the tables that were given; each at most once.
    seen: Vec<&'static str>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for ScreenMap<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        loop {
            let key = KeySeed { fields: self.fields, tables: self.tables };
            match self.map.next_key_seed(key)? {
                None => return Ok(None),
                Some(Key::Own(name)) => return seed.deserialize(name.into_deserializer()).map(Some),
                Some(Key::Neutral(field)) => {
                    if self.seen.contains(&field.name) {
                        return Err(Error::custom(format!("duplicate field `{}`", field.name)));
                    }
                    self.seen.push(field.name);
                    self.map.next_value_seed(field)?;
                }
            }
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

enum Key {
    /// A field of the struct.
    Own(&'static str),
    Neutral(&'static Neutral),
}

struct KeySeed {
    fields: &'static [&'static str],
    tables: TableList,
}

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Key, D::Error> {
        let name = Cow::<'_, str>::deserialize(input)?;
        let neutral = || self.tables.iter().copied().flatten();
        if let Some(own) = self.fields.iter().find(|field| **field == name) {
            return Ok(Key::Own(own));
        }
        if let Some(field) = neutral().find(|field| field.name == name) {
            return Ok(Key::Neutral(field));
        }
        let known: Vec<String> = self
            .fields
            .iter()
            .copied()
            .chain(neutral().map(|field| field.name))
            .map(|name| format!("`{name}`"))
            .collect();
        Err(Error::custom(format!("unknown field `{name}`, expected one of {}", known.join(", "))))
    }
}

impl<T: PartialSchema + Tables> PartialSchema for Screened<T> {
    fn schema() -> SchemaRef {
        let mut object = schema::object::<T>();
        let fields = T::TABLES.iter().copied().flatten();
        object.properties.extend(fields.map(|field| (field.name.to_owned(), field.schema())));
        object.into()
    }
}

impl<T: ToSchema + Tables> ToSchema for Screened<T> {
    fn name() -> Cow<'static, str> {
        T::name()
    }

    fn schemas(schemas: &mut NamedSchemas) {
        T::schemas(schemas);
    }
}
