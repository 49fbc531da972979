//! The digest of what a body says, by which a request that is sent again is recognised. JSON with
//! other white space, escapes or order of members says the same.

use crate::api::state::keys::Fingerprint;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};
use std::fmt;

/// The digest of a body: of its values if it is JSON, else of its bytes. Takes time in proportion
/// to its length, and 64 bytes of memory for each member of an object.
pub(crate) fn of(body: &[u8]) -> Fingerprint {
    let mut digest = Sha256::new();
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = Values(&mut digest).deserialize(&mut json).and_then(|()| json.end());
    match read {
        Ok(()) => digest.finalize().into(),
        Err(_) => Sha256::digest(body).into(),
    }
}

/// Adds a value to a digest. Each begins with a letter for its type, and those of any length have
/// their length or an end, so that no two values add the same bytes.
struct Values<'a>(&'a mut Sha256);

impl Values<'_> {
    fn add<E>(self, kind: u8, bytes: &[u8]) -> Result<(), E> {
        self.0.update([kind]);
        self.0.update(bytes);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Values<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Values<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.add(b'n', &[])
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.add(b'b', &[u8::from(value)])
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.add(b'i', &i128::from(value).to_le_bytes())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.add(b'i', &i128::from(value).to_le_bytes())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.add(b'f', &value.to_le_bytes())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.update([b's']);
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<(), S::Error> {
        self.0.update([b'[']);
        while items.next_element_seed(Values(self.0))?.is_some() {}
        self.add(b']', &[])
    }

    fn visit_map<M: MapAccess<'de>>(self, mut members: M) -> Result<(), M::Error> {
        let mut digests: Vec<[Fingerprint; 2]> = Vec::new();
        while let Some(name) = members.next_key::<String>()? {
            let mut value = Sha256::new();
            members.next_value_seed(Values(&mut value))?;
            digests.push([Sha256::digest(name).into(), value.finalize().into()]);
        }
        // of members of one name, the order matters: the last may be the one that counts
        digests.sort_by_key(|[name, _]| *name);
        self.0.update([b'{']);
        self.0.update((digests.len() as u64).to_le_bytes());
        digests.iter().flatten().for_each(|digest| self.0.update(digest));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_the_same_has_one_digest() {
        for (one, other) in [
            (r#"{"a":1,"b":{"c":[1,2],"d":null}}"#, "\n{ \"b\" : {\"d\": null, \"c\": [ 1 , 2 ]},\t\"a\": 1 } "),
            (r#"{"a":"\u00e9\/"}"#, "{\"a\":\"é/\"}"),
            (r#"[1e2]"#, "[100.0]"),
        ] {
            assert_eq!(of(one.as_bytes()), of(other.as_bytes()), "{one} {other}");
        }
    }

    #[test]
    fn what_says_something_else_has_another_digest() {
        let bodies = [
            "",
            " ",
            "x",
            "[]",
            "{}",
            "[[]]",
            "[{}]",
            "[[],[]]",
            "[[[]]]",
            "null",
            "0",
            "-0.0",
            "1",
            "1.0",
            "true",
            "\"1\"",
            "\"\"",
            "[\"a\",\"b\"]",
            "[\"ab\"]",
            "[\"b\",\"a\"]",
            "[1,2]",
            "[2,1]",
            "[[1],2]",
            "[[1,2]]",
            r#"{"a":1}"#,
            r#"{"a":2}"#,
            r#"{"b":1}"#,
            r#"{"a":{"b":1}}"#,
            r#"{"a":1,"b":2}"#,
            r#"{"a":2,"b":1}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":2,"a":1}"#,
            r#"{"a":1} x"#,
            r#"{"a":1"#,
            "[18446744073709551615]",
            "[-1]",
        ];
        let mut digests: Vec<Fingerprint> = bodies.iter().map(|body| of(body.as_bytes())).collect();
        digests.push(of(&b"[".repeat(1000))); // deeper than JSON is read
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), bodies.len() + 1);
    }
}
