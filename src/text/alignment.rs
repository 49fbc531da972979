//! Divides a text among the tokens that it was made of. A character of several tokens belongs to
//! the last of them. Out of scope: where the text and the tokens come from.

use super::json::escaped;
use super::tokenizer::Tokenizer;
use super::transcript::{INCOMPLETE, Transcript};
use crate::diffusion::TokenId;
use std::{ops::Range, sync::Arc};

/// A text, divided among tokens from left to right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Division {
    /// The bytes of the text that each token has; together the text up to `end`.
    pub ranges: Vec<Range<usize>>,
    /// Where the part that tokens have ends. The rest has none.
    pub end: usize,
    /// Whether the tokens spell more than the text has.
    pub is_cut: bool,
}

/// The text that each token of a run adds to it; together the text of the run. `follows`: whether
/// the run follows another text.
pub fn pieces(tokenizer: &Arc<Tokenizer>, tokens: &[TokenId], follows: bool) -> Vec<String> {
    let transcript = Transcript::new(Some(Arc::clone(tokenizer)), Vec::new());
    let mut transcript = if follows { transcript.following() } else { transcript };
    let mut pieces = vec![String::new(); tokens.len()];
    // tokens that may be the beginning of a character
    let mut pending: Vec<usize> = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let text = transcript.push(&[*token]).text;
        if text.is_empty() {
            pending.extend(Some(at).filter(|_| tokenizer.has_text(*token)));
            continue;
        }
        // what comes before the token's own text is of tokens that made no character
        let own = Some(tokenizer.piece(*token)).filter(|own| !pending.is_empty() && !own.is_empty());
        let own = own.map_or(0, |own| text.strip_suffix(own.as_str()).map_or(0, str::len));
        let (before, own) = text.split_at(own);
        own.clone_into(&mut pieces[at]);
        spread(before, &pending, &mut pieces);
        pending.clear();
    }
    spread(&transcript.finish(), &pending, &mut pieces);
    pieces
}

/// Gives each of some tokens a character of `text` if there are as many, else the last one all.
fn spread(text: &str, tokens: &[usize], pieces: &mut [String]) {
    if text.chars().count() == tokens.len() {
        for (at, character) in tokens.iter().zip(text.chars()) {
            pieces[*at].push(character);
        }
    } else if let Some(last) = pieces.get_mut(tokens.last().copied().unwrap_or(0)) {
        last.push_str(text);
    }
}

/// Divides `text` among tokens that spell `pieces`. The two may differ: the text may end early, and
/// where it is JSON, it may lack white space and characters that did not fit, have a space more, or
/// an escape for a character. A token keeps what the text has of it.
pub fn divide<'a>(pieces: impl Iterator<Item = &'a str>, text: &str) -> Division {
    let (mut ranges, mut end, mut is_cut) = (Vec::<Range<usize>>::new(), 0, false);
    for piece in pieces {
        let start = end;
        for character in piece.chars() {
            is_cut |= end == text.len();
            end += beginning(&text[end..], character).unwrap_or(0);
        }
        ranges.push(start..end);
    }
    let is_garbage = text[end..].chars().all(|character| character == INCOMPLETE);
    if let Some(last) = ranges.last_mut().filter(|_| is_garbage) {
        end = text.len();
        last.end = end;
    }
    Division { ranges, end, is_cut }
}

/// The bytes of `text` up to and with a character that it begins with.
fn beginning(text: &str, character: char) -> Option<usize> {
    let is_next = |rest: &str| rest.starts_with(character).then(|| text.len() - rest.len() + character.len_utf8());
    let escaped = || escape(character).filter(|escape| text.starts_with(escape)).map(|escape| escape.len());
    // a decoder may give up more bytes together than one after the other
    let behind_garbage = || is_next(text.trim_start_matches(INCOMPLETE));
    is_next(text).or_else(|| text.strip_prefix(' ').and_then(is_next)).or_else(escaped).or_else(behind_garbage)
}

/// The escape of a character in JSON, if it has one.
fn escape(character: char) -> Option<String> {
    let is_escaped = matches!(character, '"' | '\\' | '\0'..='\u{1f}');
    is_escaped.then(|| escaped(character.encode_utf8(&mut [0; 4])))
}

/// Divides a whole `text` among tokens that hold all or a part of the characters in `spans`, as an
/// encoder says. Characters that no token holds belong to the next one.
pub fn divide_by_spans(spans: impl Iterator<Item = Range<usize>>, text: &str) -> Division {
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let byte = |character: usize| starts.get(character).copied().unwrap_or(text.len());
    let spans: Vec<Range<usize>> = spans.collect();
    let (mut ranges, mut end) = (Vec::with_capacity(spans.len()), 0);
    for (at, span) in spans.iter().enumerate() {
        // a character that the next token holds a part of is the next one's
        let next = spans.get(at + 1).map_or(text.len(), |next| byte(next.start.min(span.end)));
        let start = end;
        end = end.max(next);
        ranges.push(start..end);
    }
    Division { ranges, end, is_cut: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES: &[u8] = include_bytes!("../../models/toy/tokenizer.json");
    const PIECES: &[u8] = include_bytes!("../../tests/data/spm/tokenizer.json");

    fn check(tokens: &[u32], expected: &[&str]) {
        let tokenizer = Arc::new(Tokenizer::from_bytes(BYTES).unwrap());
        let tokens: Vec<TokenId> = tokens.iter().copied().map(TokenId).collect();
        assert_eq!(pieces(&tokenizer, &tokens, true), expected, "{tokens:?}");
    }

    #[test]
    fn a_character_belongs_to_the_last_of_its_tokens() {
        check(&[0x61, 0xc3, 0xa9, 0x62], &["a", "", "é", "b"]);
        check(&[0xf0, 0x9f, 0xa6, 0x80], &["", "", "", "🦀"]);
    }

    #[test]
    fn bytes_that_make_no_character_stand_where_they_are() {
        check(&[0x61, 0xff, 0x62], &["a", "\u{fffd}", "b"]);
        check(&[0xff, 0xff, 0x62, 0xc3], &["\u{fffd}", "\u{fffd}", "b", "\u{fffd}"]);
        check(&[0xe2, 0x82, 0x62], &["", "\u{fffd}", "b"]);
    }

    #[test]
    fn special_tokens_have_no_text() {
        check(&[0x61, 257, 0x62, 256], &["a", "", "b", ""]);
    }

    fn divided<'a>(pieces: &[&str], text: &'a str) -> (Vec<&'a str>, &'a str, bool) {
        let division = divide(pieces.iter().copied(), text);
        (division.ranges.into_iter().map(|range| &text[range]).collect(), &text[division.end..], division.is_cut)
    }

    #[test]
    fn a_token_keeps_what_the_text_has_of_it() {
        assert_eq!(divided(&["One", ". T", "wo"], "One. "), (vec!["One", ". ", ""], "", true));
        assert_eq!(divided(&[" {\"a\"", ":1", ",\"b"], "{\"a\": 1}"), (vec!["{\"a\"", ": 1", ""], "}", false));
        assert_eq!(divided(&["\"a\n", "b\""], r#""a\nb""#), (vec![r#""a\n"#, r#"b""#], "", false));
        assert_eq!(divided(&["tru"], "true"), (vec!["tru"], "e", false));
        assert_eq!(divided(&[" 00", "7"], "7"), (vec!["", "7"], "", false));
        assert_eq!(divided(&[], "7"), (vec![], "7", false));
    }

    #[test]
    fn characters_without_a_token_belong_to_the_next() {
        let divided = |spans: &[Range<usize>], text: &str| {
            let division = divide_by_spans(spans.iter().cloned(), text);
            division.ranges.into_iter().map(|range| text[range].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(divided(&[0..5, 6..11], "Hello World "), ["Hello", " World "]);
        assert_eq!(divided(&[0..1, 1..2, 1..2, 2..3], "aéb"), ["a", "", "é", "b"]);
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_text(
            bytes in prop::collection::vec(prop_oneof![0u8..=255, Just(0xc3), Just(0xa9), Just(0xf0)], 0..90),
            follows: bool,
        ) {
            let tokenizer = Arc::new(Tokenizer::from_bytes(BYTES).unwrap());
            let tokens: Vec<TokenId> = bytes.iter().map(|byte| TokenId(u32::from(*byte))).collect();
            prop_assert_eq!(pieces(&tokenizer, &tokens, follows).concat(), String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn the_pieces_of_any_tokens_are_their_text(ids in prop::collection::vec(0u32..300, 0..40), follows: bool) {
            let tokenizer = Arc::new(Tokenizer::from_bytes(PIECES).unwrap());
            let tokens: Vec<TokenId> = ids.into_iter().map(TokenId).collect();
            let text = if follows { tokenizer.decode_after(&tokens) } else { tokenizer.decode(&tokens) };
            // bytes that make no character together may make one each
            let pieces = pieces(&tokenizer, &tokens, follows);
            prop_assert_eq!(divide(pieces.iter().map(String::as_str), &text).end, text.len());
        }

        #[test]
        fn a_division_is_a_beginning_of_the_text(pieces in prop::collection::vec("[ab {}\"\n\\\\]{0,3}", 0..9), text in "[ab {}\"n\\\\]{0,20}") {
            let division = divide(pieces.iter().map(String::as_str), &text);
            prop_assert_eq!(division.ranges.len(), pieces.len());
            let joined: String = division.ranges.iter().map(|range| &text[range.clone()]).collect();
            prop_assert_eq!(joined, &text[..division.end]);
        }
    }
}
