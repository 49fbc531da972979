//! The families of models that are made of LLaDA's blocks, and in what they differ.

use super::names::{self, Names};
use super::{dream, remedi};
use crate::model::network::Outputs;
use crate::model::spec::Defaults;
use serde_json::{Map, Value};
use std::num::NonZeroU32;

/// A family of models whose blocks are LLaDA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// LLaDA (arXiv 2502.09992).
    Llada,
    /// `RemeDi` (arXiv 2509.23653): block-causal, with a quality of its own for every cell.
    Remedi,
    /// Dream (arXiv 2508.15487): Qwen2 without a causal mask.
    Dream,
}

/// In what a family differs from others.
#[derive(Debug)]
pub(crate) struct Features {
    /// As in [`ModelSpec::family`](crate::model::ModelSpec::family).
    pub(crate) name: &'static str,
    /// What its tensors are called.
    pub(crate) names: &'static Names,
    /// LLaDA's keys in `config.json`, and what the family calls them.
    pub(crate) keys: &'static [[&'static str; 2]],
    /// Whether queries, keys and values have biases.
    pub(crate) has_qkv_bias: bool,
    /// Which states its cells are read from.
    pub(crate) outputs: Outputs,
    /// Whether its weights judge every cell, so that it takes no quality head.
    pub(crate) judges: bool,
    /// Whether llama.cpp's conversion shuffles the rows of its rotated matrices.
    pub(crate) is_shuffled: bool,
    /// Options of a request that does not set them.
    pub(crate) defaults: Defaults,
}

/// Blocks of 32 cells and one step per cell, as LLaDA's authors run their instruct model; 128 new
/// tokens, as their `generate.py` does (arXiv 2502.09992).
const LLADA: Features = Features {
    name: "llada",
    names: &names::LLADA,
    keys: &[],
    has_qkv_bias: false,
    outputs: Outputs::InPlace,
    judges: false,
    is_shuffled: true,
    defaults: Defaults {
        block_length: NonZeroU32::new(32),
        steps: None,
        new_tokens: NonZeroU32::new(128),
        proofreading: None,
        repair: None,
    },
};

impl Family {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Llada, Self::Remedi, Self::Dream];

    /// Its name, as in [`ModelSpec::family`](crate::model::ModelSpec::family).
    pub const fn name(self) -> &'static str {
        self.features().name
    }

    /// The family that the keys of a `config.json` name.
    pub(crate) fn named(keys: &Map<String, Value>) -> Self {
        match keys {
            keys if dream::is_named(keys) => Self::Dream,
            keys if remedi::is_named(keys) => Self::Remedi,
            _ => Self::Llada,
        }
    }

    pub(crate) const fn features(self) -> Features {
        match self {
            Self::Llada => LLADA,
            Self::Remedi => Features { name: "remedi", judges: true, ..LLADA },
            // one block and 512 new tokens, one step for each, as in its published examples
            Self::Dream => Features {
                name: "dream",
                names: &names::QWEN2,
                keys: &dream::KEYS,
                has_qkv_bias: true,
                outputs: Outputs::Shifted,
                is_shuffled: false,
                defaults: Defaults { block_length: None, new_tokens: NonZeroU32::new(512), ..LLADA.defaults },
                ..LLADA
            },
        }
    }

    /// What the family calls one of LLaDA's keys.
    pub(crate) fn key(self, key: &'static str) -> &'static str {
        self.features().keys.iter().find(|[ours, _]| *ours == key).map_or(key, |[_, theirs]| theirs)
    }
}
