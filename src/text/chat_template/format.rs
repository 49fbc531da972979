//! Python's `%`: remainders, and formatted texts
//! (<https://docs.python.org/3/library/stdtypes.html#old-string-formatting>).

use super::python::float;
use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Widest field and most digits after the point.
const WIDTH_MAX: usize = 10_000;

/// Python's `%`: the remainder of numbers, whose sign is that of `right`, or a formatted text.
pub(super) fn modulo(left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(text) = left.as_str() {
        return percent(text, right).map(Value::from);
    }
    let wrong = |why: &str| Error::new(ErrorKind::InvalidOperation, format!("{left} % {right}: {why}"));
    if let (Ok(left), Ok(right)) = (i128::try_from(left.clone()), i128::try_from(right.clone())) {
        let remainder = left.checked_rem(right).ok_or_else(|| wrong("there is no such remainder"))?;
        let is_other_sign = remainder != 0 && (remainder < 0) != (right < 0);
        return Ok(Value::from(if is_other_sign { remainder + right } else { remainder }));
    }
    match (f64::try_from(left.clone()), f64::try_from(right.clone())) {
        (Ok(_), Ok(0.0)) => Err(wrong("there is no such remainder")),
        (Ok(left), Ok(right)) => {
            let remainder = left % right;
            let is_other_sign = remainder != 0.0 && (remainder < 0.0) != (right < 0.0);
            Ok(Value::from(if is_other_sign { remainder + right } else { remainder }))
        }
        _ => Err(wrong("give two numbers, or a text and values")),
    }
}

/// `format % values`: a tuple has the values of the fields, a mapping their names, anything else is
/// the value of the only field.
fn percent(format: &str, values: &Value) -> Result<String, Error> {
    let is_mapping = values.kind() == ValueKind::Map;
    let listed = if values.is_tuple() { values.try_iter()?.collect() } else { vec![values.clone()] };
    let mut values_left = listed.into_iter();
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let mut field = Field::default();
        rest = field.read(&rest[at + 1..])?;
        if field.conversion == '%' {
            out.push('%');
            continue;
        }
        let mut next = || values_left.next().ok_or_else(|| wrong("not enough arguments for format string"));
        if field.width.is_starred {
            let width = i64::try_from(next()?)?;
            field.is_left |= width < 0;
            field.width.number = Some(limited(width.unsigned_abs())?);
        }
        if field.precision.is_starred {
            field.precision.number = Some(limited(u64::try_from(i64::try_from(next()?)?.max(0)).unwrap_or(0))?);
        }
        let value = match &field.name {
            Some(_) if !is_mapping => return Err(wrong("format requires a mapping")),
            Some(name) => values.get_item(&Value::from(name.as_str()))?,
            None => next()?,
        };
        out.push_str(&field.written(&value)?);
    }
    if !is_mapping && values_left.next().is_some() {
        return Err(wrong("not all arguments converted during string formatting"));
    }
    Ok(out + rest)
}

/// A width or precision: a number, or `*` for one among the values.
#[derive(Default)]
struct Size {
    number: Option<usize>,
    is_starred: bool,
}

/// `%(name)-5.2f` after its `%`.
#[derive(Default)]
struct Field {
    name: Option<String>,
    is_left: bool,
    has_sign: bool,
    has_space: bool,
    has_zeros: bool,
    is_alternate: bool,
    width: Size,
    precision: Size,
    conversion: char,
}

impl Field {
    /// Reads a field and returns what follows it.
    fn read<'a>(&mut self, mut rest: &'a str) -> Result<&'a str, Error> {
        if let Some(inside) = rest.strip_prefix('(') {
            let (name, after) = inside.split_once(')').ok_or_else(|| wrong("incomplete format key"))?;
            self.name = Some(name.to_owned());
            rest = after;
        }
        let after = rest.trim_start_matches(['-', '+', ' ', '0', '#']);
        for flag in rest[..rest.len() - after.len()].chars() {
            match flag {
                '-' => self.is_left = true,
                '+' => self.has_sign = true,
                ' ' => self.has_space = true,
                '0' => self.has_zeros = true,
                _ => self.is_alternate = true,
            }
        }
        rest = self.width.read(after)?;
        if let Some(after) = rest.strip_prefix('.') {
            self.precision.number = Some(0);
            rest = self.precision.read(after)?;
        }
        rest = rest.trim_start_matches(['h', 'l', 'L']);
        let mut characters = rest.chars();
        self.conversion = characters.next().ok_or_else(|| wrong("incomplete format"))?;
        Ok(characters.as_str())
    }

    fn written(&self, value: &Value) -> Result<String, Error> {
        let precision = self.precision.number;
        let (sign, body, is_number) = match self.conversion {
            's' => (String::new(), value.to_string(), false),
            'r' | 'a' => (String::new(), repr(value), false),
            'c' => (String::new(), character(value)?, false),
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
                let (is_negative, digits) = self.integer(value)?;
                let zeros = precision.unwrap_or(0).saturating_sub(digits.len());
                (self.sign(is_negative), "0".repeat(zeros) + &digits, true)
            }
            'f' | 'F' | 'e' | 'E' | 'g' | 'G' => {
                let number = f64::try_from(value.clone()).map_err(|_| self.mismatch("a real number", value))?;
                (self.sign(number.is_sign_negative()), self.real(number.abs()), number.is_finite())
            }
            other => return Err(wrong(&format!("unsupported format character {other:?}"))),
        };
        let body = match precision {
            Some(most) if matches!(self.conversion, 's' | 'r' | 'a') => body.chars().take(most).collect(),
            _ => body,
        };
        let missing = self.width.number.unwrap_or(0).saturating_sub(sign.len() + body.chars().count());
        Ok(match (self.is_left, self.has_zeros && is_number) {
            (true, _) => format!("{sign}{body}{}", " ".repeat(missing)),
            (false, true) => format!("{sign}{}{body}", "0".repeat(missing)),
            (false, false) => format!("{}{sign}{body}", " ".repeat(missing)),
        })
    }

    fn sign(&self, is_negative: bool) -> String {
        let sign = match (is_negative, self.has_sign, self.has_space) {
            (true, ..) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            (false, false, false) => "",
        };
        let base = match (self.is_alternate, self.conversion) {
            (true, 'x') => "0x",
            (true, 'X') => "0X",
            (true, 'o') => "0o",
            _ => "",
        };
        format!("{sign}{base}")
    }

    /// Whether an integer is negative, and its digits.
    fn integer(&self, value: &Value) -> Result<(bool, String), Error> {
        let is_decimal = matches!(self.conversion, 'd' | 'i' | 'u');
        let number = match value.kind() {
            ValueKind::Bool => i128::from(value.is_true()),
            ValueKind::Number if value.is_integer() => i128::try_from(value.clone())?,
            #[allow(clippy::cast_possible_truncation)] // Python cuts, too, and saturates later
            ValueKind::Number if is_decimal => f64::try_from(value.clone())?.trunc() as i128,
            _ => return Err(self.mismatch("an integer", value)),
        };
        let size = number.unsigned_abs();
        let digits = match self.conversion {
            'x' => format!("{size:x}"),
            'X' => format!("{size:X}"),
            'o' => format!("{size:o}"),
            _ => size.to_string(),
        };
        Ok((number < 0, digits))
    }

    /// A number without its sign.
    fn real(&self, number: f64) -> String {
        let precision = self.precision.number.unwrap_or(6);
        let text = match self.conversion {
            _ if number.is_nan() => "nan".to_owned(),
            _ if number.is_infinite() => "inf".to_owned(),
            'f' | 'F' => format!("{number:.precision$}"),
            'e' | 'E' => scientific(number, precision),
            _ => self.general(number, precision.max(1)),
        };
        if self.conversion.is_uppercase() { text.to_uppercase() } else { text }
    }

    /// The shorter of the two forms, with so many digits.
    fn general(&self, number: f64, digits: usize) -> String {
        let rounded = scientific(number, digits - 1);
        let exponent = rounded.split_once('e').and_then(|(_, exponent)| exponent.parse::<i64>().ok()).unwrap_or(0);
        let without_zeros = |text: &str| match text.contains('.') && !self.is_alternate {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text.to_owned(),
        };
        let last = i64::try_from(digits).unwrap_or(i64::MAX);
        if (-4..last).contains(&exponent) {
            let precision = usize::try_from(last - 1 - exponent).unwrap_or(0);
            return without_zeros(&format!("{number:.precision$}"));
        }
        let (mantissa, exponent) = rounded.split_once('e').unwrap_or((&rounded, "+00"));
        format!("{}e{exponent}", without_zeros(mantissa))
    }

    fn mismatch(&self, wanted: &str, value: &Value) -> Error {
        wrong(&format!("%{} format: {wanted} is required, not {}", self.conversion, value.kind()))
    }
}

impl Size {
    fn read<'a>(&mut self, rest: &'a str) -> Result<&'a str, Error> {
        if let Some(after) = rest.strip_prefix('*') {
            self.is_starred = true;
            return Ok(after);
        }
        let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let digits = &rest[..rest.len() - after.len()];
        if !digits.is_empty() {
            self.number = Some(limited(digits.parse().unwrap_or(u64::MAX))?);
        }
        Ok(after)
    }
}

fn limited(width: u64) -> Result<usize, Error> {
    let width = usize::try_from(width).ok().filter(|width| *width <= WIDTH_MAX);
    width.ok_or_else(|| wrong(&format!("a width or precision is more than {WIDTH_MAX}")))
}

/// `1.5e+03` with so many digits after the point.
fn scientific(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// A character, or the one of a number.
fn character(value: &Value) -> Result<String, Error> {
    let of_text = value.as_str().filter(|text| text.chars().count() == 1).map(str::to_owned);
    let of_number = || char::from_u32(u32::try_from(value.clone()).ok()?).map(String::from);
    of_text.or_else(of_number).ok_or_else(|| wrong("%c requires an int or a single character"))
}

/// The value as Python's `repr` writes it.
fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
        }
        ValueKind::String => {
            let listed = Value::from(vec![value.clone()]).to_string();
            listed.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(&listed).to_owned()
        }
        _ => value.to_string(),
    }
}

fn wrong(problem: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.to_owned())
}
