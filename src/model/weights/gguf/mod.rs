//! GGUF files of models of the LLaDA family: what they call things, and the order of their rotated
//! rows.

mod header;
pub(crate) mod read;
pub(crate) mod vocabulary;
pub(crate) mod write;

use crate::model::config::{llada::Family, remedi::OWN};

/// The names of architectures in `general.architecture`, and before every key of their own.
/// llama.cpp knows the first.
const ARCHITECTURES: [Family; 2] = [Family::Llada, Family::Remedi];
/// Our own keys: the content of the model's other files, and what is known of weights and head.
const GENERATION_CONFIG: &str = "remask.generation_config";
const TOKENIZER_CONFIG: &str = "remask.tokenizer_config";
pub(crate) const FINGERPRINT: &str = "remask.base";
/// The fingerprint and the numbers of the weights that the quality head was made for.
pub(crate) const HEAD_BASE: &str = "remask.head.base";
pub(crate) const HEAD_WEIGHTS: &str = "remask.head.weights";
/// The tokens that the quality head was trained to judge.
pub(crate) const JUDGED: &str = "remask.judged";
/// GGUF's own key for the whole `tokenizer.json`.
const TOKENIZER: &str = "tokenizer.huggingface.json";

/// LLaDA's names and llama.cpp's, outside and inside the blocks, and of the blocks.
const NAMES: [[&str; 2]; 4] =
    [["wte", "token_embd"], ["wpe", "position_embd"], ["ln_f", "output_norm"], ["ff_out", "output"]];
const BLOCK_NAMES: [[&str; 2]; 9] = [
    ["attn_norm", "attn_norm"],
    ["q_proj", "attn_q"],
    ["k_proj", "attn_k"],
    ["v_proj", "attn_v"],
    ["attn_out", "attn_output"],
    ["ff_norm", "ffn_norm"],
    ["ff_proj", "ffn_gate"],
    ["up_proj", "ffn_up"],
    ["ff_out", "ffn_down"],
];
const BLOCKS: [&str; 2] = ["blocks", "blk"];
/// Places in these pairs.
const LLADA: usize = 0;
const GGUF: usize = 1;

/// The other name of a module, without what stands before and behind all names.
fn renamed(module: &str, from: usize, to: usize) -> Option<String> {
    let other = |names: &[[&'static str; 2]], module| Some(names.iter().find(|pair| pair[from] == module)?[to]);
    let Some((blocks, rest)) = module.split_once('.') else { return other(&NAMES, module).map(str::to_owned) };
    let (block, module) = rest.split_once('.').filter(|_| blocks == BLOCKS[from])?;
    Some(format!("{}.{block}.{}", BLOCKS[to], other(&BLOCK_NAMES, module)?))
}

/// The GGUF name of a tensor of the backbone; `None` where it has none. Tensors that no
/// architecture of llama.cpp has keep their names.
fn name(canonical: &str) -> Option<String> {
    if OWN.iter().any(|own| canonical.starts_with(own)) {
        return Some(canonical.to_owned());
    }
    let module = canonical.strip_prefix("model.transformer.")?.strip_suffix(".weight")?;
    Some(format!("{}.weight", renamed(module, LLADA, GGUF)?))
}

/// The canonical name of a GGUF tensor; those of a head and unknown ones stay as they are.
fn canonical(name: &str) -> String {
    let module = renamed(name.strip_suffix(".weight").unwrap_or(name), GGUF, LLADA);
    module.map_or_else(|| name.to_owned(), |module| format!("model.transformer.{module}.weight"))
}

/// Row `r` of a rotated matrix in a checkpoint is row `interleaved(r)` in a GGUF file: llama.cpp
/// rotates neighbours, LLaDA the halves of a head, so the conversion shuffles the rows of every
/// head (`width` rows).
const fn interleaved(row: usize, width: usize) -> usize {
    let (head, within) = (row / width, row % width);
    head * width + 2 * (within % (width / 2)) + within / (width / 2)
}

/// Whether the conversion shuffles the rows of this tensor, if the model has rotary positions.
fn is_shuffled(canonical: &str) -> bool {
    canonical.ends_with(".q_proj.weight") || canonical.ends_with(".k_proj.weight")
}

/// Rows of equal length in another order: row `r` of the result is row `from(r)`.
fn reordered(bytes: &[u8], rows: usize, from: impl Fn(usize) -> usize) -> Vec<u8> {
    let row = bytes.len() / rows.max(1);
    (0..rows).flat_map(|to| &bytes[from(to) * row..(from(to) + 1) * row]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for (ours, theirs) in [
            ("model.transformer.wte.weight", "token_embd.weight"),
            ("model.transformer.ff_out.weight", "output.weight"),
            ("model.transformer.blocks.31.ff_out.weight", "blk.31.ffn_down.weight"),
            ("model.transformer.blocks.0.attn_norm.weight", "blk.0.attn_norm.weight"),
            ("model.blocks_upm.0.attn_norm.weight", "model.blocks_upm.0.attn_norm.weight"),
            ("model.linear_confidence.bias", "model.linear_confidence.bias"),
        ] {
            assert_eq!(name(ours).as_deref(), Some(theirs));
            assert_eq!(canonical(theirs), ours);
        }
        assert_eq!(name("norm.weight"), None);
        assert_eq!(canonical("remasking_head.norm.weight"), "remasking_head.norm.weight");
        assert_eq!(canonical("rope_freqs.weight"), "rope_freqs.weight");
    }

    #[test]
    fn halves_of_a_head_lie_side_by_side_in_a_gguf_file() {
        // two heads of four rows: 0 1 | 2 3 are rotated together as (0, 2) and (1, 3)
        assert_eq!((0..8).map(|row| interleaved(row, 4)).collect::<Vec<_>>(), [0, 2, 1, 3, 4, 6, 5, 7]);
        let rows: Vec<u8> = vec![10, 10, 12, 12, 11, 11, 13, 13];
        assert_eq!(reordered(&rows, 4, |row| interleaved(row, 4)), [10, 10, 11, 11, 12, 12, 13, 13]);
    }
}
