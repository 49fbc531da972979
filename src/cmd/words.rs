//! Values of flags: one of some words, or a number in a range.

use crate::diffusion::policy::{COUNT_MAX, Kind, Rule, rules};
use clap::builder::{PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser};
use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;

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

/// Reads a whole number from `min` to `max`.
pub(super) fn whole<T>(min: u64, max: u64) -> impl TypedValueParser<Value = T>
where
    T: TryFrom<u64> + Clone + Send + Sync + 'static,
{
    StringValueParser::new().try_map(move |word: String| {
        let number = word.parse().ok().filter(|number| (min..=max).contains(number));
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| format!("give a whole number from {min} to {max}"))
    })
}

/// Reads a number of bytes, as `500000000`, `512MiB` or `2GiB`.
pub(super) fn bytes() -> impl TypedValueParser<Value = u64> {
    StringValueParser::new().try_map(|word: String| {
        let (number, unit) = word.split_at(word.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(word.len()));
        let unit: u64 = match unit.trim() {
            "" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => 0,
        };
        let bytes = number.parse::<u64>().ok().filter(|_| unit > 0).and_then(|number| number.checked_mul(unit));
        bytes.ok_or("give a whole number from 0 upwards, or one with KiB, MiB, GiB or TiB behind it, as 512MiB")
    })
}

/// Reads a whole number from 1 to `max`.
pub(super) fn count<T>(max: u64) -> impl TypedValueParser<Value = T>
where
    T: TryFrom<u64> + Clone + Send + Sync + 'static,
{
    whole(1, max)
}

/// The steps of a proofreading: the model's, or so many; 0 is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proofread(pub(super) Option<u32>);

impl Proofread {
    pub(super) const OFF: Self = Self(Some(0));
}

/// Reads the steps of a proofreading.
pub(super) fn proofread() -> impl TypedValueParser<Value = Proofread> {
    StringValueParser::new().try_map(|word: String| match word.as_str() {
        "on" => Ok(Proofread(None)),
        "off" | "0" => Ok(Proofread::OFF),
        word => {
            let steps = word.parse().ok().filter(|steps| (2..=COUNT_MAX).contains(steps));
            let allowed = || format!("give on, off, or a whole number of steps from 2 to {COUNT_MAX}");
            steps.map(|steps| Proofread(Some(steps))).ok_or_else(allowed)
        }
    })
}

/// Reads the number of a port; 0 picks a free one.
pub(super) fn port() -> impl TypedValueParser<Value = u16> {
    whole(0, 65_535)
}

/// Reads a number from `min` to `max`.
pub(super) fn number<T>(min: T, max: T) -> impl TypedValueParser<Value = T>
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    StringValueParser::new().try_map(move |word: String| {
        let number = word.parse().ok().filter(|number| (&min..=&max).contains(&number));
        number.ok_or_else(|| format!("give a number from {min} to {max}"))
    })
}

/// Reads two whole numbers with a hyphen between, the second above the first.
pub(super) fn range() -> impl TypedValueParser<Value = Range<usize>> {
    StringValueParser::new().try_map(|word: String| {
        let ends = word.split_once('-').and_then(|(from, to)| Some(from.trim().parse().ok()?..to.trim().parse().ok()?));
        let range = ends.filter(|range: &Range<usize>| range.start < range.end);
        range.ok_or("give two whole numbers with a hyphen between, the second above the first, as 0-80")
    })
}

/// Reads two numbers from 0 to 1, the second above the first.
pub(super) fn span() -> impl TypedValueParser<Value = [f32; 2]> {
    StringValueParser::new().try_map(|word: String| {
        let ends =
            word.split_once(',').and_then(|(from, to)| Some([from.trim().parse().ok()?, to.trim().parse().ok()?]));
        let ends = ends.filter(|[from, to]: &[f32; 2]| 0.0 <= *from && from < to && *to <= 1.0);
        ends.ok_or("give two numbers from 0 to 1 with a comma between, the second above the first, as 0.25,0.75")
    })
}

/// Reads a sampling temperature.
pub(super) fn temperature() -> impl TypedValueParser<Value = f32> {
    StringValueParser::new().try_map(|word: String| {
        let number = word.parse::<f32>().ok().filter(|number| number.is_finite() && *number >= 0.0);
        number.ok_or("give a finite number from 0 upwards")
    })
}

/// Reads a token of the hub: visible characters, as a header has them.
pub(super) fn hub_token() -> impl TypedValueParser<Value = String> {
    StringValueParser::new().try_map(|word: String| {
        let token = word.trim();
        let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        is_token.then(|| token.to_owned()).ok_or("give a token without blanks, as its page on the hub shows it")
    })
}
