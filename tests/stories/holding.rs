//! Steps in which the number of filled cells stands still.

use super::script::{check, script, slip};
use super::{doubtful, steps, worst};
use remask::diffusion::policy::{BUDGET, HOLD, TOKEN_EDITING};
use remask::diffusion::{Choice, Policy};

/// Holds in this part of six steps or as many as there are.
fn held(remasking: Choice, from: f32, until: f32) -> Choice {
    remasking.with(HOLD.name, [from, until]).with_defaults(6)
}

#[test]
fn while_it_is_held_as_many_are_filled_as_were_erased() {
    check(
        &script("the cat sat on my mat", "9 8 7 6 5 4", [slip(0, 1, "dog", 1)]),
        Policy { remasking: held(worst(3), 2.0 / 6.0, 5.0 / 6.0), ..steps(6) },
        "
        ___ ___ ___ ___ ___ ___: +the +dog
        the dog ___ ___ ___ ___: +sat +on
        the dog sat on ___ ___: -dog +my
        the ___ sat on my ___: -the +cat
        ___ cat sat on my ___: -cat +the
        the ___ sat on my ___: +cat +mat |
        the cat sat on my mat",
    );
}

#[test]
fn a_held_step_that_would_erase_nothing_takes_no_pass() {
    check(
        &script("the cat sat on my mat", "9 8 7 6 5 4", [slip(0, 1, "dog", 1)]),
        Policy { remasking: held(doubtful(6, 5), 2.0 / 6.0, 5.0 / 6.0), ..steps(6) },
        "
        ___ ___ ___ ___ ___ ___: +the +dog
        the dog ___ ___ ___ ___: +sat +on
        the dog sat on ___ ___: -dog +my
        the ___ sat on my ___: +cat +mat |
        the cat sat on my mat",
    );
}

#[test]
fn no_more_is_erased_than_there_are_blanks_to_fill() {
    check(
        &script("the cat sat on my mat", "9 8 7 6 5 4", []),
        Policy { remasking: held(worst(6), 0.5, 0.75), ..steps(4) },
        "
        ___ ___ ___ ___ ___ ___: +the +cat
        the cat ___ ___ ___ ___: +sat +on
        the cat sat on ___ ___: -the -cat +my +mat
        ___ ___ sat on my mat: +the +cat |
        the cat sat on my mat",
    );
}

#[test]
fn a_block_with_fewer_blanks_than_steps_is_held_too() {
    check(
        &script("the cat sat", "5 9 7", [slip(0, 1, "dog", 1)]),
        Policy { remasking: held(worst(2), 0.5, 0.75), ..steps(8) },
        "
        ___ ___ ___: +dog
        ___ dog ___: +sat
        ___ dog sat: -dog +the
        the ___ sat: -the +cat
        ___ cat sat: +the |
        the cat sat",
    );
}

#[test]
fn a_block_of_two_steps_is_not_held() {
    check(
        &script("the cat sat on", "9 8 7 6", []),
        Policy { remasking: held(worst(4), 0.0, 1.0), ..steps(2) },
        "
        ___ ___ ___ ___: +the +cat
        the cat ___ ___: +sat +on |
        the cat sat on",
    );
}

#[test]
fn cells_are_replaced_while_none_is_added() {
    let editing = Choice::of(&TOKEN_EDITING).with(BUDGET.name, 4).with("above", 0.55);
    check(
        &script("the cat sat on", "9 8 7 6", [slip(0, 0, "ten", 1), slip(0, 1, "dog", 1)]),
        Policy { remasking: held(editing, 0.5, 0.75), ..steps(4) },
        "
        ___ ___ ___ ___: +ten +dog
        ten dog ___ ___: +sat
        ten dog sat ___: ten>the dog>cat
        the cat sat ___: +on |
        the cat sat on",
    );
}
