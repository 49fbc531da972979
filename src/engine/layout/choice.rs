//! One of several texts in a gap: which tokens its cells accept, and which text was meant.

use crate::diffusion::TokenId;
use crate::engine::event::Written;
use std::sync::Arc;

/// Several texts, one of which is written. At least one.
#[derive(Debug)]
pub(in crate::engine) struct OneOf {
    pub(in crate::engine) options: Vec<Choice>,
    /// The tokens that may follow an option that is shorter than the gap.
    pub(in crate::engine) fillers: Arc<[TokenId]>,
}

#[derive(Debug)]
pub(in crate::engine) struct Choice {
    pub(in crate::engine) json: String,
    pub(in crate::engine) tokens: Vec<TokenId>,
}

impl Choice {
    /// Whether cell `at` of the gap may hold `token`: the option's own, or a filler behind its end.
    fn allows(&self, at: usize, fillers: &[TokenId], token: TokenId) -> bool {
        self.tokens.get(at).map_or_else(|| fillers.is_empty() || fillers.contains(&token), |own| *own == token)
    }
}

impl OneOf {
    /// The tokens that each cell accepts, without options that do not fit those that are there.
    pub(super) fn allowed(&self, there: &[Option<TokenId>]) -> Vec<Arc<[TokenId]>> {
        let filled: Vec<(usize, TokenId)> =
            there.iter().enumerate().filter_map(|(at, token)| Some((at, (*token)?))).collect();
        let fits = |option: &&Choice| filled.iter().all(|(at, token)| option.allows(*at, &self.fillers, *token));
        let mut left: Vec<&Choice> = self.options.iter().filter(fits).collect();
        if left.is_empty() {
            left = self.options.iter().collect(); // cells filled in one step belong to different options
        }
        let cell = |at: usize| -> Arc<[TokenId]> {
            let mut tokens: Vec<TokenId> = left.iter().filter_map(|option| option.tokens.get(at).copied()).collect();
            let is_shorter = left.iter().any(|option| option.tokens.len() <= at);
            if tokens.is_empty() {
                return Arc::clone(&self.fillers);
            }
            if is_shorter {
                tokens.extend_from_slice(&self.fillers);
            }
            tokens.sort_unstable();
            tokens.dedup();
            tokens.into()
        };
        (0..there.len()).map(cell).collect()
    }

    /// The first option whose fitting written tokens have the largest sum of confidences.
    pub(super) fn nearest(&self, written: &[Option<&Written>]) -> usize {
        let support = |option: &Choice| {
            let cells = written.iter().enumerate().filter_map(|(at, cell)| Some((at, (*cell)?)));
            let own = cells.filter(|(at, cell)| option.allows(*at, &self.fillers, cell.token));
            own.map(|(_, cell)| f64::from(cell.confidence.get()) + 1e-6).sum::<f64>()
        };
        let mut best = (0, f64::NEG_INFINITY);
        for (index, support) in self.options.iter().map(support).enumerate() {
            if support > best.1 {
                best = (index, support);
            }
        }
        best.0
    }

    pub(super) fn json(&self, written: &[Option<&Written>]) -> &str {
        self.options.get(self.nearest(written)).map_or("null", |option| option.json.as_str())
    }
}
