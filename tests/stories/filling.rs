//! Which blanks are filled in each step, and in which order.

use super::script::{check, script};
use super::{steps, threshold};
use remask::diffusion::{Order, Policy};

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
fn a_canvas_without_blanks_is_finished_at_once() {
    check(&script("[the] [cat]", "1 1", []), steps(1), "the cat");
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
