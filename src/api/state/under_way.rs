//! Requests under way by the key that sent them and their ids, and those that ended a short time
//! ago. Of one key, no two under way have one id; one request may have several.

use super::keys::Owner;
use super::lock::lock;
use crate::api::error::{ApiError, Code};
use crate::telemetry::Outcome;
use crate::text::quoted;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use utoipa::ToSchema;

/// Time for which the log of a stream, and what became of a request, is kept once it has ended.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(60);
/// Ended requests kept at most; each has less than 4 KiB.
const ENDED_MAX: usize = 1024;

pub(crate) fn unknown_request(id: &str) -> ApiError {
    let ended = format!("none of that name that ended within {} s", KEPT_FOR.as_secs());
    let message = format!("there is no request {} under way, and {ended}; send it again as a new one", quoted(id));
    ApiError::new(Code::UnknownRequest, message)
}

/// The names of requests: two keys may use one id.
pub(crate) type Name = (Owner, String);

/// Names of one request at most; a newer one takes the place of the second. A request that is sent
/// again by its `Idempotency-Key` may come with a new id each time.
const NAMES_MAX: usize = 16;

/// How far a request has come, in the words of OpenAI's API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Progress {
    #[default]
    #[serde(rename = "in_progress")]
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl From<Outcome> for Progress {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Ok => Self::Completed,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Invalid | Outcome::Refused | Outcome::Failed => Self::Failed,
        }
    }
}

/// What a request has computed for it, which is cancelled by any of its names.
#[derive(Debug)]
pub(crate) struct Work {
    /// In seconds since 1970.
    pub(crate) created: u64,
    cancel: watch::Sender<bool>,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    all: Vec<Name>,
    progress: Progress,
}

impl Default for Work {
    fn default() -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
        Self { created, cancel: watch::Sender::default(), names: Mutex::default() }
    }
}

impl Work {
    pub(crate) fn progress(&self) -> Progress {
        lock(&self.names).progress
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        *self.cancel.borrow()
    }

    /// Waits until it is cancelled.
    pub(crate) async fn cancelled(&self) {
        let mut cancel = self.cancel.subscribe();
        let _ = cancel.wait_for(|is_cancelled| *is_cancelled).await; // `self` holds the sender
    }

    /// Whether a request of this owner with this id asked for it.
    pub(crate) fn is_named(&self, id: &str, owner: Owner) -> bool {
        lock(&self.names).all.iter().any(|(its_owner, its_id)| (*its_owner, &**its_id) == (owner, id))
    }
}

/// Requests, so that those who sent them can cancel them and ask how far they are.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    by_name: Mutex<BTreeMap<Name, Arc<Work>>>,
    /// The last ones that ended, and when.
    ended: Mutex<VecDeque<(Instant, Arc<Work>)>>,
}

impl UnderWay {
    /// Lists work under the id of a request, until it ends.
    ///
    /// # Errors
    /// When other work of this owner with this id is under way.
    pub(crate) fn register(&self, owner: Owner, id: &str, work: &Arc<Work>) -> Result<(), ApiError> {
        let name = (owner, id.to_owned());
        let mut names = lock(&work.names);
        if names.progress == Progress::Running {
            let mut requests = lock(&self.by_name);
            if requests.get(&name).is_some_and(|other| !Arc::ptr_eq(other, work)) {
                let advice = "give each request an X-Request-Id of its own, or send it when that one has ended";
                return Err(ApiError::new(Code::IdInUse, format!("a request {id:?} is under way; {advice}")));
            }
            requests.insert(name.clone(), Arc::clone(work));
            if names.all.len() == NAMES_MAX && !names.all.contains(&name) {
                requests.remove(&names.all[1]);
            }
        }
        if !names.all.contains(&name) {
            if names.all.len() == NAMES_MAX {
                names.all.remove(1);
            }
            names.all.push(name);
        }
        Ok(())
    }

    /// Cancels a request, whose ids are free from then on; an error if no request of this owner
    /// with this id is under way.
    pub(crate) fn cancel(&self, id: &str, owner: Owner) -> Result<(), ApiError> {
        let work = self.find(id, owner)?;
        if work.progress() != Progress::Running {
            let message = format!("the request {} has ended; there is nothing to cancel", quoted(id));
            return Err(ApiError::new(Code::UnknownRequest, message));
        }
        work.cancel.send_replace(true);
        self.end(&work, Progress::Cancelled);
        Ok(())
    }

    /// The request of this owner with this id that is under way, or else ended last.
    ///
    /// # Errors
    /// When there is none that ended within [`KEPT_FOR`].
    pub(crate) fn find(&self, id: &str, owner: Owner) -> Result<Arc<Work>, ApiError> {
        let work = lock(&self.by_name).get(&(owner, id.to_owned())).cloned();
        let ended = || {
            let mut kept = lock(&self.ended);
            kept.retain(|(since, _)| since.elapsed() < KEPT_FOR);
            let ended: Vec<_> = kept.iter().rev().map(|(_, work)| Arc::clone(work)).collect();
            drop(kept); // `end` takes it while it holds the names of a request
            ended.into_iter().find(|work| work.is_named(id, owner))
        };
        work.or_else(ended).ok_or_else(|| unknown_request(id))
    }

    /// Takes ended work from the list: its ids are free. Only the first call counts.
    pub(crate) fn end(&self, work: &Arc<Work>, progress: Progress) {
        let mut names = lock(&work.names);
        if names.progress != Progress::Running {
            return;
        }
        names.progress = progress;
        if !names.all.is_empty() {
            let mut ended = lock(&self.ended);
            ended.push_back((Instant::now(), Arc::clone(work)));
            if ended.len() > ENDED_MAX {
                ended.pop_front();
            }
        }
        let mut requests = lock(&self.by_name);
        names.all.iter().for_each(|name| drop(requests.remove(name)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_one_request_are_bounded_and_end_with_it() {
        let (under_way, work) = (UnderWay::default(), Arc::new(Work::default()));
        for number in 0..100 {
            under_way.register(None, &number.to_string(), &work).unwrap();
            assert!(lock(&under_way.by_name).len() <= NAMES_MAX && lock(&work.names).all.len() <= NAMES_MAX);
        }
        assert!(work.is_named("0", None) && work.is_named("99", None) && !work.is_named("9", None));
        let other = Arc::new(Work::default());
        assert_eq!(under_way.register(None, "99", &other).unwrap_err().code, Code::IdInUse);
        under_way.register(Some([1; 32]), "99", &other).unwrap();
        under_way.cancel("98", None).unwrap();
        assert!(work.is_cancelled() && !other.is_cancelled());
        assert_eq!(lock(&under_way.by_name).len(), 1, "all its names are free");
        under_way.register(None, "100", &work).unwrap();
        assert!(work.is_named("100", None) && lock(&under_way.by_name).len() == 1, "it has ended");
        under_way.end(&other, Progress::Completed);
        assert!(lock(&under_way.by_name).is_empty());
    }

    #[test]
    fn what_became_of_a_request_is_kept_for_the_last_ones() {
        let under_way = UnderWay::default();
        for number in 0..ENDED_MAX + 10 {
            let work = Arc::new(Work::default());
            under_way.register(None, &number.to_string(), &work).unwrap();
            assert_eq!(under_way.find(&number.to_string(), None).unwrap().progress(), Progress::Running);
            under_way.end(&work, Progress::Completed);
            under_way.end(&work, Progress::Failed);
        }
        let last = under_way.find("1033", None).unwrap();
        assert_eq!(last.progress(), Progress::Completed, "the first end counts");
        assert!(under_way.find("9", None).is_err() && under_way.find("10", None).is_ok());
        assert!(under_way.find("1033", Some([1; 32])).is_err(), "of another key");
        assert!(under_way.cancel("1033", None).unwrap_err().message.contains("has ended"));
        under_way.end(&Arc::new(Work::default()), Progress::Completed);
        assert_eq!(lock(&under_way.ended).len(), ENDED_MAX, "one without a name is not kept");
    }
}
