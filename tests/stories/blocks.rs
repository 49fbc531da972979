//! Blocks from left to right, and where a sequence stops.

use super::script::{check, script, slip};
use super::{number, steps, worst};
use remask::diffusion::Policy;

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
