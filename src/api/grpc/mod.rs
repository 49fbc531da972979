//! gRPC: `remask.v1.Remask`, health and reflection, with the keys, limits and errors of HTTP.

mod events;
mod health;
mod names;
mod proto;
mod service;
pub(crate) mod status;
mod wire;

use super::protocol::GRPC_SERVICE;
use super::state::AppState;
use axum::routing::{MethodRouter, post_service};
use axum::{Router, middleware};
use proto::remask_server::RemaskServer;
use proto::{DESCRIPTORS, METHODS};
use service::RemaskService;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder;

pub(crate) fn endpoints(state: &AppState) -> Router<AppState> {
    let limit = state.shared.body_max;
    let remask: MethodRouter<AppState> =
        post_service(RemaskServer::new(RemaskService(state.clone())).max_decoding_message_size(limit));
    let health = HealthServer::new(health::Health(state.clone())).max_decoding_message_size(limit);
    let mut router = Router::new()
        .route("/grpc.health.v1.Health/Check", post_service(health.clone()))
        .route("/grpc.health.v1.Health/Watch", post_service(health));
    for method in METHODS {
        router = router.route(&format!("{GRPC_SERVICE}Remask/{method}"), remask.clone());
    }
    let descriptors = || {
        let sets = [DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
        sets.into_iter().fold(Builder::configure(), Builder::register_encoded_file_descriptor_set)
    };
    // older clients know v1alpha only; a test checks that the generated descriptors can be read
    if let (Ok(v1), Ok(v1alpha)) = (descriptors().build_v1(), descriptors().build_v1alpha()) {
        let path = |version| format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        router = router
            .route(&path("v1"), post_service(v1.max_decoding_message_size(limit)))
            .route(&path("v1alpha"), post_service(v1alpha.max_decoding_message_size(limit)));
    }
    router.layer(middleware::from_fn(status::only_grpc))
}
