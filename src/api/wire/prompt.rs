//! The field `prompt`: a text, token ids, or lists of these. It is read item by item: a list of
//! more prompts than a request may have is counted, not kept.

use super::common::CHOICES_MAX;
use super::field::Id;
use super::forms::{self, Fault, Read};
use crate::api::schema::{self, SchemaRef};
use crate::diffusion::TokenId;
use crate::engine::Prompt;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::fmt;
use utoipa::{PartialSchema, ToSchema};

const ALLOWED: &str = "give a string, an array of token ids, or an array of strings or of arrays of token ids";

/// The prompts of a completion.
#[derive(Debug)]
pub(super) enum PromptField {
    Text(String),
    Tokens(Vec<Id>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<Id>>),
    /// More than a request may have: their number.
    TooMany(usize),
}

impl PromptField {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Text(_) | Self::Tokens(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::TokenLists(lists) => lists.len(),
            Self::TooMany(count) => *count,
        }
    }

    /// The prompts; none of a list that is too long.
    pub(super) fn read(self) -> Vec<Prompt> {
        let tokens = |tokens: Vec<Id>| Prompt::Tokens(tokens.into_iter().map(TokenId::from).collect());
        match self {
            Self::Text(text) => vec![Prompt::Text(text)],
            Self::Tokens(list) => vec![tokens(list)],
            Self::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
            Self::TokenLists(lists) => lists.into_iter().map(tokens).collect(),
            Self::TooMany(_) => Vec::new(),
        }
    }
}

impl<'de> Deserialize<'de> for PromptField {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(Prompts)
    }
}

struct Prompts;

impl<'de> Visitor<'de> for Prompts {
    type Value = PromptField;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ALLOWED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PromptField, E> {
        Ok(PromptField::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<PromptField, E> {
        Ok(PromptField::Text(text))
    }

    fn visit_bool<E: Error>(self, given: bool) -> Result<PromptField, E> {
        refused(&given.into())
    }

    fn visit_u64<E: Error>(self, given: u64) -> Result<PromptField, E> {
        refused(&given.into())
    }

    fn visit_i64<E: Error>(self, given: i64) -> Result<PromptField, E> {
        refused(&given.into())
    }

    fn visit_f64<E: Error>(self, given: f64) -> Result<PromptField, E> {
        refused(&given.into())
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<PromptField, M::Error> {
        refused(&Value::deserialize(MapAccessDeserializer::new(map))?)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<PromptField, S::Error> {
        match items.next_element()? {
            None => Ok(PromptField::Tokens(Vec::new())),
            Some(Value::String(first)) => several(first.into(), items, forms::text, PromptField::Texts),
            Some(first @ Value::Array(_)) => several(first, items, forms::ids, PromptField::TokenLists),
            Some(first) => Ok(PromptField::Tokens(rest(first, &mut items, forms::id, usize::MAX)?)),
        }
    }
}

/// Reads a list of prompts: those that a request may have.
fn several<'de, S: SeqAccess<'de>, T>(
    first: Value,
    mut items: S,
    read: fn(Value) -> Read<T>,
    of: fn(Vec<T>) -> PromptField,
) -> Result<PromptField, S::Error> {
    let prompts = rest(first, &mut items, read, CHOICES_MAX)?;
    let mut more = 0;
    while items.next_element::<IgnoredAny>()?.is_some() {
        more += 1;
    }
    Ok(if more > 0 { PromptField::TooMany(prompts.len() + more) } else { of(prompts) })
}

/// Reads the items of a list of which the first was read already, `most` in all.
fn rest<'de, S: SeqAccess<'de>, T>(
    first: Value,
    items: &mut S,
    read: fn(Value) -> Read<T>,
    most: usize,
) -> Result<Vec<T>, S::Error> {
    let (mut all, mut next) = (Vec::new(), Some(first));
    while let Some(item) = next {
        all.push(read(item).map_err(|fault| fault.inside(all.len()).error(ALLOWED))?);
        next = if all.len() < most { items.next_element()? } else { None };
    }
    Ok(all)
}

fn refused<E: Error>(given: &Value) -> Result<PromptField, E> {
    Err(Fault::of(given).error(ALLOWED))
}

impl ToSchema for PromptField {
    fn name() -> std::borrow::Cow<'static, str> {
        "Prompt".into()
    }
}

impl PartialSchema for PromptField {
    fn schema() -> SchemaRef {
        let tokens = || schema::list(schema::token(), 1, None);
        let several = |one| schema::list(one, 1, Some(CHOICES_MAX));
        // a text may be empty where a suffix follows
        schema::either([schema::text(0), tokens(), several(schema::text(0)), several(tokens())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<PromptField, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn more_prompts_than_allowed_are_counted_and_not_kept() {
        for item in ["\"\"", "[]", "[1]"] {
            let list = |count: usize| read(&format!("[{}]", vec![item; count].join(","))).unwrap();
            assert!(matches!(list(CHOICES_MAX), PromptField::Texts(_) | PromptField::TokenLists(_)), "{item}");
            assert_eq!(list(CHOICES_MAX).read().len(), CHOICES_MAX);
            let many = list(CHOICES_MAX + 1);
            assert!(matches!(many, PromptField::TooMany(_)) && many.count() == CHOICES_MAX + 1, "{item}: {many:?}");
        }
        // ids are one prompt, however many they are
        assert_eq!(read(&format!("[{}]", vec!["1"; 1000].join(","))).unwrap().count(), 1);
    }

    #[test]
    fn an_item_of_another_form_is_named_with_its_place() {
        for (json, words) in [
            ("3", "given 3; give a string"),
            ("true", "given true; give a string"),
            ("{\"a\": 1}", "given {\"a\":1}; give a string"),
            ("[\"a\", 1]", "given 1 at [1]; give a string"),
            ("[[1], [2, \"b\"]]", "given \"b\" at [1][1]; give a string"),
            ("[1, [2]]", "given [2] at [1]; give a string"),
            ("[null]", "given null at [0]; give a string"),
        ] {
            let message = read(json).unwrap_err();
            assert!(message.contains(words), "{json}: {message}");
        }
    }
}
