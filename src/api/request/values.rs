//! A limit on the number of values in a body. Free JSON (tools, arguments, schemas, variables of a
//! template) is kept as a tree that takes up to 600 bytes of memory for a value of two characters,
//! and templates make more copies of it, so a limit in bytes of text alone would not bound it.

use crate::api::error::ApiError;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Most values of a body: texts, numbers, words, arrays and objects, each counted once. 128 tools
/// with 100 values each, or 4,000 messages, have fewer.
pub(crate) const VALUES_MAX: usize = 32_768;

/// Fields that are read item by item into token ids or texts, and have limits of their own.
const UNCOUNTED: [&str; 4] = ["prompt", "tokens", "text", "template"];

/// Refuses a body with more than [`VALUES_MAX`] values. Says nothing of JSON that is not valid.
pub(super) fn check(body: &[u8]) -> Result<(), ApiError> {
    if body.len() / 2 < VALUES_MAX {
        return Ok(()); // each value has a character at least, and a comma or bracket
    }
    let mut count = Count { left: VALUES_MAX, field: String::new() };
    let mut json = serde_json::Deserializer::from_slice(body);
    match json.deserialize_map(Body(&mut count)) {
        Err(_) if count.left == 0 => {
            let field = ApiError::path(count.field);
            let message = format!(
                "{field}: up to here the body has more than {VALUES_MAX} values (texts, numbers, arrays, objects), \
                 the limit; send fewer. Those of {} are not counted",
                UNCOUNTED.join(", ")
            );
            Err(ApiError::invalid(field, message))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

struct Count {
    left: usize,
    /// The field that is being counted.
    field: String,
}

impl Count {
    fn add<E: Error>(&mut self) -> Result<(), E> {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 { Err(E::custom("too many values")) } else { Ok(()) }
    }
}

/// The object that a body is.
struct Body<'a>(&'a mut Count);

impl<'de> Visitor<'de> for Body<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut fields: M) -> Result<(), M::Error> {
        while let Some(field) = fields.next_key::<String>()? {
            if UNCOUNTED.contains(&&*field) {
                fields.next_value::<IgnoredAny>()?;
            } else {
                self.0.field = field;
                fields.next_value_seed(Counted(self.0))?;
            }
        }
        Ok(())
    }
}

/// A value of which each part is counted.
struct Counted<'a>(&'a mut Count);

impl<'de> DeserializeSeed<'de> for Counted<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        self.0.add()?;
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counted<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<(), S::Error> {
        while items.next_element_seed(Counted(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<M: MapAccess<'de>>(self, mut members: M) -> Result<(), M::Error> {
        while members.next_key::<IgnoredAny>()?.is_some() {
            members.next_value_seed(Counted(self.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> Option<String> {
        check(body.as_bytes()).err().map(|error| error.param.unwrap_or_default())
    }

    fn list(item: &str, count: usize) -> String {
        format!("[{}]", vec![item; count].join(","))
    }

    #[test]
    fn values_are_counted_wherever_they_stand() {
        for item in ["1", "{}", "[]", "\"\"", "null", "-1", "0.5", "true"] {
            let body = |count| format!("{{\"a\": 1, \"tools\": {}, \"b\": 1}}", list(item, count));
            // the fields before, and the list itself
            assert_eq!(refused(&body(VALUES_MAX - 4)), None, "{item}");
            assert_eq!(refused(&body(VALUES_MAX)).as_deref(), Some("tools"), "{item}");
        }
        let nested = |half| format!("{{\"a\": {{\"b\": [{}, {{\"c\": {}}}]}}}}", list("1", half), list("2", half));
        assert_eq!(refused(&nested(VALUES_MAX / 2 - 9)), None);
        assert_eq!(refused(&nested(VALUES_MAX / 2)).as_deref(), Some("a"));
        let members: Vec<String> = (0..VALUES_MAX).map(|name| format!("\"{name}\": 0")).collect();
        assert_eq!(refused(&format!("{{\"x\": {{{}}}}}", members.join(","))).as_deref(), Some("x"));
        assert_eq!(refused(&format!("{{{}}}", members.join(","))).as_deref(), Some("32767"), "also fields");
    }

    #[test]
    fn ids_and_texts_are_not_counted_and_what_is_no_json_is_left_to_its_parser() {
        for field in UNCOUNTED {
            assert_eq!(refused(&format!("{{\"{field}\": {}}}", list("1", 4 * VALUES_MAX))), None, "{field}");
        }
        let long = "x".repeat(4 * VALUES_MAX);
        for body in [format!("{{\"user\": \"{long}\"}}"), long.clone(), list("1", VALUES_MAX), format!("{{\"{long}")] {
            assert_eq!(refused(&body), None);
        }
        assert_eq!(refused(&format!("{{\"tools\": {}", "[".repeat(2 * VALUES_MAX))), None, "nested too deep");
    }
}
