//! Which cells a pass computes anew, and which keep the keys and values of an earlier pass. Out of
//! scope: keys and values.

use super::canvas::Canvas;
use super::policy::{Choice, FilledCell, NO_CACHE, Needs, REFRESH, SUFFIX_WINDOW, Stage};
use std::num::NonZeroUsize;
use std::ops::Range;

/// What a pass may take from an earlier one. It says what the result is, not how it is computed: a
/// pass whose keys and values are gone computes those of `base` again.
#[derive(Clone, Debug, PartialEq)]
pub struct Reuse<'a> {
    /// The canvas of the last full pass. The present one makes this pass a full one.
    pub base: &'a Canvas,
    /// Cells that are computed anew, ascending ranges within `seen`; the others have the keys and
    /// values that they have in a pass over `base`.
    pub run: Vec<Range<usize>>,
    /// Cells that are seen at all, ascending ranges.
    pub seen: Vec<Range<usize>>,
}

impl Reuse<'_> {
    /// Cells that are computed, if what is kept is there.
    pub fn tokens(&self) -> usize {
        self.run.iter().map(Range::len).sum()
    }
}

/// The cache of a sequence: its rule, and the last full pass.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    rule: Choice,
    base: Option<Base>,
    /// Of a block-causal model; `None` for others.
    blocks: Option<Blocks>,
}

/// What is kept in a block-causal model: all blocks that have not changed since the last pass,
/// whatever the rule, since it is exact.
#[derive(Clone, Debug)]
struct Blocks {
    length: NonZeroUsize,
    /// The last pass, and the end of the cells that it knows.
    last: Option<(Canvas, usize)>,
}

/// A full pass.
#[derive(Clone, Debug)]
struct Base {
    canvas: Canvas,
    /// The block it served.
    block: Range<usize>,
    /// What the passes after it compute anew.
    run: Vec<Range<usize>>,
    /// Passes that it served so far, itself included.
    passes: u32,
}

impl Kept {
    /// Nothing yet; the knobs of `rule` are complete.
    pub(super) fn new(rule: Choice, blocks: Option<NonZeroUsize>) -> Self {
        Self { rule, base: None, blocks: blocks.map(|length| Blocks { length, last: None }) }
    }

    pub(super) fn is_off(&self) -> bool {
        self.rule.rule == &NO_CACHE
    }

    /// What the rule needs of a reading.
    pub(super) const fn needs(&self) -> Needs {
        self.rule.rule.needs
    }

    /// What the next pass over `canvas`, whose block this is, may reuse; `None` without a cache.
    pub(super) fn reuse<'a>(&'a self, canvas: &'a Canvas, block: &Range<usize>) -> Option<Reuse<'a>> {
        if self.is_off() {
            return None;
        }
        if let Some(blocks) = &self.blocks {
            return Some(blocks.reuse(canvas, block));
        }
        let seen = self.seen(canvas.len(), block);
        match self.base.as_ref().filter(|base| base.block == *block) {
            None => Some(Reuse { base: canvas, run: seen.clone(), seen }),
            Some(base) => {
                // a cell of the block that has changed since is computed anew, whatever the rule
                let is_new = |at: &usize| base.canvas.cells().get(*at) != canvas.cells().get(*at);
                let run = base.run.iter().cloned().flatten().chain(block.clone().filter(is_new));
                let is_seen = |at: &usize| seen.iter().any(|range| range.contains(at));
                Some(Reuse { base: &base.canvas, run: ranges(run.filter(is_seen).collect()), seen })
            }
        }
    }

    /// Notes a pass over `canvas`, whose block this is, with the filled cells as it saw them.
    pub(super) fn passed(&mut self, canvas: &Canvas, block: &Range<usize>, filled: &[FilledCell]) {
        if self.is_off() {
            return;
        }
        if let Some(blocks) = &mut self.blocks {
            blocks.last = Some((canvas.clone(), blocks.around(canvas, block).end));
            return;
        }
        let settings = &self.rule.settings;
        match &mut self.base {
            Some(base) if base.block == *block => base.passes += 1,
            base => {
                let stage = Stage { block: block.clone(), cells: canvas.len(), filled, settings };
                let run = (self.rule.rule.runs)(&stage);
                *base = Some(Base { canvas: canvas.clone(), block: block.clone(), run, passes: 1 });
            }
        }
        let refresh = settings.count(REFRESH.name).unwrap_or(u32::MAX);
        self.base.take_if(|base| base.passes >= refresh);
    }

    /// The cells up to the end of the block, the window behind it, and the last one.
    fn seen(&self, cells: usize, block: &Range<usize>) -> Vec<Range<usize>> {
        let Some(window) = self.rule.settings.count(SUFFIX_WINDOW.name) else { return vec![0..cells] };
        let end = block.end.saturating_add(window as usize).min(cells);
        if end + 1 >= cells { vec![0..cells] } else { vec![0..end, cells - 1..cells] }
    }
}

impl Blocks {
    /// The model's blocks that have a cell in this range.
    fn around(&self, canvas: &Canvas, range: &Range<usize>) -> Range<usize> {
        let (prompt, length) = (canvas.prompt_length(), self.length.get());
        let start = |at: usize| if at < prompt { 0 } else { prompt + (at - prompt) / length * length };
        let end = |at: usize| if at < prompt { prompt } else { start(at) + length };
        start(range.start)..end(range.end.saturating_sub(1)).min(canvas.len())
    }

    /// Each pass is a full one as far as the block: it computes all from the first cell on that has
    /// changed.
    fn reuse<'a>(&self, canvas: &'a Canvas, block: &Range<usize>) -> Reuse<'a> {
        let changed = self.last.as_ref().map_or(0, |(last, end)| {
            let same = last.cells().iter().zip(canvas.cells()).take_while(|(before, now)| before == now);
            same.count().min(*end)
        });
        let run = self.around(canvas, &(changed.min(block.start)..block.end));
        Reuse { base: canvas, seen: vec![0..run.end], run: vec![run] }
    }
}

/// These cells as ascending ranges.
fn ranges(mut cells: Vec<usize>) -> Vec<Range<usize>> {
    cells.sort_unstable();
    cells.dedup();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for cell in cells {
        match ranges.last_mut() {
            Some(last) if last.end == cell => last.end += 1,
            _ => ranges.push(cell..cell + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::super::canvas::Edit;
    use super::super::policy::{DUAL, PREFIX};
    use super::super::units::{Position, Probability, TokenId};
    use super::*;

    fn canvas() -> Canvas {
        Canvas::continuing(&[TokenId(1), TokenId(2)], 10)
    }

    fn fill(canvas: &mut Canvas, at: u32) {
        canvas.apply(&Edit::Fill { at: Position(at), token: TokenId(3), confidence: Probability::ONE }).unwrap();
    }

    #[test]
    fn a_block_begins_with_a_full_pass_and_the_next_ones_run_what_the_rule_says() {
        for (rule, run) in [(&PREFIX, 2..12), (&DUAL, 2..6)] {
            let mut kept = Kept::new(Choice::of(rule), None);
            let (first, block) = (canvas(), 2..6);
            let whole = Reuse { base: &first, run: vec![0..12], seen: vec![0..12] };
            assert_eq!(kept.reuse(&first, &block), Some(whole));
            kept.passed(&first, &block, &[]);
            let mut second = first.clone();
            fill(&mut second, 3);
            let part = Reuse { base: &first, run: vec![run], seen: vec![0..12] };
            assert_eq!(kept.reuse(&second, &block), Some(part));
            kept.passed(&second, &block, &[]);
            let next = kept.reuse(&second, &(6..10)).unwrap();
            assert_eq!((next.base, next.run), (&second, vec![0..12]), "the next block");
        }
        assert_eq!(Kept::new(Choice::of(&NO_CACHE), None).reuse(&canvas(), &(2..6)), None);
    }

    #[test]
    fn a_refresh_is_a_full_pass_over_what_stands_then() {
        let mut kept = Kept::new(Choice::of(&DUAL).with(REFRESH.name, 3), None);
        let (mut canvas, block) = (canvas(), 2..6);
        let mut is_full = Vec::new();
        for at in [2, 3, 4, 5, 2, 3, 4] {
            is_full.push(kept.reuse(&canvas, &block).unwrap().base == &canvas);
            kept.passed(&canvas, &block, &[]);
            if at < 6 && canvas.blanks(0..12).any(|blank| blank.index() == at as usize) {
                fill(&mut canvas, at);
            }
        }
        assert_eq!(is_full, [true, false, false, true, false, false, true]);
    }

    #[test]
    fn a_window_hides_what_lies_far_behind_the_block() {
        let seen = |window: u32, block: Range<usize>| {
            let kept = Kept::new(Choice::of(&PREFIX).with(SUFFIX_WINDOW.name, window), None);
            kept.reuse(&canvas(), &block).unwrap().seen.clone()
        };
        assert_eq!(seen(0, 2..4), [0..4, 11..12]);
        assert_eq!(seen(3, 2..4), [0..7, 11..12]);
        assert_eq!(seen(7, 2..4), [0..12]);
        assert_eq!(seen(8, 2..4), [0..12]);
        assert_eq!(seen(0, 8..12), [0..12]);
        let mut kept = Kept::new(Choice::of(&PREFIX).with(SUFFIX_WINDOW.name, 2), None);
        kept.passed(&canvas(), &(2..4), &[]);
        let mut later = canvas();
        fill(&mut later, 2);
        assert_eq!(kept.reuse(&later, &(2..4)).unwrap().run, [2..6, 11..12]);
    }

    #[test]
    fn a_cell_that_changed_is_run_whatever_the_rule_says() {
        let mut kept = Kept::new(Choice::of(&DUAL), None);
        let mut later = canvas();
        kept.passed(&later, &(2..6), &[]);
        kept.base.as_mut().unwrap().run = vec![2..3];
        fill(&mut later, 4);
        assert_eq!(kept.reuse(&later, &(2..6)).unwrap().run, [2..3, 4..5]);
    }

    #[test]
    fn in_a_block_causal_model_a_pass_runs_from_the_first_block_that_changed() {
        let mut kept = Kept::new(Choice::of(&PREFIX), NonZeroUsize::new(4)); // blocks 2..6, 6..10, 10..12
        let mut canvas = canvas();
        let run = |kept: &Kept, canvas: &Canvas, block: Range<usize>| {
            let Reuse { base, mut run, seen } = kept.reuse(canvas, &block).unwrap();
            assert_eq!((base, run.len(), seen.len()), (canvas, 1, 1));
            assert_eq!((seen[0].start, seen[0].end), (0, run[0].end));
            run.remove(0)
        };
        assert_eq!(run(&kept, &canvas, 2..6), 0..6);
        kept.passed(&canvas, &(2..6), &[]);
        fill(&mut canvas, 3);
        assert_eq!(run(&kept, &canvas, 2..6), 2..6);
        kept.passed(&canvas, &(2..6), &[]);
        assert_eq!(run(&kept, &canvas, 6..10), 6..10, "nothing changed in the last step");
        fill(&mut canvas, 5);
        assert_eq!(run(&kept, &canvas, 6..10), 2..10);
        assert_eq!(run(&kept, &canvas, 4..7), 2..10, "a request's block that lies in two");
        kept.passed(&canvas, &(6..10), &[]);
        assert_eq!(run(&kept, &canvas, 10..12), 10..12);
    }
}
