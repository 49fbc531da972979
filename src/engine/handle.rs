//! The entry point of the engine. HTTP, gRPC, the command line, evaluation and benchmarks all
//! submit here, so that every check exists once. Out of scope: protocols.

use super::admission::{Admission, Preset, Presets};
use super::clock::Clock;
use super::delivery::Client;
use super::event::{Event, Start};
use super::job::{Job, SequenceId};
use super::mailbox::{Inbox, Outbox, UNREAD_MAX, mailbox, mailbox_of_answer};
use super::occupancy::{Occupancy, Place, Shortage};
use super::origin::Origin;
use super::pace::retry_after;
use super::request::{Rejected, Request, Task};
use super::shared::{Condition, FAILURES_MAX, Limits, ReplicaState, Shared};
use crate::diffusion::policy::Rule;
use crate::diffusion::{TokenId, TokenSet};
use crate::model::ModelSpec;
use crate::telemetry::trace::Trace;
use crate::text::{Conversation, Tokenizer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest time, after a drain's own, until abandoned requests have received their failure. The
/// engine may be in the middle of a pass, or of reloading the model.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a new request would be accepted: whether one replica at least serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It would be.
    Ready,
    /// The server is shutting down.
    Draining,
    /// No replica serves, and the model of one is being reloaded.
    Restarting,
    /// The models of all replicas failed and could not be reloaded.
    GivenUp,
    /// The last forward passes of all replicas failed.
    Failing {
        /// How many, on the replica with the fewest.
        in_a_row: u32,
    },
}

/// Access to the engine. Cheap to clone; the engine ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) admission: Arc<Admission>,
    /// One place per unfinished sequence; bounds the queue.
    pub(super) occupancy: Arc<Occupancy>,
    pub(super) limits: Limits,
    pub(super) clock: Clock,
    pub(super) shared: Arc<Shared>,
    pub(super) _open: Arc<Open>,
}

/// Held by all handles together. The workers end when the last handle is gone.
#[derive(Debug)]
pub(super) struct Open(pub(super) Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dispatcher.close();
    }
}

impl Handle {
    /// Checks, encodes and queues a request, as a part of the current span. Encoding takes time in
    /// proportion to the text. On an async thread, call [`Self::admit`] in a blocking task and then
    /// [`Self::queue`].
    ///
    /// # Errors
    /// When the request is invalid ([`Rejected::Invalid`]), or cannot be accepted now.
    pub fn submit(&self, request: &Request) -> Result<Session, Rejected> {
        self.queue(self.admit(request)?)
    }

    /// Like [`Self::submit`], for callers in this process: unread steps are never merged.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn submit_unmerged(&self, request: &Request) -> Result<Session, Rejected> {
        self.queue_with(self.admit(request)?, mailbox(usize::MAX))
    }

    /// The first half of [`Self::submit`]: takes a place, until it is dropped, checks and encodes.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn admit(&self, request: &Request) -> Result<Admitted, Rejected> {
        let mut admitted = self.admit_all(request.clone(), vec![request.task.clone()], 1)?;
        admitted.pop().ok_or(Rejected::GivenUp) // one was asked for
    }

    /// As [`Self::admit`], for `choices` choices of each task, all with the options of `request`,
    /// whose own task is not looked at. The choices of a task differ in their seeds, which count up
    /// from the request's, and share what they have in common. All are admitted, or none.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn admit_all(&self, request: Request, tasks: Vec<Task>, choices: usize) -> Result<Vec<Admitted>, Rejected> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(Rejected::Draining);
        }
        let running_max = match self.running_max() {
            0 => return Err(Rejected::GivenUp),
            running_max => running_max,
        };
        let origin = request.origin.unwrap_or_else(|| Origin::new(None));
        let (asked, limit) = (tasks.len().saturating_mul(choices), running_max.saturating_add(self.limits.queue_max));
        let places = self.occupancy.take(origin, asked, limit).map_err(|shortage| self.full(origin, shortage))?;
        let request = Request { origin: Some(origin), ..request };
        let jobs = self.admission.admit(request, tasks, choices, self.share_of_steps())?;
        let admitted = jobs.into_iter().zip(places).map(|((job, start), place)| Admitted { job, start, place });
        Ok(admitted.collect())
    }

    /// The second half of [`Self::submit`], as a part of the current span. Does not block.
    ///
    /// # Errors
    /// When the engine has ended ([`Rejected::GivenUp`]).
    pub fn queue(&self, admitted: Admitted) -> Result<Session, Rejected> {
        self.queue_with(admitted, mailbox(UNREAD_MAX))
    }

    /// As [`Self::queue`], for a client that waits for the answer only: the session has no steps.
    ///
    /// # Errors
    /// As [`Self::queue`].
    pub fn queue_for_answer(&self, admitted: Admitted) -> Result<Session, Rejected> {
        self.queue_with(admitted, mailbox_of_answer())
    }

    fn queue_with(&self, admitted: Admitted, mailbox: (Outbox, Inbox)) -> Result<Session, Rejected> {
        let (Admitted { job, start, place }, (outbox, inbox)) = (admitted, mailbox);
        let id = SequenceId(self.shared.next_id.fetch_add(1, Ordering::Relaxed));
        let (submitted, policy, trace) = (self.clock.now(), job.policy(), Trace::current());
        let client = Client { outbox, place, submitted, has_edits: AtomicBool::new(false), policy, trace };
        if !self.shared.dispatcher.submit(id, job, client, &self.shared.metrics) {
            return Err(Rejected::GivenUp);
        }
        Ok(Session { start, inbox })
    }

    /// Most sequences that run at the same time, on the replicas that have not been given up.
    fn running_max(&self) -> usize {
        self.shared.remaining().count().saturating_mul(self.limits.running_max)
    }

    /// The fraction of its steps that a request keeps when it is admitted now.
    fn share_of_steps(&self) -> f32 {
        let Limits { brown_out, queue_max, .. } = self.limits;
        let waiting = self.occupancy.taken().saturating_sub(self.running_max()) as f32 / (queue_max.max(1)) as f32;
        brown_out.map_or(1.0, |least| 1.0 - (1.0 - least) * waiting.min(1.0))
    }

    fn full(&self, origin: Origin, shortage: Shortage) -> Rejected {
        let (missing, of) = match shortage {
            Shortage::OfAll { taken, limit, asked } => (taken.saturating_add(asked).saturating_sub(limit), None),
            Shortage::OfKey { held, share, asked } => ((held + asked).saturating_sub(share), Some(origin.caller)),
        };
        let step = |replica: usize, tokens| self.shared.replicas[replica].step_time.of(tokens);
        let state = self.shared.dispatcher.lock();
        let seconds = state.pool.until_free(missing, of, self.limits.batch_tokens_max, step);
        Rejected::Full { shortage, retry_after: retry_after(seconds) }
    }

    /// The limits, abilities and defaults of the model.
    pub fn spec(&self) -> &ModelSpec {
        &self.admission.spec
    }

    /// Why no request to the model can ask for a rule, in words that follow the rule's name; `None`
    /// where some can.
    pub fn refusal(&self, rule: &Rule) -> Option<String> {
        self.admission.refusal(rule)
    }

    /// Why no request can ask the quality head, in the same way.
    pub fn refusal_to_judge(&self) -> Option<&'static str> {
        self.admission.refusal_to_judge()
    }

    /// Why no request can be a conversation, in the same way.
    pub fn refusal_to_chat(&self) -> Option<&'static str> {
        let has_template = self.tokenizer().is_some_and(|tokenizer| tokenizer.chat().is_some());
        (!has_template).then_some("needs a chat template, which this model does not have")
    }

    /// The same engine with these presets, in place of those of before.
    pub(crate) fn with_presets(&self, presets: Presets) -> Self {
        let mut admission = (*self.admission).clone();
        admission.presets = presets.into();
        Self { admission: admission.into(), ..self.clone() }
    }

    /// The presets that requests may name.
    pub(crate) fn presets(&self) -> &Presets {
        &self.admission.presets
    }

    /// Checks a preset.
    ///
    /// # Errors
    /// When a request with it would be refused, whatever it asks for.
    pub(crate) fn check_preset(&self, preset: &Preset) -> Result<(), Rejected> {
        self.admission.check_preset(preset)
    }

    /// The request with the options of the preset that it names, in place of that name.
    ///
    /// # Errors
    /// When there is no such preset.
    pub(crate) fn without_preset(&self, request: Request) -> Result<Request, Rejected> {
        self.admission.presets.fill(request).map(|(request, _)| request)
    }

    /// The tokens that may be judged, erased and replaced; `None` is all.
    pub fn judged(&self) -> Option<&TokenSet> {
        self.admission.judged()
    }

    /// The model's tokenizer, if it has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.shared_tokenizer().map(Arc::as_ref)
    }

    /// The same, to be kept.
    pub(crate) fn shared_tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.admission.tokenizer()
    }

    /// The ids of a conversation, as the model's chat template writes it, if that takes at most
    /// `most` bytes. It may have more tokens than a canvas. Takes time in proportion to the text,
    /// and waits for a turn while much else is encoded.
    ///
    /// # Errors
    /// When the conversation is empty or too long, or the template has no place for it.
    pub(crate) fn encode_chat(&self, conversation: &Conversation, most: usize) -> Result<Vec<TokenId>, Rejected> {
        self.admission.encode_chat(conversation, most)
    }

    /// Most cells of a canvas, prompt included.
    pub fn canvas_max(&self) -> usize {
        self.admission.canvas_max()
    }

    /// Whether a new request would be accepted, apart from a full queue.
    pub fn readiness(&self) -> Readiness {
        let is_in = |wanted: Condition| {
            let replicas = self.shared.replicas.iter();
            replicas.filter(move |replica: &&ReplicaState| *replica.condition.borrow() == wanted)
        };
        if self.shared.remaining().next().is_none() {
            return Readiness::GivenUp;
        }
        if self.shared.draining.load(Ordering::Acquire) {
            return Readiness::Draining;
        }
        let failures = |replica: &ReplicaState| replica.failures_in_a_row.load(Ordering::Relaxed);
        match is_in(Condition::Working).map(failures).min() {
            Some(in_a_row) if in_a_row < FAILURES_MAX => Readiness::Ready,
            _ if is_in(Condition::Restarting).next().is_some() => Readiness::Restarting,
            Some(in_a_row) => Readiness::Failing { in_a_row },
            None => Readiness::GivenUp, // the last one was given up since
        }
    }

    /// Waits until the models of all replicas have failed and cannot be reloaded. The engine has
    /// ended then.
    pub async fn given_up(&self) {
        for replica in &self.shared.replicas {
            let mut condition = replica.condition.subscribe();
            let _ = condition.wait_for(|condition| *condition == Condition::GivenUp).await; // the handle holds the sender
        }
    }

    /// Accepts no more requests, and waits up to `patience` for the unfinished ones. The rest fail
    /// with [`Failure::ShutDown`](super::event::Failure::ShutDown). Returns how many these are.
    pub async fn drain(&self, patience: Duration) -> usize {
        self.shared.draining.store(true, Ordering::Release);
        if tokio::time::timeout(patience, self.occupancy.all_free()).await.is_ok() {
            return 0;
        }
        let unfinished = self.occupancy.taken();
        self.shared.dispatcher.abandon();
        let _ = tokio::time::timeout(ABANDON_TIMEOUT, self.occupancy.all_free()).await;
        unfinished
    }
}

/// A request that is checked and holds a place, but is not queued yet.
#[derive(Debug)]
pub struct Admitted {
    job: Job,
    start: Start,
    place: Place,
}

/// A queued or running request. Dropping it cancels the request before the next forward pass.
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
