//! A cache that also skips cells of the block: those that the quality head trusts.

use super::cache::{DUAL, REFRESH, SUFFIX_WINDOW};
use super::knob::{Knob, Range, Setting};
use super::rule::{FilledCell, Needs, Rule, Stage};
use crate::diffusion::units::Probability;

/// The quality from which on a cell is locked.
pub static LOCK_ABOVE: Knob = Knob {
    name: "above",
    help: "Filled cells of at least this quality are locked; default: 0.95.",
    range: Range::Fraction,
    default: |_, _| Some(Setting::Number(0.95)),
};

/// Passes of a block from one full pass to the next, where a request sets none: a locked cell is
/// judged anew only by a full pass.
const REFRESH_DEFAULT: u32 = 8;

static REFRESH_OFTEN: Knob =
    Knob { name: REFRESH.name, default: |_, _| Some(Setting::Count(REFRESH_DEFAULT)), ..REFRESH };

/// `dual`, and cells of high quality are not computed before the next full pass.
pub static LOCK: Rule = Rule {
    name: "lock",
    help: "As `dual`; and cells of the block that the quality head trusts in a full pass are neither computed nor \
           judged until the next one, by default every 8 passes. An experiment.",
    source: "",
    knobs: &[&REFRESH_OFTEN, &SUFFIX_WINDOW, &LOCK_ABOVE],
    needs: Needs::QUALITY,
    runs: unlocked,
    ..DUAL
};

/// The block without its cells of high quality.
fn unlocked(stage: &Stage<'_>) -> Vec<std::ops::Range<usize>> {
    let above = stage.settings.fraction(LOCK_ABOVE.name).unwrap_or(Probability::ONE);
    let is_locked = |cell: &&FilledCell| cell.quality.is_some_and(|quality| quality >= above);
    let mut runs = Vec::new();
    let mut start = stage.block.start;
    for locked in stage.filled.iter().filter(is_locked).map(|cell| cell.at.index()) {
        runs.push(start..locked);
        start = locked + 1;
    }
    runs.push(start..stage.block.end);
    runs.retain(|run| !run.is_empty());
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::policy::Settings;
    use crate::diffusion::units::{Position, TokenId};

    #[test]
    fn cells_that_are_trusted_are_left_out() {
        let quality = |quality| Probability::new(quality);
        let cell = |at, quality| FilledCell {
            at: Position(at),
            token: TokenId(1),
            confidence: Probability::ONE,
            age: 1,
            quality,
            present: None,
            best: None,
            memory: 0.0,
        };
        let filled = [cell(4, quality(0.96)), cell(6, quality(0.5)), cell(7, quality(0.95)), cell(9, quality(1.0))];
        let settings = Settings::EMPTY.with(LOCK_ABOVE.name, Setting::Number(0.95));
        let stage = Stage { block: 4..10, cells: 20, filled: &filled, settings: &settings };
        assert_eq!(unlocked(&stage), [5..7, 8..9]);
        assert_eq!(unlocked(&Stage { filled: &[], ..stage.clone() }), [stage.block]);
    }
}
