//! Texts that stand in the middle of a longer one. Many tokenizers add a space before a text and
//! remove it again from the decoded text (SentencePiece, WordPiece); both are wrong in the middle.

use tokenizers::Tokenizer;

/// What stands before a text so that a tokenizer takes it for the middle of a longer one.
#[derive(Clone, Debug)]
pub(super) struct Middle {
    /// An ordinary token and its text; `None` in a vocabulary without letters and digits.
    anchor: Option<(u32, String)>,
    /// The ids of a line break, if texts are encoded differently behind it.
    line: Option<Vec<u32>>,
}

impl Middle {
    /// Finds out how a tokenizer treats the start of a text.
    pub(super) fn of(tokenizer: &Tokenizer) -> Self {
        Self { anchor: anchor(tokenizer), line: line(tokenizer) }
    }

    /// The text of ids that follow others.
    pub(super) fn decode(&self, tokenizer: &Tokenizer, ids: &[u32]) -> String {
        let behind = self.anchor.as_ref().and_then(|(id, text)| {
            let whole = tokenizer.decode(&[&[*id], ids].concat(), true).ok()?;
            whole.strip_prefix(text.as_str()).map(str::to_owned)
        });
        behind.unwrap_or_else(|| tokenizer.decode(ids, true).unwrap_or_default())
    }

    /// The text to encode in place of one that follows another, and the ids to remove from the
    /// start of the result; `None` where the text itself is to be encoded.
    pub(super) fn behind_a_line(&self, text: &str) -> Option<(String, &[u32])> {
        self.line.as_ref().filter(|_| !text.is_empty()).map(|line| (format!("\n{text}"), line.as_slice()))
    }
}

/// A token that is a letter, a digit or a word, not a byte, and decodes to it.
fn anchor(tokenizer: &Tokenizer) -> Option<(u32, String)> {
    let special = tokenizer.get_added_vocabulary();
    (0..u32::try_from(tokenizer.get_vocab_size(true)).unwrap_or(u32::MAX)).find_map(|id| {
        let name = tokenizer.id_to_token(id).filter(|name| !special.is_special_token(name))?;
        if !name.ends_with(|c: char| c.is_ascii_alphanumeric()) {
            return None;
        }
        let text = tokenizer.decode(&[id], true).ok()?;
        let is_word = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric());
        let is_kept = is_word && tokenizer.decode(&[id, id], true).is_ok_and(|twice| twice.starts_with(&text));
        is_kept.then_some((id, text))
    })
}

fn line(tokenizer: &Tokenizer) -> Option<Vec<u32>> {
    let ids = |text: &str| tokenizer.encode(text, false).map(|encoding| encoding.get_ids().to_vec()).ok();
    let line = ids("\n")?;
    let is_different = |text: &&str| {
        let behind = ids(&format!("\n{text}"));
        behind.zip(ids(text)).is_some_and(|(behind, alone)| behind.strip_prefix(line.as_slice()) != Some(&alone))
    };
    ["a", "1", "the"].iter().any(is_different).then_some(line)
}
