//! Requests under way by the key that sent them and their ids. Of one key, no two have one id; one
//! request may have several.

use super::keys::Owner;
use super::lock::lock;
use crate::api::error::{ApiError, Code};
use crate::text::quoted;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Time for which the log of a stream is kept once it has ended.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(60);

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

/// What a request has computed for it, which is cancelled by any of its names.
#[derive(Debug, Default)]
pub(crate) struct Work {
    cancel: watch::Sender<bool>,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    all: Vec<Name>,
    has_ended: bool,
}

impl Work {
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

/// Requests under way, so that those who sent them can cancel them.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<BTreeMap<Name, Arc<Work>>>);

impl UnderWay {
    /// Lists work under the id of a request, until it ends.
    ///
    /// # Errors
    /// When other work of this owner with this id is under way.
    pub(crate) fn register(&self, owner: Owner, id: &str, work: &Arc<Work>) -> Result<(), ApiError> {
        let name = (owner, id.to_owned());
        let mut names = lock(&work.names);
        if !names.has_ended {
            let mut requests = lock(&self.0);
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
        let work = lock(&self.0).get(&(owner, id.to_owned())).cloned();
        let work = work.ok_or_else(|| unknown_request(id))?;
        work.cancel.send_replace(true);
        self.end(&work);
        Ok(())
    }

    /// Takes ended work from the list: its ids are free.
    pub(crate) fn end(&self, work: &Arc<Work>) {
        let mut names = lock(&work.names);
        if !std::mem::replace(&mut names.has_ended, true) {
            let mut requests = lock(&self.0);
            names.all.iter().for_each(|name| drop(requests.remove(name)));
        }
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
            assert!(lock(&under_way.0).len() <= NAMES_MAX && lock(&work.names).all.len() <= NAMES_MAX);
        }
        assert!(work.is_named("0", None) && work.is_named("99", None) && !work.is_named("9", None));
        let other = Arc::new(Work::default());
        assert_eq!(under_way.register(None, "99", &other).unwrap_err().code, Code::IdInUse);
        under_way.register(Some([1; 32]), "99", &other).unwrap();
        under_way.cancel("98", None).unwrap();
        assert!(work.is_cancelled() && !other.is_cancelled());
        assert_eq!(lock(&under_way.0).len(), 1, "all its names are free");
        under_way.register(None, "100", &work).unwrap();
        assert!(work.is_named("100", None) && lock(&under_way.0).len() == 1, "it has ended");
        under_way.end(&other);
        assert!(lock(&under_way.0).is_empty());
    }
}
