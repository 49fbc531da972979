//! A field of other servers, and the values of it that ask for nothing.

use crate::api::schema::{self, SchemaRef};
use crate::api::wire::field::shown;
use serde::de::{DeserializeSeed, Error, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// A field, and the values that ask for nothing. Null always does.
#[derive(Debug)]
pub(crate) struct Neutral {
    pub(super) name: &'static str,
    /// `None`: whatever is given makes no difference to the answer.
    pub(super) values: Option<&'static [Plain]>,
    /// What to do in place of a value that is refused; may be empty.
    pub(super) instead: &'static str,
}

/// A JSON value that can be a constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Plain {
    /// A whole number.
    Number(i32),
    Flag(bool),
    Word(&'static str),
    /// An array of words.
    Words(&'static [&'static str]),
    /// `{}`.
    NoMembers,
}

impl Plain {
    fn is(self, value: &Value) -> bool {
        match self {
            Self::Number(number) => value.as_f64() == Some(number.into()),
            Self::Flag(flag) => value.as_bool() == Some(flag),
            Self::Word(_) | Self::Words(_) | Self::NoMembers => value == &self.json(),
        }
    }

    fn json(self) -> Value {
        match self {
            Self::Number(number) => json!(number),
            Self::Flag(flag) => json!(flag),
            Self::Word(word) => json!(word),
            Self::Words(words) => json!(words),
            Self::NoMembers => json!({}),
        }
    }
}

impl Neutral {
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        let Some(values) = self.values else { return Ok(()) };
        if value.is_null() || values.iter().any(|neutral| neutral.is(value)) {
            return Ok(());
        }
        if !self.instead.is_empty() {
            return Err(format!("given {}; this is not supported; {}", shown(value), self.instead));
        }
        let allowed: Vec<String> = values.iter().map(|neutral| neutral.json().to_string()).collect();
        Err(match allowed[..] {
            [] => format!("given {}; this is not supported; leave it out", shown(value)),
            [ref one] => format!("given {}; only {one} is supported", shown(value)),
            _ => format!("given {}; only {} are supported", shown(value), allowed.join(" and ")),
        })
    }

    pub(super) fn schema(&self) -> SchemaRef {
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
