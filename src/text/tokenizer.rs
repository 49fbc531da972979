//! A model's tokenizer: texts and conversations to token ids and back.

use super::chat_template::{ChatTemplate, TemplateFiles};
use super::conversation::Conversation;
use super::error::TextError;
use crate::diffusion::TokenId;
use crate::files;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::{fmt, ops::Range};

/// How the name of a special token in a text is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// As ordinary text; for texts of users.
    AsText,
    /// As the special token; for the text of a chat template.
    AsTokens,
}

/// A model's tokenizer. Built once and shared.
pub struct Tokenizer {
    with_special: tokenizers::Tokenizer,
    as_text: tokenizers::Tokenizer,
    chat: Option<ChatTemplate>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocabulary", &self.vocabulary()).field("chat", &self.chat).finish()
    }
}

impl Tokenizer {
    /// A tokenizer from the bytes of a `tokenizer.json`, without a chat template.
    ///
    /// # Errors
    /// When they are not a tokenizer.
    pub fn from_bytes(json: &[u8]) -> Result<Self, TextError> {
        let failed = |error: &dyn fmt::Display| TextError::NotATokenizer(error.to_string());
        let mut with_special = tokenizers::Tokenizer::from_bytes(json).map_err(|error| failed(&error))?;
        // saved with the settings of its last batch in training
        with_special.with_padding(None).with_truncation(None).map_err(|error| failed(&error))?;
        let mut as_text = with_special.clone();
        as_text.set_encode_special_tokens(true); // as ordinary text, despite the name
        Ok(Self { with_special, as_text, chat: None })
    }

    /// A tokenizer from a `tokenizer.json`, with the chat template of a `tokenizer_config.json`.
    ///
    /// # Errors
    /// When either is invalid.
    pub fn from_texts(json: &[u8], tokenizer_config: Option<&[u8]>) -> Result<Self, TextError> {
        let chat = tokenizer_config.map(ChatTemplate::from_config).transpose()?.flatten();
        Ok(Self { chat, ..Self::from_bytes(json)? })
    }

    /// The tokenizer of a model directory, with the chat template of its `chat_template.jinja` or
    /// `tokenizer_config.json` if there is one; `None` without a `tokenizer.json`.
    ///
    /// # Errors
    /// When a file exists but cannot be read or is invalid.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>, TextError> {
        let in_file = |file: PathBuf, error: &dyn fmt::Display| TextError::File { file, reason: error.to_string() };
        let file = dir.join("tokenizer.json");
        let json = match files::read(&file, files::TOKENIZER_MAX) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| in_file(file.clone(), &error))?,
        };
        let tokenizer = Self::from_bytes(&json).map_err(|error| in_file(file, &error))?;
        let files = TemplateFiles::read(dir)?;
        let chat = ChatTemplate::from_files(&files).map_err(|error| in_file(dir.join(files.name()), &error))?;
        Ok(Some(Self { chat, ..tokenizer }))
    }

    /// The ids of a text, without any added tokens.
    ///
    /// # Errors
    /// When the vocabulary cannot express it.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<TokenId>, TextError> {
        let tokenizer = match special {
            Special::AsText => &self.as_text,
            Special::AsTokens => &self.with_special,
        };
        match tokenizer.encode(text, false) {
            Ok(encoding) if covers(encoding.get_offsets(), text) => {
                Ok(encoding.get_ids().iter().copied().map(TokenId).collect())
            }
            Ok(_) => Err(TextError::Inexpressible { characters: inexpressible(tokenizer, text) }),
            Err(error) => match inexpressible(tokenizer, text) {
                characters if characters.is_empty() => Err(TextError::Tokenizer(error.to_string())),
                characters => Err(TextError::Inexpressible { characters }),
            },
        }
    }

    /// The ids of a text, each with the range of characters that it holds all or a part of.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with_spans(&self, text: &str) -> Result<Vec<(TokenId, Range<usize>)>, TextError> {
        let ids = self.encode(text, Special::AsText)?;
        let encoding = self.as_text.encode_char_offsets(text, false);
        let encoding = encoding.map_err(|error| TextError::Tokenizer(error.to_string()))?;
        let spans = encoding.get_offsets().iter().map(|&(from, to)| from..to);
        Ok(ids.into_iter().zip(spans).collect())
    }

    /// The ids of a conversation, rendered with the model's chat template, with the start of the
    /// assistant's turn; `None` without a template. Names of special tokens inside messages are
    /// ordinary text.
    ///
    /// # Errors
    /// When the template rejects the conversation, or the vocabulary cannot express it.
    pub fn encode_chat(&self, conversation: &Conversation) -> Result<Option<Vec<TokenId>>, TextError> {
        let Some(chat) = &self.chat else { return Ok(None) };
        let mut special: Vec<String> = self.special().collect();
        special.sort_unstable_by_key(|name| std::cmp::Reverse(name.len())); // longest first: one name may be a prefix of another
        let (mut conversation, spelled) = with_placeholders(conversation, &special);
        for message in conversation.messages.iter_mut().filter(|message| message.role == "developer") {
            if !chat.names_role("developer") {
                message.role = "system".to_owned(); // OpenAI's newer name for the same
            }
        }
        let text = chat.render(&conversation, true)?;
        let mut ids = Vec::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find(|c| spelled.iter().any(|(placeholder, _)| *placeholder == c)) {
            let (before, after) = rest.split_at(at);
            ids.extend(self.encode(before, Special::AsTokens)?);
            let mut after = after.chars();
            let name = after.next().and_then(|c| spelled.iter().find(|(placeholder, _)| *placeholder == c));
            ids.extend(self.encode(name.map_or("", |(_, name)| name), Special::AsText)?);
            rest = after.as_str();
        }
        ids.extend(self.encode(rest, Special::AsTokens)?);
        Ok(Some(ids))
    }

    fn special(&self) -> impl Iterator<Item = String> {
        let added = self.with_special.get_added_tokens_decoder();
        added.into_values().filter(|token| token.special).map(|token| token.content)
    }

    /// The text of some ids, without special and unknown ones. Incomplete characters become U+FFFD.
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        let ids: Vec<u32> = tokens.iter().map(|token| token.0).collect();
        self.with_special.decode(&ids, true).unwrap_or_default()
    }

    /// The text of a single token, or the name of a special token. For displaying an edit.
    pub fn piece(&self, token: TokenId) -> String {
        self.with_special.decode(&[token.0], false).unwrap_or_default()
    }

    /// The size of the vocabulary, added tokens included. Every id is below it.
    pub fn vocabulary(&self) -> usize {
        self.with_special.get_vocab_size(true)
    }

    /// Bytes of text that one token of the vocabulary stands for at most, special tokens left out.
    /// The vocabulary spells a byte in one to six.
    pub fn token_bytes_max(&self) -> usize {
        self.with_special.get_vocab(false).keys().map(String::len).max().unwrap_or(0)
    }

    /// Whether texts are normalised before they are encoded, which may shorten them.
    pub fn normalises(&self) -> bool {
        self.with_special.get_normalizer().is_some()
    }

    /// The special tokens that end a turn of a conversation, found by their common names. Not every
    /// model's files list them: LLaDA-8B's list only the end-of-text token.
    pub fn turn_ends(&self) -> impl Iterator<Item = TokenId> {
        let special = self.with_special.get_added_vocabulary();
        let id = |name: &&str| self.with_special.token_to_id(name).filter(|_| special.is_special_token(name));
        TURN_ENDS.iter().filter_map(id).map(TokenId)
    }

    /// The ids of all special tokens.
    pub fn special_ids(&self) -> impl Iterator<Item = TokenId> {
        let added = self.with_special.get_added_tokens_decoder();
        added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| TokenId(id))
    }

    /// The model's chat template, if it has one.
    pub const fn chat(&self) -> Option<&ChatTemplate> {
        self.chat.as_ref()
    }
}

/// Names of end-of-turn tokens: of LLaDA-8B and Llama, of LLaDA-MoE, and of ChatML.
const TURN_ENDS: [&str; 3] = ["<|eot_id|>", "<|role_end|>", "<|im_end|>"];

/// The conversation, with each name of a special token replaced by a placeholder, a character that
/// is not in it, so that a template treats it as text. Also the names by placeholder.
fn with_placeholders(conversation: &Conversation, special: &[String]) -> (Conversation, Vec<(char, String)>) {
    let mut conversation = conversation.clone();
    let mut spelled = Vec::new();
    for name in special {
        if !conversation.says(name) {
            continue;
        }
        let placeholder = ('\u{f0000}'..='\u{ffffd}').find(|c| !conversation.says(c.encode_utf8(&mut [0; 4])));
        let Some(placeholder) = placeholder else { continue }; // 65,534 private-use characters
        conversation.replace(name, placeholder.encode_utf8(&mut [0; 4]));
        spelled.push((placeholder, name.clone()));
    }
    (conversation, spelled)
}

const SHOWN_MAX: usize = 5;

/// Whether every character other than white space is part of a token. A vocabulary without an
/// "unknown" token silently drops characters that it lacks.
fn covers(offsets: &[(usize, usize)], text: &str) -> bool {
    let mut end = 0;
    offsets.iter().all(|&(from, to)| {
        let gap = text.get(end..from.max(end)).unwrap_or_default();
        end = end.max(to);
        gap.chars().all(char::is_whitespace)
    }) && text.get(end..).unwrap_or_default().chars().all(char::is_whitespace)
}

/// The first few different characters that cannot be encoded by themselves.
fn inexpressible(tokenizer: &tokenizers::Tokenizer, text: &str) -> Vec<char> {
    without_token(text, |character| {
        let encoding = tokenizer.encode(&*character.encode_utf8(&mut [0; 4]), false);
        encoding.is_ok_and(|encoding| !encoding.is_empty())
    })
}

/// The first few different characters for which `has_token` is false. It is asked once for each.
fn without_token(text: &str, mut has_token: impl FnMut(char) -> bool) -> Vec<char> {
    let mut tried = HashSet::new();
    let new = text.chars().filter(|character| tried.insert(*character));
    new.filter(|character| !has_token(*character)).take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toy() -> Tokenizer {
        Tokenizer::from_bytes(include_bytes!("../../models/toy/tokenizer.json")).unwrap()
    }

    fn sudoku() -> Tokenizer {
        Tokenizer::from_bytes(include_bytes!("../../models/sudoku/tokenizer.json")).unwrap()
    }

    fn ids(tokens: &[TokenId]) -> Vec<u32> {
        tokens.iter().map(|token| token.0).collect()
    }

    #[test]
    fn the_toy_spells_in_bytes() {
        let tokenizer = toy();
        for text in ["hello world\n", "naïve 日本 🦀 \u{0}", "  two  spaces", ""] {
            let tokens = tokenizer.encode(text, Special::AsText).unwrap();
            assert_eq!(ids(&tokens), text.bytes().map(u32::from).collect::<Vec<_>>());
            assert_eq!(tokenizer.decode(&tokens), text);
        }
        assert_eq!(tokenizer.vocabulary(), 258);
        assert_eq!(tokenizer.decode(&[TokenId(0xc3)]), "\u{fffd}", "half a character");
    }

    #[test]
    fn a_special_tokens_name_in_a_users_text_stays_text() {
        let tokenizer = toy();
        let text = "a<|end|>";
        assert_eq!(ids(&tokenizer.encode(text, Special::AsTokens).unwrap()), [97, 257]);
        let spelled = tokenizer.encode(text, Special::AsText).unwrap();
        assert_eq!(ids(&spelled), text.bytes().map(u32::from).collect::<Vec<_>>());
        assert_eq!(tokenizer.decode(&[TokenId(97), TokenId(257)]), "a");
        assert_eq!(tokenizer.piece(TokenId(257)), "<|end|>");
        assert_eq!(tokenizer.piece(TokenId(9999)), "");
    }

    #[test]
    fn each_token_knows_its_characters() {
        let spans = toy().encode_with_spans("aé🦀b").unwrap();
        let spans: Vec<Range<usize>> = spans.into_iter().map(|(_, span)| span).collect();
        assert_eq!(spans, [0..1, 1..2, 1..2, 2..3, 2..3, 2..3, 2..3, 3..4]);
        let spans = sudoku().encode_with_spans("5.\n3").unwrap();
        assert_eq!(
            spans.into_iter().map(|(id, span)| (id.0, span)).collect::<Vec<_>>(),
            [(5, 0..1), (0, 1..2), (10, 2..3), (3, 3..4)]
        );
    }

    /// As transformers saves a tokenizer that has encoded a batch.
    #[test]
    fn padding_and_truncation_are_cleared() {
        let mut json: serde_json::Value =
            serde_json::from_slice(include_bytes!("../../models/toy/tokenizer.json")).unwrap();
        json["padding"] = serde_json::json!({"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 257, "pad_type_id": 0, "pad_token": "<|end|>"});
        json["truncation"] =
            serde_json::json!({"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0});
        let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
        for text in ["Hello", "The quick brown fox jumps", ""] {
            for special in [Special::AsText, Special::AsTokens] {
                assert_eq!(tokenizer.encode(text, special).unwrap().len(), text.len(), "{text:?}");
            }
        }
    }

    #[test]
    fn turns_end_with_special_tokens_of_known_names() {
        let json = br#"{"version":"1.0","model":{"type":"BPE","vocab":{"a":0,"<|im_end|>":1},"merges":[]},"added_tokens":[
            {"id":2,"content":"<|eot_id|>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
            {"id":3,"content":"<|end|>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}]}"#;
        let ends: Vec<TokenId> = Tokenizer::from_bytes(json).unwrap().turn_ends().collect();
        assert_eq!(ends, [TokenId(2)], "an ordinary word of such a name is none");
        assert_eq!(toy().turn_ends().count(), 0);
    }

    #[test]
    fn a_grid_is_its_digits() {
        let tokenizer = sudoku();
        let grid = "53..7....\n6..195...";
        let tokens = tokenizer.encode(grid, Special::AsText).unwrap();
        assert_eq!(ids(&tokens), [5, 3, 0, 0, 7, 0, 0, 0, 0, 10, 6, 0, 0, 1, 9, 5, 0, 0, 0]);
        assert_eq!(tokenizer.decode(&tokens), grid);
    }

    #[test]
    fn what_the_vocabulary_cannot_express_is_named() {
        let error = sudoku().encode("5 x7é", Special::AsText).unwrap_err();
        assert_eq!(error, TextError::Inexpressible { characters: vec![' ', 'x', 'é'] });
        assert_eq!(error.to_string(), "the model's vocabulary has nothing for ' ', 'x', 'é'; leave it out");
    }

    #[test]
    fn a_character_is_tried_once_however_often_it_occurs() {
        let tried = |text: &str| {
            let mut tried = Vec::new();
            let found = without_token(text, |character| {
                tried.push(character);
                "abc".contains(character)
            });
            (found, tried)
        };
        assert_eq!(tried(&"abxa".repeat(1000)), (vec!['x'], vec!['a', 'b', 'x']));
        assert_eq!(tried("zyxwvuts").0, ['z', 'y', 'x', 'w', 'v'], "the first few are enough");
    }

    #[test]
    fn what_a_vocabulary_would_drop_in_silence_is_named_too() {
        let json = br#"{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}}"#;
        let tokenizer = Tokenizer::from_bytes(json).unwrap();
        assert_eq!(ids(&tokenizer.encode("abba", Special::AsText).unwrap()), [0, 1, 1, 0]);
        let error = tokenizer.encode("abcab", Special::AsText).unwrap_err();
        assert_eq!(error, TextError::Inexpressible { characters: vec!['c'] });
    }

    #[test]
    fn a_damaged_tokenizer_is_named_by_its_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Tokenizer::from_dir(dir.path()).unwrap().is_none());
        std::fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
        let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json") && error.contains("not a tokenizer"), "{error}");
    }
}
