//! GGUF files of LLaDA models and of families made of their blocks: what they call things, and the
//! order of their rotated rows.

mod header;
pub(crate) mod read;
pub(crate) mod vocabulary;
pub(crate) mod write;

use crate::model::config::names::{Names, Place};
use crate::model::config::remedi::OWN;

/// Our own keys: the content of the model's other files, and what is known of weights and head.
const GENERATION_CONFIG: &str = "remask.generation_config";
const TOKENIZER_CONFIG: &str = "remask.tokenizer_config";
pub(crate) const FINGERPRINT: &str = "remask.base";
/// The fingerprint and the numbers of the weights that the quality head was made for.
pub(crate) const HEAD_BASE: &str = "remask.head.base";
pub(crate) const HEAD_WEIGHTS: &str = "remask.head.weights";
/// The tokens that the quality head was trained to judge.
pub(crate) const JUDGED: &str = "remask.judged";
/// The block whose states the quality head reads.
pub(crate) const HEAD_LAYER: &str = "remask.head.layer";
/// GGUF's own key for the whole `tokenizer.json`.
const TOKENIZER: &str = "tokenizer.huggingface.json";

/// Whether the logits of a cell are those of the cell before; llama.cpp's key.
const SHIFT_LOGITS: &str = "diffusion.shift_logits";

/// LLaDA's names and llama.cpp's, outside and inside the blocks.
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
/// What stands before the number of a block.
const BLOCKS: &str = "blk.";

/// A name as its module and its kind, `weight` or `bias`.
fn parts(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, kind)| ["weight", "bias"].contains(kind))
}

/// The GGUF name of a tensor of the backbone of a family with these names; `None` where it has
/// none. Tensors that no architecture of llama.cpp has keep their names.
fn name(canonical: &str, names: &Names) -> Option<String> {
    if OWN.iter().any(|own| canonical.starts_with(own)) {
        return Some(canonical.to_owned());
    }
    let (module, kind) = parts(canonical)?;
    let Place { block, part } = names.place(module)?;
    let theirs = |pairs: &[[&'static str; 2]]| Some(pairs.iter().find(|[ours, _]| *ours == part)?[1]);
    match block {
        Some(block) => Some(format!("{BLOCKS}{block}.{}.{kind}", theirs(&BLOCK_NAMES)?)),
        None => Some(format!("{}.{kind}", theirs(&NAMES)?)),
    }
}

/// The canonical name of a GGUF tensor; those of a head and unknown ones stay as they are.
fn canonical(name: &str, names: &Names) -> String {
    let ours = |pairs: &[[&'static str; 2]], name| Some(pairs.iter().find(|[_, theirs]| *theirs == name)?[0]);
    let place = |module| match str::strip_prefix(module, BLOCKS).and_then(|rest| rest.split_once('.')) {
        Some((block, name)) => Some(Place { block: Some(block), part: ours(&BLOCK_NAMES, name)? }),
        None => Some(Place { block: None, part: ours(&NAMES, module)? }),
    };
    let found = parts(name).and_then(|(module, kind)| Some(format!("{}.{kind}", names.module(place(module)?))));
    found.unwrap_or_else(|| name.to_owned())
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
    use crate::model::config::names::{LLADA, QWEN2};

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
            assert_eq!(name(ours, &LLADA).as_deref(), Some(theirs));
            assert_eq!(canonical(theirs, &LLADA), ours);
        }
        for (ours, theirs) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("model.layers.27.self_attn.o_proj.weight", "blk.27.attn_output.weight"),
            ("model.layers.0.self_attn.q_proj.bias", "blk.0.attn_q.bias"),
            ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
        ] {
            assert_eq!(name(ours, &QWEN2).as_deref(), Some(theirs));
            assert_eq!(canonical(theirs, &QWEN2), ours);
        }
        for names in [&LLADA, &QWEN2] {
            assert_eq!(name("norm.weight", names), None);
            assert_eq!(canonical("remasking_head.norm.weight", names), "remasking_head.norm.weight");
            assert_eq!(canonical("rope_freqs.weight", names), "rope_freqs.weight");
        }
    }

    #[test]
    fn halves_of_a_head_lie_side_by_side_in_a_gguf_file() {
        // two heads of four rows: 0 1 | 2 3 are rotated together as (0, 2) and (1, 3)
        assert_eq!((0..8).map(|row| interleaved(row, 4)).collect::<Vec<_>>(), [0, 2, 1, 3, 4, 6, 5, 7]);
        let rows: Vec<u8> = vec![10, 10, 12, 12, 11, 11, 13, 13];
        assert_eq!(reordered(&rows, 4, |row| interleaved(row, 4)), [10, 10, 11, 11, 12, 12, 13, 13]);
    }
}
