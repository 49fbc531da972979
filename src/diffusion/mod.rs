//! The algorithm: which blanks are filled and which filled cells are erased or replaced, given what
//! a model says. Pure: no tensors, no clock, no channels, no wire formats.

mod canvas;
mod chooser;
mod correction;
mod credit;
mod fills;
mod outcome;
mod plan;
pub mod policy;
mod random;
mod reading;
mod reuse;
mod rewritten;
mod room;
mod schedule;
mod sequence;
mod shares;
mod shifts;
mod token_set;
mod traces;
mod units;

pub use canvas::{Canvas, Cell, Edit, EditError};
pub use credit::{Credit, Credits};
pub use fills::fills;
pub use outcome::{PROOFREADING, ReadingError, StepOutcome};
pub use plan::{Passes, PolicyError};
pub use policy::{Choice, Pace, Policy, Proofreading};
pub use random::{DrawKey, Draws, Purpose, Seed, gumbel};
pub use reading::{Best, Distribution, Present, Proposal, Reading, Review, Score};
pub use reuse::Reuse;
pub use sequence::Sequence;
pub use token_set::{TokenSet, TokenSetError};
pub use units::{DOUBTFUL, Position, Probability, TokenId, counted, u32_of};
