//! Normally distributed numbers that do not depend on the number of threads.

use crate::model::backend::Normal;
use rand_philox::Philox;
use rayon::prelude::*;

/// Numbers drawn by one task; a fixed number, so that the result does not depend on the threads.
const CHUNK: usize = 1 << 14;

/// `count` numbers with mean 0, by the Box-Muller transform.
pub(super) fn normals(Normal { seed, stream, deviation, .. }: Normal, count: usize) -> Vec<f32> {
    let key = [seed as u32, (seed >> 32) as u32];
    let mut numbers = vec![0.0; count];
    numbers.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, numbers)| {
        let mut philox = Philox::new(key, ((stream as u128) << 96) | ((chunk as u128) << 32));
        for pair in numbers.chunks_mut(2) {
            // in (0, 1): half a step above zero
            let [u, v] = [philox.next_u32(), philox.next_u32()].map(|word| (f64::from(word) + 0.5) / 4_294_967_296.0);
            let radius = deviation * (-2.0 * u.ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * v).sin_cos();
            pair.iter_mut().zip([cos, sin]).for_each(|(number, direction)| *number = (radius * direction) as f32);
        }
    });
    numbers
}
