//! What a program is given besides its flags, with values that cannot be meant: environment
//! variables that libraries read by themselves, and files that are no such files. Each is refused
//! or told in one line, and nothing panics.

use std::process::{Command, Output};

fn remask(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
    // a backtrace in what is printed is a fault as well
    command.args(args).env("RUST_BACKTRACE", "1").env_remove("HF_HOME").env_remove("HF_HUB_OFFLINE");
    command.envs(variables.iter().copied()).output().unwrap()
}

/// What is printed as an error.
fn said(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!error.contains("panicked") && !error.contains("backtrace") && !error.contains("   0: "), "{error}");
    error
}

const INFILL: [&str; 5] = ["infill", "--model-id", "toy", "--prompt", "a<blank>b"];
const HUB: [&str; 5] = ["infill", "--model-id", "owner/name", "--prompt", "a"];

#[test]
fn variables_of_libraries_are_refused_with_what_is_allowed() {
    let threads = "give a whole number from 0 to 256, or unset it";
    for (name, value, allowed) in [
        ("RAYON_NUM_THREADS", "100000", threads),
        ("RAYON_NUM_THREADS", "abc", threads),
        ("RAYON_NUM_THREADS", "-1", threads),
        ("RAYON_RS_NUM_CPUS", "x", threads),
        ("CANDLE_NUM_THREADS", "1e3", threads),
        ("TOKIO_WORKER_THREADS", "0", "give a whole number from 1 to 256, or unset it"),
        ("TOKIO_WORKER_THREADS", "abc", "give a whole number from 1 to 256, or unset it"),
        ("TOKIO_WORKER_THREADS", "100000", "give a whole number from 1 to 256, or unset it"),
        ("RUST_MIN_STACK", "99999999999999", "give a whole number from 0 to 1073741824, or unset it"),
        ("RUST_MIN_STACK", "big", "give a whole number from 0 to 1073741824, or unset it"),
        ("HF_HUB_OFFLINE", "perhaps", "give one of 0, 1, false, true, no, yes, off, on, or unset it"),
    ] {
        for args in [&INFILL[..], &["serve", "--model-id", "toy", "--port", "0"]] {
            let output = remask(args, &[(name, value)]);
            let error = said(&output);
            assert_eq!(output.status.code(), Some(2), "{name} {value}: {error}");
            assert!(error.contains(&format!("the environment variable {name} is {value:?}; {allowed}")), "{error}");
        }
        assert!(remask(&["--help"], &[(name, value)]).status.success(), "help is given all the same");
    }
}

#[test]
fn usual_values_and_empty_ones_are_taken() {
    for (name, value) in [
        ("RAYON_NUM_THREADS", "0"),
        ("RAYON_NUM_THREADS", "1"),
        ("RAYON_NUM_THREADS", "64"),
        ("RAYON_NUM_THREADS", ""),
        ("CANDLE_NUM_THREADS", "2"),
        ("TOKIO_WORKER_THREADS", ""),
        ("TOKIO_WORKER_THREADS", "3"),
        ("RUST_MIN_STACK", "8388608"),
        ("RUST_BACKTRACE", "garbage"),
        ("HF_HUB_OFFLINE", "TRUE"),
        ("HF_ENDPOINT", ""),
        ("NO_COLOR", "x"),
        ("TERM", "garbage"),
        ("COLUMNS", "0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", ""),
    ] {
        let output = remask(&INFILL, &[(name, value)]);
        assert!(output.status.success() && said(&output).is_empty(), "{name} {value}: {}", said(&output));
    }
}

#[test]
fn variables_of_traces_that_mean_nothing_are_told_and_ignored() {
    for (name, value) in [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "18446744073709551615"),
        ("OTEL_BSP_SCHEDULE_DELAY", "abc"),
        ("OTEL_TRACES_SAMPLER", "garbage"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "abc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
    ] {
        // it ends at its port, which is no address of this machine, after traces have begun
        let args = ["serve", "--hostname", "192.0.2.1", "--otlp-endpoint", "http://127.0.0.1:9", "--model-id", "toy"];
        let output = remask(&args, &[(name, value)]);
        let error = said(&output);
        assert!(error.contains("cannot listen on 192.0.2.1"), "{name} {value}: {error}");
        let told = format!("the environment variable {name} is {value:?}; give ");
        assert!(error.contains(&told) && error.contains("it is ignored"), "{name} {value}: {error}");
    }
}

#[test]
fn the_place_and_the_address_of_the_hub_are_told_as_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (file, place) = (file.to_str().unwrap(), dir.path().to_str().unwrap());
    let is_a_file = format!("{file} is a file; set HF_HOME to a directory");
    for (variables, told) in [
        (&[("HF_HOME", file)][..], is_a_file.as_str()),
        (&[("HOME", file)], &is_a_file),
        (&[("HF_HOME", place), ("HF_ENDPOINT", "garbage")], "HF_ENDPOINT is \"garbage\"; give http://HOST"),
        (&[("HF_HOME", place), ("HF_ENDPOINT", "ftp://x")], "HF_ENDPOINT is \"ftp://x\"; give http://HOST"),
        (&[("HF_HOME", place), ("HF_TOKEN", "a\nb")], "give a token without blanks"),
        (
            &[("HF_HOME", place), ("HF_ENDPOINT", "http://127.0.0.1:9"), ("HTTP_PROXY", "http://127.0.0.1:9")],
            "from the hub (through the proxy that HTTP_PROXY names)",
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
        for name in ["HF_HOME", "HF_HUB_OFFLINE", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "http_proxy"]
        {
            command.env_remove(name);
        }
        let output = command.args(HUB).envs(variables.iter().copied()).output().unwrap();
        let error = said(&output);
        assert!(!output.status.success() && error.contains(told), "{variables:?}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn words_that_are_no_utf_8_are_told() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let odd = OsStr::from_bytes(b"\xff");
    let command = || Command::new(env!("CARGO_BIN_EXE_remask"));
    let outputs = [
        command().arg(odd).output().unwrap(),
        command().args(["serve", "--model-id"]).arg(odd).output().unwrap(),
        command().arg("serve").env("REMASK_MODEL_ID", odd).output().unwrap(),
        command().args(INFILL).env("RAYON_NUM_THREADS", odd).output().unwrap(),
        command().args(["serve", "--port", "0"]).env("RUST_LOG", odd).output().unwrap(),
    ];
    for output in outputs {
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    }
}

/// Files and directories of `dir` that are not what their names say.
fn damaged(dir: &std::path::Path) {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/llada-tiny");
    let noise: Vec<u8> = (0..4096_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let header: Vec<u8> = b"GGUF\x03\0\0\0".iter().chain(&noise).copied().collect();
    for (name, bytes) in [("noise.gguf", &noise), ("header.gguf", &header), ("noise.safetensors", &noise)] {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    for name in ["empty.gguf", "empty.safetensors"] {
        std::fs::write(dir.join(name), "").unwrap();
    }
    std::fs::create_dir(dir.join("directory.gguf")).unwrap();
    for (model, file, bytes) in [
        ("good", "none", &[][..]),
        ("noisy-weights", "model.safetensors", &noise),
        ("empty-weights", "model.safetensors", &[]),
        ("noisy-tokenizer", "tokenizer.json", &noise),
        ("empty-tokenizer", "tokenizer.json", &[]),
        ("noisy-config", "config.json", &noise),
        ("empty-config", "config.json", &[]),
    ] {
        std::fs::create_dir(dir.join(model)).unwrap();
        for own in ["config.json", "generation_config.json", "model.safetensors"] {
            std::fs::copy(data.join(own), dir.join(model).join(own)).unwrap();
        }
        std::fs::write(dir.join(model).join(file), bytes).unwrap();
    }
}

#[test]
fn files_that_are_not_what_their_names_say_are_told_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    damaged(dir.path());
    let files = [
        "noise.gguf",
        "header.gguf",
        "empty.gguf",
        "noise.safetensors",
        "empty.safetensors",
        "directory.gguf",
        "nowhere",
    ];
    let models = ["noisy-weights", "empty-weights", "noisy-tokenizer", "noisy-config", "empty-config"];
    let train = "train base --model-id GOOD --out OUT --steps 1 --learning-rate 1e-3 --data".to_owned();
    let each: Vec<(String, &str)> = [
        ("read --json --prompt-ids 1,2 --model-id", true),
        ("generate --prompt a --model-id", true),
        ("infill --prompt a --model-id", true),
        ("bench --model-id", false),
        ("serve --port 0 --model-id", true),
        ("eval sudoku --count 1 --model-id", false),
        ("quantize --out OUT.gguf --model-id", true),
        ("convert --to OUT.safetensors --model-id", false),
        ("read --json --prompt-ids 1,2 --model-id GOOD --prism-head", false),
        ("read --json --prompt-ids 1,2 --model-id GOOD --adapter", false),
        ("convert --model-id GOOD --judged 1-9 --prism-head", false),
        ("convert --model-id GOOD --out OUT --checkpoint", false),
        ("eval infill --model-id toy --data", false),
        ("eval sudoku --puzzles", false),
        ("serve --port 0 --model-id toy --api-key-file", false),
        (train.as_str(), false),
    ]
    .into_iter()
    .flat_map(|(command, takes_models)| {
        let files = files.into_iter();
        let models = models.into_iter().filter(move |_| takes_models);
        files.chain(models).map(|file| (command.to_owned(), file)).collect::<Vec<_>>()
    })
    .collect();
    for (command, file) in each {
        let at = |name: &str| dir.path().join(name).display().to_string();
        let command = command.replace("GOOD", &at("good")).replace("OUT", &at("out"));
        let path = at(file);
        let output = remask(&[command.split(' ').collect(), vec![path.as_str()]].concat(), &[("HF_HUB_OFFLINE", "1")]);
        let error = said(&output);
        let errors: Vec<&str> =
            error.lines().filter(|line| line.starts_with("remask: ") && !line.contains("loading")).collect();
        assert_eq!((output.status.code(), errors.len()), (Some(1), 1), "{command} {file}: {error}");
        assert!(error.lines().count() <= 2 && errors[0].is_ascii(), "{command} {file}: {error}");
    }
}
