//! `POST /v1/infill`.

use crate::api::answer::infill::Infill;
use crate::api::error::ApiResult;
use crate::api::request::body::read_for_model;
use crate::api::request::context::RequestContext;
use crate::api::request::context::last_event_id;
use crate::api::state::AppState;
use crate::api::stream::log;
use crate::api::stream::named_events::{self, WriteAnswer};
use crate::api::wire::infill::InfillRequest;
use axum::extract::{Request, State};
use serde_json::to_string;

/// Fills the blanks of a template.
pub(super) async fn create(State(state): State<AppState>, context: RequestContext, request: Request) -> ApiResult {
    if let Some(last) = last_event_id(&request) {
        return log::resume(&state.shared.stream_logs, &last, None, context.owner());
    }
    let (service, body) = read_for_model(&state, request, |body: &InfillRequest| body.model.as_deref()).await?;
    let (request, delivery) = body.read()?;
    let session = service.submit(context.origin(), request, delivery.reads()).await?;
    let model = service.name.clone();
    let write: WriteAnswer =
        Box::new(move |id, answer, detokenizer| to_string(&Infill::new(id, &model, answer, detokenizer)));
    named_events::respond(&state, service, context, session, write, delivery).await
}
