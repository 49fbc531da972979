//! Strings of a schema: their lengths, formats and patterns.

use super::budget::Budget;
use super::keywords::{TOKENS, known_of, size, upper_size};
use super::path::Path;
use crate::api::error::ApiResult;
use crate::engine::Shape;
use crate::text::{Expression, LENGTH_MAX, Pattern};
use serde_json::{Map, Value};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Formats of a string that constrain nothing which a canvas could break.
const PLAIN_FORMATS: [&str; 5] = ["password", "binary", "path", "file-path", "directory-path"];
const TIME: &str = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z";
/// The months of 31, 30 and 28 days, and the 29th of February of a leap year.
const DATE: &str = "([12][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|\
                    02-(0[1-9]|1[0-9]|2[0-8]))|\
                    (([12][0-9](0[48]|[2468][048]|[13579][26]))|([12][048]00|1[26]00|2[048]00))-02-29)";
/// Without dots that follow each other, and in no top-level domain that is reserved.
const EMAIL: &str = "[a-z0-9]{1,10}([._][a-z0-9]{1,10})?@[a-z0-9]{1,12}(-[a-z0-9]{1,8})?\\.([a-z]{2,3}|info)";
const HOST: &str = "([a-z0-9]{1,12}(-[a-z0-9]{1,8})?\\.){1,2}([a-z]{2,3}|info)";
const DURATION: &str = "P([1-9][0-9]{0,2}D)?T([0-9]{1,2}H([0-9]{1,2}M([0-9]{1,2}S)?)?|[0-9]{1,2}M([0-9]{1,2}S)?|[0-9]{1,2}S)\
                        |P[1-9][0-9]{0,2}D";
const HEX: &str = "[0-9a-f]";
/// Look-aheads at the beginning of a pattern that the form of a format keeps: zod's.
const KEPT_LOOK_AHEADS: [(&str, &str); 3] =
    [("email", "(?!\\.)"), ("email", "(?!.*\\.\\.)"), ("hostname", "(?=.{1,253}\\.?$)")];
/// Patterns that the form of a format keeps: zod's.
const KEPT_PATTERNS: [(&str, &str); 1] = [(
    "duration",
    "^P(?:(\\d+W)|(?!.*W)(?=\\d|T\\d)(\\d+Y)?(\\d+M)?(\\d+D)?(T(?=\\d)(\\d+H)?(\\d+M)?(\\d+([.,]\\d+)?S)?)?)$",
)];

/// The form in which a format is written: an expression, and characters at most unless the schema
/// says otherwise.
struct Form {
    expression: String,
    width: Option<usize>,
}

/// The shape of a string.
pub(super) fn shape(schema: &Map<String, Value>, path: &Path<'_>, budget: &mut Budget) -> ApiResult<Shape> {
    known_of(schema, path, "string")?;
    let cells = size(schema, path, TOKENS)?;
    let least = size(schema, path, "minLength")?.unwrap_or(0);
    let characters = upper_size(schema, path, "maxLength")?;
    if characters.is_some_and(|most| most < least) {
        return Err(path.at("minLength").refused(&schema["minLength"], "it is above maxLength"));
    }
    let (format, expressions) = (format_of(schema, path)?, patterns(schema, path)?);
    let form = format.and_then(|(_, name)| form(name));
    let word = match (&form, format, &expressions[..]) {
        (None, Some((word, _)), []) => {
            const FORMATS: &str = "date, date-time, time, duration, uuid, uuid1 to uuid8, email, uri, url, hostname, \
                                   ipv4, ipv6, base64, password, path and binary";
            return Err(path.at(word).refused(&schema[word], &format!("this cannot be kept; here only {FORMATS} can")));
        }
        (None, _, []) => return Ok(Shape::Text { cells, least, characters }),
        (_, _, [_, ..]) => "pattern",
        (Some(_), format, []) => format.map_or("format", |(word, _)| word),
    };
    let at = path.at(word);
    let mut pattern: Option<Pattern> = None;
    let is_alone = form.is_none() && expressions.len() == 1;
    for expression in expressions {
        let name = format.map_or("", |(_, name)| name);
        let Some(expression) = without_kept(name, expression) else { continue };
        budget.pattern(&at)?;
        budget.text(&at, &expression)?;
        let own = if is_alone { Pattern::parse_all(&expression) } else { Pattern::parse_part(&expression) };
        let all = own.and_then(|own| pattern.as_ref().map_or(Ok(own.clone()), |other| other.and(&own)));
        pattern = Some(all.map_err(|why| at.refused(&schema[word], &format!("this cannot be kept: {why}")))?);
    }
    let mut width = None;
    if let Some(form) = form {
        budget.pattern(&at)?;
        budget.text(&at, &form.expression)?;
        let own = Pattern::parse(&form.expression).map_err(|why| at.invalid(&format!("this cannot be kept: {why}")))?;
        // a format is an annotation: where the two exclude each other, the pattern is kept
        pattern = Some(pattern.map_or(own.clone(), |pattern| pattern.and(&own).unwrap_or(pattern)));
        width = form.width;
    }
    let Some(pattern) = pattern else { return Ok(Shape::Text { cells, least, characters }) };
    let (shortest, longest) = pattern.lengths();
    if least > longest || characters.is_some_and(|most| most < shortest) {
        let (bound, word) = if least > longest { (least, "minLength") } else { (characters.unwrap_or(0), "maxLength") };
        let sizes = match (shortest, longest) {
            (_, LENGTH_MAX) => format!("at least {shortest} and here at most {LENGTH_MAX}"),
            (one, other) if one == other => one.to_string(),
            (fewest, most) => format!("{fewest} to {most}"),
        };
        let message = format!("its texts have {sizes} characters, but {word} is {bound}; change one of the two");
        return Err(at.refused(&schema[at.word()], &message));
    }
    Ok(Shape::Pattern { pattern: Arc::new(pattern), cells: cells.or(width), least, characters })
}

/// The format that a string has, and the keyword that says so; `None` if it constrains nothing.
pub(super) fn format_of<'s>(
    schema: &'s Map<String, Value>,
    path: &Path<'_>,
) -> ApiResult<Option<(&'static str, &'s str)>> {
    for word in ["format", "contentEncoding"] {
        match schema.get(word) {
            None => {}
            Some(Value::String(format)) if PLAIN_FORMATS.contains(&format.as_str()) => {}
            Some(Value::String(format)) => return Ok(Some((word, format))),
            Some(given) => return Err(path.at(word).refused(given, "give a string")),
        }
    }
    Ok(None)
}

/// The patterns that a string matches; several where `allOf` has several.
pub(super) fn patterns<'s>(schema: &'s Map<String, Value>, path: &Path<'_>) -> ApiResult<Vec<&'s str>> {
    match schema.get("pattern") {
        None => Ok(Vec::new()),
        Some(Value::String(pattern)) => Ok(vec![pattern]),
        Some(Value::Array(all)) => {
            let all: Option<Vec<&str>> = all.iter().map(Value::as_str).collect();
            all.ok_or_else(|| path.at("pattern").invalid("give a string"))
        }
        Some(given) => Err(path.at("pattern").refused(given, "give a string")),
    }
}

/// A pattern without what the form of a format keeps; `None` if nothing is left.
fn without_kept(format: &str, pattern: &str) -> Option<String> {
    if KEPT_PATTERNS.contains(&(format, pattern)) {
        return None;
    }
    let Some(mut rest) = pattern.strip_prefix('^') else { return Some(pattern.to_owned()) };
    for (_, head) in KEPT_LOOK_AHEADS.iter().filter(|(of, _)| *of == format) {
        rest = rest.strip_prefix(head).unwrap_or(rest);
    }
    Some(format!("^{rest}"))
}

/// The form of a format; `None` for one that is not known.
fn form(format: &str) -> Option<Form> {
    let uuid = |version: &str, variant: &str| {
        format!("{HEX}{{8}}-{HEX}{{4}}-{version}{HEX}{{3}}-{variant}{HEX}{{3}}-{HEX}{{12}}")
    };
    let byte = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
    let mut width = None;
    let expression = match format {
        "date" => DATE.to_owned(),
        "time" => TIME.to_owned(),
        "date-time" => format!("{DATE}T{TIME}"),
        "duration" => DURATION.to_owned(),
        "uuid" => uuid(HEX, HEX),
        format if format.len() == 5 && format.starts_with("uuid") && ('1'..='8').any(|v| format.ends_with(v)) => {
            uuid(&format[4..], "[89ab]")
        }
        "email" | "idn-email" => {
            width = Some(24);
            EMAIL.to_owned()
        }
        "uri" | "url" | "uri-reference" | "iri" | "iri-reference" => {
            width = Some(32);
            format!("https?://{HOST}(/[A-Za-z0-9_-]{{1,12}}){{0,3}}/?")
        }
        "hostname" | "idn-hostname" => {
            width = Some(24);
            HOST.to_owned()
        }
        "ipv4" | "ipvanyaddress" => format!("{byte}(\\.{byte}){{3}}"),
        "ipv4interface" | "ipvanyinterface" => format!("{byte}(\\.{byte}){{3}}/([12]?[0-9]|3[0-2])"),
        "ipv4network" | "ipvanynetwork" => format!("{byte}(\\.{byte}){{2}}\\.0/24"),
        "ipv6" => {
            width = Some(24);
            format!("{HEX}{{1,4}}(:{HEX}{{1,4}}){{7}}")
        }
        "ipv6network" => {
            width = Some(24);
            format!("{HEX}{{1,4}}(:{HEX}{{1,4}}){{3}}::/64")
        }
        "regex" => "[A-Za-z0-9_]{1,64}".to_owned(),
        "base64" => "([A-Za-z0-9+/]{4})*".to_owned(),
        "base64url" => "([A-Za-z0-9_-]{4})*".to_owned(),
        _ => return None,
    };
    Some(Form { expression, width })
}

/// Tells whether a text has a format, in any of its forms. Every text has one that is not known.
pub(super) fn has_format(format: &str) -> Box<dyn Fn(&str) -> bool> {
    match format {
        "ipv4" => return Box::new(|text| text.parse::<Ipv4Addr>().is_ok()),
        "ipv6" => return Box::new(|text| text.parse::<Ipv6Addr>().is_ok()),
        _ => {}
    }
    match expression_of(format).map(|expression| Expression::new(&expression)) {
        Some(Ok(expression)) => Box::new(move |text| expression.is_match(text).unwrap_or(true)),
        Some(Err(_)) | None => Box::new(|_| true),
    }
}

/// What every text of a format matches, in any of its forms; `None` for one that is not known.
pub(super) fn expression_of(format: &str) -> Option<String> {
    const DAY: &str = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])";
    const CLOCK: &str = "([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})";
    Some(match format {
        "ipv4" => "^[0-9]{1,3}(\\.[0-9]{1,3}){3}$".to_owned(),
        "ipv6" => "^[0-9A-Fa-f]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*$".to_owned(),
        "date" => format!("^{DAY}$"),
        "time" => format!("^{CLOCK}$"),
        "date-time" => format!("^{DAY}[Tt ]{CLOCK}$"),
        "duration" => "^P([0-9.]+[YMWD]([0-9.]+[YMWD])*(T([0-9.]+[HMS])+)?|T([0-9.]+[HMS])+)$".to_owned(),
        "email" | "idn-email" => "^[^@\\s]+@[^@\\s]+$".to_owned(),
        "uri" | "url" | "iri" => "^[A-Za-z][A-Za-z0-9+.-]*:\\S*$".to_owned(),
        "uri-reference" | "iri-reference" => "^\\S*$".to_owned(),
        "hostname" | "idn-hostname" => "^[^\\s./@:]+(\\.[^\\s./@:]+)*\\.?$".to_owned(),
        "base64" => "^[A-Za-z0-9+/]*={0,2}$".to_owned(),
        "base64url" => "^[A-Za-z0-9_-]*={0,2}$".to_owned(),
        format if format.starts_with("uuid") => "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$".to_owned(),
        _ => return None,
    })
}
