//! Flags whose value is one of some words.

use crate::diffusion::policy::{Kind, Rule, rules};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

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
