//! Full canvases that are read again.

use super::script::{check, script, slip};
use super::{number, proofread, steps, threshold};
use remask::diffusion::Policy;

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
    // the limits are 0.5, 0.75 and 0.875; right words have a quality of 0.8
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
