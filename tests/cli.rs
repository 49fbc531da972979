//! The commands of the program: their output, the files they write and their error messages.

use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn remask(args: &[impl AsRef<OsStr>]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_remask")).args(args).output().unwrap()
}

#[track_caller]
fn printed(args: &[impl AsRef<OsStr> + Debug]) -> String {
    let output = remask(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn check_error(args: &[&str], words: &str) {
    let output = remask(args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains(words), "{args:?}: {error} lacks {words:?}");
    assert!(!error.contains("panicked"), "{error}");
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

/// Runs a command and kills it, without a warning, once it has logged this step.
fn kill_at(step: &str, args: &[String]) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_remask"))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let has_come = lines.any(|line| line.unwrap().contains(&format!("\"step\":{step},")));
    assert!(has_come, "{args:?} logged no step {step}");
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "{args:?} was over before it was killed");
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, killed, head, killed_head] = ["whole", "killed", "h", "kh"].map(|name| path(dir.path(), name));
    let usual = |args: &[&str], out: &str| {
        let usual = "--task sudoku --batch 4 --learning-rate 1e-3 --warmup 2 --save-every 7 --out";
        let words = args.iter().copied().chain(usual.split(' ')).chain([out]);
        words.map(str::to_owned).collect::<Vec<String>>()
    };
    let base = |out: &str| usual(&["train", "base", "--steps", "60", "--d-model", "32", "--layers", "1"], out);
    let bytes = |dir: &str, name: &str| std::fs::read(path(Path::new(dir), name)).unwrap();
    printed(&base(&whole));
    kill_at("20", &base(&killed));
    printed(&base(&killed));
    for name in ["model.safetensors", "checkpoint.safetensors"] {
        assert!(bytes(&whole, name) == bytes(&killed, name), "{name}");
    }
    let carried = ["train", "prism", "--steps", "40", "--carried", "0.5", "--rounds", "8", "--model-id", &whole];
    printed(&usual(&carried, &head));
    kill_at("20", &usual(&carried, &killed_head));
    printed(&usual(&carried, &killed_head));
    for name in ["model.safetensors", "prism_head.safetensors", "checkpoint.safetensors"] {
        assert!(bytes(&head, name) == bytes(&killed_head, name), "{name}");
    }
}

#[test]
fn a_model_is_trained_from_nothing_given_a_head_and_served() {
    let dir = tempfile::tempdir().unwrap();
    let [base, head] = ["base", "head"].map(|name| path(dir.path(), name));
    let train = |steps: &str| {
        let small = ["--d-model", "32", "--layers", "1", "--batch", "4", "--learning-rate", "1e-3", "--warmup", "2"];
        let args = ["train", "base", "--task", "sudoku", "--steps", steps, "--out", &base];
        remask(&[&args[..], &small[..]].concat())
    };
    let trained = train("20");
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    let log = String::from_utf8(trained.stdout).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&last["step"], &last["steps"]), (&Value::from(20), &Value::from(20)));
    for number in ["loss", "accuracy", "tokens_per_s", "seconds"] {
        assert!(last[number].is_f64(), "{number}: {last}");
    }
    let losses = std::fs::read_to_string(path(Path::new(&base), "losses.csv")).unwrap();
    let (names, last_line) = (losses.lines().next().unwrap(), losses.lines().last().unwrap());
    assert!(names.starts_with("step,loss,") && last_line.starts_with("20,"), "{losses}");
    assert_eq!(losses.lines().count(), log.lines().count() + 1, "a line for each report");
    assert!(std::fs::read_to_string(path(Path::new(&base), "losses.svg")).unwrap().contains("cross-entropy"));
    let more = path(dir.path(), "more");
    let args = ["train", "base", "--task", "sudoku", "--steps", "1", "--batch", "4", "--learning-rate", "1e-9"];
    printed(&[&args[..], &["--model-id", &base, "--out", &more]].concat());
    let weights = |dir: &str| {
        let file = path(Path::new(dir), "model.safetensors");
        let tensors = candle_core::safetensors::load(file, &candle_core::Device::Cpu).unwrap();
        tensors["model.transformer.wte.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let moved = weights(&base).iter().zip(weights(&more)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(moved < 1e-6, "it goes on from the weights: {moved}");
    let deeper = path(dir.path(), "deeper");
    printed(&[&args[..], &["--model-id", &more, "--layers", "2", "--out", &deeper]].concat());
    let answer = printed(&["infill", "--model-id", &deeper, "--blank", ".", "--prompt", "1.", "--json"]);
    assert!(answer.contains("\"finish_reason\":\"stop\""), "{answer}");
    check_error(
        &[&args[..], &["--model-id", &deeper, "--layers", "3", "--out", &base]].concat(),
        "3 layers cannot be made of the model's 2, each followed by as many copies; say 2, 4 or another multiple",
    );
    let error = train("30");
    let error = String::from_utf8_lossy(&error.stderr);
    assert!(error.contains("is of a run with steps 20, this one has steps 30"), "{error}");
    assert_eq!(std::fs::read_to_string(path(Path::new(&base), "losses.csv")).unwrap(), losses);

    let planned = path(dir.path(), "planned");
    let plan = ["--steps", "400", "--batch", "4", "--learning-rate", "1e-3", "--out", &planned, "--dry-run"];
    for (more, learn) in [
        (&["base", "--d-model", "32", "--layers", "1"][..], "parameters: 16192 learn, 0 do not"),
        (&["prism", "--model-id", &base, "--learns", "head"], "parameters: 1153 learn, 16192 do not"),
    ] {
        let words = printed(&[&["train"], more, &["--task", "sudoku"], &plan[..]].concat());
        for line in [learn, "a step: 4 rows, ", "steps: 400, about ", "of the host at most", "nothing was written"] {
            assert!(words.contains(line), "{words}");
        }
        assert!(!Path::new(&planned).exists(), "nothing was written");
    }
    let sizes = path(dir.path(), "sizes"); // without weights
    std::fs::create_dir(&sizes).unwrap();
    std::fs::copy(path(Path::new(&base), "config.json"), path(Path::new(&sizes), "config.json")).unwrap();
    let dummy = ["train", "prism", "--task", "sudoku", "--model-id", &sizes, "--dummy-weights"];
    for (more, learn) in [
        (&["--learns", "head"][..], "parameters: 1153 learn, 16192 do not"),
        (&["--learns", "lora", "--rank", "2"], "parameters: 1537 learn, 16192 do not"),
    ] {
        let words = printed(&[&dummy[..], more, &plan[..]].concat());
        assert!(words.contains(learn) && words.contains("tokens/s"), "{words}");
    }
    check_error(&[&dummy[..], &plan[..plan.len() - 1]].concat(), "--dry-run");

    let warm = ["train", "base", "--task", "sudoku", "--steps", "3", "--learning-rate", "1e-3", "--warmup", "4"];
    check_error(
        &[&warm[..], &["--out", &base]].concat(),
        "--warmup is 4 and --steps 3; give --warmup at most that many",
    );

    let tune = [
        "--steps",
        "8",
        "--batch",
        "4",
        "--learning-rate",
        "1e-3",
        "--warmup",
        "2",
        "--rounds",
        "4",
        "--carried",
        "0.5",
    ];
    printed(&[&["train", "prism", "--task", "sudoku", "--model-id", &base, "--out", &head], &tune[..]].concat());
    let puzzle = "53..7....\n6..195...\n.98....6.\n8...6...3\n4..8.3..1\n7...2...6\n.6....28.\n...419..5\n....8..79";
    let infill = ["infill", "--model-id", &head, "--blank", ".", "--prompt", puzzle, "--remask-budget", "8", "--json"];
    let answer: Value = serde_json::from_str(&printed(&infill)).unwrap();
    assert!(answer["erased"].as_u64().unwrap() > 0, "the head is used: {answer}");
    let card = std::fs::read_to_string(path(Path::new(&head), "PRISM.md")).unwrap();
    assert!(card.contains("expected calibration error") && card.contains(&base), "{card}");
    let other = path(Path::new(&head), "prism_head.safetensors");
    check_error(
        &["infill", "--model-id", &base, "--prism-head", &other, "--prompt", puzzle, "--blank", "."],
        "was made for the model",
    );
}

#[test]
fn the_embedded_model_is_evaluated() {
    let dir = tempfile::tempdir().unwrap();
    let plot = path(dir.path(), "plot.svg");
    let policies = ["--policies", "off,quality,random,remdm,confidence", "--steps", "13,51", "--count", "4", "--json"];
    let lines = printed(&[&["eval", "sudoku", "--plot", &plot], &policies[..]].concat());
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 10);
    for line in &lines {
        assert_eq!(line["solved"]["of"], 4, "{line}");
        assert!(line["forward_passes"].as_f64() <= line["steps"].as_f64(), "{line}");
        assert_eq!(line["erased"].as_f64() > Some(0.0), line["policy"] != "off", "{line}");
    }
    let off = |line: &&Value| line["policy"] == "off" && line["steps"] == 51;
    assert!(lines.iter().find(off).unwrap()["solved"]["successes"].as_u64().unwrap() >= 2, "{lines:?}");
    assert!(std::fs::read_to_string(plot).unwrap().contains("<svg"));

    let report: Value = serde_json::from_str(&printed(&["eval", "calibration", "--count", "10", "--json"])).unwrap();
    assert!((20..=40).contains(&report["judged"].as_u64().unwrap()), "{report}");
    assert!(report["oracle"]["expected_error"].as_f64().unwrap() < 0.5, "{report}");
}

#[test]
fn puzzles_and_texts_come_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        path(dir.path(), name)
    };
    let line = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79";
    let solution = "534678912\n672195348\n198342567\n859761423\n426853791\n713924856\n961537284\n287419635\n345286179";
    let rows: Vec<String> =
        line.as_bytes().chunks(9).map(|row| String::from_utf8_lossy(row).replace('.', "0")).collect();
    let numbers: Vec<String> =
        rows.iter().map(|row| row.chars().map(String::from).collect::<Vec<_>>().join(",")).collect();
    let puzzles = write("puzzles", &format!("{line}\n\n{}\n", numbers.join(",10,")));
    let found = printed(&["eval", "sudoku", "--puzzles", &puzzles, "--policies", "off", "--steps", "51", "--json"]);
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!((&found["solved"]["of"], &found["solved"]["successes"]), (&Value::from(2), &Value::from(2)));

    let template = rows.join("\n").replace('0', ".");
    let case = serde_json::json!({"template": template, "text": solution, "blank": "."});
    let texts = write("texts.jsonl", &format!("{case}\n"));
    let report: Value = serde_json::from_str(&printed(&["eval", "infill", "--data", &texts, "--json"])).unwrap();
    assert_eq!((&report["exact"]["successes"], &report["tokens"]["of"]), (&Value::from(1), &Value::from(51)));

    for (text, words) in [
        ("", "there is no puzzle"),
        ("123", "line 1: a Sudoku has 81 cells, this has 3"),
        ("1,2,3", "line 1: has 3 numbers"),
        (&format!("{line}\n{}x", &line[..80]), "line 2: 'x' is no cell"),
    ] {
        check_error(&["eval", "sudoku", "--puzzles", &write("bad", text)], words);
    }
    check_error(&["eval", "sudoku", "--plot", "plot.png", "--count", "1", "--policies", "off"], "ends with .svg");
    check_error(&["eval", "sudoku", "--policies", "best"], "[possible values: default, off, quality");
    check_error(&["eval", "infill", "--data", &write("empty", "\n")], "holds no text");
    check_error(&["eval", "infill", "--data", &write("bad", "{}")], "line 1: give an object with template and text");
    check_error(&["eval", "calibration", "--model-id", "toy", "--prism-head", "x"], "is built in as it is");
}

#[test]
fn a_run_is_resumed_only_with_its_own_data_lengths_and_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let [model, data, moved, out] = ["model", "data.txt", "moved.txt", "out"].map(|name| path(dir.path(), name));
    let small = ["--d-model", "32", "--layers", "1", "--batch", "2", "--learning-rate", "1e-3"];
    let train = ["train", "base", "--task", "sudoku", "--steps", "1", "--out", &model];
    printed(&[&train[..], &small[..]].concat());
    std::fs::write(&data, "123456789\n".repeat(9)).unwrap();
    let args = |kind: &'static str, data: &str, length: &str| {
        let usual = ["--steps", "2", "--batch", "2", "--learning-rate", "1e-3", "--model-id", &model, "--out", &out];
        let words = ["train", kind, "--data", data, "--length", length].into_iter().chain(usual);
        words.map(str::to_owned).collect::<Vec<String>>()
    };
    let refused = |kind, data: &str, length, words: &str| {
        let config = || std::fs::read(path(Path::new(&out), "config.json")).unwrap();
        let before = config();
        let args = args(kind, data, length);
        check_error(&args.iter().map(String::as_str).collect::<Vec<_>>(), words);
        assert!(config() == before, "a run that is refused changed its directory");
    };
    for kind in ["base", "prism"] {
        printed(&args(kind, &data, "10"));
        std::fs::copy(&data, &moved).unwrap();
        printed(&args(kind, &moved, "10")); // the same data
        refused(kind, &data, "20", "is of a run with length 10, this one has length 20");
        std::fs::write(&moved, "987654321\n".repeat(9)).unwrap();
        refused(kind, &moved, "10", "is of a run with data_sha256 \"");
        let tokenizer = path(Path::new(&model), "tokenizer.json");
        let json = std::fs::read_to_string(&tokenizer).unwrap();
        std::fs::write(&tokenizer, format!("{json}\n")).unwrap();
        refused(kind, &data, "10", "is of a run with tokenizer_sha256 \"");
        std::fs::write(&tokenizer, json).unwrap();
        let weights = path(Path::new(&model), "model.safetensors");
        let mut bytes = std::fs::read(&weights).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&weights, bytes).unwrap();
        refused(kind, &data, "10", "is of a run with weights_sha256 \"");
        std::fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn training_says_what_is_wrong_with_what_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = path(Path::new(env!("CARGO_MANIFEST_DIR")), "tests/data/llada-tiny");
    let out = path(dir.path(), "out");
    let sudoku = path(Path::new(env!("CARGO_MANIFEST_DIR")), "models/sudoku");
    let data = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        path(dir.path(), name)
    };
    let base = |more: &[&str]| {
        let args = ["train", "base", "--steps", "1", "--learning-rate", "1e-3", "--out", &out];
        args.iter().chain(more).map(|word| (*word).to_owned()).collect::<Vec<String>>()
    };
    let given = |data: &str, model: &str| base(&["--data", data, "--model-id", model, "--length", "8"]);
    let check =
        |args: Vec<String>, words: &str| check_error(&args.iter().map(String::as_str).collect::<Vec<_>>(), words);
    check(given(&data("empty.txt", ""), &sudoku), "holds no row of 8 tokens");
    check(given(&data("letters.txt", "hello"), &sudoku), "the model's vocabulary has nothing for 'h'");
    check(given(&data("bad.jsonl", "{\"prompt\": 1}\n"), &sudoku), "line 1 is no object with prompt and response");
    check(
        given(&data("short.jsonl", "{\"prompt\": \"1\", \"response\": \"2\"}\n"), &sudoku),
        "line 1 is shorter than a row",
    );
    check(given(&path(dir.path(), "nowhere"), &sudoku), "cannot be read");
    check(given(&data("some.txt", "123456789"), &tiny), "has no tokenizer.json");
    check(base(&["--task", "sudoku", "--model-id", &out]), "give --out another one");
    let small = dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let config = std::fs::read_to_string(path(Path::new(&sudoku), "config.json")).unwrap();
    let config = config
        .replace("\"vocab_size\": 11", "\"vocab_size\": 9")
        .replace("\"embedding_size\": 11", "\"embedding_size\": 9");
    std::fs::write(small.join("config.json"), config).unwrap();
    check(
        base(&["--task", "sudoku", "--model-id", small.to_str().unwrap()]),
        "token id 10, but the model's vocabulary ends",
    );
    check(base(&[]), "--task");
    check(
        base(&["--task", "sudoku", "--ratio-max", "1.5"]),
        "'1.5' for '--ratio-max <RATIO_MAX>': give a number from 0.000000001 to 1",
    );
    check(base(&["--task", "sudoku", "--batch", "0"]), "give a whole number from 1 to 1048576");
    let prism = ["train", "prism", "--task", "sudoku", "--steps", "1", "--learning-rate", "1e-3", "--out", &out];
    check_error(&[&prism[..], &["--model-id", "nowhere"]].concat(), "nowhere/config.json");
    let lora = ["--model-id", &sudoku, "--learns", "lora", "--targets", "qkv"];
    check_error(&[&prism[..], &lora[..]].concat(), "has no matrix `qkv`");
    check_error(&[&prism[..], &["--model-id", &sudoku, "--ratio", "0.5", "0.4"]].concat(), "--ratio is 0.5 0.4");
}

#[test]
fn replaced_tokens_are_printed_drawn_and_counted() {
    let words = "infill --model-id toy --prompt Once<blank:50>. --steps 16 --unmasking random --temperature 1.5 --seed 1 \
                 --remasking token_editing --remask-above 0.4 --remask-budget 30";
    let words: Vec<&str> = words.split_whitespace().collect();
    let answer: Value = serde_json::from_str(&printed(&[&words[..], &["--json"]].concat())).unwrap();
    let mut canvas: BTreeMap<u64, u64> = BTreeMap::new();
    let mut replaced = 0;
    for edit in answer["steps"].as_array().unwrap().iter().flat_map(|step| step["edits"].as_array().unwrap()) {
        let before = canvas.insert(edit["at"].as_u64().unwrap(), edit["token"].as_u64().unwrap());
        assert_eq!(before, edit["was"].as_u64(), "{edit}");
        assert_eq!(edit["kind"], if before.is_some() { "replace" } else { "fill" });
        assert!(before.is_none() || edit["confidence"].as_f64() > Some(0.4), "{edit}");
        replaced += u64::from(before.is_some());
    }
    assert_eq!(canvas.values().copied().map(Value::from).collect::<Vec<_>>(), *answer["tokens"].as_array().unwrap());
    assert!(replaced > 0 && answer["replaced"] == replaced && answer["erased"] == 0, "{answer}");

    let drawn = printed(&[&words[..], &["--watch"]].concat());
    let captions = drawn.lines().filter_map(|line| line.split_once(" ~")?.1.split_once(',')?.0.parse::<u64>().ok());
    assert_eq!(captions.sum::<u64>(), replaced, "{drawn}");
    assert!(drawn.trim_end().ends_with(&format!("50 filled, 0 erased, {replaced} replaced")), "{drawn}");
    check_error(&[&words[..], &["--remask-below", "0.5"]].concat(), "with \"token_editing\" give");
}

#[test]
fn a_corrector_is_asked_for_by_its_flags_and_its_passes_are_printed() {
    let words = "generate --model-id toy --prompt Once --max-tokens 48 --steps 12 --temperature 2 --seed 1 \
                 --block-length 16 --remasking proseco --remask-correct-every 2 --remask-corrector-passes 3 --json";
    let words: Vec<&str> = words.split_whitespace().collect();
    let answer: Value = serde_json::from_str(&printed(&words)).unwrap();
    let passes = answer["forward_passes"].as_u64().unwrap();
    assert!(
        (13..=12 + 6 * 3).contains(&passes) && answer["steps"].as_array().unwrap().len() as u64 == passes,
        "{answer}"
    );
    assert!(answer["replaced"].as_u64() > Some(0) && answer["erased"] == 0, "{answer}");
    check_error(&[&words[..], &["--remask-budget", "3"]].concat(), "with \"proseco\" give --remask-correct-every and");
}

#[test]
fn penalties_change_what_is_generated() {
    let generate = ["generate", "--model-id", "toy", "--prompt", "Once", "--max-tokens", "40", "--seed", "1"];
    let with = |more: &[&str]| printed(&[&generate[..], more].concat());
    let plain = with(&[]);
    assert_eq!(with(&["--presence-penalty", "0", "--frequency-penalty", "0"]), plain);
    assert_ne!(with(&["--frequency-penalty", "2"]), plain);
    assert_ne!(with(&["--frequency-penalty", "-2", "--presence-penalty", "-2"]), plain);
    assert_eq!(with(&["--repetition-penalty", "1"]), plain);
    assert_ne!(with(&["--repetition-penalty", "100"]), plain);
    let wrong = [&generate[..], &["--repetition-penalty", "0"]].concat();
    check_error(&wrong, "'0' for '--repetition-penalty <REPETITION_PENALTY>': give a number from 0.01 to 100");
    let wrong = [&generate[..], &["--presence-penalty", "2.5"]].concat();
    check_error(&wrong, "'2.5' for '--presence-penalty <PRESENCE_PENALTY>': give a number from -2 to 2");
}

#[test]
fn a_bound_on_keys_needs_keys() {
    check_error(&["serve", "--model-id", "toy", "--port", "0", "--max-requests-per-key", "2"], "and there are none");
    check_error(&["serve", "--max-requests-per-key", "0", "--api-key", "a"], "--max-requests-per-key");
}

#[test]
fn a_collector_that_cannot_be_spoken_to_is_refused_with_the_way_out() {
    check_error(
        &["serve", "--model-id", "toy", "--port", "0", "--otlp-endpoint", "https://here:4317"],
        "give http://HOST:PORT",
    );
}
