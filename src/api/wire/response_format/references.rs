//! What `$ref` leads to: a JSON pointer, an `$anchor` or an `$id` of the same document. Nothing is
//! fetched. Out of scope: what the schemas there ask for.

use super::path::Path;
use crate::api::error::ApiError;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::HashMap;
use url::Url;

/// The address of a document that does not say its own.
const ADDRESS: &str = "schema:///";
/// How deep a document is looked through; a format is not nested deeper.
const DEPTH_MAX: usize = 128;
/// Keywords whose values are no schemas.
const VALUES: [&str; 5] = ["const", "enum", "default", "example", "examples"];
/// Keywords whose members are named schemas.
const NAMED: [&str; 6] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];
/// What stands for itself in no pointer that is part of a URI.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// The schema that a reference leads to: a JSON pointer in a URI fragment (RFC 6901, section 6).
pub(super) fn target<'a>(root: &'a Value, reference: &Value, path: &Path<'_>) -> Result<&'a Value, ApiError> {
    let pointer = reference.as_str().and_then(|reference| reference.strip_prefix('#'));
    let decoded = pointer.and_then(|pointer| percent_decode_str(pointer).decode_utf8().ok());
    let found = decoded.and_then(|pointer| root.pointer(&pointer));
    const MESSAGE: &str = "leads nowhere in this schema, and nothing is fetched; give one like #/$defs/NAME, or the $id \
                           or $anchor of a part of it";
    found.ok_or_else(|| path.at("$ref").refused(reference, MESSAGE))
}

/// The document with pointers in place of references to an `$id` or an `$anchor` (JSON Schema
/// 2020-12, core, section 8.2). References that lead nowhere stay as they are.
pub(super) fn with_pointers(document: &Value) -> Cow<'_, Value> {
    let Ok(base) = Url::parse(ADDRESS) else { return Cow::Borrowed(document) };
    let mut names = Names { document, schemas: HashMap::new(), anchors: HashMap::new() };
    names.read(document, &base, &mut String::new(), false, 0);
    if names.schemas.is_empty() && names.anchors.is_empty() {
        return Cow::Borrowed(document);
    }
    names.schemas.entry(base.clone()).or_default();
    let mut replaced = document.clone();
    names.replace(&mut replaced, &base, false, 0);
    Cow::Owned(replaced)
}

/// Pointers to the schemas that have an address, or a name beside one.
struct Names<'a> {
    document: &'a Value,
    schemas: HashMap<Url, String>,
    anchors: HashMap<(Url, String), String>,
}

impl Names<'_> {
    /// Reads the names in a schema at `pointer`, whose address is relative to `base`, or in a map
    /// of schemas.
    fn read(&mut self, value: &Value, base: &Url, pointer: &mut String, is_map: bool, depth: usize) {
        let length = pointer.len();
        match value {
            _ if depth > DEPTH_MAX => {}
            Value::Object(members) => {
                let own = if is_map { base.clone() } else { address(members, base) };
                if !is_map {
                    self.add(members, base, &own, pointer);
                }
                for (word, part) in members.iter().filter(|(word, _)| is_map || !VALUES.contains(&word.as_str())) {
                    pointer.push('/');
                    pointer.push_str(&word.replace('~', "~0").replace('/', "~1"));
                    self.read(part, &own, pointer, !is_map && NAMED.contains(&word.as_str()), depth + 1);
                    pointer.truncate(length);
                }
            }
            Value::Array(parts) => {
                for (at, part) in parts.iter().enumerate() {
                    pointer.push('/');
                    pointer.push_str(&at.to_string());
                    self.read(part, base, pointer, false, depth + 1);
                    pointer.truncate(length);
                }
            }
            _ => {}
        }
    }

    /// Adds the names of one schema. Before 2019, an anchor was an `$id` of a fragment alone.
    fn add(&mut self, schema: &Map<String, Value>, base: &Url, own: &Url, pointer: &str) {
        let text = |word: &str| schema.get(word).and_then(Value::as_str);
        let old = ["$id", "id"].into_iter().find_map(|word| text(word)?.strip_prefix('#'));
        for name in ["$anchor", "$dynamicAnchor"].into_iter().filter_map(text).chain(old) {
            self.anchors.entry((own.clone(), name.to_owned())).or_insert_with(|| pointer.to_owned());
        }
        if own != base {
            self.schemas.entry(own.clone()).or_insert_with(|| pointer.to_owned());
        }
    }

    /// Replaces the references in a schema, or in a map of schemas.
    fn replace(&self, value: &mut Value, base: &Url, is_map: bool, depth: usize) {
        match value {
            _ if depth > DEPTH_MAX => {}
            Value::Object(members) => {
                let own = if is_map { base.clone() } else { address(members, base) };
                if let Some(reference) = members.get_mut("$ref").filter(|_| !is_map)
                    && let Some(pointer) = reference.as_str().and_then(|reference| self.find(reference, &own))
                {
                    *reference = Value::from(format!("#{}", utf8_percent_encode(&pointer, ESCAPED)));
                }
                for (word, part) in members.iter_mut().filter(|(word, _)| is_map || !VALUES.contains(&word.as_str())) {
                    self.replace(part, &own, !is_map && NAMED.contains(&word.as_str()), depth + 1);
                }
            }
            Value::Array(parts) => parts.iter_mut().for_each(|part| self.replace(part, base, false, depth + 1)),
            _ => {}
        }
    }

    /// The pointer to what a reference names, which stands in a schema with the address `base`.
    fn find(&self, reference: &str, base: &Url) -> Option<String> {
        let mut address = base.join(reference).ok()?;
        let fragment = percent_decode_str(address.fragment().unwrap_or_default()).decode_utf8().ok()?.into_owned();
        address.set_fragment(None);
        let pointer = if fragment.is_empty() || fragment.starts_with('/') {
            format!("{}{fragment}", self.schemas.get(&address)?)
        } else {
            self.anchors.get(&(address, fragment))?.clone()
        };
        self.document.pointer(&pointer).map(|_| pointer)
    }
}

/// The address of a schema whose address is relative to `base`.
fn address(schema: &Map<String, Value>, base: &Url) -> Url {
    let own = ["$id", "id"].into_iter().find_map(|word| schema.get(word)?.as_str());
    let own = own.filter(|own| !own.starts_with('#')).and_then(|own| base.join(own).ok());
    own.map_or_else(
        || base.clone(),
        |mut own| {
            own.set_fragment(None);
            own
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Where the reference in the member `a` of a document leads.
    fn reference(document: &Value) -> Value {
        with_pointers(document)["properties"]["a"]["$ref"].clone()
    }

    #[test]
    fn a_reference_leads_to_the_schema_of_that_id_or_anchor() {
        let with = |reference: &str, definitions: Value| {
            json!({
                "$id": "https://example.org/schemas/root.json",
                "properties": {"a": {"$ref": reference}},
                "$defs": definitions,
            })
        };
        let user = json!({"x/y%": {"$id": "User", "$defs": {"n": {"$anchor": "name"}, "m": {}}}});
        for (given, found) in [
            ("User", "#/$defs/x~1y%25"),
            ("/schemas/User", "#/$defs/x~1y%25"),
            ("https://example.org/schemas/User#", "#/$defs/x~1y%25"),
            ("User#name", "#/$defs/x~1y%25/$defs/n"),
            ("User#/$defs/m", "#/$defs/x~1y%25/$defs/m"),
            ("root.json", "#"),
            ("#", "#"),
            ("#/$defs/x~1y%25", "#/$defs/x~1y%25"),
            // as they are
            ("Users", "Users"),
            ("#name", "#name"),
            ("User#/$defs/k", "User#/$defs/k"),
            ("https://example.com/User", "https://example.com/User"),
        ] {
            assert_eq!(reference(&with(given, user.clone())), found, "{given}");
        }
    }

    #[test]
    fn a_reference_is_relative_to_the_id_around_it() {
        let document = json!({"$defs": {
            "one": {"$id": "https://a.example/one", "$defs": {"n": {"$id": "n"}}, "items": {"$ref": "n"}},
            "two": {"$id": "https://b.example/two", "$defs": {"n": {"$id": "n"}}, "items": {"$ref": "n"}},
            "old": {"id": "#old", "items": {"$ref": "#old"}},
            "root": {"$id": "third", "items": {"$ref": "#/$defs/one"}},
            "urn": {"$id": "urn:x:y", "items": {"$ref": "urn:x:y#/$defs/k"}, "$defs": {"k": {}}},
        }});
        let found = with_pointers(&document);
        let items = |name: &str| found["$defs"][name]["items"]["$ref"].clone();
        assert_eq!([items("one"), items("two")], ["#/$defs/one/$defs/n", "#/$defs/two/$defs/n"]);
        // a pointer that leads nowhere in its schema leads into the document
        assert_eq!([items("old"), items("root")], ["#/$defs/old", "#/$defs/one"]);
        assert_eq!(items("urn"), "#/$defs/urn/$defs/k");
    }

    #[test]
    fn values_and_names_are_no_references() {
        let document = json!({
            "properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}, "a": {"$ref": "x"}},
            "const": {"$id": "x"},
        });
        assert!(matches!(with_pointers(&document), Cow::Borrowed(_)));
        let listed = json!({"properties": {"a": {"$ref": "x"}, "const": {"$id": "x", "enum": [{"$ref": "x"}]}}});
        assert_eq!(reference(&listed), "#/properties/const");
        assert_eq!(with_pointers(&listed)["properties"]["const"]["enum"][0]["$ref"], "x");
    }
}
