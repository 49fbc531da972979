//! `GET /v1/models`.

use crate::api::answer::server::{Model, ModelList};
use crate::api::error::ApiResult;
use crate::api::request::body::PathName;
use crate::api::state::AppState;
use axum::Json;
use axum::extract::State;

/// The models that are served.
pub(super) async fn list(State(state): State<AppState>) -> ApiResult<Json<ModelList>> {
    Ok(Json(ModelList::new(state.services()?)))
}

/// A model by its name, which may contain slashes.
pub(super) async fn retrieve(State(state): State<AppState>, PathName(name): PathName) -> ApiResult<Json<Model>> {
    Ok(Json(Model::new(state.services()?.find(Some(&name))?)))
}
