//! The service `remask.v1.Remask`: reads messages, submits requests, and answers.

use super::events::{self, Events, Method};
use super::wire::{self, CallParams};
use super::{proto, proto::remask_server::Remask};
use crate::api::{error::ApiError, error::Code, state::AppState, state::Service};
use crate::api::{request::context::RequestContext, request::context::Streamed, stream::sessions};
use std::time::Duration;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub(super) struct RemaskService(pub(super) AppState);

/// What comes with a message.
struct Call {
    context: RequestContext,
    /// How long the client waits.
    timeout: Option<Duration>,
}

impl Call {
    fn of<T>(request: &Request<T>) -> Result<Self, ApiError> {
        let context = request.extensions().get::<RequestContext>().cloned();
        let context = context.ok_or_else(|| ApiError::new(Code::Internal, "the server has no ticket for this call"))?;
        Ok(Self { context, timeout: wire::timeout(request.metadata()) })
    }
}

impl RemaskService {
    /// The model that is served. An empty name stands for it.
    fn service(&self, model: &str) -> Result<&Service, ApiError> {
        let service = self.0.service()?;
        service.check_model(Some(model).filter(|model| !model.is_empty()))?;
        Ok(service)
    }

    /// Runs the request that `read` makes of a message, and streams its events.
    async fn events<T>(
        &self,
        request: Request<T>,
        model: fn(&T) -> &str,
        read: fn(T) -> Result<CallParams, ApiError>,
        method: Method,
    ) -> Result<Response<Events>, ApiError> {
        let call = Call::of(&request)?;
        let message = request.into_inner();
        let service = self.service(model(&message))?;
        let params = read(message)?.within(call.timeout);
        let session = service.submit(params.request).await?;
        let events = events::stream(service, session, call.context, method, params.with_edits);
        let mut response = Response::new(events);
        response.extensions_mut().insert(Streamed);
        Ok(response)
    }

    async fn judge(&self, request: Request<proto::ScoreRequest>) -> Result<proto::ScoreResponse, ApiError> {
        let call = Call::of(&request)?;
        let message = request.into_inner();
        let service = self.service(&message.model)?;
        let (params, below) = wire::score(message)?;
        let session = service.submit(params.within(call.timeout).request).await?;
        let answer = sessions::answer(session, &call.context).await?;
        Ok(events::score(&answer, below, &call.context, service))
    }
}

#[tonic::async_trait]
impl Remask for RemaskService {
    type GenerateStream = Events;
    type InfillStream = Events;
    type RepairStream = Events;

    async fn generate(&self, request: Request<proto::GenerateRequest>) -> Result<Response<Events>, Status> {
        Ok(self.events(request, |message| &message.model, wire::generate, Method::Generate).await?)
    }

    async fn infill(&self, request: Request<proto::InfillRequest>) -> Result<Response<Events>, Status> {
        Ok(self.events(request, |message| &message.model, wire::infill, Method::Infill).await?)
    }

    async fn score(&self, request: Request<proto::ScoreRequest>) -> Result<Response<proto::ScoreResponse>, Status> {
        Ok(Response::new(self.judge(request).await?))
    }

    async fn repair(&self, request: Request<proto::RepairRequest>) -> Result<Response<Events>, Status> {
        Ok(self.events(request, |message| &message.model, wire::repair, Method::Repair).await?)
    }

    async fn info(&self, request: Request<proto::InfoRequest>) -> Result<Response<proto::InfoResponse>, Status> {
        let service = self.service(&request.into_inner().model)?;
        Ok(Response::new(events::info(service)))
    }
}
