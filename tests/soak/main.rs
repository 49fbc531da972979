//! Many clients of all kinds at once, `REMASK_SOAK_CLIENTS` of them for `REMASK_SOAK_SECONDS` (by default 32 for 3): nothing may leak,
//! stick, fail or be counted wrongly. What was measured is printed as a table. `REMASK_SOAK_MODEL` names another model than the
//! embedded one: the smaller it is, the more visits there are in the same time, and the clearer is what each of them leaves behind.

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
use process::{QUEUE_MAX, RUNNING_MAX, Scrape, Watched};
use report::{LONG, Report, Sample, Waits};
use reqwest::Client;
use std::time::{Duration, Instant};
use visits::Visitor;

/// From here on memory has settled after a sixth of the time: streams that ended are kept for a minute, to be read on.
const SETTLED: Duration = Duration::from_secs(360);
/// Growth that is never called a leak, in MiB. At first the pages of connections, caches and kept streams are touched one after the
/// other (256 streams of some 20 KiB are 5 MiB, the allocator's slack is more). Once that is over, ten visits a second that each
/// leak 300 bytes come to more than the second figure within half an hour.
const GROWTH_MAX: f64 = 32.0;
const GROWTH_MAX_SETTLED: f64 = 4.0;
/// How far a prediction may be off: who still waits when the time is up is in one figure and not in the other, and who comes and
/// goes while a pass is made is in no gauge.
const OFF_MAX: f64 = 1.5;
/// How long counters and sequences may take to come to rest after the last client has gone.
const REST: Duration = Duration::from_secs(60);

/// Looks at the server while the clients are there, sixty times or once a second, whichever is more.
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

/// What the clients saw, until the last visit that had begun in time was over.
async fn crowd(base: &str, clients: u32, lasts: Duration) -> Seen {
    let until = Instant::now() + lasts;
    let crowd: Vec<_> = (0..clients).map(|number| tokio::spawn(Visitor::new(base, number).stay(until))).collect();
    let mut seen = Seen::default();
    for client in crowd {
        seen.add(client.await.expect("what the server said made no sense"));
    }
    seen
}

/// What the server has counted once nothing is under way, and every request that the clients know of is counted.
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

/// Nobody met anything that was not to be expected, and every kind of visit was made.
fn check_visits(Report { clients, seen, .. }: &Report) {
    let errors = &seen.errors;
    assert!(errors.is_empty(), "{} unexpected errors: {:#?}", errors.len(), &errors[..errors.len().min(5)]);
    assert!(seen.visits.len() >= Kind::SHARES.len().min(*clients as usize), "not every kind came: {:?}", seen.visits);
    // where no more clients come than may wait, the places of those that run are left for what dropped streams leave behind
    assert!(seen.ended(End::Refused) == 0 || *clients as usize > QUEUE_MAX, "refused, though there should be room");
}

/// What came has gone, and is counted as what it was.
fn check_counters(report: &Report) {
    let rest = &report.rest;
    assert_eq!((rest.get("sequences_running"), rest.get("sequences_waiting")), (0.0, 0.0), "something is under way");
    let [admitted, finished, cancelled, failed] = report.sequences();
    assert_eq!(admitted, finished + cancelled + failed, "{finished} finished, {cancelled} cancelled, {failed} failed");
    assert_eq!((failed, rest.get("model_failures_total")), (0.0, 0.0));
    assert!(finished > 0.0 && cancelled > 0.0, "{finished} finished, {cancelled} cancelled");
    assert_eq!(Report::miscounted(rest, &report.seen), [""; 0], "requests are not counted as they ended");
}

fn check_memory(report: &Report) {
    if let Some((trend, _)) = report.memory() {
        let most = if report.lasts >= SETTLED { GROWTH_MAX_SETTLED } else { GROWTH_MAX };
        assert!(trend.is_within_noise() || trend.growth() < most, "memory grew by {} MiB", trend.growth());
    }
}

/// Where there is a queue to speak of, for long enough.
fn check_waits(report: &Report) {
    if report.lasts < LONG || (report.clients as usize) < 2 * RUNNING_MAX {
        return;
    }
    let Waits { mean, p99, predicted_mean, predicted_p99, .. } = report.waits().expect("nobody was served");
    let is_near = |least: f64, most: f64, told: f64| (least / OFF_MAX..=most * OFF_MAX).contains(&told);
    assert!(is_near(mean, mean, predicted_mean), "who should wait {predicted_mean} s waits {mean} on average");
    // a histogram tells no more than the bucket
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
    check_memory(&report);
    check_waits(&report);
    let (status, complaints) = watched.stop();
    assert!(status.success(), "it ended with {status}");
    assert_eq!(complaints, [""; 0], "its log complains");
}
