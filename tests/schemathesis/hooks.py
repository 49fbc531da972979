"""The refusals of requests that match the schema: they depend on the model or on two fields
together, which a schema cannot express. Any other message is a failure."""

import re

import schemathesis

# limits by the model's canvas, vocabulary, tokenizer and template
MODEL = [
    r"max_tokens \d+ does not fit: the prompt has \d+ tokens? and the canvas \d+ cells",
    r"takes? \d+ cells; the canvas has \d+",
    r"is \d+; ids are below \d+",
    r"is \d+; the vocabulary has no token with this id",
    r"is the model's mask \(.*\), which stands for a blank",
    r"the model's vocabulary has nothing for ",
    r"^(tools|messages\[\d+\]\.(tool_calls|role)): this model's chat template ",
    r"^messages\[\d+\]\.role: .* is no role; give one of ",  # a template may name others
    r"^diffusion\.preset: given .*; give one of ",
    r"the prompt is empty; give at least one token",  # without a suffix; or a template's of no content
]
# fields that need or exclude each other
TOGETHER = [
    r"goes only with \"stream\": true",
    r"max_tokens: given \d+, and \d+ as max_completion_tokens",
    r"max_tokens is missing; give the number of tokens between prompt and suffix",
    r"suffix goes with a prompt that is a text",
    r"n: given \d+; give 1 to \d+: all choices together",
    r"the template holds no ",
    r"steps? (is|are) too few for \d+ blocks",
    r"(window|hold) is \[.*\]; its end must lie after its start",
    r"^(diffusion\.remasking\.)?hold ",  # goes with steps, not with a pace
    r"^remasking by exact reads up to \d+ rows? of \d+ tokens? in a step",
    # a schema within the schema: what could not be kept is named
    r"^(response_format|guided_json|guided_choice|json_schema|structured_outputs)",
    r"^tools\[\d+\]\.function\.parameters",  # a schema within the schema, too
    r"^tool_choice: .* is none of the tools",
    r"^tool_choice: a call is required and there are no tools",
    r"an object takes at least \d+ tokens",
    r"stop does not go with a (response_format|guided_|json_schema|structured_outputs)",
    r"this model's vocabulary has no digits",
    r"the Idempotency-Key is not",  # header values that are no text
    r"^the request .* has no events to resume",
    r"^the Last-Event-ID .* (is no id of an event|has no number of an event|is of (another request|a stream of|a request with))",
    r"^n: given \d+ for each of \d+ prompts",
    r"pinned has \[\d+, \d+\]; give pairs of",
    r"^(prompt|content): given beside (messages|prompt); give one of the two",
    r"^prompt is missing; give a string, or messages in its place",
    r"goes with messages, not with (prompt|content)",
    r"^continue_final_message: given true beside add_generation_prompt",
    r"^messages: the chat template failed: it does not write the last message",
    r"^chat_template_kwargs\.\w+: this is no argument of the template",
    r"^the strings of stop have \d+ bytes",
]
KNOWN = re.compile("|".join(MODEL + TOGETHER), re.DOTALL)


@schemathesis.check
def positive_data_is_refused_only_for_what_no_schema_says(ctx, response, case):
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if response.status_code == 400:
        message = response.json()["error"]["message"]
        assert KNOWN.search(message), f"refused although the schema allows it: {message}"
    else:
        # 422: the same idempotency key, by chance, with another body
        assert response.status_code in (200, 404, 422, 504), f"{response.status_code} to what the schema allows"
