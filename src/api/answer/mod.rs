//! Words out: the engine's answers as the API's objects. Out of scope: how they are sent.

pub(crate) mod completion;
pub(crate) mod infill;
pub(crate) mod logprobs;
pub(crate) mod objects;
mod policies;
pub(crate) mod repair;
pub(crate) mod score;
pub(crate) mod server;
pub(crate) mod tool_call;
pub(crate) mod writer;

use crate::diffusion::TokenId;
use crate::text::Tokenizer;

/// The two shapes of OpenAI's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `/v1/completions`.
    Text,
    /// `/v1/chat/completions`.
    Chat,
}

/// A prompt before a choice.
#[derive(Debug)]
pub(crate) struct Echo {
    pub(crate) text: String,
    /// The part of the text that each token has; empty where no logprobs were asked for.
    pub(crate) tokens: Vec<String>,
}

/// How a token is spelled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spelling {
    /// Its text, in which U+FFFD stands for bytes that are no character; `None` without a
    /// tokenizer.
    pub(crate) text: Option<String>,
    /// Its bytes, only where `text` has a U+FFFD and they are known: the token has a part of a
    /// character, as `é` may be two tokens of a byte each.
    pub(crate) bytes: Option<Vec<u8>>,
}

/// Converts tokens to text, if the model has a tokenizer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detokenizer<'a>(pub(crate) Option<&'a Tokenizer>);

impl Detokenizer<'_> {
    /// The text of one token; `None` without a tokenizer.
    pub(crate) fn piece(self, token: TokenId) -> Option<String> {
        self.0.map(|tokenizer| tokenizer.piece(token))
    }

    /// How a token is spelled.
    pub(crate) fn spelling(self, token: TokenId) -> Spelling {
        let text = self.piece(token);
        let is_part = text.as_ref().is_some_and(|text| text.contains('\u{fffd}'));
        let bytes = self.0.filter(|_| is_part).and_then(|tokenizer| tokenizer.bytes(token));
        Spelling { text, bytes }
    }

    /// The text of some tokens; empty without a tokenizer.
    pub(crate) fn text(self, tokens: &[TokenId]) -> String {
        self.0.map(|tokenizer| tokenizer.decode(tokens)).unwrap_or_default()
    }
}
