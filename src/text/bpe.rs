//! Makes a byte-level BPE tokenizer from lists of tokens and merges, as GGUF files have them.

use super::{error::TextError, tokenizer::Tokenizer};
use serde_json::{Value, json};

/// A BPE vocabulary as lists.
#[derive(Clone, Copy, Debug)]
pub struct Lists<'a> {
    /// Tokens in the order of their ids, in GPT-2's spelling of bytes.
    pub words: &'a [String],
    /// For each token, whether it is special.
    pub special: &'a [bool],
    /// Merges in order of priority: two tokens with a space between them.
    pub merges: &'a [String],
    /// llama.cpp's name of the pre-tokenizer.
    pub cut: &'a str,
}

/// Pre-tokenizers: llama.cpp's names, and the regular expression where it is not GPT-2's.
const PRE_TOKENIZERS: [(&[&str], Option<&str>); 4] = [
    (&["default", "gpt-2", "gpt2", "llada"], None),
    (
        &["llama-bpe", "llama3", "llama-v3"],
        Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
    ),
    (
        &["qwen2"],
        Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
    ),
    (
        &["llada-moe", "bailingmoe", "bailingmoe2"],
        Some(r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"),
    ),
];

impl Tokenizer {
    /// A tokenizer from lists, and a chat template from a `tokenizer_config.json` if given.
    ///
    /// # Errors
    /// When the pre-tokenizer is unknown, or the lists or the template are invalid.
    pub fn from_lists(lists: &Lists<'_>, tokenizer_config: Option<&[u8]>) -> Result<Self, TextError> {
        Self::from_texts(lists.json()?.to_string().as_bytes(), tokenizer_config)
    }
}

impl Lists<'_> {
    fn json(&self) -> Result<Value, TextError> {
        let Self { words, special, merges, cut } = self;
        let Some((_, expression)) = PRE_TOKENIZERS.iter().find(|(names, _)| names.contains(cut)) else {
            let known = PRE_TOKENIZERS.iter().flat_map(|(names, _)| *names).copied().collect::<Vec<_>>().join(", ");
            return Err(TextError::NotATokenizer(format!(
                "texts are cut in the way {cut:?}, known are {known}; put the model's tokenizer.json beside its file"
            )));
        };
        let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex});
        let cut = match expression {
            None => byte_level(true),
            Some(expression) => json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false},
                byte_level(false),
            ]}),
        };
        let added = words.iter().enumerate().zip(*special).filter(|(_, special)| **special);
        let added: Vec<Value> = added
            .map(|((id, word), _)| {
                json!({"id": id, "content": word, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": true})
            })
            .collect();
        let vocabulary: serde_json::Map<String, Value> =
            words.iter().enumerate().map(|(id, word)| (word.clone(), json!(id))).collect();
        Ok(json!({
            "version": "1.0", "added_tokens": added,
            // LLaDA's tokenizer normalises, which GGUF files do not say
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": cut,
            "decoder": byte_level(true),
            "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::Special;

    #[test]
    fn lists_become_a_tokenizer() {
        let mut words: Vec<String> = ('!'..='~').map(String::from).collect();
        words.extend(["Ġ", "Ċ", "ab", "Ġab", "<|end|>"].map(str::to_owned));
        let special: Vec<bool> = words.iter().map(|word| word == "<|end|>").collect();
        let merges = ["a b", "Ġ ab"].map(str::to_owned);
        let lists = Lists { words: &words, special: &special, merges: &merges, cut: "gpt-2" };
        let tokenizer = Tokenizer::from_lists(&lists, None).unwrap();
        let named = |text: &str, special| {
            let ids = tokenizer.encode(text, special).unwrap();
            assert_eq!(
                tokenizer.decode(&ids),
                text.replace("<|end|>", if special == Special::AsText { text } else { "" })
            );
            ids.iter().map(|id| words[id.0 as usize].as_str()).collect::<Vec<_>>()
        };
        assert_eq!(named("ab ab\nb", Special::AsText), ["ab", "Ġab", "Ċ", "b"]);
        assert_eq!(named("<|end|>", Special::AsTokens), ["<|end|>"]);
        assert_eq!(named("<|end|>", Special::AsText).len(), 7);

        let lists = Lists { cut: "superbpe", ..lists };
        let error = Tokenizer::from_lists(&lists, None).unwrap_err().to_string();
        assert!(error.contains("\"superbpe\"") && error.contains("llama-bpe"), "{error}");
    }
}
