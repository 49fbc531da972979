//! Serves requests: admits and queues them, batches their sequences into forward passes, and
//! delivers events. [`Handle`] is the entry point for every protocol.

mod admission;
mod batch_limit;
mod biases;
mod clock;
mod delivery;
mod dispatch;
mod event;
mod handle;
mod job;
mod layout;
mod likelihoods;
mod mailbox;
mod occupancy;
mod origin;
mod pace;
mod placement;
mod places;
mod pool;
mod queue;
mod request;
mod restart;
mod shared;
mod start;
mod template;
mod throughput;
mod tick;
mod turns;
mod warm_up;
mod worker;
mod writing;

pub use crate::diffusion::DOUBTFUL;
pub(crate) use admission::{FIELDS as PRESET_FIELDS, Preset, Presets, STOPS_MAX};
pub use clock::Clock;
pub use event::{Answer, EditCounts, Event, Failure, Finish, Output, Part, Start, StepEvent, Written};
pub use handle::{Admitted, Handle, Readiness, Session};
pub use occupancy::Shortage;
pub use origin::Origin;
pub use request::{EndOfText, Format, Length, Prompt, Proofreading, Rejected, Request, Shape, Task};
pub use restart::{Reload, Restart, World};
pub use shared::Limits;
pub use start::{Replica, StartError, start, start_by, start_replicas};
pub use template::DEFAULT_BLANK;
pub use warm_up::warm_up;
