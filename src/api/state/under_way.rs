//! Requests under way by the key that sent them and their ids. Of one key, no two have one id.

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

/// Requests under way, so that those who sent them can cancel them.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<BTreeMap<Name, Arc<watch::Sender<bool>>>>);

impl UnderWay {
    /// Lists a request until the registration is dropped.
    ///
    /// # Errors
    /// When another request of this owner with this id is under way.
    pub(crate) fn register(
        self: &Arc<Self>,
        owner: Owner,
        id: &str,
        cancel: &Arc<watch::Sender<bool>>,
    ) -> Result<Registration, ApiError> {
        let name = (owner, id.to_owned());
        let mut requests = lock(&self.0);
        if requests.contains_key(&name) {
            let advice = "give each request an X-Request-Id of its own, or send it when that one has ended";
            return Err(ApiError::new(Code::IdInUse, format!("a request {id:?} is under way; {advice}")));
        }
        requests.insert(name.clone(), Arc::clone(cancel));
        drop(requests);
        Ok(Registration { under_way: Arc::clone(self), name, cancel: Arc::clone(cancel) })
    }

    /// Cancels a request, whose id is free from then on; an error if no request of this owner with
    /// this id is under way.
    pub(crate) fn cancel(&self, id: &str, owner: Owner) -> Result<(), ApiError> {
        let request = lock(&self.0).remove(&(owner, id.to_owned()));
        request.ok_or_else(|| unknown_request(id))?.send_replace(true);
        Ok(())
    }
}

/// The place of a request among those under way.
#[derive(Debug)]
pub(crate) struct Registration {
    under_way: Arc<UnderWay>,
    name: Name,
    cancel: Arc<watch::Sender<bool>>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut requests = lock(&self.under_way.0);
        // a cancelled request may have a successor of its name
        if requests.get(&self.name).is_some_and(|listed| Arc::ptr_eq(listed, &self.cancel)) {
            requests.remove(&self.name);
        }
    }
}
