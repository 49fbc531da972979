//! Requests, calls and comparisons that the tests of gRPC share.

use super::proto;
use super::proto::generate_event::Event;
use super::proto::remask_client::RemaskClient;
use super::proto::{generate_request, repair_request, score_request};
use crate::common::server::Server;
use serde_json::{Value, json};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

pub(super) const PATIENCE: Duration = Duration::from_secs(30);
pub(super) const COMPLETIONS: &str = "/v1/completions";
pub(super) const INFILL: &str = "/v1/infill";
pub(super) const SCORE: &str = "/v1/score";
pub(super) const REPAIR: &str = "/v1/repair";

pub(super) fn channel(base: &str) -> Channel {
    Endpoint::from_shared(base.to_owned()).unwrap().connect_lazy()
}

pub(super) fn client(server: &Server) -> RemaskClient<Channel> {
    RemaskClient::new(channel(&server.base))
}

pub(super) fn asked(prompt: &str) -> proto::GenerateRequest {
    let prompt = Some(generate_request::Prompt::Text(prompt.to_owned()));
    proto::GenerateRequest { prompt, ..Default::default() }
}

/// A request with these options.
pub(super) fn diffusing(diffusion: proto::Diffusion) -> proto::GenerateRequest {
    proto::GenerateRequest { diffusion: Some(diffusion), ..asked("a") }
}

pub(super) fn template(template: &str) -> proto::InfillRequest {
    proto::InfillRequest { template: template.to_owned(), ..Default::default() }
}

pub(super) fn given(text: &str) -> Option<repair_request::Given> {
    Some(repair_request::Given::Text(text.to_owned()))
}

pub(super) fn mended(text: &str) -> proto::RepairRequest {
    proto::RepairRequest { given: given(text), ..Default::default() }
}

pub(super) fn judged(text: &str) -> proto::ScoreRequest {
    proto::ScoreRequest { given: Some(score_request::Given::Text(text.to_owned())), ..Default::default() }
}

/// Reads a stream to its end; checks that it has its parts in order.
pub(super) async fn told(mut stream: Streaming<proto::GenerateEvent>) -> (proto::Start, Vec<proto::Step>, proto::Done) {
    let mut event = async || stream.message().await.unwrap().and_then(|message| message.event);
    let Some(Event::Start(start)) = event().await else { panic!("no start") };
    let mut steps = Vec::new();
    loop {
        match event().await {
            Some(Event::Step(step)) => steps.push(step),
            Some(Event::Done(done)) => {
                assert_eq!(event().await, None);
                assert_eq!((&start.id, &start.model), (&done.id, &done.model));
                return (start, steps, done);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Checks that `usage` and `diffusion` are those of HTTP.
pub(super) fn check_counts(usage: Option<proto::Usage>, diffusion: Option<proto::Summary>, http: &Value) {
    let (usage, diffusion) = (usage.unwrap(), diffusion.unwrap());
    let expected = json!({
        "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens, "total_tokens": usage.total_tokens,
    });
    assert_eq!(http["usage"], expected);
    let expected = json!({
        "steps": diffusion.steps, "forward_passes": diffusion.forward_passes,
        "forward_tokens": diffusion.forward_tokens, "filled": diffusion.filled,
        "erased": diffusion.erased, "replaced": diffusion.replaced, "degraded": diffusion.degraded,
    });
    assert_eq!(http["diffusion"], expected);
}

/// A number as JSON spells it: the shortest text that parses to it.
pub(super) fn number(number: impl Into<Option<f32>>) -> Option<f64> {
    number.into().map(|number| number.to_string().parse().unwrap())
}

pub(super) fn list<T: serde::Serialize>(items: impl IntoIterator<Item = T>) -> Value {
    Value::Array(items.into_iter().map(|item| json!(item)).collect())
}

/// A request of any kind.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Generate(proto::GenerateRequest),
    Infill(proto::InfillRequest),
    Score(proto::ScoreRequest),
    Repair(proto::RepairRequest),
}

/// The status of a call that must fail.
pub(super) async fn refused(client: &mut RemaskClient<Channel>, call: Call) -> Status {
    let shown = format!("{call:?}");
    let refused = match call {
        Call::Generate(asked) => client.generate(asked).await.err(),
        Call::Infill(asked) => client.infill(asked).await.err(),
        Call::Score(asked) => client.score(asked).await.err(),
        Call::Repair(asked) => client.repair(asked).await.err(),
    };
    refused.unwrap_or_else(|| panic!("{shown} was taken"))
}

pub(super) fn metadata<'a>(status: &'a Status, key: &str) -> Option<&'a str> {
    status.metadata().get(key).map(|value| value.to_str().unwrap())
}

/// A message with the prefix of its frame.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// The answer to any body with any content type.
pub(super) async fn raw(server: &Server, path: &str, content_type: &str, body: Vec<u8>) -> reqwest::Response {
    let request = server.client.post(server.url(path)).header("content-type", content_type);
    request.header("x-request-id", "raw-1").body(body).send().await.unwrap()
}

/// A request with this metadata.
pub(super) fn carrying<T>(message: T, metadata: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (key, value) in metadata {
        request.metadata_mut().insert(*key, value.parse().unwrap());
    }
    request
}
