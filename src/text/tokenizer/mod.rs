//! A model's tokenizer: texts and conversations to token ids and back.

#[cfg(test)]
mod tests;

use super::chat_template::{ChatTemplate, TemplateFiles};
use super::conversation::Conversation;
use super::error::TextError;
use super::middle::Middle;
use crate::diffusion::TokenId;
use crate::files;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{fmt, ops::Range};
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

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
    /// The same for texts that are normalised already; made when it is first needed.
    bare: OnceLock<tokenizers::Tokenizer>,
    middle: Middle,
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
        let middle = Middle::of(&as_text);
        Ok(Self { with_special, as_text, bare: OnceLock::new(), middle, chat: None })
    }

    /// The content of a `tokenizer.json` of this tokenizer.
    ///
    /// # Errors
    /// When it has none.
    pub fn json(&self) -> Result<String, TextError> {
        self.with_special.to_string(false).map_err(|error| TextError::NotATokenizer(error.to_string()))
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
            Ok(encoding) if self.is_covered(tokenizer, encoding.get_offsets(), text) => {
                Ok(encoding.get_ids().iter().copied().map(TokenId).collect())
            }
            Ok(_) => Err(TextError::Inexpressible { characters: self.inexpressible(tokenizer, text) }),
            Err(error) => match self.inexpressible(tokenizer, text) {
                characters if characters.is_empty() => Err(TextError::Tokenizer(error.to_string())),
                characters => Err(TextError::Inexpressible { characters }),
            },
        }
    }

    /// The ids of a text that follows another, or a blank: without the space that some tokenizers
    /// put before the first word of a text.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_after(&self, text: &str, special: Special) -> Result<Vec<TokenId>, TextError> {
        if let Some((text, line)) = self.middle.behind_a_line(text) {
            let ids = self.encode(&text, special)?;
            if ids.iter().map(|id| id.0).take(line.len()).eq(line.iter().copied()) {
                return Ok(ids[line.len()..].to_vec());
            }
        }
        self.encode(text, special)
    }

    /// Whether every character of a text is part of a token, or is gone once it is normalised.
    fn is_covered(&self, tokenizer: &tokenizers::Tokenizer, offsets: &[(usize, usize)], text: &str) -> bool {
        if covers(offsets, text) {
            return true;
        }
        // normalising moves and merges characters: look at the normalised text itself
        let Some(normalised) = normalised(tokenizer, text) else { return false };
        self.bare().encode(normalised.as_str(), false).is_ok_and(|found| covers(found.get_offsets(), &normalised))
    }

    fn bare(&self) -> &tokenizers::Tokenizer {
        self.bare.get_or_init(|| {
            let mut bare = self.with_special.clone();
            let _ = bare.with_normalizer(None::<NormalizerWrapper>); // only fails for added tokens that it changes
            bare
        })
    }

    /// The first few different characters that cannot be encoded by themselves, as they are once
    /// the text is normalised.
    fn inexpressible(&self, tokenizer: &tokenizers::Tokenizer, text: &str) -> Vec<char> {
        let has_token = |tokenizer: &tokenizers::Tokenizer, character: char| {
            let encoding = tokenizer.encode(&*character.encode_utf8(&mut [0; 4]), false);
            encoding.is_ok_and(|encoding| !encoding.is_empty())
        };
        match normalised(tokenizer, text) {
            None => without_token(text, |character| has_token(tokenizer, character)),
            Some(text) => {
                let bare = self.bare();
                without_token(&text, |character| character.is_whitespace() || has_token(bare, character))
            }
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
        self.encode_chat_within(conversation, usize::MAX)
    }

    /// As [`Self::encode_chat`], if the text that the template makes may fit into `cells` tokens. A
    /// text that cannot is not encoded.
    ///
    /// # Errors
    /// As [`Self::encode_chat`], and [`TextError::TooLong`].
    pub fn encode_chat_within(
        &self,
        conversation: &Conversation,
        cells: usize,
    ) -> Result<Option<Vec<TokenId>>, TextError> {
        // a token is one of the vocabulary or a special one
        let longest = self.special().map(|name| name.len()).max().unwrap_or(1).max(self.text_bytes_max());
        self.encode_chat_of(conversation, cells.saturating_mul(longest))
    }

    /// As [`Self::encode_chat`], if the template makes a text of at most `most` bytes.
    ///
    /// # Errors
    /// As [`Self::encode_chat`], and [`TextError::TooLong`].
    pub fn encode_chat_of(&self, conversation: &Conversation, most: usize) -> Result<Option<Vec<TokenId>>, TextError> {
        let Some(chat) = &self.chat else { return Ok(None) };
        let mut special: Vec<String> = self.special().collect();
        special.sort_unstable_by_key(|name| std::cmp::Reverse(name.len())); // longest first: one name may be a prefix of another
        let (mut conversation, spelled) = with_placeholders(conversation, &special);
        for message in conversation.messages.iter_mut().filter(|message| message.role == "developer") {
            if !chat.names_role("developer") {
                message.role = "system".to_owned(); // OpenAI's newer name for the same
            }
        }
        let text = chat.write(&conversation)?;
        let bytes = text.len();
        if bytes > most {
            return Err(TextError::TooLong { bytes, most });
        }
        let mut ids = Vec::new();
        let mut rest = text.as_str();
        let encode = |text: &str, special, ids: &[TokenId]| match ids {
            [] => self.encode(text, special),
            _ => self.encode_after(text, special),
        };
        while let Some(at) = rest.find(|c| spelled.iter().any(|(placeholder, _)| *placeholder == c)) {
            let (before, after) = rest.split_at(at);
            ids.extend(encode(before, Special::AsTokens, &ids)?);
            let mut after = after.chars();
            let name = after.next().and_then(|c| spelled.iter().find(|(placeholder, _)| *placeholder == c));
            ids.extend(encode(name.map_or("", |(_, name)| name), Special::AsText, &ids)?);
            rest = after.as_str();
        }
        ids.extend(encode(rest, Special::AsTokens, &ids)?);
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

    /// Whether [`Self::decode`] looks at an id: it is known and not special.
    pub(super) fn has_text(&self, token: TokenId) -> bool {
        let name = self.with_special.id_to_token(token.0);
        name.is_some_and(|name| !self.with_special.get_added_vocabulary().is_special_token(&name))
    }

    /// The text of some ids that follow others: as [`Self::decode`], but the space before its first
    /// word is kept.
    pub fn decode_after(&self, tokens: &[TokenId]) -> String {
        let ids: Vec<u32> = tokens.iter().map(|token| token.0).collect();
        self.middle.decode(&self.with_special, &ids)
    }

    /// The text of a single token, the space before a word included, or the name of a special one.
    pub fn piece(&self, token: TokenId) -> String {
        let alone = self.with_special.decode(&[token.0], false).unwrap_or_default();
        match self.with_special.get_added_vocabulary().is_special_token(&alone) {
            true => alone,
            false => self.decode_after(&[token]),
        }
    }

    /// The bytes that a token stands for: those of its text, or a part of a character's in a
    /// vocabulary that spells bytes; `None` where that is not known.
    pub fn bytes(&self, token: TokenId) -> Option<Vec<u8>> {
        let piece = self.piece(token);
        if !piece.contains('\u{fffd}') {
            return Some(piece.into_bytes());
        }
        let name = self.with_special.id_to_token(token.0)?;
        let fallback = name.strip_prefix("<0x").and_then(|hex| u8::from_str_radix(hex.strip_suffix('>')?, 16).ok());
        let bytes = fallback.map(|byte| vec![byte]).or_else(|| name.chars().map(spelled_byte).collect())?;
        (String::from_utf8_lossy(&bytes) == piece).then_some(bytes)
    }

    /// The size of the vocabulary, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.with_special.get_vocab_size(true)
    }

    /// Whether a token has this id.
    pub fn has_token(&self, token: TokenId) -> bool {
        self.with_special.id_to_token(token.0).is_some()
    }

    /// One past the largest id of a token.
    pub fn ids_end(&self) -> u32 {
        self.with_special.get_vocab(true).values().max().map_or(0, |id| id.saturating_add(1))
    }

    /// Bytes of text that one token of the vocabulary stands for at most, special tokens left out.
    /// The vocabulary spells a byte in one to six.
    pub fn token_bytes_max(&self) -> usize {
        self.with_special.get_vocab(false).keys().map(String::len).max().unwrap_or(0)
    }

    /// Bytes of a text that one token stands for at most, special tokens left out. A normaliser may
    /// shorten a text, as NFC composes three letters of Korean into one.
    pub fn text_bytes_max(&self) -> usize {
        const SHORTENED: usize = 4;
        self.token_bytes_max() * if self.normalises() { SHORTENED } else { 1 }
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

/// The byte that a character stands for in GPT-2's vocabulary: printable characters of Latin-1 are
/// themselves, those from U+0100 on are the other bytes, in order.
fn spelled_byte(character: char) -> Option<u8> {
    let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
    match u32::from(character) {
        code @ 0x100.. => (0..=u8::MAX).filter(|byte| !is_printable(byte)).nth((code - 0x100) as usize),
        code => u8::try_from(code).ok().filter(is_printable),
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
        let Some(placeholder) = conversation.unused() else { continue };
        conversation.replace(name, placeholder.encode_utf8(&mut [0; 4]));
        spelled.push((placeholder, name.clone()));
    }
    (conversation, spelled)
}

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

/// The text as the model sees it; `None` if it is not normalised.
fn normalised(tokenizer: &tokenizers::Tokenizer, text: &str) -> Option<String> {
    let mut normalised = NormalizedString::from(text);
    tokenizer.get_normalizer()?.normalize(&mut normalised).ok()?;
    Some(normalised.get().to_owned())
}

/// The first few different characters for which `has_token` is false. It is asked once for each.
fn without_token(text: &str, mut has_token: impl FnMut(char) -> bool) -> Vec<char> {
    let mut tried = HashSet::new();
    let new = text.chars().filter(|character| tried.insert(*character));
    new.filter(|character| !has_token(*character)).take(TextError::SHOWN_MAX + 1).collect()
}
