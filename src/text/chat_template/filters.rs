//! Filters of Jinja that minijinja lacks, or has with other arguments or results.

use super::python::{self, is_space};
use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State};

/// Adds them to an environment.
pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("trim", trim);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("dictsort", dictsort);
    environment.add_filter("center", center);
    environment
        .add_filter("wordcount", |text: &str| text.split(|c| !is_word(c)).filter(|word| !word.is_empty()).count());
    environment.add_filter("truncate", truncate);
    environment.add_filter("striptags", minijinja_contrib::filters::striptags);
    environment.add_filter("filesizeformat", minijinja_contrib::filters::filesizeformat);
}

/// Arguments by place or by name.
struct Arguments<'a> {
    unnamed: &'a [Value],
    named: Kwargs,
}

impl<'a> Arguments<'a> {
    fn new(given: &'a [Value]) -> Result<Self, Error> {
        let (unnamed, named) = from_args(given)?;
        Ok(Self { unnamed, named })
    }

    /// The argument with this place and name; undefined if it is not given.
    fn get(&self, place: usize, name: &str) -> Result<Value, Error> {
        match self.unnamed.get(place) {
            Some(value) => Ok(value.clone()),
            None => Ok(self.named.get::<Option<Value>>(name)?.unwrap_or_default()),
        }
    }

    fn or<T>(&self, place: usize, name: &str, default: T) -> Result<T, Error>
    where
        T: TryFrom<Value, Error = Error>,
    {
        let value = self.get(place, name)?;
        if value.is_undefined() { Ok(default) } else { T::try_from(value) }
    }
}

/// `trim` with Python's definition of white space.
#[allow(clippy::needless_pass_by_value)] // minijinja's calling convention, here and below
fn trim(text: String, given: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let given = given.into_values();
    let characters = Arguments::new(&given)?.get(0, "chars")?;
    Ok(python::trimmed(&text, "strip", characters.as_str()).to_owned())
}

/// `default(value, other='', boolean=false)`: `other` for what is undefined, or false if wanted.
fn default(value: &Value, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let given = given.into_values();
    let arguments = Arguments::new(&given)?;
    let is_boolean = arguments.get(1, "boolean")?.is_true();
    if !value.is_undefined() && (!is_boolean || value.is_true()) {
        return Ok(value.clone());
    }
    let other = arguments.get(0, "default_value")?;
    Ok(if other.is_undefined() { Value::from("") } else { other })
}

/// `int(value, default=0, base=10)`.
fn int(value: &Value, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let given = given.into_values();
    let arguments = Arguments::new(&given)?;
    let base: u32 = arguments.or(1, "base", 10)?;
    #[allow(clippy::cast_possible_truncation)] // cut on purpose
    let of_float = |number: f64| number.is_finite().then(|| Value::from(number.trunc() as i128));
    let number = match (value.as_str(), value.kind()) {
        (Some(text), _) => {
            let digits = text.trim_matches(is_space).replace('_', "");
            let prefix = match base {
                16 => ["0x", "0X"],
                8 => ["0o", "0O"],
                2 => ["0b", "0B"],
                _ => ["", ""],
            };
            let digits = prefix.iter().find_map(|prefix| digits.strip_prefix(prefix)).unwrap_or(&digits);
            let whole = if (2..=36).contains(&base) { i128::from_str_radix(digits, base).ok() } else { None };
            whole.map(Value::from).or_else(|| of_float(digits.parse().ok()?))
        }
        (None, ValueKind::Bool) => Some(Value::from(i64::from(value.is_true()))),
        (None, ValueKind::Number) if value.is_integer() => Some(value.clone()),
        (None, ValueKind::Number) => of_float(f64::try_from(value.clone())?),
        (None, _) => None,
    };
    let default = arguments.get(0, "default")?;
    Ok(number.unwrap_or_else(|| if default.is_undefined() { Value::from(0) } else { default }))
}

/// `float(value, default=0.0)`.
fn float(value: &Value, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let given = given.into_values();
    let number = match value.as_str() {
        Some(text) => text.trim_matches(is_space).parse().ok(),
        None => f64::try_from(value.clone()).ok(),
    };
    let default = Arguments::new(&given)?.get(0, "default")?;
    let default = || if default.is_undefined() { Value::from(0.0) } else { default };
    Ok(number.map_or_else(default, Value::from))
}

/// `dictsort(value, case_sensitive=false, by='key', reverse=false)`.
fn dictsort(value: &Value, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let given = given.into_values();
    let arguments = Arguments::new(&given)?;
    let options = [("case_sensitive", 0), ("by", 1), ("reverse", 2)];
    let options = options.map(|(name, place)| Ok((name, arguments.get(place, name)?)));
    let options = options.into_iter().filter(|option| !matches!(option, Ok((_, value)) if value.is_undefined()));
    minijinja::filters::dictsort(value, options.collect::<Result<Kwargs, Error>>()?)
}

/// `center(value, width=80)`.
fn center(state: &mut State<'_, '_>, value: &Value, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let given = given.into_values();
    let width = Value::from(Arguments::new(&given)?.or(0, "width", 80_i64)?);
    python::method(state, &Value::from(value.to_string()), "center", &[width])
}

/// `truncate(text, length=255, killwords=false, end='...', leeway=5)`.
fn truncate(text: &str, given: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let given = given.into_values();
    let arguments = Arguments::new(&given)?;
    let length: usize = arguments.or(0, "length", 255)?;
    let end = arguments.get(2, "end")?;
    let end = end.as_str().unwrap_or("...");
    let leeway: usize = arguments.or(3, "leeway", 5)?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.to_owned());
    }
    let kept = length.checked_sub(end.chars().count());
    let kept = kept.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "truncate: length is shorter than end"))?;
    let cut: String = text.chars().take(kept).collect();
    let words = if arguments.get(1, "killwords")?.is_true() { None } else { cut.rsplit_once(' ') };
    Ok(words.map_or(cut.as_str(), |(words, _)| words).to_owned() + end)
}

/// A character of a word, as in regular expressions.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
