//! The service `remask.v1.Remask`: reads messages, submits requests, and answers.

use super::events::{self, Events, Method};
use super::proto;
use super::proto::remask_server::Remask;
use super::wire::{self, CallParams};
use crate::api::error::ApiResult;
use crate::api::request::context::{RequestContext, Streamed};
use crate::api::state::AppState;
use crate::api::state::services::{Reads, Service};
use crate::api::stream::sessions;
use prost::Message;
use tonic::{Request, Response, Status};

#[derive(Clone, Debug)]
pub(super) struct RemaskService(pub(super) AppState);

impl RemaskService {
    /// The model of this name, or the first one if it is empty.
    fn service(&self, model: &str) -> ApiResult<&Service> {
        Ok(self.0.services()?.find(Some(model))?)
    }

    /// What `read` makes of a message, on a blocking thread if it is long.
    async fn read<T: Message + 'static, R: Send + 'static>(
        &self,
        message: T,
        read: fn(T) -> ApiResult<R>,
    ) -> ApiResult<R> {
        self.0.shared.text_work.run(message.encoded_len(), move || read(message)).await?
    }

    /// Runs the request that `read` makes of a message, and streams its events.
    async fn events<T: Message + 'static>(
        &self,
        request: Request<T>,
        model: fn(&T) -> &str,
        read: fn(T) -> ApiResult<CallParams>,
        method: Method,
    ) -> ApiResult<Response<Events>> {
        let (context, timeout) = (RequestContext::of(request.extensions())?, wire::timeout(request.metadata()));
        let message = request.into_inner();
        let service = self.service(model(&message))?;
        let params = self.read(message, read).await?.within(timeout);
        let session = service.submit(context.origin(), params.request, Reads::Steps).await?;
        let mut response = Response::new(events::stream(service, session, context, method, params.with_edits));
        response.extensions_mut().insert(Streamed);
        Ok(response)
    }

    async fn judge(&self, request: Request<proto::ScoreRequest>) -> ApiResult<proto::ScoreResponse> {
        let (context, timeout) = (RequestContext::of(request.extensions())?, wire::timeout(request.metadata()));
        let message = request.into_inner();
        let service = self.service(&message.model)?;
        let (params, below) = self.read(message, wire::score).await?;
        let session = service.submit(context.origin(), params.within(timeout).request, Reads::Answer).await?;
        let answer = sessions::answer(session, &context).await?;
        Ok(events::score(&answer, below, &context, service))
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
