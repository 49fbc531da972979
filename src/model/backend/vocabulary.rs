//! The ids that may be proposed, and their logits in a row.

use crate::diffusion::u32_of;

/// Logits looked at together; a sum over so few in f32 loses nothing that f32 could show.
const CHUNK: usize = 64;

/// The ids that may be proposed: those below `size`, the mask excepted. At least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vocabulary {
    pub(crate) size: usize,
    pub(crate) mask: usize,
}

impl Vocabulary {
    /// The logits of these ids, a few at a time, each chunk with the id of its first.
    pub(crate) fn chunks(self, logits: &[f32]) -> impl Iterator<Item = (u32, &[f32])> {
        let Self { size, mask } = self;
        let before = 0..mask.min(size);
        let after = (mask + 1).min(size)..size;
        [before, after].into_iter().flat_map(move |range| {
            let starts = range.clone().step_by(CHUNK).map(u32_of);
            starts.zip(logits[range].chunks(CHUNK))
        })
    }
}

/// The larger of two finite numbers; unlike `f32::max` a single instruction.
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}
