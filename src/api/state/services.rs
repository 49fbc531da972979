//! The models that are served, each with an engine of its own.

use crate::api::error::{ApiError, Code};
use crate::engine::{Admitted, Handle, Origin, Readiness, Rejected, Request, Session, Task};
use crate::text::quoted;
use std::sync::Arc;

/// All models of a server, in the order in which they are listed. There is at least one.
#[derive(Debug)]
pub(crate) struct Services(Vec<Arc<Service>>);

/// Why models cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServicesError {
    /// There is none.
    #[error("there is no model to serve")]
    None,
    /// Requests could not tell two of them apart.
    #[error("two models have the name {name:?}; requests could not say which one they mean")]
    SameName {
        /// Their name.
        name: String,
    },
    /// Models are being served already.
    #[error("models are being served already")]
    Twice,
}

impl Services {
    pub(super) fn new(services: Vec<Service>) -> Result<Self, ServicesError> {
        if services.is_empty() {
            return Err(ServicesError::None);
        }
        for (number, service) in services.iter().enumerate() {
            if services[..number].iter().any(|other| other.name == service.name) {
                return Err(ServicesError::SameName { name: service.name.clone() });
            }
        }
        Ok(Self(services.into_iter().map(Arc::new).collect()))
    }

    pub(crate) fn all(&self) -> &[Arc<Service>] {
        &self.0
    }

    /// The model that a request names; without a name, or with an empty one, the first.
    pub(crate) fn find(&self, asked: Option<&str>) -> Result<&Arc<Service>, ApiError> {
        let asked = asked.unwrap_or_default();
        self.0.iter().find(|service| asked.is_empty() || service.name == asked).ok_or_else(|| {
            let names: Vec<String> = self.0.iter().map(|service| format!("{:?}", service.name)).collect();
            let message =
                format!("the model {} does not exist; this server serves {}", quoted(asked), names.join(", "));
            ApiError::new(Code::ModelNotFound, message).at(Some("model".to_owned()))
        })
    }
}

/// What the client of a session reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// Every step, and the answer.
    Steps,
    /// The answer alone.
    Answer,
}

/// A loaded model.
#[derive(Debug)]
pub struct Service {
    /// Submits requests to it. Requests may name presets if it comes from
    /// [`with_presets`](crate::api::with_presets).
    pub handle: Handle,
    /// The name that clients use for it.
    pub name: String,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
}

impl Service {
    /// Checks whether a new request would be admitted, apart from load. `is_named`: the error says
    /// which model it is about.
    pub(super) fn check_ready(&self, is_named: bool) -> Result<(), ApiError> {
        let (model, passes) = if is_named {
            (format!("the model {:?}", self.name), format!("forward passes of the model {:?}", self.name))
        } else {
            ("the model".to_owned(), "forward passes".to_owned())
        };
        let message = match self.handle.readiness() {
            Readiness::Ready => return Ok(()),
            Readiness::Draining => return Err(Rejected::Draining.into()),
            Readiness::GivenUp => {
                format!("{model} broke down and could not be loaded anew; the server stops, and its log says why")
            }
            Readiness::Restarting => {
                format!("{model} broke down and is being loaded anew; requests wait, and the server's log says why")
            }
            Readiness::Failing { in_a_row } => {
                format!("the last {in_a_row} {passes} failed; the server's log says why")
            }
        };
        Err(ApiError::new(Code::ModelFailing, message))
    }

    /// Submits a request of `origin`. Admission, which encodes the text, runs on a blocking thread.
    /// The job is queued by the calling task, so that dropping the task also drops the job.
    pub(crate) async fn submit(&self, origin: Origin, mut request: Request, reads: Reads) -> Result<Session, ApiError> {
        let task = std::mem::replace(&mut request.task, Task::InfillTokens { cells: Vec::new() });
        let session = self.submit_all(origin, request, vec![task], 1, reads).await?.pop();
        session.ok_or_else(|| ApiError::new(Code::Internal, "the engine admitted no choice of this request"))
    }

    /// The same for `choices` choices of each task, with the options of `request`.
    pub(crate) async fn submit_all(
        &self,
        origin: Origin,
        request: Request,
        tasks: Vec<Task>,
        choices: usize,
        reads: Reads,
    ) -> Result<Vec<Session>, ApiError> {
        let request = Request { origin: Some(origin), ..request };
        let (handle, span) = (self.handle.clone(), tracing::Span::current());
        let admit = move || span.in_scope(|| handle.admit_all(request, tasks, choices));
        let admitted = tokio::task::spawn_blocking(admit).await.map_err(|error| {
            tracing::error!(%error, "a request could not be admitted");
            ApiError::new(Code::Internal, "the server made a mistake in reading this request; its log says more")
        })?;
        let queue = |admitted: Admitted| match reads {
            Reads::Steps => self.handle.queue(admitted),
            Reads::Answer => self.handle.queue_for_answer(admitted),
        };
        Ok(admitted?.into_iter().map(queue).collect::<Result<_, _>>()?) // an error drops, and so cancels, the sessions before
    }
}
