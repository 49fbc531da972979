//! `generation_config.json`: ids that end a text, and defaults of requests. Out of scope: sampling.

use super::strict;
use crate::diffusion::{Probability, Proofreading, TokenId};
use crate::model::{
    error::LoadError,
    spec::{Defaults, PresetsText, Repair},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{collections::BTreeSet, num::NonZeroU32};

/// One id or several. Negative ones, as -1, stand for none.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Ids {
    One(i64),
    Many(Vec<i64>),
}

impl Ids {
    /// The ids, ascending, each once.
    pub(super) fn ascending(self) -> Vec<TokenId> {
        let ids = match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        };
        let ids: BTreeSet<i64> = ids.into_iter().filter(|id| *id >= 0).collect();
        // ids beyond 32 bits are beyond every vocabulary, too
        ids.into_iter().map(|id| TokenId(u32::try_from(id).unwrap_or(u32::MAX))).collect()
    }
}

#[derive(Deserialize)]
struct Keys {
    eos_token_id: Option<Ids>,
    block_length: Option<NonZeroU32>,
    steps: Option<NonZeroU32>,
    max_new_tokens: Option<NonZeroU32>,
    proofreading: Option<ProofreadingKeys>,
    repair: Option<RepairKeys>,
    presets: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RepairKeys {
    below: f32,
    worst: Option<NonZeroU32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofreadingKeys {
    steps: u32,
    below: f32,
}

/// Adds what the file sets to the ids that end a text and to the defaults. Returns its presets.
pub(super) fn apply(
    keys: Map<String, Value>,
    file: &str,
    ends: &mut Vec<TokenId>,
    defaults: &mut Defaults,
) -> Result<Option<PresetsText>, LoadError> {
    let keys: Keys = strict::take(keys, file)?;
    let more = keys.eos_token_id.map(Ids::ascending).unwrap_or_default();
    ends.extend(more);
    ends.sort_unstable();
    ends.dedup();
    defaults.block_length = keys.block_length.or(defaults.block_length);
    defaults.steps = keys.steps.or(defaults.steps);
    defaults.new_tokens = keys.max_new_tokens.or(defaults.new_tokens);
    let probability = |key: &str, below: f32| {
        let problem = || format!("has {key} below {below}; give a number from 0 to 1");
        Probability::new(below).ok_or_else(|| LoadError::malformed(file, problem()))
    };
    if let Some(ProofreadingKeys { steps, below }) = keys.proofreading {
        let below = probability("proofreading", below)?;
        defaults.proofreading = Some(Proofreading { steps, below, most: None });
    }
    if let Some(RepairKeys { below, worst }) = keys.repair {
        defaults.repair = Some(Repair { below: probability("repair", below)?, worst });
    }
    Ok(keys.presets.map(|presets| PresetsText { file: file.to_owned(), presets }))
}
