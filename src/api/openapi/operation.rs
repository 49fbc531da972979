//! How an endpoint is told: what it takes, what it answers, and how it refuses. Refuses to know which endpoint.

use crate::api::error::CLIENT_CLOSED_REQUEST;
use crate::api::error::ErrorBody;
use crate::api::error::codes_of;
use crate::api::openapi::SCHEMES;
use crate::api::openapi::completion::add;
use crate::api::openapi::completion::reference;
use crate::api::schema;
use axum::http::StatusCode;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Header, Ref, RefOr, Required, Response, Schema};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
/// The name of the parameter that every endpoint has.
pub(crate) const REQUEST_ID: &str = "RequestId";
const REQUEST_ID_HEADER: &str = "X-Request-Id";

/// An example: what it shows, and what is sent.
pub(crate) type Example = (&'static str, Value);

/// An event of a stream: its name (`message` is that of events without one), and the schema of its data as a text.
pub(crate) type Told<'a> = (&'a str, RefOr<Schema>);

/// What is said about an endpoint.
pub(crate) struct About {
    operation: OperationBuilder,
    /// What its answer has to be like.
    answer: ResponseBuilder,
    refusals: Vec<StatusCode>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl About {
    pub(crate) fn new(id: &str, tag: &str, summary: &str, description: &str) -> Self {
        let operation = OperationBuilder::new()
            .operation_id(Some(id))
            .tag(tag)
            .summary(Some(summary))
            .description(Some(description).filter(|text| !text.is_empty()));
        Self { operation, answer: ResponseBuilder::new(), refusals: Vec::new(), schemas: Vec::new() }
    }

    /// A JSON body, and examples of it, the simplest first.
    pub(crate) fn takes<T: ToSchema>(mut self, examples: impl IntoIterator<Item = Example>) -> Self {
        add::<T>(&mut self.schemas, true);
        let examples = (1..).zip(examples).map(|(number, (summary, value)): (u8, _)| {
            (number.to_string(), ExampleBuilder::new().summary(summary).value(Some(value)).build())
        });
        let content =
            ContentBuilder::new().schema(Some(reference::<T>())).examples_from_iter(examples.collect::<Vec<_>>());
        let body = RequestBodyBuilder::new().content(JSON, content.build()).required(Some(Required::True));
        self.operation = self.operation.request_body(Some(body.build()));
        self.refuses([StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNSUPPORTED_MEDIA_TYPE])
    }

    /// A part of the path.
    pub(crate) fn part(mut self, name: &str, description: &str, schema: RefOr<Schema>, example: &str) -> Self {
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some(description))
            .schema(Some(schema))
            .example(Some(example.into()));
        self.operation = self.operation.parameter(parameter);
        self
    }

    /// JSON of a type.
    pub(crate) fn answers<T: ToSchema>(mut self, description: &str) -> Self {
        add::<T>(&mut self.schemas, true);
        self.answers_with(description, reference::<T>())
    }

    /// JSON of a schema.
    pub(crate) fn answers_with(self, description: &str, schema: RefOr<Schema>) -> Self {
        self.says(description, JSON, schema)
    }

    /// Something of another media type.
    pub(crate) fn says(mut self, description: &str, media_type: &str, schema: RefOr<Schema>) -> Self {
        let content = ContentBuilder::new().schema(Some(schema)).build();
        self.answer = self.answer.description(description).content(media_type, content);
        self
    }

    /// The answer may also be a stream. OpenAPI 3.1 has no word for its items; as others do, the schema is that of one
    /// event, its data spelled in JSON.
    pub(crate) fn streams<'a>(mut self, description: &str, events: impl IntoIterator<Item = Told<'a>>) -> Self {
        let event = |(name, data): Told<'a>| {
            let event = ObjectBuilder::new()
                .schema_type(Type::Object)
                .property("event", schema::words([name]))
                .property("id", schema::text(0))
                .property("data", data)
                .required("event")
                .required("data");
            RefOr::<Schema>::from(event)
        };
        let events = events.into_iter().map(event).fold(OneOfBuilder::new(), OneOfBuilder::item);
        let content = ContentBuilder::new().schema(Some(events.description(Some(description))));
        self.answer = self.answer.content(EVENTS, content.build());
        self
    }

    /// The answer is a stream.
    pub(crate) fn tells<'a>(mut self, description: &str, events: impl IntoIterator<Item = Told<'a>>) -> Self {
        self.answer = self.answer.description(description);
        self.streams(description, events)
    }

    /// It may begin behind an event that the caller has seen.
    pub(crate) fn resumes(self) -> Self {
        let description =
            "The id of the last event seen of a stream: it is read on from there, whatever else the request says.";
        self.takes_header("Last-Event-ID", description).lost()
    }

    fn takes_header(mut self, name: &str, description: &str) -> Self {
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(description))
            .schema(Some(schema::text(0)));
        self.operation = self.operation.parameter(parameter);
        self
    }

    /// It needs the model, which may not be there, or not under the name that is asked for.
    pub(crate) fn needs_model(self, by_name: bool) -> Self {
        let named = by_name.then_some(StatusCode::NOT_FOUND);
        self.refuses(named.into_iter().chain([StatusCode::SERVICE_UNAVAILABLE]))
    }

    /// It runs the model, which takes time and may fail.
    pub(crate) fn runs(self) -> Self {
        let key = "1 to 255 visible characters: sent again within ten minutes, the same request has the same answer and is \
                   computed once.";
        self.needs_model(true)
            .takes_header("Idempotency-Key", key)
            .refuses([StatusCode::TOO_MANY_REQUESTS, StatusCode::INTERNAL_SERVER_ERROR])
            .refuses([StatusCode::UNPROCESSABLE_ENTITY, CLIENT_CLOSED_REQUEST, StatusCode::GATEWAY_TIMEOUT])
    }

    /// It may be too late.
    pub(crate) fn has_deadline(self) -> Self {
        self.refuses([StatusCode::GATEWAY_TIMEOUT])
    }

    /// There may be nothing under such a path.
    pub(crate) fn lost(self) -> Self {
        self.refuses([StatusCode::NOT_FOUND])
    }

    fn refuses(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.refusals.extend(statuses);
        self
    }

    /// The operation, and the schemas it refers to. `is_guarded`: it asks for a key where there are any.
    pub(crate) fn operation(mut self, is_guarded: bool) -> (Operation, Vec<(String, RefOr<Schema>)>) {
        if is_guarded {
            self = self.refuses([StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS]);
            let schemes = SCHEMES.map(|scheme| SecurityRequirement::new(scheme, [""; 0]));
            self.operation =
                self.operation.securities(Some([SecurityRequirement::default()].into_iter().chain(schemes)));
        }
        let parameter = Ref::new(format!("#/components/parameters/{REQUEST_ID}"));
        let mut operation =
            self.operation.parameter_ref(parameter).response("200", self.answer.header(REQUEST_ID_HEADER, name()));
        for status in self.refusals {
            operation = operation.response(status.as_str(), Ref::from_response_name(refusal_name(status)));
        }
        (operation.build(), self.schemas)
    }
}

/// Every way to be refused.
pub(crate) fn refusals() -> Vec<(String, Response)> {
    let refusals = [
        (400, "The body, or the field that `param` names, is at fault."),
        (401, "No API key, or none of this server's."),
        (404, "There is no such model or request, or nothing under this path."),
        (413, "The body is larger than this server takes."),
        (415, "The body is not JSON, or it is compressed."),
        (422, "The Idempotency-Key came with another request before."),
        (429, "As many requests are being served or waiting as may be, of all callers or of this key."),
        (499, "The request was stopped by its name."),
        (500, "The model failed in this request's pass, or the server has a bug."),
        (503, "The model is still being loaded, its last passes all failed, or the server is shutting down."),
        (504, "The deadline came before the first result, or the request took as long as any may."),
    ];
    let refusal = |(status, description): (u16, &str)| {
        let status = StatusCode::from_u16(status).ok()?;
        let codes: Vec<String> = codes_of(status).map(|code| format!("`{code}`")).collect();
        let description = match codes.as_slice() {
            [] => description.to_owned(),
            codes => format!("{description} `code`: {}.", codes.join(", ")),
        };
        let content = ContentBuilder::new().schema(Some(reference::<ErrorBody<'_>>())).build();
        let response =
            ResponseBuilder::new().description(description).content(JSON, content).header(REQUEST_ID_HEADER, name());
        let response = match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => response.header("Retry-After", wait()),
            StatusCode::UNAUTHORIZED => response.header("WWW-Authenticate", word("Always `Bearer`.")),
            _ => response,
        };
        Some((refusal_name(status), response.build()))
    };
    refusals.into_iter().filter_map(refusal).collect()
}

/// The parameter that every endpoint has.
pub(crate) fn request_id() -> Parameter {
    let description =
        "The caller's own name for the request: 1 to 128 letters, digits, `-`, `_` and `.`; any other is replaced.";
    ParameterBuilder::new()
        .name(REQUEST_ID_HEADER)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema::text(0)))
        .build()
}

/// `TooManyRequests`.
fn refusal_name(status: StatusCode) -> String {
    let name = if status == CLIENT_CLOSED_REQUEST { "Client Closed Request" } else { status.as_str() };
    status.canonical_reason().unwrap_or(name).replace(' ', "")
}

fn name() -> Header {
    word("The request's name: the caller's own, or a fresh one.")
}

fn wait() -> Header {
    header(schema::whole(0, u32::MAX as usize), "Seconds after which asking again makes sense.")
}

fn word(description: &str) -> Header {
    header(schema::text(0), description)
}

fn header(schema: RefOr<Schema>, description: &str) -> Header {
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
}
