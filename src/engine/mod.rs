//! Serves requests: admits them, chooses which share the next forward pass, and delivers what becomes of them. [`Handle`] is
//! the one front door for every protocol.

mod admission;
mod clock;
mod event;
mod handle;
mod job;
mod layout;
mod mailbox;
mod pace;
mod request;
mod restart;
mod shared;
mod template;
mod tick;
mod warm_up;
mod worker;

pub(crate) use admission::STOPS_MAX;
pub use clock::Clock;
pub use event::{Answer, Event, Failure, Finish, Output, Start, StepEvent, Written};
pub use handle::{Admitted, Handle, Readiness, Session};
pub use request::{
    DOUBTFUL, EndOfText, Format, Length, Prompt, Proofreading, Rejected, Remasking, Request, Shape, Task,
};
pub use restart::{Reload, Restart, World};
pub use shared::Limits;
pub use template::DEFAULT_BLANK;
pub use warm_up::warm_up;
pub use worker::{start, start_by};
