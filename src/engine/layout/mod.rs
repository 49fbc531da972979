//! A JSON layout: fixed keys and punctuation, and gaps for the values. Each gap accepts only tokens
//! of its kind, so that the answer always parses. Out of scope: how a layout is made.

mod choice;
mod spelled;

use super::event::{Part, Written};
use crate::diffusion::{Canvas, Position, TokenId};
use crate::model::Restriction;
use crate::text::{Tokenizer, distinct, escaped, string_text};
pub(super) use choice::{Choice, OneOf};
pub(super) use spelled::{Alphabet, Spelled};
use std::sync::Arc;
use std::{collections::BTreeMap, ops::Range};

/// A JSON shape, laid out on a canvas.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) pieces: Vec<Piece>,
}

#[derive(Debug)]
pub(super) enum Piece {
    Constant(String),
    Gap(Gap),
    /// Goes on with this piece.
    Jump(usize),
    /// Up to the end of the list, what occurred before is left out.
    List {
        is_object: bool,
    },
    ListEnd,
}

/// Blank cells in which a value is written.
#[derive(Debug)]
pub(super) struct Gap {
    pub(super) cells: Range<usize>,
    pub(super) kind: Kind,
}

/// What the gaps of a layout accept on a canvas that changes.
#[derive(Debug, Default)]
pub(super) struct Accepted(Vec<AcceptedInGap>);

#[derive(Debug, Default)]
struct AcceptedInGap {
    /// The tokens that were in the cells when `only` was made; `None` before that.
    seen: Option<Vec<Option<TokenId>>>,
    /// The tokens that the cells accept, from left to right.
    only: Vec<Restriction>,
}

/// What fills a gap.
#[derive(Debug)]
pub(super) enum Kind {
    /// A string; it ends before the first quotation mark or end-of-text token.
    Text { characters: usize, ends: Arc<[TokenId]>, only: Option<Restriction> },
    /// A number, with a list of tokens for its sign, its first digit and the rest; further digits
    /// before the point than `digits` are cut.
    Number { only: Vec<Restriction>, digits: usize },
    /// One of several JSON texts.
    OneOf(OneOf),
    /// A text of a pattern, character by character. Spaces before a number are not part of it.
    Spelled { spelled: Spelled, is_number: bool },
    /// One of several texts, each of which goes on with a piece of its own.
    Branch { options: OneOf, to: Vec<usize> },
}

impl Gap {
    /// The text that was written in its cells.
    fn text(&self, cells: &[Option<&Written>], tokenizer: Option<&Tokenizer>) -> String {
        let decode = |tokens: &[TokenId]| tokenizer.map(|tokenizer| tokenizer.decode_after(tokens)).unwrap_or_default();
        let tokens = || cells.iter().flatten().map(|cell| cell.token).collect::<Vec<_>>();
        match &self.kind {
            Kind::Text { characters, ends, .. } => {
                let tokens = tokens();
                let end = tokens.iter().position(|token| ends.contains(token)).unwrap_or(tokens.len());
                let text: String = string_text(&decode(&tokens[..end])).chars().take(*characters).collect();
                escaped(text.trim_end())
            }
            Kind::Number { digits, .. } => number(&decode(&tokens()), *digits),
            Kind::OneOf(options) | Kind::Branch { options, .. } => options.json(cells).to_owned(),
            Kind::Spelled { spelled, is_number: true } => spelled.text(cells).trim_start().to_owned(),
            Kind::Spelled { spelled, is_number: false } => spelled.text(cells),
        }
    }

    /// The piece that follows, if it is not the next one.
    fn leads_to(&self, cells: &[Option<&Written>]) -> Option<usize> {
        match &self.kind {
            Kind::Branch { options, to } => to.get(options.nearest(cells)).copied(),
            Kind::Text { .. } | Kind::Number { .. } | Kind::OneOf(_) | Kind::Spelled { .. } => None,
        }
    }
}

impl Piece {
    /// Says with which pieces the options of a branch, or a jump, go on.
    pub(super) fn lead(&mut self, pieces: Vec<usize>) {
        match self {
            Self::Gap(Gap { kind: Kind::Branch { to, .. }, .. }) => *to = pieces,
            Self::Jump(to) => *to = pieces.first().copied().unwrap_or(*to),
            Self::Constant(_) | Self::Gap(_) | Self::List { .. } | Self::ListEnd => {}
        }
    }
}

impl AcceptedInGap {
    /// Lists the accepted tokens anew, if the cells have changed.
    fn refresh(&mut self, gap: &Gap, canvas: &Canvas) {
        let cells = canvas.cells().get(gap.cells.clone()).unwrap_or_default();
        let now: Vec<Option<TokenId>> = cells.iter().map(|cell| cell.token()).collect();
        if self.seen.as_ref() == Some(&now) {
            return;
        }
        let allowed = match &gap.kind {
            Kind::Text { only, .. } => {
                self.only = only.iter().cloned().collect();
                Vec::new()
            }
            Kind::Number { only, .. } => {
                self.only.clone_from(only);
                Vec::new()
            }
            Kind::OneOf(options) | Kind::Branch { options, .. } => options.allowed(&now),
            Kind::Spelled { spelled, .. } => spelled.allowed(&now),
        };
        if !allowed.is_empty() {
            let cells = gap.cells.clone().zip(allowed).filter(|(_, tokens)| !tokens.is_empty());
            self.only = cells.map(|(at, tokens)| Restriction { cells: at..at + 1, tokens }).collect();
        }
        self.seen = Some(now);
    }
}

impl Layout {
    /// The tokens that each gap accepts on the current canvas, from left to right. Only gaps whose
    /// cells have changed since the last call with this `accepted` are looked at in full.
    pub(super) fn restrictions(&self, canvas: &Canvas, accepted: &mut Accepted) -> Vec<Restriction> {
        accepted.0.resize_with(self.pieces.len(), AcceptedInGap::default);
        let mut all = Vec::new();
        for (piece, accepted) in self.pieces.iter().zip(&mut accepted.0) {
            match piece {
                Piece::Constant(_) | Piece::Jump(_) | Piece::List { .. } | Piece::ListEnd => {}
                Piece::Gap(gap) => {
                    accepted.refresh(gap, canvas);
                    all.extend_from_slice(&accepted.only);
                }
            }
        }
        all
    }

    /// The answer: JSON of the shape, whatever was written, and its parts. `given` cells of the
    /// canvas stand before the layout.
    pub(super) fn json(
        &self,
        written: &BTreeMap<Position, Written>,
        canvas: &Canvas,
        given: usize,
        tokenizer: Option<&Tokenizer>,
    ) -> (String, Vec<Part>) {
        let (mut json, mut parts, mut at, mut lists) = (String::new(), Vec::<Part>::new(), 0, Vec::new());
        while let Some(piece) = self.pieces.get(at) {
            let before = json.len();
            let (cells, mut next) = (self.cells(at, given), at + 1);
            let tokens = match piece {
                Piece::Constant(text) => {
                    json.push_str(text);
                    Part::default().behind(canvas.fixed(cells))
                }
                Piece::Gap(gap) => {
                    let cells: Vec<Option<&Written>> = cells.map(|at| written.get(&Position::at(at))).collect();
                    json.push_str(&gap.text(&cells, tokenizer));
                    next = gap.leads_to(&cells).unwrap_or(next);
                    Part::of("", cells.into_iter().flatten())
                }
                Piece::Jump(to) => {
                    next = *to;
                    Part::default()
                }
                Piece::List { is_object } => {
                    lists.push((json.len(), parts.len(), *is_object));
                    Part::default()
                }
                Piece::ListEnd => {
                    let (start, first, is_object) = lists.pop().unwrap_or((json.len(), parts.len(), false));
                    let kept = distinct(&json[start..], is_object);
                    if kept.len() < json.len() - start {
                        // which of the tokens made it is not known
                        json.truncate(start);
                        parts.truncate(first);
                        parts.push(Part { bytes: kept.len(), tokens: Vec::new() });
                        json.push_str(&kept);
                    }
                    Part::default()
                }
            };
            if json.len() > before {
                parts.push(Part { bytes: json.len() - before, ..tokens });
            }
            at = next;
        }
        (json, parts)
    }

    /// The cells of a piece. All those between two gaps are of the first piece between them.
    fn cells(&self, at: usize, given: usize) -> Range<usize> {
        let gap = |piece: &Piece| if let Piece::Gap(gap) = piece { Some(gap.cells.clone()) } else { None };
        if let Some(cells) = self.pieces.get(at).and_then(gap) {
            return cells;
        }
        let start = at.checked_sub(1).map_or(Some(given), |before| gap(&self.pieces[before]).map(|cells| cells.end));
        let end = self.pieces[at..].iter().find_map(gap).map_or(usize::MAX, |cells| cells.start);
        start.unwrap_or(end)..end
    }
}

/// The JSON number at the start of `text`, with the first `digits_max` digits before its point. The
/// restrictions of its cells ensure that there is one.
fn number(text: &str, digits_max: usize) -> String {
    let text = text.trim_start();
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |text| ("-", text));
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(digits(text));
    let whole = Some(whole.trim_start_matches('0')).filter(|whole| !whole.is_empty()).unwrap_or("0");
    let whole = whole.get(..digits_max).unwrap_or(whole);
    let fraction = rest.strip_prefix('.').map(|rest| &rest[..digits(rest)]).unwrap_or_default();
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{whole}{point}{fraction}")
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
            assert_eq!(number(text, usize::MAX), json);
            assert!(serde_json::from_str::<serde_json::Number>(json).is_ok());
        }
        let cut = [("-0012345", "-123"), ("12", "12"), (" 9999.75", "999.75"), ("000", "0")];
        for (text, json) in cut {
            assert_eq!(number(text, 3), json);
        }
    }
}
