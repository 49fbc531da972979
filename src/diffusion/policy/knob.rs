//! Knobs: the numbers that a request may set on a rule. A knob declares its name, range, default
//! and help once; parsers, documents and command line flags are made from that.

use crate::diffusion::units::Probability;
use std::fmt;

/// Knobs of one rule at most.
pub(super) const KNOBS_MAX: usize = 6;

/// Largest count that a knob takes, so that no request runs for ever.
pub const COUNT_MAX: u32 = 65_536;

/// One number that a request may set on a rule.
#[derive(Debug)]
pub struct Knob {
    /// Name in JSON, and in the command line flag. Lower case, words joined by `_`.
    pub name: &'static str,
    /// One sentence for users: what it does, and its default.
    pub help: &'static str,
    /// Values that it takes.
    pub range: Range,
    /// Value where a request sets none. Gets what the request did set, and the number of blanks in
    /// a block. `None` leaves the knob unset.
    pub default: fn(&Settings, u32) -> Option<Setting>,
}

/// Values that a knob takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Whole numbers from `min` to [`COUNT_MAX`].
    Count {
        /// The least.
        min: u32,
    },
    /// Numbers from 0 to 1.
    Fraction,
    /// Numbers from 0 to `max`.
    Number {
        /// The greatest.
        max: u32,
    },
    /// Two numbers from 0 to 1, the second above the first.
    Span,
}

/// A value of a knob.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Setting {
    /// For [`Range::Count`].
    Count(u32),
    /// For [`Range::Fraction`] and [`Range::Number`].
    Number(f32),
    /// For [`Range::Span`].
    Span([f32; 2]),
}

impl From<u32> for Setting {
    fn from(count: u32) -> Self {
        Self::Count(count)
    }
}

impl From<f32> for Setting {
    fn from(fraction: f32) -> Self {
        Self::Number(fraction)
    }
}

impl From<[f32; 2]> for Setting {
    fn from(span: [f32; 2]) -> Self {
        Self::Span(span)
    }
}

/// A setting that a rule does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct KnobError {
    /// The knob at fault.
    pub knob: &'static str,
    /// What was given, and what is allowed.
    pub message: String,
}

impl Knob {
    /// Checks a value.
    ///
    /// # Errors
    /// When it is outside the range.
    pub(super) fn check(&self, value: Setting) -> Result<(), KnobError> {
        let name = self.name;
        let fault = |message: String| Err(KnobError { knob: name, message });
        let number = |value: f32| fault(format!("{name} is {value}; give a number from 0 to 1"));
        let outside = |value: &f32| Probability::new(*value).is_none();
        match (self.range, value) {
            (Range::Count { min }, Setting::Count(count)) if !(min..=COUNT_MAX).contains(&count) => {
                fault(format!("{name} is {count}; give {min} to {COUNT_MAX}"))
            }
            (Range::Fraction, Setting::Number(value)) if outside(&value) => number(value),
            (range @ Range::Number { max }, Setting::Number(value)) if !(0.0..=max as f32).contains(&value) => {
                fault(format!("{name} is {value}; give {range}"))
            }
            (range @ Range::Span, Setting::Span(ends)) if ends.iter().any(outside) => {
                fault(format!("{name} is {value}; give {range}, the second above the first"))
            }
            (Range::Span, Setting::Span(ends)) => match Stretch::of(ends) {
                None => fault(format!("{name} is {value}; its end must lie after its start")),
                Some(_) => Ok(()),
            },
            (Range::Count { .. }, Setting::Count(_)) | (Range::Fraction | Range::Number { .. }, Setting::Number(_)) => {
                Ok(())
            }
            (range, value) => fault(format!("{name} is {value}; give {range}")),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { min } => write!(f, "{min} to {COUNT_MAX}"),
            Self::Fraction => f.write_str("a number from 0 to 1"),
            Self::Number { max } => write!(f, "a number from 0 to {max}"),
            Self::Span => f.write_str("two numbers from 0 to 1"),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Span([from, until]) => write!(f, "[{from}, {until}]"),
        }
    }
}

/// Values of some knobs, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings([Option<(&'static str, Setting)>; KNOBS_MAX]);

impl Settings {
    /// No knob is set.
    pub const EMPTY: Self = Self([None; KNOBS_MAX]);

    /// The same with `value` for `knob`, in place of an earlier one.
    ///
    /// # Panics
    /// When more than six knobs are set, which is more than any rule has.
    #[must_use]
    pub fn with(self, knob: &'static str, value: Setting) -> Self {
        self.try_with(knob, value).expect("a rule has at most six knobs")
    }

    /// The same for knobs that a user gave, which may not be of one rule.
    ///
    /// # Errors
    /// When more than six knobs are set.
    pub fn try_with(mut self, knob: &'static str, value: Setting) -> Result<Self, KnobError> {
        let Some(entry) = self.0.iter_mut().find(|entry| entry.is_none_or(|(name, _)| name == knob)) else {
            let message = format!("{knob} is one too many; no policy takes more than {KNOBS_MAX} knobs");
            return Err(KnobError { knob, message });
        };
        *entry = Some((knob, value));
        Ok(self)
    }

    /// Whether no knob is set.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// All that were set, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Setting)> + '_ {
        self.0.iter().flatten().copied()
    }

    /// Those of the knobs that `is_first` is true of, and the others.
    pub fn parted(&self, is_first: impl Fn(&str) -> bool) -> (Self, Self) {
        let add = |(first, others): (Self, Self), (knob, value)| match is_first(knob) {
            true => (first.with(knob, value), others),
            false => (first, others.with(knob, value)),
        };
        self.iter().fold((Self::EMPTY, Self::EMPTY), add)
    }

    /// The value of a knob, if it was set.
    pub fn get(&self, knob: &str) -> Option<Setting> {
        self.iter().find(|(name, _)| *name == knob).map(|(_, value)| value)
    }

    /// The value of a [`Range::Count`].
    pub fn count(&self, knob: &str) -> Option<u32> {
        if let Some(Setting::Count(count)) = self.get(knob) { Some(count) } else { None }
    }

    /// The value of a [`Range::Fraction`].
    pub fn fraction(&self, knob: &str) -> Option<Probability> {
        self.number(knob).and_then(Probability::new)
    }

    /// The value of a [`Range::Number`].
    pub fn number(&self, knob: &str) -> Option<f32> {
        if let Some(Setting::Number(number)) = self.get(knob) { Some(number) } else { None }
    }

    /// The value of a [`Range::Span`].
    pub fn stretch(&self, knob: &str) -> Option<Stretch> {
        if let Some(Setting::Span(ends)) = self.get(knob) { Stretch::of(ends) } else { None }
    }
}

/// A part of a block's refinement, as two fractions of its progress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stretch {
    from: Probability,
    until: Probability,
}

impl Stretch {
    /// From the first step to the last.
    pub const WHOLE: Self = Self { from: Probability::ZERO, until: Probability::ONE };

    fn of([from, until]: [f32; 2]) -> Option<Self> {
        let [from, until] = [Probability::new(from)?, Probability::new(until)?];
        (from < until).then_some(Self { from, until })
    }

    /// The steps of `0..steps` that lie in the stretch, as a half-open range.
    pub fn of_steps(&self, steps: u32) -> std::ops::Range<u32> {
        let edge = |fraction: Probability| (f64::from(fraction.get()) * f64::from(steps)).round() as u32;
        edge(self.from)..edge(self.until)
    }

    /// Whether the two have a part in common.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.from < other.until && other.from < self.until
    }

    /// Whether a block that is filled to `progress` is inside the stretch.
    pub fn contains(&self, progress: f32) -> bool {
        (self.from.get()..=self.until.get()).contains(&progress)
    }
}
