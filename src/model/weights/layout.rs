//! What the tensors of a model's files are called and which there must be, for each family.

use crate::model::config::llada::Config;
use crate::model::config::{dit, names, remedi::OWN};
use std::collections::BTreeMap;

/// Before the names of a head's tensors, where they share a file with others.
pub(crate) const HEAD: &str = "remasking_head.";

/// What a tensor is to the model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// A weight of the network, as `model.transformer.wte.weight`.
    Weight(String),
    /// The A of the adapter of the weight with this name.
    LoraA(String),
    /// The B of the adapter of the weight with this name.
    LoraB(String),
    /// A tensor of the quality head, as `proj1.bias`.
    Head(String),
}

impl Part {
    /// From a name in a file of LLaDA, or of a family made of its blocks. The published
    /// layouts (hub checkpoint, PEFT adapter, PRISM head alone, PRISM checkpoint with all three)
    /// differ only in prefixes and infixes. `None` when no layout has such a name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        if let Some(head) = name.strip_prefix(HEAD) {
            return Some(Self::Head(head.to_owned()));
        }
        if ["norm.", "proj1.", "proj2."].iter().any(|part| name.starts_with(part)) {
            return Some(Self::Head(name.to_owned()));
        }
        let name = name.strip_prefix("backbone.").unwrap_or(name);
        let name = name.strip_prefix("base_model.model.").unwrap_or(name);
        let starts = names::ALL.into_iter().flat_map(|names| names.starts).chain(&OWN);
        let is_whole = |name: &str| starts.clone().any(|start| name.starts_with(start));
        // saved without its outer class
        let whole = Some(format!("model.{name}")).filter(|name| is_whole(name));
        let name = whole.as_deref().unwrap_or(name);
        if !is_whole(name) {
            return None;
        }
        let of =
            |infix: &str| name.strip_suffix(".weight")?.strip_suffix(infix).map(|module| format!("{module}.weight"));
        let a = of(".lora_A").or_else(|| of(".lora_A.default")).map(Self::LoraA);
        let b = || of(".lora_B").or_else(|| of(".lora_B.default")).map(Self::LoraB);
        a.or_else(b).or_else(|| Some(Self::Weight(of(".base_layer").unwrap_or_else(|| name.to_owned()))))
    }
}

/// The tensors of a model.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    naming: Naming,
    /// Shapes of the network's weights by their names; all of them must be there.
    pub(crate) weights: BTreeMap<String, Vec<usize>>,
    /// A weight that may be there and is not read.
    pub(crate) unread: Option<String>,
    /// What a quality head beside the weights reads; `None` where there is no place for one.
    pub(crate) head: Option<HeadPlace>,
}

/// The states that a PRISM head can read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadPlace {
    /// Numbers of a state.
    pub(crate) width: usize,
    /// Blocks of the network.
    pub(crate) blocks: usize,
}

#[derive(Clone, Debug)]
enum Naming {
    /// As the LLaDA family's published files.
    Llada,
    /// The weights' own names, with or without a prefix.
    Plain {
        prefix: &'static str,
        /// Names of tensors that follow from the configuration.
        derived: &'static [&'static str],
    },
}

impl Layout {
    /// A model of the LLaDA family or of one made of its blocks, with or without adapters, and with
    /// or without a PRISM head where the weights do not judge themselves.
    pub(crate) fn llada(config: &Config) -> Self {
        Self {
            naming: Naming::Llada,
            weights: config.tensors().collect(),
            // a copy of the embedding that some tools write out
            unread: config.weight_tying.then(|| format!("{}.weight", config.names().outside("ff_out"))),
            head: match config.family.features().judges {
                false => Some(HeadPlace { width: config.d_model, blocks: config.n_layers }),
                true => None,
            },
        }
    }

    /// MDLM's DiT without a head.
    pub(crate) fn dit(config: &dit::Config) -> Self {
        Self::plain(config.tensors(), "backbone.", &["rotary_emb.inv_freq"])
    }

    /// Weights under their own names, each perhaps after `prefix`; tensors called as in `derived`
    /// are skipped, because they follow from the configuration.
    pub(crate) fn plain(
        weights: impl IntoIterator<Item = (String, Vec<usize>)>,
        prefix: &'static str,
        derived: &'static [&'static str],
    ) -> Self {
        let naming = Naming::Plain { prefix, derived };
        Self { naming, weights: weights.into_iter().collect(), unread: None, head: None }
    }

    /// What a tensor of this name is; `None` is to be skipped, an error says why it has no place.
    pub(crate) fn part(&self, name: &str) -> Result<Option<Part>, &'static str> {
        match self.naming {
            Naming::Llada => Part::of(name).map(Some).ok_or("belongs to no LLaDA or Dream model, adapter or head"),
            Naming::Plain { prefix, derived } => match name.strip_prefix(prefix).unwrap_or(name) {
                name if derived.contains(&name) => Ok(None),
                name if self.weights.contains_key(name) => Ok(Some(Part::Weight(name.to_owned()))),
                _ => Err(NO_PLACE),
            },
        }
    }
}

/// The tensors of a PRISM head on states of width `d` (arXiv 2510.01384, section 3). In the paper
/// the size of its inner layer, `size`, is `d`.
pub(crate) fn head_tensors(d: usize, size: usize) -> [(&'static str, Vec<usize>); 6] {
    [
        ("norm.weight", vec![d]),
        ("norm.bias", vec![d]),
        (INNER, vec![size, d]),
        ("proj1.bias", vec![size]),
        ("proj2.weight", vec![1, size]),
        ("proj2.bias", vec![1]),
    ]
}

/// The tensor of a PRISM head whose rows are its size.
pub(crate) const INNER: &str = "proj1.weight";

/// What is wrong with a weight that the configuration does not require.
pub(crate) const NO_PLACE: &str = "has no place in the model that config.json describes";
