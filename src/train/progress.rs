//! What a training run reports: sums over rows, and means of them since the last report.

use super::heads::HeadForm;
use super::optimiser::Schedule;
use crate::model::sigmoid;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Figures of some rows, added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    /// The loss that is minimised.
    pub loss: f64,
    /// Cross-entropies of masked tokens, in nats.
    pub cross_entropy: f64,
    /// Masked tokens.
    pub masked: f64,
    /// Masked tokens whose most probable token is right.
    pub right: f64,
    /// Binary cross-entropies of judged tokens, in nats; with several heads those of the first.
    pub judgement: f64,
    /// Tokens the model filled and the head judged.
    pub judged: f64,
    /// Judged tokens that are right.
    pub judged_right: f64,
    /// Their qualities: the number of right tokens that the head expects.
    pub quality: f64,
    /// Those of each head, in their order, where there are several.
    pub heads: Vec<HeadSums>,
}

/// Figures of one of several heads, added up.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadSums {
    /// The head.
    pub head: HeadForm,
    /// Binary cross-entropies of judged tokens, in nats.
    pub judgement: f64,
    /// Their qualities.
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
        if self.heads.is_empty() {
            self.heads.clone_from(&other.heads);
            return;
        }
        for (head, other) in self.heads.iter_mut().zip(&other.heads) {
            head.judgement += other.judgement;
            head.quality += other.quality;
        }
    }

    /// Of so many masked tokens, whose weighted cross-entropies, cross-entropies and right guesses
    /// are summed up in `told`.
    pub(super) fn denoised(masked: usize, told: &[f32]) -> Self {
        match *told {
            [loss, cross_entropy, right] => Self {
                loss: f64::from(loss),
                cross_entropy: f64::from(cross_entropy),
                masked: masked as f64,
                right: f64::from(right),
                ..Self::default()
            },
            _ => Self::default(),
        }
    }

    /// Of judged tokens with these labels and quality logits, whose binary cross-entropies are
    /// summed up in `told`; `all` are judged in the step.
    pub(super) fn judged(labels: &[f32], told: &[f32], logits: &[f32], all: usize) -> Self {
        let judgement = told.iter().copied().map(f64::from).sum();
        Self {
            loss: judgement / all.max(1) as f64,
            judgement,
            judged: labels.len() as f64,
            judged_right: labels.iter().map(|label| f64::from(*label)).sum(),
            quality: logits.iter().map(|logit| f64::from(sigmoid(*logit))).sum(),
            ..Self::default()
        }
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
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Means {
    /// Cross-entropy of a masked token, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_entropy: Option<f64>,
    /// Share of masked tokens whose most probable token is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Binary cross-entropy of a judged token, in nats; with several heads that of the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judgement: Option<f64>,
    /// Share of judged tokens that are right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judged_right: Option<f64>,
    /// Mean quality of judged tokens: the share that the head expects to be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<f64>,
    /// Those of each head, in their order, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub heads: Vec<HeadMeans>,
}

/// Means of one of several heads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadMeans {
    /// The head, as `SIZE@LAYER`.
    pub head: HeadForm,
    /// Binary cross-entropy of a judged token, in nats.
    pub judgement: Option<f64>,
    /// Mean quality of judged tokens.
    pub quality: Option<f64>,
}

impl Means {
    pub(super) fn of(sums: &Sums) -> Self {
        let of_head = |HeadSums { head, judgement, quality }: &HeadSums| {
            let [judgement, quality] = [judgement, quality].map(|sum| sums.of_judged(*sum));
            HeadMeans { head: *head, judgement, quality }
        };
        Self {
            cross_entropy: sums.of_masked(sums.cross_entropy),
            accuracy: sums.of_masked(sums.right),
            judgement: sums.of_judged(sums.judgement),
            judged_right: sums.of_judged(sums.judged_right),
            quality: sums.of_judged(sums.quality),
            heads: sums.heads.iter().map(of_head).collect(),
        }
    }
}

/// Several heads that were trained together, measured on the same tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Means of each head, in their order.
    pub heads: Vec<HeadMeans>,
    /// Share of the judged tokens that are right.
    pub judged_right: Option<f64>,
    /// Whether they are of the averaged weights on held-out rows; else they are of the last steps.
    pub is_held_out: bool,
}

impl Comparison {
    /// Of means of held-out rows; where no token was judged, of those of the last steps.
    pub(super) fn of(heads: &[HeadForm], held_out: &Means, last: &Means) -> Self {
        let is_held_out = held_out.judgement.is_some();
        let Means { heads: means, judged_right, .. } = if is_held_out { held_out } else { last };
        let of_head = |head: &HeadForm| {
            let found = means.iter().find(|means| means.head == *head).cloned();
            found.unwrap_or(HeadMeans { head: *head, judgement: None, quality: None })
        };
        Self { heads: heads.iter().map(of_head).collect(), judged_right: *judged_right, is_held_out }
    }

    /// The index of the head with the lowest loss: of equal ones, and where none is known, the
    /// first.
    pub fn best(&self) -> usize {
        let loss = |head: &HeadMeans| head.judgement.filter(|loss| !loss.is_nan()).unwrap_or(f64::INFINITY);
        let by_loss = |(_, a): &(usize, &HeadMeans), (_, b): &(usize, &HeadMeans)| loss(a).total_cmp(&loss(b));
        self.heads.iter().enumerate().min_by(by_loss).map_or(0, |(index, _)| index)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Layer;

    fn head(size: usize) -> HeadForm {
        HeadForm { size, block: 2, layer: Layer::Last }
    }

    fn sums(losses: &[f64], judged: f64) -> Sums {
        let of_head =
            |(size, judgement): (usize, &f64)| HeadSums { head: head(size), judgement: *judgement, quality: 1.0 };
        Sums { judged, judgement: losses[0], heads: (1..).zip(losses).map(of_head).collect(), ..Sums::default() }
    }

    #[test]
    fn sums_of_several_heads_are_added_head_by_head() {
        let mut total = Sums::default();
        total.add(&sums(&[3.0, 5.0], 2.0));
        total.add(&Sums::default()); // rows of which no token is judged
        total.add(&sums(&[1.0, 2.0], 2.0));
        let means = Means::of(&total);
        let losses: Vec<Option<f64>> = means.heads.iter().map(|head| head.judgement).collect();
        assert_eq!((means.judgement, losses), (Some(1.0), vec![Some(1.0), Some(1.75)]));
        assert_eq!(means.heads[1].quality, Some(0.5));
        let json = serde_json::to_value(&means).unwrap();
        assert_eq!(json["heads"][1], serde_json::json!({"head": "2@2", "judgement": 1.75, "quality": 0.5}));
        assert!(serde_json::to_value(Means::default()).unwrap().get("heads").is_none(), "of one head nothing is added");
    }

    #[test]
    fn the_best_head_is_the_one_with_the_lowest_loss_on_held_out_rows() {
        let heads = [head(1), head(2), head(3)];
        let compared = |held_out: Sums, last: Sums| {
            let comparison = Comparison::of(&heads, &Means::of(&held_out), &Means::of(&last));
            (comparison.best(), comparison.is_held_out, comparison.heads.len())
        };
        let last = || sums(&[3.0, 1.0, 2.0], 1.0);
        assert_eq!(compared(sums(&[2.0, 2.0, 1.0], 1.0), last()), (2, true, 3));
        assert_eq!(compared(sums(&[f64::NAN, 2.0, 2.0], 1.0), last()), (1, true, 3));
        assert_eq!(compared(Sums::default(), last()), (1, false, 3), "none of the held-out tokens was judged");
        assert_eq!(compared(Sums::default(), Sums::default()), (0, false, 3), "no token was judged at all");
    }
}
