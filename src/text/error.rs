//! Errors of tokenizers and chat templates.

use std::path::PathBuf;

/// Why a text cannot be encoded, or a tokenizer cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A file of the model cannot be read or understood.
    #[error("{}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes are not a tokenizer.
    #[error("not a tokenizer.json: {0}")]
    NotATokenizer(String),
    /// The vocabulary has no token for some characters.
    #[error("the model's vocabulary has nothing for {}; leave it out", quoted(characters))]
    Inexpressible {
        /// In order of appearance, at most six: a message names five, and that there are others.
        characters: Vec<char>,
    },
    /// The tokenizer failed for another reason.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// A conversation is too long for what it is to fit into, as the chat template writes it.
    #[error("the chat template makes {bytes} bytes of them; there is room for {most} at most")]
    TooLong {
        /// Bytes of the text.
        bytes: usize,
        /// Bytes that may fit at most.
        most: usize,
    },
    /// The chat template is invalid, or rejected the conversation.
    #[error("the chat template failed: {0}")]
    Template(String),
}

impl TextError {
    /// Most characters that a message names.
    pub(super) const SHOWN_MAX: usize = 5;
}

fn quoted(characters: &[char]) -> String {
    let shown = characters.iter().take(TextError::SHOWN_MAX).map(|character| format!("{character:?}"));
    let others = (characters.len() > TextError::SHOWN_MAX).then(|| "others".to_owned());
    shown.chain(others).collect::<Vec<_>>().join(", ")
}
