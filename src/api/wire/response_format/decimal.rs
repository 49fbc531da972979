//! Numbers of a schema as their texts spell them, without the rounding of binary fractions, and
//! whether values are equal.

use serde_json::Value;
use std::cmp::Ordering;

/// What is larger than this in units counts as this.
const UNITS_MAX: i128 = 10_i128.pow(30);

/// `digits` times ten to the power of `exponent`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal {
    digits: i128,
    exponent: i32,
}

impl Decimal {
    pub(super) const ONE: Self = Self { digits: 1, exponent: 0 };

    /// `None` if the value is not a number.
    pub(super) fn of(value: &Value) -> Option<Self> {
        let number = value.as_number()?;
        // a float's shortest text; an integer's has no exponent
        let text = match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => format!("{float:e}"),
            None => number.to_string(),
        };
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let decimals = mantissa.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        let exponent = exponent.parse::<i32>().ok()?.checked_sub(i32::try_from(decimals).ok()?)?;
        Some(Self { digits: mantissa.replace('.', "").parse().ok()?, exponent })
    }

    /// In units of the last of `decimals` decimals: the next lower whole number, and whether it is
    /// exact. From -10^30 to 10^30.
    pub(super) fn units(self, decimals: u32) -> (i128, bool) {
        let power = self.exponent.saturating_add_unsigned(decimals);
        let factor = 10_i128.checked_pow(power.unsigned_abs());
        let (units, is_exact) = match (power >= 0, factor) {
            (true, Some(factor)) => (self.digits.checked_mul(factor), true),
            (true, None) if self.digits == 0 => (Some(0), true),
            (true, None) => (None, true),
            (false, Some(factor)) => (Some(self.digits.div_euclid(factor)), self.digits.rem_euclid(factor) == 0),
            (false, None) => (Some(if self.digits < 0 { -1 } else { 0 }), self.digits == 0),
        };
        let units = units.unwrap_or(UNITS_MAX * self.digits.signum());
        (units.clamp(-UNITS_MAX, UNITS_MAX), is_exact)
    }

    /// The decimals that its text has.
    pub(super) fn decimals(self) -> u32 {
        if self.exponent < 0 { self.exponent.unsigned_abs() } else { 0 }
    }

    /// The digits of both in one unit; `None` if that is too small for them.
    fn aligned(self, other: Self) -> Option<(i128, i128)> {
        let exponent = self.exponent.min(other.exponent);
        let digits = |number: Self| {
            let factor = 10_i128.checked_pow((number.exponent - exponent).unsigned_abs())?;
            number.digits.checked_mul(factor)
        };
        if self.digits == 0 || other.digits == 0 {
            return Some((self.digits, other.digits));
        }
        Some((digits(self)?, digits(other)?))
    }

    pub(super) fn compare(self, other: Self) -> Ordering {
        let float = |number: Self| number.digits as f64 * 10f64.powi(number.exponent);
        match self.aligned(other) {
            Some((one, other)) => one.cmp(&other),
            // far apart
            None => float(self).total_cmp(&float(other)),
        }
    }

    /// `None` where this is not known, as the two are far apart.
    pub(super) fn is_multiple_of(self, step: Self) -> Option<bool> {
        let (number, step) = self.aligned(step)?;
        Some(number == 0 || step != 0 && number % step == 0)
    }

    pub(super) fn is_positive(self) -> bool {
        self.digits > 0
    }
}

/// Whether two values are equal. In JSON 3 and 3.0 are the same number.
pub(super) fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, one)| other.get(name).is_some_and(|other| is_same(one, other)))
        }
        _ => one == other || (one.is_f64() != other.is_f64() && one.is_number() && one.as_f64() == other.as_f64()),
    }
}

/// A number of `units` of the last of `decimals` decimals, as JSON.
pub(super) fn text(units: i128, decimals: u32) -> String {
    let (sign, width) = (if units < 0 { "-" } else { "" }, decimals as usize + 1);
    let digits = format!("{:0width$}", units.unsigned_abs());
    match digits.split_at(digits.len() - decimals as usize) {
        (whole, "") => format!("{sign}{whole}"),
        (whole, fraction) => format!("{sign}{whole}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(text: &str) -> Decimal {
        Decimal::of(&serde_json::from_str(text).unwrap()).unwrap()
    }

    #[test]
    fn units_are_those_of_the_text() {
        let cases = [
            ("0.29", 2, (29, true)), // 0.29 * 100 is 28.999..
            ("1.1", 2, (110, true)), // 1.1 * 100 is 110.000..01
            ("0.009", 2, (0, false)),
            ("-0.009", 2, (-1, false)),
            ("1000000000000000000", 0, (1_000_000_000_000_000_000, true)),
            ("18446744073709551615", 1, (184_467_440_737_095_516_150, true)),
            ("-0.0", 3, (0, true)),
            ("0e300", 3, (0, true)),
            ("1e300", 3, (UNITS_MAX, true)),
            ("-1e300", 0, (-UNITS_MAX, true)),
            ("5e-324", 14, (0, false)),
            ("-5e-324", 14, (-1, false)),
        ];
        for (number, decimals, units) in cases {
            assert_eq!(of(number).units(decimals), units, "{number}");
        }
        assert!(Decimal::of(&json!("1")).is_none());
    }

    #[test]
    fn numbers_are_compared_and_divided_exactly() {
        assert_eq!(of("9007199254740993").compare(of("9007199254740992")), Ordering::Greater);
        assert_eq!(of("1e300").compare(of("1e-300")), Ordering::Greater);
        assert_eq!(of("-1e300").compare(of("1e-300")), Ordering::Less);
        assert_eq!(of("3.0").compare(of("3")), Ordering::Equal);
        assert_eq!(of("0").compare(of("-1e300")), Ordering::Greater);
        assert_eq!(of("0.3").is_multiple_of(of("0.1")), Some(true));
        assert_eq!(of("7").is_multiple_of(of("5")), Some(false));
        assert_eq!(of("1e300").is_multiple_of(of("7")), None);
        assert_eq!(of("0").is_multiple_of(of("1e-300")), Some(true));
    }

    #[test]
    fn a_number_is_the_same_however_it_is_written() {
        assert!(is_same(&json!({"a": [1, {}]}), &json!({"a": [1.0, {}]})) && is_same(&json!(-0.0), &json!(0)));
        for (one, other) in [
            (json!(1), json!("1")),
            (json!(1), json!(2.0)),
            (json!([1]), json!([1, 1])),
            (json!({"a": 1}), json!({"b": 1})),
        ] {
            assert!(!is_same(&one, &other), "{one} {other}");
        }
    }

    #[test]
    fn units_are_written_as_json() {
        assert_eq!([text(5, 2), text(-1234, 2), text(0, 0), text(-7, 0)], ["0.05", "-12.34", "0", "-7"]);
    }
}
