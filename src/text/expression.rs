//! Whether a text matches a regular expression of ECMA-262. Out of scope: which texts do, which is
//! the job of [`Pattern`](super::Pattern).

use super::pattern::with_classes;
use fancy_regex::{Regex, RegexBuilder};

/// How often a match may try another way, and bytes of a compiled expression: both are small, as
/// expressions come from requests.
const BACKTRACKS_MAX: usize = 500;
const COMPILED_MAX: usize = 1 << 17;

/// A compiled expression.
#[derive(Debug)]
pub struct Expression(Regex);

impl Expression {
    /// Compiles `expression`, which may look around and refer back.
    ///
    /// # Errors
    /// When it is not an expression, or is too large.
    pub fn new(expression: &str) -> Result<Self, String> {
        let mut builder = RegexBuilder::new(&with_classes(expression));
        builder.backtrack_limit(BACKTRACKS_MAX).delegate_size_limit(COMPILED_MAX);
        let regex = builder.build().map_err(|_| "it is not a regular expression, or too large".to_owned())?;
        Ok(Self(regex))
    }

    /// Whether a part of `text` matches.
    ///
    /// # Errors
    /// When this takes too many steps.
    pub fn is_match(&self, text: &str) -> Result<bool, String> {
        self.0.is_match(text).map_err(|_| "it tries too many ways to match".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_read_as_ecma_262_does() {
        let cases = [
            ("b", "abc", true),
            ("^b$", "abc", false),
            (r"^\d+\/\d+$", "1/20", true),
            (r"^\d$", "٣", false),
            (r"^[\w\d]+$", "a_1", true),
            (r"^(?!.*\.\.)(?=.*\d)[a-z.\d]+$", "a.1", true),
            (r"^(?!.*\.\.)(?=.*\d)[a-z.\d]+$", "a..1", false),
        ];
        for (expression, text, is_match) in cases {
            assert_eq!(Expression::new(expression).unwrap().is_match(text), Ok(is_match), "{expression} {text}");
        }
        for expression in ["(", "[z-a]", "((a{100}){100}){100}"] {
            assert!(Expression::new(expression).is_err(), "{expression}");
        }
        let slow = Expression::new(r"^(a|aa)+\1b$").unwrap();
        assert!(slow.is_match(&"a".repeat(60)).unwrap_err().contains("too many ways"));
    }
}
