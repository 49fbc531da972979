//! Builds the description of an endpoint: what it takes, what it answers, and its errors.

use crate::api::error::{CLIENT_CLOSED_REQUEST, ErrorBody, codes_of};
use crate::api::schema::{self, NamedSchemas, SchemaRef, add, reference};
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
use utoipa::openapi::{Header, Ref, Required, Response};

pub(super) const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
/// The schemes by which a key is sent. Either will do; without keys neither is needed.
pub(super) const SCHEMES: [&str; 2] = ["bearer", "header"];
/// The name of the parameter that every endpoint has.
pub(super) const REQUEST_ID: &str = "RequestId";
const REQUEST_ID_HEADER: &str = "X-Request-Id";

/// An example: its summary, and the body.
pub(super) type Example = (&'static str, Value);

pub(super) struct EventSchema {
    /// `message` for events without a name.
    pub(super) name: &'static str,
    /// Of the data, which is a string.
    pub(super) data: SchemaRef,
}

pub(crate) struct EndpointDoc {
    operation: OperationBuilder,
    /// The response of status 200.
    answer: ResponseBuilder,
    errors: Vec<StatusCode>,
    schemas: NamedSchemas,
}

impl EndpointDoc {
    pub(super) fn new(id: &str, tag: &str, summary: &str, description: &str) -> Self {
        let operation = OperationBuilder::new()
            .operation_id(Some(id))
            .tag(tag)
            .summary(Some(summary))
            .description(Some(description).filter(|text| !text.is_empty()));
        Self { operation, answer: ResponseBuilder::new(), errors: Vec::new(), schemas: Vec::new() }
    }

    /// It takes a JSON body. The simplest example comes first.
    pub(super) fn takes<T: ToSchema>(mut self, examples: impl IntoIterator<Item = Example>) -> Self {
        add::<T>(&mut self.schemas);
        let examples = (1..).zip(examples).map(|(number, (summary, value)): (u8, _)| {
            (number.to_string(), ExampleBuilder::new().summary(summary).value(Some(value)).build())
        });
        let examples: Vec<_> = examples.collect();
        let content = ContentBuilder::new().schema(Some(reference::<T>())).examples_from_iter(examples);
        let body = RequestBodyBuilder::new().content(JSON, content.build()).required(Some(Required::True));
        self.operation = self.operation.request_body(Some(body.build()));
        self.fails_with([StatusCode::BAD_REQUEST, StatusCode::REQUEST_TIMEOUT])
            .fails_with([StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNSUPPORTED_MEDIA_TYPE])
    }

    pub(super) fn path_parameter(mut self, name: &str, description: &str, schema: SchemaRef, example: &str) -> Self {
        let parameter = parameter(ParameterIn::Path, name, description, schema);
        self.operation = self.operation.parameter(parameter.required(Required::True).example(Some(example.into())));
        self
    }

    pub(super) fn answers<T: ToSchema>(mut self, description: &str) -> Self {
        add::<T>(&mut self.schemas);
        self.answers_as(description, JSON, reference::<T>())
    }

    pub(super) fn answers_as(mut self, description: &str, media_type: &str, schema: SchemaRef) -> Self {
        let content = ContentBuilder::new().schema(Some(schema)).build();
        self.answer = self.answer.description(description).content(media_type, content);
        self
    }

    /// It may also answer with a stream. OpenAPI 3.1 cannot describe the items of a stream. As in
    /// other documents, the schema is that of one event, whose data is a string of JSON.
    pub(super) fn streams(mut self, description: &str, events: impl IntoIterator<Item = EventSchema>) -> Self {
        let event = |EventSchema { name, data }| {
            let event = ObjectBuilder::new()
                .schema_type(Type::Object)
                .property("event", schema::words([name]))
                .property("id", schema::text(0))
                .property("data", data)
                .required("event")
                .required("data");
            SchemaRef::from(event)
        };
        let events = events.into_iter().map(event).fold(OneOfBuilder::new(), OneOfBuilder::item);
        let content = ContentBuilder::new().schema(Some(events.description(Some(description))));
        self.answer = self.answer.content(EVENTS, content.build());
        self
    }

    pub(super) fn resumes(self) -> Self {
        let description = "The id of the last event received, after which the stream resumes. An id that is malformed, \
                           or of a request with another id, path or body, is an error.";
        self.takes_header("Last-Event-ID", description).may_be_missing().fails_with([StatusCode::BAD_REQUEST])
    }

    fn takes_header(mut self, name: &str, description: &str) -> Self {
        self.operation = self.operation.parameter(header_parameter(name, description));
        self
    }

    /// It needs the model, which may not be loaded, or not have the name that is asked for.
    pub(super) fn needs_model(self, by_name: bool) -> Self {
        let named = by_name.then_some(StatusCode::NOT_FOUND);
        self.fails_with(named.into_iter().chain([StatusCode::SERVICE_UNAVAILABLE]))
    }

    pub(super) fn runs(self) -> Self {
        let key = "1 to 255 visible characters: sent again within ten minutes, the same request has the same answer and is \
                   computed once. It has the ids of all of them. Once it is cancelled, all get 499.";
        self.needs_model(true)
            .takes_header("Idempotency-Key", key)
            .fails_with([StatusCode::TOO_MANY_REQUESTS, StatusCode::INTERNAL_SERVER_ERROR])
            .fails_with([StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY, CLIENT_CLOSED_REQUEST])
            .fails_with([StatusCode::GATEWAY_TIMEOUT])
    }

    /// What it is asked for may not exist.
    pub(super) fn may_be_missing(self) -> Self {
        self.fails_with([StatusCode::NOT_FOUND])
    }

    fn fails_with(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.errors.extend(statuses);
        self
    }

    /// The operation, and the schemas that it refers to. `is_guarded`: it requires an API key.
    pub(super) fn operation(mut self, is_guarded: bool) -> (Operation, NamedSchemas) {
        if is_guarded {
            self = self.fails_with([StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS]);
            let schemes = SCHEMES.map(|scheme| SecurityRequirement::new(scheme, [""; 0]));
            let schemes = [SecurityRequirement::default()].into_iter().chain(schemes);
            self.operation = self.operation.securities(Some(schemes));
        }
        let parameter = Ref::new(format!("#/components/parameters/{REQUEST_ID}"));
        let mut operation =
            self.operation.parameter_ref(parameter).response("200", self.answer.header(REQUEST_ID_HEADER, name()));
        for status in self.errors {
            operation = operation.response(status.as_str(), Ref::from_response_name(response_name(status)));
        }
        (operation.build(), self.schemas)
    }
}

pub(super) fn errors() -> Vec<(String, Response)> {
    let errors = [
        (400, "The body, or the field named by `param`, is invalid."),
        (401, "The API key is missing or unknown."),
        (404, "The model, request or path does not exist."),
        (408, "The body did not arrive in time."),
        (409, "A request with this X-Request-Id, of the same API key, is under way."),
        (413, "The body is larger than the server's limit."),
        (415, "The body is not JSON, or it is compressed."),
        (422, "The Idempotency-Key was used for another request."),
        (429, "The limit on running and queued requests is reached, for all callers or for this key."),
        (499, "The request was cancelled by its id, or that with the same Idempotency-Key was."),
        (500, "The model failed in this request's pass, or the server has a bug."),
        (
            503,
            "The model is still being loaded, its last passes all failed, the server is shutting down, or it has too many connections.",
        ),
        (504, "The deadline passed before the first result, or the request reached the server's time limit."),
    ];
    let response = |(status, description): (u16, &str)| {
        let status = StatusCode::from_u16(status).ok()?;
        let codes: Vec<String> = codes_of(status).into_iter().map(|code| format!("`{code}`")).collect();
        let description = match codes.as_slice() {
            [] => description.to_owned(),
            codes => format!("{description} `code`: {}.", codes.join(", ")),
        };
        let content = ContentBuilder::new().schema(Some(reference::<ErrorBody<'_>>())).build();
        let response =
            ResponseBuilder::new().description(description).content(JSON, content).header(REQUEST_ID_HEADER, name());
        let response = match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let seconds = schema::whole(0, u32::MAX as usize);
                response.header("Retry-After", header(seconds, "Seconds to wait before trying again."))
            }
            StatusCode::UNAUTHORIZED => {
                response.header("WWW-Authenticate", header(schema::text(0), "Always `Bearer`."))
            }
            _ => response,
        };
        Some((response_name(status), response.build()))
    };
    errors.into_iter().filter_map(response).collect()
}

/// The parameter that every endpoint has.
pub(super) fn request_id() -> Parameter {
    let description =
        "The caller's own id for the request: 1 to 128 letters, digits, `-`, `_` and `.`; any other value is replaced.";
    header_parameter(REQUEST_ID_HEADER, description).build()
}

fn header_parameter(name: &str, description: &str) -> ParameterBuilder {
    parameter(ParameterIn::Header, name, description, schema::text(0)).required(Required::False)
}

fn parameter(place: ParameterIn, name: &str, description: &str, schema: SchemaRef) -> ParameterBuilder {
    ParameterBuilder::new().name(name).parameter_in(place).description(Some(description)).schema(Some(schema))
}

/// The name of an error's response, as `TooManyRequests`.
fn response_name(status: StatusCode) -> String {
    let name = if status == CLIENT_CLOSED_REQUEST { "Client Closed Request" } else { status.as_str() };
    status.canonical_reason().unwrap_or(name).replace(' ', "")
}

fn name() -> Header {
    header(schema::text(0), "The request's id: the caller's own, or a new one.")
}

fn header(schema: SchemaRef, description: &str) -> Header {
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
}
