//! The model that is served.

use crate::api::error::{ApiError, Code};
use crate::engine::{Handle, Request, Session};

/// A loaded model.
#[derive(Debug)]
pub struct Service {
    /// Submits requests to it.
    pub handle: Handle,
    /// The name that clients use for it.
    pub name: String,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
}

impl Service {
    /// Checks the model's name in a request; `None` stands for the model that is served.
    pub(crate) fn check_model(&self, asked: Option<&str>) -> Result<(), ApiError> {
        match asked {
            Some(asked) if asked != self.name => {
                let message = format!("the model {asked:?} does not exist; this server serves {:?}", self.name);
                Err(ApiError::new(Code::ModelNotFound, message).at(Some("model".to_owned())))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Submits a request. Admission, which encodes the text, runs on a blocking thread. The job is
    /// queued by the calling task, so that dropping the task also drops the job.
    pub(crate) async fn submit(&self, request: Request) -> Result<Session, ApiError> {
        let (handle, span) = (self.handle.clone(), tracing::Span::current());
        let admitted = tokio::task::spawn_blocking(move || span.in_scope(|| handle.admit(&request))).await;
        let admitted = admitted.map_err(|error| {
            tracing::error!(%error, "a request could not be admitted");
            ApiError::new(Code::Internal, "the server made a mistake in reading this request; its log says more")
        })?;
        Ok(self.handle.queue(admitted?)?)
    }
}
