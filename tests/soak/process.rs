//! The server as a process of its own, so that its memory is told apart from its clients'; what it says of itself, and what the
//! system says of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Sequences that may run and wait, as by default: said here, for what clients may expect depends on it.
pub(super) const RUNNING_MAX: usize = 64;
pub(super) const QUEUE_MAX: usize = 256;
/// Seconds that a dropped stream goes on: some end meanwhile, most are given up.
const RESUME_GRACE: &str = "2";
/// How long it may take to start and, once told, to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server, killed when it is dropped.
pub(super) struct Process {
    child: Child,
    /// As `http://127.0.0.1:1234`.
    pub(super) base: String,
    /// What its log should not hold.
    complaints: Option<JoinHandle<Vec<String>>>,
}

impl Process {
    /// Serves the embedded model; returns once it can be asked.
    pub(super) fn start() -> Self {
        let (running, queue) = (RUNNING_MAX.to_string(), QUEUE_MAX.to_string());
        let limits = ["--max-concurrent-requests", &running, "--max-queue", &queue, "--resume-grace", RESUME_GRACE];
        let mut child = Command::new(env!("CARGO_BIN_EXE_remask"))
            .args(["serve", "--model-id", "sudoku", "--port", "0", "--log-format", "text"])
            .args(limits)
            .env("RUST_LOG", "info")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (greet, greeted) = mpsc::channel();
        let complaints = std::thread::spawn(move || {
            let mut complaints = Vec::new();
            for line in log.lines().map_while(Result::ok) {
                if let Some((_, base)) = line.split_once(" on http://").filter(|_| line.starts_with("serving ")) {
                    let _ = greet.send(format!("http://{base}")); // it greets once
                }
                if [" WARN ", " ERROR ", "panicked"].iter().any(|word| line.contains(word)) {
                    complaints.push(line);
                }
            }
            complaints
        });
        let mut process = Self { child, base: String::new(), complaints: Some(complaints) };
        process.base = greeted.recv_timeout(PATIENCE).expect("the server did not start");
        process
    }

    /// The resident set in MiB, where the system tells.
    pub(super) fn resident(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
    }

    /// Tells it to stop, as an operator would; how it ended, and its warnings and errors.
    pub(super) fn stop(mut self) -> (ExitStatus, Vec<String>) {
        let told = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &self.child.id().to_string()]).status().unwrap();
        assert!(told.success());
        let begun = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(begun.elapsed() < PATIENCE, "the server does not stop"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        (status, self.complaints.take().unwrap().join().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// What `/metrics` said at one time.
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

    /// One of `remask_`'s.
    #[track_caller]
    pub(super) fn get(&self, name: &str) -> f64 {
        *self.0.get(&format!("remask_{name}")).unwrap_or_else(|| panic!("there is no remask_{name}"))
    }

    /// Requests that ended so, at this endpoint.
    pub(super) fn requests(&self, endpoint: &str, outcome: &str) -> f64 {
        let name = format!("remask_requests_total{{endpoint=\"{endpoint}\",outcome=\"{outcome}\"}}");
        self.0.get(&name).copied().unwrap_or_default()
    }

    /// The buckets of a histogram without labels: upper bounds, and how many were at most that.
    pub(super) fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let prefix = format!("remask_{name}_bucket{{le=\"");
        let bound = |series: &str| series.strip_prefix(&prefix)?.strip_suffix("\"}")?.parse::<f64>().ok();
        let mut buckets: Vec<_> = self.0.iter().filter_map(|(series, count)| Some((bound(series)?, *count))).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        buckets
    }
}
