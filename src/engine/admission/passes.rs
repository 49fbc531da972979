//! Bounds the forward passes of a request. Out of scope: the range of a single option.

use crate::diffusion::policy::{BUDGET, CORRECT_EVERY, CORRECTOR_PASSES, COUNT_MAX, Knob, Policy, Scoring};
use crate::diffusion::{Pace, Passes, counted};
use crate::engine::request::{Rejected, Request, Task, invalid};

/// Most forward passes of one choice: its steps, those that proofread its blocks, and those that
/// measure its tokens. It is the largest number of steps that may be asked for. One pass a token is
/// less than that on any canvas so far; more would keep a place for hours.
const PASSES_MAX: u64 = COUNT_MAX as u64;

/// Most forward passes of all choices of a request together: 128 choices, as many as a request may
/// have, of 8,192 tokens in one pass each.
const ALL_PASSES_MAX: u64 = 128 * 8192;

/// The passes that a choice may take: those of its sequence, and `measuring` more.
///
/// # Errors
/// When they are too many; the error names the field that asks for most of them.
pub(super) fn of_choice(request: &Request, passes: Passes, measuring: u64) -> Result<u64, Rejected> {
    let Passes { blocks, filling, correcting, proofreading } = passes;
    let all = passes.all() + measuring;
    if all <= PASSES_MAX {
        return Ok(all);
    }
    let is_repair = matches!(request.task, Task::Repair { .. });
    let left = |others: u64| PASSES_MAX.saturating_sub(others);
    let each = left(filling + correcting + measuring) / u64::from(blocks.max(1));
    let is_budget = request.remasking.is_some_and(|remasking| remasking.settings.count(BUDGET.name).is_some());
    let most = |param, most: u64| (param, format!("give at most {most}"));
    let remasking = request.remasking.map(|remasking| remasking.with_defaults(1));
    let knob = |knob: &Knob| remasking.and_then(|remasking| remasking.settings.count(knob.name)).map(u64::from);
    let corrector = knob(&CORRECT_EVERY).zip(knob(&CORRECTOR_PASSES)).filter(|_| correcting > 0);
    let each_correction = |passes: u64| left(filling + proofreading + measuring) / (correcting / passes).max(1);
    let each_correction = corrector.map_or(0, |(_, passes)| each_correction(passes));
    let (param, advice) = if measuring > passes.all() {
        ("likelihood", format!("give a text of at most {PASSES_MAX} tokens"))
    } else if correcting >= filling.max(proofreading) && each_correction > 0 {
        most("diffusion.remasking.corrector_passes", each_correction)
    } else if proofreading >= filling && is_repair {
        most("steps", each)
    } else if proofreading >= filling && request.proofreading.is_some() && each >= 2 {
        most("diffusion.proofreading.steps", each)
    } else if proofreading >= filling {
        ("diffusion.block_length", format!("with fewer than its {} it takes less", counted(blocks, "block")))
    } else if is_budget && request.steps.is_none() {
        ("diffusion.remasking.budget", "give less, or diffusion.steps".to_owned())
    } else {
        let left = left(proofreading + measuring);
        most("diffusion.steps", corrector.map_or(left, |(every, passes)| left * every / (every + passes)))
    };
    let parts = format!(
        "{filling} to fill {}, {correcting} to correct, {proofreading} to proofread, {measuring} to measure",
        counted(blocks, "block")
    );
    let message = format!("{param}: the request may take {all} forward passes ({parts}); {PASSES_MAX} are allowed");
    Err(invalid(param, format!("{message}: {advice}")))
}

/// Most bytes of the distributions that a choice keeps from pass to pass: those of a block of 64
/// blanks of LLaDA-8B, as KLASS has it in its paper.
const DISTRIBUTIONS_MAX: usize = 32 << 20;

/// Checks the distributions that a policy compares from pass to pass, or takes logits from, each of
/// `vocabulary` numbers.
pub(super) fn of_distributions(policy: &Policy, blanks: usize, vocabulary: u32) -> Result<(), Rejected> {
    let each = vocabulary as usize * size_of::<f32>();
    let blanks = blanks.min(policy.block_length.get() as usize);
    let most = DISTRIBUTIONS_MAX / each.max(1);
    let is_ranked = policy.needs().score == Some(Scoring::Logit);
    if !policy.needs().shift && !is_ranked || blanks <= most {
        return Ok(());
    }
    let (field, rule, other) = match policy.pace {
        _ if is_ranked => ("diffusion.remasking", policy.remasking.rule.name, "policy"),
        Pace::Adaptive { rule, .. } => ("diffusion.unmasking", rule.rule.name, "pace"),
        Pace::Steps(_) => ("diffusion.unmasking", "the policy", "pace"),
    };
    let message =
        format!("{rule} keeps {vocabulary} numbers for each blank of a block, of which there may be {blanks}");
    let advice = format!("{most} are allowed: give a block_length of at most {most}, or another {other}");
    Err(invalid(field, format!("{message}; {advice}")))
}

/// Checks the tokens of a step whose policy reads a row for each filled cell of a block. All other
/// rows are at most two canvases.
pub(super) fn of_step(policy: &Policy, cells: usize, blanks: usize, most: usize) -> Result<(), Rejected> {
    let rows = 1 + blanks.min(policy.block_length.get() as usize);
    let tokens = cells.saturating_mul(rows);
    if !policy.needs().exact || tokens <= most {
        return Ok(());
    }
    let rule = policy.remasking.rule.name;
    let (rows, each) = (counted(rows, "row"), counted(cells, "token"));
    let message = format!("remasking by {rule} reads up to {rows} of {each} in a step, {tokens} in all");
    let advice = format!("{most} are allowed (--max-batch-tokens of the server): give a smaller block_length");
    Err(invalid("diffusion.remasking", format!("{message}; {advice}, or another policy")))
}

/// Checks the passes of all choices, of which there are `choices` for each prompt.
pub(super) fn check_all(all: u64, choices: usize) -> Result<(), Rejected> {
    if all <= ALL_PASSES_MAX {
        return Ok(());
    }
    let one = all / (choices as u64).max(1);
    let message = format!("the choices may take {all} forward passes together; {ALL_PASSES_MAX} are allowed");
    match ALL_PASSES_MAX / one.max(1) {
        0 => Err(invalid("prompt", format!("prompt: {message}: give fewer prompts, or fewer steps"))),
        most => Err(invalid("n", format!("n: {message}: give at most {most}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::policy::{Choice, KLASS, OFF, THRESHOLD, order};
    use std::num::NonZeroU32;

    #[test]
    fn the_distributions_of_a_block_are_bounded() {
        let policy = |rule, block_length| Policy {
            order: Choice::of(&order::CONFIDENCE),
            pace: Pace::Adaptive { rule: Choice::of(rule), steps_max: None },
            remasking: Choice::of(&OFF),
            block_length: NonZeroU32::new(block_length).unwrap(),
            proofreading: None,
        };
        let llada = 126_464;
        assert_eq!(of_distributions(&policy(&KLASS, 64), 256, llada), Ok(()), "as in the paper");
        assert_eq!(of_distributions(&policy(&KLASS, 1024), 66, llada), Ok(()));
        assert_eq!(of_distributions(&policy(&THRESHOLD, 1024), 1024, llada), Ok(()));
        let error = of_distributions(&policy(&KLASS, 128), 256, llada).unwrap_err();
        let words = "klass keeps 126464 numbers for each blank of a block, of which there may be 128; 66 are allowed: \
                     give a block_length of at most 66, or another pace";
        assert_eq!(error.to_string(), words);
    }
}
