//! The shape of the published PRISM quality head (arXiv 2510.01384, section 3), which its file does
//! not say.

/// Epsilon of the head's `LayerNorm`, PyTorch's default.
pub(crate) const HEAD_EPSILON: f32 = 1e-5;

/// Name and shape of every tensor of a head on states of width `d`.
pub(crate) fn head_tensors(d: usize) -> [(&'static str, Vec<usize>); 6] {
    [
        ("norm.weight", vec![d]),
        ("norm.bias", vec![d]),
        ("proj1.weight", vec![d, d]),
        ("proj1.bias", vec![d]),
        ("proj2.weight", vec![1, d]),
        ("proj2.bias", vec![1]),
    ]
}
