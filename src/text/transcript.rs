//! An incremental detokenizer: turns final tokens into append-only text. Incomplete characters and
//! possible beginnings of stop strings are held back. The work is linear in the tokens, however few
//! come at a time. Out of scope: when tokens are final.

use super::stop::Search;
use super::tokenizer::Tokenizer;
use crate::diffusion::TokenId;
use std::sync::Arc;

/// Tokens that may be part of an incomplete character: one for each byte before its last.
const INCOMPLETE_MAX: usize = 3;
/// Incomplete characters at the end of a text after which the first of them are given up.
const GARBAGE_MAX: usize = 64;
/// Stands for an incomplete or invalid character.
pub(super) const INCOMPLETE: char = '\u{fffd}';

/// A text that grows at its end.
#[derive(Clone, Debug)]
pub struct Transcript {
    tokenizer: Option<Arc<Tokenizer>>,
    stop: Arc<[String]>,
    /// One for each stop string.
    searches: Vec<Search>,
    /// Whether the text follows another.
    follows: bool,
    /// The last tokens: `context` tokens before a place between two characters, and those behind
    /// it. What a decoder makes of a token depends on whether it is the first.
    window: Vec<TokenId>,
    context: usize,
    /// Bytes of the window's text that are part of `text`.
    taken: usize,
    text: String,
    /// Bytes of `text` that are not held back.
    released: usize,
    stopped: bool,
    /// Tokens decoded so far, some of them repeatedly.
    #[cfg(test)]
    work: usize,
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
        let stop = stop.into();
        Self {
            tokenizer,
            searches: vec![Search::default(); stop.len()],
            stop,
            follows: false,
            window: Vec::new(),
            context: 0,
            taken: 0,
            text: String::new(),
            released: 0,
            stopped: false,
            #[cfg(test)]
            work: 0,
        }
    }

    /// The same for a text that follows another: it keeps the space before its first word.
    #[must_use]
    pub fn following(self) -> Self {
        Self { follows: true, ..self }
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        &self.text[..self.released]
    }

    /// How many of `tokens`, which were appended, the text takes; where a stop string ended it, it
    /// takes none of those that are only part of what follows.
    pub fn tokens_of_text(&self, tokens: &[TokenId]) -> usize {
        let Some(tokenizer) = &self.tokenizer else { return tokens.len() };
        let holds = |count: usize| {
            let some = &tokens[..count];
            let text = if self.follows { tokenizer.decode_after(some) } else { tokenizer.decode(some) };
            text.starts_with(self.text())
        };
        let (mut least, mut most) = (0, tokens.len());
        while least < most {
            let middle = least.midpoint(most);
            if holds(middle) {
                most = middle;
            } else {
                least = middle + 1;
            }
        }
        least
    }

    /// Appends tokens.
    pub fn push(&mut self, tokens: &[TokenId]) -> Delta {
        if !self.stopped {
            let has_text = |token: &&TokenId| self.tokenizer.as_ref().is_some_and(|known| known.has_text(**token));
            self.window.extend(tokens.iter().filter(has_text));
            let whole = self.decode(0..self.window.len());
            let fresh = self.take(&whole);
            self.append(&fresh);
        }
        let held_back = if self.stopped { 0 } else { self.searches.iter().map(Search::matched).max().unwrap_or(0) };
        Delta { text: self.release(self.text.len() - held_back), stopped: self.stopped }
    }

    /// Ends the text and returns the part that was held back.
    pub fn finish(&mut self) -> String {
        if !self.stopped {
            let whole = self.decode(0..self.window.len());
            let fresh = beyond(&whole, self.taken);
            self.append(fresh);
            self.taken = self.taken.max(whole.len());
        }
        self.release(self.text.len())
    }

    /// The text of some tokens of the window.
    fn decode(&mut self, tokens: std::ops::Range<usize>) -> String {
        #[cfg(test)]
        {
            self.work += tokens.len();
        }
        match &self.tokenizer {
            Some(tokenizer) if self.follows => tokenizer.decode_after(&self.window[tokens]),
            Some(tokenizer) => tokenizer.decode(&self.window[tokens]),
            None => String::new(),
        }
    }

    /// What the text of the window, `whole`, has beyond what was taken before. If a decoder changes
    /// earlier text, there is nothing more until `whole` is longer. Moves the window on.
    fn take(&mut self, whole: &str) -> String {
        let complete = whole.trim_end_matches(INCOMPLETE); // may be completed later
        let cut = self.cut(whole);
        let known =
            cut.as_ref().map_or(complete, |(_, text)| if text.len() > complete.len() { text } else { complete });
        let fresh = beyond(known, self.taken).to_owned();
        self.taken = self.taken.max(known.len());
        if let Some((end, text)) = cut {
            let context = self.decode(self.context..end);
            if !context.is_empty() {
                self.taken = context.len() + self.taken.saturating_sub(text.len());
                self.window.drain(..self.context);
                self.context = end - self.context;
            }
        }
        fresh
    }

    /// The last place between two characters behind the present one: the tokens of the window
    /// before it, and their text.
    fn cut(&mut self, whole: &str) -> Option<(usize, String)> {
        let (all, is_cut) = (self.window.len(), |text: &str| !text.is_empty() && !text.ends_with(INCOMPLETE));
        if all > self.context && is_cut(whole) {
            return Some((all, whole.to_owned()));
        }
        let least = all.saturating_sub(INCOMPLETE_MAX).max(self.context + 1);
        for end in (least..all).rev() {
            let text = self.decode(0..end);
            if is_cut(&text) {
                return Some((end, text));
            }
        }
        // no place in bytes that make no characters
        let is_garbage = whole.chars().rev().take_while(|c| *c == INCOMPLETE).count() > GARBAGE_MAX;
        (is_garbage && least < all).then(|| (least, self.decode(0..least)))
    }

    /// Appends text, up to the first stop string; of those that end together, the longest.
    fn append(&mut self, fresh: &str) {
        for (at, byte) in fresh.bytes().enumerate() {
            let stops = self.searches.iter_mut().zip(self.stop.iter());
            let found = stops.filter_map(|(search, stop)| search.next(stop, byte).then_some(stop.len())).max();
            if let Some(length) = found {
                self.text.push_str(&fresh[..=at]);
                self.text.truncate(self.text.len() - length);
                self.stopped = true;
                return;
            }
        }
        self.text.push_str(fresh);
    }

    fn release(&mut self, end: usize) -> String {
        let released = std::mem::replace(&mut self.released, end);
        self.text[released..end].to_owned()
    }
}

/// The characters of `text` that begin at byte `at` or later.
fn beyond(text: &str, at: usize) -> &str {
    (at..text.len()).find_map(|at| text.get(at..)).unwrap_or_default()
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
    fn the_tokens_of_a_text_are_those_before_its_stop_string() {
        for (text, stop, count) in [("One. Two", ".", 3), ("caf\u{e9}!", "!", 5), ("END", "END", 0), ("One", "x", 3)] {
            let mut transcript = transcript(&[stop]);
            transcript.push(&tokens(text.as_bytes()));
            transcript.finish();
            assert_eq!(transcript.tokens_of_text(&tokens(text.as_bytes())), count, "{text}");
        }
    }

    #[test]
    fn without_a_tokenizer_there_is_no_text() {
        let mut transcript = Transcript::new(None, vec!["x".to_owned()]);
        assert_eq!(transcript.push(&tokens(b"x")), Delta::default());
        assert_eq!(transcript.finish(), "");
    }

    /// Cells that come one by one, or in small blocks that all end within a character, or that make
    /// no characters at all: none of them is decoded more than a few times.
    #[test]
    fn the_work_is_linear_in_the_tokens() {
        let cases: [(&[u8], usize); 6] = [
            (b"plain text. ", 1),
            ("🦀".as_bytes(), 1),
            ("🦀".as_bytes(), 7),
            (b"half \xf0\x9f", 7),
            (b"\xff", 1),
            (b"\xff\xe2\x82", 64),
        ];
        for (piece, block) in cases {
            let mut transcript = transcript(&["never", "\u{fffd}."]);
            let all = tokens(&piece.repeat(6000 / piece.len()));
            for block in all.chunks(block) {
                transcript.push(block);
            }
            transcript.finish();
            let expected = transcript.tokenizer.as_ref().unwrap().decode(&all);
            assert_eq!(transcript.text(), expected, "{piece:?}");
            // 64 characters of garbage are decoded again and again before they are given up
            let times = transcript.work / all.len();
            assert!(times <= if piece[0] == 0xff { 300 } else { 20 }, "{piece:?} in {block}: {times} times");
        }
    }

    #[test]
    fn stop_strings_are_found_however_long_they_are() {
        let long = "ab".repeat(3000);
        let mut transcript = transcript(&[&format!("{long}c")]);
        for _ in 0..4000 {
            transcript.push(&tokens(b"ab"));
        }
        assert_eq!(transcript.text().len(), 2 * 1000, "the last 6000 may be the beginning");
        transcript.push(&tokens(b"c"));
        assert_eq!((transcript.finish().as_str(), transcript.text().len()), ("", 2 * 1000));
    }

    #[test]
    fn text_behind_bytes_that_a_decoder_takes_back_is_kept() {
        let tokenizer = Tokenizer::from_bytes(include_bytes!("../../tests/data/spm/tokenizer.json")).unwrap();
        let word = tokenizer.encode("Hello", Special::AsText).unwrap();
        let mut pieces = Transcript::new(Some(Arc::new(tokenizer)), Vec::new()).following();
        // <0x00> is a character by itself, and is none together with <0x80>
        pieces.push(&[TokenId(3)]);
        pieces.push(&[TokenId(3 + 0x80)]);
        pieces.push(&word);
        pieces.finish();
        assert!(pieces.text().ends_with("Hello"), "{:?}", pieces.text());
    }

    proptest! {
        /// A decoder that removes a space from the first word, and takes runs of bytes together.
        #[test]
        fn the_deltas_are_what_all_tokens_together_decode_to(
            text in "[the ,é🦀€\n]{0,40}",
            cuts in prop::collection::vec(0usize..80, 0..12),
            follows: bool,
        ) {
            let tokenizer = Tokenizer::from_bytes(include_bytes!("../../tests/data/spm/tokenizer.json")).unwrap();
            let all = tokenizer.encode(&text, Special::AsText).unwrap();
            let expected = if follows { tokenizer.decode_after(&all) } else { tokenizer.decode(&all) };
            let mut pieces = Transcript::new(Some(Arc::new(tokenizer)), Vec::new());
            pieces.follows = follows;
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(all.len())).collect();
            cuts.extend([0, all.len()]);
            cuts.sort_unstable();
            let mut sent: String = cuts.windows(2).map(|cut| pieces.push(&all[cut[0]..cut[1]]).text).collect();
            sent.push_str(&pieces.finish());
            prop_assert_eq!(sent, expected);
        }

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
