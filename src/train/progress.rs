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
    /// Their qualities: the number of right tokens that the head expects.
    pub quality: f64,
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
        self.quality += other.quality;
    }

    /// The sum, for each masked token; `None` without any.
    fn of_masked(&self, sum: f64) -> Option<f64> {
        (self.masked > 0.0).then(|| sum / self.masked)
    }

    /// The same for each judged token.
    fn of_judged(&self, sum: f64) -> Option<f64> {
        (self.judged > 0.0).then(|| sum / self.judged)
    }
}

/// Means over rows. `None` where there is nothing to take a mean of: without a quality head, or
/// where the head alone is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Means {
    /// Cross-entropy of a masked token, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_entropy: Option<f64>,
    /// Share of masked tokens whose most probable token is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Binary cross-entropy of a judged token, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judgement: Option<f64>,
    /// Share of judged tokens that are right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judged_right: Option<f64>,
    /// Mean quality of judged tokens: the share that the head expects to be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<f64>,
}

impl Means {
    pub(super) fn of(sums: &Sums) -> Self {
        Self {
            cross_entropy: sums.of_masked(sums.cross_entropy),
            accuracy: sums.of_masked(sums.right),
            judgement: sums.of_judged(sums.judgement),
            judged_right: sums.of_judged(sums.judged_right),
            quality: sums.of_judged(sums.quality),
        }
    }
}

/// The state of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Progress {
    /// Steps taken.
    pub step: u32,
    /// Steps of the whole run.
    pub steps: u32,
    /// The loss that is minimised, a mean since the last report.
    pub loss: f64,
    /// Means since the last report.
    #[serde(flatten)]
    pub means: Means,
    /// Means of the averaged weights on held-out rows, every so many steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out: Option<Means>,
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
        let tokens = self.tokens as f64;
        Progress {
            step,
            steps: schedule.steps,
            loss: self.sums.loss / f64::from(self.steps.max(1)),
            means: Means::of(&self.sums),
            held_out: None,
            learning_rate: schedule.rate(step - 1),
            gradient_norm: norm,
            tokens_per_s: tokens / self.began.elapsed().as_secs_f64(),
            seconds: elapsed.as_secs_f64(),
        }
    }
}
