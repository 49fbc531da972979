//! Which filled cells are erased in each step.

use super::script::{check, script, slip, tenths};
use super::{doubtful, steps, threshold, worst};
use remask::diffusion::policy::{BELOW, BUDGET, WINDOW, confidence::CONFIDENCE};
use remask::diffusion::{Choice, Policy};

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
        Policy { remasking: worst(1), ..steps(3) },
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
        Policy { remasking: worst(1), ..steps(3) },
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
        Policy { remasking: doubtful(6, 4), ..steps(3) },
        "
        ___ ___ ___ ___: +ten +dog
        ten dog ___ ___: -dog +sat +on
        ten ___ sat on: +cat |
        ten cat sat on",
    );
    check(
        &script("the cat sat on", "9 8 7 6", slips()),
        Policy { remasking: doubtful(6, 5), ..steps(3) },
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
        Policy { remasking: doubtful(3, 5), ..steps(3) },
        "
        ___ ___ ___: +cat
        ___ cat ___: +sat
        ___ cat sat: +the |
        the cat sat",
    );
}

#[test]
fn an_erasure_that_cannot_be_used_is_not_made_up_for_later() {
    // the plan is one erasure in every step but the last; in the first step there is nothing to
    // erase
    check(
        &script("a b c d", "9 8 7 6", [slip(0, 0, "x", 1), slip(0, 1, "y", 2)]),
        Policy { remasking: worst(3), ..steps(3) },
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
        Policy { remasking: worst(9), ..steps(1) },
        "
        ___ ___: +x +y |
        x y",
    );
}

#[test]
fn a_cell_erased_may_err_again() {
    check(
        &script("a b c d", "9 8 7 6", [slip(0, 0, "x", 1), slip(2, 0, "x", 1)]),
        Policy { remasking: doubtful(4, 5), ..steps(5) },
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
    check(
        &script("a b c d", "9 8 7 6", [slip(0, 0, "x", 1)]),
        Policy { remasking: doubtful(4, 5).with(WINDOW.name, [0.5, 1.0]), ..steps(4) },
        "
        ___ ___ ___ ___: +x
        x ___ ___ ___: +b
        x b ___ ___: -x +c +d
        ___ b c d: +a |
        a b c d",
    );
}

#[test]
fn what_was_filled_with_little_confidence_is_erased_without_a_head() {
    check(
        &script("the cat sat", "5 9 7", [slip(0, 1, "dog", 9)]),
        Policy { remasking: Choice::of(&CONFIDENCE).with(BUDGET.name, 1), ..steps(3) },
        "
        ___ ___ ___: +dog
        ___ dog ___: -dog +sat +the
        the ___ sat: +cat |
        the cat sat",
    );
}

#[test]
fn a_confident_slip_is_not_found_without_a_head() {
    let remasking = Choice::of(&CONFIDENCE).with(BUDGET.name, 2).with(BELOW.name, tenths(8).get());
    check(
        &script("a b c d", "9 6 5 4", [slip(0, 0, "x", 1)]),
        Policy { remasking, ..steps(4) },
        "
        ___ ___ ___ ___: +x
        x ___ ___ ___: +b
        x b ___ ___: -b +c +d
        x ___ c d: +b |
        x b c d",
    );
}

#[test]
fn with_a_threshold_no_more_is_erased_than_filled_and_the_budget_ends_it() {
    check(
        &script("a b c d", "9 9 6 6", [slip(0, 0, "x", 1), slip(0, 1, "y", 2)]),
        Policy { remasking: worst(2), ..threshold(None) },
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
    check(
        &script("a b c d", "6 6 6 6", [slip(0, 0, "x", 1)]),
        Policy { remasking: doubtful(2, 5).with(WINDOW.name, [0.7, 1.0]), ..threshold(None) },
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
fn a_pinned_cell_is_neither_filled_nor_erased() {
    check(
        &script("[the] cat [sat] down", "1 9 1 8", [slip(0, 1, "dog", 5)]),
        Policy { remasking: worst(3), ..steps(3) },
        "
        the ___ sat ___: +dog
        the dog sat ___: -dog +down
        the ___ sat down: +cat |
        the cat sat down",
    );
}
