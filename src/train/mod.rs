//! Training: from data to weights, for models and for quality heads. Refuses to know requests, engines and sockets.

mod checkpoint;
pub mod data;
mod net;
mod ops;
mod optimiser;
mod parameters;
mod pretrain;
mod prism;
mod run;
mod simd;
mod start;
pub mod sudoku;
#[cfg(test)]
mod tests;
mod tuning;

pub use optimiser::Schedule;
pub use pretrain::{Base, Start};
pub use prism::Recipe;
pub use run::{Finished, Report, Run, Sums};
pub use tuning::{Learns, Tuned, Tuning};

/// Why a run did not go on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TrainError {
    /// The data are not what they should be.
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
    /// The run left the numbers.
    #[error(
        "{what} of step {step} is not a finite number; the last good checkpoint was kept. Lower the learning rate, or look \
         at the data of that step"
    )]
    NotFinite {
        /// The loss, or the gradients.
        what: &'static str,
        /// Which step.
        step: u32,
    },
    /// The settings do not fit each other.
    #[error("{0}")]
    Settings(String),
    /// The base model cannot be used.
    #[error(transparent)]
    Model(#[from] crate::model::LoadError),
    /// The tensor library failed: out of memory, a device error.
    #[error("step failed: {0}")]
    Failed(String),
}

impl From<candle_core::Error> for TrainError {
    fn from(error: candle_core::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
