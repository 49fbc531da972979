//! The vocabulary that a GGUF file carries, for those who turn text into ids. Refuses to know tokenizers.

use crate::model::LoadError;
use crate::model::weights::gguf::read::{Gguf, TOKENIZER, TOKENIZER_CONFIG};
use candle_core::quantized::gguf_file::Value;
use serde_json::json;
use std::path::Path;

/// What a GGUF file says about text.
#[derive(Clone, Debug, PartialEq)]
pub struct Lexicon {
    /// The tokens.
    pub tokens: Tokens,
    /// The text of a `tokenizer_config.json`: its own, or what the file says in GGUF's words.
    pub tokenizer_config: Option<String>,
}

/// The two ways in which GGUF files list tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum Tokens {
    /// The text of a `tokenizer.json`.
    Whole(String),
    /// Byte-level BPE, as llama.cpp writes it.
    Parts {
        /// Tokens by their ids.
        words: Vec<String>,
        /// Which of them are special: never the result of a user's text.
        special: Vec<bool>,
        /// Pairs that become one, the most frequent first; a space between the two.
        merges: Vec<String>,
        /// llama.cpp's name for the way a text is cut before it is spelled.
        cut: String,
    },
}

/// llama.cpp's token types that are no ordinary words: control, and those that users of a model added.
const SPECIAL: [u64; 2] = [3, 4];

impl Lexicon {
    /// Reads the vocabulary of a GGUF file; `None` where it has none.
    ///
    /// # Errors
    /// When the file is damaged, or has tokens of another kind than byte-level BPE.
    pub fn read(path: &Path) -> Result<Option<Self>, LoadError> {
        let gguf = Gguf::open(path)?;
        if let Some(tokenizer) = gguf.text(TOKENIZER)? {
            let tokenizer_config = gguf.text(TOKENIZER_CONFIG)?.map(str::to_owned);
            return Ok(Some(Self { tokens: Tokens::Whole(tokenizer.to_owned()), tokenizer_config }));
        }
        let key = |key: &str| format!("tokenizer.ggml.{key}");
        let Some(words) = gguf.list(&key("tokens"), text)? else { return Ok(None) };
        match gguf.text(&key("model"))? {
            Some("gpt2") => {}
            given => {
                return Err(LoadError::Unsupported {
                    file: path.display().to_string(),
                    key: key("model"),
                    given: given.map_or_else(|| "missing".to_owned(), |given| format!("{given:?}")),
                    supported: "\"gpt2\", which is byte-level BPE".to_owned(),
                });
            }
        }
        let kinds = gguf.list(&key("token_type"), number)?.unwrap_or_default();
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

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::I32(number) => u64::try_from(*number).ok(),
        value => value.to_u64().ok(),
    }
}
