//! Chat templates, and what they are given.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remask::text::{ChatTemplate, Message};
use serde_json::json;

fuzz_target!(|given: (String, String, String)| {
    let (template, role, content) = given;
    let config = json!({"chat_template": template, "bos_token": "<s>", "eos_token": "</s>"}).to_string();
    if let Ok(Some(template)) = ChatTemplate::from_config(config.as_bytes()) {
        let message = Message::new(role, content);
        let _ = template.render(&vec![message.clone(), message].into(), true);
    }
});
