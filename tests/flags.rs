//! Flags and variables of the command line: values that cannot be meant are refused with what is
//! allowed, empty variables count as unset, and help, version and completions.

mod common;

use common::process::Process;
use std::process::{Command, Output};

fn remask(args: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_remask")).args(args).envs(variables.iter().copied()).output().unwrap()
}

#[track_caller]
fn printed(args: &[&str], variables: &[(&str, &str)]) -> String {
    let output = remask(args, variables);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = remask(args, variables);
    assert!(!output.status.success(), "{args:?} {variables:?} is taken");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn values_that_cannot_be_meant_are_refused_with_what_is_allowed() {
    let train = ["train", "base", "--task", "sudoku", "--out", "nowhere", "--steps", "1", "--learning-rate", "1e-3"];
    for (command, flag, value, allowed) in [
        (&["serve"][..], "--max-model-len", "0", "give a whole number from 1 to 1048576"),
        (&["serve"], "--max-batch-tokens", "0", "give a whole number from 1 to 16777216"),
        (&["serve"], "--max-concurrent-requests", "0", "give a whole number from 1 to 65536"),
        (&["serve"], "--max-queue", "99999999999", "give a whole number from 0 to 1048576"),
        (&["serve"], "--payload-limit", "0", "give a whole number from 1 to 1073741824"),
        (&["serve"], "--request-timeout", "0", "give a whole number from 1 to 604800"),
        (&["serve"], "--request-timeout", "5s", "give a whole number from 1 to 604800"),
        (&["serve"], "--payload-limit", "2MB", "give a whole number from 1 to 1073741824"),
        (&["serve"], "--max-requests-per-key", "0", "give a whole number from 1 to 1048576"),
        (&["serve"], "--hf-token", "a b", "a token without blanks"),
        (&["generate"], "--cfg-scale", "101", "give a number from 0 to 100"),
        (&["generate"], "--temperature", "-0.1", "give a finite number from 0 upwards"),
        (&["generate"], "--remask-below", "1.5", "give a number from 0 to 1"),
        (&["generate"], "--proofread", "1", "give on, off, or a whole number of steps from 2 to 65536"),
        (&["eval", "sudoku"], "--proofread", "some", "give on, off, or a whole number of steps from 2 to 65536"),
        (&["generate"], "--cache-suffix-window", "8", "goes with --cache; give that too"),
        (&["infill", "--preset", "fast"], "--remask-budget", "3", "goes with --remasking; give that too"),
        (&["serve"], "--drain-timeout", "18446744073709551615", "give a whole number from 0 to 604800"),
        (&["serve"], "--resume-grace", "18446744073709551615", "give a whole number from 0 to 604800"),
        (&["serve"], "--port", "65536", "give a whole number from 0 to 65535"),
        (&["serve"], "--brown-out", "nan", "a number above 0 and below 1"),
        (&["serve"], "--served-model-name", "", "a value is required"),
        (&["serve"], "--model-id", "", "a value is required"),
        (&["serve"], "--cors-allow-origin", "foo", "give SCHEME://HOST"),
        (&["serve"], "--cors-allow-origin", "https://", "give SCHEME://HOST"),
        (&["serve"], "--cors-allow-origin", "https://example.org/", "without a path"),
        (&["serve"], "--cors-allow-origin", "https://example.org/page", "without a path"),
        (&["serve"], "--cors-allow-origin", "ftp://example.org", "give SCHEME://HOST"),
        (&["health"], "--timeout", "0", "give a whole number from 1 to 3600"),
        (&["bench"], "--repeat", "0", "give a whole number from 1 to 1000"),
        (&["bench"], "--streams", "0", "give a whole number from 1 to 4096"),
        (&["bench"], "--canvas", "0", "give a whole number from 1 to 1048576"),
        (&train, "--batch", "0", "give a whole number from 1 to 1048576"),
        (&train, "--layers", "2147483648", "give a whole number from 1 to 1024"),
        (&train, "--puzzles", "nan", "from 0 to 1"),
        (&train, "--weight-decay", "-1", "from 0 to 10"),
        (&train, "--ema", "1", "from 0 to 0.9999999"),
    ] {
        let (code, error) = refused(&[command, &[&format!("{flag}={value}")]].concat(), &[]);
        assert_eq!(code, Some(2), "{flag} {value}: {error}");
        assert!(error.contains(flag) && error.contains(allowed), "{flag} {value}: {error}");
    }
}

#[test]
fn an_error_of_a_request_names_the_flag_that_was_typed() {
    let long = "x".repeat(5000);
    let toy = |more: &[&'static str]| [&["generate", "--model-id", "toy", "--prompt", "a"], more].concat();
    for (args, words) in [
        (vec!["infill", "--prompt", "1", "--blank", ""], "remask: --blank is empty; say what stands for one"),
        (
            vec!["infill", "--prompt", "1"],
            "remask: --prompt: the template holds no \".\"; mark each cell to fill with it, or name another --blank",
        ),
        (vec!["infill", "--prompt", "1", "--blank", &long], "holds no \"xxx"),
        (
            vec!["infill", "--prompt-ids", "9999,_"],
            "remask: --prompt-ids: token 0 of the template is 9999; ids are below",
        ),
        (vec!["infill", "--prompt-ids", &long], "is no token id; give numbers"),
        (toy(&["--max-tokens", "5000"]), "remask: --max-tokens 5000 does not fit"),
        (toy(&["--total-length", "1"]), "remask: --total-length 1 must be above"),
        (toy(&["--stop", ""]), "remask: --stop has an empty string"),
        (
            toy(&["--block-length", "1", "--steps", "2", "--max-tokens", "4"]),
            "remask: --steps: 2 steps are too few for 4 blocks",
        ),
        (vec!["generate", "--model-id", "toy", "--prompt", ""], "remask: --prompt: the prompt is empty"),
    ] {
        let (code, error) = refused(&args, &[]);
        assert!(error.contains(words) && error.len() < 500, "{args:.50?}: {error} lacks {words:?}");
        assert_eq!(code, Some(1), "{error}");
    }
}

/// The words of an error in which each field has its flag.
#[test]
fn an_error_of_knobs_names_flags_of_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("texts.jsonl");
    std::fs::write(&data, "{\"template\": \"a<blank>\", \"text\": \"ab\"}\n").unwrap();
    let data = data.to_str().unwrap();
    let commands = [
        vec!["generate", "--model-id", "toy", "--prompt", "a", "--max-tokens", "4"],
        vec!["infill", "--model-id", "toy", "--prompt", "a<blank:4>"],
        vec!["eval", "infill", "--model-id", "toy", "--data", data],
    ];
    let rows: [(&[&str], &str); 7] = [
        (&["--leap-near", "0.5"], "--leap-near goes with --leap; give that too"),
        (&["--hierarchical-all", "0.5"], "--hierarchical-all goes with --hierarchical; give that too"),
        (&["--threshold", "0.5", "--factor", "1"], "--factor does not go with --threshold; give one of them"),
        (
            &["--remasking", "remdm", "--remask-below", "0.5"],
            "with \"remdm\" give --remask-budget, --remask-window and --remask-hold",
        ),
        (
            &["--remasking", "off", "--remask-window", "0,0.5"],
            "--remask-window goes with the policies \"quality\", \"exact\"",
        ),
        (
            &["--remasking", "t2m", "--remask-eta", "0.5"],
            "--remask-eta goes with the policies \"remdm_cap\" and \"remdm_rescale\"; ",
        ),
        (&["--block-length", "1", "--steps", "2"], "--steps: 2 steps are too few for 4 blocks"),
    ];
    for command in &commands {
        let names: Vec<String> = known(&command[..if command[0] == "eval" { 2 } else { 1 }]);
        for (more, words) in &rows {
            if command[0] == "eval" && words.contains("blocks") {
                continue; // its text has one blank
            }
            let (code, error) = refused(&[command, *more].concat(), &[]);
            assert_eq!(code, Some(1), "{command:?} {more:?}: {error}");
            assert!(error.contains(words), "{command:?}: {error} lacks {words}");
            for flag in error.split([' ', ',', ';', ':', '.', '\n']).filter(|word| word.starts_with("--")) {
                assert!(names.contains(&flag[2..].to_owned()), "{command:?} has no {flag}: {error}");
            }
        }
    }
    let far = refused(&["bench", "--model-id", "toy", "--canvas", "5000"], &[]).1;
    assert!(far.contains("--canvas"), "{far}");
    let window = |span: &str| remask(&[&commands[1][..], &["--remask-window", span, "--json"]].concat(), &[]);
    assert!(window("0.5,1").status.success());
    for span in ["0.5", "0.5,0.2", "0,2", "a,b", "0,nan"] {
        let output = window(span);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("--remask-window") && error.contains("give two numbers from 0 to 1"), "{span}: {error}");
    }
}

/// The flags of a command.
fn known(words: &[&str]) -> Vec<String> {
    let mut command = remask::cmd::command();
    for word in words {
        command = command.find_subcommand(word).unwrap().clone();
    }
    command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

/// Every flag of every command, with the words of its command.
fn flags(command: &clap::Command, words: &[String]) -> Vec<(Vec<String>, String)> {
    let own = command.get_arguments().filter(|arg| arg.get_action().takes_values());
    let own = own.filter_map(|arg| Some((words.to_vec(), arg.get_long()?.to_owned())));
    let inner = command.get_subcommands().flat_map(|command| {
        let words: Vec<String> = words.iter().cloned().chain([command.get_name().to_owned()]).collect();
        flags(command, &words)
    });
    own.chain(inner).collect()
}

/// What is said of a value that is refused as such; `None` where it is taken.
fn said(words: &[String], flag: &str, values: &[&str]) -> Option<String> {
    let line = ["remask"].into_iter().chain(words.iter().map(String::as_str));
    let line = line.chain([flag]).chain(values.iter().copied());
    let error = remask::cmd::command().try_get_matches_from(line).err()?;
    let is_value =
        matches!(error.kind(), clap::error::ErrorKind::ValueValidation | clap::error::ErrorKind::InvalidValue);
    is_value.then(|| error.to_string())
}

#[test]
fn every_number_is_refused_with_its_range_when_it_is_none_or_outside() {
    let mut numbers = 0;
    for (words, flag) in flags(&remask::cmd::command(), &[]) {
        let flag = format!("--{flag}");
        if ["--judged", "--head"].contains(&flag.as_str()) {
            continue; // lists of ids and of heads, whose own errors say so
        }
        let twice = ["--betas", "--ratio"].contains(&flag.as_str());
        let of = |value| if twice { vec![value, "0.5"] } else { vec![value] };
        let taken = ["1", "0.5"].into_iter().any(|value| said(&words, &flag, &of(value)).is_none());
        if !taken || said(&words, &flag, &of("ten")).is_none() {
            continue; // one of some words, or a text
        }
        numbers += 1;
        let below = if flag.ends_with("-penalty") { ["-3", "-2.5"] } else { ["-1", "-0.5"] };
        let others = ["ten", "1s", "2MB", "1 000", "1e999", "nan", "99999999999999999999999999999999999999999"];
        for value in below.into_iter().chain(others) {
            let told = said(&words, &flag, &of(value)).unwrap_or_else(|| panic!("{words:?} {flag} {value} is taken"));
            let is_clear = [
                "give a whole number from ",
                "give a number from ",
                "give a finite number from ",
                "give a number above ",
            ]
            .iter()
            .any(|words| told.contains(words));
            assert!(is_clear && told.contains(&flag) && told.contains(value), "{words:?} {flag} {value}: {told}");
        }
    }
    assert!(numbers > 60, "{numbers}");
}

#[tokio::test]
async fn a_host_may_be_a_name_or_an_ipv6_address_with_or_without_brackets() {
    for host in ["127.0.0.1", "localhost", "::1", "[::1]", "0.0.0.0", "::"] {
        if host.contains(':') && std::net::TcpListener::bind("[::1]:0").is_err() {
            continue; // this machine has no IPv6
        }
        let server = Process::serve(&["--model-id", "toy", "--hostname", host]);
        let port: u16 = server.address().rsplit_once(':').unwrap().1.parse().unwrap();
        let address = match host {
            "localhost" | "127.0.0.1" | "0.0.0.0" => format!("127.0.0.1:{port}"),
            _ => format!("[::1]:{port}"),
        };
        let answer = reqwest::get(format!("http://{address}/health")).await.unwrap();
        assert_eq!(answer.status(), 200, "{host}");
    }
    for host in ["[::1", "::1]", "http://127.0.0.1", "127.0.0.1:8080", "[127.0.0.1"] {
        let (code, error) = refused(&["serve", "--model-id", "toy", "--port", "0", "--hostname", host], &[]);
        assert!(code == Some(1) && error.contains(&format!("--hostname is {host:?}")), "{host}: {error}");
    }
}

/// Runs the example of a server's greeting in a shell; returns the answer.
fn example(server: &Process, key: Option<&str>) -> String {
    let lines = server.until_said("curl");
    let line = lines.last().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", &line.replace("curl ", "curl -sS --fail-with-body --noproxy '*' ")]);
    let output = shell.envs(key.map(|key| ("REMASK_API_KEY", key))).output().unwrap();
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}: {answer} {}", String::from_utf8_lossy(&output.stderr));
    answer
}

#[test]
fn the_example_of_the_greeting_works() {
    if Command::new("curl").arg("--version").output().is_err() {
        return;
    }
    for (flags, key, expected) in [
        (&["--hostname", "0.0.0.0"][..], None, "534678912"),
        (&["--served-model-name", "other"], None, "534678912"),
        (&["--model-id", "toy", "--served-model-name", "sudoku"], None, "text_completion"),
        (&["--model-id", "toy", "--served-model-name", "my model/7"], None, "text_completion"),
        (&["--model-id", "toy", "--api-key", "k3y"], Some("k3y"), "text_completion"),
        (&["--model-id", "toy", "--hostname", "localhost", "--grpc-port", "0"], None, "text_completion"),
    ] {
        let answer = example(&Process::serve(flags), key);
        assert!(answer.contains(expected), "{flags:?}: {answer}");
    }
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        let answer = example(&Process::serve(&["--model-id", "toy", "--hostname", "::"]), None);
        assert!(answer.contains("text_completion"), "{answer}");
    }
}

#[test]
fn flags_that_do_nothing_are_refused_and_variables_are_told() {
    let (code, error) = refused(&["infill", "--model-id", "toy", "--revision", "v1", "--prompt", "a"], &[]);
    assert_eq!(code, Some(2));
    assert!(error.contains("--revision does nothing here: it is for models of the hub"), "{error}");
    let (code, error) = refused(&["serve", "--load-format", "dummy"], &[]);
    assert!(code == Some(2) && error.contains("--load-format does nothing here: the model is built in"), "{error}");
    let output = remask(&["infill", "--model-id", "toy", "--prompt", "a<blank>"], &[("REMASK_REVISION", "v1")]);
    let warning = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && warning.matches("--revision does nothing here").count() == 1, "{warning}");
}

#[test]
fn a_host_that_does_not_exist_is_told_as_what_it_is() {
    let (code, error) = refused(&["serve", "--model-id", "toy", "--port", "0", "--hostname", "300.1.1.1"], &[]);
    assert_eq!(code, Some(1));
    assert!(error.contains("--hostname is \"300.1.1.1\", which is no IP address and no name that resolves"), "{error}");
}

#[test]
fn empty_variables_count_as_unset() {
    let unset = ["REMASK_PORT", "REMASK_MODEL_ID", "REMASK_MAX_MODEL_LEN", "REMASK_API_KEY", "RUST_LOG"];
    let empty = unset.map(|name| (name, ""));
    let (_, error) = refused(&["health", "--url", "http://127.0.0.1:9"], &empty);
    assert!(error.contains("http://127.0.0.1:9/health does not answer"), "{error}");
    let text = printed(
        &["generate", "--prompt", "Once", "--max-tokens", "4"],
        &[("REMASK_MODEL_ID", "toy"), ("HF_TOKEN", "")],
    );
    assert!(!text.is_empty());
    let (_, error) = refused(&["health"], &[("REMASK_PORT", "x")]);
    assert!(error.contains("invalid value 'x'"), "others are read: {error}");
}

#[test]
fn help_has_headings_and_the_version_its_commit() {
    let help = printed(&["serve", "--help"], &[]);
    let headings = ["Model:", "Listening:", "Load and limits:", "Access:", "Logs, metrics and traces:"];
    for heading in headings {
        assert!(help.lines().any(|line| line == heading), "{heading} in {help}");
    }
    let options = help.split("Options:").nth(1).unwrap().split("\n\n").filter(|part| part.contains("--")).count();
    assert!(options > 0, "{help}");
    let version = printed(&["--version"], &[]);
    let version = version.trim().strip_prefix(concat!("remask ", env!("CARGO_PKG_VERSION"))).unwrap();
    let commit = version.strip_prefix(" (").and_then(|rest| rest.strip_suffix(')'));
    let is_commit = |commit: &str| commit.len() == 12 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(version.is_empty() || commit.is_some_and(is_commit), "{version}");
}

#[test]
fn every_shell_has_completions() {
    for (shell, words) in [("bash", "complete -F _remask"), ("zsh", "#compdef remask"), ("fish", "complete -c remask")]
    {
        let script = printed(&["completions", shell], &[]);
        assert!(script.contains(words) && script.contains("max-batch-tokens"), "{shell}: {script:.200}");
    }
}

/// Sources the completions in a shell; `None` where this machine does not have it.
fn sourced(shell: &str, arguments: &[&str], commands: &str) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    std::fs::write(&script, printed(&["completions", shell], &[])).unwrap();
    let commands = commands.replace("SCRIPT", script.to_str().unwrap());
    let output = Command::new(shell).args(arguments).args(["-c", &commands]).output().ok()?;
    assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn completions_work_in_the_shells_of_this_machine() {
    let bash = "source SCRIPT; COMP_WORDS=(remask serve --max-b); COMP_CWORD=2; _remask remask --max-b serve; \
                echo ${COMPREPLY[@]}; COMP_WORDS=(remask ser); COMP_CWORD=1; _remask remask ser remask; echo ${COMPREPLY[@]}";
    if let Some(completed) = sourced("bash", &["--norc"], bash) {
        assert_eq!(completed, "--max-batch-tokens\nserve\n");
    }
    let fish = "source SCRIPT; complete -C 'remask serve --max-b'; complete -C 'remask ser'";
    if let Some(completed) = sourced("fish", &["--no-config"], fish) {
        assert!(completed.starts_with("--max-batch-tokens") && completed.contains("\nserve\t"), "{completed}");
    }
    // the arguments of zsh's own completion need a terminal
    let zsh = "autoload -Uz compinit && compinit -u -D; source SCRIPT; print ${_comps[remask]}";
    if let Some(completed) = sourced("zsh", &["-f"], zsh) {
        assert_eq!(completed, "_remask\n");
    }
}
