//! Lays a JSON shape out on a canvas: keys and punctuation become fixed cells, values become gaps.

use super::beginning::{Beginning, different, shared_length};
use super::spellings::Spellings;
use crate::diffusion::{Canvas, Cell, TokenId};
use crate::engine::layout::{Choice, Gap, Kind, Layout, OneOf, Piece, Spelled};
use crate::engine::request::{Rejected, Shape, invalid};
use crate::model::Restriction;
use crate::text::{LENGTH_MAX, Pattern, Special, Tokenizer, json_string};
use std::ops::Range;
use std::sync::Arc;

const TEXT_CELLS: usize = 16;
/// Default cells of a number: up to six digits in most vocabularies.
const NUMBER_CELLS: usize = 6;
/// Limit on options times cells, over all choices: each is looked at when a cell of it changes.
const CHOICES_MAX: usize = 16_384;
const PARAM: &str = "response_format";

pub(super) struct Vocabulary<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) spellings: &'a Spellings,
    pub(super) ends: Vec<TokenId>,
    pub(super) mask: TokenId,
}

/// The places of an array or object.
#[derive(Clone, Copy)]
struct Places {
    count: usize,
    least: usize,
    is_distinct: bool,
    is_object: bool,
}

struct Builder<'a> {
    vocabulary: Vocabulary<'a>,
    cells: Vec<Cell>,
    /// Cells at most, those of the prompt included.
    cells_max: usize,
    /// Cells of the prompt.
    given: usize,
    pieces: Vec<Piece>,
    /// Constant text that has no cells yet.
    constant: String,
    /// What `constant` begins with that has cells already: those of a choice.
    begun: String,
    /// Options times cells so far.
    choices: usize,
    ends: Arc<[TokenId]>,
    /// What may follow a value that is shorter than its cells: spaces and ends of the text, sorted.
    fillers: Arc<[TokenId]>,
}

impl Builder<'_> {
    fn lay(&mut self, shape: &Shape) -> Result<(), Rejected> {
        match shape {
            Shape::Constant(json) => self.constant.push_str(json),
            Shape::Text { cells, least, characters } => self.text(*cells, *least, *characters)?,
            Shape::Pattern { pattern, cells, least, characters } => {
                let (shortest, longest) = pattern.lengths();
                let (least, most) = (shortest.max(*least), longest.min(characters.unwrap_or(LENGTH_MAX)));
                let wide = cells.unwrap_or(TEXT_CELLS).max(least).min(most);
                self.constant.push('"');
                self.spell(pattern, wide, least, false)?;
                self.constant.push('"');
            }
            Shape::Number { cells, is_whole, is_signed, digits } => {
                self.number(*cells, *is_whole, *is_signed, digits.unwrap_or(usize::MAX))?;
            }
            Shape::Range(pattern) => self.spell(pattern, pattern.lengths().1, 0, true)?,
            Shape::OneOf(options) => self.one_of(options)?,
            Shape::List { items, least, is_distinct } => {
                let each = |builder: &mut Self, index: usize| builder.lay(&items[index]);
                self.list(
                    Places { count: items.len(), least: *least, is_distinct: *is_distinct, is_object: false },
                    each,
                )?;
            }
            Shape::Map { members, least } => {
                let each = |builder: &mut Self, index: usize| {
                    let (name, value) = &members[index];
                    builder.lay(name)?;
                    builder.constant.push_str(": ");
                    builder.lay(value)
                };
                self.list(Places { count: members.len(), least: *least, is_distinct: true, is_object: true }, each)?;
            }
            Shape::Either(shapes) => self.either(shapes)?,
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
        let begun = std::mem::take(&mut self.begun);
        let constant = constant.strip_prefix(&begun).map(str::to_owned).unwrap_or(constant);
        let tokens = self.encode(&constant)?;
        self.check_room(tokens.len())?;
        self.cells.extend(tokens.into_iter().map(Cell::Fixed));
        self.pieces.push(Piece::Constant(constant));
        Ok(())
    }

    /// Checks that so many more cells fit.
    fn check_room(&self, more: usize) -> Result<(), Rejected> {
        if self.cells.len().saturating_add(more) <= self.cells_max {
            return Ok(());
        }
        let (needed, room) = (self.cells.len() - self.given + more, self.cells_max - self.given);
        let message = format!(
            "{PARAM} takes at least {needed} cells, and there is room for {room}; ask for more max_tokens, or for \
             fewer tokens of each value"
        );
        Err(invalid(PARAM, message))
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
        self.check_room(cells)?;
        let start = self.cells.len();
        self.cells.extend(std::iter::repeat_n(Cell::Blank, cells));
        let cells = start..self.cells.len();
        let kind = kind(&cells);
        self.pieces.push(Piece::Gap(Gap { cells, kind }));
        Ok(())
    }

    fn text(&mut self, cells: Option<usize>, least: usize, characters: Option<usize>) -> Result<(), Rejected> {
        if characters == Some(0) {
            self.constant.push_str("\"\"");
            return Ok(());
        }
        let written = &self.vocabulary.spellings.written;
        if least > 0 && written.is_empty() {
            return Err(invalid(PARAM, "minLength: this model's vocabulary has no token that is sure to be text"));
        }
        let (ends, characters) = (Arc::clone(&self.ends), characters.unwrap_or(usize::MAX));
        self.constant.push('"');
        self.gap(cells.unwrap_or(TEXT_CELLS).max(least).max(1), |cells| {
            // each of these tokens is at least one character
            let only = Restriction { cells: cells.start..cells.start + least, tokens: Arc::clone(written) };
            Kind::Text { characters, ends, only: (least > 0).then_some(only) }
        })?;
        self.constant.push('"');
        Ok(())
    }

    /// A value of `pattern` in `width` cells, at least `least` of them with a character.
    fn spell(&mut self, pattern: &Arc<Pattern>, width: usize, least: usize, is_number: bool) -> Result<(), Rejected> {
        if width == 0 {
            return Ok(());
        }
        self.check_room(width)?;
        let alphabet = &self.vocabulary.spellings.characters;
        let spelled = Spelled::new(Arc::clone(pattern), width, least, alphabet, Arc::clone(&self.fillers));
        let Some(spelled) = spelled else {
            const MESSAGE: &str = "response_format: this model's vocabulary has no single characters for a value of a \
                                   pattern, format or range, or none of its texts has an allowed length";
            return Err(invalid(PARAM, MESSAGE));
        };
        self.gap(width, |_| Kind::Spelled { spelled, is_number })
    }

    fn number(
        &mut self,
        cells: Option<usize>,
        is_whole: bool,
        is_signed: bool,
        digits_max: usize,
    ) -> Result<(), Rejected> {
        let Spellings { digits, spaces, minus, sign, point, .. } = self.vocabulary.spellings;
        if digits.is_empty() {
            return Err(invalid(PARAM, "this model's vocabulary has no digits, so it can write no number"));
        }
        let point: &[TokenId] = if is_whole { &[] } else { point };
        let rest: Arc<[TokenId]> = [&digits[..], spaces, &self.vocabulary.ends, point].concat().into();
        // the cell of the sign replaces the space before the number
        let has_sign = is_signed && !minus.is_empty() && !spaces.is_empty();
        if has_sign && self.constant.ends_with(' ') {
            self.constant.pop();
        }
        let cells = cells.unwrap_or(NUMBER_CELLS).max(1 + usize::from(has_sign));
        self.gap(cells, |cells| {
            let first = cells.start + usize::from(has_sign);
            let lists = [
                (cells.start..first, Arc::clone(sign)),
                (first..first + 1, Arc::clone(digits)),
                (first + 1..cells.end, rest),
            ];
            let lists = lists.into_iter().filter(|(cells, _)| !cells.is_empty());
            let only = lists.map(|(cells, tokens)| Restriction { cells, tokens }).collect();
            Kind::Number { only, digits: digits_max }
        })
    }

    fn one_of(&mut self, options: &[String]) -> Result<(), Rejected> {
        if let Some(only) = options.first().filter(|first| options.iter().all(|option| option == *first)) {
            self.constant.push_str(only);
            return Ok(());
        }
        // the quotation marks of strings are constant
        let inner = |json: &String| Some(json.strip_prefix('"')?.strip_suffix('"')?.to_owned());
        let strings: Option<Vec<String>> = options.iter().map(inner).collect();
        let (mark, texts) = strings.map_or(("", options.to_vec()), |strings| ("\"", strings));
        self.constant.push_str(mark);
        let (options, cells) = self.choices(texts)?;
        self.gap(cells, |_| Kind::OneOf(options))?;
        self.constant.push_str(mark);
        Ok(())
    }

    /// One of some texts, and the cells of the longest.
    fn choices(&mut self, texts: Vec<String>) -> Result<(OneOf, usize), Rejected> {
        let options = texts.into_iter().map(|json| Ok(Choice { tokens: self.encode(&json)?, json }));
        let options = options.collect::<Result<Vec<_>, Rejected>>()?;
        let cells = options.iter().map(|option| option.tokens.len()).max().unwrap_or(0).max(1);
        self.choices += options.len() * cells;
        if self.choices > CHOICES_MAX {
            let given = self.choices;
            let message = format!(
                "{PARAM}: its choices have {given} options times tokens of the longest one; give at most {CHOICES_MAX}"
            );
            return Err(invalid(PARAM, message));
        }
        Ok((OneOf { options, fillers: Arc::clone(&self.fillers) }, cells))
    }

    /// An array or object that may end before each place behind the first `least`.
    fn list(
        &mut self,
        places: Places,
        mut each: impl FnMut(&mut Self, usize) -> Result<(), Rejected>,
    ) -> Result<(), Rejected> {
        let Places { count, least, is_distinct, is_object } = places;
        let (opening, closing) = if is_object { ('{', '}') } else { ('[', ']') };
        self.constant.push(opening);
        let is_distinct = is_distinct && count > 1;
        if is_distinct {
            self.pin()?;
            self.pieces.push(Piece::List { is_object });
        }
        let mut may_end = Vec::new();
        for index in 0..count {
            let comma = if index == 0 { "" } else { ", " };
            if index < least {
                self.constant.push_str(comma);
            } else {
                let (mut options, cells) = self.choices(vec![comma.to_owned(), closing.to_string()])?;
                // the bracket itself comes behind all places
                options.options[1].json.clear();
                self.gap(cells, |_| Kind::Branch { options, to: Vec::new() })?;
                may_end.push(self.pieces.len() - 1);
            }
            each(self, index)?;
        }
        if !may_end.is_empty() || is_distinct {
            self.pin()?;
        }
        let end = self.pieces.len();
        for at in may_end {
            self.pieces[at].lead(vec![at + 1, end]);
        }
        if is_distinct {
            self.pieces.push(Piece::ListEnd);
        }
        self.constant.push(closing);
        Ok(())
    }

    /// One of several shapes: a choice between their beginnings, and behind it what follows each.
    fn either(&mut self, shapes: &[Shape]) -> Result<(), Rejected> {
        let options = different(shapes);
        if let [Beginning { shape, .. }] = &options[..] {
            return self.lay(shape);
        }
        let shared = shared_length(&options);
        self.constant.push_str(&options[0].text[..shared]);
        let texts = options.iter().map(|option| option.text[shared..].to_owned()).collect();
        let (choices, cells) = self.choices(texts)?;
        self.gap(cells, |_| Kind::Branch { options: choices, to: Vec::new() })?;
        let (branch, mut to, mut jumps) = (self.pieces.len() - 1, Vec::new(), Vec::new());
        for option in &options {
            to.push(self.pieces.len());
            if !option.is_whole {
                self.begun.clone_from(&option.text);
                self.lay(option.shape)?;
                self.pin()?;
            }
            jumps.push(self.pieces.len());
            self.pieces.push(Piece::Jump(0));
        }
        let end = self.pieces.len();
        self.pieces[branch].lead(to);
        jumps.into_iter().for_each(|at| self.pieces[at].lead(vec![end]));
        Ok(())
    }
}

/// A canvas on which `shape` follows the prompt, in at most `room` cells, and its layout. A shape
/// that leaves nothing open has no blank: its answer needs no forward pass.
///
/// # Errors
/// When it does not fit, or the vocabulary cannot express it.
pub(super) fn lay_out(
    shape: &Shape,
    prompt: &[TokenId],
    room: usize,
    vocabulary: Vocabulary<'_>,
) -> Result<(Canvas, Layout), Rejected> {
    let cells: Vec<Cell> = prompt.iter().copied().map(Cell::Fixed).collect();
    let mut fillers = [&vocabulary.ends[..], &vocabulary.spellings.spaces].concat();
    fillers.sort_unstable();
    let mut builder = Builder {
        ends: vocabulary.ends.clone().into(),
        fillers: fillers.into(),
        vocabulary,
        cells_max: prompt.len().saturating_add(room),
        given: prompt.len(),
        cells,
        pieces: Vec::new(),
        constant: String::new(),
        begun: String::new(),
        choices: 0,
    };
    builder.lay(shape)?;
    builder.pin()?;
    let Builder { cells, pieces, .. } = builder;
    Ok((Canvas::new(cells), Layout { pieces }))
}
