//! Python's text in templates: numbers, and the methods of `str`, `list` and `dict` that
//! minijinja's own compatibility lacks or has with another result.

use minijinja::value::{Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Widest padding that a method may add, in characters.
const WIDTH_MAX: usize = 10_000;

/// A finite number as Python writes it: `1e+100` where Rust writes out all digits.
pub(super) fn float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        exponent @ -4..16 => {
            let plain = number.to_string();
            if exponent >= 0 && !plain.contains('.') { format!("{plain}.0") } else { plain }
        }
        exponent => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

/// Calls a method of a `str`, `list` or `dict`.
pub(super) fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let known = match (value.as_str(), value.kind()) {
        (Some(text), _) => text_method(text, name, args)?,
        (None, ValueKind::Map) if name == "copy" => Some(value.clone()),
        (None, ValueKind::Seq | ValueKind::Iterable) if name == "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let place = value.try_iter()?.position(|item| item == *wanted);
            Some(Value::from(place.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "no such item in the list"))?))
        }
        _ => None,
    };
    known.map_or_else(|| unknown_method_callback(state, value, name, args), Ok)
}

/// White space to Python: Unicode's, and U+001C to U+001F.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Where Python's `splitlines` cuts.
fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// `None` for a method that is not here.
fn text_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<&str>,) = from_args(args)?;
            Value::from(trimmed(text, name, characters))
        }
        "split" | "rsplit" => {
            let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
            split(text, separator, usize::try_from(most.unwrap_or(-1)).unwrap_or(usize::MAX), name == "rsplit")?
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(args)?;
            lines(text, keep.unwrap_or(false))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let found = if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match (found, name) {
                (Some((before, after)), _) => [before, separator, after],
                (None, "partition") => [text, "", ""],
                (None, _) => ["", "", text],
            };
            Value::from(Tuple::from(parts.map(Value::from).to_vec()))
        }
        "find" | "rfind" | "index" | "rindex" | "count" | "startswith" | "endswith" => return place(text, name, args),
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            let wrong = |item: &Value| {
                Error::new(ErrorKind::InvalidOperation, format!("join: expected a text, found {}", item.kind()))
            };
            if let Some(item) = items.try_iter()?.find(|item| item.as_str().is_none()) {
                return Err(wrong(&item));
            }
            return Ok(None);
        }
        "removeprefix" | "removesuffix" => {
            let (end,): (&str,) = from_args(args)?;
            let rest = if name == "removeprefix" { text.strip_prefix(end) } else { text.strip_suffix(end) };
            Value::from(rest.unwrap_or(text))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            let fill = fill.unwrap_or(" ");
            let missing = missing(text, width)?;
            // Python's rule for the odd one
            let left = match name {
                "ljust" => 0,
                "rjust" => missing,
                _ => missing / 2 + (missing & usize::try_from(width).unwrap_or(0) & 1),
            };
            Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left)))
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let digits = text.trim_start_matches(['+', '-']);
            let sign = if text.len() - digits.len() == 1 { &text[..1] } else { "" };
            Value::from(format!("{sign}{}{}", "0".repeat(missing(text, width)?), &text[sign.len()..]))
        }
        "expandtabs" => {
            let (size,): (Option<i64>,) = from_args(args)?;
            Value::from(without_tabs(text, size.unwrap_or(8))?)
        }
        "swapcase" => {
            let swap = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss")),
        "title" => Value::from(title(text)),
        "istitle" => Value::from(title(text) == text && text.chars().any(char::is_alphabetic)),
        "isdigit" => Value::from(!text.is_empty() && text.chars().all(is_digit)),
        "isdecimal" => Value::from(!text.is_empty() && text.chars().all(|c| is_digit(c) && !is_raised(c))),
        "isidentifier" => {
            let is_start = |c: char| c.is_alphabetic() || c == '_';
            let is_rest = |c: char| is_start(c) || c.is_numeric();
            Value::from(text.starts_with(is_start) && text.chars().all(is_rest))
        }
        "isspace" => Value::from(!text.is_empty() && text.chars().all(is_space)),
        "isprintable" => Value::from(!text.chars().any(|c| c.is_control() || is_line_end(c))),
        _ => return Ok(None),
    }))
}

pub(super) fn trimmed<'a>(text: &'a str, name: &str, characters: Option<&str>) -> &'a str {
    let is_trimmed = |c: char| characters.map_or_else(|| is_space(c), |characters| characters.contains(c));
    let text = if name == "rstrip" { text } else { text.trim_start_matches(is_trimmed) };
    if name == "lstrip" { text } else { text.trim_end_matches(is_trimmed) }
}

fn split(text: &str, separator: Option<&str>, most: usize, is_from_right: bool) -> Result<Value, Error> {
    let pieces = most.saturating_add(1);
    let mut found: Vec<&str> = match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) if is_from_right => text.rsplitn(pieces, separator).collect(),
        Some(separator) => text.splitn(pieces, separator).collect(),
        None => {
            let mut found = Vec::new();
            let mut rest = trimmed(text, "strip", None);
            while !rest.is_empty() {
                let cut = if is_from_right { rest.rfind(is_space) } else { rest.find(is_space) };
                let Some(cut) = cut.filter(|_| found.len() < most) else {
                    found.push(rest);
                    break;
                };
                let space = rest[cut..].chars().next().map_or(1, char::len_utf8);
                let (before, after) = (&rest[..cut], &rest[cut + space..]);
                found.push(if is_from_right { after } else { before });
                rest = if is_from_right { trimmed(before, "rstrip", None) } else { trimmed(after, "lstrip", None) };
            }
            found
        }
    };
    if is_from_right {
        found.reverse();
    }
    Ok(found.into_iter().map(Value::from).collect())
}

fn lines(text: &str, keep: bool) -> Value {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_line_end) {
        let end = if rest[at..].starts_with("\r\n") {
            at + 2
        } else {
            at + rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        found.push(Value::from(&rest[..if keep { end } else { at }]));
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        found.push(Value::from(rest));
    }
    Value::from(found)
}

/// The methods that look for something between two places, which count characters.
fn place(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let (wanted, from, to): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let clamp = |at: i64| usize::try_from(if at < 0 { at.saturating_add(length).max(0) } else { at.min(length) });
    let (from, to) = (clamp(from.unwrap_or(0)).unwrap_or(0), clamp(to.unwrap_or(length)).unwrap_or(0));
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    let part = text.get(byte(from)..byte(to)).unwrap_or_default();
    let wanted: Vec<Value> = if wanted.is_tuple() { wanted.try_iter()?.collect() } else { vec![wanted.clone()] };
    let wrong = || Error::new(ErrorKind::InvalidOperation, format!("{name} looks for a text"));
    let wanted = wanted.iter().map(|word| word.as_str().ok_or_else(wrong)).collect::<Result<Vec<_>, _>>()?;
    let first = wanted.first().copied().unwrap_or_default();
    Ok(Some(match name {
        "startswith" => Value::from(wanted.iter().any(|word| part.starts_with(word))),
        "endswith" => Value::from(wanted.iter().any(|word| part.ends_with(word))),
        "count" => Value::from(part.matches(first).count()),
        _ => {
            let found = if name.starts_with('r') { part.rfind(first) } else { part.find(first) };
            match found.map(|at| from + part[..at].chars().count()) {
                Some(at) => Value::from(at),
                None if name.ends_with("find") => Value::from(-1),
                None => return Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
            }
        }
    }))
}

/// How many characters `text` lacks to be so wide.
fn missing(text: &str, width: i64) -> Result<usize, Error> {
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    let wide = || Error::new(ErrorKind::InvalidOperation, format!("width {width} is more than {WIDTH_MAX}"));
    if missing > WIDTH_MAX { Err(wide()) } else { Ok(missing) }
}

fn without_tabs(text: &str, size: i64) -> Result<String, Error> {
    let mut out = String::new();
    let mut column = 0;
    let size = missing("", size)?;
    for c in text.chars() {
        match c {
            '\t' if size == 0 => {}
            '\t' => {
                let spaces = size - column % size;
                out.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(out)
}

/// A capital after everything that is no letter.
fn title(text: &str) -> String {
    let mut out = String::new();
    let mut is_inside = false;
    for c in text.chars() {
        if is_inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        is_inside = c.is_alphabetic();
    }
    out
}

fn is_raised(c: char) -> bool {
    matches!(c, '²' | '³' | '¹' | '\u{2070}'..='\u{209c}')
}

/// Digits, raised ones included; fractions and other numbers are none.
fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || is_raised(c) || c.is_numeric() && is_decimal(c)
}

/// Digits of the larger scripts, in rows of ten.
fn is_decimal(c: char) -> bool {
    const ZEROS: [u32; 14] =
        [0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xe50, 0xff10];
    ZEROS.iter().any(|zero| (*zero..zero + 10).contains(&u32::from(c)))
}
