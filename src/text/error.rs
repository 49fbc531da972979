//! What can go wrong between texts and ids.

use std::path::PathBuf;

/// Why a text has no ids, or a tokenizer cannot be had.
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
    /// The bytes given are no tokenizer.
    #[error("not a tokenizer.json: {0}")]
    NotATokenizer(String),
    /// The vocabulary has no word for some characters.
    #[error("the model's vocabulary has nothing for {}; leave it out", quoted(characters))]
    Inexpressible {
        /// The first few of them, in order of appearance.
        characters: Vec<char>,
    },
    /// The tokenizer failed for a reason of its own.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// The chat template is faulty, or refused the conversation.
    #[error("the chat template failed: {0}")]
    Template(String),
}

fn quoted(characters: &[char]) -> String {
    characters.iter().map(|character| format!("{character:?}")).collect::<Vec<_>>().join(", ")
}
