//! Summaries of logits on the GPU they lie on: one kernel reads each row once, and a few words a
//! row come to the host.
//!
//! `just kernels` makes `kernels/summary.ptx` from `kernels/summary.cu`; the driver compiles it for
//! the GPU in use. Where there is no GPU, `.ci/kernels` runs the source as C++ on the cases below.

use crate::diffusion::u32_of;
use crate::model::backend::summary::{Summaries, Summary, SummaryOptions, Vocabulary};
use crate::model::interface::Noise;
use candle_core::{Result, Tensor};

/// The kernel's input: words as in `summary.cu`.
#[derive(Debug, Default)]
struct Words {
    asks: Vec<u32>,
    bias_ends: Vec<u32>,
    bias_tokens: Vec<u32>,
    biases: Vec<f32>,
}

/// Words of a row's result.
const ANSWER: usize = 8;

impl Words {
    fn of(options: &[SummaryOptions<'_>]) -> Self {
        let mut words = Self::default();
        for SummaryOptions { noise, biases, .. } in options {
            let (key, [purpose, step, position], temperature) = match noise {
                Some(Noise { temperature, draws, .. }) => (draws.key(), draws.place(), *temperature),
                None => ([0; 2], [0; 3], 0.0),
            };
            let temperature = [temperature.to_bits() as u32, (temperature.to_bits() >> 32) as u32];
            words.asks.extend(key.into_iter().chain([step, position, purpose]).chain(temperature).chain([0]));
            words.bias_tokens.extend(biases.iter().map(|(token, _)| token.0));
            words.biases.extend(biases.iter().map(|(_, bias)| *bias));
            words.bias_ends.push(u32_of(words.biases.len()));
        }
        words
    }
}

/// Summaries from the kernel's results; `None` where a logit was not finite.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // no kernel runs there
fn read(answers: &[u32]) -> Vec<Option<Summary>> {
    let read = |answer: &[u32]| {
        let (token, is_finite) = (answer[0], answer[1] == 1);
        let [logit, largest, second, mass, moment] = std::array::from_fn(|word| f32::from_bits(answer[word + 2]));
        if is_finite { Summary::of(token, [logit, largest, second], mass.into(), moment.into()) } else { None }
    };
    answers.chunks_exact(ANSWER).map(read).collect()
}

/// Summaries of `logits` (options, width), each row with its noise and biases; filters and allowed
/// tokens are ignored. The host waits for the device.
#[cfg(feature = "cuda")]
pub(super) fn summaries(logits: &Tensor, vocabulary: Vocabulary, options: &[SummaryOptions<'_>]) -> Result<Summaries> {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};
    use candle_core::{DType, Storage, bail};

    let logits = logits.contiguous()?;
    let (rows, width) = logits.dims2()?;
    if rows != options.len() {
        bail!("{} asks for {rows} rows of logits", options.len());
    }
    let (storage, layout) = logits.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("logits that do not lie on a GPU") };
    let device = &storage.device;
    let mut words = Words::of(options);
    if words.biases.is_empty() {
        (words.bias_tokens, words.biases) = (vec![0], vec![0.0]); // never read, but memory cannot be empty
    }
    let name = match logits.dtype() {
        DType::F32 => "summarise_f32",
        DType::BF16 => "summarise_bf16",
        other => bail!("logits in {other:?}; the kernel reads F32 and BF16"),
    };
    let kernel = device.get_or_load_custom_func(name, "remask_summary", include_str!("../kernels/summary.ptx"))?;
    let answers = device.alloc_zeros::<u32>(rows * ANSWER)?;
    let (asks, ends) = (device.clone_htod(&words.asks)?, device.clone_htod(&words.bias_ends)?);
    let (tokens, biases) = (device.clone_htod(&words.bias_tokens)?, device.clone_htod(&words.biases)?);
    let [rows, width, size, mask] = [rows, width, vocabulary.size, vocabulary.mask].map(u32_of);
    let shape = LaunchConfig { grid_dim: (rows, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 };
    let from = layout.start_offset();
    let (floats, halves);
    let mut launch = kernel.builder();
    if logits.dtype() == DType::F32 {
        floats = storage.as_cuda_slice::<f32>()?.slice(from..);
        launch.arg(&floats);
    } else {
        halves = storage.as_cuda_slice::<half::bf16>()?.slice(from..);
        launch.arg(&halves);
    }
    launch.arg(&width).arg(&size).arg(&mask).arg(&asks).arg(&ends).arg(&tokens).arg(&biases).arg(&answers);
    // SAFETY: the kernel reads rows x width logits and the words made for it, and writes rows x 8
    // words.
    #[allow(unsafe_code)]
    unsafe { launch.launch(shape) }.w()?;
    Ok(read(&device.clone_dtoh(&answers)?))
}

/// A binary without the feature opens no GPU, so no logits lie on one.
#[cfg(not(feature = "cuda"))]
pub(super) fn summaries(logits: &Tensor, _: Vocabulary, options: &[SummaryOptions<'_>]) -> Result<Summaries> {
    let (device, rows) = (logits.device(), Words::of(options).asks.len());
    candle_core::bail!("logits on {device:?}, where this binary cannot read {rows} rows")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::TokenId;
    use crate::diffusion::{Draws, Position, Purpose, Seed};
    use crate::model::backend::cpu::summary::summarise;
    use crate::model::interface::Filter;
    use std::path::Path;

    /// Rows of logits that a bf16 holds exactly, and how they are summarised.
    struct Case {
        vocabulary: Vocabulary,
        width: usize,
        logits: Vec<f32>,
        noises: Vec<Option<Noise>>,
        biases: Vec<Vec<(TokenId, f32)>>,
    }

    impl Case {
        fn new(seed: u32, (size, width, mask): (usize, usize, usize), spread: f64) -> Self {
            const ROWS: u32 = 6;
            let draws = |row: u32| Draws::new(Seed(u64::from(seed) << 33 | 5), Purpose::Token, seed, Position(row));
            let row = |row: u32| {
                let mut uniforms = vec![0.0; width];
                draws(row + 100).fill(0, &mut uniforms);
                let logit = |u: &f64| half::bf16::from_f32((spread * (u - 0.5)) as f32).to_f32();
                uniforms.iter().map(logit).collect::<Vec<_>>()
            };
            let mut logits: Vec<f32> = (0..ROWS).flat_map(row).collect();
            logits[width] = f32::NAN; // of row 1
            logits[2 * width + mask] = f32::INFINITY; // of row 2, where it is not read
            let noise = |row: u32| {
                let temperature = [0.0, 0.0, 0.7, 1.0, 0.0, 2.5][row as usize];
                (temperature > 0.0).then(|| Noise { temperature, draws: draws(row), filter: Filter::ALL })
            };
            let id = |at: usize| TokenId((at % size) as u32);
            let biases = (0..ROWS as usize).map(|row| match row {
                3 => vec![(id(1), f32::NEG_INFINITY), (id(2), 1.5)],
                4 => (0..size / 2).map(|at| (id(at), f32::NEG_INFINITY)).collect(),
                _ => Vec::new(),
            });
            let vocabulary = Vocabulary { size, mask };
            Self { vocabulary, width, logits, noises: (0..ROWS).map(noise).collect(), biases: biases.collect() }
        }

        fn options(&self) -> Vec<SummaryOptions<'_>> {
            let rows = self.noises.iter().zip(&self.biases);
            rows.map(|(noise, biases)| SummaryOptions { noise: *noise, biases, ..SummaryOptions::default() }).collect()
        }

        fn expected(&self) -> Vec<Option<Summary>> {
            let rows = self.logits.chunks(self.width).zip(self.options());
            rows.map(|(row, options)| summarise(row.into(), self.vocabulary, &options)).collect()
        }

        /// As `.ci/kernels` reads it.
        fn words(&self) -> Vec<u32> {
            let Words { asks, bias_ends, bias_tokens, biases } = Words::of(&self.options());
            let Vocabulary { size, mask } = self.vocabulary;
            let sizes = [bias_ends.len(), self.width, size, mask, biases.len()].map(|number| number as u32);
            let expected = self.expected().into_iter().flat_map(|summary| match summary {
                None => [0; 5],
                Some(Summary { token, confidence, margin, entropy }) => {
                    [token, 1, confidence.get().to_bits(), margin.get().to_bits(), entropy.to_bits()]
                }
            });
            let floats = biases.iter().chain(&self.logits).map(|number| number.to_bits());
            sizes.into_iter().chain(asks).chain(bias_ends).chain(bias_tokens).chain(floats).chain(expected).collect()
        }
    }

    fn cases() -> Vec<Case> {
        vec![
            Case::new(1, (9, 12, 4), 8.0),
            Case::new(2, (264, 264, 263), 12.0),
            Case::new(3, (1001, 1024, 0), 30.0),
            Case::new(4, (6000, 6001, 5998), 6.0),
        ]
    }

    #[test]
    fn the_cases_of_the_kernel_are_those_of_the_cpu() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/summary_cases.bin");
        let bytes: Vec<u8> = cases().iter().flat_map(Case::words).flat_map(u32::to_le_bytes).collect();
        if std::env::var_os("REMASK_WRITE_CASES").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        assert!(std::fs::read(&path).unwrap() == bytes, "write them anew with REMASK_WRITE_CASES=1");
    }

    #[test]
    fn what_the_driver_compiles_is_made_of_the_source_beside_it() {
        use sha2::{Digest, Sha256};
        let hash = Sha256::digest(include_bytes!("../kernels/summary.cu"));
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let first = include_str!("../kernels/summary.ptx").lines().next();
        assert_eq!(first, Some(format!("// of summary.cu, sha256 {hash}").as_str()), "run `just kernels`");
    }

    #[test]
    #[cfg(feature = "cuda")]
    fn the_kernel_says_what_the_cpu_says() {
        use candle_core::{DType, Device};
        let device = Device::new_cuda(0).unwrap();
        for (index, case) in cases().iter().enumerate() {
            let logits = Tensor::from_slice(&case.logits, (case.noises.len(), case.width), &device).unwrap();
            for dtype in [DType::F32, DType::BF16] {
                let found = summaries(&logits.to_dtype(dtype).unwrap(), case.vocabulary, &case.options()).unwrap();
                for (row, (found, expected)) in found.into_iter().zip(case.expected()).enumerate() {
                    let numbers = |s: &Summary| [s.confidence.get(), s.margin.get(), s.entropy];
                    assert_eq!(found.map(|s| s.token), expected.map(|s| s.token), "{index} {row} {dtype:?}");
                    let (Some(found), Some(expected)) = (found, expected) else { continue };
                    for (a, b) in numbers(&found).into_iter().zip(numbers(&expected)) {
                        assert!(
                            (a - b).abs() < 1e-5 * b.abs().max(1.0),
                            "{index} {row} {dtype:?}: {found:?} {expected:?}"
                        );
                    }
                }
            }
        }
    }
}
