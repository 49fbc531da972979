//! The clients of the sequences, and the events that are sent to them.

use super::clock::Clock;
use super::event::{Answer, Event, StepEvent};
use super::job::SequenceId;
use super::mailbox::Outbox;
use crate::diffusion::Edit;
use crate::telemetry::Metrics;
use crate::telemetry::trace::Trace;
use std::collections::BTreeMap;
use std::time::Instant;
use tokio::sync::OwnedSemaphorePermit;

#[derive(Debug)]
pub(super) struct Client {
    /// The session holds the other end.
    pub(super) outbox: Outbox,
    /// Released when the client is dropped.
    pub(super) _place: OwnedSemaphorePermit,
    pub(super) submitted: Instant,
    pub(super) has_edits: bool,
    /// The policy that erases cells without a quality, as the label of a metric.
    pub(super) policy: &'static str,
    pub(super) trace: Trace,
}

/// The clients of unfinished sequences.
pub(super) type Clients = BTreeMap<SequenceId, Client>;

/// Sends events to clients. Those that have received their last event are removed.
pub(super) fn deliver(clients: &mut Clients, events: Vec<(SequenceId, Event)>, metrics: &Metrics, clock: &Clock) {
    for (id, event) in events {
        let Some(client) = clients.get_mut(&id) else { continue };
        match &event {
            Event::Step(step) => {
                record_edits(metrics, step, client.policy);
                if !std::mem::replace(&mut client.has_edits, true) {
                    let after = clock.now().duration_since(client.submitted);
                    metrics.time_to_first_edit.observe(after.as_secs_f64());
                }
            }
            Event::Finished(answer) => record_answer(metrics, answer),
            Event::Failed(failure) => {
                metrics.failed.inc();
                client.trace.in_scope(|| tracing::warn!(%failure, "the request failed"));
            }
        }
        let is_last = !matches!(event, Event::Step(_));
        client.outbox.send(event);
        if is_last {
            clients.remove(&id);
        }
    }
}

fn record_edits(metrics: &Metrics, step: &StepEvent, policy: &str) {
    for edit in &step.edits {
        match edit {
            Edit::Fill { confidence, .. } => metrics.filled(*confidence),
            Edit::Erase { quality, .. } => metrics.erased(if quality.is_some() { "quality" } else { policy }),
        }
    }
}

fn record_answer(metrics: &Metrics, answer: &Answer) {
    metrics.finished.inc();
    answer.written.iter().filter_map(|written| written.quality).for_each(|quality| metrics.quality(quality));
    if answer.degraded {
        metrics.degraded.inc();
    }
}
