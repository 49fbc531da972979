//! The figures of a measurement, as JSON and as a table.

use super::super::print;
use super::timed::Meter;
use crate::model::{Cost, ModelSpec, Speed};
use serde::Serialize;

/// One line of the table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// The model's name.
    pub model: String,
    /// Where it is computed, as `cpu` or `cuda:0`.
    pub device: String,
    /// Number format of the forward pass, as `f32`.
    pub dtype: String,
    /// Number format of most weights, as `f32` or `q4_k`.
    pub weights: String,
    /// Cells of each canvas.
    pub canvas: usize,
    /// Forward passes of each sequence.
    pub steps: u32,
    /// Cells of a block; `None` is the whole canvas.
    pub block_length: Option<u32>,
    /// Which keys and values of earlier passes a pass uses.
    pub cache: &'static str,
    /// Concurrent sequences.
    pub streams: usize,
    /// Forward passes per second.
    pub passes_per_s: f64,
    /// Tokens processed by forward passes, per second.
    pub token_forwards_per_s: f64,
    /// Tokens written per second by all sequences together.
    pub tokens_per_s: f64,
    /// Time spent outside the model between submission and answer, as a share of the model's time.
    pub engine_overhead: f64,
    /// A forward pass, without the engine.
    pub per_pass: PerPass,
    /// The least time of a forward pass; `None` of a model without weights.
    pub floor: Option<Floor>,
}

/// Means of the forward passes of a run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PerPass {
    /// Milliseconds.
    pub ms: f64,
    /// Kernels that the device was asked to run; 0 on a CPU.
    pub launches: f64,
    /// Copies between the device and the host; 0 on a CPU.
    pub copies: f64,
    /// Times that the host waited for the device; 0 on a CPU.
    pub waits: f64,
}

/// The time that a forward pass takes at the speed that the device was measured to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Floor {
    /// Bytes of the matrices that a pass multiplies with, each once.
    pub weight_bytes: f64,
    /// Operations of a pass: 2 x parameters of each matrix x rows that are multiplied with it, and
    /// 4 x queries x keys x width of each attention.
    pub flop: f64,
    /// Measured: bytes read and bytes written per second, together, by a copy on the device.
    pub copy_bytes_per_s: f64,
    /// Measured: operations per second in one large matrix product, in the weights' number format.
    pub flop_per_s: f64,
    /// `weight_bytes` / `copy_bytes_per_s`, in milliseconds.
    pub memory_ms: f64,
    /// `flop` / `flop_per_s`, in milliseconds.
    pub arithmetic_ms: f64,
    /// The larger of the two.
    pub ms: f64,
    /// A pass's milliseconds divided by this floor's.
    pub ratio: f64,
}

impl Floor {
    /// The floor of a mean pass that took `ms`; `cost` is that of all `passes`.
    fn of(cost: Cost, passes: f64, speed: Speed, ms: f64) -> Self {
        let Speed { copy_bytes_per_s, flop_per_s } = speed;
        let (weight_bytes, flop) = (cost.weight_bytes as f64 / passes, cost.flop as f64 / passes);
        let (memory_ms, arithmetic_ms) = (1e3 * weight_bytes / copy_bytes_per_s, 1e3 * flop / flop_per_s);
        let floor = memory_ms.max(arithmetic_ms);
        Self {
            weight_bytes,
            flop,
            copy_bytes_per_s,
            flop_per_s,
            memory_ms,
            arithmetic_ms,
            ms: floor,
            ratio: ms / floor,
        }
    }
}

impl Figures {
    /// The figures of a model before anything is measured.
    pub(super) fn of(name: &str, spec: &ModelSpec) -> Self {
        let ModelSpec { device, dtype, weights, .. } = spec.clone();
        Self { model: name.to_owned(), device, dtype, weights, ..Self::default() }
    }

    /// The same with what a run's passes took.
    pub(super) fn with(self, meter: &Meter, speed: Option<Speed>) -> Self {
        let passes = f64::from(meter.passes.max(1));
        let mean = |count: u64| count as f64 / passes;
        let per_pass = PerPass {
            ms: 1e3 * meter.reading.as_secs_f64() / passes,
            launches: mean(meter.counts.launches),
            copies: mean(meter.counts.copies),
            waits: mean(meter.counts.waits),
        };
        let floor = meter.cost.zip(speed).map(|(cost, speed)| Floor::of(cost, passes, speed, per_pass.ms));
        Self { per_pass, floor, ..self }
    }
}

/// Prints the figures as a table, and the measured speed of each model's device. Launches, copies
/// and waits have columns where there are any.
///
/// # Errors
/// When standard output is closed or full.
pub fn print_table(figures: &[Figures]) -> anyhow::Result<()> {
    let is_counted = figures.iter().any(|line| line.per_pass.launches > 0.0);
    let counts = if is_counted { format!(" {:>8} {:>6} {:>5}", "launches", "copies", "waits") } else { String::new() };
    print::line(format_args!(
        "{:<12} {:>6} {:>5} {:>7} {:>9} {:>16} {:>9} {:>15} {:>9} {:>9} {:>13} {:>8}{counts}",
        "model",
        "canvas",
        "steps",
        "streams",
        "passes/s",
        "token-forwards/s",
        "tokens/s",
        "engine overhead",
        "ms/pass",
        "memory ms",
        "arithmetic ms",
        "to floor"
    ))?;
    for line in figures {
        print::line(row(line, is_counted))?;
    }
    let mut last = None;
    for Figures { model, device, weights, floor, .. } in figures {
        if let Some(floor) = floor.filter(|_| last != Some(model)) {
            let (copy, flop) = (floor.copy_bytes_per_s / 1e9, floor.flop_per_s / 1e9);
            print::line(format_args!(
                "{model}: {device} copies {copy:.1} GB/s, read and written, and multiplies {weights} at {flop:.1} GFLOP/s"
            ))?;
            last = Some(model);
        }
    }
    Ok(())
}

fn row(line: &Figures, is_counted: bool) -> String {
    let Figures { model, canvas, steps, streams, passes_per_s, token_forwards_per_s, tokens_per_s, per_pass, .. } =
        line;
    let overhead = 100.0 * line.engine_overhead;
    let floor = match line.floor {
        Some(Floor { memory_ms, arithmetic_ms, ratio, .. }) => {
            format!("{memory_ms:>9.3} {arithmetic_ms:>13.3} {ratio:>8.2}")
        }
        None => format!("{:>9} {:>13} {:>8}", "-", "-", "-"),
    };
    let PerPass { ms, launches, copies, waits } = per_pass;
    let counts = if is_counted { format!(" {launches:>8.1} {copies:>6.1} {waits:>5.1}") } else { String::new() };
    format!(
        "{model:<12} {canvas:>6} {steps:>5} {streams:>7} {passes_per_s:>9.1} {token_forwards_per_s:>16.0} \
         {tokens_per_s:>9.0} {overhead:>13.2} % {ms:>9.3} {floor}{counts}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Counts;
    use std::time::Duration;

    #[test]
    fn figures_of_a_pass_are_means_beside_the_larger_floor() {
        let meter = Meter {
            passes: 4,
            reading: Duration::from_millis(100),
            aside: Duration::ZERO,
            counts: Counts { launches: 1200, copies: 8, waits: 4 },
            cost: Some(Cost { weight_bytes: 40_000_000, flop: 8_000_000_000 }),
        };
        let speed = |flop_per_s| Some(Speed { copy_bytes_per_s: 2e9, flop_per_s });
        let Figures { per_pass, floor, .. } = Figures::default().with(&meter, speed(1e12));
        let PerPass { ms, launches, copies, waits } = per_pass;
        assert_eq!([ms, launches, copies, waits], [25.0, 300.0, 2.0, 1.0]);
        let floor = floor.unwrap();
        assert_eq!([floor.weight_bytes, floor.flop], [1e7, 2e9]);
        assert_eq!([floor.memory_ms, floor.arithmetic_ms, floor.ms, floor.ratio], [5.0, 2.0, 5.0, 5.0]);
        let floor = Figures::default().with(&meter, speed(1e11)).floor.unwrap();
        assert_eq!([floor.memory_ms, floor.arithmetic_ms, floor.ms, floor.ratio], [5.0, 20.0, 20.0, 1.25]);

        assert_eq!(Figures::default().with(&Meter { cost: None, ..meter }, speed(1.0)).floor, None);
        assert_eq!(Figures::default().with(&meter, None).floor, None);
    }

    #[test]
    fn launches_have_columns_where_there_are_any() {
        let line = |launches| Figures { per_pass: PerPass { launches, ..PerPass::default() }, ..Figures::default() };
        assert!(row(&line(301.0), true).ends_with("    301.0    0.0   0.0"));
        assert!(row(&line(0.0), false).ends_with("-             -        -"));
    }
}
