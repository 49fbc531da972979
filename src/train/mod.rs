//! Training: from data to weights, for models and for quality heads.
//! Out of scope: requests, the engine, sockets.

mod block;
mod checkpoint;
pub mod data;
mod error;
mod head_alone;
mod heads;
mod init;
mod masking;
mod net;
mod optimiser;
mod parameters;
mod pass;
mod precision;
mod pretrain;
mod prism;
mod progress;
mod random;
mod rollout;
mod run;
mod samples;
pub mod sudoku;
#[cfg(test)]
mod tests;
mod tuning;

pub(crate) use checkpoint::in_hex;
pub use error::TrainError;
pub use heads::{HeadChoice, HeadForm};
pub use init::Start;
pub use optimiser::Schedule;
pub use precision::Products;
pub use pretrain::Base;
pub use progress::{Comparison, HeadMeans, HeadSums, Means, Progress, Sums};
pub use run::{Finished, RunConfig};
pub use samples::Recipe;
pub use tuning::{Learns, LoadedTuning, Tuned, Tuning, file_of};
