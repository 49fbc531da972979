//! Command line flags for policies, made from the registry of rules: their names, help and ranges.

use super::flag_names::{CACHE, REMASK, of_knobs};
use super::words::{named, number, span, whole};
use crate::diffusion::policy::order::CONFIDENCE;
use crate::diffusion::policy::{COUNT_MAX, Choice, Kind, Knob, QUALITY, Range, Rule, Setting, Settings, knobs};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, error::ErrorKind};

/// The flags `--unmasking`, `--remasking`, `--cache` and those of the rules' knobs.
#[derive(Clone, Copy, Debug)]
pub(super) struct PolicyArgs {
    pub(super) order: Option<Choice>,
    pub(super) pace: Settings,
    pub(super) remasking: Option<Choice>,
    /// A knob of the remasking, where none was named.
    pub(super) alone: Option<&'static str>,
    pub(super) cache: Option<Choice>,
}

/// The flag `--unmasking` and those of its rules' knobs.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrderArgs(pub(super) Option<Choice>);

impl Args for OrderArgs {
    fn augment_args(command: Command) -> Command {
        let order = Arg::new("unmasking").long("unmasking").value_parser(named(Kind::Order));
        command
            .arg(order.help("Which blank is filled first [default: confidence]"))
            .args(knobs(Kind::Order).into_iter().map(|knob| flag("", knob)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for OrderArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(CONFIDENCE.unless(rule("unmasking", matches), settings("", Kind::Order, matches)?)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for PolicyArgs {
    fn augment_args(command: Command) -> Command {
        let remasking = Arg::new("remasking").long("remasking").value_parser(named(Kind::Remasking));
        let cache = Arg::new("cache").long("cache").value_parser(named(Kind::Cache));
        OrderArgs::augment_args(command)
            .args(knobs(Kind::Pace).into_iter().map(|knob| flag("", knob)))
            .arg(
                remasking.help(
                    "Which filled cells are erased again or replaced; default: by quality if the model has a head",
                ),
            )
            .args(knobs(Kind::Remasking).into_iter().map(|knob| flag(REMASK, knob)))
            .arg(cache.help(
                "Which keys and values of earlier passes a pass uses; default: those of finished blocks where the model \
                 is block-causal, else off",
            ))
            .args(knobs(Kind::Cache).into_iter().map(|knob| flag(CACHE, knob)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for PolicyArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let named = rule("remasking", matches);
        let of_remasking = settings(REMASK, Kind::Remasking, matches)?;
        let alone = of_remasking.iter().next().map(|(knob, _)| knob).filter(|_| named.is_none());
        let of_cache = settings(CACHE, Kind::Cache, matches)?;
        let cache = match (rule("cache", matches), of_cache.iter().next()) {
            (None, None) => None,
            (Some(rule), _) => Some(Choice { rule, settings: of_cache }),
            (None, Some((knob, _))) => {
                let message = format!("{}\n", goes_with("cache", CACHE, knob));
                return Err(clap::Error::raw(ErrorKind::MissingRequiredArgument, message));
            }
        };
        let OrderArgs(order) = OrderArgs::from_arg_matches(matches)?;
        let pace = settings("", Kind::Pace, matches)?;
        Ok(Self { order, pace, remasking: QUALITY.unless(named, of_remasking), alone, cache })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The error for a knob that is given without the flag of its policy.
pub(super) fn goes_with(flag: &str, prefix: &str, knob: &str) -> String {
    format!("--{prefix}{} goes with --{flag}; give that too", knob.replace('_', "-"))
}

/// The rule that a flag names.
fn rule(flag: &str, matches: &ArgMatches) -> Option<&'static Rule> {
    matches.get_one::<&'static Rule>(flag).copied()
}

/// The flag of a knob.
fn flag(prefix: &str, knob: &'static Knob) -> Arg {
    let name = flag_name(prefix, knob);
    let arg = Arg::new(name.clone()).long(name).help(knob.help.trim_end_matches('.'));
    match knob.range {
        Range::Count { min } => arg.value_name("N").value_parser(whole::<u32>(min.into(), COUNT_MAX.into())),
        Range::Fraction => arg.value_name("0..1").value_parser(number(0.0_f32, 1.0)),
        Range::Number { max } => arg.value_name("X").value_parser(number(0.0_f32, max as f32)),
        Range::Span => arg.value_name("FROM,TO").value_parser(span()),
    }
}

fn flag_name(prefix: &str, knob: &Knob) -> String {
    format!("{prefix}{}", knob.name.replace('_', "-"))
}

/// The knobs that were given on the command line.
fn settings(prefix: &str, kind: Kind, matches: &ArgMatches) -> Result<Settings, clap::Error> {
    let value = |knob: &Knob| match knob.range {
        Range::Count { .. } => matches.get_one::<u32>(&flag_name(prefix, knob)).copied().map(Setting::Count),
        Range::Fraction | Range::Number { .. } => {
            matches.get_one::<f32>(&flag_name(prefix, knob)).copied().map(Setting::Number)
        }
        Range::Span => matches.get_one::<[f32; 2]>(&flag_name(prefix, knob)).copied().map(Setting::Span),
    };
    let mut given = knobs(kind).into_iter().filter_map(|knob| Some((knob.name, value(knob)?)));
    given
        .try_fold(Settings::EMPTY, |settings, (name, value)| settings.try_with(name, value))
        .map_err(|error| clap::Error::raw(ErrorKind::TooManyValues, of_knobs(kind, &error)))
}
