//! Flags that do nothing beside another flag. On the command line they are refused; as environment
//! variables, which several commands and models may share, they get a warning.

use super::environment::UsageError;
use super::model::{Place, place, split};
use super::print::say;
use super::words::Proofread;
use crate::model::{Device, Devices};
use clap::ArgMatches;
use clap::parser::ValueSource;

/// Flags that do nothing in a situation.
struct Rule {
    /// The command, with its subcommand; any where empty.
    command: &'static str,
    flags: &'static [&'static str],
    /// Whether they do nothing beside the others.
    are_idle: fn(&ArgMatches) -> bool,
    /// Which flags go with what.
    why: &'static str,
}

const RULES: [Rule; 24] = [
    Rule {
        command: "bench",
        flags: &[
            "model_id",
            "revision",
            "hf_token",
            "load_format",
            "prism_head",
            "adapter",
            "allow_foreign_head",
            "cache_bytes",
            "dtype",
            "cuda_graphs",
            "device",
        ],
        are_idle: |matches| matches.get_flag("dummy_100m"),
        why: "--dummy-100m measures a model of its own on the CPU",
    },
    Rule {
        command: "",
        flags: &["top_k", "top_p", "min_p"],
        are_idle: |matches| matches.try_get_one::<f32>("temperature").ok().flatten() == Some(&0.0),
        why: "at temperature 0 the most probable token is taken; give a --temperature above 0",
    },
    Rule {
        command: "",
        flags: &["revision", "hf_token"],
        are_idle: |matches| are_models(matches, |model| place(model) != Place::Hub),
        why: "it is for models of the hub, and --model-id is none",
    },
    Rule {
        command: "",
        flags: &["allow_foreign_head"],
        are_idle: |matches| are_models(matches, is_built_in),
        why: "the model is built in with its head",
    },
    Rule {
        command: "",
        flags: &["load_format"],
        are_idle: |matches| are_models(matches, is_built_in) && is_word(matches, "load_format", "dummy"),
        why: "the model is built in with its weights; dummy weights are for a directory with a config.json",
    },
    Rule {
        command: "",
        flags: &["cache_bytes"],
        are_idle: is_toy,
        why: "the model toy has no weights, and keeps no keys and values",
    },
    Rule {
        command: "score",
        flags: &["cache_bytes"],
        are_idle: |_| true,
        why: "a score takes one pass, which keeps nothing",
    },
    Rule {
        command: "repair",
        flags: &["cache_bytes"],
        are_idle: |_| true,
        why: "a repair has one block, the whole text, and no cache",
    },
    Rule {
        command: "",
        flags: &["dtype"],
        are_idle: |matches| is_toy(matches) && is_word(matches, "dtype", "bf16"),
        why: "the model toy has no weights, and computes in f32",
    },
    Rule {
        command: "",
        flags: &["cuda_graphs"],
        are_idle: |matches| {
            is_word(matches, "cuda_graphs", "auto")
                && (is_toy(matches) || are_devices(matches, |device| device == Device::Cpu))
        },
        why: "graphs are recorded on a GPU",
    },
    Rule {
        command: "",
        flags: &["device"],
        are_idle: |matches| {
            is_toy(matches) && !are_devices(matches, |device| matches!(device, Device::Auto | Device::Cpu))
        },
        why: "the model toy has no weights, and computes on the CPU",
    },
    Rule {
        command: "",
        flags: &["allow_foreign_head"],
        are_idle: |matches| is_word(matches, "load_format", "dummy"),
        why: "--load-format dummy makes up a head, and reads none",
    },
    Rule {
        command: "infill",
        flags: &["blank"],
        are_idle: |matches| is_given(matches, "prompt_ids"),
        why: "it marks blanks of --prompt; in --prompt-ids, `_` is a blank",
    },
    Rule {
        command: "health",
        flags: &["port"],
        are_idle: |matches| is_given(matches, "url"),
        why: "--url has the port",
    },
    Rule {
        command: "eval sudoku",
        flags: &["blanks", "split"],
        are_idle: |matches| is_given(matches, "puzzles"),
        why: "it is for generated puzzles, and --puzzles names a file",
    },
    Rule {
        command: "eval sudoku",
        flags: &["proofread_below", "proofread_temperature"],
        are_idle: |matches| matches.get_one("proofread") == Some(&Proofread::OFF),
        why: "it is for proofreading; give --proofread as well",
    },
    Rule {
        command: "train base",
        flags: &["puzzles"],
        are_idle: |matches| is_given(matches, "data"),
        why: "it is for --task sudoku",
    },
    Rule {
        command: "train base",
        flags: &["length", "packed", "unpadded"],
        are_idle: |matches| is_given(matches, "task"),
        why: "it is for --data",
    },
    Rule {
        command: "train prism",
        flags: &["puzzles"],
        are_idle: |matches| is_given(matches, "data"),
        why: "it is for --task sudoku",
    },
    Rule {
        command: "train prism",
        flags: &["length", "packed", "unpadded"],
        are_idle: |matches| is_given(matches, "task"),
        why: "it is for --data",
    },
    Rule {
        command: "train prism",
        flags: &["rank", "alpha", "targets"],
        are_idle: |matches| !is_word(matches, "learns", "lora"),
        why: "it is for adapters; give --learns lora as well",
    },
    Rule {
        command: "train prism",
        flags: &["dtype"],
        are_idle: |matches| !is_word(matches, "learns", "head"),
        why: "a model that learns is computed in f32; give --learns head as well",
    },
    Rule {
        command: "train prism",
        flags: &["head"],
        are_idle: |matches| !is_word(matches, "learns", "head"),
        why: "beside a model that learns there is one head, which reads its last states; give --learns head as well",
    },
    Rule {
        command: "train prism",
        flags: &["lambda"],
        are_idle: |matches| is_word(matches, "learns", "head"),
        why: "it weighs the denoising loss, and with --learns head the model does not learn",
    },
];

fn is_given(matches: &ArgMatches, flag: &str) -> bool {
    matches!(matches.value_source(flag), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// Whether the value of a flag is this word; false for commands without the flag.
fn is_word(matches: &ArgMatches, flag: &str, word: &str) -> bool {
    matches.try_get_raw(flag).ok().flatten().is_some_and(|mut values| values.any(|value| value == word))
}

/// Whether this is true of all devices; false for commands that know none, or only one.
fn are_devices(matches: &ArgMatches, is_it: fn(Device) -> bool) -> bool {
    let devices = matches.try_get_one::<Devices>("device").ok().flatten();
    devices.is_some_and(|devices| devices.all().iter().copied().all(is_it))
}

/// Whether this is true of all models; false for commands that take a directory only.
fn are_models(matches: &ArgMatches, is_it: fn(&str) -> bool) -> bool {
    let models = matches.try_get_many::<String>("model_id").ok().flatten();
    models.is_some_and(|mut models| models.all(|given| split(given).into_iter().all(is_it)))
}

fn is_built_in(model: &str) -> bool {
    place(model) == Place::BuiltIn
}

fn is_toy(matches: &ArgMatches) -> bool {
    are_models(matches, |model| model == "toy")
}

/// Warns about variables that do nothing.
///
/// # Errors
/// The first flag on the command line that does nothing.
pub(super) fn check(matches: &ArgMatches) -> Result<(), UsageError> {
    let (mut names, mut matches) = (Vec::new(), matches);
    while let Some((name, inner)) = matches.subcommand() {
        names.push(name);
        matches = inner;
    }
    let command = names.join(" ");
    for rule in RULES.iter().filter(|rule| rule.command.is_empty() || rule.command == command) {
        for flag in rule.flags.iter().filter(|flag| matches.try_contains_id(flag).unwrap_or(false)) {
            let source = matches.value_source(flag).filter(|_| (rule.are_idle)(matches));
            let message = format!("--{} does nothing here: {}", flag.replace('_', "-"), rule.why);
            match source {
                Some(ValueSource::CommandLine) => return Err(UsageError(format!("{message}; leave it out"))),
                // a token is often set for all programs of a machine
                Some(ValueSource::EnvVariable) if *flag != "hf_token" => say(format_args!("remask: {message}")),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::command;

    fn checked(line: &str) -> Result<(), String> {
        let matches = command().try_get_matches_from(line.split(' ')).map_err(|error| format!("unusable: {error}"))?;
        check(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_that_do_nothing_are_refused() {
        for (line, flag) in [
            ("remask --revision main", "--revision"),
            ("remask serve --revision v1", "--revision"),
            ("remask serve --model-id toy --revision v1", "--revision"),
            ("remask serve --model-id src --revision v1", "--revision"),
            ("remask serve --model-id a.gguf --revision v1", "--revision"),
            ("remask serve --hf-token t", "--hf-token"),
            ("remask score --text a --cache-bytes 1MiB", "--cache-bytes"),
            ("remask repair --text a --cache-bytes 1MiB", "--cache-bytes"),
            ("remask serve --model-id toy,sudoku --allow-foreign-head", "--allow-foreign-head"),
            ("remask serve --load-format dummy", "--load-format"),
            ("remask generate --prompt a --model-id toy --load-format dummy", "--load-format"),
            ("remask serve --allow-foreign-head", "--allow-foreign-head"),
            ("remask serve --model-id src --load-format dummy --allow-foreign-head", "--allow-foreign-head"),
            ("remask read --json --prompt-ids 1 --model-id toy --dtype bf16", "--dtype"),
            ("remask serve --model-id toy --device cuda", "--device"),
            ("remask serve --model-id toy --device cuda:0,1", "--device"),
            ("remask infill --prompt-ids 1,_ --blank x", "--blank"),
            ("remask health --url http://h --port 1", "--port"),
            ("remask bench --dummy-100m --model-id toy", "--model-id"),
            ("remask bench --dummy-100m --device cuda", "--device"),
            ("remask bench --top-p 0.9", "--top-p"),
            ("remask bench --top-k 50 --temperature 0", "--top-k"),
            ("remask generate --prompt a --min-p 0.05", "--min-p"),
            ("remask infill --prompt a<blank> --top-p 0.9", "--top-p"),
            ("remask quantize --model-id src --out a.gguf --revision v1", "--revision"),
            ("remask eval sudoku --puzzles f --blanks 3", "--blanks"),
            ("remask eval sudoku --proofread-below 0.3", "--proofread-below"),
            ("remask train base --out o --steps 1 --learning-rate 1 --task sudoku --length 8", "--length"),
            ("remask train base --out o --steps 1 --learning-rate 1 --data f --model-id d --puzzles 1", "--puzzles"),
            ("remask train prism --out o --steps 1 --learning-rate 1 --task sudoku --model-id d --rank 8", "--rank"),
            ("remask train prism --out o --steps 1 --learning-rate 1 --data f --model-id d --dtype f32", "--dtype"),
            ("remask train prism --out o --steps 1 --learning-rate 1 --data f --model-id d --head 8,8@1", "--head"),
            (
                "remask train prism --out o --steps 1 --learning-rate 1 --data f --model-id d --learns head --lambda 1",
                "--lambda",
            ),
        ] {
            let error = checked(line).unwrap_err();
            assert!(error.starts_with(&format!("{flag} does nothing here: ")), "{line}: {error}");
        }
    }

    #[test]
    fn flags_that_do_something_are_taken() {
        for line in [
            "remask",
            "remask serve --model-id owner/name --revision v1 --hf-token t",
            "remask serve --model-id src --load-format dummy --dtype f32 --device cpu",
            "remask serve --model-id src --allow-foreign-head",
            "remask serve --dtype f32 --device cpu --load-format auto",
            "remask serve --model-id toy --dtype f32 --device cpu",
            "remask serve --model-id toy --device cpu,cpu",
            "remask serve --model-id toy --model-id sudoku --dtype bf16",
            "remask serve --model-id toy,owner/name --hf-token t",
            "remask bench --model-id toy",
            "remask bench --dummy-100m --steps 3",
            "remask bench --temperature 1 --top-k 50 --top-p 0.9 --min-p 0.05",
            "remask generate --prompt a --temperature 1 --min-p 0.05 --top-p 0 --top-k 5",
            "remask infill --prompt a --blank x",
            "remask health --port 1",
            "remask eval sudoku --blanks 3 --proofread 4 --proofread-below 0.3",
            "remask train base --out o --steps 1 --learning-rate 1 --data f --model-id d --length 8",
            "remask train prism --out o --steps 1 --learning-rate 1 --task sudoku --model-id d --learns lora --rank 8",
            "remask train prism --out o --steps 1 --learning-rate 1 --data f --model-id d --learns head --dtype f32",
            "remask train prism --out o --steps 1 --learning-rate 1 --data f --model-id d --learns head --head 8,8@1 --head 9",
        ] {
            assert_eq!(checked(line), Ok(()), "{line}");
        }
    }
}
