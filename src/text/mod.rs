//! Texts to token ids and back, with the model's tokenizer and chat template.

mod alignment;
mod bpe;
mod chat_template;
mod conversation;
mod disjoint;
mod distinct;
mod error;
mod expression;
mod intersection;
mod json;
mod middle;
mod number_pattern;
mod pattern;
mod shown;
mod stop;
mod tokenizer;
mod transcript;

pub use alignment::{Division, divide, divide_by_spans, pieces};
pub use bpe::Lists;
pub use chat_template::ChatTemplate;
pub use conversation::{Conversation, Ending, Message, ToolCall};
pub use distinct::distinct;
pub use error::TextError;
pub use expression::Expression;
pub use json::{Brackets, Healed, escaped, heal, json_string, string_text};
pub use number_pattern::DIGITS_MAX;
pub use pattern::{Characters, LENGTH_MAX, Pattern, Step};
pub use shown::{beginning, quoted, shown, without_middle};
pub use tokenizer::{Special, Tokenizer};
pub use transcript::{Delta, Transcript};
