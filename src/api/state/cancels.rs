//! The requests under way by their ids, so that their owners can cancel them.

use super::lock::lock;
use super::owner::Owner;
use super::stream_logs::unknown_request;
use crate::api::error::ApiError;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::watch;

/// Requests under way by their ids.
#[derive(Debug, Default)]
pub(crate) struct Cancels(Mutex<BTreeMap<String, UnderWay>>);

#[derive(Debug)]
struct UnderWay {
    owner: Owner,
    /// Held by the request until its last byte is sent.
    cancel: Weak<watch::Sender<bool>>,
}

impl Cancels {
    /// Lists a request until `cancel` is dropped. Of two requests with one id the later is listed.
    pub(crate) fn register(&self, id: &str, owner: Owner, cancel: &Arc<watch::Sender<bool>>) {
        let mut under_way = lock(&self.0);
        under_way.retain(|_, request| request.cancel.strong_count() > 0);
        under_way.insert(id.to_owned(), UnderWay { owner, cancel: Arc::downgrade(cancel) });
    }

    /// Cancels a request; an error if no request of this owner with this id is under way.
    pub(crate) fn cancel(&self, id: &str, owner: Owner) -> Result<(), ApiError> {
        let under_way = lock(&self.0);
        let request = under_way.get(id).filter(|request| request.owner == owner);
        let cancel = request.and_then(|request| request.cancel.upgrade()).ok_or_else(|| unknown_request(id))?;
        cancel.send_replace(true);
        Ok(())
    }
}
