//! An incremental detokenizer: turns final tokens into append-only text. Incomplete characters and
//! possible beginnings of stop strings are held back. Out of scope: when tokens are final.

use super::tokenizer::Tokenizer;
use crate::diffusion::TokenId;
use std::sync::Arc;

/// A text that grows at its end.
#[derive(Clone, Debug)]
pub struct Transcript {
    tokenizer: Option<Arc<Tokenizer>>,
    stop: Arc<[String]>,
    /// Whether the text follows another.
    follows: bool,
    tokens: Vec<TokenId>,
    text: String,
    stopped: bool,
}

/// The text that some tokens added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// The added text; never changed later.
    pub text: String,
    /// Whether a stop string ended the text.
    pub stopped: bool,
}

impl Transcript {
    /// An empty text, which will end before the first complete string of `stop`; none of these may
    /// be empty. Without a tokenizer the text stays empty.
    pub fn new(tokenizer: Option<Arc<Tokenizer>>, stop: impl Into<Arc<[String]>>) -> Self {
        Self { tokenizer, stop: stop.into(), follows: false, tokens: Vec::new(), text: String::new(), stopped: false }
    }

    /// The same for a text that follows another: it keeps the space before its first word.
    #[must_use]
    pub fn following(self) -> Self {
        Self { follows: true, ..self }
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Appends tokens.
    pub fn push(&mut self, tokens: &[TokenId]) -> Delta {
        self.tokens.extend_from_slice(tokens);
        let decoded = self.decode();
        let complete = decoded.trim_end_matches('\u{fffd}'); // an incomplete character may be completed later
        let end = self.stop_in(complete);
        self.stopped |= end.is_some();
        let end = end.unwrap_or_else(|| complete.len() - self.held_back(complete));
        Delta { text: self.extend_to(&complete[..end]), stopped: self.stopped }
    }

    /// Ends the text and returns the part that was held back.
    pub fn finish(&mut self) -> String {
        let decoded = self.decode();
        let end = self.stop_in(&decoded).unwrap_or(decoded.len());
        self.extend_to(&decoded[..end])
    }

    fn decode(&self) -> String {
        match &self.tokenizer {
            Some(tokenizer) if !self.stopped && self.follows => tokenizer.decode_after(&self.tokens),
            Some(tokenizer) if !self.stopped => tokenizer.decode(&self.tokens),
            Some(_) | None => self.text.clone(),
        }
    }

    /// The start of the stop string that ends first; of the longest one, if several end together.
    fn stop_in(&self, text: &str) -> Option<usize> {
        let found = self.stop.iter().filter_map(|stop| text.find(stop).map(|start| (start + stop.len(), start)));
        found.min().map(|(_, start)| start)
    }

    /// Length in bytes of the longest end of `text` that is the beginning of a stop string.
    fn held_back(&self, text: &str) -> usize {
        let begins = |stop: &String| {
            let lengths = stop.char_indices().map(|(length, _)| length);
            lengths.filter(|&length| text.ends_with(&stop[..length])).max().unwrap_or(0)
        };
        self.stop.iter().map(begins).max().unwrap_or(0)
    }

    /// Appends what `text` has beyond the text so far, and returns it. If a decoder changes earlier
    /// text, nothing is appended until `text` is longer.
    fn extend_to(&mut self, text: &str) -> String {
        let delta = text.get(self.text.len()..).unwrap_or_default().to_owned();
        self.text.push_str(&delta);
        delta
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::Special;
    use proptest::prelude::*;

    fn transcript(stop: &[&str]) -> Transcript {
        let tokenizer = Tokenizer::from_bytes(include_bytes!("../../models/toy/tokenizer.json")).unwrap();
        Transcript::new(Some(Arc::new(tokenizer)), stop.iter().map(|&stop| stop.to_owned()).collect::<Vec<_>>())
    }

    fn tokens(text: &[u8]) -> Vec<TokenId> {
        text.iter().map(|&byte| TokenId(u32::from(byte))).collect()
    }

    /// Pushes each piece and expects its delta; `tail` is what `finish` returns.
    fn check(stop: &[&str], script: &[(&[u8], &str)], tail: &str) {
        let mut transcript = transcript(stop);
        for (piece, delta) in script {
            assert_eq!(transcript.push(&tokens(piece)).text, *delta, "after {:?}", String::from_utf8_lossy(piece));
        }
        assert_eq!(transcript.finish(), tail);
    }

    #[test]
    fn half_a_character_waits_for_the_other_half() {
        check(&[], &[(b"caf\xc3", "caf"), (b"\xa9!", "é!")], "");
        check(&[], &[(b"\xf0\x9f", ""), (b"\xa6", ""), (b"\x80", "🦀")], "");
        check(&[], &[(b"a\xff", "a"), (b"b", "\u{fffd}b")], "");
        check(&[], &[(b"a\xc3", "a")], "\u{fffd}");
    }

    #[test]
    fn what_may_become_a_stop_string_waits() {
        check(&["END"], &[(b"the E", "the "), (b"N", ""), (b"D and on", "")], "");
        check(&["END"], &[(b"the E", "the "), (b"NT", "ENT"), (b"ER", "ER")], "");
        check(&["END"], &[(b"the EN", "the ")], "EN");
        check(&["ab", "bc"], &[(b"xa", "x"), (b"c", "ac"), (b"b", ""), (b"c", "")], "");
        check(&["abcd", "bc"], &[(b"abcd", "a")], "");
        check(&["abcd", "bc"], &[(b"abc", "a"), (b"d", "")], "");
        check(&["é"], &[(b"caf\xc3", "caf"), (b"\xa9", "")], "");
    }

    #[test]
    fn after_a_stop_string_there_is_nothing() {
        let mut transcript = transcript(&["."]);
        assert_eq!(transcript.push(&tokens(b"One. Two.")), Delta { text: "One".to_owned(), stopped: true });
        assert_eq!(transcript.push(&tokens(b"Three")), Delta { text: String::new(), stopped: true });
        assert_eq!((transcript.finish().as_str(), transcript.text()), ("", "One"));
    }

    #[test]
    fn without_a_tokenizer_there_is_no_text() {
        let mut transcript = Transcript::new(None, vec!["x".to_owned()]);
        assert_eq!(transcript.push(&tokens(b"x")), Delta::default());
        assert_eq!(transcript.finish(), "");
    }

    proptest! {
        #[test]
        fn the_deltas_are_the_text_however_the_tokens_are_cut(
            text in "[abé🦀\n]{0,24}",
            cuts in prop::collection::vec(0usize..40, 0..6),
            stop in prop::collection::vec("[abé]{1,3}", 0..3),
        ) {
            let stop: Vec<&str> = stop.iter().map(String::as_str).collect();
            let mut pieces = transcript(&stop);
            let all = pieces.tokenizer.as_ref().unwrap().encode(&text, Special::AsText).unwrap();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(all.len())).collect();
            cuts.extend([0, all.len()]);
            cuts.sort_unstable();
            let mut sent = String::new();
            for cut in cuts.windows(2) {
                sent.push_str(&pieces.push(&all[cut[0]..cut[1]]).text);
            }
            sent.push_str(&pieces.finish());
            let ends = text.char_indices().map(|(start, character)| start + character.len_utf8());
            let first = ends.into_iter().find_map(|end| {
                stop.iter().filter(|stop| text[..end].ends_with(**stop)).map(|stop| end - stop.len()).min()
            });
            let end = first.unwrap_or(text.len());
            prop_assert_eq!(&sent, &text[..end]);
            prop_assert_eq!(&sent, pieces.text());
        }
    }
}
