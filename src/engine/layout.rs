//! A JSON layout: fixed keys and punctuation, and gaps for the values. Each gap accepts only tokens
//! of its kind, so that the answer always parses. Out of scope: how a layout is made.

use super::event::Written;
use crate::diffusion::{Canvas, Position, TokenId};
use crate::model::Restriction;
use crate::text::{Tokenizer, json_string};
use std::{collections::BTreeMap, ops::Range};

/// A JSON shape, laid out on a canvas.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) pieces: Vec<Piece>,
}

#[derive(Debug)]
pub(super) enum Piece {
    Constant(String),
    Gap { cells: Range<usize>, kind: Kind },
}

/// What fills a gap.
#[derive(Debug)]
pub(super) enum Kind {
    /// A string; it ends before the first quotation mark or end-of-text token.
    Text { characters: usize, ends: Vec<TokenId> },
    /// A number, with a list of tokens for its sign, its first digit and the rest.
    Number { only: Vec<Restriction> },
    /// One of several JSON texts. `fillers` may follow an option that is shorter than the gap.
    OneOf { options: Vec<Choice>, fillers: Vec<TokenId> },
}

#[derive(Debug)]
pub(super) struct Choice {
    pub(super) json: String,
    pub(super) tokens: Vec<TokenId>,
}

impl Choice {
    /// Whether cell `at` of the gap may hold `token`: the option's own, or a filler behind its end.
    fn allows(&self, at: usize, fillers: &[TokenId], token: TokenId) -> bool {
        self.tokens.get(at).map_or_else(|| fillers.is_empty() || fillers.contains(&token), |own| *own == token)
    }
}

impl Layout {
    /// The tokens that each gap accepts on the current canvas, without options that no longer fit.
    pub(super) fn restrictions(&self, canvas: &Canvas) -> Vec<Restriction> {
        let mut all = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Constant(_) | Piece::Gap { kind: Kind::Text { .. }, .. } => {}
                Piece::Gap { kind: Kind::Number { only }, .. } => all.extend_from_slice(only),
                Piece::Gap { cells, kind: Kind::OneOf { options, fillers } } => {
                    let stands = |at: usize| canvas.cells().get(cells.start + at).and_then(|cell| cell.token());
                    let fits = |option: &&Choice| {
                        (0..cells.len()).all(|at| stands(at).is_none_or(|token| option.allows(at, fillers, token)))
                    };
                    let mut left: Vec<&Choice> = options.iter().filter(fits).collect();
                    if left.is_empty() {
                        left = options.iter().collect(); // cells filled in one step belong to different options
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
        all.retain(|only| !only.tokens.is_empty()); // behind a short option, without fillers
        all
    }

    /// The answer: JSON of the shape, whatever was written.
    pub(super) fn json(&self, written: &BTreeMap<Position, Written>, tokenizer: Option<&Tokenizer>) -> String {
        let decode = |tokens: &[TokenId]| tokenizer.map(|tokenizer| tokenizer.decode_after(tokens)).unwrap_or_default();
        let mut json = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Constant(text) => json.push_str(text),
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

/// The first option whose fitting written tokens have the largest sum of confidences.
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

/// The JSON number at the start of `text`. The restrictions of its cells ensure that there is one.
fn number(text: &str) -> String {
    let text = text.trim_start();
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |text| ("-", text));
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(digits(text));
    let whole = Some(whole.trim_start_matches('0')).filter(|whole| !whole.is_empty()).unwrap_or("0");
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
            assert_eq!(number(text), json);
            assert!(serde_json::from_str::<serde_json::Number>(json).is_ok());
        }
    }
}
