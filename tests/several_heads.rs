//! `remask train prism --learns head --head ..`: several heads of one run, from the flag to files
//! that serve, and what is refused.

#![allow(clippy::unwrap_used)] // helpers of tests

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn remask(args: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
    paths.iter().fold(command.args(args), |command, (flag, path)| command.arg(flag).arg(path)).output().unwrap()
}

#[track_caller]
fn printed(args: &[&str], paths: &[(&str, &Path)]) -> [String; 2] {
    let Output { status, stdout, stderr } = remask(args, paths);
    let [out, error] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(status.success(), "{args:?}: {error}");
    [out, error]
}

#[track_caller]
fn refused(args: &[&str], paths: &[(&str, &Path)], code: i32, words: &str) {
    let output = remask(args, paths);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(code) && error.contains(words), "{args:?}: {error}");
}

const PUZZLE: &str =
    "53..7....\n6..195...\n.98....6.\n8...6...3\n4..8.3..1\n7...2...6\n.6....28.\n...419..5\n....8..79";
const TRAIN: [&str; 9] =
    ["train", "prism", "--task", "sudoku", "--batch", "4", "--learning-rate", "1e-3", "--learns=head"];

/// A model of two blocks with 32 numbers in a state.
fn model(dir: &TempDir) -> PathBuf {
    let base = dir.path().join("base");
    let train = ["train", "base", "--task", "sudoku", "--steps", "2", "--batch", "4", "--learning-rate", "1e-3"];
    printed(&[&train[..], &["--d-model", "32", "--layers", "2"]].concat(), &[("--out", &base)]);
    base
}

#[test]
fn heads_of_one_run_are_reported_compared_written_and_served() {
    let dir = TempDir::new().unwrap();
    let (base, out) = (model(&dir), dir.path().join("out"));
    let paths = [("--model-id", &*base), ("--out", &*out)];
    let heads = ["--head", "8@1", "--head", "32,5", "--eval-every", "10"];
    let planned = printed(&[&TRAIN[..], &heads[..], &["--steps", "20", "--dry-run"]].concat(), &paths)[0].clone();
    let own = |size: usize| 2 * 32 + size * (32 + 2) + 1;
    assert!(planned.contains(&format!("parameters: {} learn,", own(8) + own(32) + own(5))), "{planned}");
    assert!(!out.exists(), "nothing was written");

    let carried = ["--steps", "20", "--carried", "0.5", "--rounds", "4"];
    let [log, words] = printed(&[&TRAIN[..], &heads[..], &carried[..]].concat(), &paths);
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    for means in [&last, &last["held_out"]] {
        let heads = means["heads"].as_array().unwrap();
        assert_eq!(heads.iter().map(|head| head["head"].as_str().unwrap()).collect::<Vec<_>>(), ["8@1", "32@2", "5@2"]);
        assert!(heads.iter().all(|head| head["judgement"].is_f64() && head["quality"].is_f64()), "{means}");
        assert_eq!((&means["judgement"], &means["quality"]), (&heads[0]["judgement"], &heads[0]["quality"]));
    }
    let losses = std::fs::read_to_string(out.join("losses.csv")).unwrap();
    let rows: Vec<Vec<&str>> = losses.lines().map(|line| line.split(',').collect()).collect();
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{losses}");
    let at = |name: &str| rows[0].iter().position(|column| *column == name).unwrap();
    let written: f64 = rows.last().unwrap()[at("held_out_judgement_5@2")].parse().unwrap();
    assert_eq!(Some(written), last["held_out"]["heads"][2]["judgement"].as_f64());
    assert!(std::fs::read_to_string(out.join("losses.svg")).unwrap().contains("judgement of 32@2"));

    let measured = last["held_out"]["heads"].as_array().unwrap();
    let loss = |head: &&Value| head["judgement"].as_f64().unwrap();
    let best = measured.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap()["head"].as_str().unwrap();
    let told = format!("prism_head.safetensors is {best}, whose judgement has the lowest loss on held-out rows");
    assert!(words.contains(&told), "{words}");
    let card = std::fs::read_to_string(out.join("PRISM.md")).unwrap();
    for line in [
        "| `8@1` | 8 | 1 | ",
        "| `heads/5@2.safetensors` |",
        &format!("`prism_head.safetensors` is `{best}`"),
        "was judged by the first head, `8@1`",
        "several heads alone, on the same states",
    ] {
        assert!(card.contains(line), "{line}: {card}");
    }
    assert!(card.lines().all(|line| line.len() <= 200), "{card}");

    let answer = |head: &str| {
        let infill = ["infill", "--blank", ".", "--prompt", PUZZLE, "--remask-budget", "8", "--json"];
        printed(&infill, &[("--model-id", &base), ("--prism-head", &out.join(head))])[0].clone()
    };
    let answers = ["8@1", "32@2", "5@2"].map(|head| answer(&format!("heads/{head}.safetensors")));
    assert!(answers.iter().all(|answer| answer.contains("\"erased\":")), "{answers:?}");
    assert_eq!(answer("prism_head.safetensors"), answer(&format!("heads/{best}.safetensors")));

    // they are settings of the run
    let other = [&TRAIN[..], &["--head", "8@1,32", "--eval-every", "10"], &carried[..]].concat();
    let words = "is of a run with heads [\"8@1\",\"32@2\",\"5@2\"], this one has heads [\"8@1\",\"32@2\"]";
    refused(&other, &paths, 1, words);
}

#[test]
fn heads_that_cannot_be_are_refused_before_anything_is_trained() {
    let dir = TempDir::new().unwrap();
    let (base, out) = (model(&dir), dir.path().join("out"));
    let paths = [("--model-id", &*base), ("--out", &*out)];
    let steps = ["--steps", "1", "--head"];
    for (heads, code, words) in [
        ("0", 2, "give SIZE or SIZE@LAYER, as 256 or 256@16: a size from 1 to 65536"),
        ("65537@1", 2, "give SIZE or SIZE@LAYER"),
        ("8@0", 2, "give SIZE or SIZE@LAYER"),
        ("8,", 2, "give SIZE or SIZE@LAYER"),
        ("8@3", 1, "--head 8@3: the model has 2 blocks; give a layer from 1 to 2"),
        ("8,8@1,8@2", 1, "--head names 8@2 twice"),
    ] {
        refused(&[&TRAIN[..], &steps[..], &[heads]].concat(), &paths, code, words);
        assert!(!out.join("checkpoint.safetensors").exists());
    }
    for learns in ["everything", "lora"] {
        let args = [&TRAIN[..8], &["--learns", learns], &steps[..], &["8"]].concat();
        refused(&args, &paths, 2, "--head does nothing here: beside a model that learns there is one head");
    }
    // a model that has a head already
    printed(&[&TRAIN[..], &steps[..], &["8@1"]].concat(), &paths);
    std::fs::copy(out.join("prism_head.safetensors"), base.join("prism_head.safetensors")).unwrap();
    let again = [("--model-id", &*base), ("--out", &*dir.path().join("again"))];
    let words = "the model has the quality head 8@1, which training starts from, and --head asks for 8@2,9@1";
    refused(&[&TRAIN[..], &steps[..], &["8,9@1"]].concat(), &again, 1, words);
    printed(&[&TRAIN[..], &steps[..2]].concat(), &again);
    let more = [("--model-id", &*base), ("--out", &*dir.path().join("more"))];
    let words = "has a quality head that reads the states after block 1 of 2";
    refused(&[&TRAIN[..8], &["--steps", "1"]].concat(), &more, 1, words);
}
