//! What the tensors of a transformer are called in the checkpoints of a family. The code calls the
//! parts as LLaDA's checkpoints do.

/// The names of a family.
#[derive(Debug)]
pub(crate) struct Names {
    /// What all names of weights begin with, one of these.
    pub(crate) starts: &'static [&'static str],
    /// What stands before the number of a block.
    pub(crate) blocks: &'static str,
    /// Parts outside the blocks, each with its whole name.
    outside: [[&'static str; 2]; 4],
    /// Parts of a block, each with its name there.
    inside: [[&'static str; 2]; 9],
}

/// LLaDA's, and of what is made of its blocks.
pub(crate) static LLADA: Names = Names {
    starts: &["model.transformer."],
    blocks: "model.transformer.blocks.",
    outside: [
        ["wte", "model.transformer.wte"],
        ["wpe", "model.transformer.wpe"],
        ["ln_f", "model.transformer.ln_f"],
        ["ff_out", "model.transformer.ff_out"],
    ],
    inside: [
        ["attn_norm", "attn_norm"],
        ["q_proj", "q_proj"],
        ["k_proj", "k_proj"],
        ["v_proj", "v_proj"],
        ["attn_out", "attn_out"],
        ["ff_norm", "ff_norm"],
        ["ff_proj", "ff_proj"],
        ["up_proj", "up_proj"],
        ["ff_out", "ff_out"],
    ],
};

/// Those of Qwen2 in transformers, which Dream has kept.
pub(crate) static QWEN2: Names = Names {
    starts: &["model.embed_tokens.", "model.layers.", "model.norm.", "lm_head."],
    blocks: "model.layers.",
    outside: [
        ["wte", "model.embed_tokens"],
        ["wpe", "model.embed_positions"], // never there: positions are rotary
        ["ln_f", "model.norm"],
        ["ff_out", "lm_head"],
    ],
    inside: [
        ["attn_norm", "input_layernorm"],
        ["q_proj", "self_attn.q_proj"],
        ["k_proj", "self_attn.k_proj"],
        ["v_proj", "self_attn.v_proj"],
        ["attn_out", "self_attn.o_proj"],
        ["ff_norm", "post_attention_layernorm"],
        ["ff_proj", "mlp.gate_proj"],
        ["up_proj", "mlp.up_proj"],
        ["ff_out", "mlp.down_proj"],
    ],
};

/// The names of all families.
pub(crate) static ALL: [&Names; 2] = [&LLADA, &QWEN2];

/// Where a tensor is in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    /// The number of its block.
    pub(crate) block: Option<&'a str>,
    /// What LLaDA calls the part.
    pub(crate) part: &'static str,
}

impl Names {
    /// The name of a part outside the blocks, as `model.norm` for `ln_f`.
    pub(crate) fn outside(&self, part: &str) -> &'static str {
        self.outside.iter().find(|[ours, _]| *ours == part).map_or("", |[_, theirs]| theirs)
    }

    /// The name of a part within its block, as `self_attn.o_proj` for `attn_out`.
    pub(crate) fn inside(&self, part: &str) -> &'static str {
        self.inside.iter().find(|[ours, _]| *ours == part).map_or("", |[_, theirs]| theirs)
    }

    /// Where the module of this name is; `None` if there is no such.
    pub(crate) fn place<'a>(&self, module: &'a str) -> Option<Place<'a>> {
        let of = |pairs: &[[&'static str; 2]], name| Some(pairs.iter().find(|[_, theirs]| *theirs == name)?[0]);
        match module.strip_prefix(self.blocks).and_then(|rest| rest.split_once('.')) {
            Some((block, name)) => Some(Place { block: Some(block), part: of(&self.inside, name)? }),
            None => Some(Place { block: None, part: of(&self.outside, module)? }),
        }
    }

    /// The name of the module at a place.
    pub(crate) fn module(&self, Place { block, part }: Place<'_>) -> String {
        match block {
            Some(block) => format!("{}{block}.{}", self.blocks, self.inside(part)),
            None => self.outside(part).to_owned(),
        }
    }
}
