//! JSON objects of model files, read strictly: a key that is unknown and switched on is an error
//! that names it. Out of scope: what the keys mean.

use crate::model::error::LoadError;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

/// A key that must have one of a few values, because others would change the computation.
pub(crate) struct Rule {
    /// The key.
    pub(crate) key: &'static str,
    /// The values that are supported.
    pub(crate) values: Vec<Value>,
    /// Whether the key may be missing, because its publisher's default is one of the values.
    pub(crate) optional: bool,
}

/// The object in the file at `path`.
pub(crate) fn read(path: &Path) -> Result<Map<String, Value>, LoadError> {
    let file = path.display().to_string();
    match std::fs::read(path) {
        Ok(json) => object(&json, &file),
        Err(cause) => Err(LoadError::unreadable(&file, &cause)),
    }
}

/// Parses an object; `file` is its name in errors.
pub(crate) fn object(json: &[u8], file: &str) -> Result<Map<String, Value>, LoadError> {
    serde_json::from_slice(json).map_err(|cause| LoadError::malformed(file, format!("is not a JSON object: {cause}")))
}

/// Checks the rules, and that every key without a rule is `known` or switched off.
///
/// # Errors
/// At the first key that fails.
pub(crate) fn check(keys: &Map<String, Value>, rules: &[Rule], known: &str, file: &str) -> Result<(), LoadError> {
    let refuse = |key: &str, given: String, supported: String| {
        Err(LoadError::Unsupported { file: file.to_owned(), key: key.to_owned(), given, supported })
    };
    for Rule { key, values, optional } in rules {
        let given = match keys.get(*key) {
            Some(given) if values.contains(given) => continue,
            None if *optional => continue,
            Some(given) => given.to_string(),
            None => "missing".to_owned(),
        };
        return refuse(key, given, values.iter().map(Value::to_string).collect::<Vec<_>>().join(" or "));
    }
    let ruled = |key: &str| rules.iter().any(|rule| rule.key == key);
    for (key, value) in keys {
        if !ruled(key) && !known.split_whitespace().any(|known| known == key) && !is_off(value) {
            return refuse(key, value.to_string(), "a model without this key".to_owned());
        }
    }
    Ok(())
}

/// Takes the keys that `T` names; the error names a wrong one.
pub(crate) fn take<T: for<'a> Deserialize<'a>>(keys: Map<String, Value>, file: &str) -> Result<T, LoadError> {
    serde_path_to_error::deserialize(Value::Object(keys)).map_err(|cause| match cause.path().to_string().as_str() {
        "." => LoadError::malformed(file, format!("is incomplete: {}", cause.inner())),
        key => LoadError::malformed(file, format!("has a wrong `{key}`: {}", cause.inner())),
    })
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Array(items) => items.is_empty(),
        Value::Object(keys) => keys.is_empty(),
        Value::Number(_) | Value::String(_) => false,
    }
}
