//! Streams that survive their connection: a task fills a log, and connections read the log.

use super::sse::{self, Frame};
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::request::body::digest;
use crate::api::request::context::RequestContext;
use crate::api::state::AppState;
use crate::api::state::keys::Owner;
use crate::api::state::stream_logs::{Asked, LogEntry, StreamLog, StreamLogs};
use crate::api::state::under_way::{KEPT_FOR, unknown_request};
use crate::text::quoted;
use axum::extract::Request;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// The source of a log's entries, a few at a time.
pub(crate) type Entries = Pin<Box<dyn Stream<Item = Vec<LogEntry>> + Send>>;

/// Starts a stream that goes on for `grace` without a reader, and reads it from its beginning.
pub(crate) fn begin(logs: &Arc<StreamLogs>, context: &RequestContext, source: Entries, grace: Duration) -> Response {
    let asked = Asked { path: context.endpoint().to_owned(), body: context.body(), work: Arc::clone(context.work()) };
    let log = Arc::new(StreamLog::new(context.id().to_owned(), context.owner(), asked, grace));
    let response = read(logs, &log, 0); // attached before the first entry can be dropped
    feed(logs, &log, source);
    response.unwrap_or_else(|_| unknown_request(&log.id).into_response())
}

/// Starts the task that fills a log, and keeps the log.
fn feed(logs: &Arc<StreamLogs>, log: &Arc<StreamLog>, source: Entries) {
    log.set_pump(tokio::spawn(pump(source, Arc::clone(log), Arc::clone(logs))).abort_handle());
    logs.keep(log);
}

/// Fills a log, as long as there is room, to the last entry.
async fn pump(mut source: Entries, log: Arc<StreamLog>, logs: Arc<StreamLogs>) {
    loop {
        log.wait_for_room().await;
        let Some(entries) = source.next().await else { break };
        log.append(entries);
    }
    drop(source); // the request has ended, even if its log has still to be read
    log.finish();
    let (grace, weak) = (log.grace, Arc::downgrade(&log));
    drop(log); // its readers and `logs` hold it; a log that was not kept is freed at once
    if !grace.is_zero() {
        tokio::time::sleep(KEPT_FOR).await;
        if let Some(log) = weak.upgrade() {
            logs.remove(&log);
        }
    }
}

/// Reads a whole stream, by its request's id.
pub(crate) fn from_start(logs: &Arc<StreamLogs>, id: &str, owner: Owner) -> Result<Response, ApiError> {
    read_from(logs, &logs.find(id, owner)?, 0)
}

/// Resumes the stream of the request `of` after the `Last-Event-ID` `last`.
pub(crate) fn resume(logs: &Arc<StreamLogs>, last: &str, of: &str, owner: Owner) -> Result<Response, ApiError> {
    let (id, number) = event(last)?;
    let log = logs.find(of, owner)?;
    if log.id != id && !log.asked.work.is_named(id, owner) {
        return Err(refused(last, &format!("is of another request than {}; {SEND}", quoted(of))));
    }
    read_from(logs, &log, number.saturating_add(1))
}

/// Resumes a stream for its request, which is sent again with the `Last-Event-ID` `last`.
pub(crate) async fn resend(state: &AppState, context: &RequestContext, request: Request, last: &str) -> ApiResult {
    let (logs, (id, number)) = (&state.shared.stream_logs, event(last)?);
    let log = logs.find(id, context.owner())?;
    let advice = format!("send that request again as it was, or GET /v1/requests/{id}");
    if log.asked.path != context.endpoint() {
        let path = &log.asked.path;
        return Err(refused(last, &format!("is of a stream of POST {path}, not of {}; {advice}", context.endpoint())));
    }
    if log.asked.body != Some(digest(state, request).await?) {
        return Err(refused(last, &format!("is of a request with another body; {advice}")));
    }
    read_from(logs, &log, number.saturating_add(1))
}

const SEND: &str = "send the id of the last event that came, or none";

fn refused(last: &str, why: &str) -> ApiError {
    ApiError::new(Code::InvalidRequest, format!("the Last-Event-ID {} {why}", quoted(last)))
}

/// The id of the request and the number of an event, by the id of the event.
fn event(last: &str) -> ApiResult<(&str, u64)> {
    let (id, number) = last.rsplit_once(':').ok_or_else(|| refused(last, &format!("is no id of an event; {SEND}")))?;
    let number = number.parse().map_err(|_| refused(last, &format!("has no number of an event; {SEND}")))?;
    Ok((id, number))
}

fn read_from(logs: &Arc<StreamLogs>, log: &Arc<StreamLog>, from: u64) -> ApiResult {
    read(logs, log, from).map_err(|kept| {
        let (id, first, end) = (&log.id, kept.start(), kept.end());
        let message = format!("of the stream of request {id} events {first} to {end} can be read on");
        ApiError::new(Code::UnknownRequest, message)
    })
}

/// The response that reads a log from entry `from`, or the entries it could begin with.
fn read(logs: &Arc<StreamLogs>, log: &Arc<StreamLog>, from: u64) -> Result<Response, RangeInclusive<u64>> {
    let number = log.attach(from)?;
    let reader = Reader { log: Arc::clone(log), logs: Arc::clone(logs), number };
    let frames = stream::unfold(Some(reader), async |reader| {
        let reader = reader?;
        let Some((number, entry)) = reader.log.next(reader.number).await else {
            // such a response must not look complete
            return reader.log.was_taken_from(reader.number).then(|| (Frame::Err(axum::Error::new(TakenOver)), None));
        };
        let event = Event::default().id(format!("{}:{number}", reader.log.id)).event(entry.name).data(entry.data);
        Some((Frame::Ok(event), Some(reader)))
    });
    Ok(sse::response(frames))
}

/// Why a reader gets no more events.
#[derive(Debug, thiserror::Error)]
#[error("another connection reads this stream on")]
struct TakenOver;

/// Reads a log for one connection.
struct Reader {
    log: Arc<StreamLog>,
    logs: Arc<StreamLogs>,
    number: u64,
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.log.detach(self.number) {
            return;
        }
        let (log, logs, number) = (Arc::clone(&self.log), Arc::clone(&self.logs), self.number);
        if log.grace.is_zero() {
            abort(&log, &logs);
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(log.grace).await;
            if log.is_abandoned_by(number) {
                abort(&log, &logs);
            }
        });
    }
}

/// Ends a stream that has no reader. Dropping its source cancels the request.
fn abort(log: &Arc<StreamLog>, logs: &Arc<StreamLogs>) {
    log.stop_pump();
    logs.remove(log);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::state::RESUME_GRACE;
    use crate::api::state::stream_logs::LOGS_MAX;

    #[tokio::test(start_paused = true)]
    async fn a_finished_log_lives_as_long_as_it_is_kept() {
        let logs = Arc::new(StreamLogs::default());
        let mut streams = Vec::new();
        for number in 0..LOGS_MAX + 10 {
            let log = Arc::new(StreamLog::new(number.to_string(), None, Asked::default(), RESUME_GRACE));
            streams.push(Arc::downgrade(&log));
            feed(&logs, &log, Box::pin(stream::empty()));
            drop(log);
            tokio::task::yield_now().await; // it ends
        }
        let streams_and_tasks = || {
            let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            (streams.iter().filter(|log| log.strong_count() > 0).count(), tasks)
        };
        assert_eq!(streams_and_tasks(), (LOGS_MAX, LOGS_MAX), "logs without room are freed");
        tokio::time::sleep(KEPT_FOR * 2).await;
        assert_eq!(streams_and_tasks(), (0, 0));
    }
}
