//! Deserialisers of single fields, whose errors name the value and what is allowed.

use crate::diffusion::TokenId;
use serde::de::{DeserializeSeed, Error, Expected, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, de::value::MapAccessDeserializer};
use serde_json::Value;
use std::fmt;

/// Characters of a rejected value that its error repeats.
const SHOWN_MAX: usize = 60;

/// Largest number that is accepted; it fits an `f32`.
const NUMBER_MAX: f64 = 3.4e38;
/// 2^53: up to here every whole number is an `f64`.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

const COUNTS: &str = "give a whole number from 0 to 4294967295";

/// A whole number from 0 to 4,294,967,295.
pub(crate) fn count<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    optional(input, COUNTS, |value| u32::try_from(whole(value)?).ok())
}

/// As [`count`], where chat completions have a flag: `false` is as if nothing were given.
pub(crate) fn count_or_false<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    let read = |value: &Value| match value {
        Value::Bool(false) => Some(None),
        value => u32::try_from(whole(value)?).ok().map(Some),
    };
    optional(input, COUNTS, read).map(Option::flatten)
}

/// A number that fits an `f32`.
pub(crate) fn number<'de, D: Deserializer<'de>>(input: D) -> Result<Option<f32>, D::Error> {
    optional(input, "give a number of at most 3.4e38", nearest)
}

/// A whole number. In JSON 3, 3.0 and 3e0 are the same number.
fn whole(value: &Value) -> Option<i128> {
    let is_exact = |number: &f64| number.fract() == 0.0 && number.abs() <= EXACT_MAX;
    let spelled = || value.as_f64().filter(is_exact).map(|number| number as i128); // exact
    value.as_u64().map(i128::from).or_else(|| value.as_i64().map(i128::from)).or_else(spelled)
}

/// The nearest `f32` that is whole only if the number is: limits are whole, and 1e-99 is above 0.
fn nearest(value: &Value) -> Option<f32> {
    let exact = value.as_f64().filter(|number| number.abs() <= NUMBER_MAX)?;
    let near = exact as f32;
    Some(match exact - f64::from(near) {
        error if exact.fract() == 0.0 || near.fract() != 0.0 || error == 0.0 => near,
        error if error > 0.0 => near.next_up(),
        _ => near.next_down(),
    })
}

/// An item of an array of whole numbers from 0 to 4,294,967,295.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count(pub(crate) u32);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        item(input, COUNTS, |value| u32::try_from(whole(value)?).ok()).map(Self)
    }
}

impl From<Count> for TokenId {
    fn from(Count(id): Count) -> Self {
        Self(id)
    }
}

/// An item of an array of numbers that fit an `f32`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number(pub(crate) f32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        item(input, "give a number of at most 3.4e38", nearest).map(Self)
    }
}

/// A whole number of 64 bits. Negative numbers wrap around.
pub(crate) fn seed<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    let read = |value: &Value| {
        let seed = whole(value)?;
        u64::try_from(seed).ok().or_else(|| i64::try_from(seed).ok().map(i64::cast_unsigned))
    };
    optional(input, "give a whole number of 64 bits", read)
}

pub(crate) fn rank<'de, D: Deserializer<'de>>(input: D) -> Result<Option<i32>, D::Error> {
    let read = |value: &Value| i32::try_from(whole(value)?).ok();
    optional(input, "give a whole number from -2147483648 to 2147483647", read)
}

pub(crate) fn off_word<'de, D: Deserializer<'de>>(input: D) -> Result<(), D::Error> {
    only(input, "only \"off\" is supported so far", |value| value == "off")
}

/// A whole number from 1; 0 and -1 stand for no limit.
pub(crate) fn limit<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    let read = |value: &Value| match whole(value)? {
        -1 | 0 => Some(None),
        limit => u32::try_from(limit).ok().map(Some),
    };
    optional(input, "give a whole number from 1 to 4294967295, or 0 for no limit", read).map(Option::flatten)
}

fn optional<'de, D: Deserializer<'de>, T>(
    input: D,
    allowed: &str,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<Option<T>, D::Error> {
    match Value::deserialize(input)? {
        Value::Null => Ok(None),
        value => item(value, allowed, read).map(Some).map_err(Error::custom),
    }
}

fn item<'de, D: Deserializer<'de>, T>(
    input: D,
    allowed: &str,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<T, D::Error> {
    let value = Value::deserialize(input)?;
    read(&value).ok_or_else(|| Error::custom(format!("given {}; {allowed}", shown(&value))))
}

fn only<'de, D: Deserializer<'de>>(input: D, allowed: &str, accepts: fn(&Value) -> bool) -> Result<(), D::Error> {
    optional(input, allowed, |value| accepts(value).then_some(())).map(Option::unwrap_or_default)
}

/// A value as JSON, cut if it is long.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Reads one of some words, or null: the word's index. Its errors are serde's for an enum of words.
pub(crate) struct OneOf<'a> {
    /// "variant", or "field" for the name of a field.
    pub(crate) what: &'static str,
    pub(crate) words: &'a [&'static str],
}

impl<'de> DeserializeSeed<'de> for OneOf<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl Visitor<'_> for OneOf<'_> {
    type Value = Option<usize>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted: Vec<String> = self.words.iter().map(|word| format!("`{word}`")).collect();
        match quoted.as_slice() {
            [word] => formatter.write_str(word),
            [word, other] => write!(formatter, "{word} or {other}"),
            words => write!(formatter, "one of {}", words.join(", ")),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, given: &str) -> Result<Self::Value, E> {
        let known = self.words.iter().position(|word| *word == given);
        let expected: &dyn Expected = &self;
        known.map(Some).ok_or_else(|| E::custom(format!("unknown {} `{given}`, expected {expected}", self.what)))
    }
}

/// A `T` from an object. serde alone would also accept an array of its fields.
pub(crate) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(input: D) -> Result<Option<T>, D::Error> {
    input.deserialize_any(Field { word: None })
}

/// A `T` from an object, or from the one word that stands for `meaning`.
pub(crate) fn word_or_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    input: D,
    word: &'static str,
    meaning: T,
) -> Result<Option<T>, D::Error> {
    input.deserialize_any(Field { word: Some((word, meaning)) })
}

struct Field<T> {
    word: Option<(&'static str, T)>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Field<T> {
    type Value = Option<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.word.is_some() { "a word or an object" } else { "an object" })
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, given: &str) -> Result<Self::Value, E> {
        let Some((word, meaning)) = self.word else { return Err(E::invalid_type(Unexpected::Str(given), &self)) };
        OneOf { what: "variant", words: &[word] }.visit_str(given).map(|_| Some(meaning))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(object)).map(Some)
    }
}
