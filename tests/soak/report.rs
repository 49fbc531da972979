//! The result of a soak as a table: waits and their prediction, memory and its trend, counters.

use crate::common::figures::quantile;
use crate::figures::{Bucketed, Trend, histogram_quantile, mean};
use crate::kinds::{End, Kind, Seen};
use crate::process::Scrape;
use std::collections::BTreeSet;
use std::time::Duration;

/// Runs of at least this length are judged, not only printed.
pub(super) const LONG: Duration = Duration::from_secs(60);
const OUTCOMES: [&str; 5] = ["ok", "invalid", "refused", "failed", "cancelled"];
const MIB_AN_HOUR: f64 = 3600.0;
/// Bytes.
const MIB: f64 = 1024.0 * 1024.0;

/// A sample of the server.
pub(super) struct Sample {
    /// Seconds since the start.
    pub(super) at: f64,
    /// Resident memory in MiB, on systems that report it.
    pub(super) resident: Option<f64>,
    pub(super) scrape: Scrape,
}

/// All that was measured.
pub(super) struct Report {
    pub(super) clients: u32,
    pub(super) lasts: Duration,
    pub(super) seen: Seen,
    /// Samples while the clients ran.
    pub(super) samples: Vec<Sample>,
    /// The counters at the end, with the server idle.
    pub(super) rest: Scrape,
}

/// Seconds in the queue.
pub(super) struct Waits {
    pub(super) mean: f64,
    pub(super) p99: Bucketed,
    pub(super) predicted_mean: f64,
    pub(super) predicted_p99: f64,
    /// The prediction at the resolution of the histogram's buckets.
    bucketed_p99: f64,
}

impl Report {
    /// Waits as measured and as predicted for a queue in order of arrival. By Little's law the mean
    /// is the mean number of waiting requests divided by the throughput; the n-th to arrive is the
    /// n-th to leave. `None` where no request began.
    pub(super) fn waits(&self) -> Option<Waits> {
        const QUEUE: &str = "queue_duration_seconds";
        let Sample { at, scrape, .. } = self.samples.last()?;
        let buckets = scrape.buckets(QUEUE);
        let p99 = histogram_quantile(0.99, &buckets)?;
        let throughput = scrape.left_queue() / at;
        let predicted: Vec<f64> = self.samples.iter().map(|sample| self.wait_at(sample, throughput)).collect();
        let at_most = |bound: f64| predicted.iter().filter(|wait| **wait <= bound).count() as f64;
        let bucketed: Vec<_> = buckets.iter().map(|(bound, _)| (*bound, at_most(*bound))).collect();
        Some(Waits {
            mean: scrape.get(&format!("{QUEUE}_sum")) / scrape.get(&format!("{QUEUE}_count")),
            p99,
            predicted_mean: mean(self.gauge("sequences_waiting")) / throughput,
            predicted_p99: quantile(0.99, predicted.iter().copied()),
            bucketed_p99: histogram_quantile(0.99, &bucketed)?.value,
        })
    }

    /// The wait of a request that arrives at this time: until as many have left the queue as have
    /// arrived, continued after the last sample at the mean throughput.
    fn wait_at(&self, come: &Sample, throughput: f64) -> f64 {
        let count = come.scrape.get("sequences_admitted_total");
        let later = &self.samples[self.samples.partition_point(|sample| sample.scrape.left_queue() < count)..];
        let last = self.samples.last().map_or((0.0, 0.0), |last| (last.at, last.scrape.left_queue()));
        let gone = later.first().map_or_else(|| last.0 + (count - last.1) / throughput, |sample| sample.at);
        (gone - come.at).max(0.0)
    }

    /// The growth of memory after the first sixth, on systems that report it; and memory at the
    /// start, at the sixth and at the end.
    pub(super) fn memory(&self) -> Option<(Trend, [f64; 3])> {
        let points: Vec<_> = self.samples.iter().filter_map(|sample| Some((sample.at, sample.resident?))).collect();
        let later = &points[points.partition_point(|(at, _)| *at < self.lasts.as_secs_f64() / 6.0)..];
        Some((Trend::of(later)?, [points.first()?.1, later.first()?.1, later.last()?.1]))
    }

    /// Endpoints whose counters do not match what the clients saw: the totals must be equal, and
    /// each outcome must lie between the certain and the possible number. `/metrics` is left out,
    /// as it is also requested by the sampling.
    pub(super) fn miscounted(scrape: &Scrape, seen: &Seen) -> Vec<String> {
        let endpoints: BTreeSet<&str> = seen.ends.keys().map(|(endpoint, _)| *endpoint).collect();
        let mut wrong = Vec::new();
        for endpoint in endpoints.into_iter().filter(|endpoint| *endpoint != "/metrics") {
            let ends = || seen.ends.iter().filter(|((other, _), _)| *other == endpoint);
            let mut counted = 0.0;
            for outcome in OUTCOMES {
                let may = ends().filter(|((_, end), _)| end.outcomes().contains(&outcome));
                let most: u64 = may.clone().map(|(_, count)| count).sum();
                let least: u64 = may.filter(|((_, end), _)| end.outcomes().len() == 1).map(|(_, count)| count).sum();
                let told = scrape.requests(endpoint, outcome);
                counted += told;
                if told < least as f64 || told > most as f64 {
                    wrong.push(format!("{endpoint}: {told} {outcome}, of {least} to {most}"));
                }
            }
            let sent: u64 = ends().map(|(_, count)| count).sum();
            if counted != sent as f64 {
                wrong.push(format!("{endpoint}: {counted} requests, of {sent}"));
            }
        }
        wrong
    }

    /// Counts of sequences at the end: admitted, finished, cancelled, failed.
    pub(super) fn sequences(&self) -> [f64; 4] {
        ["admitted", "finished", "cancelled", "failed"].map(|end| self.rest.get(&format!("sequences_{end}_total")))
    }

    fn gauge(&self, name: &str) -> impl Iterator<Item = f64> {
        self.samples.iter().map(move |sample| sample.scrape.get(name))
    }

    /// The largest value of a gauge while the clients ran.
    pub(super) fn most(&self, name: &str) -> f64 {
        self.gauge(name).fold(0.0, f64::max)
    }

    /// As a table for `benches/RESULTS.md`.
    pub(super) fn table(&self) -> String {
        let build = if cfg!(debug_assertions) { "test build" } else { "release build" };
        let title = format!("{} clients for {} s, {build}", self.clients, self.lasts.as_secs());
        let rows = [
            Some((title, String::new())),
            Some(("---".to_owned(), "---".to_owned())),
            Some(("visits".to_owned(), self.visits())),
            Some(("unexpected errors".to_owned(), self.seen.errors.len().to_string())),
            Some(("refused for want of room".to_owned(), self.seen.ended(End::Refused).to_string())),
            self.throughput().map(|told| ("throughput".to_owned(), told)),
            self.resident().map(|told| ("the server's resident memory".to_owned(), told)),
            Some(("keys and values".to_owned(), self.kept())),
            Some(("sequences".to_owned(), self.balance())),
            Some(("requests".to_owned(), self.requests())),
            self.mean_wait().map(|told| ("mean time in the queue".to_owned(), told)),
            self.longest_wait().map(|told| ("99 of 100 waited at most".to_owned(), told)),
        ];
        rows.into_iter().flatten().map(|(name, what)| format!("| {name} | {what} |\n")).collect()
    }

    fn visits(&self) -> String {
        let of = |(kind, _)| format!("{} {kind:?}", self.seen.visits.get(&kind).copied().unwrap_or_default());
        let total: u64 = self.seen.visits.values().sum();
        format!("{total}: {}", Kind::SHARES.map(of).join(", ").to_lowercase())
    }

    fn throughput(&self) -> Option<String> {
        let Sample { at, scrape, .. } = self.samples.last()?;
        let per_second = |name: &str| scrape.get(name) / at;
        Some(format!(
            "{:.1} answers a second, in {:.1} passes of {:.1} sequences; {:.1} running and {:.1} waiting on average",
            per_second("sequences_finished_total"),
            per_second("forward_passes_total"),
            scrape.get("batch_sequences_sum") / scrape.get("batch_sequences_count"),
            mean(self.gauge("sequences_running")),
            mean(self.gauge("sequences_waiting")),
        ))
    }

    fn resident(&self) -> Option<String> {
        let (trend, [start, settled, end]) = self.memory()?;
        let sizes = format!("{start:.1} MiB at the start, {settled:.1} after a sixth of the time, {end:.1} at the end");
        if self.lasts < LONG {
            return Some(sizes);
        }
        let [slope, error] = [trend.slope, trend.error].map(|per_second| per_second * MIB_AN_HOUR);
        let verdict = if trend.is_within_noise() { "within noise" } else { "more than noise" };
        let growth = trend.growth();
        Some(format!(
            "{sizes}; since that sixth {slope:+.1} ± {error:.1} MiB an hour (standard error): {growth:+.1} MiB, {verdict}"
        ))
    }

    fn kept(&self) -> String {
        let evicted = self.rest.get("cache_evictions_total");
        format!(
            "{:.1} MiB of {:.1} sequences on average, {:.1} MiB of {} at most; {evicted} lost theirs",
            mean(self.gauge("cache_bytes")) / MIB,
            mean(self.gauge("cache_sequences")),
            self.most("cache_bytes") / MIB,
            self.most("cache_sequences"),
        )
    }

    fn balance(&self) -> String {
        let [admitted, finished, cancelled, failed] = self.sequences();
        format!("{admitted} admitted = {finished} finished + {cancelled} cancelled + {failed} failed")
    }

    fn requests(&self) -> String {
        let ends = self.seen.ends.iter().filter(|((endpoint, _), _)| *endpoint != "/metrics");
        let sent: u64 = ends.map(|(_, count)| count).sum();
        let (left, broken) = (self.seen.ended(End::Left), self.seen.ended(End::Broken));
        let same = if Self::miscounted(&self.rest, &self.seen).is_empty() { "as" } else { "not as" };
        format!(
            "{sent}, counted {same} their clients saw them end; of {left} that were left and {broken} that broke off, each is one of two"
        )
    }

    fn mean_wait(&self) -> Option<String> {
        let Waits { mean, predicted_mean, .. } = self.waits()?;
        Some(format!("{mean:.2} s; predicted {predicted_mean:.2} s"))
    }

    fn longest_wait(&self) -> Option<String> {
        let Waits { p99, predicted_p99, bucketed_p99, .. } = self.waits()?;
        let Bucketed { value, from, to } = p99;
        Some(format!(
            "{value:.2} s, as read from a bucket of {from} to {to} s; predicted {predicted_p99:.2} s, which those buckets show as \
             {bucketed_p99:.2} s"
        ))
    }
}

#[test]
fn counters_that_are_off_are_named() {
    let seen = |left: u64| {
        let mut seen = Seen::default();
        seen.ends.extend([(("/a", End::Ok), 2), (("/a", End::Left), left), (("/metrics", End::Ok), 9)]);
        seen
    };
    let told = |ok: u64, cancelled: u64| {
        Scrape::from_text(&format!(
            "# HELP remask_requests_total Requests\nremask_requests_total{{endpoint=\"/a\",outcome=\"ok\"}} {ok}\n\
             remask_requests_total{{endpoint=\"/a\",outcome=\"cancelled\"}} {cancelled}\n"
        ))
    };
    for (ok, cancelled) in [(2, 1), (3, 0)] {
        assert_eq!(Report::miscounted(&told(ok, cancelled), &seen(1)), [""; 0]);
    }
    for (ok, cancelled, named) in [(2, 0, "/a: 2 requests, of 3"), (1, 2, "/a: 1 ok, of 2 to 3"), (3, 1, "of 3")] {
        let wrong = Report::miscounted(&told(ok, cancelled), &seen(1));
        assert!(wrong.iter().any(|what| what.contains(named)), "{wrong:?}");
    }
}

#[test]
fn who_comes_as_the_nth_goes_as_the_nth() {
    let sample = |at: f64, come: u64, waiting: u64| {
        let text = format!("remask_sequences_admitted_total {come}\nremask_sequences_waiting {waiting}\n");
        Sample { at, resident: None, scrape: Scrape::from_text(&text) }
    };
    let samples = vec![sample(0.0, 4, 0), sample(1.0, 10, 4), sample(5.0, 16, 6), sample(6.0, 20, 5)];
    let (lasts, rest) = (Duration::from_secs(6), Scrape::default());
    let report = Report { clients: 1, lasts, seen: Seen::default(), samples, rest };
    let waits: Vec<f64> = report.samples.iter().map(|sample| report.wait_at(sample, 2.0)).collect();
    assert_eq!(waits, [0.0, 4.0, 1.5, 2.5]);
}
