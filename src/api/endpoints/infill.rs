//! `POST /v1/infill`.

use crate::api::answer::writer;
use crate::api::error::ApiResult;
use crate::api::request::body::read_to_resume;
use crate::api::request::context::RequestContext;
use crate::api::request::context::last_event_id;
use crate::api::state::AppState;
use crate::api::stream::log;
use crate::api::stream::named_events;
use crate::api::wire::infill::InfillRequest;
use axum::extract::{Request, State};

/// Fills the blanks of a template.
pub(super) async fn create(State(state): State<AppState>, context: RequestContext, request: Request) -> ApiResult {
    if let Some(last) = last_event_id(&request) {
        let last = last.into_owned();
        return log::resend(&state, &context, request, &last).await;
    }
    let (service, (request, delivery)) =
        read_to_resume(&state, &context, request, |body: &InfillRequest| body.model.as_deref(), |body, _| body.read())
            .await?;
    let session = service.submit(context.origin(), request, delivery.reads()).await?;
    let write = writer::of_infill(service.name.clone());
    named_events::respond(&state, &service, context, session, write, delivery).await
}
