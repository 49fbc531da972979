//! Where the kernels are: which file of `kernels` has which. The driver compiles a file for its GPU
//! when it is first used. `just kernels` makes each PTX file from its source.

use candle_core::{Result, bail};

/// The PTX of a file; left out of a binary that opens no GPU.
#[cfg(any(test, feature = "cuda"))]
macro_rules! ptx {
    ($name:literal) => {
        include_str!(concat!("../kernels/", $name, ".ptx"))
    };
}
#[cfg(not(any(test, feature = "cuda")))]
macro_rules! ptx {
    ($name:literal) => {
        ""
    };
}

/// Name and PTX of a file of kernels, and how the names of its kernels begin.
const MODULES: [(&str, &str, &[&str]); 6] = [
    ("attention_gradient", ptx!("attention_gradient"), &["attention_gradient", "attention_delta"]),
    ("attention_mma", ptx!("attention_mma"), &["attention_mma"]),
    ("attention", ptx!("attention"), &["attention"]),
    ("layers", ptx!("layers"), &["norm", "add_norm", "rotate", "gated", "gather", "keep", "scored"]),
    ("summary", ptx!("summary"), &["summarise"]),
    ("training", ptx!("training"), &TRAINING),
];

/// How the names of the kernels of training begin.
const TRAINING: [&str; 9] = [
    "rms_gradient",
    "column_sums",
    "row_sums",
    "swiglu_gradient",
    "added",
    "cross_entropy",
    "scatter",
    "squares",
    "adam",
];

/// Name and PTX of the file that has a kernel.
pub(super) fn source(kernel: &str) -> Result<(&'static str, &'static str)> {
    match MODULES.iter().find(|(_, _, kernels)| kernels.iter().any(|start| kernel.starts_with(start))) {
        Some((name, ptx, _)) => Ok((name, ptx)),
        None => bail!("there is no kernel {kernel}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn what_the_driver_compiles_is_made_of_the_source_beside_it() {
        let sources = [
            concat!(
                include_str!("../kernels/device.cuh"),
                include_str!("../kernels/warp.cuh"),
                include_str!("../kernels/attention.cuh")
            ),
            include_str!("../kernels/attention_gradient.cu"),
            include_str!("../kernels/attention_mma.cu"),
            include_str!("../kernels/attention.cu"),
            include_str!("../kernels/layers.cu"),
            include_str!("../kernels/summary.cu"),
            include_str!("../kernels/training.cu"),
        ];
        let (shared, sources) = (sources[0], &sources[1..]);
        for ((name, ptx, _), source) in MODULES.iter().zip(sources) {
            let hash = Sha256::digest(format!("{shared}{source}"));
            let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            let first = format!("// of device.cuh, warp.cuh, attention.cuh and {name}.cu, sha256 {hash}");
            assert_eq!(ptx.lines().next(), Some(first.as_str()), "run `just kernels`");
        }
    }
}
