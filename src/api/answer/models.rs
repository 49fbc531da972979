//! `GET /v1/models`: what is served, in OpenAI's shape, and what only a diffusion model has to say. Refuses to know
//! how it was loaded.

use crate::api::AppState;
use crate::api::Service;
use crate::api::answer::policies::Policies;
use crate::api::error::ApiError;
use axum::Json;
use axum::extract::Path;
use axum::extract::State;
use axum::extract::rejection::PathRejection;
use serde::Serialize;
use utoipa::ToSchema;

/// What is served: one model.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelList)]
pub(crate) struct List {
    /// Always `list`.
    object: &'static str,
    data: Vec<Model>,
}

/// A model, as OpenAI has it, and what only a diffusion model has to say.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Model {
    id: String,
    /// Always `model`.
    object: &'static str,
    /// When it was loaded, in seconds since 1970.
    created: u64,
    owned_by: &'static str,
    diffusion: Facts,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelFacts)]
struct Facts {
    family: String,
    vocabulary: u32,
    /// Cells of a canvas at most, prompt included.
    canvas_limit: usize,
    has_quality_head: bool,
    adapters_folded: bool,
    /// Numbers the forward pass is computed in.
    dtype: String,
    /// Numbers most weights are held in.
    weights: String,
    device: String,
    parameters: u64,
    /// What requests may choose for `unmasking` and `remasking`.
    policies: Policies,
}

impl Model {
    fn new(service: &Service) -> Self {
        let spec = service.handle.spec();
        Self {
            id: service.name.clone(),
            object: "model",
            created: service.created,
            owned_by: "remask",
            diffusion: Facts {
                family: spec.family.clone(),
                vocabulary: spec.vocabulary,
                canvas_limit: service.handle.canvas_max(),
                has_quality_head: spec.has_quality,
                adapters_folded: spec.adapters_folded,
                dtype: spec.dtype.clone(),
                weights: spec.weights.clone(),
                device: spec.device.clone(),
                parameters: spec.parameters,
                policies: Policies::all(),
            },
        }
    }
}

/// All of them: one.
pub(crate) async fn list(State(state): State<AppState>) -> Result<Json<impl Serialize>, ApiError> {
    Ok(Json(List { object: "list", data: vec![Model::new(state.service()?)] }))
}

/// The one of that name; names may hold slashes.
pub(crate) async fn retrieve(
    State(state): State<AppState>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<impl Serialize>, ApiError> {
    let service = state.service()?;
    let name = name.map_or_else(|_| "\u{fffd}".to_owned(), |Path(name)| name); // not UTF-8: nobody's name
    service.check_model(Some(&name))?;
    Ok(Json(Model::new(service)))
}
