//! Pretraining of a masked diffusion model: tokens are masked at a random ratio and the model
//! learns to predict them (LLaDA, arXiv 2502.09992, equation 3). Out of scope: quality heads.

use super::data::{Data, HELD_OUT};
use super::masking::{Denoised, Masked, MaskedTokens, Masking};
use super::net::Net;
use super::parameters::{Gradients, Parameters};
use super::progress::{Progress, Sums};
use super::run::{Finished, Learner, Objective, RunConfig, Scored, train};
use super::{error::TrainError, init::Start};
use crate::model::{Config, training};
use serde_json::{Map, Value};
use std::{path::Path, sync::atomic::AtomicBool};

/// Smallest masking ratio, so that 1 / ratio stays bounded.
const RATIO_MIN: f64 = 0.001;

/// Pretraining of a model.
#[derive(Debug)]
pub struct Base {
    /// The model's sizes.
    pub config: Config,
    /// The training data.
    pub data: Data,
    /// Data that are only measured on.
    pub held_out: Data,
    /// Rows per step.
    pub batch: usize,
    /// Largest masking ratio, above 0 and at most 1.
    pub ratio_max: f64,
    /// Determines rows, masks and random weights.
    pub seed: u64,
}

impl Base {
    /// Trains to the last step, or until `stop` is set. Resumes the checkpoint in the file
    /// `checkpoint`, if there is one and its settings equal `settings`.
    ///
    /// # Errors
    /// When the data do not fit the model, the checkpoint has other settings, a file cannot be
    /// written, or the loss is not finite.
    pub fn run(
        mut self,
        run: &RunConfig,
        start: Start,
        checkpoint: &Path,
        settings: &Map<String, Value>,
        stop: &AtomicBool,
        report: impl FnMut(&Progress),
    ) -> Result<Finished, TrainError> {
        let config = self.config.clone();
        self.data.check(&config)?;
        let mut parameters = Parameters::default();
        for (name, tensor) in start.weights(&config, self.seed)? {
            parameters.train(name, &tensor)?;
        }
        let learner = Learner { config, parameters, lora_scale: 0.0, device: training(run.device)? };
        train(run, &mut self, learner, checkpoint, settings, stop, report)
    }
}

impl Base {
    const fn masking(&self) -> Masking {
        let Self { batch, ratio_max, seed, .. } = *self;
        Masking { seed, batch, ratio_min: RATIO_MIN, ratio_max, mask: self.config.mask.0 }
    }
}

impl Objective for Base {
    type Sample = Masked;
    /// Masked tokens.
    type Pending = usize;
    type Feedback = ();

    fn rows(&mut self, step: u32) -> Result<Vec<Masked>, TrainError> {
        let (batch, masking) = (self.batch, self.masking());
        let number = |index: usize| u64::from(step) * batch as u64 + index as u64;
        (0..batch).map(|index| Ok(masking.apply(&self.data.row(number(index))?, step, index))).collect()
    }

    fn held_out(&mut self) -> Result<Vec<Masked>, TrainError> {
        let batch = self.held_out.most(HELD_OUT);
        let masking = Masking { batch, ..self.masking() };
        (0..batch).map(|index| Ok(masking.apply(&self.held_out.row(index as u64)?, 0, index))).collect()
    }

    fn data(&self) -> &Data {
        &self.data
    }

    fn tokens(&self, row: &Masked) -> usize {
        row.ids.len()
    }

    fn score(
        &self,
        net: &Net<'_>,
        rows: &[Masked],
        gradients: Option<&mut Gradients>,
    ) -> candle_core::Result<Scored<usize>> {
        let ids = rows.iter().flat_map(|row| row.ids.iter().copied()).collect();
        let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
        let Some(masked) = MaskedTokens::of(&*net.device, &rows.iter().collect::<Vec<_>>())? else {
            return Ok(Scored { told: None, pending: 0 });
        };
        let pass = net.forward(ids, &lengths)?;
        let denoised = Denoised::of(net, &pass, masked)?;
        let scored = Scored { told: Some(denoised.told(net)?), pending: denoised.count() };
        if let Some(gradients) = gradients {
            let of_hidden = denoised.gradients(net, pass.tokens(), 1.0, gradients)?;
            net.backward(pass, &of_hidden, gradients)?;
        }
        Ok(scored)
    }

    fn told(&self, _: &[Masked], masked: usize, numbers: &[f32]) -> (Sums, Vec<()>) {
        (Sums::denoised(masked, numbers), Vec::new())
    }

    fn rows_depend_on_the_step_alone(&self) -> bool {
        true
    }
}
