//! What is added to the logits of some tokens: the biases of a request, and in blanks also the
//! penalties on tokens that the model has already written. Out of scope: how they are applied.

use crate::diffusion::TokenId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tokens, each with the number that is added to its logit.
type List = Arc<[(TokenId, f32)]>;

/// The biases of one job.
#[derive(Clone, Debug)]
pub(super) struct Biases {
    /// Those of the request. All that is asked about a filled cell is asked with these.
    pub(super) requested: List,
    penalties: Option<Penalties>,
    /// With the penalties, as the canvas stands; `None` where nothing is penalised.
    penalised: Option<List>,
}

/// Presence and frequency penalties as in OpenAI's API: a logit loses `presence` if the token
/// stands in the answer, and `frequency` for each cell that it stands in.
#[derive(Clone, Debug)]
pub(super) struct Penalties {
    pub(super) presence: f32,
    pub(super) frequency: f32,
    /// Tokens that are never penalised: those that end a text, which fill all cells behind it.
    pub(super) exempt: Arc<[TokenId]>,
}

impl Biases {
    pub(super) fn new(requested: List, penalties: Option<Penalties>) -> Self {
        Self { requested, penalties, penalised: None }
    }

    /// Those of blanks.
    pub(super) fn of_blanks(&self) -> &[(TokenId, f32)] {
        self.penalised.as_ref().unwrap_or(&self.requested)
    }

    /// Takes the tokens that the model has written up to now.
    pub(super) fn refresh(&mut self, written: impl Iterator<Item = TokenId>) {
        let Some(Penalties { presence, frequency, exempt }) = &self.penalties else { return };
        let mut counts: BTreeMap<TokenId, f32> = BTreeMap::new();
        for token in written.filter(|token| !exempt.contains(token)) {
            *counts.entry(token).or_default() += 1.0;
        }
        let mut all: BTreeMap<TokenId, f32> =
            counts.into_iter().map(|(token, count)| (token, -presence - frequency * count)).collect();
        for (token, bias) in self.requested.iter() {
            *all.entry(*token).or_default() += bias;
        }
        self.penalised = Some(all.into_iter().collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_penalised_once_for_being_there_and_once_for_each_cell() {
        let requested: List = [(TokenId(1), 2.0), (TokenId(9), f32::NEG_INFINITY)].into();
        let penalties = Penalties { presence: 0.5, frequency: 0.25, exempt: [TokenId(7)].into() };
        let mut biases = Biases::new(Arc::clone(&requested), Some(penalties));
        assert_eq!(biases.of_blanks(), &*requested);
        biases.refresh([1, 4, 7, 4, 9, 7, 4].map(TokenId).into_iter());
        let expected = [(1, 1.25), (4, -1.25), (9, f32::NEG_INFINITY)].map(|(token, bias)| (TokenId(token), bias));
        assert_eq!(biases.of_blanks(), expected);
        assert_eq!(biases.requested, requested);
        // what was erased is not penalised any more
        biases.refresh([4].map(TokenId).into_iter());
        assert_eq!(biases.of_blanks()[1], (TokenId(4), -0.75));
        let mut plain = Biases::new(Arc::clone(&requested), None);
        plain.refresh([4].map(TokenId).into_iter());
        assert_eq!(plain.of_blanks(), &*requested);
    }
}
