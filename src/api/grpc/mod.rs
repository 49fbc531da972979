//! gRPC: `remask.v1.Remask` beside HTTP's endpoints, with the same front door, keys, limits and errors; health and
//! reflection. Refuses to know how a request is checked or run.

mod events;
mod health;
mod status;
mod wire;

/// What `build.rs` makes of `proto/`.
#[allow(missing_docs, unreachable_pub, dead_code, clippy::all, clippy::pedantic)] // nobody here wrote it
mod proto {
    tonic::include_proto!("remask.v1");
}

pub(crate) use status::{is_grpc, no_http, translate};

use crate::api::AppState;
use crate::api::Service;
use crate::api::error::ApiError;
use crate::api::error::Code;
use crate::api::request::context::Streamed;
use crate::api::request::context::Ticket;
use crate::api::stream::sessions;
use axum::routing::{MethodRouter, post_service};
use axum::{Router, middleware};
use events::{Events, Kind, Show};
use proto::remask_server::{Remask, RemaskServer};
use std::time::Duration;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder;
use wire::Wish;

/// How the paths of our own service begin; those of health and reflection, which ask for no key, begin otherwise.
pub(crate) const OURS: &str = "/remask.v1.";
/// Every method of our own service. Each is a path by itself, so that each is an endpoint of the metrics.
const METHODS: [&str; 5] = ["Generate", "Infill", "Score", "Repair", "Info"];
/// The descriptors of `proto/`, for clients that have no copy of it.
const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("remask");

/// Every gRPC endpoint.
pub(crate) fn endpoints(state: &AppState) -> Router<AppState> {
    let limit = state.body_max();
    let remask: MethodRouter<AppState> =
        post_service(RemaskServer::new(Front(state.clone())).max_decoding_message_size(limit));
    let health = HealthServer::new(health::Health(state.clone())).max_decoding_message_size(limit);
    let mut router = Router::new()
        .route("/grpc.health.v1.Health/Check", post_service(health.clone()))
        .route("/grpc.health.v1.Health/Watch", post_service(health));
    for method in METHODS {
        router = router.route(&format!("{OURS}Remask/{method}"), remask.clone());
    }
    let descriptors = || {
        let health = tonic_health::pb::FILE_DESCRIPTOR_SET;
        Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(health)
    };
    // both versions: older clients know the first only; what the build wrote can be read, which a test sees
    if let Ok(reflection) = descriptors().build_v1() {
        let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        router = router.route(path, post_service(reflection.max_decoding_message_size(limit)));
    }
    if let Ok(reflection) = descriptors().build_v1alpha() {
        let path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
        router = router.route(path, post_service(reflection.max_decoding_message_size(limit)));
    }
    router.layer(middleware::from_fn(status::only_grpc))
}

/// Our own service.
#[derive(Clone, Debug)]
struct Front(AppState);

/// What is known of a call beside its message.
struct Call {
    ticket: Ticket,
    /// As long as the caller waits.
    patience: Option<Duration>,
}

impl Call {
    fn of<T>(request: &Request<T>) -> Result<Self, ApiError> {
        let ticket = request.extensions().get::<Ticket>().cloned();
        let ticket = ticket.ok_or_else(|| ApiError::new(Code::Internal, "the server has no ticket for this call"))?;
        Ok(Self { ticket, patience: wire::patience(request.metadata()) })
    }
}

impl Front {
    /// The one model, if it is the one asked for.
    fn service(&self, model: &str) -> Result<&Service, ApiError> {
        let service = self.0.service()?;
        service.check_model(Some(model).filter(|model| !model.is_empty()))?;
        Ok(service)
    }

    /// Submits what `read` makes of a request, and has its events told.
    async fn events<T>(
        &self,
        request: Request<T>,
        model: fn(&T) -> &str,
        read: fn(T) -> Result<Wish, ApiError>,
        kind: Kind,
    ) -> Result<Response<Events>, ApiError> {
        let call = Call::of(&request)?;
        let asked = request.into_inner();
        let service = self.service(model(&asked))?;
        let wish = read(asked)?.within(call.patience);
        let session = service.submit(wish.request).await?;
        let events = Show::new(service, session, call.ticket, kind, wish.with_edits).events();
        let mut response = Response::new(events);
        response.extensions_mut().insert(Streamed);
        Ok(response)
    }

    async fn judge(&self, request: Request<proto::ScoreRequest>) -> Result<proto::ScoreResponse, ApiError> {
        let call = Call::of(&request)?;
        let asked = request.into_inner();
        let service = self.service(&asked.model)?;
        let (wish, below) = wire::score(asked)?;
        let session = service.submit(wish.within(call.patience).request).await?;
        let answers = sessions::answers(vec![session], &call.ticket).await?;
        let answer = answers.first().ok_or_else(sessions::gone)?;
        Ok(events::score(answer, below, &call.ticket, service))
    }
}

#[tonic::async_trait]
impl Remask for Front {
    type GenerateStream = Events;
    type InfillStream = Events;
    type RepairStream = Events;

    async fn generate(&self, request: Request<proto::GenerateRequest>) -> Result<Response<Events>, Status> {
        Ok(self.events(request, |asked| &asked.model, wire::generate, Kind::Generate).await?)
    }

    async fn infill(&self, request: Request<proto::InfillRequest>) -> Result<Response<Events>, Status> {
        Ok(self.events(request, |asked| &asked.model, wire::infill, Kind::Infill).await?)
    }

    async fn score(&self, request: Request<proto::ScoreRequest>) -> Result<Response<proto::ScoreResponse>, Status> {
        Ok(Response::new(self.judge(request).await?))
    }

    async fn repair(&self, request: Request<proto::RepairRequest>) -> Result<Response<Events>, Status> {
        Ok(self.events(request, |asked| &asked.model, wire::repair, Kind::Repair).await?)
    }

    async fn info(&self, request: Request<proto::InfoRequest>) -> Result<Response<proto::InfoResponse>, Status> {
        let service = self.service(&request.into_inner().model)?;
        Ok(Response::new(events::info(service)))
    }
}
