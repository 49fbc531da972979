//! The algorithm: which blanks are filled and which filled cells are erased, given what a model says. Pure:
//! no tensors, no clock, no channels, no wire formats.

mod canvas;
mod policy;
mod random;
mod reading;
mod schedule;
mod select;
mod sequence;
mod units;

pub use canvas::{Canvas, Cell, Edit, EditError};
pub use policy::{Order, Pace, Policy, Proofreading, Remask, Stretch};
pub use random::{Draws, Purpose, Seed, gumbel};
pub use reading::{Proposal, Reading, Review};
pub use select::fills;
pub use sequence::{PolicyError, ReadingError, Sequence, StepOutcome};
pub use units::{Position, Probability, TokenId, u32_of};
