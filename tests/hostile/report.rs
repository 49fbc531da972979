//! What a hostile run measured, as a table.

use crate::attacks::Seen;
use crate::common::figures::quantile;
use crate::ordinary::Visits;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

pub(super) struct Report {
    pub(super) model: &'static str,
    pub(super) lasts: Duration,
    pub(super) seen: Vec<Seen>,
    pub(super) visits: Visits,
    /// How long each answer of `/health` took.
    pub(super) health: Vec<Duration>,
    /// The server's largest resident set in MiB, on systems that report it.
    pub(super) peak: Option<f64>,
}

fn share(share: f64, waits: &[Duration]) -> Duration {
    Duration::from_secs_f64(quantile(share, waits.iter().map(Duration::as_secs_f64)))
}

impl Report {
    pub(super) fn health_p99(&self) -> Duration {
        share(0.99, &self.health)
    }

    pub(super) fn table(&self) -> String {
        let (visits, health) = (&self.visits.waits, &self.health);
        let mut table = format!("{} for {:?}\n", self.model, self.lasts);
        for (name, waits) in [("ordinary requests", visits), ("/health", health)] {
            let [median, p99, most] = [0.5, 0.99, 1.0].map(|at| share(at, waits).as_secs_f64() * 1e3);
            let count = waits.len();
            writeln!(table, "{name}: {count}, median {median:.1} ms, p99 {p99:.1} ms, longest {most:.1} ms").unwrap();
        }
        writeln!(table, "ordinary requests that failed: {}", self.visits.failures.len()).unwrap();
        if let Some(peak) = self.peak {
            writeln!(table, "largest resident set: {peak:.0} MiB").unwrap();
        }
        let mut attacks = BTreeMap::<_, (BTreeMap<_, u32>, Duration)>::new();
        for Seen { name, status, took } in &self.seen {
            let (statuses, longest) = attacks.entry(name).or_default();
            *statuses.entry(status.map_or("none".to_owned(), |status| status.to_string())).or_default() += 1;
            *longest = (*longest).max(*took);
        }
        for (name, (statuses, longest)) in attacks {
            writeln!(table, "{name:32} {statuses:?}, longest {longest:.1?}").unwrap();
        }
        table
    }
}
