//! Fields that take one of several forms: a text, ids, or lists of these. Their errors name the
//! part that has none of these forms; serde's untagged enums only say what is allowed.

use super::field::{Id, shown};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A part of a value that has no allowed form.
#[derive(Debug)]
pub(super) struct Fault {
    /// Where it stands in the value, as `[3][0]`.
    at: String,
    /// The part as JSON, cut if it is long.
    given: String,
}

pub(super) type Read<T> = Result<T, Fault>;

impl Fault {
    pub(super) fn of(part: &Value) -> Self {
        Self { at: String::new(), given: shown(part) }
    }

    /// The same fault of an item of a list.
    pub(super) fn inside(self, index: usize) -> Self {
        Self { at: format!("[{index}]{}", self.at), ..self }
    }

    /// As an error; `allowed` says what the whole value may be.
    pub(super) fn error<E: Error>(self, allowed: &str) -> E {
        let Self { at, given } = self;
        let place = if at.is_empty() { String::new() } else { format!(" at {at}") };
        E::custom(format!("given {given}{place}; {allowed}"))
    }
}

/// A field that `read` reads; `allowed` says what it takes.
pub(super) fn field<'de, D: Deserializer<'de>, T>(
    input: D,
    allowed: &str,
    read: impl FnOnce(Value) -> Read<T>,
) -> Result<T, D::Error> {
    read(Value::deserialize(input)?).map_err(|fault| fault.error(allowed))
}

pub(super) fn text(value: Value) -> Read<String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(Fault::of(&other)),
    }
}

#[allow(clippy::needless_pass_by_value)] // as the other forms
pub(super) fn id(value: Value) -> Read<Id> {
    Id::of(&value).ok_or_else(|| Fault::of(&value))
}

/// A list whose items `read` reads.
pub(super) fn list<T>(items: Vec<Value>, read: impl Fn(Value) -> Read<T>) -> Read<Vec<T>> {
    let item = |(index, item)| read(item).map_err(|fault| fault.inside(index));
    items.into_iter().enumerate().map(item).collect()
}

/// A list of ids.
pub(super) fn ids(value: Value) -> Read<Vec<Id>> {
    match value {
        Value::Array(items) => list(items, id),
        other => Err(Fault::of(&other)),
    }
}
