//! `POST /v1/repair`.

use crate::api::answer::{Detokenizer, repair::Repair};
use crate::api::error::ApiError;
use crate::api::request::{body::read_for_model, context::RequestContext, context::last_event_id};
use crate::api::state::AppState;
use crate::api::stream::{log, named_events, named_events::AnswerObject};
use crate::api::wire::repair::RepairRequest;
use crate::diffusion::TokenId;
use crate::engine::Answer;
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;

/// Erases the doubtful tokens of a text and writes them again.
pub(crate) async fn create(
    State(state): State<AppState>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    if let Some(last) = last_event_id(&request) {
        return log::resume(&state.shared.stream_logs, last, context.owner());
    }
    let (service, body) = read_for_model(&state, request, |body: &RepairRequest| body.model.as_deref()).await?;
    let (request, delivery) = body.read()?;
    let session = service.submit(request).await?;
    let given = session.start.cells.iter().filter_map(|cell| cell.token()).collect();
    let object = RepairObject { model: service.name.clone(), given };
    named_events::respond(&state, service, context, session, object, delivery).await
}

struct RepairObject {
    model: String,
    given: Vec<TokenId>,
}

impl AnswerObject for RepairObject {
    fn object<'a>(&'a self, id: &str, answer: &'a Answer, detokenizer: Detokenizer<'_>) -> impl Serialize + 'a {
        Repair::new(id, &self.model, &self.given, answer, detokenizer)
    }
}
