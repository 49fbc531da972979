//! `GET /v1/models` and `GET /v1/models/{id}`.

use crate::api::answer::models::{Model, ModelList};
use crate::api::error::ApiError;
use crate::api::request::path::{self, PathName};
use crate::api::state::AppState;
use axum::Json;
use axum::extract::State;
use serde::Serialize;

/// The list of models: the one that is served.
pub(crate) async fn list(State(state): State<AppState>) -> Result<Json<impl Serialize>, ApiError> {
    Ok(Json(ModelList::new(state.service()?)))
}

/// A model by its name, which may contain slashes.
pub(crate) async fn retrieve(State(state): State<AppState>, name: PathName) -> Result<Json<impl Serialize>, ApiError> {
    let service = state.service()?;
    service.check_model(Some(&path::name(name)))?;
    Ok(Json(Model::new(service)))
}
