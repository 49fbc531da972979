//! Values that a message repeats: cut, so that no caller can make it long.

use std::borrow::Cow;

/// Characters of a value that a message repeats.
const SHOWN_MAX: usize = 60;
const CUT: char = '…';

/// The beginning of a text. One that is cut ends with "…".
pub fn shown(text: &str) -> Cow<'_, str> {
    beginning(text, SHOWN_MAX)
}

/// The same in quotes, with escapes.
pub fn quoted(text: &str) -> String {
    format!("{:?}", shown(text))
}

/// At most `most` characters of the beginning of a text. One that is cut ends with "…".
pub fn beginning(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}{CUT}", &text[..end]).into(),
        None => text.into(),
    }
}

/// At most `most` characters of a text: its beginning and its end, with "…" between them.
pub fn without_middle(text: String, most: usize) -> String {
    let characters = text.chars().count();
    if characters <= most {
        return text;
    }
    let kept = most.saturating_sub(1);
    let (head, tail) = (kept - kept / 3, kept / 3);
    let head = text.chars().take(head);
    head.chain([CUT]).chain(text.chars().skip(characters - tail)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        for (text, expected) in [("", "\"\""), ("a\n", "\"a\\n\""), ("é", "\"é\"")] {
            assert_eq!(quoted(text), expected);
        }
        assert_eq!(shown(&"é".repeat(60)), "é".repeat(60));
        assert_eq!(shown(&"é".repeat(61)), format!("{}…", "é".repeat(60)));
        assert_eq!(quoted(&"é".repeat(1 << 20)), format!("\"{}…\"", "é".repeat(60)));
        assert_eq!(beginning("abc", 2), "ab…");
    }

    #[test]
    fn the_beginning_and_the_end_of_a_message_are_kept() {
        for (most, expected) in [(10, "0123456789"), (9, "012345…89"), (4, "01…9"), (1, "…")] {
            let cut = without_middle("0123456789".to_owned(), most);
            assert_eq!((cut.as_str(), cut.chars().count()), (expected, most.min(10)));
        }
    }
}
