//! Answers in JSON of a given shape: keys and punctuation are pinned, values are gaps that only tokens of their kind may fill,
//! so that whatever the model writes, the answer parses. Refuses to know where a shape comes from.

use super::admission::{Admission, invalid};
use super::draft::Draft;
use super::event::Written;
use super::job::Writing;
use super::request::Rejected;
use crate::diffusion::{Canvas, Cell, Position, TokenId};
use crate::model::Restriction;
use crate::text::{Special, Tokenizer, json_string};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Cells of a text whose shape does not say how many.
const TEXT_CELLS: usize = 16;
/// Cells of a number whose shape does not say: up to six digits of most vocabularies.
const NUMBER_CELLS: usize = 6;
const PARAM: &str = "response_format";

/// What an answer in JSON looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// JSON that is given.
    Given(String),
    /// A string.
    Text {
        /// Tokens at most.
        cells: Option<usize>,
        /// Characters at most.
        characters: Option<usize>,
    },
    /// A number.
    Number {
        /// Tokens at most, sign included.
        cells: Option<usize>,
        /// Whether it may have a fraction.
        is_whole: bool,
        /// Whether it may be below zero.
        is_signed: bool,
    },
    /// One of several JSON texts.
    OneOf(Vec<String>),
    /// An array of just these.
    List(Vec<Shape>),
    /// An object of just these members, in this order.
    Object(Vec<(String, Shape)>),
}

/// A shape laid out on a canvas.
#[derive(Debug)]
pub(super) struct Layout {
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Given(String),
    Gap { cells: Range<usize>, kind: Kind },
}

/// What fills a gap.
#[derive(Debug)]
enum Kind {
    /// Ends before the first quotation mark or token that ends a text.
    Text {
        characters: usize,
        ends: Vec<TokenId>,
    },
    /// Has its own list of tokens for the sign, the first digit and the rest.
    Number {
        only: Vec<Restriction>,
    },
    OneOf {
        options: Vec<Choice>,
        fillers: Vec<TokenId>,
    },
}

#[derive(Debug)]
struct Choice {
    json: String,
    tokens: Vec<TokenId>,
}

impl Choice {
    /// What stands in the option's cell `at`: its token, or, behind its end, whatever fills cells up.
    fn allows(&self, at: usize, fillers: &[TokenId], token: TokenId) -> bool {
        self.tokens.get(at).map_or_else(|| fillers.is_empty() || fillers.contains(&token), |own| *own == token)
    }
}

impl Layout {
    /// What may be written where, as the canvas stands: an option that no longer fits is out.
    pub(super) fn restrictions(&self, canvas: &Canvas) -> Vec<Restriction> {
        let mut all = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Given(_) | Piece::Gap { kind: Kind::Text { .. }, .. } => {}
                Piece::Gap { kind: Kind::Number { only }, .. } => all.extend_from_slice(only),
                Piece::Gap { cells, kind: Kind::OneOf { options, fillers } } => {
                    let stands = |at: usize| match canvas.cells().get(cells.start + at) {
                        Some(Cell::Filled(token)) => Some(*token),
                        Some(Cell::Blank | Cell::Fixed(_)) | None => None,
                    };
                    let fits = |option: &&Choice| {
                        (0..cells.len()).all(|at| stands(at).is_none_or(|token| option.allows(at, fillers, token)))
                    };
                    let mut left: Vec<&Choice> = options.iter().filter(fits).collect();
                    if left.is_empty() {
                        left = options.iter().collect(); // two cells were filled at once, for different ones
                    }
                    all.extend((0..cells.len()).map(|at| {
                        let of =
                            |option: &&Choice| option.tokens.get(at).map_or_else(|| fillers.clone(), |own| vec![*own]);
                        let mut tokens: Vec<TokenId> = left.iter().flat_map(of).collect();
                        tokens.sort_unstable();
                        tokens.dedup();
                        let at = cells.start + at;
                        Restriction { cells: at..at + 1, tokens: tokens.into() }
                    }));
                }
            }
        }
        all.retain(|only| !only.tokens.is_empty()); // options of different lengths, and nothing to fill cells up with
        all
    }

    /// The answer. Whatever was written, it is JSON of the shape.
    pub(super) fn json(&self, written: &BTreeMap<Position, Written>, tokenizer: Option<&Tokenizer>) -> String {
        let decode = |tokens: &[TokenId]| tokenizer.map(|tokenizer| tokenizer.decode(tokens)).unwrap_or_default();
        let mut json = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Given(text) => json.push_str(text),
                Piece::Gap { cells, kind } => {
                    let cells: Vec<&Written> = cells.clone().filter_map(|at| written.get(&Position::at(at))).collect();
                    let tokens: Vec<TokenId> = cells.iter().map(|cell| cell.token).collect();
                    match kind {
                        Kind::Text { characters, ends } => {
                            let end = tokens.iter().position(|token| ends.contains(token)).unwrap_or(tokens.len());
                            let text = decode(&tokens[..end]);
                            let text: String =
                                text.split('"').next().unwrap_or_default().chars().take(*characters).collect();
                            json.push_str(json_string(text.trim_end()).trim_matches('"'));
                        }
                        Kind::Number { .. } => json.push_str(&number(&decode(&tokens))),
                        Kind::OneOf { options, fillers } => json.push_str(nearest(options, fillers, &cells)),
                    }
                }
            }
        }
        json
    }
}

/// The option that most of what was written belongs to, by its confidence; the first one among equals.
fn nearest<'a>(options: &'a [Choice], fillers: &[TokenId], written: &[&Written]) -> &'a str {
    let support = |option: &Choice| {
        let own = written.iter().enumerate().filter(|(at, cell)| option.allows(*at, fillers, cell.token));
        own.map(|(_, cell)| f64::from(cell.confidence.get()) + 1e-6).sum::<f64>()
    };
    let better = |best: Option<(f64, &'a Choice)>, option: &'a Choice| match (best, support(option)) {
        (Some((most, best)), support) if most >= support => Some((most, best)),
        (_, support) => Some((support, option)),
    };
    options.iter().fold(None, better).map_or("null", |(_, option)| option.json.as_str())
}

/// The JSON number that some text begins with; its cells see to it that there is one.
fn number(text: &str) -> String {
    let text = text.trim_start();
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |text| ("-", text));
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(digits(text));
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        whole => whole,
    };
    let fraction = rest.strip_prefix('.').map(|rest| &rest[..digits(rest)]).unwrap_or_default();
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{whole}{point}{fraction}")
}

/// Tokens by what they spell, found by one look through the vocabulary.
#[derive(Debug)]
pub(super) struct Spellings {
    digits: Vec<TokenId>,
    spaces: Vec<TokenId>,
    minus: Vec<TokenId>,
    point: Vec<TokenId>,
}

impl Spellings {
    fn of(tokenizer: &Tokenizer, ids: impl Iterator<Item = TokenId>) -> Self {
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

/// Where a shape is being laid out.
struct Builder<'a> {
    tokenizer: &'a Tokenizer,
    spellings: &'a Spellings,
    ends: Vec<TokenId>,
    mask: TokenId,
    cells: Vec<Cell>,
    pieces: Vec<Piece>,
    /// Given text that has no cells yet.
    given: String,
}

impl Builder<'_> {
    fn lay(&mut self, shape: &Shape) -> Result<(), Rejected> {
        match shape {
            Shape::Given(json) => self.given.push_str(json),
            Shape::Text { cells, characters } => {
                self.given.push('"');
                let kind = Kind::Text { characters: characters.unwrap_or(usize::MAX), ends: self.ends.clone() };
                self.gap(cells.unwrap_or(TEXT_CELLS).max(1), kind)?;
                self.given.push('"');
            }
            Shape::Number { cells, is_whole, is_signed } => self.number(*cells, *is_whole, *is_signed)?,
            Shape::OneOf(options) => self.one_of(options)?,
            Shape::List(shapes) => {
                self.given.push('[');
                for (index, shape) in shapes.iter().enumerate() {
                    self.given.push_str(if index == 0 { "" } else { ", " });
                    self.lay(shape)?;
                }
                self.given.push(']');
            }
            Shape::Object(members) => {
                self.given.push('{');
                for (index, (name, shape)) in members.iter().enumerate() {
                    self.given.push_str(if index == 0 { "" } else { ", " });
                    self.given.push_str(&json_string(name));
                    self.given.push_str(": ");
                    self.lay(shape)?;
                }
                self.given.push('}');
            }
        }
        Ok(())
    }

    /// Pins the text given so far.
    fn pin(&mut self) -> Result<(), Rejected> {
        let given = std::mem::take(&mut self.given);
        let tokens = self.encode(&given)?;
        self.cells.extend(tokens.into_iter().map(Cell::Fixed));
        self.pieces.push(Piece::Given(given));
        Ok(())
    }

    fn encode(&self, text: &str) -> Result<Vec<TokenId>, Rejected> {
        let tokens = self.tokenizer.encode(text, Special::AsText);
        let tokens = tokens.map_err(|error| invalid(PARAM, format!("{PARAM}: {error}")))?;
        match tokens.contains(&self.mask) {
            false => Ok(tokens),
            true => Err(invalid(PARAM, format!("{PARAM} spells the model's mask, which stands for a blank"))),
        }
    }

    fn gap(&mut self, cells: usize, kind: Kind) -> Result<Range<usize>, Rejected> {
        self.pin()?;
        let start = self.cells.len();
        self.cells.extend(std::iter::repeat_n(Cell::Blank, cells));
        let cells = start..self.cells.len();
        self.pieces.push(Piece::Gap { cells: cells.clone(), kind });
        Ok(cells)
    }

    fn number(&mut self, cells: Option<usize>, is_whole: bool, is_signed: bool) -> Result<(), Rejected> {
        let Spellings { digits, spaces, minus, point } = self.spellings;
        if digits.is_empty() {
            return Err(invalid(PARAM, "this model's vocabulary has no digits, so it can write no number"));
        }
        let point: &[TokenId] = if is_whole { &[] } else { point };
        let rest = [digits, spaces, &self.ends, point].concat();
        // a cell for the sign takes the place of the space before a number
        let has_sign = is_signed && !minus.is_empty() && !spaces.is_empty();
        if has_sign && self.given.ends_with(' ') {
            self.given.pop();
        }
        let cells = cells.unwrap_or(NUMBER_CELLS).max(1 + usize::from(has_sign));
        let cells = self.gap(cells, Kind::Number { only: Vec::new() })?;
        let (sign, first) = (cells.start..cells.start + usize::from(has_sign), cells.start + usize::from(has_sign));
        let lists =
            [(sign, [&minus[..], spaces].concat()), (first..first + 1, digits.clone()), (first + 1..cells.end, rest)];
        let lists = lists.into_iter().filter(|(cells, _)| !cells.is_empty());
        let only = lists.map(|(cells, tokens)| Restriction { cells, tokens: tokens.into() }).collect();
        if let Some(Piece::Gap { kind, .. }) = self.pieces.last_mut() {
            *kind = Kind::Number { only };
        }
        Ok(())
    }

    fn one_of(&mut self, options: &[String]) -> Result<(), Rejected> {
        if let [only] = options {
            self.given.push_str(only);
            return Ok(());
        }
        // among strings the quotation marks are no question
        let inner = |json: &String| Some(json.strip_prefix('"')?.strip_suffix('"')?.to_owned());
        let strings: Option<Vec<String>> = options.iter().map(inner).collect();
        let (mark, texts) = strings.map_or(("", options.to_vec()), |strings| ("\"", strings));
        self.given.push_str(mark);
        let options = texts.into_iter().map(|json| Ok(Choice { tokens: self.encode(&json)?, json }));
        let options = options.collect::<Result<Vec<_>, Rejected>>()?;
        let cells = options.iter().map(|option| option.tokens.len()).max().unwrap_or(0).max(1);
        let fillers = [&self.ends[..], &self.spellings.spaces].concat();
        self.gap(cells, Kind::OneOf { options, fillers })?;
        self.given.push_str(mark);
        Ok(())
    }
}

impl Admission {
    /// A canvas on which `shape` follows the prompt, in `room` cells at most.
    pub(super) fn shaped(&self, prompt: &[TokenId], room: usize, shape: &Shape) -> Result<Draft, Rejected> {
        let Some(tokenizer) = &self.tokenizer else {
            return Err(invalid(PARAM, "this model was loaded without a tokenizer.json; it can write no JSON"));
        };
        let ends = self.ends();
        let spellings = self.spellings.get_or_init(|| {
            let ids = (0..self.spec.vocabulary).map(TokenId);
            Spellings::of(tokenizer, ids.filter(|id| *id != self.spec.mask && !ends.contains(id)))
        });
        let mut builder = Builder {
            tokenizer,
            spellings,
            ends,
            mask: self.spec.mask,
            cells: prompt.iter().copied().map(Cell::Fixed).collect(),
            pieces: Vec::new(),
            given: String::new(),
        };
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
            return Err(invalid(
                PARAM,
                format!("{PARAM} leaves nothing to write; give it at least one value that is open"),
            ));
        }
        let writing = Writing::Shaped { tokenizer: Some(Arc::clone(tokenizer)), layout: Layout { pieces } };
        Ok(Draft { canvas: Canvas::new(cells), offset: prompt.len(), prompt_tokens: prompt.len(), writing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_what_a_text_begins_with() {
        let cases = [
            (" 7", "7"),
            ("-12 3", "-12"),
            ("007.50", "7.50"),
            (" 0", "0"),
            ("3..5", "3"),
            ("-0.5.1", "-0.5"),
            ("12345678901234567890123", "12345678901234567890123"),
        ];
        for (text, json) in cases {
            assert_eq!(number(text), json);
            assert!(serde_json::from_str::<serde_json::Number>(json).is_ok());
        }
    }
}
