//! JSON objects of model files, read strictly: a key that is unknown and switched on is an error
//! that names it. Out of scope: what the keys mean.

use crate::model::error::LoadError;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The object in the file at `path`, and the file's name in errors.
pub(crate) fn read(path: &Path) -> Result<(Map<String, Value>, String), LoadError> {
    let file = path.display().to_string();
    let json = std::fs::read(path).map_err(|cause| LoadError::unreadable(&file, &cause))?;
    Ok((object(&json, &file)?, file))
}

/// Parses an object; `file` is its name in errors.
pub(crate) fn object(json: &[u8], file: &str) -> Result<Map<String, Value>, LoadError> {
    serde_json::from_slice(json).map_err(|cause| LoadError::malformed(file, format!("is not a JSON object: {cause}")))
}

/// The values of keys for which the computation is that of the model.
pub(crate) struct Rules<'a> {
    /// Keys that must be there.
    pub(crate) required: &'a [(&'static str, &'static str)],
    /// Keys that may be missing, because their publisher's default is one of the values.
    pub(crate) optional: &'a [(&'static str, &'a [Value])],
    /// Keys without a rule, separated by blanks. Any other key must be off.
    pub(crate) known: &'static str,
}

impl Rules<'_> {
    /// Takes the keys that `T` names, once all keys keep the rules.
    pub(crate) fn take<T: for<'a> Deserialize<'a>>(
        &self,
        keys: Map<String, Value>,
        file: &str,
    ) -> Result<T, LoadError> {
        let refuse = |key: &str, given: Option<&Value>, supported: &str| {
            let given = given.map_or_else(|| "missing".to_owned(), Value::to_string);
            Err(LoadError::unsupported(file, key, given, supported))
        };
        for (key, value) in self.required {
            if keys.get(*key) != Some(&Value::from(*value)) {
                return refuse(key, keys.get(*key), &Value::from(*value).to_string());
            }
        }
        for (key, values) in self.optional {
            if keys.get(*key).is_some_and(|given| !values.contains(given)) {
                let supported: Vec<String> = values.iter().map(Value::to_string).collect();
                return refuse(key, keys.get(*key), &supported.join(" or "));
            }
        }
        let ruled = self.required.iter().map(|(key, _)| *key).chain(self.optional.iter().map(|(key, _)| *key));
        let known: Vec<&str> = ruled.chain(self.known.split_whitespace()).collect();
        let off = [json!(null), json!(false), json!([]), json!({})];
        match keys.iter().find(|(key, value)| !known.contains(&key.as_str()) && !off.contains(value)) {
            Some((key, value)) => refuse(key, Some(value), "a model without this key"),
            None => take(keys, file),
        }
    }
}

/// Takes the keys that `T` names; the error names a wrong one.
pub(crate) fn take<T: for<'a> Deserialize<'a>>(keys: Map<String, Value>, file: &str) -> Result<T, LoadError> {
    serde_path_to_error::deserialize(Value::Object(keys)).map_err(|cause| match cause.path().to_string().as_str() {
        "." => LoadError::malformed(file, format!("is incomplete: {}", cause.inner())),
        key => LoadError::malformed(file, format!("has a wrong `{key}`: {}", cause.inner())),
    })
}

/// Checks that no size is zero.
pub(crate) fn positive(sizes: &[(&str, usize)], file: &str) -> Result<(), LoadError> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((key, _)) => Err(LoadError::malformed(file, format!("says `{key}` is 0, it must be at least 1"))),
        None => Ok(()),
    }
}
