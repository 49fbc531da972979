//! A request in traces and in the log: its spans, the trace it belongs to, and that neither holds
//! text of a user's.

mod common;

use common::process::Process;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
/// A text that must not appear.
const SECRET: &str = "xylophone";

/// Passes on the spans it receives.
struct Collector(mpsc::UnboundedSender<Span>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        spans.flat_map(|scope| scope.spans).for_each(|span| drop(self.0.send(span)));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, key: &str) -> Option<any_value::Value> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match &found.value {
        Some(AnyValue { value }) => value.clone(),
        None => None,
    }
}

fn word(text: &str) -> Option<any_value::Value> {
    Some(any_value::Value::StringValue(text.to_owned()))
}

fn count(count: i64) -> Option<any_value::Value> {
    Some(any_value::Value::IntValue(count))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_told_in_its_callers_trace_with_its_parts_and_without_its_text() {
    let (send, mut spans) = mpsc::unbounded_channel();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = format!("http://{}", incoming.local_addr().unwrap());
    let collector = Server::builder().add_service(TraceServiceServer::new(Collector(send)));
    tokio::spawn(async move { collector.serve_with_incoming(incoming).await });

    let mut server = Process::serve(&["--model-id", "toy", "--log-format", "json", "--otlp-endpoint", &endpoint]);
    let body = json!({"prompt": SECRET, "max_tokens": 20, "stream": true, "seed": 1, "diffusion": {"steps": 20}});
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(client.get(server.url("/ready")).send().await.unwrap().status(), 200);
    let request = client.post(server.url("/v1/completions")).header("traceparent", format!("00-{TRACE}-{CALLER}-01"));
    let response = request.header("x-request-id", "a-name").json(&body).send().await.unwrap();
    assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    let refused = client.post(server.url("/v1/completions")).json(&json!({"prompt": SECRET, "max_tokens": -2}));
    let refused = refused.header("x-request-id", "another").send().await.unwrap();
    assert_eq!(refused.json::<Value>().await.unwrap()["request_id"], "another");
    let said = server.until_said("another");
    server.signal("TERM");
    assert!(server.ended().success(), "it sends the last spans before it ends");

    // the span of a stream ends when its connection lets go of it, perhaps after the next request's
    let (mut all, mut awaited) = (Vec::new(), vec![word("a-name"), word("another")]);
    while !awaited.is_empty() {
        let Ok(Some(span)) = tokio::time::timeout(Duration::from_secs(30), spans.recv()).await else { break };
        awaited.retain(|id| attribute(&span, "remask.request_id") != *id);
        all.push(span);
    }
    let ours: Vec<&Span> = all.iter().filter(|span| hex(&span.trace_id) == TRACE).collect();
    let of_name = |name: &str| ours.iter().filter(|span| span.name == name).copied().collect::<Vec<_>>();
    let [request] = of_name("POST /v1/completions")[..] else { panic!("{all:#?}") };
    assert_eq!(hex(&request.parent_span_id), CALLER);
    assert_eq!(request.kind, 2, "a server's");
    assert_eq!(attribute(request, "remask.request_id"), word("a-name"));
    assert_eq!(attribute(request, "remask.outcome"), word("ok"));
    assert_eq!(attribute(request, "remask.filled"), count(attribute_count(request, "remask.erased") + 20));
    assert_eq!(attribute(request, "remask.replaced"), count(0));
    let ([queue], [stream]) = (&of_name("queue")[..], &of_name("stream")[..]) else { panic!("{all:#?}") };
    let steps = of_name("step");
    assert!((16..=20).contains(&steps.len()), "{}", steps.len());
    for part in steps.iter().chain([queue, stream]) {
        assert_eq!(part.parent_span_id, request.span_id, "{part:?}");
        assert!(part.start_time_unix_nano <= part.end_time_unix_nano, "{part:?}");
    }
    assert!(queue.start_time_unix_nano <= steps[0].start_time_unix_nano);
    assert!(steps.iter().all(|step| attribute(step, "remask.batch.sequences") == count(1)));

    let line = said.iter().find(|line| line.contains("a-name")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["span"]["id"], "a-name");
    assert_eq!(line["span"]["trace_id"], TRACE);
    assert!(!format!("{all:?}{said:?}").contains(SECRET));
    assert!(!format!("{all:?}").contains("/ready"), "a probe is not worth a span");
}

fn attribute_count(span: &Span, key: &str) -> i64 {
    match attribute(span, key) {
        Some(any_value::Value::IntValue(count)) => count,
        other => panic!("{key} is {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_are_logged_when_asked_for_and_never_else() {
    for (flags, is_there) in [(&["--log-texts"][..], true), (&[], false)] {
        let flags = [&["--model-id", "toy"], flags].concat();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_remask"));
        let command = command.args(["serve", "--port", "0"]).args(flags).env("RUST_LOG", "trace");
        let server = Process::of(command);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let body = json!({"prompt": SECRET, "max_tokens": 4});
        let request = client.post(server.url("/v1/completions")).header("x-request-id", "a-name").json(&body);
        assert_eq!(request.send().await.unwrap().status(), 200);
        let said = server.until_said("request ended").join("\n");
        assert_eq!(said.contains(SECRET), is_there, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_collector_it_serves_as_ever() {
    // this port refuses connections
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut server = Process::serve(&["--model-id", "toy", "--otlp-endpoint", &format!("http://{gone}")]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for _ in 0..20 {
        let request = client.post(server.url("/v1/completions")).json(&json!({"prompt": "a", "max_tokens": 4}));
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    server.signal("TERM");
    assert!(server.ended().success());
}
