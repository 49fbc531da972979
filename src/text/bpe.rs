//! Byte-level BPE from lists of words and merges, as GGUF files carry it. Refuses to know such files.

use super::error::TextError;
use super::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// A vocabulary in lists.
#[derive(Clone, Copy, Debug)]
pub struct Lists<'a> {
    /// Tokens by their ids, bytes spelled as GPT-2 spells them.
    pub words: &'a [String],
    /// Which of them are special.
    pub special: &'a [bool],
    /// Pairs that become one, the most frequent first; a space between the two.
    pub merges: &'a [String],
    /// llama.cpp's name for the way a text is cut before it is spelled.
    pub cut: &'a str,
}

/// How texts are cut: llama.cpp's names, and the expression where it is not GPT-2's.
const CUTS: [(&[&str], Option<&str>); 4] = [
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
    /// A tokenizer from lists, with the chat template of a `tokenizer_config.json` where that is given.
    ///
    /// # Errors
    /// When texts are cut in an unknown way, the lists contradict each other, or the template is not one.
    pub fn from_lists(lists: &Lists<'_>, tokenizer_config: Option<&[u8]>) -> Result<Self, TextError> {
        Self::from_texts(lists.json()?.to_string().as_bytes(), tokenizer_config)
    }
}

impl Lists<'_> {
    /// The `tokenizer.json` that says the same.
    fn json(&self) -> Result<Value, TextError> {
        let Self { words, special, merges, cut } = self;
        let Some((_, expression)) = CUTS.iter().find(|(names, _)| names.contains(cut)) else {
            let known = CUTS.iter().flat_map(|(names, _)| *names).copied().collect::<Vec<_>>().join(", ");
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
            // what GGUF files leave out: LLaDA's tokenizer normalises
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
