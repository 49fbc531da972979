//! `POST /v1/infill`.

use crate::api::answer::{Detokenizer, infill::Infill};
use crate::api::error::ApiError;
use crate::api::request::{body::read_for_model, context::RequestContext, context::last_event_id};
use crate::api::state::AppState;
use crate::api::stream::{log, named_events, named_events::AnswerObject};
use crate::api::wire::infill::InfillRequest;
use crate::engine::Answer;
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;

/// Fills the blanks of a template.
pub(crate) async fn create(
    State(state): State<AppState>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    if let Some(last) = last_event_id(&request) {
        return log::resume(&state.shared.stream_logs, last, context.owner());
    }
    let (service, body) = read_for_model(&state, request, |body: &InfillRequest| body.model.as_deref()).await?;
    let (request, delivery) = body.read()?;
    let session = service.submit(request).await?;
    let object = InfillObject { model: service.name.clone() };
    named_events::respond(&state, service, context, session, object, delivery).await
}

struct InfillObject {
    model: String,
}

impl AnswerObject for InfillObject {
    fn object<'a>(&'a self, id: &str, answer: &'a Answer, detokenizer: Detokenizer<'_>) -> impl Serialize + 'a {
        Infill::new(id, &self.model, answer, detokenizer)
    }
}
