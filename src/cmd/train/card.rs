//! The card of a quality head, `PRISM.md`: what it is for, how it was trained, and how well it
//! judges, in words.

use crate::cmd::eval::calibration::Calibration;
use crate::train::{Comparison, HeadMeans, Recipe, file_of};
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
    /// Several heads, measured; `None` where there is one.
    pub(super) comparison: Option<&'a Comparison>,
}

impl Card<'_> {
    /// The card, with what was measured on so many held-out rows.
    pub(super) fn text(&self, rows: u32, calibration: &Calibration) -> String {
        let Self { base, weights, data, learned, has_adapter, has_model, steps, batch, seed, recipe, comparison } =
            self;
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
        if let Some(comparison) = comparison {
            text += &of_heads(comparison, *carried > 0.0);
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

/// The part about several heads: a table of them, and which one the rest of the card is about.
fn of_heads(comparison: &Comparison, is_carried: bool) -> String {
    let Comparison { heads, judged_right, is_held_out } = comparison;
    let shown = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |number| format!("{number:.4}"));
    let rows = match is_held_out {
        true => "the held-out rows, with the averaged weights",
        false => "the rows of the last training steps",
    };
    let mut text = format!(
        "\n## The heads\n\n\
         All learned from the same states of the same passes, each by its own judgement. The table has\n\
         means over the judged tokens of {rows}:\n\
         the loss of the judgement in nats (the lower, the better), and the quality, which is best near\n\
         the share of these tokens that were right ({}).\n\n\
         | head | size | reads the states after block | loss | quality | file |\n|---|---|---|---|---|---|\n",
        shown(*judged_right)
    );
    for HeadMeans { head, judgement, quality } in heads {
        let (loss, quality, file) = (shown(*judgement), shown(*quality), file_of(*head));
        let _ =
            writeln!(text, "| `{head}` | {} | {} | {loss} | {quality} | `{}` |", head.size, head.block, file.display());
    }
    if let Some(HeadMeans { head, .. }) = heads.get(comparison.best()) {
        let _ = write!(
            text,
            "\n`prism_head.safetensors` is `{head}`, which has the lowest loss. Another head is served by its\n\
             own file behind `--prism-head`. The rest of this card is about `{head}`.\n"
        );
    }
    if let Some(HeadMeans { head: first, .. }) = heads.first().filter(|_| is_carried) {
        let _ = write!(text, "\nWhat the sampler erased in training was judged by the first head, `{first}`.\n");
    }
    text
}
