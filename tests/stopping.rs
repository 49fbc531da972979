//! Signals and files that never end, while a model is loaded: the program ends at once.
#![cfg(unix)]

mod common;

use common::process::signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn ended(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program whose model is on a hub that takes requests and never answers.
fn loading(command: &str, hub: &TcpListener, home: &Path) -> Child {
    let flags: &[&str] = match command {
        "serve" => &["serve", "--port", "0"],
        other => &[other, "--prompt", "Once"],
    };
    let mut program = Command::new(env!("CARGO_BIN_EXE_remask"));
    program.args(flags).args(["--model-id", "owner/never"]).env("HF_HOME", home);
    program.env("HF_ENDPOINT", format!("http://{}", hub.local_addr().unwrap())).env_remove("HF_HUB_OFFLINE");
    program.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_signal_while_a_model_is_downloaded_ends_the_program_at_once() {
    for (command, name, code) in [("serve", "TERM", 143), ("serve", "INT", 130), ("generate", "TERM", 143)] {
        let (hub, home) = (TcpListener::bind("127.0.0.1:0").unwrap(), tempfile::tempdir().unwrap());
        let mut child = loading(command, &hub, home.path());
        let _asked = hub.accept().unwrap(); // the loader waits for an answer now
        signal(child.id(), name);
        let status = ended(&mut child);
        // a program without a handler ends by the signal, which a shell reports as the same code
        let reported = status.code().or_else(|| Some(128 + std::os::unix::process::ExitStatusExt::signal(&status)?));
        assert_eq!(reported, Some(code), "{command}");
    }
}

/// A model of random weights whose answer of 1,000 steps takes far longer than the test.
const SLOW: &str = r#"{
    "architectures": ["LLaDAModelLM"], "model_type": "llada", "block_type": "llama", "activation_type": "silu",
    "layer_norm_type": "rms", "d_model": 512, "n_layers": 8, "n_heads": 8, "mlp_hidden_size": 2048,
    "vocab_size": 1000, "max_sequence_length": 1024, "rope": true, "weight_tying": false, "mask_token_id": 999
}"#;

/// A server with a request under way that takes far longer than the test; its connection.
fn busy(dir: &Path) -> (Child, String, TcpStream) {
    std::fs::write(dir.join("config.json"), SLOW).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
    command.args(["serve", "--port", "0", "--load-format", "dummy", "--drain-timeout", "600", "--model-id"]);
    let mut child = command.arg(dir).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = lines.find_map(|line| Some(line.unwrap().split_once(") on http://")?.1.to_owned())).unwrap();
    std::thread::spawn(move || lines.for_each(drop)); // or a full pipe would hold the server
    let body = r#"{"prompt": [1, 2, 3], "max_tokens": 1000, "stream": true, "diffusion": {"block_length": 1000}}"#;
    let request = format!("POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream.read_exact(&mut [0; 12]).unwrap(); // it is admitted
    (child, address, stream)
}

fn until_draining(address: &str) {
    while TcpStream::connect(address).is_ok_and(|stream| is_ready(&stream)) {}
}

/// Sends the signal again and again until the program ends.
fn signal_until_ended(child: &mut Child, name: &str) -> ExitStatus {
    let begun = Instant::now();
    loop {
        signal(child.id(), name);
        std::thread::sleep(Duration::from_millis(50));
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not end");
    }
}

#[test]
fn a_second_signal_ends_a_drain() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, address, _stream) = busy(dir.path());
    signal(child.id(), "TERM");
    until_draining(&address);
    assert_eq!(child.try_wait().unwrap(), None, "it drains");
    assert_eq!(signal_until_ended(&mut child, "TERM").code(), Some(143));
}

#[test]
fn signals_within_a_second_are_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, address, mut stream) = busy(dir.path());
    let begun = Instant::now();
    // as `timeout` sends it, to its child and to its process group
    ["TERM", "TERM", "INT", "TERM"].into_iter().for_each(|name| signal(child.id(), name));
    until_draining(&address);
    stream.read_exact(&mut [0; 64]).unwrap(); // the request goes on
    let status = signal_until_ended(&mut child, "INT");
    assert_eq!(status.code(), Some(130));
    assert!(begun.elapsed() >= Duration::from_secs(1), "a signal within a second has ended it: {:?}", begun.elapsed());
}

/// Whether the server takes new requests.
fn is_ready(mut stream: &TcpStream) -> bool {
    let mut answer = [0; 12];
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: h\r\n\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == *b"HTTP/1.1 200"
}

#[test]
fn files_that_are_no_regular_files_are_refused() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/llada-tiny");
    for name in
        ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors", "prism_head.safetensors"]
    {
        for kind in ["pipe", "device", "directory"] {
            let dir = tempfile::tempdir().unwrap();
            for file in ["config.json", "generation_config.json", "model.safetensors"] {
                std::fs::copy(data.join(file), dir.path().join(file)).unwrap();
            }
            let odd = dir.path().join(name);
            let _ = std::fs::remove_file(&odd); // it may not exist
            match kind {
                "pipe" => assert!(Command::new("mkfifo").arg(&odd).status().unwrap().success()),
                "device" => std::os::unix::fs::symlink("/dev/zero", &odd).unwrap(),
                _ => std::fs::create_dir(&odd).unwrap(),
            }
            let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
            command.args(["read", "--prompt-ids", "1,2", "--json", "--model-id"]).arg(dir.path());
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let status = ended(&mut child);
            let mut error = String::new();
            child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
            let what = if kind == "directory" { "a directory" } else { "a pipe, socket or device" };
            assert!(!status.success() && error.contains(name) && error.contains(what), "{name} as {kind}: {error}");
        }
    }
}
