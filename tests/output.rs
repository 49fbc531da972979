//! Output that nobody reads or that does not fit: every command ends quietly when its reader has
//! gone, and with an error when a disk is full. No command panics.
#![cfg(target_os = "linux")] // which has a device that is always full

use std::process::{Command, Output, Stdio};

const QUICK: [&[&str]; 11] = [
    &["--help"],
    &["serve", "--help"],
    &["--version"],
    &["completions", "bash"],
    &["infill", "--model-id", "toy", "--prompt", "a<blank:9>b"],
    &["generate", "--model-id", "toy", "--prompt", "Once", "--max-tokens", "8", "--watch"],
    &["generate", "--model-id", "toy", "--prompt", "Once", "--max-tokens", "8", "--json"],
    &["score", "--text", "534"],
    &["repair", "--text", "534", "--watch"],
    &["read", "--model-id", "toy", "--prompt-ids", "1,2", "--json"],
    &["bench", "--model-id", "toy", "--steps", "1", "--streams", "1", "--repeat", "1"],
];
const SLOWER: [&[&str]; 3] = [
    &["eval", "sudoku", "--count", "1", "--policies", "off", "--steps", "1"],
    &["eval", "calibration", "--count", "1", "--json"],
    &["eval", "calibration", "--count", "1"],
];

fn run(args: &[&str], out: impl Into<Stdio>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
    let child = command.args(args).stdin(Stdio::null()).stdout(out).stderr(Stdio::piped()).spawn().unwrap();
    child.wait_with_output().unwrap()
}

/// The writing end of a pipe that nobody reads.
fn closed() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

fn full() -> std::fs::File {
    std::fs::File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn a_closed_pipe_ends_every_command_quietly() {
    for args in QUICK.iter().chain(&SLOWER) {
        let Output { status, stderr, .. } = run(args, closed());
        assert_eq!(String::from_utf8_lossy(&stderr), "", "{args:?}");
        assert_eq!(status.code(), Some(141), "{args:?}");
    }
}

#[test]
fn a_full_disk_is_an_error_of_every_command() {
    for args in QUICK.iter().chain(&SLOWER) {
        let Output { status, stderr, .. } = run(args, full());
        let error = String::from_utf8_lossy(&stderr);
        assert!(error.contains("cannot write to standard output: No space left on device"), "{args:?}: {error}");
        assert_eq!(error.matches("No space left on device").count(), 1, "the cause is told once: {error}");
        assert_eq!(status.code(), Some(1), "{args:?}");
    }
}

#[test]
fn a_full_standard_error_changes_nothing() {
    let command = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
        command.args(args).stdout(Stdio::null()).stderr(Stdio::from(full())).status().unwrap().code()
    };
    assert_eq!(command(&["infill", "--model-id", "nowhere", "--prompt", "a"]), Some(1));
    assert_eq!(command(&["infill", "--no-such-flag"]), Some(2));
    assert_eq!(command(&["infill", "--model-id", "toy", "--prompt", "a<blank>"]), Some(0));
}

#[test]
fn a_training_run_whose_progress_nobody_reads_is_saved_and_can_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out").display().to_string();
    let args: Vec<&str> =
        "train base --task sudoku --d-model 32 --layers 1 --batch 2 --steps 40 --learning-rate 1e-3 --out"
            .split(' ')
            .chain([out.as_str()])
            .collect();
    for (pipe, code) in [(Stdio::from(closed()), 141), (Stdio::from(full()), 1)] {
        let Output { status, stderr, .. } = run(&args, pipe);
        let error = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(code), "{error}");
        assert!(error.contains("the same command goes on from") && !error.contains("panicked"), "{error}");
        assert!(dir.path().join("out/checkpoint.safetensors").exists());
    }
    let Output { status, stderr, .. } = run(&args, Stdio::null());
    assert!(status.success() && String::from_utf8_lossy(&stderr).contains("done"));
}
