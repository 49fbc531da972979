//! Which filled cells get another token at once: `dog>cat`.

use super::script::{check, script, slip, tenths};
use super::{proofread, steps, threshold};
use remask::diffusion::policy::{BUDGET, TOKEN_EDITING, WINDOW};
use remask::diffusion::{Choice, Policy};

fn editing(budget: u32, above: u8) -> Choice {
    Choice::of(&TOKEN_EDITING)
        .with(BUDGET.name, budget)
        .with("above", tenths(above).get())
        .with(WINDOW.name, [0.0, 1.0])
}

#[test]
fn a_wrong_word_is_replaced_in_the_step_that_sees_it_and_costs_none() {
    check(
        &script("the cat sat", "5 9 7", [slip(0, 1, "dog", 1)]),
        Policy { remasking: editing(3, 8), ..steps(3) },
        "
        ___ ___ ___: +dog
        ___ dog ___: dog>cat +sat
        ___ cat sat: +the |
        the cat sat",
    );
}

#[test]
fn the_last_step_replaces_too() {
    check(
        &script("the cat sat", "8 6 7", [slip(1, 2, "sit", 1)]),
        Policy { remasking: editing(3, 5), ..steps(3) },
        "
        ___ ___ ___: +the
        the ___ ___: +sit
        the ___ sit: sit>sat +cat |
        the cat sat",
    );
}

#[test]
fn a_word_as_probable_as_the_bar_replaces_nothing() {
    check(
        &script("the cat sat", "5 9 7", [slip(0, 1, "dog", 1)]),
        Policy { remasking: editing(3, 9), ..steps(3) },
        "
        ___ ___ ___: +dog
        ___ dog ___: +sat
        ___ dog sat: +the |
        the dog sat",
    );
}

#[test]
fn of_more_than_the_budget_the_most_probable_words_come_first() {
    check(
        &script("the cat sat on", "7 9 6 5", [slip(0, 0, "ten", 1), slip(0, 1, "dog", 1), slip(1, 2, "sit", 1)]),
        Policy { remasking: editing(2, 5), ..steps(2) },
        "
        ___ ___ ___ ___: +dog +ten
        ten dog ___ ___: dog>cat ten>the +sit +on |
        the cat sit on",
    );
    check(
        &script("the cat sat on", "7 9 6 5", [slip(0, 0, "ten", 1), slip(0, 1, "dog", 1)]),
        Policy { remasking: editing(1, 5), ..steps(4) },
        "
        ___ ___ ___ ___: +dog
        ___ dog ___ ___: dog>cat +the
        the cat ___ ___: +sat
        the cat sat ___: +on |
        the cat sat on",
    );
}

#[test]
fn nothing_is_replaced_outside_the_window_or_in_a_finished_block() {
    check(
        &script("the cat sat on", "7 9 6 5", [slip(0, 1, "dog", 1)]),
        Policy { remasking: editing(2, 5).with(WINDOW.name, [0.5, 1.0]), ..steps(4) },
        "
        ___ ___ ___ ___: +dog
        ___ dog ___ ___: +the
        the dog ___ ___: dog>cat +sat
        the cat sat ___: +on |
        the cat sat on",
    );
    check(
        &script("the cat sat on", "7 9 6 5", [slip(1, 0, "ten", 1)]),
        Policy { remasking: editing(2, 5), block_length: super::number(2), ..steps(4) },
        "
        ___ ___ ___ ___: +cat
        ___ cat ___ ___: +ten |
        ten cat ___ ___: +sat
        ten cat sat ___: +on |
        ten cat sat on",
    );
}

#[test]
fn a_run_with_a_threshold_takes_no_step_more() {
    check(
        &script("the cat sat on", "8 9 6 5", [slip(0, 1, "dog", 1)]),
        Policy { remasking: editing(4, 5), ..threshold(None) },
        "
        ___ ___ ___ ___: +dog +the
        the dog ___ ___: dog>cat +sat
        the cat sat ___: +on |
        the cat sat on",
    );
}

#[test]
fn a_full_block_is_proofread_by_quality() {
    check(
        &script("the cat sat", "5 9 7", [slip(2, 0, "ten", 1)]),
        proofread(3, Policy { remasking: editing(3, 1), ..steps(3) }),
        "
        ___ ___ ___: +cat
        ___ cat ___: +sat
        ___ cat sat: +ten
        ten cat sat: -ten
        ___ cat sat: +the |
        the cat sat",
    );
}
