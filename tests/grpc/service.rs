//! Around the calls: keys, request ids, health, reflection, and a port of its own.

use super::calls::{Call, PATIENCE, asked, carrying, channel, client, framed, judged, metadata, raw, refused, told};
use super::proto;
use super::proto::remask_client::RemaskClient;
use crate::common::server::{Failing, Gated, Server};
use crate::common::toy_tokenizer;
use remask::api::{Access, AppState, BODY_MAX, Guard, Listeners, Service, serve};
use remask::engine::{Limits, start};
use remask::model::Toy;
use remask::telemetry::Metrics;
use serde_json::Value;
use std::sync::Arc;
use tokio::net::TcpListener;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test]
async fn keys_open_grpc_too_and_bound_it() {
    let keys = ["first".to_owned(), "busy".to_owned()];
    let guard = Guard::new(&keys, None, Some(1)).unwrap();
    let server = Server::guarded(BODY_MAX, PATIENCE, Access { guard, origins: Vec::new() }).await;
    let (model, gate) = Gated::new();
    server.load(model, Some(toy_tokenizer()), Limits::default());
    let mut client = client(&server);
    for (told, opens) in [
        (&[][..], false),
        (&[("authorization", "Bearer first")], true),
        (&[("x-api-key", "first")], true),
        (&[("authorization", "Bearer third")], false),
        (&[("authorization", "Basic first")], false),
    ] {
        let info = client.info(carrying(proto::InfoRequest::default(), told)).await;
        match info {
            Ok(_) => assert!(opens, "{told:?}"),
            Err(status) => {
                assert_eq!((opens, status.code()), (false, Code::Unauthenticated), "{told:?}");
                assert_eq!(metadata(&status, "remask-code"), Some("invalid_api_key"));
                assert!(status.message().contains("Authorization: Bearer KEY"), "{status:?}");
            }
        }
    }
    let status = raw(&server, "/remask.v1.Remask/Nothing", "application/grpc", framed(b"")).await;
    assert_eq!(status.headers()["grpc-status"], "16", "nor do strangers learn what there is");

    let key = [("x-api-key", "busy")];
    let first = client.generate(carrying(asked("a"), &key)).await.unwrap();
    let status = client.generate(carrying(asked("a"), &key)).await.unwrap_err();
    assert_eq!((status.code(), metadata(&status, "remask-code")), (Code::ResourceExhausted, Some("key_limit")));
    assert_eq!(metadata(&status, "retry-after"), Some("1"));
    gate.open();
    told(first.into_inner()).await;
    server.until("remask_requests_total{endpoint=\"/remask.v1.Remask/Generate\",outcome=\"ok\"} 1").await;
    told(client.generate(carrying(asked("a"), &key)).await.unwrap().into_inner()).await;

    let health = HealthClient::new(channel(&server.base)).check(HealthCheckRequest::default()).await;
    assert_eq!(health.unwrap().into_inner().status(), ServingStatus::Serving, "probes have no key");
    assert!(services(&server).await.contains(&"remask.v1.Remask".to_owned()), "nor has reflection");
}

#[tokio::test]
async fn a_call_has_the_name_its_caller_gave() {
    let server = Server::toy().await;
    let mut client = client(&server);
    let named = [("x-request-id", "trace-7")];
    let response = client.generate(carrying(asked("a"), &named)).await.unwrap();
    assert_eq!(response.metadata().get("x-request-id").unwrap(), "trace-7");
    let (start, _, done) = told(response.into_inner()).await;
    assert_eq!((start.id.as_str(), done.id.as_str(), done.model.as_str()), ("trace-7", "trace-7", "toy"));
    let score = client.score(carrying(judged("a"), &named)).await.unwrap();
    assert_eq!(score.into_inner().id, "trace-7");
    let status = client.score(carrying(judged(""), &named)).await.unwrap_err();
    assert_eq!(metadata(&status, "x-request-id"), Some("trace-7"));
    let fresh = client.info(proto::InfoRequest::default()).await.unwrap();
    assert_eq!(fresh.metadata().get("x-request-id").unwrap().len(), 16);
}

#[tokio::test]
async fn health_follows_readiness() {
    const NAMES: [&str; 2] = ["", "remask.v1.Remask"];
    let server = Server::loading(BODY_MAX, PATIENCE).await;
    let mut health = HealthClient::new(channel(&server.base));
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let mut watch = health.watch(ask("remask.v1.Remask")).await.unwrap().into_inner();
    let mut stranger = health.watch(ask("what")).await.unwrap().into_inner();
    let mut next = async || watch.message().await.map(|message| message.unwrap().status());
    assert_eq!(next().await.unwrap(), ServingStatus::NotServing, "loading");
    assert_eq!(stranger.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    for name in NAMES {
        assert_eq!(health.check(ask(name)).await.unwrap().into_inner().status(), ServingStatus::NotServing);
    }
    let (model, gate) = Gated::new();
    server.load(model, Some(toy_tokenizer()), Limits::default());
    assert_eq!(next().await.unwrap(), ServingStatus::Serving);
    for name in NAMES {
        assert_eq!(health.check(ask(name)).await.unwrap().into_inner().status(), ServingStatus::Serving);
    }
    assert_eq!(health.check(ask("what")).await.unwrap_err().code(), Code::NotFound);

    let mut client = client(&server);
    let admitted = client.generate(asked("a")).await.unwrap();
    let served = server.stop();
    assert_eq!(next().await.unwrap(), ServingStatus::NotServing, "draining");
    assert_eq!(health.check(ask("")).await.unwrap().into_inner().status(), ServingStatus::NotServing);
    let status = refused(&mut client, Call::Generate(asked("b"))).await;
    assert_eq!((status.code(), metadata(&status, "remask-code")), (Code::Unavailable, Some("draining")));
    assert_eq!(next().await.unwrap_err().code(), Code::Unavailable, "a watcher does not keep the server");
    assert_eq!(stranger.message().await.unwrap_err().code(), Code::Unavailable);
    gate.open();
    told(admitted.into_inner()).await;
    served.await.unwrap();

    let server = Server::of(Box::new(Failing { toy: Toy::new(), passes: 0 }), Limits::default()).await;
    let mut watch = HealthClient::new(channel(&server.base)).watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    for _ in 0..3 {
        refused(&mut self::client(&server), Call::Score(judged("a"))).await;
    }
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing, "failing");
}

/// The services that reflection lists.
async fn services(server: &Server) -> Vec<String> {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel(&server.base));
    let answers = client.server_reflection_info(futures_util::stream::iter([ask])).await;
    let answer = answers.unwrap().into_inner().message().await.unwrap();
    match answer {
        Some(ServerReflectionResponse {
            message_response: Some(MessageResponse::ListServicesResponse(list)), ..
        }) => list.service.into_iter().map(|service| service.name).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn reflection_tells_what_there_is_to_old_clients_and_new() {
    use tonic_reflection::pb::v1alpha::ServerReflectionRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_response::MessageResponse;
    let server = Server::toy().await;
    let mut services = services(&server).await;
    services.sort();
    assert_eq!(services, ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "remask.v1.Remask"]);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("remask.v1.Remask".to_owned())),
    };
    let mut client = ServerReflectionClient::new(channel(&server.base));
    let answers = client.server_reflection_info(futures_util::stream::iter([ask])).await;
    let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else { panic!("{answer:?}") };
    let file = &files.file_descriptor_proto[0];
    for word in ["remask.v1", "GenerateRequest", "Repair"] {
        assert!(file.windows(word.len()).any(|bytes| bytes == word.as_bytes()), "{word}");
    }
}

#[tokio::test]
async fn grpc_may_have_a_port_of_its_own() {
    let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (http, grpc) = (bind().await, bind().await);
    let base = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let (http_base, grpc_base) = (base(&http), base(&grpc));
    let metrics = Arc::new(Metrics::new().unwrap());
    let toy = metrics.model("toy").unwrap();
    let state = AppState::new(metrics, BODY_MAX, Access::default());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async move { drop(stopped.await) };
    let served = tokio::spawn(serve(Listeners::Two { http, grpc }, state.clone(), shutdown, PATIENCE));
    let handle = start(Box::new(Toy::new()), Some(toy_tokenizer()), Limits::default(), toy).unwrap();
    state.loaded(vec![Service { handle, name: "toy".to_owned(), created: 1 }]).unwrap();

    let mut there = RemaskClient::new(channel(&grpc_base));
    let mut elsewhere = RemaskClient::new(channel(&http_base));
    let (_, _, done) = told(there.generate(asked("a")).await.unwrap().into_inner()).await;
    assert!(!done.text.is_empty());
    let status = elsewhere.info(proto::InfoRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let get = async |base: &str| reqwest::get(format!("{base}/v1/models")).await.unwrap();
    assert_eq!(get(&http_base).await.status(), 200);
    let lost = get(&grpc_base).await;
    assert_eq!(lost.status(), 404);
    let error = lost.json::<Value>().await.unwrap()["error"].clone();
    assert!(error["message"].as_str().unwrap().contains("speaks gRPC; the server's other port speaks HTTP"), "{error}");
    drop((there, elsewhere));
    stop.send(()).unwrap();
    served.await.unwrap();
}

#[tokio::test]
async fn a_message_is_for_the_model_that_it_names_and_else_for_the_first() {
    let server = Server::loading(BODY_MAX, PATIENCE).await;
    let toy = |name: &str| server.service(name, Box::new(Toy::new()), Some(toy_tokenizer()), Limits::default());
    server.state.loaded(vec![toy("first"), toy("second")]).unwrap();
    let mut client = RemaskClient::new(channel(&server.base));
    for (asked_for, answers) in [("", "first"), ("first", "first"), ("second", "second")] {
        let info = client.info(proto::InfoRequest { model: asked_for.to_owned() }).await.unwrap().into_inner();
        assert_eq!(info.model, answers, "{asked_for:?}");
        let request = proto::GenerateRequest { model: asked_for.to_owned(), ..asked("a") };
        let (_, _, done) = told(client.generate(request).await.unwrap().into_inner()).await;
        assert_eq!(done.model, answers, "{asked_for:?}");
    }
    let status = client.info(proto::InfoRequest { model: "third".to_owned() }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().ends_with("this server serves \"first\", \"second\""), "{}", status.message());
}
