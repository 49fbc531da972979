//! Extracts a JSON value from the start of a text, and completes it if the text ends early.

use serde_json::Value;

/// Deepest nesting, the same as serde_json's; deeper values are dropped.
const DEPTH_MAX: usize = 127;
/// Longest number that is shortened until it is valid. A longer one is taken whole, or cut to this.
const NUMBER_MAX: usize = 1024;

/// A JSON value, and whether the text held all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healed {
    /// Valid JSON.
    pub json: String,
    /// False if something was closed or dropped to make it valid.
    pub is_whole: bool,
}

/// Watches a text that grows for the bracket that closes the first one: an object or array that the
/// text begins with cannot be whole before.
#[derive(Clone, Debug, Default)]
pub struct Brackets {
    depth: usize,
    is_in_string: bool,
    is_escaped: bool,
    is_closed: bool,
}

impl Brackets {
    /// Reads more of the text. True once, at the piece with the closing bracket.
    pub fn close_in(&mut self, piece: &str) -> bool {
        !self.is_closed && {
            self.is_closed = piece.bytes().any(|byte| self.closes(byte));
            self.is_closed
        }
    }

    const fn closes(&mut self, byte: u8) -> bool {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' if self.is_in_string => self.is_escaped = true,
            b'"' => self.is_in_string = !self.is_in_string,
            b'{' | b'[' if !self.is_in_string => self.depth += 1,
            b'}' | b']' if !self.is_in_string && self.depth > 0 => {
                self.depth -= 1;
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

/// The JSON value at the start of `text`, unchanged if it is valid. Otherwise as much of it as
/// possible, closed: a member without a value is dropped, a line break escaped. At least `null`.
pub fn heal(text: &str) -> Healed {
    let text = text.trim_start();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>(); // rejects lone surrogates
    if let Some(Ok(_)) = values.next() {
        return Healed { json: text[..values.byte_offset()].to_owned(), is_whole: true };
    }
    let mut healer = Healer { rest: text, json: String::new() };
    if healer.value(0) == Kept::Nothing {
        healer.json = "null".to_owned();
    }
    Healed { json: healer.json, is_whole: false }
}

/// `text` as a JSON string, quotes included.
pub fn json_string(text: &str) -> String {
    Value::from(text).to_string()
}

/// `text` as the inside of a JSON string, without the quotes around it.
pub fn escaped(text: &str) -> String {
    let mut json = json_string(text);
    json.pop();
    json.split_off(1)
}

/// What a model wrote between the quotation marks of a JSON string, as text: up to the first
/// quotation mark that is not escaped, with escapes decoded where all of them are valid.
#[must_use]
pub fn string_text(written: &str) -> String {
    let mut is_escaped = false;
    let is_end = |c: char| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    };
    let written = &written[..written.find(is_end).unwrap_or(written.len())];
    let decoded = |written: &str| {
        // line breaks and the like are not valid in JSON; the text means them
        let plain: String = written.chars().fold(String::new(), |mut plain, c| {
            match c {
                '\0'..='\u{1f}' => plain.push_str(&escaped(c.encode_utf8(&mut [0; 4]))),
                c => plain.push(c),
            }
            plain
        });
        serde_json::from_str::<String>(&format!("\"{plain}\"")).ok()
    };
    // the room may have ended in the middle of an escape
    let cut = || {
        let start = written.rfind('\\').filter(|start| {
            let escape = &written[start + 1..];
            escape.is_empty() || escape.starts_with('u') && escape.len() < 5
        })?;
        decoded(&written[..start])
    };
    decoded(written).or_else(cut).unwrap_or_else(|| written.to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    All,
    /// It was closed early; nothing may follow.
    Part,
    /// Nothing was written.
    Nothing,
}

struct Healer<'a> {
    rest: &'a str,
    json: String,
}

impl Healer<'_> {
    fn next_after_space(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
        self.rest.chars().next()
    }

    fn skip(&mut self) {
        let mut rest = self.rest.chars();
        rest.next();
        self.rest = rest.as_str();
    }

    fn value(&mut self, depth: usize) -> Kept {
        match self.next_after_space() {
            Some('{' | '[') if depth == DEPTH_MAX => Kept::Nothing,
            Some('{') => self.members('}', |healer| healer.member(depth + 1)),
            Some('[') => self.members(']', |healer| healer.value(depth + 1)),
            Some('"') => self.string(),
            Some('-' | '0'..='9') => self.number(),
            Some(_) => self.word(),
            None => Kept::Nothing,
        }
    }

    /// The members between two brackets, the first of which is the next character.
    fn members(&mut self, closing: char, member: impl Fn(&mut Self) -> Kept) -> Kept {
        self.json.push(if closing == '}' { '{' } else { '[' });
        self.skip();
        let mut count = 0;
        let kept = loop {
            if count == 0 && self.next_after_space() == Some(closing) {
                self.skip();
                break Kept::All;
            }
            let before = self.json.len();
            self.json.push_str(if count == 0 { "" } else { ", " });
            match member(self) {
                Kept::All => {}
                Kept::Part => break Kept::Part,
                Kept::Nothing => {
                    self.json.truncate(before);
                    break Kept::Part;
                }
            }
            count += 1;
            match self.next_after_space() {
                Some(',') => self.skip(),
                Some(next) if next == closing => {
                    self.skip();
                    break Kept::All;
                }
                Some(_) | None => break Kept::Part,
            }
        };
        self.json.push(closing);
        kept
    }

    fn member(&mut self, depth: usize) -> Kept {
        if self.next_after_space() != Some('"') || self.string() != Kept::All || self.next_after_space() != Some(':') {
            return Kept::Nothing;
        }
        self.skip();
        self.json.push_str(": ");
        self.value(depth)
    }

    fn string(&mut self) -> Kept {
        self.skip();
        self.json.push('"');
        let kept = loop {
            let Some(next) = self.rest.chars().next() else { break Kept::Part };
            match next {
                '"' => {
                    self.skip();
                    break Kept::All;
                }
                '\\' => match self.escape() {
                    Some(length) => {
                        self.json.push_str(&self.rest[..length]);
                        self.rest = &self.rest[length..];
                    }
                    None => break Kept::Part,
                },
                next => {
                    self.json.push_str(&escaped(next.encode_utf8(&mut [0; 4])));
                    self.skip();
                }
            }
        };
        self.json.push('"');
        kept
    }

    /// Bytes of the next escape sequence, surrogate pairs as a whole; `None` if it is invalid.
    fn escape(&self) -> Option<usize> {
        let is_one = |length: usize| {
            let text = self.rest.get(..length)?;
            serde_json::from_str::<String>(&format!("\"{text}\"")).is_ok().then_some(length)
        };
        is_one(2).or_else(|| is_one(6)).or_else(|| is_one(12))
    }

    fn number(&mut self) -> Kept {
        let of_number = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
        let all = self.rest.find(|c| !of_number(c)).unwrap_or(self.rest.len());
        let is_number = |length: &usize| serde_json::from_str::<serde_json::Number>(&self.rest[..*length]).is_ok();
        let shorter = (1..all.min(NUMBER_MAX)).rev();
        let Some(length) = std::iter::once(all).chain(shorter).find(is_number) else { return Kept::Nothing };
        self.json.push_str(&self.rest[..length]);
        self.rest = &self.rest[length..];
        if length == all { Kept::All } else { Kept::Part }
    }

    fn word(&mut self) -> Kept {
        let Some(word) = ["true", "false", "null"].into_iter().find(|word| self.rest.starts_with(word)) else {
            return Kept::Nothing;
        };
        self.json.push_str(word);
        self.rest = &self.rest[word.len()..];
        Kept::All
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, json: &str, is_whole: bool) {
        assert_eq!(heal(text), Healed { json: json.to_owned(), is_whole }, "{text}");
    }

    #[test]
    fn the_inside_of_a_string_keeps_its_own_quotation_marks() {
        for text in ["", "\"", "a\"", "\"\"a", "\\", "a\nb"] {
            let json = format!("\"{}\"", escaped(text));
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text, "{json}");
        }
    }

    #[test]
    fn what_is_whole_stays_as_it_is() {
        check(r#" {"a":1, "b" : [true]} and so on"#, r#"{"a":1, "b" : [true]}"#, true);
        check("{}", "{}", true);
    }

    #[test]
    fn what_is_cut_short_is_closed() {
        check(r#"{"a": "b"#, r#"{"a": "b"}"#, false);
        check(r#"{"a": [1, {"b": -1.5e"#, r#"{"a": [1, {"b": -1.5}]}"#, false);
        check(r#"{"a": 1, "b": tr"#, r#"{"a": 1}"#, false);
        check(r#"{"a": 1, "b"#, r#"{"a": 1}"#, false);
        check(r#"{"a": 1,"#, r#"{"a": 1}"#, false);
        check(r#"{"a": "x\u00"#, r#"{"a": "x"}"#, false);
        check("{", "{}", false);
        check("", "null", false);
        check(&"7".repeat(9000), &"7".repeat(308), false);
    }

    #[test]
    fn what_goes_wrong_is_closed_there() {
        check("{\"a\": \"two\nlines\", b: 1}", r#"{"a": "two\nlines"}"#, false);
        check(r#"{"a": "\q", "b": 1}"#, r#"{"a": ""}"#, false);
        check("{'a': 1}", "{}", false);
        check(r#"{"a": 01}"#, r#"{"a": 0}"#, false);
        check(r#"{"a": "\ud83d\ude00 \ud83d"#, r#"{"a": "\ud83d\ude00 "}"#, false);
        let deep = "[".repeat(500);
        assert!(serde_json::from_str::<Value>(&heal(&deep).json).is_ok());
    }

    #[test]
    fn a_written_string_is_cut_at_its_end_and_decoded_once() {
        let cases = [
            (r#"plain" and on"#, "plain"),
            (r#"a \"quoted\" word", "b": 1"#, "a \"quoted\" word"),
            (r#"back\\" rest"#, "back\\"),
            (r"line\nbreak \u00e9 \ud83d\ude00", "line\nbreak é 😀"),
            ("line\nbreak", "line\nbreak"),
            (r"C:\dir", r"C:\dir"),
            (r"cut \u00", "cut "),
            ("cut \\", "cut "),
            (r"\ud83d", r"\ud83d"),
            ("", ""),
        ];
        for (written, text) in cases {
            assert_eq!(string_text(written), text, "{written}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_it_is_json(text in r#"\{?([\[\]{}:,"\\ntu0-9a-f.\-+ eE\n]|true|null|"[a-z]*"){0,40}"#) {
            let Healed { json, is_whole } = heal(&text);
            let value = serde_json::from_str::<Value>(&json);
            prop_assert!(value.is_ok(), "{} -> {}", text, json);
            prop_assert_eq!(value.unwrap().is_object(), text.trim_start().starts_with('{'));
            prop_assert_eq!(heal(&json), Healed { json, is_whole: true });
            prop_assert!(!is_whole || serde_json::Deserializer::from_str(&text).into_iter::<Value>().next().unwrap().is_ok());
        }

        #[test]
        fn an_object_is_whole_when_its_bracket_closes(
            rest in r#"([\[\]{}:,"\\ntu0-9]|true|"[a-z\\"]*":|[\]}]{2}){0,30}"#,
            cuts in prop::collection::vec(0usize..80, 0..6),
        ) {
            let text = format!("{{{rest}");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let (mut brackets, mut is_whole) = (Brackets::default(), false);
            for cut in cuts.windows(2) {
                is_whole |= brackets.close_in(&text[cut[0]..cut[1]]) && heal(&text[..cut[1]]).is_whole;
                prop_assert_eq!(is_whole, heal(&text[..cut[1]]).is_whole, "{}", &text[..cut[1]]);
            }
        }

        #[test]
        fn a_value_cut_anywhere_keeps_its_beginning(cut in 0usize..40) {
            let whole = r#"{"name": "Jo\u00e9", "n": [1, 20.5, null]}"#;
            let cut = cut.min(whole.len());
            prop_assume!(whole.is_char_boundary(cut));
            prop_assert!(serde_json::from_str::<Value>(&heal(&whole[..cut]).json).is_ok());
        }
    }
}
