//! Why training stopped.

use crate::model::ModelError;

/// Why a run could not start or go on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TrainError {
    /// The training data cannot be used.
    #[error("the data in {file}: {problem}")]
    Data {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A checkpoint cannot be used.
    #[error("the checkpoint {file} {problem}")]
    Checkpoint {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file could not be written.
    #[error(transparent)]
    Save(#[from] crate::model::SaveError),
    /// The loss or the gradient became NaN or infinite.
    #[error(
        "{what} of step {step} is not a finite number; the last good checkpoint was kept. Lower the learning rate, or look \
         at the data of that step"
    )]
    NotFinite {
        /// The loss, or the gradient.
        what: &'static str,
        /// The step, counted from 0.
        step: u32,
    },
    /// The settings contradict each other or the model.
    #[error("{0}")]
    Settings(String),
    /// The base model cannot be used.
    #[error(transparent)]
    Model(#[from] crate::model::LoadError),
    /// The device has no room for a step.
    #[error(
        "the device ran out of memory ({0}); the last good checkpoint was kept. Give --recompute, lower \
         --piece or --length, or train less: --learns lora or head"
    )]
    OutOfMemory(String),
    /// The tensor library or the device failed.
    #[error("step failed: {0}")]
    Failed(String),
}

impl From<candle_core::Error> for TrainError {
    fn from(error: candle_core::Error) -> Self {
        ModelError::from(error).into()
    }
}

impl From<ModelError> for TrainError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::OutOfMemory(cause) => Self::OutOfMemory(cause),
            ModelError::Failed(cause) => Self::Failed(cause),
            ModelError::Row(_) | ModelError::Panicked => Self::Failed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_device_is_told_with_what_to_lower() {
        let error = |words: &str| TrainError::from(candle_core::Error::Msg(words.to_owned())).to_string();
        let full = error("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        assert!(full.contains("lower --piece or --length"), "{full}");
        assert_eq!(error("no such tensor"), "step failed: no such tensor");
    }
}
