//! Drawing, recording and replaying runs, and scores and repairs on the command line. What needs a
//! real terminal is in `.ci/terminal`.

mod common;

use common::process::Process;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const PUZZLE: &str =
    "..49.....\n..3..6...\n.5.4.1..2\n3.9..8726\n..16.24..\n68.......\n.3.27..9.\n.9....21.\n2....9..5";
const SOLUTION: &str =
    "824937561\n913526874\n756481932\n349158726\n571692483\n682743159\n135274698\n498365217\n267819345";
/// The last digit is wrong.
const WRONG: &str = "534678912\n672195348\n198342567\n859761423\n426853791\n713924856\n961537284\n287419635\n345286177";

fn remask(args: &[&str], variables: &[(&str, &str)], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
    command.args(args).envs(variables.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[track_caller]
fn printed(args: &[&str]) -> String {
    let output = remask(args, &[], "");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[track_caller]
fn refused(args: &[&str], input: &str, words: &str) {
    let output = remask(args, &[], input);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains(words), "{args:?}: {error} lacks {words:?}");
    assert!(!error.contains("panicked"), "{error}");
}

fn write(dir: &tempfile::TempDir, name: &str, text: &str) -> String {
    std::fs::write(dir.path().join(name), text).unwrap();
    path(dir.path(), name)
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

/// Members of an object that do not depend on who asked.
fn without_id(object: &Value) -> Value {
    let mut object = object.clone();
    for member in ["id", "created"] {
        object.as_object_mut().unwrap().remove(member);
    }
    object
}

/// The last `rows` lines but one: the last canvas, below which is what the run took.
fn last_frame(drawn: &str, rows: usize) -> String {
    let lines: Vec<&str> = drawn.lines().collect();
    lines[lines.len() - 1 - rows..lines.len() - 1].join("\n")
}

#[test]
fn without_a_terminal_frames_are_plain_lines() {
    let args = ["infill", "--prompt", PUZZLE, "--watch"];
    let drawn = printed(&args);
    assert!(!drawn.contains('\x1b'), "{drawn}");
    assert!(drawn.starts_with("· blank, × erased, below the text: + filled, "), "{drawn}");
    let frames: Vec<&str> = drawn.lines().filter(|line| line.starts_with("step ")).collect();
    assert!(frames.len() > 50 && frames[0].starts_with("step 1 of ") && frames[0].contains(": +1 -0 ~0, 50 blank"));
    for words in ["start: 51 blank\n", "·×", "\n    -\n", "\n  +\n"] {
        assert!(drawn.contains(words), "no {words:?} in {drawn}");
    }
    assert_eq!(last_frame(&drawn, 9), SOLUTION);
    for variables in [&[("NO_COLOR", "1")][..], &[("TERM", "dumb")], &[("TERM", "xterm"), ("CLICOLOR_FORCE", "1")]] {
        let output = remask(&[&args[..], &["--delay", "0"]].concat(), variables, "");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), drawn, "{variables:?}");
    }
}

/// Runs a command with `--watch --record`, and checks that its file plays as the run was drawn.
#[track_caller]
fn recorded(args: &[&str], dir: &tempfile::TempDir) -> (String, Vec<Value>) {
    let file = path(dir.path(), "run.jsonl");
    let drawn = printed(&[args, &["--watch", "--record", &file]].concat());
    assert_eq!(printed(&["replay", &file]), drawn, "{args:?}");
    assert_eq!(printed(&["replay", &file, "--delay", "0"]), drawn, "{args:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    let through_a_pipe = remask(&["replay", "-"], &[], &text);
    assert_eq!(String::from_utf8(through_a_pipe.stdout).unwrap(), drawn);
    (drawn, text.lines().map(parsed).collect())
}

#[test]
fn a_recorded_run_is_replayed_to_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (drawn, events) = recorded(&["infill", "--prompt", PUZZLE], &dir);
    assert_eq!(last_frame(&drawn, 9), SOLUTION);
    assert_eq!(events.last().unwrap()["choices"][0]["text"], SOLUTION);

    let toy = ["generate", "--model-id", "toy", "--prompt", "Once", "--max-tokens", "40", "--steps", "20"];
    let (drawn, events) = recorded(&toy, &dir);
    let text = events.last().unwrap()["choices"][0]["text"].as_str().unwrap().to_owned();
    assert!(
        last_frame(&drawn, text.split('\n').count()).starts_with(&text) && text == printed(&toy).trim_end_matches('\n'),
        "{drawn} {text}"
    );

    let (drawn, events) = recorded(&["repair", "--text", WRONG], &dir);
    let text = events.last().unwrap()["text"].as_str().unwrap().to_owned();
    assert!(text.ends_with("345286179") && drawn.contains(&format!("{text}\n        ~\n3 steps, ")), "{drawn}");
    assert_eq!((&events[0]["given"].as_array().unwrap().len(), &events[0]["pinned"]), (&89, &json!([])));

    let file = path(dir.path(), "score.jsonl");
    let drawn = printed(&["score", "--text", WRONG, "--record", &file]);
    let marked = format!("{WRONG}\n        ?\n");
    assert!(drawn.starts_with(&marked) && printed(&["replay", &file]).contains(&format!("start: 0 blank\n{marked}")));
}

#[test]
fn a_run_is_recorded_without_being_drawn_and_then_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let file = path(dir.path(), "run.jsonl");
    let args = ["infill", "--prompt", PUZZLE, "--record", &file];
    assert_eq!(printed(&args), format!("{SOLUTION}\n"));
    let first = std::fs::read(&file).unwrap();
    let answer = parsed(&printed(&[&args[..], &["--json"]].concat()));
    assert!(answer["text"] == SOLUTION && std::fs::read(&file).unwrap() == first, "the same run has the same events");
    assert_eq!(last_frame(&printed(&["replay", &file]), 9), SOLUTION);
    // two trajectories in one file: both last canvases remain
    let twice = write(&dir, "twice.jsonl", &String::from_utf8(first.repeat(2)).unwrap());
    assert!(printed(&["replay", &twice]).matches(SOLUTION).count() >= 4);
    refused(&["infill", "--record", &path(dir.path(), "no/run.jsonl")], "", "--record: cannot write ");
    refused(&["infill", "--record", "-"], "", "--record: give the name of a file");
    refused(&["infill", "--delay", "5"], "", "--watch");
    refused(&["infill", "--watch", "--delay", "60001"], "", "give a whole number from 0 to 60000");
    refused(&["replay", &twice, "--delay", "1s"], "", "give a whole number from 0 to 60000");
}

#[tokio::test]
async fn a_stream_that_was_saved_is_replayed() {
    let server = Process::serve(&[]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let saved = async |path: &str, body: Value| {
        let answer = client.post(server.url(path)).body(body.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let stream = saved("/v1/infill", json!({"template": PUZZLE, "blank": ".", "stream": true})).await;
    let file = write(&dir, "stream", &stream);
    let (drawn, events) = recorded(&["infill", "--prompt", PUZZLE], &dir);
    assert_eq!(printed(&["replay", &file]), drawn, "the command and the server have the same events");
    let sent: Vec<Value> = stream.lines().filter_map(|line| line.strip_prefix("data: ")).map(parsed).collect();
    let (done, steps) = sent.split_last().unwrap();
    let (recorded_done, recorded_steps) = events.split_last().unwrap();
    assert_eq!((steps, without_id(done)), (recorded_steps, without_id(recorded_done)));

    let rows = &SOLUTION[..80];
    let body = |more: Value| {
        let mut body = json!({"prompt": rows, "max_tokens": 9, "n": 2, "stream": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let usage = json!({"diffusion": {"stream_edits": true}, "stream_options": {"include_usage": true}});
    let file = write(&dir, "completion", &saved("/v1/completions", body(usage)).await);
    assert_eq!(last_frame(&printed(&["replay", &file]), 1), SOLUTION[80..].trim());
    let file = write(&dir, "text", &saved("/v1/completions", body(json!({}))).await);
    refused(&["replay", &file], "", "no start came before it; give \"stream\": true");
}

#[test]
fn what_is_wrong_with_a_recording_is_said_with_its_line() {
    let start = r#"{"canvas_length":2,"pinned":[{"at":0,"token":5,"text":"5"}]}"#;
    let fill =
        |at: u32| format!(r#"{{"step":0,"edits":[{{"kind":"fill","at":{at},"token":3,"text":"3","confidence":1}}]}}"#);
    let failed = r#"{"error":{"message":"the model failed"}}"#;
    for (text, words) in [
        (String::new(), "standard input has no first canvas"),
        ("hello\n".to_owned(), "standard input, line 1: is neither a JSON object nor a line of server-sent events"),
        (format!("{start}\n\n{{\n"), "standard input, line 3: is no JSON: "),
        (format!("{start}\n[]\n"), "standard input, line 2: is neither a JSON object"),
        (fill(1), "standard input, line 1: is a step, and no start came before it"),
        (r#"{"object":"infill"}"#.to_owned(), "standard input, line 1: is an answer, and no start came before it"),
        (format!("{start}\n{}\n{}\n", fill(1), fill(1)), "line 3: fills cell 1, which is not blank: it has token 3"),
        (format!("{start}\n{}\n", fill(0)), "line 2: has an edit of cell 0, which is pinned"),
        (format!("{start}\n{}\n", fill(2)), "line 2: has an edit of cell 2, but the canvas has 2 cells"),
        (r#"{"canvas_length":99999999}"#.to_owned(), "line 1: has canvas_length 99999999; a canvas has at most"),
        (format!("{start}\n{failed}\n"), "standard input: the request failed: the model failed"),
        (failed.to_owned(), "standard input: the request failed: the model failed"),
    ] {
        refused(&["replay", "-"], &text, words);
    }
    let cut = remask(&["replay", "-"], &[], &format!("{start}\n{}\n", fill(1)));
    assert!(cut.status.success() && String::from_utf8_lossy(&cut.stdout).ends_with("\n53\n"), "{cut:?}");
    assert_eq!(String::from_utf8_lossy(&cut.stderr), "remask: standard input ends before the answer\n");
    refused(&["replay", "nowhere.jsonl"], "", "cannot read nowhere.jsonl: ");
    let hostile = r#"{"canvas_length":1,"pinned":[{"at":0,"token":5,"text":"\u001b[2J\u0007\u009b"}]}"#;
    let drawn = remask(&["replay", "-"], &[], hostile);
    assert!(!drawn.stdout.contains(&0x1b) && String::from_utf8_lossy(&drawn.stdout).contains("␛[2J␇\u{fffd}"));
}

#[tokio::test]
async fn scores_and_repairs_have_the_numbers_of_the_server() {
    let server = Process::serve(&[]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = write(&dir, "grid.txt", &format!("{WRONG}\n"));
    for (path, fields, args) in [
        ("score", json!({}), &["--text", WRONG][..]),
        ("score", json!({"below": 1.0}), &["--file", &file, "--below", "1"]),
        ("score", json!({"text": "534", "likelihood": true}), &["--text", "534", "--likelihood"]),
        ("score", json!({"text": [5, 3, 4]}), &["--text-ids", "5,3,4"]),
        ("repair", json!({}), &["--file", &file]),
        (
            "repair",
            json!({"pinned": [[0, 80], [81, 82]], "worst": 1, "steps": 8}),
            &["--text", WRONG, "--pinned", "0-80", "--pinned", "81-82", "--worst", "1", "--steps", "8"],
        ),
        (
            "repair",
            json!({"below": 0.9, "seed": 3, "temperature": 1.0, "top_k": 5,
                          "diffusion": {"return_quality": true, "unmasking": "entropy"}}),
            &[
                "--text",
                WRONG,
                "--below",
                "0.9",
                "--seed",
                "3",
                "--temperature",
                "1",
                "--top-k",
                "5",
                "--return-quality",
                "--unmasking",
                "entropy",
            ],
        ),
    ] {
        let mut body = json!({"text": WRONG});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let answer = client.post(server.url(&format!("/v1/{path}"))).body(body.to_string()).send().await.unwrap();
        let answer = parsed(&answer.text().await.unwrap());
        let printed = parsed(&printed(&[&[path], args, &["--json"]].concat()));
        assert_eq!(without_id(&printed), without_id(&answer), "{args:?}");
        assert_eq!(printed["id"], format!("{path}-local"));
    }
}

#[test]
fn a_score_marks_what_is_doubtful_and_says_how_much() {
    let words = printed(&["score", "--text", WRONG]);
    let score = parsed(&printed(&["score", "--text", WRONG, "--json"]));
    assert!(words.starts_with(&format!("{WRONG}\n        ?\n\n")), "{words}");
    let quality = score["tokens"][88]["quality"].as_f64().unwrap();
    for line in [
        "   cell  token              quality".to_owned(),
        format!("     88  \"7\"                  {quality:.3}"),
        "1 token of 81 doubtful; 8 tokens without a quality".to_owned(),
    ] {
        assert!(words.lines().any(|one| one == line), "no {line:?} in {words}");
    }
    let right = printed(&["score", "--text", SOLUTION]);
    assert_eq!(right, format!("{SOLUTION}\n\n0 tokens of 81 doubtful; 8 tokens without a quality\n"));
    let likely = printed(&["score", "--text", "12", "--likelihood"]);
    assert!(likely.contains("quality  likelihood\n") && likely.contains("      1  \"2\" "), "{likely}");
    assert_eq!(printed(&["score", "--text", WRONG, "--watch"]).matches("start: 0 blank\n").count(), 1);
    assert!(printed(&["score"]).contains("doubtful"), "the built-in model has an example");
    refused(&["score", "--model-id", "toy"], "", "give a text: --text TEXT (or - for standard input), --file FILE");
    refused(&["score", "--text", ""], "", "remask: --text: the text is empty");
    refused(&["score", "--text", "1", "--text-ids", "1"], "", "cannot be used with");
    refused(&["score", "--file", "nowhere"], "", "cannot read nowhere: ");
    let through_a_pipe = remask(&["score", "--text", "-"], &[], &format!("{WRONG}\n"));
    assert_eq!(String::from_utf8(through_a_pipe.stdout).unwrap(), words);
}

#[test]
fn a_repair_prints_the_text_and_says_what_it_wrote_anew() {
    let fixed = WRONG.replace("345286177", "345286179");
    let output = remask(&["repair", "--text", WRONG, "--return-quality"], &[], "");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{fixed}\n"));
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(notes.starts_with("1 token written anew:\n     88  \"7\" (quality 0."), "{notes}");
    assert!(notes.contains(") -> \"9\" (confidence ") && !notes.contains("still"), "{notes}");
    let right = remask(&["repair", "--text", &fixed], &[], "");
    assert_eq!(String::from_utf8(right.stderr).unwrap(), "nothing was written anew\n");
    let pinned = remask(&["repair", "--text", WRONG, "--pinned", "88-89", "--return-quality"], &[], "");
    let notes = String::from_utf8(pinned.stderr).unwrap();
    let text = String::from_utf8(pinned.stdout).unwrap();
    assert!(text.ends_with("7\n") && !notes.contains("     88  "), "what is pinned stays: {text} {notes}");
    refused(&["repair", "--pinned", "0-900"], "", "remask: --pinned has [0, 900]; give pairs of characters");
    refused(&["repair", "--pinned", "5-5"], "", "give two whole numbers with a hyphen between");
    refused(&["repair", "--steps", "1"], "", "give a whole number from 2 to 65536");
    refused(&["repair", "--text-ids", "99,1"], "", "remask: --text-ids: token 0 of the text is 99");
    refused(&["repair", "--top-p", "0.5"], "", "--top-p does nothing here");
}
