//! Submits requests whose answer must be a call of a tool. Where the model may choose between
//! several, it first writes a name, and then the arguments of that function.

use super::sessions;
use crate::api::answer::completion::Calls;
use crate::api::answer::tool_call::chosen;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::request::context::RequestContext;
use crate::api::state::services::{Reads, Service};
use crate::api::wire::tools::{ForcedCall, Function};
use crate::engine::{Length, Request, Session, Task};
use std::time::{Duration, Instant};

/// The request for the choices, without its format.
pub(super) struct Choosing {
    pub(super) request: Request,
    pub(super) tasks: Vec<Task>,
    pub(super) choices: usize,
    pub(super) reads: Reads,
}

/// The sessions of the choices, and the functions that they call.
pub(super) async fn submit(
    service: &Service,
    context: &RequestContext,
    Choosing { request, tasks, choices, reads }: Choosing,
    call: ForcedCall,
) -> ApiResult<(Vec<Session>, Calls)> {
    let calls = |names| Calls { id: context.id().to_owned(), names, is_named: call.is_named };
    if let [function] = &call.functions[..] {
        let request = Request { format: function.format.clone(), ..request };
        let sessions = service.submit_all(context.origin(), request, tasks, choices, reads).await;
        let sessions = sessions.map_err(|error| function.renamed(error))?;
        let names = vec![function.name.clone(); sessions.len()];
        return Ok((sessions, calls(names)));
    }
    let began = Instant::now();
    let format = call.choice();
    let choosing = Request { format, return_quality: false, ..request.clone() };
    let unbounded = tasks.iter().cloned().map(without_length).collect();
    let named = service.submit_all(context.origin(), choosing, unbounded, choices, Reads::Answer).await?;
    let named = sessions::answers(named, context).await?;
    let deadline = request.deadline.map(|limit| limit.saturating_sub(began.elapsed()).max(Duration::from_millis(1)));
    let (mut all, mut names) = (Vec::new(), Vec::new());
    for (index, answer) in named.iter().enumerate() {
        let function = find(&call.functions, answer.output.text())?;
        let seed = request.seed.map(|seed| seed.wrapping_add((index % choices) as u64));
        let request = Request { format: function.format.clone(), seed, deadline, ..request.clone() };
        let task = tasks[index / choices].clone();
        let sessions = service.submit_all(context.origin(), request, vec![task], 1, reads).await;
        all.extend(sessions.map_err(|error| function.renamed(error))?);
        names.push(function.name.clone());
    }
    Ok((all, calls(names)))
}

fn find<'a>(functions: &'a [Function], json: &str) -> ApiResult<&'a Function> {
    let name = chosen(json);
    let found = functions.iter().find(|function| Some(&function.name) == name.as_ref());
    found.ok_or_else(|| ApiError::new(Code::Internal, "the model chose none of the tools"))
}

/// The same task without a limit on its answer: that of the arguments is not one of the name.
fn without_length(task: Task) -> Task {
    match task {
        Task::Continue { prompt, .. } => Task::Continue { prompt, length: Length::Default },
        other => other,
    }
}
