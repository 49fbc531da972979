//! Tokens of text and of examples to rows.

use super::store::RowWriter;
use crate::diffusion::{TokenId, u32_of};
use crate::text::Tokenizer;

/// How the examples of a file become rows.
#[derive(Clone, Copy, Debug)]
pub struct Cutting<'a> {
    /// The tokenizer of the model.
    pub tokenizer: &'a Tokenizer,
    /// Tokens of a row at most.
    pub length: usize,
    /// The token that fills up rows, and that ends examples and files.
    pub end: Option<TokenId>,
    /// How examples of JSONL become rows.
    pub filling: Filling,
}

/// What a row holds beside its first example of JSONL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filling {
    /// The end of text, to the end of the row: padding belongs to the response, as in LLaDA's
    /// training (arXiv 2502.09992, section 2.3).
    #[default]
    EndOfText,
    /// As many other examples as fit, each closed by the end of text.
    Packed,
    /// One end of text: rows are as long as their examples.
    Unpadded,
}

/// Cuts tokens into rows, and writes these.
pub(super) struct Cutter<'a> {
    cutting: Cutting<'a>,
    writer: RowWriter,
    /// Tokens of text that are not in a row yet.
    text: Vec<u32>,
    /// The row that examples are packed into, and its first free token.
    packed: Option<(Vec<u32>, u32)>,
    rows: u64,
}

impl<'a> Cutter<'a> {
    pub(super) const fn new(cutting: Cutting<'a>, writer: RowWriter) -> Self {
        Self { cutting, writer, text: Vec::new(), packed: None, rows: 0 }
    }

    /// Takes a piece of text.
    pub(super) fn text(&mut self, tokens: &[TokenId]) -> Result<(), String> {
        self.text.extend(tokens.iter().map(|token| token.0));
        self.cut_text()
    }

    fn add(&mut self, tokens: &[u32], first_free: u32) -> Result<(), String> {
        self.rows += 1;
        self.writer.add(tokens, first_free).map_err(|cause| format!("gave rows that cannot be kept: {cause}"))
    }

    fn cut_text(&mut self) -> Result<(), String> {
        let text = std::mem::take(&mut self.text);
        let rows = text.chunks_exact(self.cutting.length);
        self.text = rows.remainder().to_vec();
        rows.clone().try_for_each(|row| self.add(row, 0))
    }

    /// Closes a text.
    pub(super) fn end_text(&mut self) -> Result<(), String> {
        self.text.extend(self.cutting.end.map(|end| end.0));
        self.cut_text()
    }

    /// A row of one example, or a part of a row that is packed.
    pub(super) fn example(&mut self, prompt: &[TokenId], response: &[TokenId]) -> Result<(), String> {
        let Cutting { length, end, filling, .. } = self.cutting;
        let free = prompt.len();
        if free >= length {
            return Err(format!("has a prompt of {free} tokens, which leaves nothing of the {length} of a row"));
        }
        let mut tokens: Vec<u32> = prompt.iter().chain(response).map(|token| token.0).collect();
        if filling == Filling::Packed {
            tokens.push(end.ok_or("cannot be packed, since the model names no end of text to close it with")?.0);
            return self.pack(tokens, u32_of(free));
        }
        tokens.truncate(length);
        if tokens.len() < length {
            let end = end.ok_or("is shorter than a row, and the model names no end of text to fill it up with")?;
            tokens.resize(if filling == Filling::Unpadded { tokens.len() + 1 } else { length }, end.0);
        }
        self.add(&tokens, u32_of(free))
    }

    /// Puts an example into the open row. One that is cut off there begins the next row. Only the
    /// prompt at the beginning of a row is never masked.
    fn pack(&mut self, tokens: Vec<u32>, free: u32) -> Result<(), String> {
        let length = self.cutting.length;
        if let Some((mut row, first_free)) = self.packed.take() {
            let room = length - row.len();
            row.extend(tokens.iter().take(room));
            if row.len() < length {
                self.packed = Some((row, first_free));
                return Ok(());
            }
            self.add(&row, first_free)?;
            if tokens.len() <= room {
                return Ok(());
            }
        }
        if tokens.len() < length {
            self.packed = Some((tokens, free));
            return Ok(());
        }
        self.add(&tokens[..length], free)
    }

    /// The rows, with their number.
    pub(super) fn finish(mut self) -> Result<(RowWriter, u64), String> {
        if let Some((mut row, first_free)) = self.packed.take() {
            let end = self.cutting.end.map_or(0, |end| end.0);
            row.resize(self.cutting.length, end);
            self.add(&row, first_free)?;
        }
        Ok((self.writer, self.rows))
    }
}
