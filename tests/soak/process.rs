//! The server as a process of its own, so that its memory is separate from that of its clients; its
//! log and its metrics.

use crate::common::process::Process;
use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::thread::JoinHandle;

/// Limits on running and waiting sequences, equal to the defaults. Set here because the checks
/// depend on them.
pub(super) const RUNNING_MAX: usize = 64;
pub(super) const QUEUE_MAX: usize = 256;
/// Budget of keys and values in bytes. Some four sequences of the embedded model fit, so many lose
/// theirs while they run.
pub(super) const CACHE_BYTES: u32 = 4 << 20;
/// Seconds that a dropped stream goes on: some end in this time, most are given up.
const RESUME_GRACE: &str = "2";

/// A running server whose log is read.
pub(super) struct Watched {
    pub(super) process: Process,
    /// Warnings and errors in its log.
    complaints: JoinHandle<Vec<String>>,
}

impl Watched {
    /// Serves a Sudoku model; returns once it is ready.
    pub(super) fn start(model: &str) -> Self {
        let [running, queue, bytes] = [RUNNING_MAX, QUEUE_MAX, CACHE_BYTES as usize].map(|limit| limit.to_string());
        let limits = ["--max-concurrent-requests", &running, "--max-queue", &queue, "--cache-bytes", &bytes];
        let model = ["--model-id", model, "--served-model-name", "sudoku", "--log-format", "text"];
        let grace = ["--resume-grace", RESUME_GRACE];
        let mut process = Process::serve(&[&model[..], &limits, &grace].concat());
        let lines = process.take_lines();
        let is_complaint = |line: &String| [" WARN ", " ERROR ", "panicked"].iter().any(|word| line.contains(word));
        let complaints = std::thread::spawn(move || lines.iter().filter(is_complaint).collect());
        Self { process, complaints }
    }

    /// Stops it with a signal; returns its exit status, warnings and errors.
    pub(super) fn stop(self) -> (ExitStatus, Vec<String>) {
        let Self { mut process, complaints } = self;
        process.signal("TERM");
        (process.ended(), complaints.join().unwrap())
    }
}

/// The values of `/metrics` at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    pub(super) async fn of(client: &reqwest::Client, base: &str) -> Result<Self, reqwest::Error> {
        let response = client.get(format!("{base}/metrics")).send().await?;
        Ok(Self::from_text(&response.error_for_status()?.text().await?))
    }

    pub(super) fn from_text(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        Self(samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// A metric of this name, without its prefix `remask_`, as the sum over all its series.
    #[track_caller]
    pub(super) fn get(&self, name: &str) -> f64 {
        let (whole, labelled) = (format!("remask_{name}"), format!("remask_{name}{{"));
        let is_it = |series: &str| series == whole || series.starts_with(&labelled);
        let values: Vec<f64> = self.0.iter().filter(|(series, _)| is_it(series)).map(|(_, value)| *value).collect();
        assert!(!values.is_empty(), "there is no {whole}");
        values.iter().sum()
    }

    /// Number of requests that ended so at this endpoint.
    pub(super) fn requests(&self, endpoint: &str, outcome: &str) -> f64 {
        let name = format!("remask_requests_total{{endpoint=\"{endpoint}\",outcome=\"{outcome}\"}}");
        self.0.get(&name).copied().unwrap_or_default()
    }

    /// Number of sequences that have left the queue, to run or cancelled.
    pub(super) fn left_queue(&self) -> f64 {
        self.get("sequences_admitted_total") - self.get("sequences_waiting")
    }

    /// The buckets of a histogram that has one series: upper bounds and cumulative counts.
    pub(super) fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let prefix = format!("remask_{name}_bucket{{");
        let bound = |series: &str| {
            let (_, bound) = series.strip_prefix(&prefix)?.strip_suffix("\"}")?.rsplit_once("le=\"")?;
            bound.parse::<f64>().ok()
        };
        let mut buckets: Vec<_> = self.0.iter().filter_map(|(series, count)| Some((bound(series)?, *count))).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        buckets
    }
}
