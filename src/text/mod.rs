//! Strings to ids and back, through the model's own tokenizer and chat template. Out of scope: canvases and models.

mod bpe;
mod chat_template;
mod error;
mod json;
mod tokenizer;
mod transcript;

pub use bpe::Lists;
pub use chat_template::{ChatTemplate, Message};
pub use error::TextError;
pub use json::{Healed, heal, json_string};
pub use tokenizer::{Special, Tokenizer};
pub use transcript::{Delta, Transcript};
