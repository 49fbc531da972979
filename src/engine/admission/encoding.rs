//! Encodes the texts of requests, within bounds: the length of a text, and the texts that are
//! encoded at the same time. Out of scope: what a canvas is made of.

use crate::diffusion::TokenId;
use crate::engine::request::{Rejected, invalid, too_long};
use crate::text::{ChatTemplate, Conversation, Special, TextError, Tokenizer, quoted};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

const NO_TEMPLATE: &str =
    "this model has no chat template; give a prompt in place of messages, or add a tokenizer_config.json with one";

const MESSAGES: &str = "messages";

/// Bytes of texts that are encoded at the same time; a longer text is encoded alone. An encoding
/// takes about 400 bytes of memory per byte of its text, so all take about 200 MB.
const BYTES_AT_ONCE: usize = 512 << 10;

/// A token, and the characters that it holds all or a part of.
type Spanned = (TokenId, Range<usize>);

/// Encodes the texts of requests.
#[derive(Debug)]
pub(super) struct Encoder {
    tokenizer: Option<Arc<Tokenizer>>,
    mask: TokenId,
    canvas_max: usize,
    /// Bytes of a text at most that may fit on the canvas.
    bytes_max: usize,
    encodings: Encodings,
}

impl Encoder {
    /// For canvases of up to `canvas_max` cells.
    pub(super) fn new(tokenizer: Option<Arc<Tokenizer>>, mask: TokenId, canvas_max: usize) -> Self {
        let of_token = tokenizer.as_ref().map_or(1, |tokenizer| tokenizer.text_bytes_max());
        let bytes_max = canvas_max.saturating_mul(of_token.max(1));
        Self { tokenizer, mask, canvas_max, bytes_max, encodings: Encodings::default() }
    }

    /// The ids of a text.
    ///
    /// # Errors
    /// When it is too long for any canvas, the vocabulary lacks a character, or it spells the mask.
    pub(super) fn encode(&self, param: &'static str, text: &str) -> Result<Vec<TokenId>, Rejected> {
        let tokens = self.encode_by(param, text, |tokenizer, text| tokenizer.encode(text, Special::AsText))?;
        self.check_no_mask(param, tokens.iter().copied())?;
        Ok(tokens)
    }

    /// The ids of a text that follows another, or a blank.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub(super) fn encode_after(&self, param: &'static str, text: &str) -> Result<Vec<TokenId>, Rejected> {
        let tokens = self.encode_by(param, text, |tokenizer, text| tokenizer.encode_after(text, Special::AsText))?;
        self.check_no_mask(param, tokens.iter().copied())?;
        Ok(tokens)
    }

    /// The ids of a text, each with the range of its characters.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub(super) fn encode_with_spans(&self, param: &'static str, text: &str) -> Result<Vec<Spanned>, Rejected> {
        let tokens = self.encode_by(param, text, Tokenizer::encode_with_spans)?;
        self.check_no_mask(param, tokens.iter().map(|(token, _)| *token))?;
        Ok(tokens)
    }

    /// The ids of a conversation, with the start of the assistant's turn behind it.
    ///
    /// # Errors
    /// When it is empty or too long, or the model's chat template has no place for it.
    pub(super) fn encode_chat(&self, conversation: &Conversation) -> Result<Vec<TokenId>, Rejected> {
        let tokenizer = self.check_chat(conversation)?;
        self.check_bytes(MESSAGES, conversation.bytes())?;
        self.encode_chat_by(conversation, || tokenizer.encode_chat_within(conversation, self.canvas_max))
    }

    /// The ids of a conversation, however many, if the template makes a text of at most `most`
    /// bytes.
    ///
    /// # Errors
    /// As [`Self::encode_chat`].
    pub(super) fn encode_chat_of(&self, conversation: &Conversation, most: usize) -> Result<Vec<TokenId>, Rejected> {
        let tokenizer = self.check_chat(conversation)?;
        self.encode_chat_by(conversation, || tokenizer.encode_chat_of(conversation, most))
    }

    fn encode_chat_by(
        &self,
        conversation: &Conversation,
        encode: impl FnOnce() -> Result<Option<Vec<TokenId>>, TextError>,
    ) -> Result<Vec<TokenId>, Rejected> {
        let tokens = self.encodings.in_turn(conversation.weight(), encode).map_err(|error| match error {
            TextError::TooLong { .. } => too_long(MESSAGES, format!("messages: {error}")),
            error => invalid(MESSAGES, format!("messages: {error}")),
        })?;
        tokens.ok_or_else(|| invalid(MESSAGES, NO_TEMPLATE))
    }

    /// Refuses a conversation for which the model's chat template has no place.
    fn check_chat(&self, conversation: &Conversation) -> Result<&Tokenizer, Rejected> {
        if conversation.messages.is_empty() {
            return Err(invalid(MESSAGES, "messages is empty; give at least one"));
        }
        let Some(tokenizer) = &self.tokenizer else { return Err(invalid(MESSAGES, NO_TEMPLATE)) };
        if let Some(chat) = tokenizer.chat() {
            check_roles(conversation, chat)?;
            check_tools(conversation, chat)?;
        }
        Ok(tokenizer)
    }

    /// Refuses a text that cannot fit on the canvas whatever its tokens are.
    pub(super) fn check_bytes(&self, param: &'static str, bytes: usize) -> Result<(), Rejected> {
        let (most, limit) = (self.bytes_max, self.canvas_max);
        if bytes <= most {
            return Ok(());
        }
        let has = if param == "messages" { "have" } else { "has" };
        let message = format!("the {param} {has} {bytes} bytes; the canvas has {limit} cells, at most {most} bytes");
        Err(too_long(param, message))
    }

    fn encode_by<T>(
        &self,
        param: &'static str,
        text: &str,
        encode: impl FnOnce(&Tokenizer, &str) -> Result<T, TextError>,
    ) -> Result<T, Rejected> {
        let Some(tokenizer) = &self.tokenizer else {
            let advice = if ["prompt", "text"].contains(&param) { "; give token ids instead of text" } else { "" };
            return Err(invalid(param, format!("this model was loaded without a tokenizer.json{advice}")));
        };
        self.check_bytes(param, text.len())?;
        let encoded = self.encodings.in_turn(text.len(), || encode(tokenizer, text));
        encoded.map_err(|error| invalid(param, format!("{param}: {error}")))
    }

    fn check_no_mask(&self, param: &'static str, mut tokens: impl Iterator<Item = TokenId>) -> Result<(), Rejected> {
        let Some(at) = tokens.position(|token| token == self.mask) else { return Ok(()) };
        let piece = self.tokenizer.as_ref().map(|tokenizer| tokenizer.piece(self.mask)).unwrap_or_default();
        let message = format!(
            "token {at} of the {param} is the model's mask ({piece:?}), which stands for a blank; \
             blanks are asked for with /v1/infill and \"blank\": {piece:?}"
        );
        Err(invalid(param, message))
    }
}

/// The roles of OpenAI's messages, which every template gets.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Checks that the roles of a conversation are known, at least to its chat template.
fn check_roles(conversation: &Conversation, chat: &ChatTemplate) -> Result<(), Rejected> {
    let is_known = |role: &str| ROLES.contains(&role) || (!role.is_empty() && chat.names_role(role));
    let roles = conversation.messages.iter().map(|message| message.role.as_str());
    let Some((index, role)) = roles.enumerate().find(|(_, role)| !is_known(role)) else { return Ok(()) };
    let param = format!("messages[{index}].role");
    let message = format!("{param}: {} is no role; give one of {}", quoted(role), ROLES.join(", "));
    Err(Rejected::Invalid { param: param.into(), message })
}

/// Checks that a chat template has a place for the tools, calls and results of a conversation.
fn check_tools(conversation: &Conversation, chat: &ChatTemplate) -> Result<(), Rejected> {
    let refused = |param: String, what: &str| {
        let message = format!("{param}: this model's chat template {what}");
        Err(Rejected::Invalid { param: param.into(), message })
    };
    if !conversation.tools.is_empty() && !conversation.tools_may_be_hidden && !chat.shows_tools() {
        const WHAT: &str = "shows the model no tools, so it would never call one; leave them out, or force a call with \
                            tool_choice: \"required\", or the function's name";
        return refused("tools".to_owned(), WHAT);
    }
    for (index, message) in conversation.messages.iter().enumerate() {
        if !message.tool_calls.is_empty() && !chat.shows_tool_calls() {
            const WHAT: &str = "has no place for calls of tools; leave them out, or write them in content";
            return refused(format!("messages[{index}].tool_calls"), WHAT);
        }
        if message.role == "tool" && !chat.names_role("tool") {
            const WHAT: &str = "knows no role \"tool\"; give the result in a message of the user";
            return refused(format!("messages[{index}].role"), WHAT);
        }
    }
    Ok(())
}

/// The texts that are being encoded. Callers wait for their turn in order of arrival.
#[derive(Debug, Default)]
struct Encodings {
    turns: Mutex<Turns>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Turns {
    next: u64,
    /// The first turn that has not begun.
    current: u64,
    /// Bytes of the texts that are being encoded.
    bytes: usize,
}

impl Encodings {
    /// Calls `encode` when it is the turn of a text of this many bytes. Blocks the thread.
    fn in_turn<T>(&self, bytes: usize, encode: impl FnOnce() -> T) -> T {
        let mut turns = self.turns();
        let turn = turns.next;
        turns.next += 1;
        let must_wait = |turns: &mut Turns| {
            turns.current != turn || (turns.bytes > 0 && turns.bytes.saturating_add(bytes) > BYTES_AT_ONCE)
        };
        let turns = self.changed.wait_while(turns, must_wait);
        let mut turns = turns.unwrap_or_else(PoisonError::into_inner);
        turns.current += 1;
        turns.bytes += bytes;
        drop(turns);
        self.changed.notify_all();
        let _ended = Ended { encodings: self, bytes }; // also if `encode` panics
        encode()
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Ended<'a> {
    encodings: &'a Encodings,
    bytes: usize,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.encodings.turns().bytes -= self.bytes;
        self.encodings.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn no_more_is_encoded_at_once_than_may_and_everybody_has_a_turn() {
        let encodings = Encodings::default();
        let (now, most, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for caller in 0..16 {
                let (encodings, now, most, done) = (&encodings, &now, &most, &done);
                // some of them longer than all that may be encoded at once
                let bytes = if caller % 5 == 0 { 3 * BYTES_AT_ONCE } else { BYTES_AT_ONCE / 3 };
                scope.spawn(move || {
                    for _ in 0..20 {
                        encodings.in_turn(bytes, || {
                            most.fetch_max(now.fetch_add(bytes, Ordering::SeqCst) + bytes, Ordering::SeqCst);
                            std::thread::yield_now();
                            now.fetch_sub(bytes, Ordering::SeqCst);
                        });
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(done.load(Ordering::SeqCst), 16 * 20);
        assert_eq!(most.load(Ordering::SeqCst), 3 * BYTES_AT_ONCE, "a long text is encoded alone");
    }

    #[test]
    fn a_panic_gives_its_turn_back() {
        let encodings = Encodings::default();
        let panic = AssertUnwindSafe(|| encodings.in_turn(BYTES_AT_ONCE, || panic!("told to")));
        assert!(catch_unwind(panic).is_err());
        assert_eq!(encodings.in_turn(BYTES_AT_ONCE, || 3), 3);
    }
}
