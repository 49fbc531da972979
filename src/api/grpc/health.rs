//! `grpc.health.v1`: what `/ready` answers, once or at every change.

use super::proto::remask_server::SERVICE_NAME;
use crate::api::state::AppState;
use crate::text::quoted;
use futures_util::{Stream, stream};
use std::{pin::Pin, time::Duration};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

/// How often a watcher polls. Readiness notifies nobody, and costs two loads from memory.
const POLL_EVERY: Duration = Duration::from_millis(100);

/// The health of the whole server, whose name is empty, and of its one service, which is the same.
#[derive(Debug)]
pub(super) struct Health(pub(super) AppState);

fn is_known(service: &str) -> bool {
    ["", SERVICE_NAME].contains(&service)
}

fn status(state: &AppState, service: &str) -> ServingStatus {
    match (is_known(service), state.check_ready()) {
        (false, _) => ServingStatus::ServiceUnknown,
        (true, Ok(())) => ServingStatus::Serving,
        (true, Err(_)) => ServingStatus::NotServing,
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !is_known(&service) {
            let message =
                format!("there is no service {}; ask for {SERVICE_NAME:?}, or \"\" for the server", quoted(&service));
            return Err(Status::not_found(message));
        }
        Ok(Response::new(HealthCheckResponse { status: status(&self.0, &service).into() }))
    }

    /// Ends when the server drains, so that a watcher does not keep it from stopping.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (state, service) = (self.0.clone(), request.into_inner().service);
        let changes = stream::unfold(Some(None), move |sent: Option<Option<ServingStatus>>| {
            let (state, service) = (state.clone(), service.clone());
            async move {
                let sent = sent?;
                loop {
                    let now = status(&state, &service);
                    if sent != Some(now) {
                        return Some((Ok(HealthCheckResponse { status: now.into() }), Some(Some(now))));
                    }
                    if state.is_draining() {
                        return Some((Err(Status::unavailable("the server is shutting down")), None));
                    }
                    tokio::time::sleep(POLL_EVERY).await;
                }
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
