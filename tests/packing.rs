//! How far the numbers of a reading depend on who shares the pass, on the CPU in f32.
//!
//! The matrix library sums in another order where a product is a single row, or has at most 256 numbers (rows times
//! outputs). So a row is read to the same bits alone and in company if alone it already exceeds that in every
//! product, which is a matter of how many cells it asks about; a row that does not differs in the last bits.

mod common;

use common::{data, llada_tiny_model};
use remask::diffusion::{Canvas, Cell, Reading, Seed, TokenId};
use remask::model::{Denoiser, Device, Row, Sampling, Source, load};

/// Rows times outputs up to which a product is summed in another order.
const SMALL: usize = 256;

/// A model and the widths of its products.
struct Subject {
    model: Box<dyn Denoiser>,
    /// Outputs of the narrowest layer that sees every cell, and of the quality head's first.
    width: usize,
    /// Outputs of the last layer.
    embedding_size: usize,
}

fn llada_tiny() -> Subject {
    Subject { model: llada_tiny_model(), width: 64, embedding_size: 264 }
}

fn sudoku() -> Subject {
    let source = Source::Directory { dir: data("../../models/sudoku"), prism_head: None, adapter: None };
    Subject { model: load(&source, Device::Cpu).unwrap(), width: 128, embedding_size: 11 }
}

/// How many of each kind of cell a canvas has.
#[derive(Clone, Copy, Debug)]
struct Shape {
    fixed: usize,
    filled: usize,
    blanks: usize,
}

impl Subject {
    fn canvas(&self, Shape { fixed, filled, blanks }: Shape) -> Canvas {
        let id = |index: usize| TokenId(1 + u32::try_from(index * 7).unwrap() % (self.model.spec().vocabulary - 2));
        let cell = |index: usize| match index {
            index if index < fixed => Cell::Fixed(id(index)),
            index if index < fixed + filled => Cell::Filled(id(index)),
            _ => Cell::Blank,
        };
        Canvas::new((0..fixed + filled + blanks).map(cell).collect())
    }

    /// Whether a row of this shape exceeds the small products by itself.
    fn is_ample(&self, Shape { filled, blanks, .. }: Shape) -> bool {
        let exceeds = |rows: usize, outputs: usize| rows == 0 || (rows > 1 && rows * outputs > SMALL);
        exceeds(filled + blanks, self.width) && exceeds(filled, self.width) && exceeds(blanks, self.embedding_size)
    }

    /// The row alone, and between two larger ones.
    fn read_both_ways(&mut self, shape: Shape, temperature: f32, guidance: Option<f32>) -> [Reading; 2] {
        let large = self.canvas(Shape { fixed: 3, filled: 6, blanks: 25 });
        let canvas = self.canvas(shape);
        let sampling = Sampling { temperature, seed: Seed(1), step: 0 };
        let row = |canvas| Row { canvas, window: 0..Canvas::len(canvas), sampling, guidance, review: true };
        let alone = self.model.read(&[row(&canvas)]).unwrap().remove(0);
        let packed = self.model.read(&[row(&large), row(&canvas), row(&large)]).unwrap().remove(1);
        [alone, packed]
    }
}

fn shapes() -> impl Iterator<Item = Shape> {
    let counts = [0, 1, 2, 4, 5, 23, 24];
    let pairs = counts.into_iter().flat_map(move |filled| counts.map(|blanks| (filled, blanks)));
    let some = pairs.filter(|(filled, blanks)| filled + blanks > 0);
    some.flat_map(|(filled, blanks)| [0, 6].map(|fixed| Shape { fixed, filled, blanks }))
}

#[test]
fn a_row_that_asks_for_enough_is_read_to_the_same_bits_in_company() {
    for mut subject in [llada_tiny(), sudoku()] {
        let ample: Vec<Shape> = shapes().filter(|shape| subject.is_ample(*shape)).collect();
        assert!(ample.len() > 10, "{} shapes", ample.len());
        for (index, shape) in ample.into_iter().enumerate() {
            let temperature = if index % 2 == 0 { 0.0 } else { 0.7 };
            let guidance = (index % 3 == 0).then_some(0.5);
            let [alone, packed] = subject.read_both_ways(shape, temperature, guidance);
            assert_eq!(alone, packed, "{shape:?}");
        }
    }
}

#[test]
fn any_row_is_read_to_the_same_tokens_and_nearly_the_same_numbers_in_company() {
    /// Relative; the worst seen is 3e-6.
    const TOLERANCE: f32 = 1e-5;
    let near = |one: f32, other: f32| (one - other).abs() <= TOLERANCE * one.abs().max(other.abs());
    let mut differing = 0;
    for mut subject in [llada_tiny(), sudoku()] {
        for shape in shapes() {
            let [alone, packed] = subject.read_both_ways(shape, 0.0, None);
            differing += usize::from(alone != packed);
            for (one, other) in alone.proposals.iter().zip(&packed.proposals) {
                assert_eq!((one.at, one.token), (other.at, other.token), "{shape:?}");
                assert!(near(one.confidence.get(), other.confidence.get()), "{shape:?}: {one:?} {other:?}");
            }
            for (one, other) in alone.reviews.iter().zip(&packed.reviews) {
                assert!(one.at == other.at && near(one.quality.get(), other.quality.get()), "{shape:?}");
            }
        }
    }
    println!("{differing} of {} readings differ in their last bits", 2 * shapes().count());
}
