//! `POST /v1/infill`: a template with its gaps filled, whole or as named events. Refuses to know how a request is
//! checked or run.

use crate::api::AppState;
use crate::api::answer::objects::FinishReason;
use crate::api::answer::objects::Quality;
use crate::api::answer::objects::Summary;
use crate::api::answer::objects::Usage;
use crate::api::answer::objects::Words;
use crate::api::endpoints::requests;
use crate::api::error::ApiError;
use crate::api::request::body;
use crate::api::request::context::Ticket;
use crate::api::stream::named_events::Ending;
use crate::api::stream::named_events::Report;
use crate::api::stream::sessions;
use crate::api::wire::Delivery;
use crate::api::wire::InfillRequest;
use crate::engine::{Answer, Output};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

/// Fills a template's blanks.
pub(crate) async fn create(
    State(state): State<AppState>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
) -> Result<Response, ApiError> {
    if let Some(last) = requests::last_event(&request) {
        return state.requests().resume(last, ticket.owner());
    }
    let service = state.service()?;
    let asked: InfillRequest = body::read(request, state.body_max()).await?;
    service.check_model(asked.model.as_deref())?;
    let (request, delivery) = asked.read()?;
    let session = service.submit(request).await?;
    let report = Report::new(&ticket, service.handle.clone(), Filled { model: service.name.clone() });
    match delivery {
        Delivery::Whole => {
            let answers = sessions::answers(vec![session], &ticket).await?;
            let answer = answers.first().ok_or_else(sessions::gone)?;
            Ok(Json(report.whole(answer)).into_response())
        }
        Delivery::Stream { .. } => Ok(sessions::respond_kept(&state, session, report, &ticket)),
    }
}

/// What an infill answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Infill<'a> {
    id: String,
    /// Always `infill`.
    object: &'static str,
    model: &'a str,
    choices: [Choice<'a>; 1],
    usage: Usage,
    diffusion: Summary,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InfillChoice)]
struct Choice<'a> {
    index: usize,
    /// The whole template.
    text: &'a str,
    /// What stands in each gap; blanks side by side are one.
    gaps: &'a [String],
    #[schema(inline)]
    finish_reason: FinishReason,
    /// Only where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    quality: Option<Quality>,
}

/// What an infill answers.
struct Filled {
    model: String,
}

impl Ending for Filled {
    fn whole<'a>(&'a self, id: &str, answer: &'a Answer, words: Words<'_>) -> impl Serialize + 'a {
        let (text, gaps) = match &answer.output {
            Output::Infill { text, gaps } => (text, gaps.as_slice()),
            Output::Continuation(text) | Output::Revision(text) => (text, [].as_slice()),
        };
        let quality = Quality::of(answer, words);
        Infill {
            id: format!("infill-{id}"),
            object: "infill",
            model: &self.model,
            choices: [Choice { index: 0, text, gaps, finish_reason: answer.finish.into(), quality }],
            usage: Usage::of(std::slice::from_ref(answer), 1),
            diffusion: Summary::of(std::slice::from_ref(answer)),
        }
    }
}
