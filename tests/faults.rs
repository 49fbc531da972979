//! Failures that the server has to survive, tested on the program itself: signals, clients that are
//! slow, broken or too many, and logs that cannot be written. `deploy/RUNBOOK.md` refers to each
//! test by its outcome.

mod common;

use common::process::{Process, signal};
use futures_util::StreamExt;
use futures_util::future::join_all;
use reqwest::{Client, Response};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const PUZZLE: &str =
    "53..7....\n6..195...\n.98....6.\n8...6...3\n4..8.3..1\n7...2...6\n.6....28.\n...419..5\n....8..79";
const PATIENCE: Duration = Duration::from_secs(60);

fn client() -> Client {
    Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

async fn infill(server: &Process, stream: bool) -> reqwest::Result<Response> {
    let body = json!({"template": PUZZLE, "blank": ".", "seed": 7, "stream": stream, "diffusion": {"steps": 51}});
    client().post(server.url("/v1/infill")).json(&body).send().await
}

/// The text that a puzzle is answered with.
async fn solved(server: &Process) -> String {
    let answer: Value = infill(server, false).await.unwrap().json().await.unwrap();
    answer["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// A connection on which `words` were sent. The test may never read the answer.
fn said(address: &str, words: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(words.as_bytes()).unwrap();
    stream
}

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: here\r\n\r\n";

/// Whether an answer of 200 begins on this connection, which stays open.
fn is_answered(stream: &mut TcpStream) -> bool {
    let mut head = [0; 12];
    stream.read_exact(&mut head).is_ok() && &head == b"HTTP/1.1 200"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_under_load_it_finishes_what_it_admitted_and_exits_with_0() {
    let mut server = Process::serve(&["--drain-timeout", "600"]);
    let streams = join_all((0..24).map(|_| infill(&server, true))).await;
    let mut streams: Vec<_> = streams.into_iter().map(|stream| stream.unwrap().bytes_stream()).collect();
    let mut texts = Vec::new();
    for stream in &mut streams {
        texts.push(stream.next().await.unwrap().unwrap().to_vec());
    }
    server.signal("TERM");
    for (stream, text) in streams.iter_mut().zip(&mut texts) {
        while let Some(chunk) = stream.next().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        let text = String::from_utf8_lossy(text);
        assert!(text.contains("event: done") && !text.contains("event: error"), "{text}");
    }
    assert!(server.ended().success());
    assert!(infill(&server, false).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again_on_its_port_it_answers_as_before() {
    let mut first = Process::serve(&[]);
    let before = solved(&first).await;
    let mut stream = infill(&first, true).await.unwrap().bytes_stream();
    stream.next().await.unwrap().unwrap();
    first.signal("KILL");
    assert!(!first.ended().success());
    while let Some(chunk) = stream.next().await {
        let Ok(chunk) = chunk else { break }; // a broken connection, which is not a regular end
        assert!(!String::from_utf8_lossy(&chunk).contains("event: done"), "it was over before it was killed");
    }
    let port = first.address().rsplit_once(':').unwrap().1.parse().unwrap();
    let second = Process::at(port, &[]);
    assert_eq!(solved(&second).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_never_read_keep_nobody_waiting() {
    const READERS: usize = 40;
    let server = Process::serve(&["--model-id", "toy"]);
    let before = server.resident();
    let body =
        json!({"prompt": "x", "max_tokens": 1000, "stream": true, "diffusion": {"stream_edits": true}}).to_string();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let readers: Vec<TcpStream> = (0..READERS).map(|_| said(server.address(), &request)).collect();
    let client = client();
    let begun = Instant::now();
    loop {
        let metrics = client.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
        if metrics.contains(&format!("remask_sequences_finished_total{{model=\"toy\"}} {READERS}\n")) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the engine waits for its readers:\n{metrics}");
    }
    let answer = client.post(server.url("/v1/completions")).json(&json!({"prompt": "y", "max_tokens": 8})).send().await;
    assert_eq!(answer.unwrap().status(), 200);
    if let (Some(before), Some(after)) = (before, server.resident()) {
        let each = (after - before) / READERS as f64;
        println!("{each:.2} MiB for each reader that does not read");
        assert!(each < 4.0, "{each} MiB each"); // a canvas of 1,000 cells with two edits each, and the system's buffers
    }
    drop(readers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_half_there_keep_nobody_waiting_and_do_not_keep_it_from_ending() {
    let mut server = Process::serve(&["--model-id", "toy"]);
    let half = [
        "",
        "P",
        "PRI * HTTP/2.0\r\n",
        "GET /health HT",
        "GET /health HTTP/1.1\r\nHost: here\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n{\"prompt",
        "POST /v1/completions HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n{",
    ];
    let open: Vec<TcpStream> =
        half.iter().cycle().take(10 * half.len()).map(|words| said(server.address(), words)).collect();
    assert!(is_answered(&mut said(server.address(), HEALTH)));
    server.signal("TERM");
    assert!(server.ended().success());
    drop(open);
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_keep_nobody_waiting() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let most = usize::try_from(limit.maximum.unwrap_or(u64::MAX) / 2).unwrap_or(usize::MAX);
    let count = 10_000.min(most);
    let server = Process::serve(&["--model-id", "toy"]);
    assert!(is_answered(&mut said(server.address(), HEALTH)));
    let before = server.resident();
    let mut idle: Vec<TcpStream> = (0..count).map(|_| said(server.address(), HEALTH)).collect();
    assert!(idle.iter_mut().all(is_answered));
    if let (Some(before), Some(after)) = (before, server.resident()) {
        let each = (after - before) * 1024.0 / count as f64;
        println!("{count} idle connections, {each:.1} KiB each");
        assert!(each < 64.0, "{each} KiB each");
    }
    assert!(is_answered(&mut said(server.address(), HEALTH)), "a newcomer is answered");
    idle[0].write_all(HEALTH.as_bytes()).unwrap();
    let mut rest = String::new();
    while !rest.ends_with("HTTP/1.1 200") {
        let mut byte = [0];
        idle[0].read_exact(&mut byte).unwrap();
        rest.push(char::from(byte[0]));
    }
}

/// A server that may open so many files, of which half are for connections.
fn with_files(count: usize) -> Process {
    let shell = format!("ulimit -n {count}; exec \"$0\" serve --port 0 --model-id toy");
    Process::of(Command::new("sh").args(["-c", &shell, env!("CARGO_BIN_EXE_remask")]))
}

#[test]
fn with_few_files_idle_connections_give_up_their_places_to_newcomers() {
    const FILES: usize = 96;
    let mut server = with_files(FILES);
    let mut all: Vec<TcpStream> = (0..FILES / 4).map(|_| said(server.address(), HEALTH)).collect();
    assert!(all.iter_mut().all(is_answered), "a quarter of its files is not all there is");
    for _ in 0..FILES {
        let mut newcomer = said(server.address(), HEALTH);
        assert!(is_answered(&mut newcomer), "an idle connection is closed instead");
        all.push(newcomer);
        std::thread::sleep(Duration::from_millis(20)); // as fast as idle connections become old enough
    }
    server.until_said("those that wait for their clients are closed");
    server.signal("TERM");
    assert!(server.ended().success());
}

#[test]
fn half_sent_bodies_on_every_place_keep_nobody_out() {
    let mut server = with_files(256);
    let half = "POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n{\"prompt";
    let open: Vec<TcpStream> = (0..250).map(|_| said(server.address(), half)).collect();
    for _ in 0..8 {
        assert!(is_answered(&mut said(server.address(), HEALTH)));
    }
    drop(open);
    server.signal("TERM");
    assert!(server.ended().success());
}

/// Requests whose log lines are more than a pipe holds.
fn talk(address: &str) {
    let request = format!(
        "POST /v1/score HTTP/1.1\r\nHost: here\r\nX-Request-Id: {}\r\nContent-Length: 12\r\n\r\n{{\"text\":\"a\"}}",
        "x".repeat(128)
    );
    for _ in 0..1000 {
        assert!(said(address, &request).read_exact(&mut [0; 12]).is_ok());
    }
}

#[test]
fn a_log_that_nobody_takes_keeps_nobody_waiting() {
    for is_closed in [true, false] {
        let mut server = Process::serve(&["--model-id", "toy"]);
        if is_closed {
            drop(server.take_lines());
        } // else the pipe fills up
        talk(server.address());
        assert!(is_answered(&mut said(server.address(), HEALTH)), "closed: {is_closed}");
        server.signal("TERM");
        assert!(server.ended().success(), "closed: {is_closed}");
    }
}

/// Whether the server of this name answers at this address.
fn serves(address: &str, name: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let (mut answer, request) = (String::new(), "GET /v1/models HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains(name)
}

/// A server whose log goes to a full disk, and its address. The greeting with the port cannot be
/// read from there, so the test chooses ports until the server gets one: anything that runs beside
/// the test may take a port that was free a moment ago.
fn with_a_full_disk() -> (Child, String) {
    let (begun, name) = (Instant::now(), format!("full-disk-{}", std::process::id()));
    loop {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (_, port) = address.rsplit_once(':').unwrap();
        let mut server = Command::new(env!("CARGO_BIN_EXE_remask"))
            .args(["serve", "--model-id", "toy", "--served-model-name", &name, "--port", port])
            .stderr(std::fs::File::options().write(true).open("/dev/full").unwrap())
            .spawn()
            .unwrap();
        while server.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "it does not serve");
            if serves(&address, &name) {
                return (server, address);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_full_disk_for_the_log_is_no_fault_of_the_server() {
    let (mut server, address) = with_a_full_disk();
    talk(&address);
    assert!(is_answered(&mut said(&address, HEALTH)));
    signal(server.id(), "TERM");
    assert!(server.wait().unwrap().success());
}
