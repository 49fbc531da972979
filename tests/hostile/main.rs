//! Hostile clients beside ordinary ones: four of them send what could hurt the others, for
//! `REMASK_HOSTILE_SECONDS` (2) on the embedded model and on the toy, each attack at least once.
//! Checks that no ordinary request fails or changes its answer, that the server's memory stays
//! bounded, and that no attack is answered by a server error. Prints a table of what was measured.

#![cfg(unix)] // the server is stopped by a signal

mod attacks;
#[path = "../common/mod.rs"]
mod common;
mod ordinary;
mod report;

use attacks::{Attack, Seen};
use common::process::Process;
use ordinary::{Ordinary, Visits};
use report::Report;
use reqwest::Client;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ATTACKERS: usize = 4;
const ORDINARY: usize = 2;
/// Largest resident set of the server in MiB: 600 MB.
const RESIDENT_MAX: f64 = 572.0;
/// The longest that 99 of 100 answers of `/health` may take, checked in long runs only: others are
/// for machines that do something else as well.
const HEALTH_MAX: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(60);
const HEALTH_EVERY: Duration = Duration::from_millis(20);

/// Makes the attacks in turn, from one of them on, until each was made and the time is over.
async fn attack(base: String, attacks: Arc<[Attack]>, first: usize, until: Instant) -> Vec<Seen> {
    let (client, mut held, mut seen) = (ordinary::client(), Vec::new(), Vec::new());
    for (turn, attack) in attacks.iter().cycle().skip(first).enumerate() {
        if turn >= attacks.len() && Instant::now() >= until {
            break;
        }
        seen.push(attack.make(&client, &base, &mut held).await);
    }
    seen
}

/// How long each answer of `/health` takes until the other clients have gone.
async fn health(base: &str, done: &tokio::sync::Notify) -> Vec<Duration> {
    let (client, mut waits) = (Client::builder().no_proxy().build().unwrap(), Vec::new());
    let mut ticks = tokio::time::interval(HEALTH_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = done.notified() => return waits,
        }
        let begun = Instant::now();
        client.get(format!("{base}/health")).send().await.unwrap().error_for_status().unwrap();
        waits.push(begun.elapsed());
    }
}

async fn run(model: &'static str, lasts: Duration) -> Report {
    let mut server = Process::serve(&["--model-id", model]);
    let lines = server.take_lines();
    let log = std::thread::spawn(move || lines.iter().filter(|line| line.contains("panicked")).collect::<Vec<_>>());
    let ordinary = Ordinary::of(model, &server.base).await;
    let (attacks, until): (Arc<[Attack]>, _) = (attacks::all(model).into(), Instant::now() + lasts);
    let done = tokio::sync::Notify::new();
    let others = async {
        let attackers: Vec<_> = (0..ATTACKERS)
            .map(|number| {
                let first = number * attacks.len() / ATTACKERS;
                tokio::spawn(attack(server.base.clone(), Arc::clone(&attacks), first, until))
            })
            .collect();
        let visitors: Vec<_> = (0..ORDINARY).map(|_| tokio::spawn(ordinary.clone().visit(until))).collect();
        let (mut seen, mut visits) = (Vec::new(), Visits::default());
        for attacker in attackers {
            seen.extend(attacker.await.unwrap());
        }
        for visitor in visitors {
            let Visits { waits, failures } = visitor.await.unwrap();
            visits.waits.extend(waits);
            visits.failures.extend(failures);
        }
        done.notify_one();
        (seen, visits)
    };
    let ((seen, visits), health) = tokio::join!(others, health(&server.base, &done));
    let peak = server.peak();
    server.signal("TERM");
    let status = server.ended();
    assert!(status.success(), "{model} ended with {status}");
    assert_eq!(log.join().unwrap(), [""; 0]);
    Report { model, lasts, seen, visits, health, peak }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_hurt_nobody_else() {
    let seconds = std::env::var("REMASK_HOSTILE_SECONDS").map_or(2, |seconds| seconds.parse().unwrap());
    let lasts = Duration::from_secs(seconds);
    for model in ["sudoku", "toy"] {
        let report = run(model, lasts).await;
        println!("{}", report.table());
        let errors: Vec<_> = report.seen.iter().filter(|seen| matches!(seen.status, Some(500..=502))).collect();
        assert!(errors.is_empty(), "{errors:#?}");
        let failures = &report.visits.failures;
        assert!(failures.is_empty(), "{} ordinary requests failed, such as {}", failures.len(), failures[0]);
        if let Some(peak) = report.peak {
            assert!(peak < RESIDENT_MAX, "the server took {peak:.0} MiB");
        }
        assert!(lasts < LONG || report.health_p99() < HEALTH_MAX, "/health took {:?}", report.health_p99());
    }
}
