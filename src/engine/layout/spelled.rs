//! A value written character by character, whose text matches a pattern. Each cell accepts only
//! characters with which the others can still become such a text.

use crate::diffusion::TokenId;
use crate::engine::event::Written;
use crate::text::{Characters, Pattern};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The tokens that are one character, by their characters.
pub(in crate::engine) type Alphabet = BTreeMap<char, Vec<TokenId>>;

/// A pattern in the tokens of a vocabulary.
#[derive(Debug)]
pub(in crate::engine) struct Spelled {
    pattern: Arc<Pattern>,
    /// Cells of the value.
    width: usize,
    /// The fewest characters.
    least: usize,
    /// The tokens of each step, in the order of their ids.
    tokens: Vec<Arc<[TokenId]>>,
    characters: BTreeMap<TokenId, char>,
    /// The tokens that may follow the text, where it is shorter than the value's cells; sorted.
    fillers: Arc<[TokenId]>,
}

/// For each cell, whether each step may stand there; the last entry stands for a filler.
type Places = Vec<Vec<bool>>;

impl Spelled {
    /// A value of `width` cells; `None` if the vocabulary cannot write one.
    pub(in crate::engine) fn new(
        pattern: Arc<Pattern>,
        width: usize,
        least: usize,
        alphabet: &Alphabet,
        fillers: Arc<[TokenId]>,
    ) -> Option<Self> {
        let mut known: BTreeMap<&Characters, Arc<[TokenId]>> = BTreeMap::new();
        let mut characters = BTreeMap::new();
        let mut tokens = Vec::new();
        for step in &pattern.steps {
            let own = known.entry(&step.characters).or_insert_with(|| {
                let ranges = step.characters.iter().flat_map(|(from, to)| alphabet.range(*from..=*to));
                let mut own = Vec::new();
                for (character, ids) in ranges {
                    own.extend(ids);
                    characters.extend(ids.iter().map(|id| (*id, *character)));
                }
                own.sort_unstable();
                own.into()
            });
            tokens.push(Arc::clone(own));
        }
        let spelled = Self { pattern, width, least, tokens, characters, fillers };
        spelled.places(&vec![None; width]).map(|_| spelled)
    }

    /// The tokens that each cell accepts beside those that are there. Where these contradict each
    /// other, as if none were there.
    pub(super) fn allowed(&self, there: &[Option<TokenId>]) -> Vec<Arc<[TokenId]>> {
        let places = self.places(there).or_else(|| self.places(&vec![None; self.width])).unwrap_or_default();
        places.iter().map(|here| self.tokens_of(here)).collect()
    }

    fn tokens_of(&self, here: &[bool]) -> Arc<[TokenId]> {
        let lists = self.tokens.iter().chain([&self.fillers]).zip(here).filter_map(|(list, may)| may.then_some(list));
        let mut different: Vec<&Arc<[TokenId]>> = Vec::new();
        for list in lists {
            if !different.iter().any(|other| Arc::ptr_eq(other, list)) {
                different.push(list);
            }
        }
        match different[..] {
            [only] => Arc::clone(only),
            _ => {
                let all: BTreeSet<TokenId> = different.iter().flat_map(|list| list.iter().copied()).collect();
                all.into_iter().collect()
            }
        }
    }

    fn filler(&self) -> usize {
        self.pattern.steps.len()
    }

    /// Whether a step, or a filler, can stand for a token.
    fn fits(&self, step: usize, token: TokenId) -> bool {
        self.tokens.get(step).unwrap_or(&self.fillers).binary_search(&token).is_ok()
    }

    /// Whether a text may end before cell `cell`.
    fn may_end_before(&self, cell: usize) -> bool {
        cell >= self.least && !self.fillers.is_empty()
    }

    /// The steps behind `step`, or at the beginning, that may stand in cell `cell`.
    fn followers(&self, step: Option<usize>, cell: usize) -> impl Iterator<Item = usize> {
        let (next, ends) = match step {
            None => (&self.pattern.first[..], self.pattern.may_be_empty),
            Some(step) => match self.pattern.steps.get(step) {
                Some(step) => (&step.next[..], step.may_end),
                None => (&[][..], true),
            },
        };
        let filler = (ends && self.may_end_before(cell)).then_some(self.filler());
        next.iter().copied().chain(filler)
    }

    fn is_last(&self, step: usize) -> bool {
        self.pattern.steps.get(step).is_none_or(|step| step.may_end)
    }

    /// The steps with which each cell can be part of a text; `None` if there is no text.
    fn places(&self, there: &[Option<TokenId>]) -> Option<Places> {
        let count = self.filler() + 1;
        // a step without tokens cannot be written
        let is_possible = |cell: usize, step: usize| {
            there[cell]
                .map_or_else(|| step == self.filler() || !self.tokens[step].is_empty(), |token| self.fits(step, token))
        };
        let mut places: Places = Vec::with_capacity(self.width);
        for cell in 0..self.width {
            let mut here = vec![false; count];
            let before: Vec<Option<usize>> = match places.last() {
                None => vec![None],
                Some(before) => before.iter().enumerate().filter_map(|(step, may)| may.then_some(Some(step))).collect(),
            };
            for step in before.into_iter().flat_map(|step| self.followers(step, cell)) {
                here[step] = here[step] || is_possible(cell, step);
            }
            places.push(here);
        }
        for cell in (0..self.width).rev() {
            for step in 0..count {
                let goes_on = match places.get(cell + 1) {
                    None => self.is_last(step),
                    Some(after) => self.followers(Some(step), cell + 1).any(|next| after[next]),
                };
                places[cell][step] = places[cell][step] && goes_on;
            }
        }
        places.first().is_none_or(|first| first.iter().any(|may| *may)).then_some(places)
    }

    /// The text of the pattern whose tokens that were written have the largest sum of confidences.
    pub(super) fn text(&self, written: &[Option<&Written>]) -> String {
        let Some(places) = self.places(&vec![None; self.width]) else { return String::new() };
        let support = |cell: usize, step: usize| {
            let fitting = written[cell].filter(|written| self.fits(step, written.token));
            fitting.map_or(0.0, |written| f64::from(written.confidence.get()) + 1e-6)
        };
        // the largest sum from each place to the end
        let mut sums = vec![vec![0.0; self.filler() + 1]; self.width + 1];
        let best = |sums: &[Vec<f64>], step: Option<usize>, cell: usize| {
            let open = self.followers(step, cell).filter(|next| places.get(cell).is_some_and(|here| here[*next]));
            // the first of equals
            open.fold(None, |best: Option<usize>, next| match best {
                Some(best) if sums[cell][best] >= sums[cell][next] => Some(best),
                _ => Some(next),
            })
        };
        for cell in (0..self.width).rev() {
            for step in (0..=self.filler()).filter(|step| places[cell][*step]) {
                let after = best(&sums, Some(step), cell + 1).map_or(0.0, |next| sums[cell + 1][next]);
                sums[cell][step] = support(cell, step) + after;
            }
        }
        let (mut text, mut step) = (String::new(), None);
        for (cell, written) in written.iter().enumerate() {
            step = best(&sums, step, cell);
            let Some(step) = step.filter(|step| *step != self.filler()) else { break };
            let own = written.map(|written| written.token).filter(|token| self.fits(step, *token));
            let token = own.or_else(|| self.tokens[step].first().copied());
            text.extend(token.and_then(|token| self.characters.get(&token)));
        }
        text
    }
}
