//! Many clients that come, read a while and often leave: nothing may leak, stick or fail. Runs for
//! `REMASK_SOAK_SECONDS`, by default 3.

mod common;

use common::server::Server;
use futures_util::StreamExt;
use remask::diffusion::{Draws, Position, Purpose, Seed};
use serde_json::json;
use std::time::{Duration, Instant};

const CLIENTS: u32 = 64;
/// Growth of the resident set that is not called a leak, in MiB: buffers of 64 connections and the allocator's slack.
const GROWTH_MAX: f64 = 64.0;
/// Crowds that follow each other, so that what is printed tells growth from warming up.
const QUARTERS: u32 = 4;

/// What one client saw.
#[derive(Default)]
struct Seen {
    read: usize,
    left: usize,
}

async fn client(server: &Server, number: u32, until: Instant) -> Seen {
    let mut seen = Seen::default();
    for visit in 0.. {
        if Instant::now() >= until {
            break;
        }
        let [kind, patience] = Draws::new(Seed(7), Purpose::Toy, visit, Position(number)).uniforms();
        let (path, body) = if kind < 0.5 {
            let diffusion = json!({"stream_edits": true, "block_length": 16});
            (
                "/v1/completions",
                json!({"prompt": format!("{number}"), "seed": visit, "temperature": kind, "stream": true,
                                       "max_tokens": 64, "diffusion": diffusion}),
            )
        } else {
            ("/v1/infill", json!({"template": format!("{visit}<blank:40>."), "stream": true}))
        };
        let response = server.post(path, &body).await;
        assert_eq!(response.status(), 200);
        let mut chunks = response.bytes_stream();
        let mut text = Vec::new();
        // half of the visits end after a few frames
        let frames_max = if patience < 0.5 { (patience * 40.0) as usize } else { usize::MAX };
        let mut frames = 0;
        while frames < frames_max
            && let Some(chunk) = chunks.next().await
        {
            text.extend_from_slice(&chunk.unwrap());
            frames += 1;
        }
        let text = String::from_utf8(text).unwrap();
        assert!(!text.contains("\"error\""), "{text}");
        let is_whole = text.ends_with("data: [DONE]\n\n") || text.contains("event: done");
        assert!(is_whole || frames == frames_max, "{text} ends early");
        if is_whole { seen.read += 1 } else { seen.left += 1 }
    }
    seen
}

/// The resident set in MiB, where the system tells.
fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_come_and_go_leave_nothing_behind() {
    let seconds = std::env::var("REMASK_SOAK_SECONDS").map_or(3, |seconds| seconds.parse().unwrap());
    let server = Server::toy().await;
    let crowd = async |duration: Duration| {
        let until = Instant::now() + duration;
        let clients = (0..CLIENTS).map(|number| client(&server, number, until));
        futures_util::future::join_all(clients).await
    };
    crowd(Duration::from_millis(500)).await; // connections, pools and caches are made once
    let mut sizes: Vec<f64> = resident().into_iter().collect();
    let (mut read, mut left) = (0, 0);
    for _ in 0..QUARTERS {
        for seen in crowd(Duration::from_secs(seconds) / QUARTERS).await {
            (read, left) = (read + seen.read, left + seen.left);
        }
        sizes.extend(resident());
    }
    server.until("remask_sequences_running 0").await;
    server.until("remask_sequences_waiting 0").await;
    println!("{read} answers read, {left} left; resident {sizes:.1?} MiB");
    assert!(read > 0 && left > 0);
    if let [first, .., last] = sizes[..] {
        assert!(last - first < GROWTH_MAX, "grew: {sizes:?}");
    }
}
