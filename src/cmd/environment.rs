//! Environment variables, settled before any thread starts. Empty ones count as unset. Those that
//! libraries read by themselves are checked here, since libraries panic at a wrong value or ignore
//! it. Out of scope: the variables of our own flags, which the parser of the command line checks.

use super::print::say;
use crate::model::{Threads, settle_threads};
use std::env;
use std::ffi::{OsStr, OsString};

/// Variables that other parts of the program read.
const OTHER_VARIABLES: [&str; 4] = ["RUST_LOG", "HF_HOME", "HF_ENDPOINT", "HOME"];

/// Most threads of a pool. The time of a small product grows with their square: with 1,024 threads
/// on two cores, a puzzle of a second takes more than a minute.
const THREADS_MAX: u64 = 256;
/// Most bytes of a thread's stack.
const STACK_MAX: u64 = 1 << 30;
/// Most spans that wait to be sent; the queue's memory is taken at the start.
const SPANS_MAX: u64 = 1 << 20;
/// Longest time in milliseconds: a week.
const MILLISECONDS_MAX: u64 = 7 * 24 * 3600 * 1000;

/// The values that a variable takes.
#[derive(Clone, Copy, Debug)]
enum Allowed {
    /// Whole numbers in a range, both ends included.
    Whole(u64, u64),
    /// Numbers from 0 to 1.
    Share,
    /// One of these words, in any case of letters.
    Words(&'static [&'static str]),
}

/// Variables that make the program fail, or do something else than they say.
const REFUSED: [(&str, Allowed); 6] = [
    ("RAYON_NUM_THREADS", Allowed::Whole(0, THREADS_MAX)), // 0 counts as unset
    ("RAYON_RS_NUM_CPUS", Allowed::Whole(0, THREADS_MAX)),
    ("CANDLE_NUM_THREADS", Allowed::Whole(0, THREADS_MAX)),
    ("TOKIO_WORKER_THREADS", Allowed::Whole(1, THREADS_MAX)),
    ("RUST_MIN_STACK", Allowed::Whole(0, STACK_MAX)),
    ("HF_HUB_OFFLINE", Allowed::Words(&["0", "1", "false", "true", "no", "yes", "off", "on"])),
];

/// Variables of OpenTelemetry, whose specification asks for a warning and otherwise the default.
const IGNORED: [(&str, Allowed); 13] = [
    ("OTEL_BSP_MAX_QUEUE_SIZE", Allowed::Whole(1, SPANS_MAX)),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", Allowed::Whole(1, SPANS_MAX)),
    ("OTEL_BSP_MAX_CONCURRENT_EXPORTS", Allowed::Whole(1, THREADS_MAX)),
    ("OTEL_BSP_SCHEDULE_DELAY", Allowed::Whole(1, MILLISECONDS_MAX)),
    ("OTEL_BSP_EXPORT_TIMEOUT", Allowed::Whole(0, MILLISECONDS_MAX)),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", Allowed::Whole(0, MILLISECONDS_MAX)),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", Allowed::Whole(0, MILLISECONDS_MAX)),
    ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", Allowed::Whole(0, SPANS_MAX)),
    ("OTEL_SPAN_EVENT_COUNT_LIMIT", Allowed::Whole(0, SPANS_MAX)),
    ("OTEL_SPAN_LINK_COUNT_LIMIT", Allowed::Whole(0, SPANS_MAX)),
    ("OTEL_TRACES_SAMPLER_ARG", Allowed::Share),
    (
        "OTEL_TRACES_SAMPLER",
        Allowed::Words(&[
            "always_on",
            "always_off",
            "traceidratio",
            "parentbased_always_on",
            "parentbased_always_off",
            "parentbased_traceidratio",
        ]),
    ),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", Allowed::Words(&["none"])),
];

/// What is wrong with the environment.
#[derive(Debug, Default)]
pub struct Environment {
    refused: Vec<String>,
    ignored: Vec<String>,
}

impl Environment {
    /// Removes variables that are empty or of no use, those of the command line `command` included,
    /// and sets the number of threads.
    ///
    /// # Safety
    /// Changes environment variables, so no other thread may run yet: call it first in `main`.
    #[must_use]
    #[allow(unsafe_code)]
    pub unsafe fn settle(command: &clap::Command) -> Self {
        // SAFETY: no other thread runs, as the caller promises.
        let remove = |name: &OsStr| unsafe { env::remove_var(name) };
        empty(command).iter().for_each(|name| remove(name));
        let problem_of = |(name, allowed): &(&str, Allowed)| problem(name, &env::var_os(name)?, *allowed);
        let refused = REFUSED.iter().filter_map(problem_of).collect();
        let ignored = IGNORED.iter().filter_map(problem_of).collect();
        IGNORED.iter().filter(|variable| problem_of(variable).is_some()).for_each(|(name, _)| remove(name.as_ref()));
        // SAFETY: as above.
        unsafe { settle_threads(threads()) };
        Self { refused, ignored }
    }

    /// Says which variables are ignored.
    ///
    /// # Errors
    /// The first variable that is refused.
    pub(super) fn check(&self) -> Result<(), UsageError> {
        if let Some(problem) = self.refused.first() {
            return Err(UsageError(problem.clone()));
        }
        self.ignored.iter().for_each(|problem| say(format_args!("remask: {problem}; it is ignored")));
        Ok(())
    }
}

/// A mistake in how the program was called.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) String);

/// What is wrong with the value of a variable; `None` when nothing is.
fn problem(name: &str, value: &OsStr, allowed: Allowed) -> Option<String> {
    let word = value.to_str().unwrap_or_default();
    let (is_allowed, what) = match allowed {
        Allowed::Whole(min, max) => {
            (word.parse().is_ok_and(|it| (min..=max).contains(&it)), format!("a whole number from {min} to {max}"))
        }
        Allowed::Share => (word.parse().is_ok_and(|it| (0.0..=1.0).contains(&it)), "a number from 0 to 1".to_owned()),
        Allowed::Words(words) => {
            let is_known = words.iter().any(|known| known.eq_ignore_ascii_case(word));
            (is_known, if words.len() == 1 { words.concat() } else { format!("one of {}", words.join(", ")) })
        }
    };
    (!is_allowed).then(|| format!("the environment variable {name} is {value:?}; give {what}, or unset it"))
}

/// How the command uses threads, by its name alone: this must be known before any thread starts.
fn threads() -> Threads {
    match env::args_os().nth(1).as_deref().and_then(OsStr::to_str) {
        Some("train") => Threads::Alone,
        Some(_) | None => Threads::ShareProducts,
    }
}

/// The environment variables of the program that are set and empty.
fn empty(command: &clap::Command) -> Vec<OsString> {
    fn of(command: &clap::Command, found: &mut Vec<OsString>) {
        found.extend(command.get_arguments().filter_map(|arg| arg.get_env().map(OsString::from)));
        command.get_subcommands().for_each(|command| of(command, found));
    }
    let mut names = OTHER_VARIABLES.map(OsString::from).to_vec();
    names.extend(REFUSED.iter().chain(&IGNORED).map(|(name, _)| OsString::from(name)));
    names.extend(env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("OTEL_")));
    of(command, &mut names);
    names.retain(|name| env::var_os(name).is_some_and(|value| value.is_empty()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_outside_the_range_are_refused_with_what_is_allowed() {
        let problem_of = |value: &str, allowed| problem("NAME", value.as_ref(), allowed);
        for value in ["0", "1", "1024"] {
            assert_eq!(problem_of(value, Allowed::Whole(0, 1024)), None);
        }
        for value in ["", "-1", "1025", "100000", "abc", "4x", "1.5", "99999999999999999999"] {
            let expected =
                format!("the environment variable NAME is {value:?}; give a whole number from 0 to 1024, or unset it");
            assert_eq!(problem_of(value, Allowed::Whole(0, 1024)), Some(expected));
        }
        for (value, is_allowed) in [("0", true), ("0.25", true), ("1.5", false), ("nan", false), ("x", false)] {
            assert_eq!(problem_of(value, Allowed::Share).is_none(), is_allowed, "{value}");
        }
        for (value, is_allowed) in [("yes", true), ("YES", true), ("garbage", false)] {
            assert_eq!(problem_of(value, Allowed::Words(&["yes", "no"])).is_none(), is_allowed, "{value}");
        }
        use std::os::unix::ffi::OsStrExt;
        assert!(problem("NAME", OsStr::from_bytes(b"\xff"), Allowed::Words(&["on"])).is_some());
    }
}
