//! Elements of an array, and members of an object, that occur once. Out of scope: which they are.

use serde_json::Value;

/// The elements of a JSON array without its brackets, or the members of an object, without those
/// that occurred before: equal elements, or members of the same name.
pub fn distinct(json: &str, is_object: bool) -> String {
    let mut seen: Vec<Value> = Vec::new();
    let mut kept: Vec<&str> = Vec::new();
    for part in split(json, b',') {
        let own = if is_object { split(part, b':')[0] } else { part };
        let Ok(own) = serde_json::from_str::<Value>(own) else { continue };
        if !seen.iter().any(|other| is_same(other, &own)) {
            seen.push(own);
            kept.push(part.trim());
        }
    }
    kept.join(", ")
}

/// Numbers are the same if their values are.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let same = |(name, value): (&String, &Value)| other.get(name).is_some_and(|other| is_same(value, other));
            one.len() == other.len() && one.iter().all(same)
        }
        _ => one == other,
    }
}

/// The parts between the separators that stand in no string and in no brackets.
fn split(json: &str, separator: u8) -> Vec<&str> {
    let (mut depth, mut is_string, mut is_escaped, mut start) = (0_usize, false, false, 0);
    let mut parts = Vec::new();
    for (at, byte) in json.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_string => is_escaped = true,
            b'"' => is_string = !is_string,
            _ if is_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            byte if byte == separator && depth == 0 => {
                parts.push(&json[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&json[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_occurred_before_is_left_out() {
        for (json, is_object, expected) in [
            ("", false, ""),
            ("1, 2, 1.0, 2", false, "1, 2"),
            (r#""a,b", "a", "a,b""#, false, r#""a,b", "a""#),
            (r#"{"x": 1, "y": [2]}, {"y": [2.0], "x": 1}, {"x": 1}"#, false, r#"{"x": 1, "y": [2]}, {"x": 1}"#),
            (r#""a": 1, "b:\"": 2, "a": 3"#, true, r#""a": 1, "b:\"": 2"#),
            (r#""é": [1, 1], "\u00e9": 2"#, true, r#""é": [1, 1]"#),
        ] {
            assert_eq!(distinct(json, is_object), expected);
        }
    }
}
