//! Flags and variables of the command line: values that cannot be meant are refused with what is
//! allowed, empty variables count as unset, and help, version and completions.

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
        (&["serve"][..], "--max-model-len", "0", "1..=1048576"),
        (&["serve"], "--max-batch-tokens", "0", "1..=16777216"),
        (&["serve"], "--max-concurrent-requests", "0", "1..=65536"),
        (&["serve"], "--max-queue", "99999999999", "0..=1048576"),
        (&["serve"], "--payload-limit", "0", "1..=1073741824"),
        (&["serve"], "--request-timeout", "0", "non-zero"),
        (&["serve"], "--drain-timeout", "18446744073709551615", "0..=604800"),
        (&["serve"], "--resume-grace", "18446744073709551615", "0..=604800"),
        (&["serve"], "--port", "65536", "0..=65535"),
        (&["serve"], "--brown-out", "nan", "a number above 0 and below 1"),
        (&["serve"], "--served-model-name", "", "a value is required"),
        (&["serve"], "--model-id", "", "a value is required"),
        (&["serve"], "--cors-allow-origin", "foo", "give SCHEME://HOST"),
        (&["serve"], "--cors-allow-origin", "https://", "give SCHEME://HOST"),
        (&["serve"], "--cors-allow-origin", "https://example.org/", "without a path"),
        (&["serve"], "--cors-allow-origin", "https://example.org/page", "without a path"),
        (&["serve"], "--cors-allow-origin", "ftp://example.org", "give SCHEME://HOST"),
        (&["health"], "--timeout", "0", "1..=3600"),
        (&["bench"], "--repeat", "0", "1..=1000"),
        (&["bench"], "--streams", "0", "1..=4096"),
        (&["bench"], "--canvas", "0", "1..=1048576"),
        (&train, "--batch", "0", "1..=1048576"),
        (&train, "--layers", "2147483648", "1..=1024"),
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
