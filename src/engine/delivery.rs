//! The clients of the sequences, and the thread that sends events to them while the workers go on
//! with their next passes. Out of scope: merging of unread steps (`mailbox`).

use super::clock::Clock;
use super::event::{Answer, Event, StepEvent};
use super::job::SequenceId;
use super::mailbox::Outbox;
use super::occupancy::Place;
use crate::diffusion::Edit;
use crate::telemetry::ModelMetrics;
use crate::telemetry::trace::Trace;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SendError, SyncSender, sync_channel};
use std::time::Instant;
use std::{io, thread};

/// Passes whose events may wait for the thread, before a worker waits for it.
const PASSES_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Client {
    /// The session holds the other end.
    pub(super) outbox: Outbox,
    /// Released when the client is dropped.
    pub(super) place: Place,
    pub(super) submitted: Instant,
    pub(super) has_edits: AtomicBool,
    /// The policy that erases cells without a quality, or replaces tokens, as the label of a
    /// metric.
    pub(super) policy: &'static str,
    pub(super) trace: Trace,
}

/// The clients of unfinished sequences.
pub(super) type Clients = BTreeMap<SequenceId, Arc<Client>>;

/// Events, each with its client.
type Addressed = Vec<(Arc<Client>, Event)>;

/// The way to the thread that sends events. It ends when all of these are gone.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    sender: SyncSender<Addressed>,
    courier: Courier,
}

/// Sends events and counts them.
#[derive(Clone, Debug)]
struct Courier {
    metrics: Arc<ModelMetrics>,
    clock: Clock,
}

impl Delivery {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system cannot start a thread.
    pub(super) fn start(metrics: Arc<ModelMetrics>, clock: Clock) -> io::Result<Self> {
        let (sender, receiver) = sync_channel::<Addressed>(PASSES_MAX);
        let courier = Courier { metrics, clock };
        let at_work = courier.clone();
        // Linux shows 15 bytes
        thread::Builder::new().name("remask-delivery".to_owned()).spawn(move || {
            receiver.iter().for_each(|events| at_work.send(events));
        })?;
        Ok(Self { sender, courier })
    }

    /// Has events sent to their clients, in the order of the calls. Clients that will have received
    /// their last event are removed.
    pub(super) fn deliver(&self, clients: &mut Clients, events: Vec<(SequenceId, Event)>) {
        let address = |(id, event): (SequenceId, Event)| {
            let is_last = !matches!(event, Event::Step(_));
            let client = if is_last { clients.remove(&id) } else { clients.get(&id).cloned() };
            Some((client?, event))
        };
        let events: Addressed = events.into_iter().filter_map(address).collect();
        if events.is_empty() {
            return;
        }
        if let Err(SendError(events)) = self.sender.send(events) {
            self.courier.send(events); // the thread is gone
        }
    }
}

impl Courier {
    fn send(&self, events: Addressed) {
        let Self { metrics, clock } = self;
        for (client, event) in events {
            match &event {
                Event::Step(step) => {
                    record_edits(metrics, step, client.policy);
                    if !step.edits.is_empty() && !client.has_edits.swap(true, Ordering::Relaxed) {
                        let after = clock.now().duration_since(client.submitted);
                        metrics.time_to_first_edit.observe(after.as_secs_f64());
                    }
                }
                Event::Finished(answer) => record_answer(metrics, answer),
                Event::Failed(failure) => {
                    metrics.failed.inc();
                    if client.place.fails_first() {
                        client.trace.in_scope(|| tracing::warn!(%failure, "the request failed"));
                    }
                }
            }
            let is_last = !matches!(event, Event::Step(_));
            match Arc::try_unwrap(client) {
                // a client that has its answer can send the next request
                Ok(Client { outbox, place, .. }) if is_last => {
                    drop(place);
                    outbox.send(event);
                }
                Ok(client) => client.outbox.send(event),
                Err(client) => client.outbox.send(event),
            }
        }
    }
}

fn record_edits(metrics: &ModelMetrics, step: &StepEvent, policy: &str) {
    for edit in &step.edits {
        match edit {
            Edit::Fill { confidence, .. } => metrics.filled(*confidence),
            Edit::Erase { quality, .. } => metrics.erased(if quality.is_some() { "quality" } else { policy }),
            Edit::Replace { confidence, .. } => metrics.replaced(policy, *confidence),
        }
    }
}

fn record_answer(metrics: &ModelMetrics, answer: &Answer) {
    metrics.finished(answer.prompt_tokens, answer.completion_tokens);
    answer.written.iter().filter_map(|written| written.quality).for_each(|quality| metrics.quality(quality));
    if answer.degraded {
        metrics.degraded.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::event::Failure;
    use crate::engine::mailbox::{Inbox, mailbox};
    use crate::engine::occupancy::Occupancy;
    use crate::engine::origin::Origin;
    use crate::telemetry::Metrics;

    fn step(step: u32) -> Event {
        Event::Step(StepEvent { step, blanks: 1, ..StepEvent::default() })
    }

    /// A client that holds the only place.
    fn client(places: &Arc<Occupancy>) -> (Arc<Client>, Inbox) {
        let (outbox, inbox) = mailbox(usize::MAX);
        let place = places.take(Origin::new(None), 1, 1).unwrap().remove(0);
        let (submitted, has_edits) = (Instant::now(), AtomicBool::new(false));
        let client = Client { outbox, place, submitted, has_edits, policy: "none", trace: Trace::current() };
        (Arc::new(client), inbox)
    }

    #[tokio::test]
    async fn events_come_in_order_and_the_last_one_frees_the_place() {
        let delivery = Delivery::start(Metrics::new().unwrap().model("toy").unwrap(), Clock::system()).unwrap();
        let (places, id) = (Arc::<Occupancy>::default(), SequenceId(7));
        let (client, mut inbox) = client(&places);
        let mut clients = Clients::from([(id, client)]);
        for number in 0..100 {
            delivery.deliver(&mut clients, vec![(id, step(number)), (SequenceId(8), step(0))]);
        }
        assert!(clients.contains_key(&id));
        delivery.deliver(&mut clients, vec![(id, Event::Failed(Failure::ShutDown))]);
        assert!(clients.is_empty());
        for number in 0..100 {
            assert_eq!(inbox.next().await, Some(step(number)));
        }
        assert_eq!(inbox.next().await, Some(Event::Failed(Failure::ShutDown)));
        assert!(places.take(Origin::new(None), 1, 1).is_ok(), "with the last event, the place is free");
        assert_eq!(inbox.next().await, None);
        places.all_free().await;
    }

    #[tokio::test]
    async fn the_first_edit_is_timed_and_not_a_step_without_any() {
        use crate::diffusion::{Position, Probability, TokenId};
        let metrics = Metrics::new().unwrap().model("toy").unwrap();
        let courier = Courier { metrics: Arc::clone(&metrics), clock: Clock::system() };
        let (client, _inbox) = client(&Arc::default());
        let fill = Edit::Fill { at: Position(0), token: TokenId(1), confidence: Probability::ONE };
        for (edits, count) in [(vec![], 0), (vec![fill], 1), (vec![], 1), (vec![fill], 1)] {
            let step = StepEvent { edits, ..StepEvent::default() };
            courier.send(vec![(Arc::clone(&client), Event::Step(step))]);
            assert_eq!(metrics.time_to_first_edit.get_sample_count(), count);
        }
    }

    #[tokio::test]
    async fn without_its_thread_events_still_arrive() {
        let (sender, receiver) = sync_channel(PASSES_MAX);
        drop(receiver);
        let courier = Courier { metrics: Metrics::new().unwrap().model("toy").unwrap(), clock: Clock::system() };
        let (delivery, places) = (Delivery { sender, courier }, Arc::<Occupancy>::default());
        let (client, mut inbox) = client(&places);
        delivery.deliver(&mut Clients::from([(SequenceId(7), client)]), vec![(SequenceId(7), step(3))]);
        assert_eq!(inbox.next().await, Some(step(3)));
    }
}
