//! Schemas of OpenAI's four shapes of a completion, made of the types that these share.

use crate::api::answer::completion::{Choice, Completion, Delta, Head, Message};
use crate::api::answer::logprobs::{ChatLogprobs, TextLogprobs};
use crate::api::answer::objects::{Refinement, StartObject, StepObject};
use crate::api::schema::{self, NamedSchemas, SchemaRef, add, reference};
use utoipa::openapi::schema::{Object, Schema};
use utoipa::{ToSchema, openapi::RefOr};

pub(super) const TEXT: &str = "TextCompletion";
pub(super) const TEXT_CHUNK: &str = "TextCompletionChunk";
pub(super) const CHAT: &str = "ChatCompletion";
pub(super) const CHAT_CHUNK: &str = "ChatCompletionChunk";

/// The shapes, and the schemas that they refer to.
pub(super) fn schemas() -> NamedSchemas {
    let text = |name, is_chunk| shape(name, is_chunk, ("text", schema::text(0)), &reference::<TextLogprobs>());
    let chat = |name, is_chunk, content| shape(name, is_chunk, content, &reference::<ChatLogprobs>());
    let mut schemas = vec![
        (TEXT.to_owned(), text("Always `text_completion`.", false)),
        (TEXT_CHUNK.to_owned(), text("Always `text_completion`.", true)),
        (CHAT.to_owned(), chat("Always `chat.completion`.", false, ("message", reference::<Message<'_>>()))),
        (CHAT_CHUNK.to_owned(), chat("Always `chat.completion.chunk`.", true, ("delta", reference::<Delta<'_>>()))),
    ];
    // the shapes stand in for these two
    Completion::schemas(&mut schemas);
    Choice::schemas(&mut schemas);
    add::<StartObject>(&mut schemas);
    add::<StepObject>(&mut schemas);
    add::<Refinement>(&mut schemas);
    add::<TextLogprobs>(&mut schemas);
    add::<ChatLogprobs>(&mut schemas);
    add::<Message<'_>>(&mut schemas);
    add::<Delta<'_>>(&mut schemas);
    schemas
}

/// An answer, or a chunk of one, whose choices have their content in the field `name`.
fn shape(object: &str, is_chunk: bool, (name, content): (&str, SchemaRef), logprobs: &SchemaRef) -> SchemaRef {
    let mut choice = schema::object::<Choice<'_>>();
    require(&mut choice, name, content);
    require(&mut choice, "logprobs", schema::either([logprobs.clone(), schema::null()]));

    let mut whole = schema::object::<Head>();
    if let Some(RefOr::T(Schema::Object(kind))) = whole.properties.get_mut("object") {
        kind.description = Some(object.to_owned());
    }
    require(&mut whole, "choices", schema::list(choice.into(), 0, None));
    whole.properties.extend(schema::object::<Completion<'_>>().properties);
    let refinement = reference::<Refinement>();
    if is_chunk {
        // a chunk has the edits of a step, the refinement of a choice that ends, or neither
        whole.properties.insert("diffusion".to_owned(), schema::either([reference::<StepObject>(), refinement]));
    } else {
        require(&mut whole, "diffusion", refinement);
        whole.required.push("usage".to_owned());
    }
    whole.into()
}

fn require(object: &mut Object, name: &str, schema: SchemaRef) {
    object.properties.insert(name.to_owned(), schema);
    object.required.push(name.to_owned());
}
