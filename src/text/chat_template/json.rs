//! The filter `tojson` as transformers has it: Python's `json.dumps`, without escapes for HTML.

use super::python::float;
use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Error, ErrorKind};

/// Deepest nesting, so that the stack suffices; serde_json reads no deeper values either.
const DEPTH_MAX: usize = 128;

/// `tojson(value, ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
#[allow(clippy::needless_pass_by_value)] // minijinja's calling convention
pub(super) fn tojson(value: &Value, given: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let given = given.into_values();
    let (unnamed, named): (&[Value], Kwargs) = from_args(&given)?;
    let option = |place: usize, name| match unnamed.get(place) {
        Some(value) => Ok(value.clone()),
        None => Ok::<_, Error>(named.get::<Option<Value>>(name)?.unwrap_or_default()),
    };
    let ensure_ascii = option(0, "ensure_ascii")?.is_true();
    let indent = option(1, "indent")?;
    let indent = match indent.kind() {
        ValueKind::None | ValueKind::Undefined => None,
        ValueKind::String => Some(indent.as_str().unwrap_or_default().to_owned()),
        _ => Some(" ".repeat(usize::try_from(indent).unwrap_or(0).min(INDENT_MAX))),
    };
    let separators = option(2, "separators")?;
    let (item, key) = if separators.is_undefined() || separators.is_none() {
        (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned())
    } else {
        let mut words = separators.try_iter()?.checked().map(|word| word.map(|word| word.to_string()));
        match (words.next().transpose()?, words.next().transpose()?, words.next()) {
            (Some(item), Some(key), None) => (item, key),
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: give two separators")),
        }
    };
    let sort_keys = option(3, "sort_keys")?.is_true();
    named.assert_all_used()?;
    let mut writer = Writer { ensure_ascii, indent, item, key, sort_keys, out: String::new() };
    writer.value(value, 0)?;
    Ok(writer.out)
}

/// Widest indentation in spaces.
const INDENT_MAX: usize = 64;

struct Writer {
    ensure_ascii: bool,
    /// One level of indentation; `None` writes one line.
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
    out: String,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: the value is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None | ValueKind::Bool | ValueKind::Number => self.out.push_str(&scalar(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq => {
                let items = value.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
                self.bracketed(['[', ']'], depth, items, |writer, item| writer.value(&item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut members = Vec::new();
                for key in value.try_iter()?.checked() {
                    let key = key?;
                    let member = value.get_item(&key)?;
                    let name = match key.kind() {
                        ValueKind::String => key.to_string(),
                        ValueKind::None | ValueKind::Bool | ValueKind::Number => scalar(&key),
                        _ => return Err(unknown(&key)),
                    };
                    members.push((name, member));
                }
                if self.sort_keys {
                    members.sort_by(|(one, _), (other, _)| one.cmp(other));
                }
                self.bracketed(['{', '}'], depth, members, |writer, (name, member)| {
                    writer.string(&name);
                    writer.out.push_str(&writer.key.clone());
                    writer.value(&member, depth + 1)
                })?;
            }
            _ => return Err(unknown(value)),
        }
        Ok(())
    }

    fn bracketed<T>(
        &mut self,
        [open, close]: [char; 2],
        depth: usize,
        items: Vec<T>,
        mut write: impl FnMut(&mut Self, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let is_empty = items.is_empty();
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.out.push_str(&self.item.clone());
            }
            self.line(depth + 1);
            write(self, item)?;
        }
        if !is_empty {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    /// A new line at this depth, if lines are indented.
    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || self.ensure_ascii && c > '~' => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// None, a boolean or a number.
fn scalar(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => value.is_true().to_string(),
        _ if value.is_integer() => value.to_string(),
        _ => match f64::try_from(value.clone()) {
            Ok(number) if number.is_nan() => "NaN".to_owned(),
            Ok(number) if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
            Ok(number) => float(number),
            Err(_) => value.to_string(),
        },
    }
}

fn unknown(value: &Value) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {} has no form in JSON", value.kind()))
}
