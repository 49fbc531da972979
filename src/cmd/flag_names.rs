//! The names that errors have for what a command is given: its flags in place of the fields of the
//! API.

use crate::diffusion::policy::{Kind, KnobError, knobs};
use crate::engine::Rejected;

/// What comes before a remasking's knob in its flag.
pub(super) const REMASK: &str = "remask-";

/// What comes before a cache's knob in its flag.
pub(super) const CACHE: &str = "cache-";

/// What a command calls fields, where it has names of its own.
pub(super) type Names = &'static [(&'static str, &'static str)];

/// The field in the words of an error.
const BLANK: &str = "\"blank\"";
/// `generate` and `infill` with a text.
pub(super) const TEXT: Names = &[("template", "--prompt"), (BLANK, "--blank")];
/// `generate` and `infill` with token ids.
pub(super) const IDS: Names = &[("template", "--prompt-ids"), ("prompt", "--prompt-ids"), (BLANK, "--blank")];
/// `score` and `repair` with a text.
pub(super) const GIVEN_TEXT: Names = &[("text", "--text")];
/// `score` and `repair` with token ids.
pub(super) const GIVEN_IDS: Names = &[("text", "--text-ids")];
/// `score` and `repair` with a file.
pub(super) const GIVEN_FILE: Names = &[("text", "--file")];
/// `eval infill`, whose file has templates.
pub(super) const FILE: Names = &[("template", "template"), ("blank", "blank")];
/// `eval sudoku`.
pub(super) const SUDOKU: Names = &[
    ("template", "the puzzle"),
    ("diffusion.unmasking", "--order"),
    ("diffusion.remasking", "--policies"),
    ("diffusion.remasking.budget", "--erase-per-step"),
    ("diffusion.remasking.below", "--below"),
    ("diffusion.proofreading.temperature", "--proofread-temperature"),
];
/// `bench`.
pub(super) const BENCH: Names = &[("total_length", "--canvas"), ("max_tokens", "--canvas"), ("prompt", "--canvas")];

/// Fields whose flags have other names in every command.
const FLAGS: [(&str, &str); 3] = [
    ("diffusion.proofreading.steps", "--proofread"),
    ("diffusion.proofreading.below", "--proofread-below"),
    ("diffusion.proofreading", "--proofread"),
];
/// Fields that messages name, beside the one at fault. Others are words of the language, too.
const NAMED: [&str; 8] =
    ["max_tokens", "total_length", "block_length", "cfg_scale", "top_k", "top_p", "min_p", "end_of_text"];

/// The flag that gives a field.
fn flag(field: &str, names: Names) -> String {
    if let Some((_, flag)) = names.iter().chain(&FLAGS).find(|(own, _)| *own == field) {
        return (*flag).to_owned();
    }
    let name = match field.strip_prefix("diffusion.") {
        None => field.to_owned(),
        Some(field) => match field.split_once('.') {
            Some(("remasking", knob)) => format!("{REMASK}{knob}"),
            Some(("cache", knob)) => format!("{CACHE}{knob}"),
            Some((_, knob)) => knob.to_owned(),
            None => field.to_owned(),
        },
    };
    format!("--{}", name.replace('_', "-"))
}

/// The error with the names that a command has.
pub(super) fn in_flags(rejected: Rejected, names: Names) -> Rejected {
    match rejected {
        Rejected::Invalid { param, message } => {
            Rejected::Invalid { message: reworded(&param, &message, names), param: flag(&param, names).into() }
        }
        Rejected::TooLong { param, message } => {
            Rejected::TooLong { message: reworded(&param, &message, names), param: flag(&param, names).into() }
        }
        Rejected::Full { .. } | Rejected::Draining | Rejected::GivenUp => rejected,
    }
}

/// The message of an error of knobs that were typed.
pub(super) fn of_knobs(kind: Kind, error: &KnobError) -> String {
    let field = match kind {
        Kind::Order | Kind::Pace => "diffusion.unmasking",
        Kind::Remasking => "diffusion.remasking",
        Kind::Cache => "diffusion.cache",
    };
    with_flags(&error.message, field, &[])
}

/// A message about `param` that begins with its flag.
fn reworded(param: &str, message: &str, names: Names) -> String {
    let own = flag(param, names);
    let last = param.rsplit('.').next().unwrap_or(param);
    let is_named = |rest: &&str| rest.starts_with([' ', ':']);
    let rest = [param, last].iter().find_map(|name| message.strip_prefix(name).filter(is_named));
    let rest = rest.map_or_else(|| format!(": {message}"), str::to_owned);
    format!("{own}{}", with_flags(&rest, param, names))
}

/// A message about `param` with flags in place of fields. What is in quotation marks is a value.
fn with_flags(message: &str, param: &str, names: Names) -> String {
    // as JSON has it
    let message = match names.iter().find(|(name, _)| *name == BLANK) {
        Some((quoted, flag)) => {
            message.replace("/v1/infill and \"blank\": ", "`remask infill` and --blank ").replace(quoted, flag)
        }
        None => message.to_owned(),
    };
    let unmasking = [Kind::Order, Kind::Pace].map(|kind| ("diffusion.unmasking", kind));
    let knobs: Vec<(&str, String)> = unmasking
        .into_iter()
        .chain([("diffusion.remasking", Kind::Remasking), ("diffusion.cache", Kind::Cache)])
        .filter(|(field, _)| param.starts_with(field))
        .flat_map(|(field, kind)| {
            knobs(kind).into_iter().map(move |knob| (knob.name, format!("{field}.{}", knob.name)))
        })
        .collect();
    let flag_of = |word: &str| {
        let knob = knobs.iter().find(|(name, _)| *name == word).map(|(_, field)| field.as_str());
        let is_field = word.starts_with("diffusion.") || NAMED.contains(&word);
        knob.or(is_field.then_some(word)).map(|field| flag(field, names))
    };
    let (mut words, mut word, mut is_value, mut is_escaped) = (String::new(), String::new(), false, false);
    let end_word = |words: &mut String, word: &mut String| {
        let bare = word.trim_end_matches('.');
        match flag_of(bare) {
            Some(flag) => *words += &(flag + &word[bare.len()..]),
            None => *words += word,
        }
        word.clear();
    };
    for letter in message.chars() {
        if !is_value && (letter.is_alphanumeric() || "_.-`".contains(letter)) {
            word.push(letter);
            continue;
        }
        end_word(&mut words, &mut word);
        words.push(letter);
        is_value ^= letter == '"' && !is_escaped;
        is_escaped = letter == '\\' && !is_escaped;
    }
    end_word(&mut words, &mut word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_flag() {
        for (param, message, words) in [
            ("blank", "blank is empty; say", "--blank is empty; say"),
            (
                "template",
                "the template holds no \"_\"; name another \"blank\"",
                "--prompt: the template holds no \"_\"; name another --blank",
            ),
            ("max_tokens", "max_tokens 9 does not fit", "--max-tokens 9 does not fit"),
            ("prompt", "the prompt is empty", "--prompt: the prompt is empty"),
            ("diffusion.remasking.budget", "budget is 0; give 1", "--remask-budget is 0; give 1"),
            (
                "diffusion.remasking.budget",
                "diffusion.remasking.budget: give less, or diffusion.steps",
                "--remask-budget: give less, or --steps",
            ),
            ("diffusion.block_length", "diffusion.block_length: with fewer", "--block-length: with fewer"),
            ("diffusion.unmasking.threshold", "threshold is 2", "--threshold is 2"),
            ("diffusion.proofreading.steps", "steps is 1; give 0", "--proofread is 1; give 0"),
            (
                "diffusion.unmasking.leap_near",
                "leap_near goes with leap; give that too",
                "--leap-near goes with --leap; give that too",
            ),
            (
                "diffusion.unmasking.factor",
                "factor does not go with threshold; give one of them",
                "--factor does not go with --threshold; give one of them",
            ),
            (
                "diffusion.remasking.below",
                "below goes with the policies \"quality\" and \"budget\"; with \"remdm\" give budget and window.",
                "--remask-below goes with the policies \"quality\" and \"budget\"; with \"remdm\" give \
                 --remask-budget and --remask-window.",
            ),
            ("prompt", "prompt: \"max_tokens\\\" top_k\" and top_k", "--prompt: \"max_tokens\\\" top_k\" and --top-k"),
        ] {
            assert_eq!(reworded(param, message, TEXT), words);
        }
    }

    #[test]
    fn a_command_has_names_of_its_own() {
        for (names, param, message, words) in [
            (IDS, "template", "token 0 of the template is 9", "--prompt-ids: token 0 of the template is 9"),
            (IDS, "prompt", "the prompt is empty", "--prompt-ids: the prompt is empty"),
            (
                FILE,
                "template",
                "the template holds no \"_\"; name another \"blank\"",
                "template: the template holds no \"_\"; name another \"blank\"",
            ),
            (FILE, "blank", "blank is empty; say", "blank is empty; say"),
            (FILE, "diffusion.unmasking.leap_near", "leap_near goes with leap", "--leap-near goes with --leap"),
            (
                SUDOKU,
                "diffusion.remasking.budget",
                "budget is 0; or diffusion.steps",
                "--erase-per-step is 0; or --steps",
            ),
            (SUDOKU, "diffusion.remasking", "remasking by quality needs a head", "--policies by quality needs a head"),
            (BENCH, "total_length", "total_length 9 must be above", "--canvas 9 must be above"),
        ] {
            assert_eq!(reworded(param, message, names), words);
        }
    }
}
