//! The card of a quality head, `PRISM.md`: what it is for, how it was trained, and how well it
//! judges, in words.

use crate::cmd::eval::calibration::Calibration;
use crate::train::Recipe;
use std::fmt::Write;

/// What a card says, besides the measurement.
pub(super) struct Card<'a> {
    /// The model's directory.
    pub(super) base: String,
    /// The fingerprint of its weights.
    pub(super) weights: &'a str,
    /// What the rows are.
    pub(super) data: String,
    /// What learned, in words.
    pub(super) learned: String,
    /// Whether there is an adapter beside the head.
    pub(super) has_adapter: bool,
    /// Whether the model itself was trained, and lies beside the head.
    pub(super) has_model: bool,
    pub(super) steps: u32,
    /// Rows of a step.
    pub(super) batch: usize,
    pub(super) seed: u64,
    pub(super) recipe: &'a Recipe,
}

impl Card<'_> {
    /// The card, with what was measured on so many held-out rows.
    pub(super) fn text(&self, rows: u32, calibration: &Calibration) -> String {
        let Self { base, weights, data, learned, has_adapter, has_model, steps, batch, seed, recipe } = self;
        let Recipe { fills, order, temperature, lambda, carried, rounds, ratio_min, ratio_max } = recipe;
        let (model, head) =
            if *has_model { (".", "") } else { (base.as_str(), " --prism-head prism_head.safetensors") };
        let adapter = if *has_adapter { " --adapter adapter" } else { "" };
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let mut text = format!(
            "# A quality head for {base}\n\n\
             The head reads the same forward pass as the model, and says of each token how likely it is\n\
             to be right (PRISM, arXiv 2510.01384). A server erases the tokens that it doubts, and the\n\
             model writes them again.\n\n\
             ```sh\n\
             remask serve --model-id {model}{head}{adapter}\n\
             ```\n\n\
             ## How it was trained\n\n\
             - For the weights `{weights}`. Other weights need another head.\n\
             - What learned: {learned}.\n\
             - On {data}: {steps} steps of {batch} rows, seed {seed}.\n\
             - In each row, {} to {} of the tokens that may change were masked. The model filled {fills}\n  \
             of them ({} order, temperature {temperature}), and the head learned whether each was the\n  \
             token that had been there.\n",
            percent(*ratio_min),
            percent(*ratio_max),
            order.rule.name,
        );
        if *carried > 0.0 {
            let _ = writeln!(
                text,
                "- The sampler went on with {} of the rows, for {rounds} steps each, so that the head also saw\n  \
                 later states of a canvas.",
                percent(*carried)
            );
        }
        if *has_adapter || *has_model {
            let _ = writeln!(text, "- The model's own loss had the weight {lambda}, the head's 1.");
        }
        let _ = write!(text, "\n## How well it judges\n\nOn {rows} rows it has never seen, filled as in training.\n");
        for sentence in calibration.sentences() {
            let _ = write!(text, "\n- {sentence}");
        }
        let _ = write!(
            text,
            "\n\nEach line of the table is about the tokens whose quality lies between two numbers: their mean\n\
             quality, the model's own probability of them when they are masked again (the oracle), and the\n\
             share that is right. The closer the three, the better.\n\n```\n{}```\n",
            calibration.bins()
        );
        text
    }
}
