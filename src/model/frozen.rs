//! A model whose weights stay as they are while a quality head is trained on its states. Out of
//! scope: the head.

use super::backend::{inputs::Inputs, training::Training};
use super::denoiser::NetworkDenoiser;
use super::device::training_on;
use super::error::ModelError;
use super::network::{Pass, Scope};
use super::states::{Layer, Wanted};
use crate::diffusion::{Canvas, u32_of};
use candle_core::{DType, Tensor, utils::with_threadpool};
use std::sync::Arc;

impl NetworkDenoiser {
    /// The operations of training on the model's device, in the order of its passes.
    pub(crate) fn training(&self) -> Arc<dyn Training> {
        training_on(self.backend.device())
    }

    /// The states that quality heads read at the filled cells of `canvases`, in order: for each of
    /// `layers` (filled cells, width) in f32. `None` where no cell is filled.
    ///
    /// # Errors
    /// When the pass fails.
    pub(crate) fn judged_states(
        &self,
        canvases: &[&Canvas],
        layers: &[Layer],
    ) -> Result<Option<Vec<Tensor>>, ModelError> {
        with_threadpool(|| self.judged_states_of(canvases, layers))
    }

    fn judged_states_of(&self, canvases: &[&Canvas], layers: &[Layer]) -> Result<Option<Vec<Tensor>>, ModelError> {
        let (mask, sight, outputs) = (self.spec.mask, self.network.sight(), self.network.outputs());
        let (mut pass, mut states) = (Pass::default(), Vec::new());
        for canvas in canvases {
            let filled = canvas.filled(0..canvas.len());
            let sources: Vec<usize> = filled.map(|(at, _)| outputs.source(at.index())).collect();
            let mut asked = sources.clone();
            asked.dedup(); // the first two cells may have the same
            if asked.is_empty() {
                continue;
            }
            let ids = canvas.cells().iter().map(|cell| cell.token().unwrap_or(mask).0);
            let scope = Scope { prompt: canvas.prompt_length(), sight };
            let place = |source: &usize| asked.partition_point(|other| other < source);
            let places: Vec<usize> = sources.iter().map(place).collect();
            let first = pass.push(ids, scope, asked);
            states.extend(places.into_iter().map(|place| u32_of(first + place)));
        }
        if states.is_empty() {
            return Ok(None);
        }
        let mut inputs = Inputs::default();
        let plan = self.network.plan(&pass, &mut inputs);
        let wanted = Wanted { hidden: false, layers };
        let judged = self.network.run(&plan, &self.backend.bring(&inputs)?, None, wanted)?.judged; // (asked, width) each
        let index = Tensor::new(states, &self.backend.device())?;
        let read = |judged: &Tensor| self.backend.gather(judged, &index)?.to_dtype(DType::F32);
        Ok(Some(judged.iter().map(read).collect::<candle_core::Result<_>>()?))
    }
}
