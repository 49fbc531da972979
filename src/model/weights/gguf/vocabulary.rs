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
    /// Reads the vocabulary of a GGUF file; `None` if it has none.
    ///
    /// # Errors
    /// When the file is damaged, or its tokens are not byte-level BPE.
    pub fn read(path: &Path) -> Result<Option<Self>, LoadError> {
        let gguf = Gguf::open(path)?;
        if let Some(tokenizer) = gguf.text(TOKENIZER)? {
            let tokenizer_config = gguf.text(TOKENIZER_CONFIG)?.map(str::to_owned);
            return Ok(Some(Self { tokens: Tokens::Whole(tokenizer.to_owned()), tokenizer_config }));
        }
        let key = |key: &str| format!("tokenizer.ggml.{key}");
        let Some(words) = gguf.list(&key("tokens"), text)? else { return Ok(None) };
        gguf.require(&key("model"), "gpt2", "\"gpt2\", which is byte-level BPE")?;
        let kinds = gguf.list(&key("token_type"), whole)?.unwrap_or_default();
        let special = (0..words.len()).map(|id| kinds.get(id).is_some_and(|kind| SPECIAL.contains(kind))).collect();
        let named = |end: &str| {
            let id = gguf.number(&key(&format!("{end}_token_id")))?;
            Ok::<_, LoadError>(id.and_then(|id| words.get(usize::try_from(id).ok()?).cloned()))
        };
        let template = gguf.text("tokenizer.chat_template")?;
        let config = json!({"chat_template": template, "bos_token": named("bos")?, "eos_token": named("eos")?});
        let merges = gguf.list(&key("merges"), text)?.unwrap_or_default();
        let cut = gguf.text(&key("pre"))?.unwrap_or("default").to_owned();
        let tokens = Tokens::Parts { words, special, merges, cut };
        Ok(Some(Self { tokens, tokenizer_config: template.map(|_| config.to_string()) }))
    }
}

fn text(value: &Value) -> Option<String> {
    value.to_string().ok().cloned()
}
