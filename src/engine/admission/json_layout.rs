//! Lays a JSON shape out on a canvas: keys and punctuation become fixed cells, values become gaps.

use crate::diffusion::{Canvas, Cell, TokenId};
use crate::engine::layout::{Choice, Kind, Layout, Piece};
use crate::engine::request::{Rejected, Shape, invalid};
use crate::model::Restriction;
use crate::text::{Special, Tokenizer, json_string};
use std::ops::Range;

const TEXT_CELLS: usize = 16;
/// Default cells of a number: up to six digits in most vocabularies.
const NUMBER_CELLS: usize = 6;
const PARAM: &str = "response_format";

/// The tokens of a vocabulary that numbers and fillers are made of.
#[derive(Debug)]
pub(super) struct Spellings {
    digits: Vec<TokenId>,
    spaces: Vec<TokenId>,
    minus: Vec<TokenId>,
    point: Vec<TokenId>,
}

impl Spellings {
    pub(super) fn of(tokenizer: &Tokenizer, ids: impl Iterator<Item = TokenId>) -> Self {
        let [mut digits, mut spaces, mut minus, mut point] = <[Vec<TokenId>; 4]>::default();
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
        }
        Self { digits, spaces, minus, point }
    }
}

pub(super) struct Vocabulary<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) spellings: &'a Spellings,
    pub(super) ends: Vec<TokenId>,
    pub(super) mask: TokenId,
}

struct Builder<'a> {
    vocabulary: Vocabulary<'a>,
    cells: Vec<Cell>,
    pieces: Vec<Piece>,
    /// Constant text that has no cells yet.
    constant: String,
}

impl Builder<'_> {
    fn lay(&mut self, shape: &Shape) -> Result<(), Rejected> {
        match shape {
            Shape::Constant(json) => self.constant.push_str(json),
            Shape::Text { cells, characters } => {
                self.constant.push('"');
                let (characters, ends) = (characters.unwrap_or(usize::MAX), self.vocabulary.ends.clone());
                self.gap(cells.unwrap_or(TEXT_CELLS).max(1), |_| Kind::Text { characters, ends })?;
                self.constant.push('"');
            }
            Shape::Number { cells, is_whole, is_signed } => self.number(*cells, *is_whole, *is_signed)?,
            Shape::OneOf(options) => self.one_of(options)?,
            Shape::List(shapes) => {
                self.constant.push('[');
                for (index, shape) in shapes.iter().enumerate() {
                    self.constant.push_str(if index == 0 { "" } else { ", " });
                    self.lay(shape)?;
                }
                self.constant.push(']');
            }
            Shape::Object(members) => {
                self.constant.push('{');
                for (index, (name, shape)) in members.iter().enumerate() {
                    self.constant.push_str(if index == 0 { "" } else { ", " });
                    self.constant.push_str(&json_string(name));
                    self.constant.push_str(": ");
                    self.lay(shape)?;
                }
                self.constant.push('}');
            }
        }
        Ok(())
    }

    /// Gives the constant text so far its fixed cells.
    fn pin(&mut self) -> Result<(), Rejected> {
        let constant = std::mem::take(&mut self.constant);
        let tokens = self.encode(&constant)?;
        self.cells.extend(tokens.into_iter().map(Cell::Fixed));
        self.pieces.push(Piece::Constant(constant));
        Ok(())
    }

    fn encode(&self, text: &str) -> Result<Vec<TokenId>, Rejected> {
        let tokens = self.vocabulary.tokenizer.encode_after(text, Special::AsText);
        let tokens = tokens.map_err(|error| invalid(PARAM, format!("{PARAM}: {error}")))?;
        if tokens.contains(&self.vocabulary.mask) {
            return Err(invalid(PARAM, format!("{PARAM} spells the model's mask, which stands for a blank")));
        }
        Ok(tokens)
    }

    fn gap(&mut self, cells: usize, kind: impl FnOnce(&Range<usize>) -> Kind) -> Result<(), Rejected> {
        self.pin()?;
        let start = self.cells.len();
        self.cells.extend(std::iter::repeat_n(Cell::Blank, cells));
        let cells = start..self.cells.len();
        self.pieces.push(Piece::Gap { kind: kind(&cells), cells });
        Ok(())
    }

    fn number(&mut self, cells: Option<usize>, is_whole: bool, is_signed: bool) -> Result<(), Rejected> {
        let Spellings { digits, spaces, minus, point } = self.vocabulary.spellings;
        if digits.is_empty() {
            return Err(invalid(PARAM, "this model's vocabulary has no digits, so it can write no number"));
        }
        let point: &[TokenId] = if is_whole { &[] } else { point };
        let rest = [digits, spaces, &self.vocabulary.ends, point].concat();
        // the cell of the sign replaces the space before the number
        let has_sign = is_signed && !minus.is_empty() && !spaces.is_empty();
        if has_sign && self.constant.ends_with(' ') {
            self.constant.pop();
        }
        let cells = cells.unwrap_or(NUMBER_CELLS).max(1 + usize::from(has_sign));
        self.gap(cells, |cells| {
            let first = cells.start + usize::from(has_sign);
            let sign = [&minus[..], spaces].concat();
            let lists = [(cells.start..first, sign), (first..first + 1, digits.clone()), (first + 1..cells.end, rest)];
            let lists = lists.into_iter().filter(|(cells, _)| !cells.is_empty());
            Kind::Number { only: lists.map(|(cells, tokens)| Restriction { cells, tokens: tokens.into() }).collect() }
        })
    }

    fn one_of(&mut self, options: &[String]) -> Result<(), Rejected> {
        if let [only] = options {
            self.constant.push_str(only);
            return Ok(());
        }
        // the quotation marks of strings are constant
        let inner = |json: &String| Some(json.strip_prefix('"')?.strip_suffix('"')?.to_owned());
        let strings: Option<Vec<String>> = options.iter().map(inner).collect();
        let (mark, texts) = strings.map_or(("", options.to_vec()), |strings| ("\"", strings));
        self.constant.push_str(mark);
        let options = texts.into_iter().map(|json| Ok(Choice { tokens: self.encode(&json)?, json }));
        let options = options.collect::<Result<Vec<_>, Rejected>>()?;
        let cells = options.iter().map(|option| option.tokens.len()).max().unwrap_or(0).max(1);
        let fillers = [&self.vocabulary.ends[..], &self.vocabulary.spellings.spaces].concat();
        self.gap(cells, |_| Kind::OneOf { options, fillers })?;
        self.constant.push_str(mark);
        Ok(())
    }
}

/// A canvas on which `shape` follows the prompt, in at most `room` cells, and its layout.
///
/// # Errors
/// When it does not fit, has no gap, or the vocabulary cannot express it.
pub(super) fn lay_out(
    shape: &Shape,
    prompt: &[TokenId],
    room: usize,
    vocabulary: Vocabulary<'_>,
) -> Result<(Canvas, Layout), Rejected> {
    let cells = prompt.iter().copied().map(Cell::Fixed).collect();
    let mut builder = Builder { vocabulary, cells, pieces: Vec::new(), constant: String::new() };
    builder.lay(shape)?;
    builder.pin()?;
    let Builder { cells, pieces, .. } = builder;
    let needed = cells.len() - prompt.len();
    if needed > room {
        let message = format!(
            "{PARAM} takes {needed} cells, and there is room for {room}; ask for more max_tokens, or for fewer tokens of each \
                 value"
        );
        return Err(invalid(PARAM, message));
    }
    if !cells.contains(&Cell::Blank) {
        let message = format!("{PARAM} leaves nothing to write; give it at least one value that is open");
        return Err(invalid(PARAM, message));
    }
    Ok((Canvas::new(cells), Layout { pieces }))
}
