//! The names that errors of the engine have for what a request gives: flags of the command line in
//! place of fields of the API.

use crate::engine::Rejected;

/// Fields whose flags have other names.
const FLAGS: [(&str, &str); 6] = [
    ("diffusion.proofreading.steps", "--proofread"),
    ("diffusion.proofreading.below", "--proofread-below"),
    ("diffusion.proofreading", "--proofread"),
    ("diffusion.remasking", "--remasking"),
    ("diffusion.unmasking", "--unmasking"),
    ("template", "--prompt"),
];
/// Fields that messages of the engine name, beside the one at fault.
const NAMED: [&str; 6] =
    ["max_tokens", "total_length", "block_length", "cfg_scale", "diffusion.steps", "diffusion.block_length"];

/// The flag that gives a field.
fn flag(field: &str) -> String {
    if let Some((_, flag)) = FLAGS.iter().find(|(own, _)| *own == field) {
        return (*flag).to_owned();
    }
    let name = match field.strip_prefix("diffusion.") {
        None => field.to_owned(),
        Some(field) => match field.split_once('.') {
            Some(("remasking", knob)) => format!("remask-{knob}"),
            Some((_, knob)) => knob.to_owned(),
            None => field.to_owned(),
        },
    };
    format!("--{}", name.replace('_', "-"))
}

/// The error with the flags of `generate` and `infill`.
pub(super) fn in_flags(rejected: Rejected) -> Rejected {
    match rejected {
        Rejected::Invalid { param, message } => {
            Rejected::Invalid { message: reworded(&param, &message), param: flag(&param).into() }
        }
        Rejected::TooLong { param, message } => {
            Rejected::TooLong { message: reworded(&param, &message), param: flag(&param).into() }
        }
        Rejected::Full { .. } | Rejected::Draining | Rejected::GivenUp => rejected,
    }
}

/// A message about `param` that begins with its flag.
fn reworded(param: &str, message: &str) -> String {
    let own = flag(param);
    let last = param.rsplit('.').next().unwrap_or(param);
    let is_named = |rest: &&str| rest.starts_with([' ', ':']);
    let rest = [param, last].iter().find_map(|name| message.strip_prefix(name).filter(is_named));
    let mut words = rest.map_or_else(|| format!("{own}: {message}"), |rest| format!("{own}{rest}"));
    for name in NAMED {
        words = words.replace(name, &flag(name));
    }
    // as JSON has it
    words.replace("/v1/infill and \"blank\": ", "`remask infill` and --blank ").replace("\"blank\"", "--blank")
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
        ] {
            assert_eq!(reworded(param, message), words);
        }
    }
}
