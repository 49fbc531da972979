//! `remask eval compare`: policies on puzzles, on texts, and on answers that a command judges; and
//! `remask eval calibration` on texts and cached states.

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

fn eval(command: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_remask")).args(["eval", command]).args(args).output().unwrap()
}

fn compare(args: &[&str]) -> Output {
    eval("compare", args)
}

#[track_caller]
fn printed(args: &[&str]) -> String {
    let output = compare(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn lines(args: &[&str]) -> Vec<Value> {
    printed(&[args, &["--json"]].concat()).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn check_error(args: &[&str], words: &str) {
    let output = compare(args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains(words), "{args:?}: {error} lacks {words:?}");
}

fn written(dir: &Path, name: &str, text: &str) -> String {
    std::fs::write(dir.join(name), text).unwrap();
    dir.join(name).display().to_string()
}

#[test]
fn policies_solve_the_same_puzzles_at_the_same_steps() {
    let dir = tempfile::tempdir().unwrap();
    let plot = dir.path().join("plot.svg").display().to_string();
    let random = r#"{"name": "hot", "temperature": 1, "diffusion": {"unmasking": "random", "remasking": "off"}}"#;
    let policies = written(dir.path(), "policies.jsonl", &format!("{random}\nquality\n"));
    let puzzles = ["--count", "3", "--steps", "13,51"];
    let lines = lines(
        &[&["--policy", "off", "--policies", &policies, "--erase-per-step", "0.5", "--plot", &plot], &puzzles[..]]
            .concat(),
    );
    let named: Vec<(&str, u64)> =
        lines.iter().map(|line| (line["policy"].as_str().unwrap(), line["steps"].as_u64().unwrap())).collect();
    assert_eq!(named, [("off", 13), ("off", 51), ("hot", 13), ("hot", 51), ("quality", 13), ("quality", 51)]);
    for line in &lines {
        assert_eq!(line["right"]["of"], 3, "{line}");
        assert!(line["forward_passes"].as_f64() <= line["steps"].as_f64(), "{line}");
        assert_eq!(line["difference"].is_null(), line["policy"] == "off", "{line}");
        let most = if line["policy"] == "quality" { line["steps"].as_f64().unwrap() / 2.0 + 0.5 } else { 0.0 };
        let erased = line["erased"].as_f64().unwrap();
        assert!((0.0..=most).contains(&erased), "{line}");
        let shares = |line: &Value| line["right"]["share"].as_f64().unwrap();
        let first = lines.iter().find(|first| first["policy"] == "off" && first["steps"] == line["steps"]);
        if let Some(difference) = line["difference"]["share"].as_f64() {
            assert!((difference - (shares(line) - shares(first.unwrap()))).abs() < 1e-9, "{line}");
        }
    }
    assert!(std::fs::read_to_string(plot).unwrap().contains("solved"));
    let unused = dir.path().join("unused.svg");
    check_error(&["--policy", "remedi", "--plot", &unused.display().to_string()], "judges blanks");
    assert!(!unused.exists(), "nothing was drawn");
    // a JSON object is a request as it is: the model has a default of proofreading for quality
    let own = r#"{"diffusion": {"remasking": "quality", "proofreading": {"steps": 4, "below": 1}}}"#;
    let line = &self::lines(&["--policy", own, "--count", "1", "--steps", "13"])[0];
    assert!(line["forward_passes"].as_f64() > Some(13.0), "{line}");
    let again = printed(&[&["--policy", "off"], &puzzles[..]].concat());
    assert!(again.starts_with("3 Sudoku puzzles\npolicy"), "{again}");
    assert_eq!(again.lines().count(), 4, "{again}");
}

#[test]
fn texts_are_compared_or_judged_by_a_command() {
    let dir = tempfile::tempdir().unwrap();
    let answers = dir.path().join("answers.jsonl").display().to_string();
    let grid = "534678912\n672195348\n198342567\n859761423\n426853791\n713924856\n961537284\n287419635\n345286179";
    let template = format!("..{}", &grid[2..]);
    let case = |text: &str| json!({"template": template, "blank": ".", "text": text, "wanted": "53467"}).to_string();
    let texts = written(dir.path(), "texts.jsonl", &format!("{}\n{}\n", case(grid), case("other")));
    let base = ["--policy", "off", "--steps", "2", "--data", &texts];
    assert_eq!(lines(&base)[0]["right"]["successes"], 1);

    // the command sees the text, and the line of the data with all its members
    let check = r#"grep -q "^$(echo "$REMASK_CASE" | grep -o '"wanted":"[0-9]*"' | grep -o '[0-9]*')8912$""#;
    let judged = lines(&[&base[..], &["--check", check, "--answers", &answers]].concat());
    assert_eq!((&judged[0]["right"]["successes"], &judged[0]["right"]["of"]), (&json!(2), &json!(2)));
    let kept = std::fs::read_to_string(&answers).unwrap();
    let kept: Vec<Value> = kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(kept[1], json!({"policy": "off", "steps": 2, "number": 1, "text": grid, "right": true}));
    assert_eq!(lines(&[&base[..], &["--check", "grep -q x"]].concat())[0]["right"]["successes"], 0);
    assert_eq!(lines(&[&base[..], &["--count", "1"]].concat())[0]["right"]["of"], 1);

    // a prompt is part of the text that is judged
    let prompts = written(dir.path(), "prompts.jsonl", "{\"prompt\": \"def f(\"}\n");
    let args = ["--model-id", "toy", "--policy", "off", "--steps", "2", "--max-tokens", "3", "--data", &prompts];
    assert_eq!(lines(&[&args[..], &["--check", "grep -q '^def f('"]].concat())[0]["right"]["successes"], 1);
}

#[test]
fn answers_to_puzzles_are_kept_as_grids() {
    let dir = tempfile::tempdir().unwrap();
    let answers = dir.path().join("answers.jsonl").display().to_string();
    let found = lines(&["--policy", "off", "--steps", "51", "--count", "2", "--answers", &answers]);
    let kept = std::fs::read_to_string(&answers).unwrap();
    let kept: Vec<Value> = kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found[0]["right"]["successes"], kept.iter().filter(|answer| answer["right"] == true).count());
    for answer in kept {
        let rows: Vec<&str> = answer["text"].as_str().unwrap().lines().collect();
        assert_eq!(rows.len(), 9, "{answer}");
        assert!(rows.iter().all(|row| row.len() == 9 && row.bytes().all(|digit| digit.is_ascii_digit())), "{answer}");
    }
}

#[test]
fn a_judge_may_be_a_gguf_file() {
    let dir = tempfile::tempdir().unwrap();
    let prompts = written(dir.path(), "prompts.jsonl", "{\"prompt\": \"Once\"}\n");
    let words = json!({"type": "WordLevel", "vocab": {"[UNK]": 0, "Once": 1}, "unk_token": "[UNK]"});
    written(
        dir.path(),
        "tokenizer.json",
        &json!({"model": words, "pre_tokenizer": {"type": "Whitespace"}}).to_string(),
    );
    for family in ["qwen2", "llama"] {
        let judge = dir.path().join(format!("{family}.gguf"));
        std::fs::copy(format!("{}/tests/data/judges/{family}.gguf", env!("CARGO_MANIFEST_DIR")), &judge).unwrap();
        let judge = judge.display().to_string();
        let args = ["--model-id", "toy", "--policy", "off", "--steps", "4", "--max-tokens", "16", "--data", &prompts];
        let found = &lines(&[&args[..], &["--judge", &judge]].concat())[0];
        assert!(found.to_string().contains("perplexity"), "{found}");
    }
}

#[test]
fn what_cannot_be_compared_is_told_before_the_measurement() {
    let dir = tempfile::tempdir().unwrap();
    let data = |text: &str| written(dir.path(), "data.jsonl", text);
    let texts = data("{\"prompt\": \"a\"}");
    let case = |template: &str| json!({"template": template, "blank": ".", "text": "1"}).to_string();
    let uneven = written(dir.path(), "uneven.jsonl", &format!("{}\n{}\n", case("1."), case("....")));
    let holes = written(dir.path(), "holes.jsonl", &format!("{}\n\n{}\n", case("1.3"), case("123")));
    for (args, words) in [
        (&["--policy", "best"][..], "\"best\" is no policy; give a JSON object of fields of a request, or a remasking"),
        (&["--policy", "off", "--policy", "off"], "two policies are called off"),
        (&["--policy", r#"{"diffusion": {"remasking": "best"}}"#], "diffusion.remasking"),
        (&["--count", "1"], "--policy"),
        (&["--policy", "off", "--plot", "plot.png"], "ends with .svg"),
        (&["--policy", "off", "--check", "true"], "--data"),
        (&["--policy", "off", "--data", &texts], "has no text, which the answer is compared with"),
        (&["--policy", "off", "--data", &texts, "--check", "no-such-command"], "the shell cannot run the --check"),
        (&["--policy", "off", "--data", &texts, "--puzzles", &texts], "cannot be used with"),
        (
            &["--model-id", "toy", "--policy", "off", "--data", &texts, "--check", "true", "--max-tokens", "9999"],
            "data.jsonl, line 1",
        ),
        (
            &["--policy", r#"{"diffusion": {"remasking": {"budget": 3}}}"#],
            "missing field `policy`, expected one of `off`",
        ),
        (&["--policy", "off", "--model-id", "toy"], "no tokens of Sudoku grids"),
        (&["--policy", "off", "--plot", "nowhere/plot.svg"], "cannot write nowhere/plot.svg"),
        (
            &[
                "--policy",
                "off",
                "--policy",
                r#"{"diffusion": {"block_length": 1}}"#,
                "--steps",
                "2",
                "--data",
                &uneven,
            ],
            "uneven.jsonl, line 2: 2 steps are too few",
        ),
        (&["--policy", "off", "--policy", "remedi"], "policy remedi, puzzle 1"),
        (&["--policy", "off", "--data", &holes, "--count", "2"], "holes.jsonl, line 3"),
    ] {
        check_error(args, words);
        let table = String::from_utf8(compare(args).stdout).unwrap();
        assert!(table.is_empty(), "{args:?}: {table}");
    }
    for (text, words) in [
        ("", "has no text"),
        ("{}", "line 1: give either a prompt or a template"),
        ("{\"prompt\": \"a\", \"template\": \"b\"}", "give either a prompt or a template"),
        ("[]", "line 1: give an object with prompt or template"),
    ] {
        let file = written(dir.path(), "bad.jsonl", text);
        check_error(&["--policy", "off", "--check", "true", "--data", &file], words);
    }
}

#[test]
fn calibration_judges_one_block_of_a_text_with_and_without_a_cache() {
    let dir = tempfile::tempdir().unwrap();
    let solution = "534678912\n672195348\n198342567\n859761423\n426853791\n713924856\n961537284\n287419635\n345286179";
    let line = serde_json::json!({"prompt": &solution[..9], "response": &solution[9..]});
    let data = written(dir.path(), "rows.jsonl", &format!("{line}\n{line}\n{line}\n"));
    let report = |more: &[&str]| -> Value {
        let usual = ["--data", &data, "--length", "89", "--json", "--block-length", "20"];
        serde_json::from_slice(&eval("calibration", &[&usual[..], more].concat()).stdout).unwrap()
    };
    let [off, dual, prefix] = ["off", "dual", "prefix"].map(|cache| report(&["--cache", cache, "--seed", "3"]));
    assert_eq!(off["judged"], 12, "four fills of each of the three rows");
    assert_eq!(dual["judged"], 12, "{dual}");
    assert_ne!(off["oracle"], dual["oracle"], "a cache changes states of this model");
    assert_ne!(dual["oracle"], prefix["oracle"]);
    assert_eq!(report(&["--seed", "3"]), off, "no cache is the default");
    let check_error = |args: &[&str], words: &str| {
        let error = String::from_utf8(eval("calibration", args).stderr).unwrap();
        assert!(error.contains(words), "{args:?}: {error} lacks {words:?}");
    };
    check_error(&["--cache", "dual"], "--block-length");
    let long = written(dir.path(), "rows.txt", &"123456789\n".repeat(9));
    check_error(&["--data", &long, "--length", "90"], "do not fit the model, which takes 89");
    let remedi = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/remedi-tiny");
    let cached = ["--model-id", remedi, "--block-length", "8", "--cache", "dual"];
    check_error(&cached, "what this model keeps is exact");
}
