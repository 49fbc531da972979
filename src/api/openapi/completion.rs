//! The four shapes of a completion, put together from what `api::openai` shares among them. Refuses to know when
//! which one is sent.

use crate::api::answer::completion::Choice;
use crate::api::answer::completion::Completion;
use crate::api::answer::completion::Delta;
use crate::api::answer::completion::Head;
use crate::api::answer::completion::Message;
use crate::api::answer::logprobs::ChatLogprobs;
use crate::api::answer::logprobs::TextLogprobs;
use crate::api::answer::objects::StartObject;
use crate::api::answer::objects::StepObject;
use crate::api::answer::objects::Summary;
use crate::api::schema;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, OneOfBuilder};
use utoipa::openapi::{Ref, RefOr, Schema};

/// Names of the shapes.
pub(crate) const TEXT: &str = "TextCompletion";
pub(crate) const TEXT_CHUNK: &str = "TextCompletionChunk";
pub(crate) const CHAT: &str = "ChatCompletion";
pub(crate) const CHAT_CHUNK: &str = "ChatCompletionChunk";

/// The shapes, and what else they refer to.
pub(crate) fn schemas() -> Vec<(String, RefOr<Schema>)> {
    let text = |name, is_chunk| shape(name, is_chunk, ("text", schema::text(0)), &reference::<TextLogprobs>());
    let chat = |name, is_chunk, said| shape(name, is_chunk, said, &reference::<ChatLogprobs>());
    let mut schemas = vec![
        (TEXT.to_owned(), text("Always `text_completion`.", false)),
        (TEXT_CHUNK.to_owned(), text("Always `text_completion`.", true)),
        (CHAT.to_owned(), chat("Always `chat.completion`.", false, ("message", reference::<Message<'_>>()))),
        (CHAT_CHUNK.to_owned(), chat("Always `chat.completion.chunk`.", true, ("delta", reference::<Delta<'_>>()))),
    ];
    add::<Completion<'_>>(&mut schemas, false);
    add::<Choice<'_>>(&mut schemas, false);
    add::<StartObject>(&mut schemas, true);
    add::<StepObject>(&mut schemas, true);
    add::<Summary>(&mut schemas, true);
    add::<TextLogprobs>(&mut schemas, true);
    add::<ChatLogprobs>(&mut schemas, true);
    add::<Message<'_>>(&mut schemas, true);
    add::<Delta<'_>>(&mut schemas, true);
    schemas
}

/// Adds what a type refers to, and itself too if it is wanted.
pub(crate) fn add<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>, itself: bool) {
    T::schemas(schemas);
    if itself {
        schemas.push((T::name().into_owned(), T::schema()));
    }
}

/// Where a type's schema is found.
pub(crate) fn reference<T: ToSchema>() -> RefOr<Schema> {
    Ref::from_schema_name(T::name()).into()
}

fn or_null(schema: RefOr<Schema>) -> RefOr<Schema> {
    OneOfBuilder::new().item(schema).item(schema::null()).into()
}

/// An answer, or a chunk of one, whose choices say `said`.
fn shape(object: &str, is_chunk: bool, (name, said): (&str, RefOr<Schema>), logprobs: &RefOr<Schema>) -> RefOr<Schema> {
    let mut choice = schema::object::<Choice<'_>>();
    require(&mut choice, name, said);
    require(&mut choice, "logprobs", or_null(logprobs.clone()));

    let mut whole = schema::object::<Head>();
    if let Some(RefOr::T(Schema::Object(kind))) = whole.properties.get_mut("object") {
        kind.description = Some(object.to_owned());
    }
    require(&mut whole, "choices", schema::list(choice.into(), 0, None));
    whole.properties.extend(schema::object::<Completion<'_>>().properties);
    let summary = reference::<Summary>();
    if is_chunk {
        // a chunk tells the edits of a step, the end of a choice, or neither
        whole.properties.insert("diffusion".to_owned(), schema::either([reference::<StepObject>(), summary]));
    } else {
        require(&mut whole, "diffusion", summary);
        whole.required.push("usage".to_owned());
    }
    whole.into()
}

fn require(object: &mut Object, name: &str, schema: RefOr<Schema>) {
    object.properties.insert(name.to_owned(), schema);
    object.required.push(name.to_owned());
}
