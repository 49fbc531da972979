//! Why training stopped.

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
    /// The tensor library failed, for example because the device ran out of memory.
    #[error("step failed: {0}")]
    Failed(String),
}

impl From<candle_core::Error> for TrainError {
    fn from(error: candle_core::Error) -> Self {
        Self::Failed(crate::model::words(&error))
    }
}
