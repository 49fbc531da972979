//! The one front door. HTTP, the command line, evaluation and benchmarks all submit here, so every check is made once.
//! Refuses to know who is asking.

use super::admission::Admission;
use super::clock::Clock;
use super::event::{Event, Start};
use super::job::{Job, SequenceId};
use super::mailbox::{Inbox, UNREAD_MAX, mailbox};
use super::request::{Rejected, Request};
use super::shared::{Command, Condition, FAILURES_MAX, Limits, Shared, Submission};
use crate::model::ModelSpec;
use crate::telemetry::trace::Trace;
use crate::text::Tokenizer;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// What is waited for at most, beyond a drain's own time, until those who are given up have been told: the engine may be in the
/// middle of a pass, or of loading the model anew.
const GIVE_UP_WITHIN: Duration = Duration::from_secs(5);

/// Whether a new request would be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It would.
    Ready,
    /// The server is shutting down.
    Draining,
    /// The model broke down and is being loaded anew.
    Restarting,
    /// It could not be loaded anew.
    GivenUp,
    /// The last forward passes all failed.
    Failing {
        /// How many.
        in_a_row: u32,
    },
}

/// A way to the engine. Cheap to clone; the engine ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) admission: Arc<Admission>,
    /// The worker holds the other end.
    pub(super) commands: mpsc::Sender<Command>,
    /// One permit per unfinished request; bounds the command channel too.
    pub(super) places: Arc<Semaphore>,
    pub(super) places_max: u32,
    pub(super) limits: Limits,
    pub(super) clock: Clock,
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    /// Checks, encodes and queues a request, as a part of the current span. Encoding takes time in proportion to the text, so callers on an async
    /// thread with long texts [`Self::admit`] in a blocking task, and [`Self::queue`] where they wait.
    ///
    /// # Errors
    /// When the request cannot be served ([`Rejected::Invalid`]) or not now.
    pub fn submit(&self, request: &Request) -> Result<Session, Rejected> {
        self.queue(self.admit(request)?)
    }

    /// Like [`Self::submit`], but steps are never merged however far the reader is behind: for callers in this
    /// process, who know how many steps they asked for.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn submit_unmerged(&self, request: &Request) -> Result<Session, Rejected> {
        self.queue_with(self.admit(request)?, usize::MAX)
    }

    /// The longer half of [`Self::submit`]: takes a place, checks and encodes. What is dropped instead of queued gives its
    /// place back and costs no forward pass.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn admit(&self, request: &Request) -> Result<Admitted, Rejected> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(Rejected::Draining);
        }
        if *self.shared.condition.borrow() == Condition::GivenUp {
            return Err(Rejected::GivenUp);
        }
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| self.full())?;
        let (job, start) = self.admission.admit(request, self.share_of_steps())?;
        tracing::info!(target: "remask::texts", task = ?request.task, "asked");
        Ok(Admitted { job, start, place })
    }

    /// The shorter half of [`Self::submit`], as a part of the current span: never waits.
    ///
    /// # Errors
    /// When there is no engine any more ([`Rejected::GivenUp`]).
    pub fn queue(&self, admitted: Admitted) -> Result<Session, Rejected> {
        self.queue_with(admitted, UNREAD_MAX)
    }

    fn queue_with(&self, Admitted { job, start, place }: Admitted, unread_max: usize) -> Result<Session, Rejected> {
        let (outbox, inbox) = mailbox(unread_max);
        let id = SequenceId(self.shared.next_id.fetch_add(1, Ordering::Relaxed));
        let submission = Submission { id, job, outbox, place, at: self.clock.now(), trace: Trace::current() };
        self.commands.try_send(Command::Submit(Box::new(submission))).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => self.full(),
            mpsc::error::TrySendError::Closed(_) => Rejected::GivenUp,
        })?;
        Ok(Session { start, inbox })
    }

    /// Requests admitted and unfinished.
    fn unfinished(&self) -> usize {
        self.places_max as usize - self.places.available_permits()
    }

    /// The share of its steps that a request keeps which comes now.
    #[allow(clippy::cast_precision_loss)] // a few hundred
    fn share_of_steps(&self) -> f32 {
        let Limits { brown_out, running_max, queue_max, .. } = self.limits;
        let waiting = self.unfinished().saturating_sub(running_max) as f32 / (queue_max.max(1)) as f32;
        brown_out.map_or(1.0, |least| 1.0 - (1.0 - least) * waiting.min(1.0))
    }

    fn full(&self) -> Rejected {
        let waiting = self.unfinished();
        Rejected::Full { waiting, retry_after: self.shared.pace.retry_after() }
    }

    /// What the model can take and offers.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.admission.spec
    }

    /// The model's tokenizer, if it has one.
    #[must_use]
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.admission.drafter.tokenizer.as_deref()
    }

    /// Cells of a canvas at most, prompt included.
    #[must_use]
    pub fn canvas_max(&self) -> usize {
        self.admission.drafter.canvas_max
    }

    /// Whether a new request would be accepted, load aside.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let in_a_row = self.shared.failures_in_a_row.load(Ordering::Relaxed);
        let condition = *self.shared.condition.borrow();
        match condition {
            Condition::GivenUp => Readiness::GivenUp,
            _ if self.shared.draining.load(Ordering::Acquire) => Readiness::Draining,
            Condition::Restarting => Readiness::Restarting,
            Condition::Working if in_a_row >= FAILURES_MAX => Readiness::Failing { in_a_row },
            Condition::Working => Readiness::Ready,
        }
    }

    /// Waits until the model has broken down and cannot be loaded anew: then nothing is served any more.
    pub async fn given_up(&self) {
        let mut condition = self.shared.condition.subscribe();
        let _ = condition.wait_for(|condition| *condition == Condition::GivenUp).await; // the handle holds the sender
    }

    /// Takes no more requests, waits for those admitted, and after `patience` gives up on the rest, whose owners are
    /// told. Returns how many were given up.
    pub async fn drain(&self, patience: Duration) -> usize {
        self.shared.draining.store(true, Ordering::Release);
        if tokio::time::timeout(patience, self.places.acquire_many(self.places_max)).await.is_ok() {
            return 0;
        }
        let unfinished = self.unfinished();
        // the worker may have gone already, or finish them first: either way nobody is left waiting
        let _ = self.commands.send(Command::Abandon).await;
        let _ = tokio::time::timeout(GIVE_UP_WITHIN, self.places.acquire_many(self.places_max)).await;
        unfinished
    }
}

/// A request that has a place and can run, and is not queued yet.
#[derive(Debug)]
pub struct Admitted {
    job: Job,
    start: Start,
    place: OwnedSemaphorePermit,
}

/// A queued request. Dropping it cancels the request before the next forward pass.
#[derive(Debug)]
pub struct Session {
    /// The canvas before the first step.
    pub start: Start,
    inbox: Inbox,
}

impl Session {
    /// The next event; `None` after [`Event::Finished`] or [`Event::Failed`].
    pub async fn next(&mut self) -> Option<Event> {
        self.inbox.next().await
    }
}
