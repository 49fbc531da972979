//! A bounded mailbox from the worker to one client. Sending never blocks: unread steps are merged.

use super::event::Event;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Unread events before further steps are merged into the last one. Enough for a client that is a
/// few round trips behind, and little memory for one that has stopped reading.
pub(super) const UNREAD_MAX: usize = 32;

#[derive(Debug)]
struct Mailbox {
    state: Mutex<State>,
    arrived: Notify,
    unread_max: usize,
    /// Whether the client reads steps, or the last event alone.
    has_steps: bool,
}

#[derive(Debug, Default)]
struct State {
    unread: VecDeque<Event>,
    sender_gone: bool,
    reader_gone: bool,
}

impl Mailbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of the worker.
#[derive(Debug)]
pub(super) struct Outbox(Arc<Mailbox>);

/// The end of the client.
#[derive(Debug)]
pub(super) struct Inbox(Arc<Mailbox>);

/// The two ends of a mailbox, which merges steps beyond `unread_max` unread events.
pub(super) fn mailbox(unread_max: usize) -> (Outbox, Inbox) {
    ends(unread_max, true)
}

/// The two ends of a mailbox for a client that does not read steps: they are dropped.
pub(super) fn mailbox_of_answer() -> (Outbox, Inbox) {
    ends(UNREAD_MAX, false)
}

fn ends(unread_max: usize, has_steps: bool) -> (Outbox, Inbox) {
    let mailbox = Arc::new(Mailbox { state: Mutex::default(), arrived: Notify::new(), unread_max, has_steps });
    (Outbox(Arc::clone(&mailbox)), Inbox(mailbox))
}

impl Outbox {
    pub(super) fn send(&self, event: Event) {
        if !self.0.has_steps && matches!(event, Event::Step(_)) {
            return;
        }
        let mut state = self.0.state();
        let is_full = state.unread.len() >= self.0.unread_max;
        match (state.unread.back_mut(), event) {
            (Some(Event::Step(last)), Event::Step(step)) if is_full => last.absorb(step),
            (_, event) => state.unread.push_back(event),
        }
        drop(state);
        self.0.arrived.notify_one();
    }

    /// Whether the client has dropped its end.
    pub(super) fn is_abandoned(&self) -> bool {
        self.0.state().reader_gone
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.0.state().sender_gone = true;
        self.0.arrived.notify_one();
    }
}

impl Inbox {
    /// The next event; `None` after the last one.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            {
                let mut state = self.0.state();
                if let Some(event) = state.unread.pop_front() {
                    return Some(event);
                }
                if state.sender_gone {
                    return None;
                }
            }
            self.0.arrived.notified().await; // completes at once if an event arrived since the check
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.0.state().reader_gone = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{Edit, Position, Probability, TokenId};
    use crate::engine::event::{Failure, StepEvent};

    fn toggled(step: u32) -> Event {
        let at = Position(step / 2 % 3);
        let edit = if step.is_multiple_of(2) {
            Edit::Fill { at, token: TokenId(step), confidence: Probability::ONE }
        } else {
            Edit::Erase { at, was: TokenId(step - 1), quality: None }
        };
        Event::Step(StepEvent { step, blanks: 1, edits: vec![edit], erased_by: Vec::new(), text: String::new() })
    }

    #[tokio::test]
    async fn a_reader_that_stops_costs_no_more_than_its_canvas() {
        let (outbox, mut inbox) = mailbox(UNREAD_MAX);
        for step in 0..100_000 {
            outbox.send(toggled(step));
        }
        drop(outbox);
        let (mut events, mut edits, mut last) = (0, 0, 0);
        while let Some(Event::Step(step)) = inbox.next().await {
            (events, edits, last) = (events + 1, edits + step.edits.len(), step.step);
        }
        assert_eq!(events, UNREAD_MAX);
        assert!(edits <= UNREAD_MAX + 2 * 3, "{edits}");
        assert_eq!(last, 99_999);
    }

    #[tokio::test]
    async fn steps_that_nobody_reads_are_not_kept() {
        let (outbox, mut inbox) = mailbox_of_answer();
        for step in 0..100 {
            outbox.send(toggled(step));
            assert!(outbox.0.state().unread.is_empty());
        }
        outbox.send(Event::Failed(Failure::ShutDown));
        drop(outbox);
        assert_eq!(inbox.next().await, Some(Event::Failed(Failure::ShutDown)));
        assert_eq!(inbox.next().await, None);
    }

    #[tokio::test]
    async fn each_end_learns_that_the_other_is_gone() {
        let (outbox, mut inbox) = mailbox(UNREAD_MAX);
        outbox.send(toggled(0));
        assert!(!outbox.is_abandoned());
        drop(outbox);
        assert!(inbox.next().await.is_some());
        assert!(inbox.next().await.is_none());

        let (outbox, inbox) = mailbox(UNREAD_MAX);
        drop(inbox);
        assert!(outbox.is_abandoned());
    }
}
