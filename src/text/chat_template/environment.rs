//! The environment in which transformers renders chat templates: its functions, filters, tests and
//! white space.

use super::dialect::{MODULO, translated};
use super::{filters, format::modulo, json::tojson, python};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind};
use time::{OffsetDateTime, format_description::parse_strftime_borrowed};

/// Most instructions that a template may execute: enough for thousands of messages.
const FUEL: u64 = 10_000_000;

/// An environment without templates. `now` is the clock of `strftime_now`.
pub(super) fn environment(now: fn() -> OffsetDateTime) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(python::method);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", move |format: &str| date(now(), format));
    environment.add_function(MODULO, modulo);
    environment.add_filter("tojson", tojson);
    environment.add_function("dict", dict);
    environment.add_function("cycler", |items: Rest<Value>| minijinja_contrib::globals::cycler(items.0));
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("callable", |value: &Value| matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined));
    filters::add(&mut environment);
    Ok(environment)
}

/// Adds a template in transformers' dialect.
pub(super) fn add(environment: &mut Environment<'static>, name: String, source: &str) -> Result<(), Error> {
    environment.add_template_owned(name, translated(source))
}

/// `dict(value, **members)`: of a mapping, or of a list of pairs.
fn dict(given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let given = given.into_values();
    let (value, members): (Option<&Value>, Kwargs) = from_args(&given)?;
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    for item in value.map(Value::try_iter).transpose()?.into_iter().flatten() {
        pairs.push(match value {
            Some(map) if map.kind() == ValueKind::Map => (item.clone(), map.get_item(&item)?),
            _ => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
        });
    }
    for name in members.args() {
        pairs.push((Value::from(name), members.peek::<Value>(name)?));
    }
    Ok(Value::from_pairs(pairs))
}

/// What has a length and can be indexed: texts and mappings, too.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined)
}

/// Python's `strftime`.
fn date(now: OffsetDateTime, format: &str) -> Result<String, Error> {
    let wrong = |cause: &dyn std::fmt::Display| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {cause}"))
    };
    let items = parse_strftime_borrowed(format).map_err(|cause| wrong(&cause))?;
    now.format(&items).map_err(|cause| wrong(&cause))
}
