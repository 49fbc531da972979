//! Caches of keys and values, and the knobs that they have in common. Out of scope: where keys and
//! values are kept, which `model` knows.

use super::knob::{Knob, Range, Setting};
use super::rule::{Kind, Rule, Stage};

/// How long the keys and values of a full pass serve.
pub static REFRESH: Knob = Knob {
    name: "refresh",
    help: "Every so many passes of a block one is a full pass again; default: only the block's first.",
    range: Range::Count { min: 1 },
    default: |_, _| None,
};

/// How much of what lies behind the block is seen.
pub static SUFFIX_WINDOW: Knob = Knob {
    name: "suffix_window",
    help: "Of the cells behind the block only so many are seen, and the canvas's last one; the others cost nothing; \
           default: all are seen.",
    range: Range::Count { min: 0 },
    default: |_, _| None::<Setting>,
};

/// Every pass is a full pass.
pub static NO_CACHE: Rule =
    Rule { kind: Kind::Cache, name: "off", help: "Every pass computes the whole canvas.", ..Rule::NONE };

/// Fast-dLLM's cache of what lies before the block.
pub static PREFIX: Rule = Rule {
    name: "prefix",
    help: "What lies before the block keeps its keys and values while the block is refined.",
    source: "arXiv 2505.22618",
    knobs: &[&REFRESH, &SUFFIX_WINDOW],
    runs: |Stage { block, cells, .. }| vec![block.start..*cells],
    ..NO_CACHE
};

/// Fast-dLLM's cache of what lies before the block and behind it.
pub static DUAL: Rule = Rule {
    name: "dual",
    help: "What lies before the block and behind it keeps its keys and values while the block is refined.",
    runs: |stage| vec![stage.block.clone()],
    ..PREFIX
};
