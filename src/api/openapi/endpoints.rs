//! The descriptions of the endpoints, with examples that work on the built-in Sudoku model.

use super::completion;
use super::guides::GUIDES;
use super::operation::{EndpointDoc, EventSchema, Example, JSON};
use super::viewer::{FILES, HTML, MARKDOWN, SCRIPT, STYLE};
use crate::api::answer::infill::Infill;
use crate::api::answer::objects::{StartObject, StepObject};
use crate::api::answer::repair::Repair;
use crate::api::answer::score::Score;
use crate::api::answer::server::{
    Cancelled, Detokenized, Model, ModelList, PROMETHEUS, RequestStatus, Root, Status, Tokenized, Version,
};
use crate::api::error::ErrorBody;
use crate::api::schema::{self, SchemaRef, reference};
use crate::api::wire::chat::ChatRequest;
use crate::api::wire::completion::CompletionRequest;
use crate::api::wire::infill::InfillRequest;
use crate::api::wire::repair::RepairRequest;
use crate::api::wire::score::ScoreRequest;
use crate::api::wire::tokenize::{DetokenizeRequest, TokenizeRequest};
use serde_json::json;
use utoipa::openapi::Ref;

const WRITING: &str = "writing";
const GIVEN: &str = "given texts";
const REQUESTS: &str = "requests";
const MODELS: &str = "models";
const OPERATORS: &str = "operators";
const DOCUMENT: &str = "documentation";

pub(super) const TAGS: [(&str, &str); 6] = [
    (WRITING, "Generate text: completions, chat, infilling."),
    (GIVEN, "Work on a given text: score, repair, tokenize."),
    (REQUESTS, "Running requests, by id."),
    (MODELS, "The served models."),
    (OPERATORS, "Liveness, readiness, metrics."),
    (DOCUMENT, "This document and its viewer."),
];

const PUZZLE: &str =
    "53..7....\n6..195...\n.98....6.\n8...6...3\n4..8.3..1\n7...2...6\n.6....28.\n...419..5\n....8..79";
const EIGHT_ROWS: &str = "534678912\n672195348\n198342567\n859761423\n426853791\n713924856\n961537284\n287419635\n";
const WRONG_AT_THE_END: &str =
    "534678912\n672195348\n198342567\n859761423\n426853791\n713924856\n961537284\n287419635\n345286177";

const CHUNKS: &str = "With `\"stream\": true`: each event's data is a chunk, the last one `[DONE]`, or an error object if the model \
                      fails on the way. Texts are append-only: a token is sent once nothing to its left, itself included, can change any more.";
const EVENTS: &str = "With `\"stream\": true`: the events `start`, `step`, and `done` (the answer as without a stream) or `error`. Their ids \
                      say how far a reader came.";

fn chunks(name: &'static str) -> [EventSchema; 1] {
    let chunk = schema::either([Ref::from_schema_name(name).into(), reference::<ErrorBody<'_>>()]);
    [EventSchema { name: "message", data: schema::any([schema::words(["[DONE]"]), schema::spelled(chunk)]) }]
}

fn events(done: SchemaRef) -> [EventSchema; 4] {
    let (start, step, error) = (reference::<StartObject>(), reference::<StepObject>(), reference::<ErrorBody<'_>>());
    [("start", start), ("step", step), ("done", done), ("error", error)]
        .map(|(name, data)| EventSchema { name, data: schema::spelled(data) })
}

pub(crate) fn completions() -> EndpointDoc {
    let examples: [Example; 4] = [
        ("The last row of a grid", json!({"prompt": EIGHT_ROWS, "max_tokens": 9})),
        (
            "The same, streamed with every fill and erasure",
            json!({"prompt": EIGHT_ROWS, "max_tokens": 9, "stream": true, "stream_options": {"include_usage": true},
                   "diffusion": {"stream_edits": true}}),
        ),
        (
            "The text between two texts, with the probabilities of its tokens",
            json!({"prompt": "534678912\n", "suffix": EIGHT_ROWS.get(20..), "max_tokens": 10, "logprobs": 1}),
        ),
        (
            "Two choices, drawn at a temperature, in a third of the steps",
            json!({"prompt": EIGHT_ROWS, "max_tokens": 9, "n": 2, "temperature": 0.7, "seed": 1,
                   "diffusion": {"steps": 3, "unmasking": "entropy", "remasking": "off"}}),
        ),
    ];
    let description = "OpenAI's completions. With a `suffix` the model fills the text between prompt and suffix.";
    EndpointDoc::new("complete", WRITING, "Complete a prompt", description)
        .takes::<CompletionRequest>(examples)
        .answers_as("The completions, `n` for each prompt.", JSON, Ref::from_schema_name(completion::TEXT).into())
        .streams(CHUNKS, chunks(completion::TEXT_CHUNK))
        .runs()
}

pub(crate) fn chat() -> EndpointDoc {
    let messages = json!([{"role": "user", "content": EIGHT_ROWS}]);
    let examples: [Example; 2] = [
        ("The last row of a grid", json!({"messages": messages, "max_tokens": 9})),
        ("The same as a stream", json!({"messages": messages, "max_tokens": 9, "stream": true})),
    ];
    let description =
        "OpenAI's chat completions, rendered with the model's own chat template. Needs a model with a template.";
    EndpointDoc::new("chat", WRITING, "Complete a conversation", description)
        .takes::<ChatRequest>(examples)
        .answers_as("The assistant's message.", JSON, Ref::from_schema_name(completion::CHAT).into())
        .streams(CHUNKS, chunks(completion::CHAT_CHUNK))
        .runs()
}

pub(crate) fn infill() -> EndpointDoc {
    let examples: [Example; 3] = [
        ("A puzzle, every dot of which is a cell to fill", json!({"template": PUZZLE, "blank": "."})),
        ("The same, streamed with every edit", json!({"template": PUZZLE, "blank": ".", "stream": true})),
        (
            "In twelve steps, within two seconds, with the quality of each token",
            json!({"template": PUZZLE, "blank": ".", "diffusion": {
                "steps": 12, "remasking": {"policy": "quality", "budget": 12, "below": 0.5, "window": [0.25, 0.75]},
                "proofreading": {"steps": 16}, "deadline_ms": 2000, "return_quality": true}}),
        ),
    ];
    let description = "Every `blank` of the `template` is one cell to fill; the rest of the text is fixed.";
    EndpointDoc::new("infill", WRITING, "Fill the gaps of a text", description)
        .takes::<InfillRequest>(examples)
        .answers::<Infill<'_>>("The whole text, and the filling of each gap.")
        .streams(EVENTS, events(reference::<Infill<'_>>()))
        .resumes()
        .runs()
}

pub(crate) fn score() -> EndpointDoc {
    let examples: [Example; 1] = [("A grid with a mistake in it", json!({"text": WRONG_AT_THE_END}))];
    let description = "The probability of each token that it is right, from one forward pass. Needs a quality head.";
    EndpointDoc::new("score", GIVEN, "Score a text", description)
        .takes::<ScoreRequest>(examples)
        .answers::<Score<'_>>("The quality of each token, and the positions of the doubtful ones.")
        .runs()
}

pub(crate) fn repair() -> EndpointDoc {
    let pinned = json!({"text": WRONG_AT_THE_END, "pinned": [[0, 80]], "worst": 1, "steps": 8, "stream": true});
    let examples: [Example; 2] = [
        ("A grid with a mistake in it", json!({"text": WRONG_AT_THE_END})),
        ("Only its last row, one token at a time, streamed with every edit", pinned),
    ];
    let description = "Doubtful tokens are erased and filled again, until no token is doubtful or `steps` are spent. Needs a quality head.";
    EndpointDoc::new("repair", GIVEN, "Repair a text", description)
        .takes::<RepairRequest>(examples)
        .answers::<Repair<'_>>("The text, its edits and a unified diff.")
        .streams(EVENTS, events(reference::<Repair<'_>>()))
        .resumes()
        .runs()
}

const NAMED: &str = "The request's id: the X-Request-Id that the caller sent, or that of the answer.";

pub(crate) fn resume() -> EndpointDoc {
    let description = "Of a stream of `/v1/infill` or `/v1/repair` that is under way or ended less than a minute ago: its events behind \
                       `Last-Event-ID`, else from its beginning. Another connection that reads the same stream ends. Of another \
                       request: its status.";
    let events = events(schema::any([reference::<Infill<'_>>(), reference::<Repair<'_>>()]));
    EndpointDoc::new("readOn", REQUESTS, "Resume a stream, or see how far a request is", description)
        .path_parameter("id", NAMED, schema::text(1), "my-request")
        .resumes()
        .answers::<RequestStatus>("The status, or the events of a stream.")
        .streams("The events.", events)
}

pub(crate) fn cancel() -> EndpointDoc {
    let description = "It stops before its next forward pass; its caller gets an error.";
    EndpointDoc::new("cancel", REQUESTS, "Cancel a request", description)
        .path_parameter("id", NAMED, schema::text(1), "my-request")
        .answers::<Cancelled>("It is cancelled.")
        .may_be_missing()
}

pub(crate) fn tokenize() -> EndpointDoc {
    let text = json!({"prompt": "534678912\n", "return_token_strs": true});
    let chat = json!({"messages": [{"role": "user", "content": "534678912\n"}]});
    let description = "As in vLLM: a `prompt`, or `messages`, which are rendered with the model's own chat template as in chat \
                       completions. Special tokens in the texts are encoded as plain text.";
    EndpointDoc::new("tokenize", GIVEN, "Tokenize a text or a conversation", description)
        .takes::<TokenizeRequest>([("The first row of a grid", text), ("The same in a conversation", chat)])
        .answers::<Tokenized>("The ids of the tokens.")
        .needs_model(true)
}

pub(crate) fn detokenize() -> EndpointDoc {
    EndpointDoc::new("detokenize", GIVEN, "Detokenize token ids", "As in vLLM.")
        .takes::<DetokenizeRequest>([("Three tokens", json!({"tokens": [5, 3, 4]}))])
        .answers::<Detokenized>("The text.")
        .needs_model(true)
}

pub(crate) fn models() -> EndpointDoc {
    EndpointDoc::new(
        "models",
        MODELS,
        "List the models",
        "In the order in which they were given; the first one answers requests that name none.",
    )
    .answers::<ModelList>("OpenAI's list, with facts about diffusion beside each model.")
    .needs_model(false)
}

pub(crate) fn model() -> EndpointDoc {
    EndpointDoc::new("model", MODELS, "Describe a model", "The name may contain slashes.")
        .path_parameter("id", "The model's name.", schema::text(1), "sudoku")
        .answers::<Model>("The model of that name.")
        .needs_model(true)
}

pub(crate) fn root() -> EndpointDoc {
    let description =
        "Browsers, whose `Accept` prefers `text/html`, get the playground: a page that shows how an answer is refined.";
    EndpointDoc::new("root", OPERATORS, "Describe the server", description)
        .answers_as("The playground, for browsers.", HTML, schema::text(0))
        .answers::<Root>("Its name, version and endpoints; for browsers, the playground.")
}

pub(crate) fn playground_file() -> EndpointDoc {
    let doc = EndpointDoc::new("playgroundFile", OPERATORS, "A file of the playground", "").may_be_missing();
    let doc = doc.path_parameter("file", "Its name.", schema::text(0), "main.js");
    let doc = doc.answers_as("A script.", SCRIPT, schema::text(0));
    doc.answers_as("A file.", STYLE, schema::text(0))
}

pub(crate) fn version() -> EndpointDoc {
    EndpointDoc::new("version", OPERATORS, "The version", "As in vLLM.").answers::<Version>("The server's version.")
}

pub(crate) fn health() -> EndpointDoc {
    EndpointDoc::new("health", OPERATORS, "Alive?", "Never fails because of load.")
        .answers::<Status>("The process is running.")
}

pub(crate) fn ready() -> EndpointDoc {
    EndpointDoc::new("ready", OPERATORS, "Ready?", "Whether a new request would be accepted if there is room for it.")
        .answers::<Status>("It is ready.")
        .needs_model(false)
}

pub(crate) fn metrics() -> EndpointDoc {
    let doc = EndpointDoc::new("metrics", OPERATORS, "Every metric", "");
    doc.answers_as("Prometheus' text format.", PROMETHEUS, schema::text(0))
}

pub(crate) fn document() -> EndpointDoc {
    let anything = utoipa::openapi::Object::with_type(utoipa::openapi::Type::Object);
    EndpointDoc::new("openapi", DOCUMENT, "This document", "").answers_as("OpenAPI 3.1.", JSON, anything.into())
}

pub(crate) fn viewer() -> EndpointDoc {
    let description = "Swagger UI, embedded in the server; it needs no network.";
    let doc = EndpointDoc::new("docs", DOCUMENT, "A viewer of this document", description);
    doc.answers_as("A page.", HTML, schema::text(0))
}

pub(crate) fn viewer_file() -> EndpointDoc {
    let sources = GUIDES.iter().map(|guide| format!("{}.md", guide.name));
    let names = GUIDES.iter().map(|guide| guide.name).chain(FILES.map(|file| file.name)).map(str::to_owned);
    let names: Vec<String> = names.chain(sources).collect();
    let names = schema::words(names.iter().map(String::as_str));
    let description = "The guides of the repository as pages, or with `.md` as Markdown, and the files of the viewer.";
    let doc = EndpointDoc::new("docsFile", DOCUMENT, "A guide, or a file of the viewer", description).may_be_missing();
    let doc = doc.path_parameter("file", "Its name.", names, "policies");
    let media_types = [HTML, MARKDOWN].into_iter().chain(FILES.map(|file| file.media_type));
    media_types.fold(doc, |doc, media_type| doc.answers_as("The guide or file.", media_type, schema::text(0)))
}
