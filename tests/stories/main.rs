//! Small runs of the algorithm, drawn: the canvas before each step and the step's edits in the order they were chosen,
//! erasures first. What is read is scripted: a reading knows the right words and errs where the story says so.

mod script;

use remask::diffusion::{Order, Pace, Policy, Probability, Proofreading, Remask, Stretch};
use script::{check, script, slip, tenths};
use std::num::NonZeroU32;

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn steps(count: u32) -> Policy {
    Policy {
        order: Order::Confidence,
        pace: Pace::Steps(number(count)),
        remask: Remask::Never,
        block_length: NonZeroU32::MAX,
        proofreading: None,
    }
}

/// Five tenths is what is doubted.
fn proofread(steps: u32, policy: Policy) -> Policy {
    Policy { proofreading: Some(Proofreading { steps, below: tenths(5), most: None }), ..policy }
}

/// No bound on the steps; 0.7 is enough.
fn threshold(steps_max: Option<u32>) -> Policy {
    let pace = Pace::Threshold { threshold: tenths(7), steps_max: steps_max.map(number) };
    Policy { pace, ..steps(1) }
}

fn worst(budget: u32) -> Remask {
    Remask::Quality { budget, below: None, window: Stretch::WHOLE }
}

fn doubtful(budget: u32, below: u8) -> Remask {
    Remask::Quality { budget, below: Some(tenths(below)), window: Stretch::WHOLE }
}

#[test]
fn the_most_confident_blank_is_filled_first() {
    check(
        &script("the cat sat", "5 9 7", []),
        steps(3),
        "
        ___ ___ ___: +cat
        ___ cat ___: +sat
        ___ cat sat: +the |
        the cat sat",
    );
}

#[test]
fn ties_go_to_the_left() {
    check(
        &script("the cat sat", "5 9 9", []),
        steps(2),
        "
        ___ ___ ___: +cat +sat
        ___ cat sat: +the |
        the cat sat",
    );
}

#[test]
fn an_even_share_per_step_the_remainder_first() {
    check(
        &script("a b c d e", "9 8 7 6 5", []),
        steps(3),
        "
        ___ ___ ___ ___ ___: +a +b
        a b ___ ___ ___: +c +d
        a b c d ___: +e |
        a b c d e",
    );
}

#[test]
fn more_steps_than_blanks_are_not_taken() {
    check(
        &script("a b", "9 8", []),
        steps(9),
        "
        ___ ___: +a
        a ___: +b |
        a b",
    );
}

#[test]
fn leftmost_ignores_confidence() {
    check(
        &script("the cat sat", "1 9 5", []),
        Policy { order: Order::Leftmost, ..steps(3) },
        "
        ___ ___ ___: +the
        the ___ ___: +cat
        the cat ___: +sat |
        the cat sat",
    );
}

#[test]
fn a_slip_stays_where_nothing_is_erased() {
    check(
        &script("the cat sat", "5 9 7", [slip(0, 1, "dog", 1)]),
        steps(3),
        "
        ___ ___ ___: +dog
        ___ dog ___: +sat
        ___ dog sat: +the |
        the dog sat",
    );
}

#[test]
fn the_worst_cell_is_erased_and_refilled_within_the_steps() {
    check(
        &script("the cat sat", "5 9 7", [slip(0, 1, "dog", 1)]),
        Policy { remask: worst(1), ..steps(3) },
        "
        ___ ___ ___: +dog
        ___ dog ___: -dog +sat +the
        the ___ sat: +cat |
        the cat sat",
    );
}

#[test]
fn without_a_bar_the_worst_is_erased_even_if_it_is_good() {
    check(
        &script("the cat sat", "5 9 7", []),
        Policy { remask: worst(1), ..steps(3) },
        "
        ___ ___ ___: +cat
        ___ cat ___: -cat +sat +the
        the ___ sat: +cat |
        the cat sat",
    );
}

#[test]
fn a_cell_as_good_as_the_bar_stays() {
    let slips = || [slip(0, 0, "ten", 4), slip(0, 1, "dog", 3)];
    check(
        &script("the cat sat on", "9 8 7 6", slips()),
        Policy { remask: doubtful(6, 4), ..steps(3) },
        "
        ___ ___ ___ ___: +ten +dog
        ten dog ___ ___: -dog +sat +on
        ten ___ sat on: +cat |
        ten cat sat on",
    );
    check(
        &script("the cat sat on", "9 8 7 6", slips()),
        Policy { remask: doubtful(6, 5), ..steps(3) },
        "
        ___ ___ ___ ___: +ten +dog
        ten dog ___ ___: -dog -ten +sat +on
        ___ ___ sat on: +the +cat |
        the cat sat on",
    );
}

#[test]
fn a_bar_nothing_falls_below_erases_nothing_and_costs_no_step() {
    check(
        &script("the cat sat", "5 9 7", []),
        Policy { remask: doubtful(3, 5), ..steps(3) },
        "
        ___ ___ ___: +cat
        ___ cat ___: +sat
        ___ cat sat: +the |
        the cat sat",
    );
}

#[test]
fn an_erasure_that_cannot_be_used_is_not_made_up_for_later() {
    // the plan is one erasure in each of the three steps but the last: in the first nothing stands yet
    check(
        &script("a b c d", "9 8 7 6", [slip(0, 0, "x", 1), slip(0, 1, "y", 2)]),
        Policy { remask: worst(3), ..steps(3) },
        "
        ___ ___ ___ ___: +x +y
        x y ___ ___: -x +c +d
        ___ y c d: +a |
        a y c d",
    );
}

#[test]
fn the_last_step_erases_nothing() {
    check(
        &script("a b", "9 8", [slip(0, 0, "x", 1), slip(0, 1, "y", 1)]),
        Policy { remask: worst(9), ..steps(1) },
        "
        ___ ___: +x +y |
        x y",
    );
}

#[test]
fn a_cell_erased_may_err_again() {
    check(
        &script("a b c d", "9 8 7 6", [slip(0, 0, "x", 1), slip(2, 0, "x", 1)]),
        Policy { remask: doubtful(4, 5), ..steps(5) },
        "
        ___ ___ ___ ___: +x
        x ___ ___ ___: -x +b +c
        ___ b c ___: +x
        x b c ___: -x +d
        ___ b c d: +a |
        a b c d",
    );
}

#[test]
fn nothing_is_erased_outside_the_window() {
    let window = Stretch::new(tenths(5), Probability::ONE).unwrap();
    check(
        &script("a b c d", "9 8 7 6", [slip(0, 0, "x", 1)]),
        Policy { remask: Remask::Quality { budget: 4, below: Some(tenths(5)), window }, ..steps(4) },
        "
        ___ ___ ___ ___: +x
        x ___ ___ ___: +b
        x b ___ ___: -x +c +d
        ___ b c d: +a |
        a b c d",
    );
}

#[test]
fn a_full_canvas_is_read_through_and_what_is_doubted_written_again() {
    check(
        &script("a b c d", "9 8 7 6", [slip(0, 0, "x", 1), slip(1, 2, "y", 4)]),
        proofread(6, steps(2)),
        "
        ___ ___ ___ ___: +x +b
        x b ___ ___: +y +d
        x b y d: -x -y
        ___ b ___ d: +a
        a b ___ d: +c
        a b c d: |
        a b c d",
    );
}

#[test]
fn what_is_doubted_again_takes_more_with_it() {
    // bars of 0.5, 0.75 and 0.875; what is right has a quality of 0.8
    check(
        &script("a b", "9 8", [slip(0, 0, "x", 1), slip(2, 0, "x", 1), slip(4, 0, "x", 1)]),
        proofread(12, steps(1)),
        "
        ___ ___: +x +b
        x b: -x
        ___ b: +x
        x b: -x
        ___ b: +x
        x b: -x -b
        ___ ___: +a
        a ___: +b
        a b: |
        a b",
    );
}

#[test]
fn proofreading_leaves_no_blank_however_few_its_steps() {
    let slips = || [slip(0, 0, "x", 1), slip(0, 1, "y", 2), slip(0, 2, "z", 3)];
    check(
        &script("a b c", "9 8 7", slips()),
        proofread(2, steps(1)),
        "
        ___ ___ ___: +x +y +z
        x y z: -x -y -z
        ___ ___ ___: +a +b +c |
        a b c",
    );
    check(
        &script("a b c", "9 8 7", slips()),
        proofread(1, steps(1)),
        "
        ___ ___ ___: +x +y +z |
        x y z",
    );
}

#[test]
fn every_block_is_read_through_before_the_next() {
    let policy = Policy { block_length: number(2), ..threshold(None) };
    check(
        &script("a b c d", "9 8 7 6", [slip(0, 0, "x", 1)]),
        proofread(4, policy),
        "
        ___ ___ ___ ___: +x +b
        x b ___ ___: -x
        ___ b ___ ___: +a
        a b ___ ___: |
        a b ___ ___: +c
        a b c ___: +d
        a b c d: |
        a b c d",
    );
}

#[test]
fn what_was_filled_with_little_confidence_is_erased_without_a_head() {
    check(
        &script("the cat sat", "5 9 7", [slip(0, 1, "dog", 9)]),
        Policy { remask: Remask::Confidence { budget: 1, below: None, window: Stretch::WHOLE }, ..steps(3) },
        "
        ___ ___ ___: +dog
        ___ dog ___: -dog +sat +the
        the ___ sat: +cat |
        the cat sat",
    );
}

#[test]
fn a_confident_slip_is_not_found_without_a_head() {
    let remask = Remask::Confidence { budget: 2, below: Some(tenths(8)), window: Stretch::WHOLE };
    check(
        &script("a b c d", "9 6 5 4", [slip(0, 0, "x", 1)]),
        Policy { remask, ..steps(4) },
        "
        ___ ___ ___ ___: +x
        x ___ ___ ___: +b
        x b ___ ___: -b +c +d
        x ___ c d: +b |
        x b c d",
    );
}

#[test]
fn all_that_reach_the_threshold_are_filled_and_else_the_best() {
    check(
        &script("a b c d e", "9 6 7 5 8", []),
        threshold(None),
        "
        ___ ___ ___ ___ ___: +a +e +c
        a ___ c ___ e: +b
        a b c ___ e: +d |
        a b c d e",
    );
}

#[test]
fn those_that_reach_the_threshold_go_first_whatever_the_order() {
    check(
        &script("a b c", "6 9 5", []),
        Policy { order: Order::Leftmost, ..threshold(None) },
        "
        ___ ___ ___: +b
        ___ b ___: +a
        a b ___: +c |
        a b c",
    );
}

#[test]
fn a_bound_on_the_steps_lowers_the_threshold() {
    check(
        &script("a b c d", "4 3 2 1", []),
        threshold(Some(2)),
        "
        ___ ___ ___ ___: +a +b
        a b ___ ___: +c +d |
        a b c d",
    );
}

#[test]
fn with_a_threshold_no_more_is_erased_than_filled_and_the_budget_ends_it() {
    check(
        &script("a b c d", "9 9 6 6", [slip(0, 0, "x", 1), slip(0, 1, "y", 2)]),
        Policy { remask: worst(2), ..threshold(None) },
        "
        ___ ___ ___ ___: +x +y
        x y ___ ___: -x +c
        ___ y c ___: -y +a
        a ___ c ___: +b
        a b c ___: +d |
        a b c d",
    );
}

#[test]
fn with_a_threshold_the_window_is_a_share_of_the_cells_filled() {
    let window = Stretch::new(tenths(7), Probability::ONE).unwrap();
    check(
        &script("a b c d", "6 6 6 6", [slip(0, 0, "x", 1)]),
        Policy { remask: Remask::Quality { budget: 2, below: Some(tenths(5)), window }, ..threshold(None) },
        "
        ___ ___ ___ ___: +x
        x ___ ___ ___: +b
        x b ___ ___: +c
        x b c ___: -x +d
        ___ b c d: +a |
        a b c d",
    );
}

#[test]
fn blocks_are_finished_left_to_right_and_never_judged_again() {
    check(
        &script("a b c d e", "1 2 9 8 7", [slip(1, 0, "x", 1), slip(2, 2, "y", 1)]),
        Policy { block_length: number(2), remask: worst(2), ..steps(7) },
        "
        ___ ___ ___ ___ ___: +b
        ___ b ___ ___ ___: -b +x
        x ___ ___ ___ ___: +b |
        x b ___ ___ ___: +c
        x b c ___ ___: +d |
        x b c d ___: +e |
        x b c d e",
    );
}

#[test]
fn steps_are_shared_by_the_blocks_that_have_blanks() {
    check(
        &script("a [b] [c] [d] e f", "9 9 9 9 1 2", []),
        Policy { block_length: number(2), ..steps(4) },
        "
        ___ b c d ___ ___: +a |
        a b c d ___ ___: +f
        a b c d ___ f: +e |
        a b c d e f",
    );
}

#[test]
fn the_first_block_starts_at_the_first_blank() {
    check(
        &script("[a] b c [d] e", "9 1 2 9 3", []),
        Policy { block_length: number(3), ..steps(3) },
        "
        a ___ ___ d ___: +c
        a ___ c d ___: +b |
        a b c d ___: +e |
        a b c d e",
    );
}

#[test]
fn a_pinned_cell_is_neither_filled_nor_erased() {
    check(
        &script("[the] cat [sat] down", "1 9 1 8", [slip(0, 1, "dog", 5)]),
        Policy { remask: worst(3), ..steps(3) },
        "
        the ___ sat ___: +dog
        the dog sat ___: -dog +down
        the ___ sat down: +cat |
        the cat sat down",
    );
}

#[test]
fn a_canvas_without_blanks_is_finished_at_once() {
    check(&script("[the] [cat]", "1 1", []), steps(1), "the cat");
}

#[test]
fn a_stopped_sequence_leaves_the_rest_blank() {
    check(
        &script("a b c d", "9 8 7 6", []).stopped_after(2),
        Policy { block_length: number(2), ..steps(4) },
        "
        ___ ___ ___ ___: +a
        a ___ ___ ___: +b |
        a b ___ ___",
    );
}
