//! Many clients of all kinds at once: `REMASK_SOAK_CLIENTS` (32) for `REMASK_SOAK_SECONDS` (3).
//! Checks that memory does not leak, no visit gets stuck or fails, and every request is counted
//! correctly. Prints a table of what was measured. `REMASK_SOAK_MODEL` names another model than the
//! embedded one: a smaller model allows more visits in the same time, so leaks per visit show more
//! clearly.

#![cfg(unix)] // the server is stopped by a signal

mod answers;
#[path = "../common/mod.rs"]
mod common;
mod figures;
mod kinds;
mod process;
mod report;
mod visits;

use common::process::Process;
use kinds::{End, Kind, Seen};
use process::{CACHE_BYTES, QUEUE_MAX, RUNNING_MAX, Scrape, Watched};
use report::{LONG, Report, Sample, Waits};
use reqwest::Client;
use std::time::{Duration, Instant};
use visits::Visitor;

/// Runs of at least this length have settled memory after a sixth of the time: ended streams are
/// kept for a minute.
const SETTLED: Duration = Duration::from_secs(360);
/// Growth in MiB that does not count as a leak. At first the pages of connections, caches and kept
/// streams are touched for the first time (256 streams of some 20 KiB are 5 MiB; the slack of the
/// allocator is more). After that, ten visits per second that leak 300 bytes each exceed the second
/// figure within half an hour.
const GROWTH_MAX: f64 = 32.0;
const GROWTH_MAX_SETTLED: f64 = 4.0;
/// Largest ratio between a predicted and a measured wait. Requests that still wait at the end are
/// in only one of the two figures, and requests that come and go during a pass are in no gauge.
const OFF_MAX: f64 = 1.5;
/// How long counters and sequences may take to settle after the last client has gone.
const REST: Duration = Duration::from_secs(60);

/// Samples the server while the clients run: sixty times or once a second, whichever is more often.
async fn watch(server: &Process, lasts: Duration) -> Vec<Sample> {
    let (client, begun, mut samples) = (Client::builder().no_proxy().build().unwrap(), Instant::now(), Vec::new());
    let mut ticks = tokio::time::interval((lasts / 60).min(Duration::from_secs(1)));
    while begun.elapsed() < lasts {
        ticks.tick().await;
        let scrape = Scrape::of(&client, &server.base).await.unwrap();
        samples.push(Sample { at: begun.elapsed().as_secs_f64(), resident: server.resident(), scrape });
    }
    samples
}

/// Runs the clients; returns their observations after the last visit that began in time.
async fn crowd(base: &str, clients: u32, lasts: Duration) -> Seen {
    let until = Instant::now() + lasts;
    let crowd: Vec<_> = (0..clients).map(|number| tokio::spawn(Visitor::new(base, number).stay(until))).collect();
    let mut seen = Seen::default();
    for client in crowd {
        seen.add(client.await.expect("what the server said made no sense"));
    }
    seen
}

/// The counters once the server is idle and has counted every request that the clients know of.
async fn at_rest(server: &Process, seen: &Seen) -> Scrape {
    let (client, begun) = (Client::builder().no_proxy().build().unwrap(), Instant::now());
    loop {
        let scrape = Scrape::of(&client, &server.base).await.unwrap();
        let is_quiet = scrape.get("sequences_running") + scrape.get("sequences_waiting") == 0.0;
        if (is_quiet && Report::miscounted(&scrape, seen).is_empty()) || begun.elapsed() > REST {
            return scrape;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Every kind of visit was made, without an unexpected result.
fn check_visits(Report { clients, seen, .. }: &Report) {
    let errors = &seen.errors;
    assert!(errors.is_empty(), "{} unexpected errors: {:#?}", errors.len(), &errors[..errors.len().min(5)]);
    assert!(seen.visits.len() >= Kind::SHARES.len().min(*clients as usize), "not every kind came: {:?}", seen.visits);
    // with no more clients than places in the queue, the places of running sequences remain for
    // dropped streams
    assert!(seen.ended(End::Refused) == 0 || *clients as usize > QUEUE_MAX, "refused, though there should be room");
}

/// Every sequence ended and is counted by how it ended.
fn check_counters(report: &Report) {
    let rest = &report.rest;
    assert_eq!((rest.get("sequences_running"), rest.get("sequences_waiting")), (0.0, 0.0), "something is under way");
    let [admitted, finished, cancelled, failed] = report.sequences();
    assert_eq!(admitted, finished + cancelled + failed, "{finished} finished, {cancelled} cancelled, {failed} failed");
    assert_eq!((failed, rest.get("model_failures_total")), (0.0, 0.0));
    assert!(finished > 0.0 && cancelled > 0.0, "{finished} finished, {cancelled} cancelled");
    assert_eq!(Report::miscounted(rest, &report.seen), [""; 0], "requests are not counted as they ended");
}

/// Keys and values are kept of sequences under way only.
fn check_caches(report: &Report) {
    let left = [report.rest.get("cache_sequences"), report.rest.get("cache_bytes")];
    assert_eq!(left, [0.0; 2], "keys and values of sequences that are gone");
    let most = report.most("cache_bytes");
    assert!(most <= CACHE_BYTES.into(), "{most} bytes are kept, more than {CACHE_BYTES}");
    assert!(most > 0.0 || report.lasts < LONG, "nothing was kept");
}

fn check_memory(report: &Report) {
    if let Some((trend, _)) = report.memory() {
        let most = if report.lasts >= SETTLED { GROWTH_MAX_SETTLED } else { GROWTH_MAX };
        assert!(trend.is_within_noise() || trend.growth() < most, "memory grew by {} MiB", trend.growth());
    }
}

/// Compares waits with their prediction, in runs that are long enough and have a queue.
fn check_waits(report: &Report) {
    if report.lasts < LONG || (report.clients as usize) < 2 * RUNNING_MAX {
        return;
    }
    let Waits { mean, p99, predicted_mean, predicted_p99, .. } = report.waits().expect("nobody was served");
    let is_near = |least: f64, most: f64, told: f64| (least / OFF_MAX..=most * OFF_MAX).contains(&told);
    assert!(is_near(mean, mean, predicted_mean), "who should wait {predicted_mean} s waits {mean} on average");
    // a histogram has no more precision than its buckets
    assert!(is_near(p99.from, p99.to, predicted_p99), "99 of 100 should wait {predicted_p99} s at most: {p99:?}");
}

/// A number from the environment.
fn told(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |number| number.parse().unwrap_or_else(|_| panic!("{name} is {number:?}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_come_and_go_leave_nothing_behind() {
    let (clients, seconds) = (told("REMASK_SOAK_CLIENTS", 32), told("REMASK_SOAK_SECONDS", 3));
    let lasts = Duration::from_secs(seconds.into());
    let watched = Watched::start(&std::env::var("REMASK_SOAK_MODEL").unwrap_or_else(|_| "sudoku".to_owned()));
    let server = &watched.process;
    let (seen, samples) = tokio::join!(crowd(&server.base, clients, lasts), watch(server, lasts));
    let rest = at_rest(server, &seen).await;
    let report = Report { clients, lasts, seen, samples, rest };
    println!("{}", report.table());
    check_visits(&report);
    check_counters(&report);
    check_caches(&report);
    check_memory(&report);
    check_waits(&report);
    let (status, complaints) = watched.stop();
    assert!(status.success(), "it ended with {status}");
    assert_eq!(complaints, [""; 0], "its log complains");
}
