//! What is done to the logits of some tokens: the biases of a request, and in blanks also the
//! penalties on tokens that stand on the canvas. Out of scope: how it is applied.

use crate::diffusion::{Canvas, Cell, TokenId};
use crate::model::Change;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Changes of logits; those of one token in their order.
type List = Arc<[(TokenId, Change)]>;

/// The biases of one job.
#[derive(Clone, Debug)]
pub(super) struct Biases {
    /// Those of the request. All that is asked about a filled cell is asked with these.
    pub(super) requested: List,
    penalties: Option<Penalties>,
    /// With the penalties, as the canvas stands; `None` where nothing is penalised.
    penalised: Option<List>,
}

/// Presence and frequency penalties as in OpenAI's API, and the repetition penalty as in
/// transformers and vLLM.
#[derive(Clone, Debug)]
pub(super) struct Penalties {
    /// Taken off the logit of a token that the model has written.
    pub(super) presence: f32,
    /// Taken off it for each cell in which the model has written it.
    pub(super) frequency: f32,
    /// The logit of a token that stands anywhere on the canvas, given or written, is divided by
    /// this above 0, and multiplied elsewhere.
    pub(super) repetition: f32,
    /// Tokens that are never penalised: those that end a text, which fill all cells behind it.
    pub(super) exempt: Arc<[TokenId]>,
}

impl Penalties {
    /// Whether any of them changes a logit.
    pub(super) fn has_effect(&self) -> bool {
        self.presence != 0.0 || self.frequency != 0.0 || self.repetition != 1.0
    }

    /// The changes that follow from a canvas, in the order in which vLLM makes them.
    fn of(&self, canvas: &Canvas) -> Vec<(TokenId, Change)> {
        let (mut standing, mut written) = (BTreeSet::new(), BTreeMap::<TokenId, f32>::new());
        for cell in canvas.cells() {
            let Some(token) = cell.token().filter(|token| !self.exempt.contains(token)) else { continue };
            standing.insert(token);
            if let Cell::Filled(_) = cell {
                *written.entry(token).or_default() += 1.0;
            }
        }
        let scale = Change::Scale(self.repetition);
        let scaled = standing.into_iter().filter(|_| self.repetition != 1.0).map(|token| (token, scale));
        let (presence, frequency) = (self.presence, self.frequency);
        let is_lowered = presence != 0.0 || frequency != 0.0;
        let lowered = written.into_iter().filter(|_| is_lowered);
        let lowered = lowered.map(|(token, count)| (token, Change::Add(-presence - frequency * count)));
        scaled.chain(lowered).collect()
    }
}

impl Biases {
    pub(super) fn new(requested: List, penalties: Option<Penalties>) -> Self {
        Self { requested, penalties, penalised: None }
    }

    /// Those of blanks.
    pub(super) fn of_blanks(&self) -> &[(TokenId, Change)] {
        self.penalised.as_ref().unwrap_or(&self.requested)
    }

    /// Takes the canvas as it stands now. A banned token has no other change.
    pub(super) fn refresh(&mut self, canvas: &Canvas) {
        let Some(penalties) = &self.penalties else { return };
        let is_ban = |change: &Change| *change == Change::Add(f32::NEG_INFINITY);
        let banned: BTreeSet<TokenId> =
            self.requested.iter().filter(|(_, change)| is_ban(change)).map(|(token, _)| *token).collect();
        let mut all = self.requested.to_vec();
        all.extend(penalties.of(canvas));
        all.retain(|(token, change)| is_ban(change) || !banned.contains(token));
        all.sort_by_key(|(token, _)| *token); // keeps the order of a token's changes
        self.penalised = Some(all.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAN: Change = Change::Add(f32::NEG_INFINITY);

    fn biases(presence: f32, frequency: f32, repetition: f32) -> Biases {
        let requested: List = [(TokenId(1), Change::Add(2.0)), (TokenId(9), BAN)].into();
        let penalties = Penalties { presence, frequency, repetition, exempt: [TokenId(7)].into() };
        Biases::new(requested, Some(penalties))
    }

    /// The prompt 1 3 7, and what the model has written around a blank.
    fn canvas(written: &[u32]) -> Canvas {
        let prompt = [1, 3, 7].map(|token| Cell::Fixed(TokenId(token)));
        let written = written.iter().map(|token| Cell::Filled(TokenId(*token)));
        Canvas::new(prompt.into_iter().chain([Cell::Blank]).chain(written).collect())
    }

    #[test]
    fn a_token_is_penalised_once_for_being_there_and_once_for_each_cell() {
        let mut biases = biases(0.5, 0.25, 1.0);
        assert_eq!(biases.of_blanks(), &*biases.requested);
        biases.refresh(&canvas(&[1, 4, 7, 4, 9, 7, 4]));
        let [asked, once, thrice] = [2.0, -0.75, -1.25].map(Change::Add);
        let expected = [(1, asked), (1, once), (4, thrice), (9, BAN)].map(|(token, change)| (TokenId(token), change));
        assert_eq!(biases.of_blanks(), expected);
        assert_eq!(biases.requested[..], [(TokenId(1), asked), (TokenId(9), BAN)]);
        // what was erased is not penalised any more
        biases.refresh(&canvas(&[4]));
        assert_eq!(biases.of_blanks()[1], (TokenId(4), once));
        let mut plain = Biases::new(Arc::clone(&biases.requested), None);
        plain.refresh(&canvas(&[4]));
        assert_eq!(plain.of_blanks(), &*biases.requested);
    }

    #[test]
    fn repetition_counts_the_prompt_too_and_comes_between_biases_and_other_penalties() {
        let mut biases = biases(0.5, 0.0, 1.25);
        biases.refresh(&canvas(&[4, 4, 9, 1]));
        let (scale, lowered) = (Change::Scale(1.25), Change::Add(-0.5));
        let expected = [
            (1, Change::Add(2.0)),
            (1, scale),
            (1, lowered),
            (3, scale), // given alone
            (4, scale),
            (4, lowered),
            (9, BAN),
        ];
        assert_eq!(biases.of_blanks(), expected.map(|(token, change)| (TokenId(token), change)));
    }
}
