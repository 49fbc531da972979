//! The tokens of a vocabulary that values of JSON are made of.

use crate::diffusion::TokenId;
use crate::engine::layout::Alphabet;
use crate::text::Tokenizer;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Spellings {
    pub(super) digits: Arc<[TokenId]>,
    pub(super) spaces: Vec<TokenId>,
    pub(super) minus: Vec<TokenId>,
    /// A minus or a space.
    pub(super) sign: Arc<[TokenId]>,
    pub(super) point: Vec<TokenId>,
    /// Tokens that add at least one visible character to a string, and do not end or escape it.
    pub(super) written: Arc<[TokenId]>,
    /// Tokens of one character that stands for itself in a JSON string.
    pub(super) characters: Alphabet,
}

impl Spellings {
    pub(super) fn of(tokenizer: &Tokenizer, ids: impl Iterator<Item = TokenId>) -> Self {
        let [mut digits, mut spaces, mut minus, mut point, mut written] = <[Vec<TokenId>; 5]>::default();
        let mut characters = Alphabet::new();
        for id in ids {
            let piece = tokenizer.piece(id);
            match piece.as_str() {
                "" => {}
                "-" => minus.push(id),
                "." => point.push(id),
                piece if piece.bytes().all(|byte| byte.is_ascii_digit()) => digits.push(id),
                piece if piece.bytes().all(|byte| byte == b' ') => spaces.push(id),
                _ => {}
            }
            // special tokens have names, but no text
            let is_plain = |c: char| c != '"' && c != '\\' && c != '\u{fffd}' && !c.is_control();
            if !piece.chars().all(is_plain) || tokenizer.decode(&[id]).is_empty() {
                continue;
            }
            let mut rest = piece.chars();
            if let (Some(only), None) = (rest.next(), rest.next()) {
                characters.entry(only).or_default().push(id);
            }
            if piece.chars().any(|c| !c.is_whitespace()) {
                written.push(id);
            }
        }
        let sign = [&minus[..], &spaces].concat().into();
        Self { digits: digits.into(), spaces, minus, sign, point, written: written.into(), characters }
    }
}
