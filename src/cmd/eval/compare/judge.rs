//! The field's measures of free text: generative perplexity under an autoregressive model, and the
//! entropy of the tokens beside it, since a text that repeats itself is probable, too.

use crate::cmd::{hub, model};
use crate::diffusion::TokenId;
use crate::model::{Causal, Device};
use crate::text::{Special, Tokenizer};
use anyhow::{Context, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// An autoregressive model with its tokenizer.
pub(super) struct Judge {
    model: Causal,
    tokenizer: Tokenizer,
}

/// What it says about some texts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Fluency {
    /// exp of the mean of -ln p over all tokens of all answers, prompts as context; `None` without
    /// a token.
    pub(super) perplexity: Option<f64>,
    /// Mean over the answers of the entropy of each one's token frequencies, in nats.
    pub(super) entropy: f64,
    /// Tokens that were measured.
    pub(super) tokens: usize,
}

impl Judge {
    /// Loads a directory, a GGUF file, or a model of the hub.
    pub(super) fn load(name: &str, device: Device) -> anyhow::Result<Self> {
        let (path, tokenizer) = match model::place(name) {
            model::Place::Gguf => {
                let file = PathBuf::from(name);
                let tokenizer = model::gguf_tokenizer(&file)?;
                (file, tokenizer)
            }
            model::Place::BuiltIn => bail!("{name} is a diffusion model; a judge is an autoregressive one"),
            model::Place::Directory | model::Place::Hub => {
                let Some(dir) = hub::directory(name, "main", None)? else {
                    bail!("there is no such directory or model; give one with a config.json, or a GGUF file")
                };
                let tokenizer = Tokenizer::from_dir(&dir)?;
                (dir, tokenizer)
            }
        };
        let tokenizer = tokenizer.context("it has no tokenizer.json")?;
        Ok(Self { model: Causal::load(&path, device)?, tokenizer })
    }

    /// Measures answers, each with its prompt.
    pub(super) fn fluency<'a>(
        &mut self,
        texts: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> anyhow::Result<Fluency> {
        let (mut logs, mut entropies) = (Vec::new(), Vec::new());
        for (prompt, answer) in texts {
            let prompt = self.tokenizer.encode(prompt, Special::AsText)?;
            let answer = self.tokenizer.encode(answer, Special::AsText)?;
            let all: Vec<u32> = prompt.iter().chain(&answer).map(|token| token.0).collect();
            logs.extend(self.model.log_probabilities(&all, prompt.len())?.into_iter().map(f64::from));
            entropies.push(entropy(&answer));
        }
        let mean = |numbers: &[f64]| numbers.iter().sum::<f64>() / numbers.len().max(1) as f64;
        Ok(Fluency {
            perplexity: (!logs.is_empty()).then(|| (-mean(&logs)).exp()),
            entropy: mean(&entropies),
            tokens: logs.len(),
        })
    }
}

/// The entropy of the frequencies of a text's tokens, in nats.
fn entropy(tokens: &[TokenId]) -> f64 {
    let mut counts: BTreeMap<TokenId, u32> = BTreeMap::new();
    for token in tokens {
        *counts.entry(*token).or_default() += 1;
    }
    let share = |count: &u32| f64::from(*count) / tokens.len() as f64;
    -counts.values().map(share).map(|share| share * share.ln()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entropy_is_that_of_the_frequencies() {
        let of = |ids: &[u32]| entropy(&ids.iter().copied().map(TokenId).collect::<Vec<_>>());
        assert!((of(&[1, 2, 3, 4]) - 4f64.ln()).abs() < 1e-12);
        assert!(of(&[7, 7, 7]).abs() < 1e-12 && of(&[]).abs() < 1e-12);
        assert!((of(&[1, 1, 2]) - (3f64.ln() - 2.0 / 3.0 * 2f64.ln())).abs() < 1e-12);
    }
}
