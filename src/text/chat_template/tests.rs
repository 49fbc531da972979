//! Templates and conversations against the texts that transformers renders.

use super::*;
use crate::text::conversation::{Message, ToolCall};
use serde::Deserialize;
use serde_json::{Value as Json, json};

const LLADA_INSTRUCT: &[u8] = include_bytes!("../../../tests/data/llada-hub/instruct/tokenizer_config.json");

fn template(source: &str) -> Result<ChatTemplate, TextError> {
    let config = json!({ "chat_template": source, "eos_token": { "content": "</s>" } });
    Ok(ChatTemplate::from_config(config.to_string().as_bytes())?.unwrap())
}

#[test]
fn lladas_own_template_writes_its_headers() {
    let chat = ChatTemplate::from_config(LLADA_INSTRUCT).unwrap().unwrap();
    let conversation = vec![Message::new("system", " Be brief. "), Message::new("user", "Hi\nthere")];
    assert_eq!(
        chat.render(&conversation.into(), true).unwrap(),
        "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nHi\nthere<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
}

/// Expected texts come from transformers (`tests/data/export_chat.py`).
#[test]
fn conversations_are_written_as_transformers_writes_them() {
    #[derive(Deserialize)]
    struct Case {
        messages: Json,
        add_generation_prompt: bool,
        text: String,
    }
    let cases: Vec<Case> = serde_json::from_slice(include_bytes!("../../../tests/data/chat.json")).unwrap();
    let chat = ChatTemplate::from_config(LLADA_INSTRUCT).unwrap().unwrap();
    assert_eq!(cases.len(), 22);
    for Case { messages, add_generation_prompt, text } in cases {
        assert_eq!(
            chat.render_values(&messages, None::<&()>, add_generation_prompt, &Map::new()).unwrap(),
            text,
            "{messages:?}"
        );
    }
}

/// Templates and the texts that transformers renders (`tests/data/chat_templates/export.py`).
#[derive(Deserialize)]
struct Expected {
    special: BTreeMap<String, String>,
    conversations: BTreeMap<String, Given>,
    templates: Vec<Row>,
}

#[derive(Deserialize)]
struct Given {
    messages: Json,
    tools: Option<Json>,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    template: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    conversation: String,
    add_generation_prompt: bool,
    text: Option<String>,
    error: Option<String>,
}

/// The export's clock.
fn then() -> OffsetDateTime {
    let date = time::Date::from_calendar_date(2026, time::Month::March, 7).unwrap();
    date.with_hms(9, 5, 2).unwrap().assume_utc()
}

#[test]
fn templates_are_rendered_as_transformers_renders_them() {
    let file = std::env::var("REMASK_TEMPLATES");
    let file = file
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/chat_templates/expected.json").to_owned());
    let expected: Expected = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert!(expected.templates.len() >= 60, "{}", expected.templates.len());
    let mut different = Vec::new();
    for Row { name, template, cases } in &expected.templates {
        let special = expected.special.iter().map(|(name, token)| (name.clone(), Value::from(token.as_str())));
        let template = BTreeMap::from([(DEFAULT.to_owned(), template.clone())]);
        let chat = match ChatTemplate::new(&template, special.collect(), then) {
            Ok(chat) => chat,
            Err(error) => {
                different.push(format!("{name}: {error}"));
                continue;
            }
        };
        for Case { conversation: of, add_generation_prompt, text, error } in cases {
            let Given { messages, tools } = &expected.conversations[of];
            let rendered = chat.render_values(messages, tools.as_ref(), *add_generation_prompt, &Map::new());
            let is_same = match (&rendered, text, error) {
                (Ok(rendered), Some(text), _) => rendered == text,
                (Err(_), None, Some(_)) => true,
                _ => false,
            };
            if !is_same {
                different.push(format!("{name}, {of}:\n  want {text:?}{error:?}\n  got  {rendered:?}"));
            }
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
}

#[test]
fn templates_may_call_pythons_string_methods_and_see_the_special_tokens() {
    let source = "{% for m in messages %}\n  {% if m.role.startswith('u') %}\n{{ m['content'].strip() + eos_token }}\
                  {% endif %}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}";
    let chat = template(source).unwrap();
    assert_eq!(chat.render(&vec![Message::new("user", " x ")].into(), true).unwrap(), "x</s>>");
}

/// The part of Qwen's template that concerns tools.
const WITH_TOOLS: &str = "{% if tools %}T:{% for tool in tools %}{{ tool.function.name }};{% endfor %}{% endif %}\
    {% for m in messages %}[{{ m.role }}{% if m.name is defined %}={{ m.name }}{% endif %}] {{ m.content }}\
    {% if m.tool_calls %}{% for call in m.tool_calls %}{{ call.function.name }}({{ call.function.arguments.city }})\
    {% endfor %}{% endif %}{% if m.role == 'tool' %}<{{ m.tool_call_id }}{% endif %}{% endfor %}";

#[test]
fn tools_and_their_calls_are_written_by_a_template_that_has_a_place_for_them() {
    let chat = template(WITH_TOOLS).unwrap();
    assert!(chat.shows_tools() && chat.shows_tool_calls() && chat.names_role("tool"));
    let call = ToolCall { id: "c1".into(), name: "weather".into(), arguments: json!({"city": "Oslo"}) };
    let messages = vec![
        Message { name: Some("Ann".into()), ..Message::new("user", "Hi") },
        Message { tool_calls: vec![call], ..Message::new("assistant", "") },
        Message { tool_call_id: Some("c1".into()), ..Message::new("tool", "rain") },
    ];
    let tools = vec![json!({"type": "function", "function": {"name": "weather"}})];
    let conversation = Conversation { tools, ..messages.into() };
    assert_eq!(
        chat.render(&conversation, true).unwrap(),
        "T:weather;[user=Ann] Hi[assistant] weather(Oslo)[tool] rain<c1"
    );
    let hello: Conversation = vec![Message::new("user", "Hi")].into();
    assert_eq!(chat.render(&hello, true).unwrap(), "[user] Hi");
    let plain = template("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}").unwrap();
    assert!(!plain.shows_tools() && !plain.shows_tool_calls() && !plain.names_role("tool"));
}

#[test]
fn a_template_that_refuses_or_never_ends_is_an_error() {
    let refusing = template("{{ raise_exception('roles must alternate') }}").unwrap();
    assert!(refusing.render(&Conversation::default(), false).unwrap_err().to_string().contains("roles must alternate"));
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
    assert!(
        template(endless).unwrap().render(&Conversation::default(), false).unwrap_err().to_string().contains("fuel")
    );
    assert!(matches!(template("{% if %}"), Err(TextError::Template(_))));
    assert!(ChatTemplate::from_config(b"{}").unwrap().is_none());
}
