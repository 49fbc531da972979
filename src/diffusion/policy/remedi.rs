//! The sampler of `RemeDi` (arXiv 2509.23653): each step ranks all cells of the block, blanks and
//! filled ones alike, keeps a few more of the best than the step before, and makes all others blank
//! again. Out of scope: how many it keeps.

use super::rule::{Count, FilledCell, Needs, Rule, Scoring, View};
use crate::diffusion::canvas::Edit;
use crate::diffusion::reading::{Proposal, Score};

/// Ranks by the quality of every cell, as the paper says.
pub static REMEDI: Rule = Rule {
    name: "remedi",
    help: "Each step keeps the cells of the block with the best quality, blanks with their new tokens among them, a few \
           more than the step before; all others become blank again. The order of unmasking is not used. Needs a model \
           that judges blanks, as RemeDi does.",
    source: "arXiv 2509.23653",
    count: Count::Ranked,
    needs: Needs { quality: true, ..Needs::score(Scoring::Quality) },
    decide: ranked,
    ..Rule::NONE
};

/// Ranks by the logit of the token, as the published code does.
pub static REMEDI_LOGIT: Rule = Rule {
    name: "remedi_logit",
    help: "As `remedi`, but by the logit of each cell's token, before the softmax, as RemeDi's published code ranks \
           them. Works with every model.",
    needs: Needs::score(Scoring::Logit),
    ..REMEDI
};

/// The best scores first; ties go to the left.
fn ranked(view: &View<'_>) -> Vec<Edit> {
    let fill = |Score { at, .. }: &Score| {
        let place = view.proposals.binary_search_by_key(at, |proposal| proposal.at);
        place.ok().map(|place| Proposal::fill(&view.proposals[place]))
    };
    let erase = |Score { at, .. }: &Score| {
        let place = view.filled.binary_search_by_key(at, |cell| cell.at);
        place.ok().map(|place| FilledCell::erase(&view.filled[place], view.filled[place].quality))
    };
    let edit = |score: &Score| Some((score.score, fill(score).or_else(|| erase(score))?));
    let mut edits: Vec<(f32, Edit)> = view.scores.iter().filter_map(edit).collect();
    edits.sort_by(|(one, _), (other, _)| other.total_cmp(one)); // the sort is stable
    edits.into_iter().map(|(_, edit)| edit).collect()
}
