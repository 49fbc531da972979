//! Values of flags: one of some words, or a number in a range.

use crate::diffusion::policy::{Kind, Rule, rules};
use clap::builder::{PossibleValue, PossibleValuesParser, RangedU64ValueParser, StringValueParser, TypedValueParser};

/// Reads one of some words, each given with its meaning and its help, which may be empty.
pub(super) fn one_of<T: Copy + Send + Sync + 'static>(
    words: impl IntoIterator<Item = (&'static str, T, &'static str)>,
) -> impl TypedValueParser<Value = T> {
    let words: Vec<_> = words.into_iter().collect();
    let shown = words.iter().map(|(word, _, help)| {
        let help = Some(help.trim_end_matches('.')).filter(|help| !help.is_empty());
        PossibleValue::new(*word).help(help)
    });
    PossibleValuesParser::new(shown.collect::<Vec<_>>()).try_map(move |word| {
        words.iter().find(|known| known.0 == word).map(|known| known.1).ok_or("there is no such word")
    })
}

pub(super) fn named(kind: Kind) -> impl TypedValueParser<Value = &'static Rule> {
    one_of(rules(kind).into_iter().map(|rule| (rule.name, rule, rule.help)))
}

/// Reads a whole number from 1 to `max`.
pub(super) fn count(max: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=max)
}

/// Reads a number from `min` to `max`.
pub(super) fn number(min: f64, max: f64) -> impl TypedValueParser<Value = f64> {
    StringValueParser::new().try_map(move |word: String| {
        let number = word.parse().ok().filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| format!("give a number from {min} to {max}"))
    })
}
