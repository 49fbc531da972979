//! Counter-based randomness: a draw is a function of (seed, purpose, step, position, index). There
//! is no state, so neither the rest of the batch nor the order of arrival can change a draw.

use super::units::Position;
use rand_philox::Philox;

const LARGEST_BELOW_ONE: f64 = 1.0 - f64::EPSILON / 2.0;

/// The seed of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub u64);

/// What the random draws of one step of one sequence are keyed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrawKey {
    /// The sequence's seed.
    pub seed: Seed,
    /// The step, counted from 0.
    pub step: u32,
}

impl DrawKey {
    /// A uniform draw in `(0, 1)` for a cell.
    pub fn uniform(self, purpose: Purpose, at: Position) -> f64 {
        Draws::new(self.seed, purpose, self.step, at).first()
    }

    /// The same as a number that sorts in its order, as the bits of a positive float do.
    pub fn rank(self, purpose: Purpose, at: Position) -> u64 {
        self.uniform(purpose, at).to_bits()
    }
}

/// What a draw is for. Draws for different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Which token is proposed for a blank: one draw per vocabulary entry.
    Token,
    /// Which blank is filled first in random order.
    Fill,
    /// Which cell is erased, by the policies that draw.
    Erase,
    /// What the demo model writes.
    Toy,
}

/// The draws of one cell in one step: an endless row of uniforms, each reachable by its index.
///
/// Philox4x32-10 (Salmon et al., SC 2011) with the seed as key and the counter `(block, position,
/// step, purpose)`; uniform `i` is made of words `2 (i mod 2)` and the next one of block `i / 2`.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    key: [u32; 2],
    counter: u128,
}

impl Draws {
    /// The draws for `purpose` at `position` in `step`.
    pub const fn new(seed: Seed, purpose: Purpose, step: u32, position: Position) -> Self {
        let key = [seed.0 as u32, (seed.0 >> 32) as u32];
        let counter = ((purpose as u128) << 96) | ((step as u128) << 64) | ((position.0 as u128) << 32);
        Self { key, counter }
    }

    /// The generator's key, for draws on another device.
    pub const fn key(&self) -> [u32; 2] {
        self.key
    }

    /// The upper three words of the counter: purpose, step, position. The lowest is the block's
    /// number.
    pub const fn place(&self) -> [u32; 3] {
        [(self.counter >> 96) as u32, (self.counter >> 64) as u32, (self.counter >> 32) as u32]
    }

    /// The first uniform in `(0, 1)`.
    pub fn first(&self) -> f64 {
        let [uniform] = self.uniforms();
        uniform
    }

    /// The first `N` uniforms.
    pub fn uniforms<const N: usize>(&self) -> [f64; N] {
        let mut out = [0.0; N];
        self.fill(0, &mut out);
        out
    }

    /// Uniforms `from`, `from + 1`, ..; `from` must be even (a Philox block holds two). Each is
    /// `(k + 0.5) / 2^53` for a 53-bit `k`: with fewer bits the Gumbel tail is cut off and sampled
    /// text loses diversity (arXiv 2409.02908).
    pub fn fill(&self, from: usize, out: &mut [f64]) {
        assert!(from.is_multiple_of(2), "a block holds two uniforms, so {from} is inside one");
        let mut philox = Philox::new(self.key, self.counter + (from / 2) as u128);
        for uniform in out {
            let k = (philox.next_u64() >> 11) as f64; // 53 bits are exact
            // k + 0.5 of the largest k rounds up to 2^53, and one is outside the interval
            *uniform = ((k + 0.5) / 9_007_199_254_740_992.0).min(LARGEST_BELOW_ONE);
        }
    }
}

/// Standard Gumbel noise from a uniform in `(0, 1)`.
pub fn gumbel(uniform: f64) -> f64 {
    -(-uniform.ln()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_everything_it_is_keyed_by() {
        let base = Draws::new(Seed(7), Purpose::Token, 3, Position(5)).first();
        let others = [
            Draws::new(Seed(8), Purpose::Token, 3, Position(5)),
            Draws::new(Seed(7 + (1 << 32)), Purpose::Token, 3, Position(5)),
            Draws::new(Seed(7), Purpose::Fill, 3, Position(5)),
            Draws::new(Seed(7), Purpose::Token, 4, Position(5)),
            Draws::new(Seed(7), Purpose::Token, 3, Position(6)),
        ];
        for (index, other) in others.iter().enumerate() {
            assert!((other.first() - base).abs() > 1e-9, "{index}");
        }
    }

    #[test]
    fn a_row_of_draws_can_be_entered_anywhere() {
        let draws = Draws::new(Seed(1), Purpose::Token, 0, Position(0));
        let whole: [f64; 10] = draws.uniforms();
        let mut tail = [0.0; 4];
        draws.fill(6, &mut tail);
        assert_eq!(tail, whole[6..]);
    }

    #[test]
    fn uniforms_are_uniform_and_inside_the_open_interval() {
        let mut sum = 0.0;
        for position in 0..20_000 {
            let u = Draws::new(Seed(42), Purpose::Fill, 0, Position(position)).first();
            assert!(u > 0.0 && u < 1.0);
            sum += u;
        }
        // the mean of 20,000 uniforms has standard deviation 0.002
        assert!((sum / 20_000.0 - 0.5).abs() < 0.01);
    }

    #[test]
    fn gumbel_noise_keeps_its_tail() {
        assert!(gumbel(LARGEST_BELOW_ONE) > 36.0);
        assert!(gumbel(0.5).is_finite() && gumbel(1e-17).is_finite());
    }
}
