//! Deserialisers of single fields, whose errors name the value and what is allowed.

use crate::diffusion::TokenId;
use crate::diffusion::policy::COUNT_MAX;
use crate::text;
use serde::de::{DeserializeSeed, Error, Expected, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, de::value::MapAccessDeserializer};
use serde_json::Value;
use std::fmt;

/// Largest number that is accepted; it fits an `f32`.
const NUMBER_MAX: f64 = 3.4e38;
/// 2^53: up to here every whole number is an `f64`.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A whole number of 32 bits. Its error names the range of the field, LOW to HIGH, which the engine
/// checks: every other number of 32 bits is read.
pub(crate) fn count<'de, D: Deserializer<'de>, const LOW: u32, const HIGH: u32>(
    input: D,
) -> Result<Option<u32>, D::Error> {
    count_within(input, LOW, HIGH)
}

/// As [`count`].
pub(crate) fn count_within<'de, D: Deserializer<'de>>(input: D, low: u32, high: u32) -> Result<Option<u32>, D::Error> {
    optional(input, &format!("give a whole number from {low} to {high}"), natural)
}

/// The number of new tokens, of which the engine knows how many fit. llama.cpp's -1 is as if none
/// were given.
pub(crate) fn new_tokens<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    let read = |value: &Value| match whole(value)? {
        -1 => Some(None),
        count => u32::try_from(count).ok().map(Some),
    };
    const ALLOWED: &str =
        "give a whole number from 1 to the room that the prompt leaves on the model's canvas, or -1 for the default";
    optional(input, ALLOWED, read).map(Option::flatten)
}

/// The steps of a proofreading: off, or one to erase and one to write at least.
pub(crate) fn proofreading_steps<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    optional(input, &format!("give 0, or a whole number from 2 to {COUNT_MAX}"), natural)
}

/// 0 or 1, where chat completions have a flag: `false` is as if nothing were given.
pub(crate) fn logprobs<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    let read = |value: &Value| match value {
        Value::Bool(false) => Some(None),
        value => natural(value).filter(|count| *count <= 1).map(Some),
    };
    const ALLOWED: &str = "give 0 or 1: the log-probability of the written token is known, no others are";
    optional(input, ALLOWED, read).map(Option::flatten)
}

/// A number whose range the engine checks.
pub(crate) fn temperature<'de, D: Deserializer<'de>>(input: D) -> Result<Option<f32>, D::Error> {
    optional(input, "give a number from 0 to 3.4e38", nearest)
}

/// As [`temperature`].
pub(crate) fn cfg_scale<'de, D: Deserializer<'de>>(input: D) -> Result<Option<f32>, D::Error> {
    optional(input, "give a number from 0 to 100", nearest)
}

/// As [`temperature`].
pub(crate) fn fraction<'de, D: Deserializer<'de>>(input: D) -> Result<Option<f32>, D::Error> {
    optional(input, FRACTIONS, nearest)
}

/// As [`temperature`].
pub(crate) fn penalty<'de, D: Deserializer<'de>>(input: D) -> Result<Option<f32>, D::Error> {
    optional(input, "give a number from -2 to 2", nearest)
}

/// As [`temperature`].
pub(crate) fn repetition<'de, D: Deserializer<'de>>(input: D) -> Result<Option<f32>, D::Error> {
    optional(input, "give a number from 0.01 to 100, 1 for none", nearest)
}

/// As [`temperature`].
pub(crate) fn number_to<'de, D: Deserializer<'de>>(input: D, max: u32) -> Result<Option<f32>, D::Error> {
    optional(input, &format!("give a number from 0 to {max}"), nearest)
}

const FRACTIONS: &str = "give a number from 0 to 1";

fn natural(value: &Value) -> Option<u32> {
    u32::try_from(whole(value)?).ok()
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

/// A token id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Id(u32);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        item(input, "give a token id: a whole number from 0, below the size of the vocabulary", natural).map(Self)
    }
}

impl Id {
    pub(super) fn of(value: &Value) -> Option<Self> {
        natural(value).map(Self)
    }
}

impl From<Id> for TokenId {
    fn from(Id(id): Id) -> Self {
        Self(id)
    }
}

/// A number of characters or tokens before a place in a text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offset(pub(crate) u32);

impl<'de> Deserialize<'de> for Offset {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        item(input, "give a whole number from 0 to the length of the text", natural).map(Self)
    }
}

/// What is added to a token's logit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bias(pub(crate) f32);

impl<'de> Deserialize<'de> for Bias {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        item(input, "give a number from -100 to 100", nearest).map(Self)
    }
}

/// An item of an array of numbers from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fraction(pub(crate) f32);

impl<'de> Deserialize<'de> for Fraction {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        item(input, FRACTIONS, nearest).map(Self)
    }
}

/// A whole number of 64 bits. Negative numbers wrap around.
pub(crate) fn seed<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    let read = |value: &Value| {
        let seed = whole(value)?;
        u64::try_from(seed).ok().or_else(|| i64::try_from(seed).ok().map(i64::cast_unsigned))
    };
    optional(input, "give a whole number of 64 bits: from -9223372036854775808 to 18446744073709551615", read)
}

pub(crate) fn rank<'de, D: Deserializer<'de>>(input: D) -> Result<Option<i32>, D::Error> {
    let read = |value: &Value| i32::try_from(whole(value)?).ok();
    optional(input, "give a whole number from -2147483648 to 2147483647", read)
}

/// A whole number from 1; 0 and -1 stand for no limit.
pub(crate) fn limit<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    let read = |value: &Value| match whole(value)? {
        -1 | 0 => Some(None),
        limit => u32::try_from(limit).ok().map(Some),
    };
    let allowed = format!("give a whole number from 1 to {COUNT_MAX}, or 0 or -1 for no limit");
    optional(input, &allowed, read).map(Option::flatten)
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
    read(&value).ok_or_else(|| {
        let is_quoted = value.as_str().is_some_and(|text| text.trim().parse::<f64>().is_ok());
        let kind = if is_quoted { ", a string" } else { "" };
        Error::custom(format!("given {}{kind}; {allowed}", shown(&value)))
    })
}

/// A value as JSON, cut if it is long.
pub(super) fn shown(value: &Value) -> String {
    text::shown(&value.to_string()).into_owned()
}

/// Reads one of some words, or null: the word's index. Its errors are serde's for an enum of words.
pub(crate) struct OneOf<'a> {
    /// "variant", or "field" for the name of a field.
    pub(crate) what: &'static str,
    pub(crate) words: &'a [&'static str],
    /// What else may be given, for errors: "", or as ", or an object".
    pub(crate) or: &'a str,
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
            [word] => formatter.write_str(word)?,
            [word, other] => write!(formatter, "{word} or {other}")?,
            words => write!(formatter, "one of {}", words.join(", "))?,
        }
        formatter.write_str(self.or)
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
    input.deserialize_any(Field { words: Vec::new() })
}

/// A `T` from an object, or from one of some words, each with what it stands for.
pub(crate) fn word_or_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    input: D,
    words: Vec<(&'static str, T)>,
) -> Result<Option<T>, D::Error> {
    input.deserialize_any(Field { words })
}

const OR_OBJECT: &str = ", or an object";

struct Field<T> {
    words: Vec<(&'static str, T)>,
}

impl<T> Field<T> {
    fn names(&self) -> Vec<&'static str> {
        self.words.iter().map(|(word, _)| *word).collect()
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Field<T> {
    type Value = Option<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names().as_slice() {
            [] => formatter.write_str("an object"),
            words => OneOf { what: "variant", words, or: OR_OBJECT }.expecting(formatter),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, given: &str) -> Result<Self::Value, E> {
        if self.words.is_empty() {
            return Err(E::invalid_type(Unexpected::Str(given), &self));
        }
        let index = OneOf { what: "variant", words: &self.names(), or: OR_OBJECT }.visit_str(given)?;
        Ok(index.and_then(|index| self.words.into_iter().nth(index)).map(|(_, meaning)| meaning))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(object)).map(Some)
    }
}
