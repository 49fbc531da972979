//! `POST /v1/score` and `POST /v1/repair`: a given text judged token by token, or mended. Refuses to know how a request is
//! checked or run.

use crate::api::AppState;
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
use crate::api::wire::RepairRequest;
use crate::api::wire::ScoreRequest;
use crate::diffusion::{Probability, TokenId};
use crate::engine::Answer;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use similar::TextDiff;
use utoipa::ToSchema;

/// Judges every token of a text, in one forward pass.
pub(crate) async fn score(
    State(state): State<AppState>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
) -> Result<Response, ApiError> {
    let service = state.service()?;
    let asked: ScoreRequest = body::read(request, state.body_max()).await?;
    service.check_model(asked.model.as_deref())?;
    let (request, below) = asked.read()?;
    let answers = sessions::answers(vec![service.submit(request).await?], &ticket).await?;
    let answer = answers.first().ok_or_else(sessions::gone)?;
    let tokens = judged(answer, Words(service.handle.tokenizer()));
    let doubtful = tokens.iter().filter(|token| token.quality.is_some_and(|quality| quality < below));
    Ok(Json(Score {
        id: format!("score-{}", ticket.id()),
        object: "score",
        model: &service.name,
        doubtful: doubtful.map(|token| token.at).collect(),
        tokens,
        usage: Usage::of(&answers, 1),
        diffusion: Summary::of(&answers),
    })
    .into_response())
}

/// Erases what is doubted of a text and writes it again.
pub(crate) async fn repair(
    State(state): State<AppState>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
) -> Result<Response, ApiError> {
    if let Some(last) = requests::last_event(&request) {
        return state.requests().resume(last, ticket.owner());
    }
    let service = state.service()?;
    let asked: RepairRequest = body::read(request, state.body_max()).await?;
    service.check_model(asked.model.as_deref())?;
    let (request, delivery) = asked.read()?;
    let session = service.submit(request).await?;
    let given = session.start.cells.iter().filter_map(|cell| cell.token()).collect();
    let report = Report::new(&ticket, service.handle.clone(), Mended { model: service.name.clone(), given });
    match delivery {
        Delivery::Whole => {
            let answers = sessions::answers(vec![session], &ticket).await?;
            let answer = answers.first().ok_or_else(sessions::gone)?;
            Ok(Json(report.whole(answer)).into_response())
        }
        Delivery::Stream { .. } => Ok(sessions::respond_kept(&state, session, report, &ticket)),
    }
}

/// What a score answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Score<'a> {
    id: String,
    /// Always `score`.
    object: &'static str,
    model: &'a str,
    tokens: Vec<Judged>,
    /// Where the tokens stand that are judged below the bar.
    doubtful: Vec<usize>,
    usage: Usage,
    diffusion: Summary,
}

/// A token and the probability that it is right.
#[derive(Debug, Serialize, ToSchema)]
struct Judged {
    at: usize,
    token: u32,
    #[schema(required)]
    text: Option<String>,
    #[schema(required)]
    quality: Option<f32>,
    /// Its probability given all other tokens; only where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    likelihood: Option<f32>,
}

fn judged(answer: &Answer, words: Words<'_>) -> Vec<Judged> {
    let judged = answer.written.iter().map(|written| Judged {
        at: written.at.index(),
        token: written.token.0,
        text: words.piece(written.token),
        quality: written.quality.map(Probability::get),
        likelihood: written.likelihood.map(Probability::get),
    });
    judged.collect()
}

/// What a repair answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Repair<'a> {
    id: String,
    /// Always `repair`.
    object: &'static str,
    model: &'a str,
    /// The text as it stands now.
    text: &'a str,
    /// What became of it, token by token.
    edits: Vec<Replaced>,
    /// The same, as `diff -u` writes it; empty where nothing was changed.
    diff: String,
    /// Only where it was asked for: how every token that was not pinned is judged now.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<Judged>>,
    usage: Usage,
    diffusion: Summary,
}

/// A token that another one took the place of.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Replaced {
    pub(crate) at: usize,
    pub(crate) was: u32,
    #[schema(required)]
    pub(crate) was_text: Option<String>,
    pub(crate) token: u32,
    #[schema(required)]
    pub(crate) text: Option<String>,
    /// The new token's probability when it was written.
    pub(crate) confidence: f32,
}

/// What became of the tokens of a text, `given`.
pub(crate) fn replaced(given: &[TokenId], answer: &Answer, words: Words<'_>) -> Vec<Replaced> {
    let replaced = answer.written.iter().filter_map(|written| {
        let was = *given.get(written.at.index()).filter(|was| **was != written.token)?;
        Some(Replaced {
            at: written.at.index(),
            was: was.0,
            was_text: words.piece(was),
            token: written.token.0,
            text: words.piece(written.token),
            confidence: written.confidence.get(),
        })
    });
    replaced.collect()
}

/// The same, as `diff -u` writes it; empty where nothing was changed.
pub(crate) fn diff(given: &[TokenId], answer: &Answer, words: Words<'_>) -> String {
    let (before, after) = (words.text(given), answer.output.text());
    TextDiff::from_lines(before.as_str(), after).unified_diff().header("given", "repaired").to_string()
}

/// What a repair answers.
struct Mended {
    model: String,
    given: Vec<TokenId>,
}

impl Ending for Mended {
    fn whole<'a>(&'a self, id: &str, answer: &'a Answer, words: Words<'_>) -> impl Serialize + 'a {
        let is_judged = answer.written.iter().any(|written| written.quality.is_some());
        Repair {
            id: format!("repair-{id}"),
            object: "repair",
            model: &self.model,
            text: answer.output.text(),
            edits: replaced(&self.given, answer, words),
            diff: diff(&self.given, answer, words),
            tokens: is_judged.then(|| judged(answer, words)),
            usage: Usage::of(std::slice::from_ref(answer), 1),
            diffusion: Summary::of(std::slice::from_ref(answer)),
        }
    }
}
