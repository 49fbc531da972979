//! What a training run reports: sums over rows, and means of them since the last report.

use super::optimiser::Schedule;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Figures of some rows, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// The loss that is minimised.
    pub loss: f64,
    /// Cross-entropies of masked tokens, in nats.
    pub cross_entropy: f64,
    /// Masked tokens.
    pub masked: f64,
    /// Masked tokens whose most probable token is right.
    pub right: f64,
    /// Binary cross-entropies of judged tokens, in nats.
    pub judgement: f64,
    /// Tokens the model filled and the head judged.
    pub judged: f64,
    /// Judged tokens that are right.
    pub judged_right: f64,
}

impl Sums {
    pub(super) fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.cross_entropy += other.cross_entropy;
        self.masked += other.masked;
        self.right += other.right;
        self.judgement += other.judgement;
        self.judged += other.judged;
        self.judged_right += other.judged_right;
    }
}

/// The state of a run. Losses and shares are means since the last report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Progress {
    /// Steps taken.
    pub step: u32,
    /// Steps of the whole run.
    pub steps: u32,
    /// The loss that is minimised.
    pub loss: f64,
    /// Cross-entropy of a masked token, in nats. `None` where the head alone is trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_entropy: Option<f64>,
    /// Share of masked tokens whose most probable token is right. `None` where the head alone is
    /// trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Binary cross-entropy of a judged token, in nats. `None` without a head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judgement: Option<f64>,
    /// Share of judged tokens that are right. `None` without a head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judged_right: Option<f64>,
    /// The last step's learning rate.
    pub learning_rate: f64,
    /// The last step's gradient norm before clipping.
    pub gradient_norm: f64,
    /// Tokens processed per second.
    pub tokens_per_s: f64,
    /// Seconds since the run was started or resumed.
    pub seconds: f64,
}

pub(super) struct Meter {
    began: Instant,
    sums: Sums,
    steps: u32,
    tokens: usize,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), sums: Sums::default(), steps: 0, tokens: 0 }
    }

    pub(super) fn add(&mut self, sums: &Sums, tokens: usize) {
        self.sums.add(sums);
        self.steps += 1;
        self.tokens += tokens;
    }

    /// The report after `step` steps; `norm` is the last gradient norm, `elapsed` the run's time.
    pub(super) fn report(&self, schedule: &Schedule, step: u32, norm: f64, elapsed: Duration) -> Progress {
        let Sums { loss, cross_entropy, masked, right, judgement, judged, judged_right } = self.sums;
        let of_masked = |sum: f64| (masked > 0.0).then(|| sum / masked);
        let of_judged = |sum: f64| (judged > 0.0).then(|| sum / judged);
        let tokens = self.tokens as f64;
        Progress {
            step,
            steps: schedule.steps,
            loss: loss / f64::from(self.steps.max(1)),
            cross_entropy: of_masked(cross_entropy),
            accuracy: of_masked(right),
            judgement: of_judged(judgement),
            judged_right: of_judged(judged_right),
            learning_rate: schedule.rate(step - 1),
            gradient_norm: norm,
            tokens_per_s: tokens / self.began.elapsed().as_secs_f64(),
            seconds: elapsed.as_secs_f64(),
        }
    }
}
