//! The vocabulary in a GGUF file, from which a tokenizer is made. Out of scope: tokenizers.

use super::read::{Gguf, whole};
use super::{TOKENIZER, TOKENIZER_CONFIG};
use crate::model::error::LoadError;
use candle_core::quantized::gguf_file::Value;
use serde_json::json;
use std::path::Path;

/// A GGUF file's tokens and the settings of its tokenizer.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufVocabulary {
    /// The tokens.
    pub tokens: Tokens,
    /// The content of a `tokenizer_config.json`: that in the file, or made from GGUF's own keys.
    pub tokenizer_config: Option<String>,
}

/// The two ways in which GGUF files list tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum Tokens {
    /// The content of a `tokenizer.json`.
    Whole(String),
    /// Byte-level BPE, as llama.cpp writes it.
    Parts {
        /// Tokens, the index being the id.
        words: Vec<String>,
        /// Which of them are special: text of a user never becomes one.
        special: Vec<bool>,
        /// Pairs that are merged, the most frequent first; a space between the two.
        merges: Vec<String>,
        /// llama.cpp's name of the pre-tokenizer.
        cut: String,
    },
}

/// llama.cpp's token types of special tokens: control, and user-defined.
const SPECIAL: [u64; 2] = [3, 4];

impl GgufVocabulary {
    /// Reads the vocabulary of a GGUF file of any model; `None` if it has none.
    ///
    /// # Errors
    /// When the file is damaged, or its tokens are not byte-level BPE.
    pub fn read(path: &Path) -> Result<Option<Self>, LoadError> {
        let gguf = Gguf::of_any_model(path)?;
        let key = |key: &str| format!("tokenizer.ggml.{key}");
        let words = gguf.list(&key("tokens"), text)?;
        let tokenizer_config = match gguf.text(TOKENIZER_CONFIG)? {
            Some(config) => Some(config.to_owned()),
            None => made_config(&gguf, words.as_deref().unwrap_or_default())?,
        };
        if let Some(tokenizer) = gguf.text(TOKENIZER)? {
            return Ok(Some(Self { tokens: Tokens::Whole(tokenizer.to_owned()), tokenizer_config }));
        }
        let Some(words) = words else { return Ok(None) };
        gguf.require(&key("model"), "gpt2", "\"gpt2\", which is byte-level BPE")?;
        let kinds = gguf.list(&key("token_type"), whole)?.unwrap_or_default();
        let special = (0..words.len()).map(|id| kinds.get(id).is_some_and(|kind| SPECIAL.contains(kind))).collect();
        let merges = gguf.list(&key("merges"), text)?.unwrap_or_default();
        let cut = gguf.text(&key("pre"))?.unwrap_or("default").to_owned();
        Ok(Some(Self { tokens: Tokens::Parts { words, special, merges, cut }, tokenizer_config }))
    }
}

/// Special tokens: llama.cpp's names, and those that chat templates have for them.
const TOKEN_NAMES: [(&str, &str); 6] = [
    ("bos", "bos_token"),
    ("eos", "eos_token"),
    ("unknown", "unk_token"),
    ("seperator", "sep_token"), // llama.cpp's spelling
    ("padding", "pad_token"),
    ("mask", "mask_token"),
];

/// A `tokenizer_config.json` from llama.cpp's keys; `None` without a chat template.
fn made_config(gguf: &Gguf, words: &[String]) -> Result<Option<String>, LoadError> {
    let mut templates = Vec::new();
    for name in gguf.list("tokenizer.chat_templates", text)?.unwrap_or_default() {
        if let Some(template) = gguf.text(&format!("tokenizer.chat_template.{name}"))? {
            templates.push(json!({"name": name, "template": template}));
        }
    }
    templates
        .extend(gguf.text("tokenizer.chat_template")?.map(|template| json!({"name": "default", "template": template})));
    if templates.is_empty() {
        return Ok(None);
    }
    let mut config = json!({"chat_template": templates});
    for (theirs, ours) in TOKEN_NAMES {
        let id = gguf.number(&format!("tokenizer.ggml.{theirs}_token_id"))?;
        if let Some(word) = id.and_then(|id| words.get(usize::try_from(id).ok()?)) {
            config[ours] = json!(word);
        }
    }
    Ok(Some(config.to_string()))
}

fn text(value: &Value) -> Option<String> {
    value.to_string().ok().cloned()
}
