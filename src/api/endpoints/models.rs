//! `GET /v1/models`.

use crate::api::answer::server::{Model, ModelList};
use crate::api::error::ApiResult;
use crate::api::request::body::PathName;
use crate::api::state::AppState;
use axum::Json;
use axum::extract::State;

/// The list of models: the one that is served.
pub(super) async fn list(State(state): State<AppState>) -> ApiResult<Json<ModelList>> {
    Ok(Json(ModelList::new(state.service()?)))
}

/// A model by its name, which may contain slashes.
pub(super) async fn retrieve(State(state): State<AppState>, PathName(name): PathName) -> ApiResult<Json<Model>> {
    let service = state.service()?;
    service.check_model(Some(&name))?;
    Ok(Json(Model::new(service)))
}
