//! On the CPU in f32 the readings of a row are bit-identical whatever other rows share the pass.
//! Tested for every small number of cells, where a matrix library is most likely to sum in another
//! order.

mod common;

use common::{llada_tiny_model, sudoku_model};
use remask::diffusion::{Canvas, Cell, Reading, Seed, TokenId};
use remask::model::{Denoiser, Filter, Row, Sampling};

/// How many of each kind of cell a canvas has.
#[derive(Clone, Copy, Debug)]
struct Shape {
    fixed: usize,
    filled: usize,
    blanks: usize,
}

impl Shape {
    fn canvas(self, vocabulary: u32) -> Canvas {
        let id = |index: usize| TokenId(1 + u32::try_from(index * 7).unwrap() % (vocabulary - 2));
        let cell = |index: usize| match index {
            index if index < self.fixed => Cell::Fixed(id(index)),
            index if index < self.fixed + self.filled => Cell::Filled(id(index)),
            _ => Cell::Blank,
        };
        Canvas::new((0..self.fixed + self.filled + self.blanks).map(cell).collect())
    }
}

fn shapes() -> impl Iterator<Item = Shape> {
    let counts = [0, 1, 2, 4, 5, 23, 24];
    let pairs = counts.into_iter().flat_map(move |filled| counts.map(|blanks| (filled, blanks)));
    let some = pairs.filter(|(filled, blanks)| filled + blanks > 0);
    some.flat_map(|(filled, blanks)| [0, 6].map(|fixed| Shape { fixed, filled, blanks }))
}

/// The row alone, and between two larger ones.
fn read_both_ways(
    model: &mut dyn Denoiser,
    shape: Shape,
    temperature: f32,
    guidance: Option<f32>,
    is_shown: bool,
) -> [Reading; 2] {
    let vocabulary = model.spec().vocabulary;
    let large = Shape { fixed: 3, filled: 6, blanks: 25 }.canvas(vocabulary);
    let canvas = shape.canvas(vocabulary);
    // the same cells without blanks
    let shown = Shape { fixed: shape.fixed, filled: shape.filled + shape.blanks, blanks: 0 }.canvas(vocabulary);
    let sampling = Sampling { temperature, seed: Seed(1), step: 0, filter: Filter::ALL };
    let row = |canvas| Row {
        canvas,
        shown: None,
        reuse: None,
        window: 0..Canvas::len(canvas),
        sampling,
        guidance,
        biases: &[],
        blank_biases: None,
        credit: None,
        distributions: false,
        scores: None,
        block_length: None,
        only: &[],
        review: true,
        exact: false,
        present: true,
        best: true,
    };
    let own = Row { shown: is_shown.then_some(&shown), ..row(&canvas) };
    let alone = model.read(std::slice::from_ref(&own)).unwrap().remove(0).unwrap();
    let packed = model.read(&[row(&large), own, row(&large)]).unwrap().remove(1).unwrap();
    [alone, packed]
}

#[test]
fn a_row_of_any_shape_is_read_to_the_same_bits_in_company() {
    for mut model in [llada_tiny_model(), sudoku_model()] {
        for (index, shape) in shapes().enumerate() {
            let temperature = if index % 2 == 0 { 0.0 } else { 0.7 };
            let guidance = (index % 3 == 0).then_some(0.5);
            let is_shown = index % 5 == 1;
            let [alone, packed] = read_both_ways(model.as_mut(), shape, temperature, guidance, is_shown);
            let filled = if is_shown { shape.filled + shape.blanks } else { shape.filled };
            assert_eq!((alone.proposals.len(), alone.reviews.len()), (shape.blanks, filled), "{shape:?}");
            assert_eq!((alone.present.len(), alone.best.len()), (filled, filled), "{shape:?}");
            assert_eq!(alone, packed, "{shape:?}");
        }
    }
}
